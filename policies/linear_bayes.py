"""Empirical Bayes for arms with a regression each: theta_a ~ N(mu0, T) with diagonal T and noise s2.

By rounds of expectation-maximisation (Morris 1983), shrunk to a start on the scale of the observed rate pbar with
the weight of nu = 4 arms: a wide start misleads for a long time. While arms have few rows the rounds converge slowly (at the rate of
the missing information: Dempster, Laird & Rubin 1977, section 3), and three of them leave the prior too wide, which explores
too much just when many arms are open; so ten are made until there are EARLY_ROWS an arm.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from policies.prior import Prior
from policies.scale import Scale, beginning, check_start, pooled, scale_of, spread, telling

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policies.batch import FloatArray
    from policies.sums import Effective

ROUNDS, EARLY_ROUNDS = 3, 10
EARLY_ROWS = 50.0
"""Rows an arm, on average, below which EARLY_ROUNDS are made."""
PULL = 0.01
"""k: weight of the start value in the prior mean, in arms."""
LEAST_RATE = 1e-6
"""Rates nearer to 0 or 1 are taken for this where a logit is needed."""
NOISE_ROWS = 50.0
"""Weight of the start value in the noise, in rows."""


def fit_linear(
    effective: Mapping[str, Effective], start: Prior | None = None, *, dimension: int, intercept: int | None = None
) -> Prior:
    """Prior mean mu0 (d,), variances T and noise s2 from the K arms' A_eff, b, n_eff, c.

    Three times (ten, see the module), with V_a = (A_a/s2 + T^-1)^-1 and W_a = T^-1 - T^-1 V_a T^-1::

        mu0   = (sum W_a + k T^-1)^-1 (sum T^-1 V_a b_a / s2 + k T^-1 mu_start)
        m_a   = V_a (b_a/s2 + T^-1 mu0),   E_a = (m_a - mu0)^2 + diag V_a
        tau_b^2 = (sum E_a,intercept + nu (0.5 pbar)^2) / (K + nu)
        tau_w^2 = (sum E_a,others + nu (0.3 pbar)^2) / (K (d - 1) + nu)
        s2    = (sum [c_a - 2 m_a'b_a + m_a'A_a m_a + tr(A_a V_a)] + 50 var) / (sum n_a + 50)

    var is pbar (1 - pbar), or c/n - (r/n)^2 for rewards that are not 0/1. Arms that were never shown tell nothing and
    are left out, and so are sums that are not finite. A round that float64 cannot do ends the rounds: one arm with contexts
    of 1e30 must not stop all others.

    Args:
        effective: the arms as they count now, each with b (d,) and A (d, d).
        start: where the rounds start and what mu0 is pulled to; None is `start_linear`.
        dimension: d.
        intercept: index of the context's constant. None treats all components alike: one variance for all, which starts
            at (0.5 pbar)^2, and a prior mean that starts at zero.

    Raises:
        ValueError: `intercept` is not an index below d, or `start` has another length.

    >>> import numpy as np
    >>> from policies.sums import Effective
    >>> def arm(mean):
    ...     return Effective(n_eff=1000.0, count=1000.0, reward=1000 * mean, square=1000 * (mean**2 + 1),
    ...         b=np.array([1000 * mean]), A=np.array([[1000.0]]))
    ...
    >>> prior = fit_linear({str(i): arm(mean) for i, mean in enumerate([1.0, 2.0, 3.0])}, dimension=1, intercept=0)
    >>> prior.mean.round(2).tolist(), round(prior.s2, 2)
    ([2.0], 1.01)
    """
    check_start(start, dimension=dimension, intercept=intercept)
    arms = telling(effective)
    scale = scale_of(arms)
    begin = beginning(scale, dimension, intercept) if start is None else start
    if not arms:
        return begin
    early = sum(arm.n_eff for arm in arms) < EARLY_ROWS * len(arms)
    return _rounds(arms, begin, scale, intercept, rounds=EARLY_ROUNDS if early else ROUNDS)


def fit_logistic(
    effective: Mapping[str, Effective], start: Prior | None = None, *, dimension: int, intercept: int | None = None
) -> Prior:
    """Prior mean mu0 and variances T of logistic arms, on the logit scale, from their H and u (policies/logistic.py).

    As `fit_linear` with A = H, b = u and s2 = 1, which H and u are made for. mu0 starts at the logit of the arms'
    common rate (at the intercept; zero without one), tau at 0.5 and 0.3: on the logit scale a rate's relative spread.

    >>> fit_logistic({}, dimension=2, intercept=0).tau2.tolist()
    [0.25, 0.09]
    """
    check_start(start, dimension=dimension, intercept=intercept)
    arms = telling(effective)
    unit = Scale(1.0, 1.0)
    if start is None:
        mean = np.zeros(dimension)
        if intercept is not None:
            rate = min(max(scale_of(arms).rate, LEAST_RATE), 1.0 - LEAST_RATE)
            mean[intercept] = np.log(rate / (1.0 - rate))
        start = Prior(mean=mean, tau2=spread(unit, dimension, intercept), s2=1.0)
    return _rounds(arms, start, unit, intercept, rounds=ROUNDS, s2=1.0) if arms else start


def _rounds(
    arms: list[Effective], begin: Prior, scale: Scale, intercept: int | None, *, rounds: int, s2: float | None = None
) -> Prior:
    """Rounds from `begin`, with the noise fitted too unless it is given."""
    prior = begin
    for _ in range(rounds):
        further = _further(arms, prior, begin.mean, scale, intercept)
        if further is None:
            break
        prior = further if s2 is None else replace(further, s2=s2)
    return prior


def start_linear(effective: Mapping[str, Effective], *, dimension: int, intercept: int | None = None) -> Prior:
    """Prior before anything is learned: mu0 = (p0, 0, ...), tau = (0.5 p0, 0.3 p0, ...), s2 = p0 (1 - p0).

    p0 is the arms' common rate; without a reward, or without anything else, it is the add-one rate (r + 1)/(n + 2).

    >>> prior = start_linear({}, dimension=2, intercept=0)
    >>> prior.mean.tolist(), prior.tau2.round(4).tolist(), prior.s2
    ([0.5, 0.0], [0.0625, 0.0225], 0.25)
    """
    return beginning(scale_of(telling(effective)), dimension, intercept)


def _further(
    arms: list[Effective], prior: Prior, pull: FloatArray, scale: Scale, intercept: int | None
) -> Prior | None:
    """The next round's prior; None where the sums' sizes lie too far apart for float64 to tell one."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            return _round(arms, prior, pull, scale, intercept)
    except (np.linalg.LinAlgError, ValueError):  # singular, or a prior that is not finite
        return None


