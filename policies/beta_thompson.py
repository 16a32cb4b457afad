"""Thompson sampling's probabilities for arms with Beta posteriors, by quadrature.

p_a = int f_a(u) prod_{b != a} F_b(u) du over [0, 1] with Beta densities f and distribution functions F (the regularised
incomplete beta function), integrated over t = log(u/(1 - u)): there f(u) du = u^a (1 - u)^b / B(a, b) dt has no
singularity, whatever a and b are. The standard deviation of t is sqrt(psi'(a) + psi'(b)), its mean psi(a) - psi(b).
Intervals for the 4-point Gauss-Legendre rule are steps of the narrowest arm's sd where these are few, else they lie
between multiples of each arm's sd around its mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.special import betainc, betaincc, betaincinv, betaln, digamma, expit, logit, polygamma

from policies.thompson import NEGLIGIBLE, breakpoints, gauss_legendre

if TYPE_CHECKING:
    from policies.batch import FloatArray

MISSED = 1e-11
"""Chance of a draw outside the range that is integrated, on either side."""

UNLIKELY = 3e-7
"""Chance of a draw that is hardly ever seen."""

TINY = 1e-6
"""Levels below which 1 - level would lose digits."""

FEW, WIDEST = 64, 2.0
"""Number of equal steps that is always thought few, and the longest step: log(1 + e^t) bends within about 2."""

LEAST = 1e-300
"""Draws nearer to 0 or 1 are not looked for."""

_OFFSETS = np.array([-25.0, -15.0, -9.0, -6.0, -4.5, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.5, 6.0, 9.0, 15.0, 25.0])


def beta_moments(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation (K,) of Beta(a, b).

    >>> import numpy as np
    >>> [moment.round(4).tolist() for moment in beta_moments(np.array([1.0]), np.array([3.0]))]
    [[0.25], [0.1936]]
    """
    total = a + b
    mean = a / total
    return mean, np.sqrt(mean * (b / total) / (total + 1.0))


def thompson_beta(a: FloatArray, b: FloatArray, *, alpha: float = 1.0) -> FloatArray:
    """(K,) probability that each of independent Beta(a/alpha^2, b/alpha^2) draws is the largest; sums to one.

    Args:
        a, b: (K,) parameters, above zero.
        alpha: width of the exploration, above zero: the standard deviation grows by about alpha.

    >>> import numpy as np
    >>> thompson_beta(np.array([1.0, 2.0]), np.array([1.0, 1.0])).round(4).tolist()  # P(U < V), V of density 2v: 2/3
    [0.3333, 0.6667]
    """
    raw = raw_thompson_beta(a / alpha**2, b / alpha**2)
    raw[raw < NEGLIGIBLE] = 0.0
    p: FloatArray = raw / raw.sum()
    return p


def raw_thompson_beta(a: FloatArray, b: FloatArray) -> FloatArray:
    """`thompson_beta` before negligible arms are dropped and the sum is made one.

    >>> import numpy as np
    >>> round(float(raw_thompson_beta(np.array([1.0, 2.0]), np.ones(2)).sum()), 5)
    1.0
    """
    p = np.zeros(len(a))
    kept = beta_contenders(a, b)
    if len(kept) == 1:
        p[kept] = 1.0
        return p
    a, b = a[kept], b[kept]
    t, weights = gauss_legendre(_edges(a, b))
    a, b = a[:, None], b[:, None]
    log_below = np.log(np.maximum(betainc(a, b, expit(t)), MISSED))
    log_density = -a * np.logaddexp(0.0, -t) - b * np.logaddexp(0.0, t) - betaln(a, b)
    p[kept] = np.exp(log_density - log_below + log_below.sum(axis=0)) @ weights
    return p


def beta_contenders(a: FloatArray, b: FloatArray) -> npt.NDArray[np.intp]:
    """Indices of the arms that may be the largest: not those that hardly exceed what the best mean hardly falls below.

    >>> import numpy as np
    >>> beta_contenders(np.array([10.0, 500.0, 510.0]), np.array([990.0, 500.0, 490.0])).tolist()
    [1, 2]
    """
    rival = int((a / (a + b)).argmax())
    least = betaincinv(a[rival], b[rival], UNLIKELY)
    return np.flatnonzero(beta_above(a, b, least) >= UNLIKELY)


def beta_above(a: FloatArray, b: FloatArray, level: FloatArray) -> FloatArray:
    """Chance that a Beta(a, b) draw lies above a level; all broadcast together.

    As the chance that 1 - u ~ Beta(b, a) lies below 1 - level, which scipy does up to ten times faster, where 1 - level
    keeps enough digits.

    >>> import numpy as np
    >>> beta_above(np.array([1.0]), np.array([1.0]), np.array([0.75])).tolist()
    [0.25]
    """
    swapped = float(np.min(level, initial=1.0)) >= TINY
    p: FloatArray = betainc(b, a, 1.0 - level) if swapped else betaincc(a, b, level)
    return p


def _edges(a: FloatArray, b: FloatArray) -> FloatArray:
    lo = float(logit(np.maximum(betaincinv(a, b, MISSED), LEAST)).max())
    # 1 - u ~ Beta(b, a), and its quantile is exact where u itself would round to 1
    hi = -float(logit(np.maximum(betaincinv(b, a, MISSED), LEAST)).min())
    center, width = digamma(a) - digamma(b), np.sqrt(polygamma(1, a) + polygamma(1, b))
    steps = (hi - lo) / min(float(width.min()), WIDEST)
    if steps < max(len(a) * len(_OFFSETS), FEW):
        return np.linspace(lo, hi, max(int(np.ceil(steps)), 1) + 1)
    return breakpoints((center[:, None] + width[:, None] * _OFFSETS).ravel(), lo, hi)
