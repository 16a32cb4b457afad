"""What visits have had so far: of each unit in a period its group, its decisions and the sum of their rewards.

Sums do not depend on the order of the rows: a reward in [0, 1] is added as a whole number of 2^-32. A period's visits are kept in a few
tallies, each at least twice as large as the next one, so that a row is moved log2(n) times at most; 25 bytes a visit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from policies.batch import FloatArray, IntArray
    from policies.promotion import Bits

Units = npt.NDArray[np.uint64]
ONE = 2.0**32
"""A reward of 1 in sums."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tally:
    """Visits of one period: (m,) units' numbers, ascending; whether the canary decides for each; decisions; sums of rewards times ONE."""

    unit: Units
    canary: Bits
    rows: IntArray
    reward: IntArray

    @property
    def means(self) -> FloatArray:
        """(m,) mean rewards."""
        mean: FloatArray = self.reward / (self.rows * ONE)
        return mean


def tally(unit: Units, canary: Bits, reward: FloatArray) -> Tally:
    """Of n decisions of one period.

    Args:
        unit: (n,) whose they are.
        canary: (n,) whether the canary decided, the same for all of a unit.
        reward: (n,) in [0, 1].

    >>> found = tally(np.array([9, 4, 9], np.uint64), np.array([True, False, True]), np.array([1.0, 0.5, 0.0]))
    >>> found.unit.tolist(), found.canary.tolist(), found.rows.tolist(), found.means.tolist()
    ([4, 9], [False, True], [1, 2], [0.5, 0.5])
    """
    return _added(unit, canary, np.ones(len(unit), np.int64), np.rint(reward * ONE).astype(np.int64))


def with_more(tallies: tuple[Tally, ...], more: Tally) -> tuple[Tally, ...]:
    """A period's tallies with another one, the largest first.

    >>> one = tally(np.array([9], np.uint64), np.array([True]), np.array([1.0]))
    >>> [found.rows.tolist() for found in with_more(with_more((), one), one)]
    [[2]]
    """
    kept = [*tallies, more]
    while len(kept) > 1 and len(kept[-2].unit) < 2 * len(kept[-1].unit):
        kept[-2:] = [_both(kept[-2], kept[-1])]
    return tuple(kept)


def whole(tallies: tuple[Tally, ...]) -> Tally:
    """All of a period as one tally.

    >>> len(whole(()).unit)
    0
    """
    empty = np.zeros(0, np.int64)
    found = Tally(unit=empty.astype(np.uint64), canary=empty.astype(np.bool_), rows=empty, reward=empty)
    for one in reversed(tallies):
        found = _both(one, found)
    return found


def _both(a: Tally, b: Tally) -> Tally:
    return _added(
        np.concatenate([a.unit, b.unit]),
        np.concatenate([a.canary, b.canary]),
        np.concatenate([a.rows, b.rows]),
        np.concatenate([a.reward, b.reward]),
    )


def _added(unit: Units, canary: Bits, rows: IntArray, reward: IntArray) -> Tally:
    order = np.argsort(unit, kind="stable")
    unit = unit[order]
    first = np.flatnonzero(np.concatenate([[True], unit[1:] != unit[:-1]])) if len(unit) else np.zeros(0, np.int64)
    if not len(first):
        return Tally(unit=unit, canary=canary, rows=rows, reward=reward)
    return Tally(
        unit=unit[first],
        canary=canary[order][first],
        rows=np.add.reduceat(rows[order], first),
        reward=np.add.reduceat(reward[order], first),
    )
