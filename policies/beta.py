"""Beta-Bernoulli sums: how often an arm was shown and what it brought, without a context.

The posterior is Beta(a0 + reward, b0 + max(n_eff - reward, 0)). The record is that of policies/records.py with d = 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from policies import records
from policies.decay import EARLIEST_MS, Decay, forgetting, pending, shares
from policies.records import PendingRecord
from policies.rows import Touched, total_weight
from policies.sums import VERSION, Effective

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from policies.batch import Batch

Waiting = PendingRecord
"""Weight of an arm's pending rows at a landmark of its own."""


class BetaSums(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Sums of one arm; see `policies.sums.Sums`. `pending` has one entry for each delay."""

    n: float
    count: float
    reward: float
    square: float
    landmark_ms: int
    newest_ms: int
    pending: tuple[Waiting, ...] = ()


class BetaModel:
    """Sums for the Beta-Bernoulli posterior. The context is ignored, so a batch may have one of any length.

    Args:
        half_life_s: half-life of old rows in seconds, taken to whole milliseconds; 0 forgets nothing.
        delays_s: mean delays in seconds; rows count as pending by the equal mixture of these exponentials.
        dimension: d of the contexts that come with the rows; kept for whoever asks, not used.

    >>> import numpy as np
    >>> from policies.batch import Batch
    >>> empty = np.zeros((0, 0))
    >>> two_shown = Batch(arms=("a",), arm=np.array([0, 0]), x=np.zeros((2, 0)), ts=np.array([1, 2]),
    ...     reward_arm=np.array([0]), reward_x=np.zeros((1, 0)), reward_ts=np.array([1]),
    ...     reward=np.ones(1), square=np.ones(1))
    >>> model = BetaModel()
    >>> sums = model.update({}, two_shown)
    >>> model.at(sums["a"], now_ms=10).n_eff, sums["a"].reward
    (2.0, 1.0)
    """

    name = "beta"
    family = "beta"
    encoder = None

    def __init__(self, *, half_life_s: float = 0.0, delays_s: tuple[float, ...] = (), dimension: int = 0) -> None:
        self.dimension = dimension
        self.half_life_s = float(half_life_s)
        self.delays_s = tuple(float(delay) for delay in delays_s)
        self._decay = forgetting(half_life_s)
        self._waits = tuple(pending(delay, self._decay) for delay in self.delays_s)

    @property
    def timeless(self) -> bool:
        """Whether reading the same sums later gives the same numbers."""
        return self._decay.none and not self._waits

    def zero(self) -> BetaSums:
        """Sums of no rows."""
        return BetaSums(
            n=0.0,
            count=0.0,
            reward=0.0,
            square=0.0,
            landmark_ms=self._decay.landmark_ms(EARLIEST_MS),
            newest_ms=EARLIEST_MS,
            pending=tuple(Waiting(landmark_ms=wait.landmark_ms(EARLIEST_MS), n=0.0) for wait in self._waits),
        )

    def update(self, sums: Mapping[str, BetaSums], batch: Batch) -> dict[str, BetaSums]:
        """Return the arms' sums with the batch's rows added; arms that it does not touch keep their very objects."""
        touched = Touched(sums, batch, zero=self.zero())
        shown, rewarded, at = touched.shown, touched.rewarded, touched.at_shown
        landmarks = self._decay.landmarks_ms(touched.newest_ms)
        weights = touched.weights(self._decay, rewarded, touched.at_rewarded, landmarks)

        def earned(values: npt.NDArray[np.float64]) -> list[float]:
            values = values[rewarded.order] if weights is None else values[rewarded.order] * weights
            return touched.spread(rewarded.totals(values), touched.at_rewarded).tolist()  # type: ignore[no-any-return]

        n = touched.spread(total_weight(shown, touched.weights(self._decay, shown, at, landmarks)), at).tolist()
        count = touched.spread(total_weight(shown, None), at).tolist()
        reward, square = earned(batch.reward), earned(batch.square)
        waiting = []
        for wait in self._waits:
            marks = wait.landmarks_ms(touched.newest_ms)
            added = touched.spread(total_weight(shown, touched.weights(wait, shown, at, marks)), at).tolist()
            waiting.append([Waiting(landmark_ms=mark, n=n) for mark, n in zip(marks.tolist(), added, strict=True)])
        result = dict(sums)
        for i, (name, old) in enumerate(zip(touched.names, touched.old, strict=True)):
            new = BetaSums(
                n=n[i],
                count=count[i],
                reward=reward[i],
                square=square[i],
                landmark_ms=int(landmarks[i]),
                newest_ms=int(touched.newest_ms[i]),
                pending=tuple(entries[i] for entries in waiting),
            )
            result[name] = self.merge(old, new)
        return result

    def merge(self, left: BetaSums, right: BetaSums) -> BetaSums:
        """Sums of the rows of both, at the later landmark.

        >>> model = BetaModel()
        >>> model.merge(model.zero(), model.zero()) == model.zero()
        True
        """
        landmark_ms = max(left.landmark_ms, right.landmark_ms)
        p = self._decay.weight(since_ms=left.landmark_ms - landmark_ms)
        q = self._decay.weight(since_ms=right.landmark_ms - landmark_ms)
        return BetaSums(
            n=p * left.n + q * right.n,
            count=left.count + right.count,
            reward=p * left.reward + q * right.reward,
            square=p * left.square + q * right.square,
            landmark_ms=landmark_ms,
            newest_ms=max(left.newest_ms, right.newest_ms),
            pending=tuple(map(_merge_waiting, self._waits, left.pending, right.pending)),
        )

    def negative(self, sums: BetaSums) -> BetaSums:
        """What takes these rows back when it is merged; times stay as they are."""
        return msgspec.structs.replace(
            sums,
            n=-sums.n,
            count=-sums.count,
            reward=-sums.reward,
            square=-sums.square,
            pending=tuple(Waiting(landmark_ms=p.landmark_ms, n=-p.n) for p in sums.pending),
        )

    def encode(self, sums: BetaSums) -> dict[str, object]:
        """Sums as a map that MessagePack can hold; layout in policies/records.py."""
        return {
            "v": VERSION,
            **self._settings(),
            "landmark_ms": sums.landmark_ms,
            "newest_ms": sums.newest_ms,
            "n": sums.n,
            "count": sums.count,
            "reward": sums.reward,
            "square": sums.square,
            "pending": [{"landmark_ms": entry.landmark_ms, "n": entry.n} for entry in sums.pending],
        }

    def decode(self, record: Mapping[str, object]) -> BetaSums:
        """Read what `encode` wrote; unknown keys are ignored. Raises RecordError if it cannot be used."""
        read = records.read(record, self._settings())
        return BetaSums(
            n=read.n,
            count=read.count,
            reward=read.reward,
            square=read.square,
            landmark_ms=read.landmark_ms,
            newest_ms=read.newest_ms,
            pending=read.pending,
        )

    def at(self, sums: BetaSums, *, now_ms: int, weights: Sequence[float] | None = None) -> Effective:
        """Sums as they count at event time `now_ms`, or at the arm's newest event if that is later.

        n_eff = 2^(-(t - L)/H) n - sum over delays of v times the pending weight; `weights` as in `LinearModel.at`.
        """
        now_ms = max(now_ms, sums.newest_ms)
        kept = self._decay.weight(since_ms=sums.landmark_ms - now_ms)
        waiting = sum(
            wait.weight(since_ms=p.landmark_ms - now_ms) * v * p.n
            for v, wait, p in zip(shares(weights, len(self._waits)), self._waits, sums.pending, strict=True)
        )
        n_eff = kept * sums.n - waiting
        return Effective(n_eff=n_eff, count=sums.count, reward=kept * sums.reward, square=kept * sums.square)

    def _settings(self) -> dict[str, object]:
        return {"model": self.family, "d": 0, "half_life_s": self.half_life_s, "delays_s": self.delays_s}


def _merge_waiting(wait: Decay, left: Waiting, right: Waiting) -> Waiting:
    landmark_ms = max(left.landmark_ms, right.landmark_ms)
    n = wait.weight(since_ms=left.landmark_ms - landmark_ms) * left.n
    n += wait.weight(since_ms=right.landmark_ms - landmark_ms) * right.n
    return Waiting(landmark_ms=landmark_ms, n=n)