def _round(arms: list[Effective], prior: Prior, pull: FloatArray, scale: Scale, intercept: int | None) -> Prior:
    A = np.stack([arm.A for arm in arms])
    b = np.stack([arm.b for arm in arms])
    n = np.array([arm.n_eff for arm in arms])
    square = np.array([arm.square for arm in arms])
    precision = 1.0 / prior.tau2
    V = np.linalg.inv(A / prior.s2 + np.diag(precision))
    W = np.diag(precision) * len(arms) - precision[:, None] * V.sum(axis=0) * precision
    told = precision * np.einsum("aij,aj->i", V, b) / prior.s2
    mean = np.linalg.solve(W + PULL * np.diag(precision), told + PULL * precision * pull)
    m = np.einsum("aij,aj->ai", V, b / prior.s2 + precision * mean)
    E = (m - mean) ** 2 + np.einsum("aii->ai", V)
    fitted = np.einsum("ai,aij,aj->a", m, A, m) - 2.0 * np.einsum("ai,ai->a", m, b)
    residual = (square + fitted + np.einsum("aij,aji->a", A, V)).sum()
    s2 = (residual + NOISE_ROWS * scale.variance) / (n.sum() + NOISE_ROWS)
    return Prior(mean=mean, tau2=pooled(E, scale, intercept), s2=max(float(s2), 1e-3 * scale.variance))
