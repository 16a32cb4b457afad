"""SquareCB in slots filled in turn: exact probabilities over all that may happen before.

Among the m arms that are left arm a has 1/(m + gamma (best - s_a)), and the best one (the first, of several) the rest. The law depends on
what is gone only through m and the best that is left, which is one of the K best; so histories fall into few classes,
and in each the chance of those without a is a difference of sums.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from policies.slot_laws import drawn

if TYPE_CHECKING:
    from policies.batch import FloatArray
    from policies.matching import Arms, Mask


def gap_law(at: FloatArray, left: Mask, gamma: float) -> FloatArray:
    """(..., n) inverse gap weighting by scores (n,) among the arms (..., n) that are left; zeros where none is.

    >>> gap_law(np.array([0.0, 0.2, 0.9]), np.array([True, True, False]), 10.0).tolist()
    [0.25, 0.75, 0.0]
    """
    open_ = np.where(left, at, -np.inf)
    if left.ndim == 1:
        top = int(open_.argmax())
        one: FloatArray = left / (max(np.count_nonzero(left), 1) + gamma * np.maximum(at[top] - at, 0.0))
        one[top] = 0.0
        one[top] = 1.0 - one.sum() if left[top] else 0.0
        return one
    best = open_.argmax(axis=-1, keepdims=True)
    number = np.count_nonzero(left, axis=-1, keepdims=True)
    gap = np.maximum(at[best] - at, 0.0)
    p = np.where(left, 1.0 / (np.maximum(number, 1) + gamma * gap), 0.0)
    np.put_along_axis(p, best, 0.0, axis=-1)
    np.put_along_axis(p, best, np.where(number > 0, 1.0 - p.sum(axis=-1, keepdims=True), 0.0), axis=-1)
    return p


def gaps_in_turn(
    at: FloatArray, gamma: FloatArray, eligible: Mask, *, rng: np.random.Generator
) -> tuple[Arms, FloatArray]:
    """Arms (K,) drawn in turn by inverse gap weighting and their marginal probabilities (K, n), for K up to 3.

    Args:
        at: (K, n) scores in the order in which slots are filled.
        gamma: (K,) per score.
        eligible: (K, n) with at least K arms in each slot.
        rng: advanced by K draws.

    >>> gaps_in_turn(np.zeros((2, 2)), np.zeros(2), np.ones((2, 2), bool), rng=np.random.default_rng(1))[1].tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    slots, n = at.shape
    p = np.empty((slots, n))
    p[0] = gap_law(at[0], eligible[0], float(gamma[0]))
    arms = np.empty(slots, np.intp)
    arms[0] = drawn(p[0], rng)
    if slots > 1:
        second = _gap_rows(at[1], eligible[1], float(gamma[1]))
        p[1] = p[0] @ second
        arms[1] = drawn(second[arms[0]], rng)
    if slots > 2:
        p[2] = _gap_after_two(at[2], eligible[2], float(gamma[2]), p[0][:, None] * second)
        left = eligible[2].copy()
        left[arms[:2]] = False
        arms[2] = drawn(gap_law(at[2], left, float(gamma[2])), rng)
    return arms, p


def _gap_rows(at: FloatArray, eligible: Mask, gamma: float) -> FloatArray:
    """(n, n) law of what is left without each arm."""
    n = len(at)
    number = int(np.count_nonzero(eligible))
    best = int(np.where(eligible, at, -np.inf).argmax())
    out = np.empty((n, n))
    out[:] = np.where(eligible, 1.0 / (number - 1.0 + gamma * np.maximum(at[best] - at, 0.0)), 0.0)
    if number < n:
        out[~eligible] = np.where(eligible, 1.0 / (number + gamma * np.maximum(at[best] - at, 0.0)), 0.0)
    np.fill_diagonal(out, 0.0)
    out[:, best] = 0.0
    out[:, best] = 1.0 - out.sum(axis=1)
    left = eligible.copy()
    left[best] = False
    out[best] = gap_law(at, left, gamma)
    return out


def _gap_after_two(at: FloatArray, eligible: Mask, gamma: float, before: FloatArray) -> FloatArray:
    """(n,) probabilities of the third slot, of those (n, n) of the first two; the diagonal is zero."""
    number = int(np.count_nonzero(eligible))
    one, two, three = np.argsort(np.where(eligible, -at, np.inf), kind="stable")[:3]
    rest = before.copy()
    rest[one] = rest[:, one] = 0.0
    with_one = before[one] + before[:, one]
    both = float(with_one[two])
    with_one[two] = 0.0
    out = np.zeros(len(at))

    def add(best: int, gone: int, without: FloatArray, total: float) -> None:
        part = np.where(eligible, without / (number - gone + gamma * np.maximum(at[best] - at, 0.0)), 0.0)
        part[best] = 0.0
        part[best] = total - part.sum()
        out[:] += part

    add(three, 2, _but(np.full(len(at), both), one, two), both)
    full = bool(eligible.all())
    for there in (True,) if full else (True, False):
        part = with_one if full else np.where(eligible == there, with_one, 0.0)
        add(two, 1 + there, _but(part.sum() - part, one), float(part.sum()))
    if full:
        add(one, 2, _but(_pairs_but(rest), one), float(rest.sum()))
        return out
    for first in (True, False):
        for second in (True, False):
            part = rest * np.outer(eligible == first, eligible == second)
            add(one, first + second, _but(_pairs_but(part), one), float(part.sum()))
    return out


def _but(chance: FloatArray, *gone: int) -> FloatArray:
    """The chance (n,) of histories without each arm, none for arms that all of them have."""
    out = chance.copy()
    out[list(gone)] = 0.0
    return out


def _pairs_but(chance: FloatArray) -> FloatArray:
    """(n,) chance of the pairs (n, n) without each arm."""
    rows = chance.sum(axis=1)
    out: FloatArray = np.maximum(rows.sum() - rows - chance.sum(axis=0), 0.0)
    return out
