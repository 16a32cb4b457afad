"""Softmax, uncertainty sampling and the floor in slots: exact probabilities over all that may happen before.

weights     arm a with the probability w_a/(sum of what is left) (Plackett-Luce), so that two slots before give
            p_a = w_a sum_{b, c != a} P(b, c)/(W - w_b - w_c).
uniform     any eligible arm that is left. Arms that may stand in the same slots are alike.

Arms are drawn from what is computed.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from policies.compiled import MOST_SLOTS, kernels
from policies.slot_laws import at_share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.batch import FloatArray
    from policies.matching import Arms, Mask


MOST_STATES, MOST_MOVES = 20_000, 200_000
"""Cases of what is gone, and ways to go on from them, of which filling at random is summed over no more than one: half a second."""

GONE = -1
"""The type of arms that may stand in no slot that is still to come."""

SAFE = 1e-3
"""Share of a sum down to which a difference from it is exact enough: its relative error is 1e-13."""


def weights_in_turn(
    log_weight: FloatArray, eligible: Mask | None, *, rng: np.random.Generator
) -> tuple[Arms, FloatArray]:
    """Arms (K,) drawn in turn by weights and their marginal probabilities (K, n), for K up to 3.

    Args:
        log_weight: (K, n) of the slots in the order in which they are filled.
        eligible: (K, n) with at least K arms in each slot; None is everything.
        rng: advanced by K draws.

    >>> weights_in_turn(np.log([[1.0, 2.0], [1.0, 2.0]]), np.ones((2, 2), bool), rng=np.random.default_rng(1))[1].round(4).tolist()
    [[0.3333, 0.6667], [0.6667, 0.3333]]
    """
    open_ = log_weight if eligible is None else np.where(eligible, log_weight, -np.inf)
    fast, u = kernels(), rng.random(len(open_))
    if fast is not None and len(open_) <= MOST_SLOTS:
        found: tuple[Arms, FloatArray] = fast.page_by_weights(np.ascontiguousarray(open_, np.float64), u)
        return found
    weights = scaled_rows(open_[:, None])
    if eligible is not None:
        weights = [np.where(mask, w, 0.0) for mask, w in zip(eligible, weights, strict=True)]
    p = np.concatenate(laws_by_weights(weights))
    arms = np.empty(len(p), np.intp)
    for i, (left,) in enumerate(weights):
        left[arms[:i]] = 0.0
        arms[i] = at_share(left, u[i])
    return arms, p


def scaled_rows(logs: Sequence[FloatArray] | FloatArray) -> list[FloatArray]:
    """Weights (m, n) of each slot from logarithms (m, n): 1 for the best arm that is left if the slots before took the best.

    None is so small as to vanish, and none so large that nothing else counts.

    >>> [w.round(3).tolist() for w in scaled_rows([np.log([[1.0, 2.0]])] * 2)]
    [[[0.5, 1.0]], [[1.0, 2.0]]]
    """
    out = []
    for i, log in enumerate(logs):
        n = log.shape[1]
        at = log.max(axis=1) if i == 0 else np.partition(log, n - 1 - i, axis=1)[:, n - 1 - i]
        out.append(np.exp(np.minimum(np.maximum(log - at[:, None], -300.0), 300.0)))
    return out


def laws_by_weights(weights: Sequence[FloatArray]) -> list[FloatArray]:
    """Marginal probabilities (m, n) of up to three slots filled in turn by weights (m, n), of m requests.

    >>> laws_by_weights([np.array([[1.0, 2.0, 1.0]])] * 2)[1].round(4).tolist()
    [[0.3333, 0.3333, 0.3333]]
    """
    laws = [weights[0] / weights[0].sum(axis=1, keepdims=True)]
    if len(weights) > 1:
        over = laws[0] / all_but_one(weights[1])
        second = weights[1] * all_but_one(over)
        laws.append(second / second.sum(axis=1, keepdims=True))
    if len(weights) > 2:
        third = weights[2] * _after_two(over, weights[1], weights[2])
        laws.append(third / third.sum(axis=1, keepdims=True))
    return laws


def all_but_one(w: FloatArray) -> FloatArray:
    """(m, n) sum of all weights of a row but one, without cancellation for the largest."""
    rest: FloatArray = w.sum(axis=1, keepdims=True) - w
    top = w.argmax(axis=1)
    rows = np.arange(len(w))
    others = w.copy()
    others[rows, top] = 0.0
    rest[rows, top] = others.sum(axis=1)
    return rest


def _after_two(first: FloatArray, w: FloatArray, then: FloatArray) -> FloatArray:
    """(m, n) sum over b, c != a of first_b w_c/(what is left of `then` without b and c)."""
    m, n = then.shape
    every, top = np.arange(m), then.argmax(axis=1)
    without_top = then.copy()
    without_top[every, top] = 0.0
    without, least = all_but_one(then), all_but_one(without_top)
    R, sides, both = np.empty((n, n)), np.stack((w, first), axis=2), np.empty((m, n, 2))
    diagonal = R.reshape(-1)[:: n + 1]
    out = np.empty((m, n))
    for i in range(m):
        np.subtract(without[i][:, None], then[i], out=R)
        R[top[i]] = R[:, top[i]] = least[i]
        diagonal[:] = np.inf
        np.divide(1.0, R, out=R)
        np.matmul(R, sides[i], out=both[i])
        rows = first[i] * both[i, :, 0]
        held = rows + w[i] * both[i, :, 1]
        total = rows.sum()
        rest = np.subtract(total, held, out=out[i])
        if rest.min() <= SAFE * total:
            _without_two(rest, held, R, first[i], w[i])
    return out


def _without_two(rest: FloatArray, held: FloatArray, R: FloatArray, first: FloatArray, w: FloatArray) -> None:
    """The sums of the two arms that hold most, without a difference, so that nothing cancels."""
    np.maximum(rest, 0.0, out=rest)
    for a in np.argpartition(held, -2)[-2:]:
        without_first, without_w = first.copy(), w.copy()
        without_first[a] = without_w[a] = 0.0
        rest[a] = without_first @ (R @ without_w)


def uniform(eligible: Mask) -> FloatArray:
    """(K, N) probability of each arm in each slot if slots are filled in turn from the eligible arms that are left.

    Raises:
        ValueError: the slots differ in so many ways that the sum would take too long.

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
    kinds = tuple(map(tuple, code.T.tolist()))
    if (states := math.comb(len(kinds) + slots - 2, slots - 1)) > MOST_STATES and _moves(kinds) > MOST_MOVES:
        raise ValueError(
            f"{slots} slots tell {len(kinds)} kinds of arms apart, which makes up to {states} cases of what is gone, too many to "
            "compute: ask for fewer slots at once, or let rules tell fewer of them apart"
        )
    sizes = np.bincount(kind.reshape(n), minlength=len(kinds))
    out: FloatArray = _uniform_of_kinds(kinds, tuple(sizes.tolist()))[:, kind.reshape(n)]
    return out


