"""Softmax, uncertainty sampling and the floor in slots: exact probabilities over all that may happen before.

weights     arm a with the probability w_a/(sum of what is left) (Plackett-Luce), so that two slots before give
            p_a = w_a sum_{b, c != a} P(b, c)/(W - w_b - w_c).
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


SAFE = 1e-3
"""Share of a sum down to which a difference from it is exact enough: its relative error is 1e-13."""


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
    total = w.sum()
    rest: FloatArray = total - w
    if rest.min() < SAFE * total:
        top = int(w.argmax())
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
    total = rows.sum()
    rest: FloatArray = total - held
    if rest.min() > SAFE * total:
        return rest
    np.maximum(rest, 0.0, out=rest)
    for a in np.argpartition(held, -2)[-2:]:
        without_first, without_w = first.copy(), w.copy()
        without_first[a] = without_w[a] = 0.0
        rest[a] = without_first @ (R @ without_w)
    return rest


def _rest_pairs(w: FloatArray) -> FloatArray:
    """(n, n) sum of all weights but two, without cancellation for the largest; the diagonal means nothing."""
    rest = _rest(w)[:, None] - w
    np.fill_diagonal(rest, 1.0)
    if np.partition(w, -2)[-2:].sum() < (1.0 - SAFE) * w.sum():
        return rest
    top = int(w.argmax())
    others = w.copy()
    others[top] = 0.0
    rest[top] = rest[:, top] = _rest(others)
    np.fill_diagonal(rest, 1.0)
    return rest


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
