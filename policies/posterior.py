"""From prior and sums to what a decision needs: a mean, and a factor that gives the width for any context.

Linear: Lambda = diag(1/tau2) + A_eff/s2 and h = mu0/tau2 + b/s2; mean m = Lambda^-1 h, covariance V = Lambda^-1. With
Lambda = L L^T the factor is W = L^-1, lower triangular, and x^T V x = ||W x||^2. Beta: a = a0 + r and
b = b0 + max(n_eff - r, 0). Factorised once by the publisher, not by every reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from policies.gaussian import ArmPosterior, joint, linear_posterior
from policies.hybrid import hybrid_posterior
from policies.prior import AnyPrior, BetaPrior, HybridPrior, Prior, StudentPrior
from policies.student import student_posterior, unseen_student

if TYPE_CHECKING:
    from policies.sums import Effective

__all__ = ["ArmPosterior", "BetaPosterior", "beta_posterior", "linear_posterior", "posterior", "unseen"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BetaPosterior:
    """An arm's reward rate ~ Beta(a, b). `alarm`: the sums could not be used; this is the prior."""

    a: float
    b: float
    alarm: bool = False


def posterior(prior: AnyPrior, effective: Effective) -> ArmPosterior | BetaPosterior:
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
    if isinstance(prior, HybridPrior):
        return hybrid_posterior(prior, effective)
    if isinstance(prior, StudentPrior):
        return student_posterior(prior, effective)
    return linear_posterior(prior, effective)


def unseen(prior: Prior | HybridPrior | StudentPrior) -> ArmPosterior:
    """What is believed of an arm without rows.

    >>> unseen(Prior(mean=np.array([0.5]), tau2=np.array([4.0]), s2=1.0)).factor.tolist()
    [[2.0]]
    """
    if isinstance(prior, StudentPrior):
        return unseen_student(prior)
    own = np.diag(np.sqrt(prior.tau2))
    return ArmPosterior(mean=prior.mean, factor=own if isinstance(prior, Prior) else joint(prior.factor, own))


def beta_posterior(prior: BetaPrior, effective: Effective) -> BetaPosterior:
    """Beta(a0 + r, b0 + max(n_eff - r, 0)); the prior with an alarm if a sum is not finite or r is below -a0.

    >>> from policies.sums import Effective
    >>> beta_posterior(BetaPrior(a=1.0, b=9.0), Effective(n_eff=10.0, count=10.0, reward=2.0, square=2.0))
    BetaPosterior(a=3.0, b=17.0, alarm=False)
    """
    a = prior.a + effective.reward
    b = prior.b + max(effective.n_eff - effective.reward, 0.0)
    if not (0.0 < a < np.inf and 0.0 < b < np.inf):
        return BetaPosterior(a=prior.a, b=prior.b, alarm=True)
    return BetaPosterior(a=a, b=b)
