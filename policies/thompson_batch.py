"""Thompson sampling's probabilities for many contexts at once: the quadrature of policies/thompson.py on 3-d arrays.

Rows are pruned, sorted by the number of arms that are left and the number of equal steps that their range takes, and
integrated together with those alike. Rows that equal steps do not suit go one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from policies.thompson import CROWD, FEW, NEGLIGIBLE, REACH, STEP, contend, integrals, raised, thompson, unit_rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policies.batch import FloatArray

Index = npt.NDArray[np.intp]

NUMBERS = 1 << 13
"""Numbers in an array of the quadrature: a few such arrays stay in a processor's cache, and in the allocator's hands."""


def thompson_batch(mean: FloatArray, sd: FloatArray) -> FloatArray:
    """(n, K) what `policies.thompson.thompson` gives for each row of mean and sd (n, K); rows sum to one.

    >>> import numpy as np
    >>> thompson_batch(np.array([[0.0, 1.0], [0.0, 9.0]]), np.ones((2, 2))).round(5).tolist()
    [[0.23975, 0.76025], [0.0, 1.0]]
    """
    n, arms = mean.shape
    kept = contend(mean, sd)
    sizes = np.count_nonzero(kept, axis=1)
    p = np.zeros((n, arms))
    p[sizes == 1] = kept[sizes == 1]
    several = np.flatnonzero(sizes > 1)
    m, s = np.where(kept, mean, -np.inf), np.where(kept, sd, 1.0)
    lo, hi = (m - REACH * s).max(axis=1), (m + REACH * s).max(axis=1)
    crowded = sizes >= CROWD
    lo[crowded] = raised(m[crowded], s[crowded], lo[crowded], hi[crowded])
    narrowest = np.where(kept, sd, np.inf).min(axis=1)
    steps = np.full(n, FEW + 1)
    suited = narrowest * FEW * STEP > hi - lo
    steps[suited] = np.ceil((hi - lo)[suited] / (STEP * narrowest[suited]))
    for group in _alike(several, sizes, np.maximum(steps, 1)):
        if steps[group[0]] > FEW:
            for row in group:
                p[row] = thompson(mean[row], sd[row])
            continue
        order = np.argsort(~kept[group], axis=1, kind="stable")[:, : sizes[group].max()]
        at = group[:, None], order
        p[at] = _integrated(m[at], s[at], lo[group], hi[group], int(steps[group].max()))
    return p


def _alike(rows: Index, sizes: Index, steps: Index) -> Iterator[Index]:
    """Groups of rows with the same number of steps, and sizes alike, small enough for the cache."""
    if not len(rows):
        return
    order = rows[np.lexsort((sizes[rows], np.minimum(steps[rows], FEW + 1)))]
    size, step = sizes[order], np.minimum(steps[order], FEW + 1)
    first = 0
    for i in range(1, len(order) + 1):
        full = i < len(order) and (i + 1 - first) * int(size[i]) * 4 * int(step[i]) > NUMBERS
        if i == len(order) or step[i] != step[first] or size[i] > 1.25 * size[first] + 1 or full:
            yield order[first:i]
            first = i


def _integrated(m: FloatArray, s: FloatArray, lo: FloatArray, hi: FloatArray, steps: int) -> FloatArray:
    """(g, w) probabilities of g rows of w arms; arms with the mean -inf are none."""
    unit, weights = unit_rule(steps)
    span = (hi - lo)[:, None]
    raw = integrals(lo[:, None] + span * unit, span * weights, m, s)
    raw[raw < NEGLIGIBLE] = 0.0
    p: FloatArray = raw / raw.sum(axis=1, keepdims=True)
    return p
