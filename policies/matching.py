"""The best allocation of arms to slots for a known worth: assignment, sort, and slot by slot.

assignment: the largest sum of worths (linear_sum_assignment; Crouse 2016). sort: best arms to best slots, which is the same where
the worth is kappa_l times the arm's own number and every arm may stand in every slot. sequential: each slot in turn takes
the best arm that is left. A slot for which no eligible arm is left stays empty, EMPTY.

Where slots have features of their own, sequential has 97.5% of assignment's value and sort 76%, and neither is faster
(benchmarks/allocation.py): sort pays only where it is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

if TYPE_CHECKING:
    from policies.batch import FloatArray

Mode = Literal["assignment", "sort", "sequential"]
MODES: tuple[Mode, ...] = ("assignment", "sort", "sequential")
EMPTY = -1
"""In place of an arm's index: nothing is shown."""

Arms = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]


def assignment(worth: FloatArray, eligible: Mask, *, reserve: float | None = None) -> Arms:
    """(K,) arms with the largest sum of worths (K, N).

    Without a reserve as many slots are filled as can be; with one an empty slot is worth `reserve`, and is left where
    filling it costs more elsewhere.

    >>> worth = np.array([[3.0, 2.0], [3.0, 0.0]])
    >>> assignment(worth, np.ones((2, 2), bool)).tolist()
    [1, 0]
    >>> assignment(worth, np.array([[True, False], [True, True]])).tolist()
    [0, 1]
    >>> assignment(worth - 1.0, worth > 0.0, reserve=0.0).tolist()
    [1, 0]
    """
    only: Arms = assignments(worth[None], eligible, reserve=reserve)[0]
    return only


def assignments(worth: FloatArray, eligible: Mask, *, reserve: float | None = None) -> Arms:
    """(J, K) arms of J worths (J, K, N): see `assignment`."""
    full = bool(eligible.all())
    if reserve is not None:
        worth = np.where(eligible, np.maximum(worth, reserve), reserve)
    elif not full:
        least = float(worth.min())
        never = least - (len(eligible) + 1.0) * (float(worth.max()) - least + 1.0)
        worth = np.where(eligible, worth, never)
    out = np.full(worth.shape[:2], EMPTY, np.intp)
    for arms, cost in zip(out, -worth, strict=True):
        slot, arm = linear_sum_assignment(cost)
        arms[slot] = arm
    if not full:
        allowed = eligible[np.arange(len(eligible)), out]
        out[~allowed] = EMPTY
    return out


def by_sort(worth: FloatArray, eligible: Mask, order: Arms) -> Arms:
    """(K,) arms in the order of their worth (N,), the best to the first slot of `order` (K,) that may show it.

    >>> by_sort(np.array([1.0, 3.0, 2.0]), np.ones((2, 3), bool), np.array([1, 0])).tolist()
    [2, 1]
    """
    ranked = np.argsort(-worth, kind="stable")
    out = np.full(len(eligible), EMPTY, np.intp)
    taken = np.zeros(len(worth), bool)
    for slot in order:
        free = ranked[(eligible[slot] & ~taken)[ranked]]
        if len(free):
            out[slot] = free[0]
            taken[free[0]] = True
    return out


def one_by_one(worth: FloatArray, eligible: Mask, order: Arms, *, repeat: bool = False) -> Arms:
    """(K,) arms, each slot of `order` taking the best by its row of (K, N) that is left; `repeat` leaves all.

    >>> one_by_one(np.array([[3.0, 2.0], [3.0, 0.0]]), np.ones((2, 2), bool), np.array([0, 1])).tolist()
    [0, 1]
    """
    open_ = np.where(eligible, worth, -np.inf)
    out = np.full(len(worth), EMPTY, np.intp)
    for slot in order:
        arm = int(open_[slot].argmax())
        if open_[slot, arm] > -np.inf:
            out[slot] = arm
            if not repeat:
                open_[:, arm] = -np.inf
    return out


def solve(
    worth: FloatArray,
    eligible: Mask,
    *,
    mode: Mode,
    order: Arms,
    rank_one: bool = False,
    repeat: bool = False,
    reserve: float | None = None,
) -> Arms:
    """(K,) arms by one of MODES; "assignment" takes the way of "sort" where that gives the same (`rank_one`).

    >>> solve(np.array([[1.0, 2.0]]), np.ones((1, 2), bool), mode="assignment", order=np.array([0])).tolist()
    [1]
    """
    if repeat or mode == "sequential" or len(worth) == 1:
        return one_by_one(worth, eligible, order, repeat=repeat)
    if rank_one:
        return _top(worth[order[0]], eligible[0], order)
    if mode == "sort":
        return by_sort(np.where(eligible, worth, 0.0).sum(axis=0), eligible, order)
    return assignment(worth, eligible, reserve=reserve)


def _top(worth: FloatArray, eligible: Mask, order: Arms) -> Arms:
    """`by_sort` where all slots may show the same."""
    slots, open_ = len(order), np.where(eligible, worth, -np.inf)
    few = np.argpartition(-open_, slots - 1)[:slots] if slots < len(worth) else np.arange(len(worth))
    few.sort()
    ranked = few[np.argsort(-open_[few], kind="stable")]
    ranked = ranked[open_[ranked] > -np.inf]
    out = np.full(slots, EMPTY, np.intp)
    out[order[: len(ranked)]] = ranked
    return out
