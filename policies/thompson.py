"""Thompson sampling's probabilities by quadrature: how likely each arm's draw is the largest.

Independent arms with densities f_a and distribution functions F_a::

    p_a = int f_a(u) prod_{b != a} F_b(u) du

by composite Gauss-Legendre with 4 points an interval. Intervals are equal steps of 1.25 of the narrowest
arm's sd where these are few, which they are unless widths differ much; else they lie between mu_a + {0, +-1, +-2, +-3,
+-4.5, +-6} s_a. (Between {+-1, +-3, +-6} alone the error is 1% of p with 50 arms that are nearly alike: the product of
their distribution functions is steeper than each.) An arm that is the largest with a chance below 1e-6 gets zero.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr, ndtr

if TYPE_CHECKING:
    from policies.batch import FloatArray

NEGLIGIBLE = 1e-6
"""Probabilities below are set to zero."""

REACH = 6.5
"""Standard deviations beyond which a normal draw is not looked for."""

PRUNE = 4.8
"""An arm 4.8 standard deviations of the difference below another exceeds it with the chance Phi(-4.8) = 8e-7."""

STEP, FEW = 1.25, 24
"""Equal steps, in the narrowest arm's standard deviations, and the number that is always thought few."""

CROWD, MISSED = 64, 1e-11
"""Arms among which a higher lower end is looked for, and the chance of what lies below it."""

_COARSE = np.linspace(0.0, 1.0, 9)
_OFFSETS = np.array([-6.0, -4.5, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.5, 6.0])
_INVERSE_ROOT_TWO_PI = 1.0 / math.sqrt(2.0 * math.pi)


def thompson(mean: FloatArray, sd: FloatArray) -> FloatArray:
    """(K,) probability that each of independent N(mean, sd^2) is the largest; sums to one.

    Arms with sd = 0 are point masses: of these only the largest can win, in equal parts where several are.

    >>> import numpy as np
    >>> thompson(np.array([0.0, 1.0]), np.array([1.0, 1.0])).round(5).tolist()  # Phi(-1/sqrt 2) = 0.23975
    [0.23975, 0.76025]
    >>> thompson(np.array([0.5, 0.5, 0.2]), np.zeros(3)).tolist()
    [0.5, 0.5, 0.0]
    """
    raw = raw_thompson(mean, sd)
    raw[raw < NEGLIGIBLE] = 0.0
    p: FloatArray = raw / raw.sum()
    return p


def raw_thompson(mean: FloatArray, sd: FloatArray) -> FloatArray:
    """`thompson` before negligible arms are dropped and the sum is made one; the sum tells the quadrature's error.

    >>> import numpy as np
    >>> round(float(raw_thompson(np.array([0.0, 1.0]), np.ones(2)).sum()), 5)
    1.0
    """
    p = np.zeros(len(mean))
    if len(mean) == 1:
        p[0] = 1.0
        return p
    kept = contenders(mean, sd)
    if len(kept) == 1:
        p[kept] = 1.0
        return p
    m, s = mean[kept], sd[kept]
    fixed = s == 0.0
    if not fixed.any():
        p[kept] = _normal(m, s)
        return p
    top = m[fixed].max()
    tied = fixed & (m == top)
    free = ~fixed
    part = np.zeros(len(kept))
    below = np.exp(log_ndtr((top - m[free]) / s[free]).sum())
    part[tied] = below / np.count_nonzero(tied)
    if free.any():
        part[free] = _normal(m[free], s[free], above=float(top))
    p[kept] = part
    return p


def contenders(mean: FloatArray, sd: FloatArray) -> npt.NDArray[np.intp]:
    """Indices of the arms that may win, of (K,); see `contend`.

    >>> import numpy as np
    >>> contenders(np.array([0.0, 1.0, 0.9]), np.full(3, 0.1)).tolist()
    [1, 2]
    """
    rival = int((mean - 2.0 * sd).argmax())
    kept: npt.NDArray[np.bool_] = mean[rival] - mean <= PRUNE * np.sqrt(sd * sd + sd[rival] * sd[rival])
    return kept.nonzero()[0]


def contend(mean: FloatArray, sd: FloatArray) -> npt.NDArray[np.bool_]:
    """(..., K) whether an arm may win: not 4.8 standard deviations of the difference below a surely good one.

    >>> contend(np.array([0.0, 1.0, 0.9]), np.full(3, 0.1)).tolist()
    [False, True, True]
    """
    rival = (mean - 2.0 * sd).argmax(axis=-1, keepdims=True)
    top, width = np.take_along_axis(mean, rival, -1), np.take_along_axis(sd, rival, -1)
    kept: npt.NDArray[np.bool_] = top - mean <= PRUNE * np.sqrt(sd * sd + width * width)
    return kept


