"""Up to which event time touches and conversions are complete, so that conversions can be given out: the attributor's watermark.

Touches come from every partition of the learner, each at its own pace; a conversion must not be given out before all of them have
got to the clicks before it. So each learner partition is a *source*, and so are the conversions. A source is complete up to
the larger of

- its largest time so far, and
- its *mark*: the largest time of all that was known when the broker was asked where the source's input ends, once all of that
  input is through (read by the learner, its touches committed, and these read).

The watermark is the least of these. A source with nothing to say does not hold it back, a learner that has stopped or lies behind
does: what it has not read is not through. No clock is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Source = int | Literal["conversions"]
"""A partition of the learner, by its number, or the conversions."""
CONVERSIONS: Source = "conversions"
Key = tuple[str, int]
"""A topic's name and a partition."""


class Horizon:
    """Watermark of one partition, in ms of event time.

    >>> horizon = Horizon(2)
    >>> horizon.saw(0, 500), horizon.saw(CONVERSIONS, 900), horizon.watermark
    (None, None, None)
    >>> horizon.mark(1, 800); horizon.watermark
    500
    >>> horizon.mark(0, 700); horizon.watermark
    700
    """

    def __init__(self, learner_partitions: int, watermark: int | None = None) -> None:
        self._complete: dict[Source, int | None] = dict.fromkeys((*range(learner_partitions), CONVERSIONS))
        self._watermark = watermark
        self.newest: int | None = None

    def saw(self, source: Source, ts: int) -> None:
        """Something of that source and time was read."""
        self.newest = ts if self.newest is None else max(self.newest, ts)
        self.mark(source, ts)

    def mark(self, source: Source, ts: int | None) -> None:
        """Everything of a source is through up to that time. One that is not known holds nothing and is passed over."""
        if ts is None or source not in self._complete:
            return
        before = self._complete[source]
        self._complete[source] = ts if before is None else max(before, ts)

    @property
    def watermark(self) -> int | None:
        """The least time up to which every source is complete; it never goes back."""
        times = [ts for ts in self._complete.values() if ts is not None]
        if len(times) == len(self._complete):
            least = min(times)
            self._watermark = least if self._watermark is None else max(self._watermark, least)
        return self._watermark


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What the brokers say, in the order in which they have to be asked.

    Attributes:
        read: how far the learner has committed, of each input; what it has not is missing.
        ends: where every input and every partition of touches and conversions ends, asked after ``read``.
    """

    read: Mapping[Key, int]
    ends: Mapping[Key, int]


@dataclass(slots=True)
class _Asked:
    """A mark on its way. ``touch_ends`` are known when the learner has read what there was."""

    input_ends: Mapping[Key, int]
    newest: Mapping[int, int | None]
    touch_ends: Mapping[int, int] | None = None


class Marks:
    """Sets the marks of the partitions' horizons from what the brokers say.

    Args:
        inputs: the learner's inputs by source.
        touches: the partitions of touches that this worker has, by number.
        conversions: those of conversions.
    """

    def __init__(
        self,
        inputs: Mapping[int, Iterable[Key]],
        *,
        touches: Mapping[int, Key],
        conversions: Mapping[int, Key],
    ) -> None:
        self._inputs = {source: tuple(keys) for source, keys in inputs.items()}
        self._touches = touches
        self._conversions = conversions
        self._asked: dict[int, _Asked] = {}
        self._conversions_asked: dict[int, tuple[int, int | None]] = {}

    def heard(
        self,
        horizons: Mapping[int, Horizon],
        newest: Mapping[int, int | None],
        answers: Answers,
        at: Mapping[Key, int],
    ) -> None:
        """Take the brokers' answers, set the marks that they allow.

        Args:
            horizons: of this worker's partitions.
            newest: largest times by partition as they were *before* the brokers were asked.
            answers: of the brokers.
            at: how far touches and conversions have been read.
        """
        for source, keys in self._inputs.items():
            asked = self._asked.get(source)
            if asked is None:
                self._asked[source] = _Asked({key: answers.ends[key] for key in keys}, dict(newest))
                continue
            if asked.touch_ends is None and all(
                answers.read.get(key, 0) >= end for key, end in asked.input_ends.items()
            ):
                asked.touch_ends = {number: answers.ends[key] for number, key in self._touches.items()}
            if asked.touch_ends is not None and self._read(source, asked, horizons, at):
                del self._asked[source]
        for number, key in self._conversions.items():
            end, ts = self._conversions_asked.setdefault(number, (answers.ends[key], newest[number]))
            if at[key] >= end:
                horizons[number].mark(CONVERSIONS, ts)
                del self._conversions_asked[number]

    def _read(self, source: int, asked: _Asked, horizons: Mapping[int, Horizon], at: Mapping[Key, int]) -> bool:
        """Mark the partitions that have read the source's touches; whether all have."""
        done = [number for number, end in (asked.touch_ends or {}).items() if at[self._touches[number]] >= end]
        for number in done:
            horizons[number].mark(source, asked.newest[number])
        return len(done) == len(self._touches)