def _moves(kinds: Sequence[tuple[bool, ...]]) -> int:
    """Cases of what is gone before each slot, at most, times what may go next."""
    ahead = [sum(map(any, {kind[slot:] for kind in kinds})) for slot in range(len(kinds[0]))]
    return sum(math.comb(types + slot, slot) * types for slot, types in enumerate(ahead))


@lru_cache(maxsize=4096)
def _uniform_of_kinds(kinds: tuple[tuple[bool, ...], ...], sizes: tuple[int, ...]) -> FloatArray:
    """(K, kinds) chance of one arm of each kind.

    What is gone matters only by the slots that are still to come, so that arms which may stand in the same of these are one type: a
    case is how many of each type are gone. It has (kinds,) the chance of the case and that one arm of the kind is still there.
    """
    slots = len(kinds[0])
    types = sorted(set(kinds))
    of_kind = [types.index(kind) for kind in kinds]
    whole = [sum(size for size, i in zip(sizes, of_kind, strict=True) if i == j) for j in range(len(types))]
    cases = {(0,) * len(types): np.ones(len(kinds))}
    out = np.zeros((slots, len(kinds)))
    for slot in range(slots):
        later = sorted({one[1:] for one in types if any(one[1:])})
        then = [later.index(one[1:]) if any(one[1:]) else GONE for one in types]
        own = [np.equal(of_kind, j).astype(np.float64) for j in range(len(types))]
        after: dict[tuple[int, ...], FloatArray] = {}
        for gone, chance in cases.items():
            left = [(size - g) * one[0] for size, g, one in zip(whole, gone, types, strict=True)]
            total = sum(left)
            kept = _merged(gone, then, len(later))
            if not total:
                _add(after, kept, GONE, chance)
                continue
            out[slot] += chance / total
            for j, number in enumerate(left):
                if number:
                    _add(after, kept, then[j], chance * (number - own[j]) / total)
        out[slot] *= [kind[slot] for kind in kinds]
        whole = list(_merged(whole, then, len(later)))
        of_kind = [GONE if j == GONE else then[j] for j in of_kind]
        cases, types = after, later
    return np.minimum(out, 1.0)


def _merged(numbers: Sequence[int], to: Sequence[int], types: int) -> tuple[int, ...]:
    """Numbers of arms by the types that they go to; those of arms that may stand nowhere any more are left out."""
    out = [0] * types
    for number, j in zip(numbers, to, strict=True):
        if j != GONE:
            out[j] += number
    return tuple(out)


def _add(cases: dict[tuple[int, ...], FloatArray], gone: tuple[int, ...], type_: int, chance: FloatArray) -> None:
    """Add the chance of a case, and that one more of a type is gone in it."""
    case = gone if type_ == GONE else (*gone[:type_], gone[type_] + 1, *gone[type_ + 1 :])
    cases[case] = cases[case] + chance if case in cases else chance
