"""A batch's rows sorted by arm, once, so that every sum over an arm's rows is one slice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policies.batch import Batch, FloatArray, IntArray
    from policies.decay import Decay

Index = npt.NDArray[np.intp]


class Rows:
    """One side of a batch, sorted by arm; g arms have rows.

    Attributes:
        order: (n,) permutation that sorts the rows by arm, stable.
        codes: (g,) index of each arm that has rows, ascending.
        starts, sizes: (g,) where each arm's rows start among the sorted ones, and how many there are.
    """

    __slots__ = ("codes", "order", "sizes", "starts", "ts")

    def __init__(self, codes: Index, ts: IntArray, *, arms: int) -> None:
        narrow = codes.astype(np.uint16) if arms <= 1 << 16 else codes  # 16 bits are sorted by radix, ten times as fast
        self.order: Index = np.argsort(narrow, kind="stable")
        sorted_codes = codes[self.order]
        first = np.ones(len(codes), np.bool_)
        np.not_equal(sorted_codes[1:], sorted_codes[:-1], out=first[1:])
        self.starts: Index = np.flatnonzero(first)
        self.codes: Index = sorted_codes[self.starts]
        self.sizes: Index = np.diff(self.starts, append=len(codes))
        self.ts: IntArray = ts[self.order]

    def newest_ms(self) -> IntArray:
        """(g,) largest event time of each arm."""
        return _reduce(np.maximum, self.ts, self.starts)

    def totals(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(g, ...) sum of sorted values (n, ...) for each arm."""
        return _reduce(np.add, values, self.starts)


def _reduce(operation: np.ufunc, values: npt.NDArray[Any], starts: Index) -> npt.NDArray[Any]:
    if not len(starts):
        return values[:0]
    reduced: npt.NDArray[Any] = operation.reduceat(values, starts, axis=0)
    return reduced


class Touched:
    """The t arms that a batch touches: their names, their sums before, their newest event after.

    Attributes:
        shown, rewarded: the two sides of the batch.
        at_shown, at_rewarded: (g,) position of each side's arms among the t.
    """

    __slots__ = ("at_rewarded", "at_shown", "names", "newest_ms", "old", "rewarded", "shown")

    def __init__(self, sums: Mapping[str, Any], batch: Batch, *, zero: Any) -> None:
        arms = len(batch.arms)
        self.shown = Rows(batch.arm, batch.ts, arms=arms)
        self.rewarded = Rows(batch.reward_arm, batch.reward_ts, arms=arms)
        codes = np.union1d(self.shown.codes, self.rewarded.codes)
        self.names = [batch.arms[code] for code in codes.tolist()]
        self.old = [sums.get(name, zero) for name in self.names]
        self.at_shown: Index = np.searchsorted(codes, self.shown.codes)
        self.at_rewarded: Index = np.searchsorted(codes, self.rewarded.codes)
        self.newest_ms: IntArray = np.array([old.newest_ms for old in self.old], np.int64)
        for rows, at in ((self.shown, self.at_shown), (self.rewarded, self.at_rewarded)):
            self.newest_ms[at] = np.maximum(self.newest_ms[at], rows.newest_ms())

    def weights(self, decay: Decay, rows: Rows, at: Index, landmarks_ms: IntArray) -> FloatArray | None:
        """(n,) weight of each sorted row at its arm's landmark (t,); None if nothing decays."""
        if decay.none:
            return None
        return decay.weights(rows.ts - np.repeat(landmarks_ms[at], rows.sizes))

    def spread(self, totals: npt.NDArray[Any], at: Index) -> npt.NDArray[Any]:
        """(t, ...) from (g, ...): zero for arms that this side does not touch."""
        spread = np.zeros((len(self.names), *totals.shape[1:]))
        spread[at] = totals
        return spread


def total_weight(rows: Rows, weights: FloatArray | None) -> FloatArray:
    """(g,) sum of weights of each arm's rows; their number where every weight is one."""
    return rows.sizes.astype(np.float64) if weights is None else rows.totals(weights)
