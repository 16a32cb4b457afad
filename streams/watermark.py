"""The watermark of a partition pair: event time up to which both topics have been read.

It is the smaller of the two topics' largest times; a topic with nothing left to read does not hold it back. "Nothing left" has to
be known *after* what it would let pass was read: a broker's answer that was under way may be older than a click that is in the
log already. Only the second new answer after a moment was certainly asked for after it, so that one counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streams.state import Side

OTHER: dict[Side, Side] = {"impressions": "clicks", "clicks": "impressions"}


@dataclass(frozen=True, slots=True)
class Answer:
    """A broker's answer for one topic: ``number`` differs for each answer, ``at_end`` says that all it knew of is processed."""

    number: int
    at_end: bool


class WatermarkClock:
    """Watermark of one partition pair in ms of event time.

    >>> clock = WatermarkClock()
    >>> clock.next({"impressions": 500, "clicks": 300}, {})
    300
    >>> silent = [clock.next({"impressions": 900, "clicks": 300}, {"clicks": Answer(i, True)}) for i in range(4)]
    >>> silent
    [300, 300, 900, 900]
    """

    def __init__(self, watermark: int | None = None) -> None:
        self.watermark = watermark
        self._last: dict[Side, int] = {}
        self._marks: dict[Side, list[int | None]] = {"impressions": [None, None], "clicks": [None, None]}

    def next(self, largest: Mapping[Side, int | None], answers: Mapping[Side, Answer]) -> int | None:
        """The watermark, given each topic's largest time so far (ms) and the broker's latest answer; it never goes back."""
        known = [self.watermark]
        ahead, behind = largest["impressions"], largest["clicks"]
        if ahead is not None and behind is not None:
            known.append(min(ahead, behind))
        for side, answer in answers.items():
            if answer.number == self._last.get(side):
                continue
            self._last[side] = answer.number
            marks = self._marks[side]
            if answer.at_end:
                known.append(marks[0])
            self._marks[side] = [marks[1], largest[OTHER[side]]]
        self.watermark = max((ts for ts in known if ts is not None), default=None)
        return self.watermark
