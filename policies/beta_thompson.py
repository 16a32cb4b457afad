"""Thompson sampling's probabilities for arms with Beta posteriors, by quadrature.

p_a = int f_a(u) prod_{b != a} F_b(u) du over [0, 1] with Beta densities f and distribution functions F (the regularised
incomplete beta function), integrated over t = log(u/(1 - u)): there f(u) du = u^a (1 - u)^b / B(a, b) dt has no
singularity, whatever a and b are, and falls off at least as fast as exp(-a |t|) and exp(-b t). Mean and variance of t are
psi(a) - psi(b) and psi'(a) + psi'(b); breakpoints lie at multiples of that standard deviation, out to 25 for the
exponential tails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import betaincinv, betaln, digamma, polygamma
from scipy.stats import beta as beta_law

from policies.thompson import NEGLIGIBLE, breakpoints, gauss_legendre

if TYPE_CHECKING:
    from policies.batch import FloatArray

_TAIL = np.array([1.0, 2.0, 3.0, 4.5, 6.0, 9.0, 12.0, 18.0, 25.0])
_OFFSETS = np.concatenate([-_TAIL[::-1], [0.0], _TAIL])


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
    """`thompson_beta` before negligible arms are dropped and the sum is made one."""
    p = np.zeros(len(a))
    rival = int((a / (a + b)).argmax())
    least = betaincinv(a[rival], b[rival], 3e-7)  # an arm that hardly ever exceeds this can hardly win
    kept = np.flatnonzero(beta_law.sf(least, a, b) >= 3e-7)
    if len(kept) == 1:
        p[kept] = 1.0
        return p
    a, b = a[kept], b[kept]
    center, width = digamma(a) - digamma(b), np.sqrt(polygamma(1, a) + polygamma(1, b))
    points = center[:, None] + width[:, None] * _OFFSETS
    t, weights = gauss_legendre(breakpoints(points.ravel(), float(points[:, 0].max()), float(points[:, -1].max())))
    log_u, log_v = -np.logaddexp(0.0, -t), -np.logaddexp(0.0, t)
    log_below = beta_law.logcdf(np.exp(log_u), a[:, None], b[:, None])
    log_density = a[:, None] * log_u + b[:, None] * log_v - betaln(a, b)[:, None]
    with np.errstate(invalid="ignore"):  # -inf - -inf where no draw reaches: the integrand is zero there
        log_rivals = np.nan_to_num(log_below.sum(axis=0) - log_below, nan=-np.inf)
    p[kept] = np.exp(log_density + log_rivals) @ weights
    return p
