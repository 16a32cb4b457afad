"""Thompson sampling's probabilities for arms with Student t laws, by quadrature.

p_a = int f_a(u) prod_{b != a} F_b(u) du with the densities f and distribution functions F of mean + scale t_dof, by
composite Gauss-Legendre with 4 points an interval in equal steps of v, u = m0 + r s0 sinh(v/r): as wide as an arm's scale
where arms compete, and lengthening outwards as the tails do. m0 is the largest center, s0 the narrowest scale, and
r = STRETCH sqrt(the least degrees of freedom). (With r = sqrt(nu) a t density is a power of 1/cosh in v, but the product
of many distribution functions is steeper than each.) No step is longer than STEP of an arm's scale at its center. Where
these are more than FEW and more than intervals between mean_a + scale_a OFFSETS, those are taken; edges nearer than
THINNED of the narrowest scale to the one before are left out of them.

Draws beyond the 1e-8 quantiles are not looked for; an arm that is the largest with a chance below 1e-6 gets zero, as in
policies/thompson.py. Before that the error is below 2e-6 for up to 50 arms. Distribution functions: policies/student_t.py.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from policies.student_t import below, cdf, log_constant, reach
from policies.thompson import NEGLIGIBLE, gauss_legendre, unit_rule

if TYPE_CHECKING:
    from policies.batch import FloatArray

REACH = 5.6
"""Normal deviate of draws that are not looked for."""

PRUNE = 4.9
"""Deviates of the levels that a good arm hardly falls below, and that others then hardly exceed: with 3e-7 each."""

STRETCH, STEP, FEW = 1.5, 1.0, 40
"""Where steps of v begin to lengthen, in sqrt(nu0); equal steps, in an arm's own scale; and the number thought few."""

THINNED = 0.8
"""Least distance of two edges, in the narrowest scale."""

CROWD, MISSED = 8, 1e-7
"""Arms among which a higher lower end is looked for, and the chance of what lies below it."""

_COARSE = np.linspace(0.0, 1.0, 17)
_SIDE = (0.75, 1.5, 2.5, 3.75, 5.5, 8.0, 12.0, 20.0, 40.0, 90.0, 250.0)
OFFSETS = np.array([-offset for offset in reversed(_SIDE)] + [0.0, *_SIDE])


def thompson_student(mean: FloatArray, sd: FloatArray, dof: FloatArray) -> FloatArray:
    """(K,) probability that each of independent Student t draws is the largest; sums to one.

    Args:
        mean: (K,) centers.
        sd: (K,) standard deviations, zero or more: scale = sd sqrt((dof - 2)/dof). Zero is a point mass.
        dof: (K,) degrees of freedom, above 2.

    >>> import numpy as np
    >>> thompson_student(np.array([0.0, 0.0]), np.array([1.0, 2.0]), np.array([5.0, 9.0])).round(6).tolist()
    [0.5, 0.5]
    """
    raw = raw_thompson_student(mean, scale_of(sd, dof), dof)
    raw[raw < NEGLIGIBLE] = 0.0
    p: FloatArray = raw / raw.sum()
    return p


def scale_of(sd: FloatArray, dof: FloatArray) -> FloatArray:
    """(..., K) scales of Student t laws with these standard deviations, sd sqrt((dof - 2)/dof).

    >>> scale_of(np.array([1.0]), np.array([4.0])).round(4).tolist()
    [0.7071]
    """
    scale: FloatArray = sd * np.sqrt((dof - 2.0) / dof)
    return scale


def raw_thompson_student(mean: FloatArray, scale: FloatArray, dof: FloatArray) -> FloatArray:
    """`thompson_student` before negligible arms are dropped and the sum is made one; `scale` is that of t.

    >>> import numpy as np
    >>> round(float(raw_thompson_student(np.array([0.0, 1.0]), np.ones(2), np.full(2, 6.0)).sum()), 5)
    1.0
    """
    p = np.zeros(len(mean))
    kept = student_contenders(mean, scale, dof)
    if len(kept) == 1:
        p[kept] = 1.0
        return p
    m, s, nu = mean[kept], scale[kept], dof[kept]
    fixed = s == 0.0
    if not fixed.any():
        p[kept] = _integrals(m, s, nu, above=-np.inf)
        return p
    top = float(m[fixed].max())
    tied, free = fixed & (m == top), ~fixed
    part = np.zeros(len(kept))
    part[tied] = np.prod(cdf((top - m[free]) / s[free], nu[free])) / np.count_nonzero(tied)
    if free.any():
        part[free] = _integrals(m[free], s[free], nu[free], above=top)
    p[kept] = part
    return p


