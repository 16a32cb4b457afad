"""Linear regressions with a noise variance of their own: the normal-inverse-gamma model, from the linear model's sums.

With 1/sigma_a^2 ~ Gamma(nu/2, rate nu s2/2) and theta_a ~ N(mu, sigma_a^2 Lambda0^-1), Lambda0 = s2 diag(1/tau2), the
posterior of an arm is of the same kind (Gelman et al. 2014, section 14.8)::

    Lambda = Lambda0 + A,   m = Lambda^-1 (Lambda0 mu + b),   nu_n = nu + n
    nu_n s2_n = nu s2 + c - 2 m'b + m'A m + (m - mu)' Lambda0 (m - mu)

and x^T theta_a is Student t with nu_n degrees of freedom around x^T m, of scale sqrt(s2_n x^T Lambda^-1 x) and standard
deviation scale sqrt(nu_n/(nu_n - 2)). The mean is the linear model's: an arm whose rewards vary less than others' is
surer, and little data are doubted more. Thompson sampling's probabilities are in policies/thompson_student.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import polygamma

from policies.gaussian import ArmPosterior, linear_posterior
from policies.linear_bayes import ROUNDS, fit_linear
from policies.prior import StudentPrior
from policies.scale import NU, telling

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policies.sums import Effective

START_DOF = 10.0
"""Degrees of freedom where too few arms tell: noise variances then differ by a factor of 1.6 or less, mostly."""
LEAST_DOF, MOST_DOF = 4.0, 1e4
"""Between these the fitted value lies: below, widths are wild; above, the law is normal to all digits that matter."""
TELLING_ROWS = 10.0
"""Degrees of freedom of its residuals that an arm needs to tell about the spread of the noise."""


def student_posterior(prior: StudentPrior, effective: Effective) -> ArmPosterior:
    """Mean, factor of the covariance, and degrees of freedom of one arm; b (d,) and A (d, d) as they count now.

    Where delays leave more reward than n_eff explains, squares are not counted below zero.

    Raises:
        ValueError: prior and sums have different dimensions.

    >>> import numpy as np
    >>> from policies.sums import Effective
    >>> prior = StudentPrior(mean=np.array([0.0]), tau2=np.array([1.0]), s2=1.0, dof=6.0)
    >>> seen = Effective(n_eff=3.0, count=3.0, reward=3.0, square=3.0, b=np.array([3.0]), A=np.array([[3.0]]))
    >>> found = student_posterior(prior, seen)  # 9 s2_n = 6 + 3 - 9/4, so V = s2_n/4 * 9/7
    >>> found.mean.tolist(), round(float(found.factor[0, 0] ** 2), 6), found.dof
    ([0.75], 0.241071, 9.0)
    """
    normal = linear_posterior(prior.normal, effective)
    dof = prior.dof + max(effective.n_eff, 0.0)
    if normal.alarm or not np.isfinite((effective.square, dof)).all():
        return unseen_student(prior, alarm=True)
    away = normal.mean - prior.mean
    squares = max(_residual(normal, effective) + prior.s2 * float(away @ (away / prior.tau2)), 0.0)
    ratio = (prior.dof + squares / prior.s2) / dof  # s2_n/s2
    factor = np.sqrt(ratio * dof / (dof - 2.0)) * normal.factor
    return ArmPosterior(mean=normal.mean, factor=factor, dof=dof)


def unseen_student(prior: StudentPrior, *, alarm: bool = False) -> ArmPosterior:
    """What is believed of an arm without rows.

    >>> import numpy as np
    >>> unseen_student(StudentPrior(mean=np.zeros(1), tau2=np.ones(1), s2=1.0, dof=4.0)).factor.round(4).tolist()
    [[1.4142]]
    """
    factor = np.diag(np.sqrt(prior.tau2 * prior.dof / (prior.dof - 2.0)))
    return ArmPosterior(mean=prior.mean, factor=factor, dof=prior.dof, alarm=alarm)


def _residual(normal: ArmPosterior, effective: Effective) -> float:
    """Sum of squared residuals, c - 2 m'b + m'A m."""
    return float(effective.square - 2.0 * normal.mean @ effective.b + normal.mean @ effective.A @ normal.mean)


def fit_student(
    effective: Mapping[str, Effective],
    start: StudentPrior | None = None,
    *,
    dimension: int,
    intercept: int | None = None,
) -> StudentPrior:
    """mu0, T and s2 as `fit_linear` in three rounds throughout (its heavy tails explore early by themselves), and degrees of freedom from how much the arms' noise variances differ.

    By moments of log variances (Smyth 2004, section 6.1): with residual variances s_a^2 on d_a = n_a - tr(A_a V_a)/s2
    degrees of freedom, to which one of s2 is added, z_a = log s_a^2 - psi(d_a/2) + log(d_a/2) varies between arms by
    psi'(nu/2) beyond mean psi'(d_a/2). Shrunk to the start's psi'(nu/2) with the weight of 4 arms, and nu between 4 and 1e4.

    Raises:
        ValueError: `intercept` is not an index below d, or `start` has another length.

    >>> fit_student({}, dimension=1, intercept=0).dof
    10.0
    """
    begin = None if start is None else start.normal
    normal = fit_linear(effective, begin, dimension=dimension, intercept=intercept, early_rounds=ROUNDS)
    dof = START_DOF if start is None else start.dof
    logs, noise = [], []
    for arm in telling(effective):
        found = linear_posterior(normal, arm)
        used = float(np.einsum("ij,kj,ki->", arm.A, found.factor, found.factor)) / normal.s2
        d = arm.n_eff - used + 1.0
        variance = (max(_residual(found, arm), 0.0) + normal.s2) / d
        if d > TELLING_ROWS and np.isfinite(variance) and not found.alarm:
            logs.append(np.log(variance) - float(polygamma(0, d / 2)) + np.log(d / 2))
            noise.append(float(polygamma(1, d / 2)))
    if len(logs) > 1:
        differ = max(float(np.var(logs, ddof=1)) - float(np.mean(noise)), 0.0)
        pooled = (len(logs) * differ + NU * float(polygamma(1, dof / 2))) / (len(logs) + NU)
        dof = min(max(2.0 * inverse_trigamma(pooled), LEAST_DOF), MOST_DOF)
    return StudentPrior(mean=normal.mean, tau2=normal.tau2, s2=normal.s2, dof=dof)


def inverse_trigamma(value: float) -> float:
    """The y with psi'(y) = value, above zero, by Newton's method from below (Smyth 2004, appendix).

    >>> round(inverse_trigamma(float(polygamma(1, 3.5))), 9)
    3.5
    """
    y = 0.5 + 1.0 / value
    for _ in range(50):
        at = float(polygamma(1, y))
        step = at * (1.0 - at / value) / float(polygamma(2, y))
        y += step
        if abs(step) < 1e-10 * y:
            break
    return y
