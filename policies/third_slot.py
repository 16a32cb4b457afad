"""The third slot by weights, of many requests at once: the probability of the one arm that is shown there.

`policies.slot_weights` says what is summed: over the arms b and c before, f_b w_c/(what is left of the third slot's weights t without
both). A request's H largest t have their own rows. Of all other arms none has more than 1/(H + 1) of the sum W, so that

    1/(W - t_b - t_c) = 1/W sum_k ((t_b + t_c)/W)^k = 1/W sum_{i, j} C(i + j, i) (t_b/W)^i (t_c/W)^j

converges as (2/(H + 1))^k at least, and its double sum is one of moments of the arms: H n + K n terms instead of n^2.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from policies.slot_weights import SAFE, all_but_one, all_but_two, laws_by_weights

if TYPE_CHECKING:
    import numpy.typing as npt

    from policies.batch import FloatArray

HEAD = 8
"""Arms of a request that have their own rows."""

LEFT_OUT = 1e-16
"""Share of a term up to which the series is summed."""

GAINS = 6
"""Requests from which this is faster than the whole laws (6 with 100 arms; 24 take half the time)."""


def law_of_third(weights: list[FloatArray], first: FloatArray, shown: npt.NDArray[np.intp]) -> FloatArray:
    """(m,) probability that the third slot has the arm `shown` (m,), of weights (m, n) of three slots and the first one's law; n above HEAD.

    >>> w = [np.array([[1.0, 2.0] * 10])] * 3
    >>> law_of_third(w, w[0] / 30.0, np.array([1])).round(6), laws_by_weights(w)[2].round(6)[0, :2]
    (array([0.064961]), array([0.035039, 0.064961]))
    """
    w, t = weights[1], weights[2]
    every = np.arange(len(t))
    at = every[:, None]
    f = first / all_but_one(w)
    left, top, without_top = all_but_two(t)
    head = np.argpartition(-t, HEAD - 1, axis=1)[:, :HEAD]
    rows = np.concatenate((head, shown[:, None]), axis=1)
    R = left[at, rows][:, :, None] - t[:, None, :]
    R[every, :, top] = without_top[at, rows]
    np.copyto(R, without_top[:, None, :], where=(rows == top[:, None])[:, :, None])
    R[at, np.arange(HEAD + 1), rows] = np.inf
    np.divide(1.0, R, out=R)
    both = R @ np.stack((w, f), axis=2)
    f_head, w_head = f[at, rows], w[at, rows]
    held = f_head * both[:, :, 0] + w_head * both[:, :, 1]
    among = R[at[:, :, None], np.arange(HEAD)[:, None], head[:, None, :]]
    twice = (f_head[:, None, :HEAD] @ (among @ w_head[:, :HEAD, None]))[:, 0, 0]
    double, same = _tail(f, w, t, head)
    by_rows = held[:, :HEAD].sum(axis=1)
    rest = by_rows - twice - held[:, HEAD] + (double - same)
    largest = by_rows + double
    p: FloatArray = t[every, shown] * rest
    for row in (~(rest > SAFE * largest)).nonzero()[0].tolist():  # what is left of a difference has too few digits
        p[row] = laws_by_weights([one[row : row + 1] for one in weights])[2][0, shown[row]]
    return p


def _tail(f: FloatArray, w: FloatArray, t: FloatArray, head: npt.NDArray[np.intp]) -> tuple[FloatArray, FloatArray]:
    """(m,) the sum over all b and c out of the head, and that over b = c, which is to be taken from it."""
    at, total = np.arange(len(t))[:, None], t.sum(axis=1, keepdims=True)
    pair = np.stack((f, w), axis=2)
    pair[at, head] = 0.0
    x = t / total
    x[at, head] = 0.0
    largest = 2.0 * float(x.max())
    degree = 0 if largest == 0.0 else math.ceil(math.log(LEFT_OUT) / math.log(largest))
    powers = np.empty((degree + 1, *x.shape))
    powers[0] = 1.0
    for k in range(degree):
        np.multiply(powers[k], x, out=powers[k + 1])
    moments = powers.transpose(1, 0, 2) @ pair
    double = ((moments[:, :, 0] @ _binomials(degree)) * moments[:, :, 1]).sum(axis=1)
    same = (pair[:, :, 0] * pair[:, :, 1] / (1.0 - 2.0 * x)).sum(axis=1)
    return double / total[:, 0], same / total[:, 0]


@lru_cache(maxsize=64)
def _binomials(degree: int) -> FloatArray:
    """(degree + 1, degree + 1) C(i + j, i) where i + j is at most that degree, else 0."""
    return np.array(
        [[math.comb(i + j, i) if i + j <= degree else 0.0 for j in range(degree + 1)] for i in range(degree + 1)]
    )
