"""Softmax, uncertainty sampling, SquareCB and the floor in slots: exact probabilities over all that may happen before.

weights     arm a with the probability w_a/(sum of what is left) (Plackett-Luce), so that two slots before give
            p_a = w_a sum_{b, c != a} P(b, c)/(W - w_b - w_c).
gap         1/(m + gamma (best - s_a)) among the m arms that are left, the rest to the best one (the first, of several). The law
            depends on what is gone only through m and the best that is left, which is one of the K best, so
            histories fall into few classes; in each the chance of those without a is a difference of sums.
uniform     any eligible arm that is left. Arms that may stand in the same slots are alike.

Arms are drawn from what is computed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from policies.slot_laws import drawn

if TYPE_CHECKING:
    from policies.batch import FloatArray
    from policies.matching import Arms, Mask


def weights_in_turn(log_weight: FloatArray, eligible: Mask, *, rng: np.random.Generator) -> tuple[Arms, FloatArray]:
    """Arms (K,) drawn in turn by weights and their marginal probabilities (K, n), for K up to 3.

    Args:
        log_weight: (K, n) of the slots in the order in which they are filled.
        eligible: (K, n) with at least K arms in each slot.
        rng: advanced by K draws.

    >>> weights_in_turn(np.log([[1.0, 2.0], [1.0, 2.0]]), np.ones((2, 2), bool), rng=np.random.default_rng(1))[1].round(4).tolist()
    [[0.3333, 0.6667], [0.6667, 0.3333]]
    """
    slots, n = log_weight.shape
    w = _scaled(log_weight, eligible)
    p = np.empty((slots, n))
    p[0] = w[0] / w[0].sum()
    arms = np.empty(slots, np.intp)
    arms[0] = drawn(p[0], rng)
    if slots > 1:
        over = p[0] / _rest(w[1])
        p[1] = w[1] * _rest(over)
        p[1] /= p[1].sum()
        left = w[1].copy()
        left[arms[0]] = 0.0
        arms[1] = drawn(left, rng)
    if slots > 2:
        p[2] = w[2] * _after_two(over, w[1], w[2])
        p[2] /= p[2].sum()
        left = w[2].copy()
        left[arms[:2]] = 0.0
        arms[2] = drawn(left, rng)
    return arms, p


def _scaled(log_weight: FloatArray, eligible: Mask) -> FloatArray:
    """(K, n) weights, in slot i 1 for the best arm that is left if the i best are gone; none is so small as to vanish."""
    slots, n = log_weight.shape
    full = bool(eligible.all())
    open_ = log_weight if full else np.where(eligible, log_weight, -np.inf)
    at = np.diagonal(np.partition(open_, range(n - slots, n), axis=1)[:, ::-1])
    w: FloatArray = np.exp(np.minimum(np.maximum(open_ - at[:, None], -300.0), 300.0))
    return w if full else np.where(eligible, w, 0.0)


def _rest(w: FloatArray) -> FloatArray:
    """(n,) sum of all weights but one, without cancellation for the largest."""
    top = int(w.argmax())
    rest: FloatArray = w.sum() - w
    rest[top] = w[:top].sum() + w[top + 1 :].sum()
    return rest


def _after_two(first: FloatArray, w: FloatArray, then: FloatArray) -> FloatArray:
    """(n,) sum over b, c != a of first_b w_c/(what is left of `then` without b and c).

    For the two arms that hold most of it without a difference, so that nothing cancels.
    """
    R = 1.0 / _rest_pairs(then)
    np.fill_diagonal(R, 0.0)
    rows = first * (R @ w)
    held = rows + w * (first @ R)
    rest: FloatArray = np.maximum(rows.sum() - held, 0.0)
    for a in np.argpartition(held, -2)[-2:]:
        without_first, without_w = first.copy(), w.copy()
        without_first[a] = without_w[a] = 0.0
        rest[a] = without_first @ (R @ without_w)
    return rest


def _rest_pairs(w: FloatArray) -> FloatArray:
    """(n, n) sum of all weights but two, without cancellation for the largest; the diagonal means nothing."""
    top = int(w.argmax())
    rest = _rest(w)[:, None] - w
    others = w.copy()
    others[top] = 0.0
    rest[top] = rest[:, top] = _rest(others)
    np.fill_diagonal(rest, 1.0)
    return rest


def gap_law(at: FloatArray, left: Mask, gamma: float) -> FloatArray:
    """(..., n) inverse gap weighting by scores (n,) among the arms (..., n) that are left; zeros where none is.

    >>> gap_law(np.array([0.0, 0.2, 0.9]), np.array([True, True, False]), 10.0).tolist()
    [0.25, 0.75, 0.0]
    """
    open_ = np.where(left, at, -np.inf)
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
    for there in (True, False):
        part = np.where(eligible == there, with_one, 0.0)
        add(two, 1 + there, _but(part.sum() - part, one), float(part.sum()))
    if eligible.all():
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


def uniform(eligible: Mask) -> FloatArray:
    """(K, N) probability of each arm in each slot if slots are filled in turn from the eligible arms that are left.

    >>> uniform(np.array([[True, True], [False, True]])).tolist()
    [[0.5, 0.5], [0.0, 0.5]]
    """
    slots, n = eligible.shape
    if eligible.all():
        even = np.full((slots, n), 1.0 / n)
        even[n:] = 0.0
        return even
    if (eligible == eligible[0]).all():
        size = int(np.count_nonzero(eligible[0]))
        filled = np.arange(slots) < size
        return np.where(filled[:, None] & eligible, 1.0 / max(size, 1), 0.0)
    code, kind = np.unique(eligible, axis=1, return_inverse=True)
    sizes = np.bincount(kind.reshape(n), minlength=code.shape[1])
    chance = _uniform_of_kinds(tuple(map(tuple, code.T.tolist())), tuple(sizes.tolist()))
    out: FloatArray = np.array(chance)[:, kind.reshape(n)]
    return out


@lru_cache(maxsize=4096)
def _uniform_of_kinds(kinds: tuple[tuple[bool, ...], ...], sizes: tuple[int, ...]) -> tuple[tuple[float, ...], ...]:
    """(K, kinds) chance of one arm of each kind, by the numbers of each kind that are gone."""
    slots = len(kinds[0])
    states: dict[tuple[int, ...], float] = {(0,) * len(kinds): 1.0}
    out = [[0.0] * len(kinds) for _ in range(slots)]
    for slot in range(slots):
        after: dict[tuple[int, ...], float] = {}
        for gone, chance in states.items():
            left = [(size - g) * kind[slot] for size, g, kind in zip(sizes, gone, kinds, strict=True)]
            if sum(left) == 0:
                after[gone] = after.get(gone, 0.0) + chance
                continue
            for i, number in enumerate(left):
                if number:
                    part = chance * number / sum(left)
                    out[slot][i] += part / sizes[i]
                    then = (*gone[:i], gone[i] + 1, *gone[i + 1 :])
                    after[then] = after.get(then, 0.0) + part
        states = after
    return tuple(map(tuple, out))