def student_contenders(mean: FloatArray, scale: FloatArray, dof: FloatArray) -> npt.NDArray[np.intp]:
    """Indices of the arms that may be the largest: whose likely upper end lies above all others' likely lower ends.

    >>> student_contenders(np.array([0.0, 1.0, 0.9]), np.full(3, 0.05), np.full(3, 30.0)).tolist()
    [1, 2]
    """
    ends = scale * reach(PRUNE, dof)
    kept: npt.NDArray[np.bool_] = mean + ends >= (mean - ends).max()
    return kept.nonzero()[0]


def _integrals(m: FloatArray, s: FloatArray, nu: FloatArray, *, above: float) -> FloatArray:
    """(K,) integrals of f_a prod F_b over u > `above`, all scales positive."""
    p = np.zeros(len(m))
    ends = s * reach(REACH, nu)
    lo, hi = max(float((m - ends).max()), above), float((m + ends).max())
    if hi <= lo:
        return p
    if len(m) < CROWD:
        return _summed(m, s, nu, *_nodes(m, s, nu, lo, hi))
    lo = _raised(m, s, nu, lo, hi)
    kept = np.flatnonzero(m + s * reach(PRUNE, nu) >= lo)  # the largest draw lies above lo all but surely
    if not len(kept):
        return p
    m, s, nu = m[kept], s[kept], nu[kept]
    p[kept] = _summed(m, s, nu, *_nodes(m, s, nu, lo, hi))
    return p


def _summed(m: FloatArray, s: FloatArray, nu: FloatArray, u: FloatArray, weights: FloatArray) -> FloatArray:
    """(K,) sums over nodes u (q,) of weight f_a(u) prod_{b != a} F_b(u)."""
    constant = log_constant(nu) - np.log(s)
    m, s, nu = m[:, None], s[:, None], nu[:, None]
    z = (u - m) / s
    log_ratio = np.log1p(z * z / nu)
    under = below(z, log_ratio, nu)
    log_ratio *= -0.5 * (nu + 1.0)
    log_ratio += constant[:, None]
    density = np.exp(log_ratio, out=log_ratio)
    density /= under
    p: FloatArray = density @ (under.prod(axis=0) * weights)
    return p


def _raised(m: FloatArray, s: FloatArray, nu: FloatArray, lo: float, hi: float) -> float:
    """A higher lower end that the largest draw, already of the CROWD best arms', lies above but for a chance of MISSED."""
    some = m.argpartition(-CROWD)[-CROWD:]
    m, s, nu = m[some], s[some], nu[some]
    m0, width = float(m.max()), float(s.min())
    first, last = (math.asinh((end - m0) / width) for end in (lo, hi))
    levels = m0 + width * np.sinh(first + (last - first) * _COARSE)
    z = (levels - m[:, None]) / s[:, None]
    nu = nu[:, None]
    sure = below(z, np.log1p(z * z / nu), nu).prod(axis=0) < MISSED
    return float(levels[max(int(np.count_nonzero(sure)) - 1, 0)])


def _nodes(m: FloatArray, s: FloatArray, nu: FloatArray, lo: float, hi: float) -> tuple[FloatArray, FloatArray]:
    """Nodes and weights between lo and hi, (q,) each: equal steps of v, or between edges if those would be many."""
    m0, s0, root = float(m.max()), float(s.min()), STRETCH * math.sqrt(float(nu.min()))
    width = s0 * root
    first, last = (root * math.asinh((end - m0) / width) for end in (lo, hi))
    away = (np.minimum(np.maximum(m, lo), hi) - m0) / width
    step = (
        STEP * float((s / np.sqrt(1.0 + away * away)).min()) / s0
    )  # du/dv = s0 cosh(v/r), the root at an arm's center
    steps = (last - first) / step
    if steps > FEW:
        edges = _edges(m, s, lo, hi)
        if steps >= len(edges) - 1:
            return gauss_legendre(edges)
    unit, weights = unit_rule(math.ceil(steps))
    v = (first + (last - first) * unit) / root
    return m0 + width * np.sinh(v), (last - first) * s0 * weights * np.cosh(v)


def _edges(m: FloatArray, s: FloatArray, lo: float, hi: float) -> FloatArray:
    points = np.unique((m[:, None] + s[:, None] * OFFSETS).ravel())
    points = points[(points > lo) & (points < hi)]
    cell = np.floor((points - lo) / (THINNED * float(s.min())))
    first = np.ones(len(points), np.bool_)
    np.not_equal(cell[1:], cell[:-1], out=first[1:])
    return np.concatenate(([lo], points[first], [hi]))
