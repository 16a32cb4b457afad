"""From prior and sums to what a decision needs: a mean, and a factor that gives the width for any context.

Linear: Lambda = diag(1/tau2) + A_eff/s2 and h = mu0/tau2 + b/s2; mean m = Lambda^-1 h, covariance V = Lambda^-1. With
Lambda = L L^T the factor is W = L^-1, lower triangular, and x^T V x = ||W x||^2. Beta: a = a0 + r and
b = b0 + max(n_eff - r, 0). Factorised once by the publisher, not by every reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import lapack

from policies.prior import BetaPrior, Prior

if TYPE_CHECKING:
    from policies.batch import FloatArray
    from policies.sums import Effective

JITTERS = (0.0, 1e-9, 1e-8, 1e-7, 1e-6)
"""What is added to the diagonal in turn, in units of tr(Lambda)/d, until a factor exists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmPosterior:
    """theta ~ N(mean, V) with x^T V x = ||factor x||^2.

    Attributes:
        mean: (d,) posterior mean.
        factor: (d, d) lower triangular.
        alarm: the sums could not be used (not finite, or not positive definite in spite of jitter); this is the prior.
    """

    mean: FloatArray
    factor: FloatArray
    alarm: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BetaPosterior:
    """An arm's reward rate ~ Beta(a, b). `alarm`: the sums could not be used; this is the prior."""

    a: float
    b: float
    alarm: bool = False


def posterior(prior: Prior | BetaPrior, effective: Effective) -> ArmPosterior | BetaPosterior:
    """Posterior of one arm.

    >>> import numpy as np
    >>> from policies.sums import Effective
    >>> prior = Prior(mean=np.array([0.0]), tau2=np.array([1.0]), s2=1.0)
    >>> seen = Effective(n_eff=3.0, count=3.0, reward=3.0, square=3.0, b=np.array([3.0]), A=np.array([[3.0]]))
    >>> found = posterior(prior, seen)
    >>> found.mean.tolist(), found.factor.tolist()
    ([0.75], [[0.5]])
    >>> posterior(BetaPrior(a=1.0, b=1.0), seen)
    BetaPosterior(a=4.0, b=1.0, alarm=False)
    """
    if isinstance(prior, BetaPrior):
        return beta_posterior(prior, effective)
    return linear_posterior(prior, effective)


def beta_posterior(prior: BetaPrior, effective: Effective) -> BetaPosterior:
    """Beta(a0 + r, b0 + max(n_eff - r, 0)); the prior with an alarm if a sum is not finite or r is below -a0."""
    a = prior.a + effective.reward
    b = prior.b + max(effective.n_eff - effective.reward, 0.0)
    if not (0.0 < a < np.inf and 0.0 < b < np.inf):
        return BetaPosterior(a=prior.a, b=prior.b, alarm=True)
    return BetaPosterior(a=a, b=b)


def linear_posterior(prior: Prior, effective: Effective) -> ArmPosterior:
    """Mean and factor of one arm; b (d,) and A (d, d) as they count now.

    Raises:
        ValueError: prior and sums have different dimensions.
    """
    d = len(prior.mean)
    if effective.b.shape != (d,) or effective.A.shape != (d, d):
        raise ValueError(
            f"the prior has {d} components, b {effective.b.shape} and A {effective.A.shape}; all must agree"
        )
    precision = effective.A / prior.s2 + np.diag(1.0 / prior.tau2)
    h = effective.b / prior.s2 + prior.mean / prior.tau2
    factor = _inverse_factor(precision) if np.isfinite(h).all() else None
    if factor is not None:
        mean = factor.T @ (factor @ h)
        if np.isfinite(mean).all():
            return ArmPosterior(mean=mean, factor=factor)
    return ArmPosterior(mean=prior.mean, factor=np.diag(np.sqrt(prior.tau2)), alarm=True)


def _inverse_factor(precision: FloatArray) -> FloatArray | None:
    """L^-1 of the Cholesky factor, with the least jitter that gives one; None if none does."""
    if not np.isfinite(precision).all():
        return None
    unit = np.trace(precision) / len(precision)
    for jitter in JITTERS:
        lower, failed = lapack.dpotrf(precision + jitter * unit * np.eye(len(precision)), lower=1, clean=1)
        if not failed:
            factor, failed = lapack.dtrtri(lower, lower=1)
            if not failed and np.isfinite(factor).all():
                return np.ascontiguousarray(factor)
    return None