def _normal(m: FloatArray, s: FloatArray, above: float = -np.inf) -> FloatArray:
    """(K,) integrals of f_a prod F_b over u > `above`, all s positive."""
    lo = max(float((m - REACH * s).max()), above)
    hi = float((m + REACH * s).max())
    if hi <= lo:
        return np.zeros(len(m))
    if len(m) >= CROWD:
        lo = float(raised(m, s, np.asarray(lo), np.asarray(hi)))
    u, weights = _nodes(m, s, lo, hi)
    return integrals(u, weights, m, s)


def integrals(u: FloatArray, weights: FloatArray, m: FloatArray, s: FloatArray) -> FloatArray:
    """(..., K) sums over nodes u (..., q) of weight f_a(u) prod_{b != a} F_b(u); m, s (..., K), s above zero.

    The product without a is that of all divided by F_a; no node lies so low that an F_a is zero.

    >>> import numpy as np
    >>> u, weights = gauss_legendre(np.linspace(-6.0, 6.0, 20))
    >>> integrals(u, weights, np.zeros(2), np.ones(2)).round(5).tolist()
    [0.5, 0.5]
    """
    z = (u[..., None, :] - m[..., None]) / s[..., None]
    below = ndtr(z)
    z *= z
    z *= -0.5
    np.exp(z, out=z)
    z /= below
    p: FloatArray = (z @ (below.prod(axis=-2) * weights)[..., None])[..., 0]
    return p / s * _INVERSE_ROOT_TWO_PI


def raised(m: FloatArray, s: FloatArray, lo: FloatArray, hi: FloatArray) -> FloatArray:
    """(...,) higher lower ends where the largest of (..., K) arms lies above them all but surely: less with 1e-11.

    >>> import numpy as np
    >>> bool(raised(np.zeros(64), np.ones(64), np.asarray(-6.5), np.asarray(6.5)) > -2.0)
    True
    """
    u = lo[..., None] + (hi - lo)[..., None] * _COARSE
    sure = ndtr((u[..., None, :] - m[..., None]) / s[..., None]).prod(axis=-2) < MISSED
    higher: FloatArray = lo + (hi - lo) * _COARSE[np.maximum(np.count_nonzero(sure, axis=-1) - 1, 0)]
    return higher


def _nodes(m: FloatArray, s: FloatArray, lo: float, hi: float) -> tuple[FloatArray, FloatArray]:
    steps = (hi - lo) / (STEP * float(s.min()))
    if steps >= FEW:
        edges = breakpoints((m[:, None] + s[:, None] * _OFFSETS).ravel(), lo, hi)
        if steps >= len(edges) - 1:
            return gauss_legendre(edges)
    u, weights = unit_rule(int(np.ceil(steps)))
    return lo + (hi - lo) * u, (hi - lo) * weights


@lru_cache(maxsize=1024)
def unit_rule(steps: int) -> tuple[FloatArray, FloatArray]:
    """Nodes and weights, (4 steps,) each, of the 4-point rule in equal steps between 0 and 1."""
    return gauss_legendre(np.linspace(0.0, 1.0, steps + 1))


def breakpoints(points: FloatArray, lo: float, hi: float) -> FloatArray:
    """Sorted distinct points between lo and hi, with both ends.

    >>> import numpy as np
    >>> breakpoints(np.array([5.0, 1.0, 1.0]), 0.0, 2.0).tolist()
    [0.0, 1.0, 2.0]
    """
    inside = points[(points > lo) & (points < hi)]
    return np.unique(np.concatenate(([lo], inside, [hi])))


def gauss_legendre(edges: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Nodes and weights, (4 (e - 1),) each, of the 4-point rule between each two of (e,) edges.

    >>> import numpy as np
    >>> u, weights = gauss_legendre(np.array([0.0, 1.0, 3.0]))
    >>> round(float(weights @ u**7), 9)  # exact up to degree 7: 3^8/8
    820.125
    """
    points, weights = _rule()
    half = 0.5 * np.diff(edges)[:, None]
    middle = 0.5 * (edges[1:] + edges[:-1])[:, None]
    return (middle + half * points).ravel(), (half * weights).ravel()


@lru_cache(maxsize=1)
def _rule() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    points, weights = np.polynomial.legendre.leggauss(4)
    return points, weights
