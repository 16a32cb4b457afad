"""Empirical Bayes: prior and noise estimated from all arms together, so that a posterior's width can be believed.

Linear: theta_a ~ N(mu0, T) with diagonal T and noise s2, by three rounds of expectation-maximisation (Morris
1983; the formulas are at `fit_linear`). Beta: method of moments over arms (Kleinman 1973).
Both shrink to a start on the scale of the observed rate pbar, with the weight of nu = 4 arms: a wide start misleads for
a long time. Given an earlier prior as `start`, rounds go on from it, and what the data do not tell stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from policies.prior import BetaPrior, Prior

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policies.batch import FloatArray
    from policies.sums import Effective

__all__ = ["BetaPrior", "Prior", "fit", "fit_beta", "fit_linear", "start_linear"]

ROUNDS = 3
PULL = 0.01
"""k: weight of the start value in the prior mean, in arms."""
NU = 4.0
"""Weight of the start value in the prior variances, in arms."""
NOISE_ROWS = 50.0
"""Weight of the start value in the noise, in rows."""
BIAS_SPREAD, SLOPE_SPREAD = 0.5, 0.3
"""Start of the prior's standard deviations, as shares of the observed rate."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Size of the rewards over all arms: pbar (their rate), and the pooled variance of one reward."""

    rate: float
    variance: float


def fit(
    effective: Mapping[str, Effective],
    start: Prior | BetaPrior | None = None,
    *,
    model: str,
    dimension: int,
    intercept: int | None = None,
) -> Prior | BetaPrior:
    """Prior of the model's arms: `fit_linear` or `fit_beta`, by the model's name.

    Raises:
        ValueError: no such model, or a start of another model.

    >>> fit({}, model="beta", dimension=0)
    BetaPrior(a=1.0, b=1.0)
    """
    if model == "linear" and not isinstance(start, BetaPrior):
        return fit_linear(effective, start, dimension=dimension, intercept=intercept)
    if model == "beta" and not isinstance(start, Prior):
        return fit_beta(effective, start)
    raise ValueError(
        f"cannot fit a prior for model {model!r} from a start of type {type(start).__name__}; models: beta, linear"
    )


def fit_linear(
    effective: Mapping[str, Effective], start: Prior | None = None, *, dimension: int, intercept: int | None = None
) -> Prior:
    """Prior mean mu0 (d,), variances T and noise s2 from the K arms' A_eff, b, n_eff, c.

    Three times, with V_a = (A_a/s2 + T^-1)^-1 and W_a = T^-1 - T^-1 V_a T^-1::

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
    """
    if intercept is not None and not 0 <= intercept < dimension:
        raise ValueError(f"intercept = {intercept}: must be the index of a component, 0 to {dimension - 1}, or None")
    if start is not None and len(start.mean) != dimension:
        raise ValueError(
            f"start has {len(start.mean)} components, the contexts have {dimension}; start from None instead"
        )
    arms = _telling(effective)
    scale = _scale(arms)
    begin = _start(scale, dimension, intercept) if start is None else start
    if not arms:
        return begin
    prior = begin
    for _ in range(ROUNDS):
        further = _further(arms, prior, begin.mean, scale, intercept)
        if further is None:
            break
        prior = further
    return prior


def start_linear(effective: Mapping[str, Effective], *, dimension: int, intercept: int | None = None) -> Prior:
    """Prior before anything is learned: mu0 = (p0, 0, ...), tau = (0.5 p0, 0.3 p0, ...), s2 = p0 (1 - p0).

    p0 is the arms' common rate; without a reward, or without anything else, it is the add-one rate (r + 1)/(n + 2).

    >>> prior = start_linear({}, dimension=2, intercept=0)
    >>> prior.mean.tolist(), prior.tau2.round(4).tolist(), prior.s2
    ([0.5, 0.0], [0.0625, 0.0225], 0.25)
    """
    return _start(_scale(_telling(effective)), dimension, intercept)


def _telling(effective: Mapping[str, Effective]) -> list[Effective]:
    """Arms that tell something: shown, and with sums that can be used."""
    return [
        arm
        for arm in effective.values()
        if 0.0 < arm.n_eff < np.inf
        and np.isfinite((arm.reward, arm.square)).all()
        and np.isfinite(arm.b).all()
        and np.isfinite(arm.A).all()
    ]


def _start(scale: Scale, dimension: int, intercept: int | None) -> Prior:
    mean = np.zeros(dimension)
    if intercept is not None:
        mean[intercept] = scale.rate
    return Prior(mean=mean, tau2=_spread(scale, dimension, intercept), s2=scale.variance)


def _spread(scale: Scale, dimension: int, intercept: int | None) -> FloatArray:
    tau2 = np.full(dimension, ((BIAS_SPREAD if intercept is None else SLOPE_SPREAD) * scale.rate) ** 2)
    if intercept is not None:
        tau2[intercept] = (BIAS_SPREAD * scale.rate) ** 2
    return tau2


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
    return Prior(mean=mean, tau2=_pooled(E, scale, intercept), s2=max(float(s2), 1e-3 * scale.variance))


def _pooled(E: FloatArray, scale: Scale, intercept: int | None) -> FloatArray:
    """(d,) variances from (K, d) expected squares: the intercept's and one for all others, shrunk to their starts."""
    target = _spread(scale, E.shape[1], intercept)
    slopes = np.ones(E.shape[1], np.bool_)
    if intercept is not None:
        slopes[intercept] = False
    tau2 = np.empty(E.shape[1])
    for group in (slopes, ~slopes):
        if group.any():
            tau2[group] = (E[:, group].sum() + NU * target[group][0]) / (E[:, group].size + NU)
    return tau2


def _scale(arms: list[Effective]) -> Scale:
    """Rate and variance of rewards over all arms.

    Rewards are 0/1 exactly if their sum is that of their squares. For others the variance is c/n - (r/n)^2 and the rate
    is the root mean square over arms of the mean reward, without its noise: |r/n| where all arms are alike, the spread
    between them where the mean is near zero.
    """
    n = sum(arm.n_eff for arm in arms)
    reward, square = sum(arm.reward for arm in arms), sum(arm.square for arm in arms)
    if abs(square - reward) <= 1e-9 * square:
        rate = reward / n if 0.0 < reward < n else (reward + 1.0) / (max(n, reward) + 2.0)
        return Scale(rate, rate * (1.0 - rate))
    shown = max(n, 1.0)
    mean, second = reward / shown, square / shown
    variance = max(second - mean**2, 1e-6 * second)
    between = sum(arm.reward**2 / arm.n_eff for arm in arms) / shown - len(arms) * variance / shown
    return Scale(max(abs(mean), max(between, 0.0) ** 0.5, 1e-3 * variance**0.5), variance)


def fit_beta(effective: Mapping[str, Effective], start: BetaPrior | None = None) -> BetaPrior:
    """Beta(a, b) over the K arms' reward rates, by moments.

    With p_a = r_a/n_a, pbar = sum r/sum n and N = sum n, the spread S = sum n_a (p_a - pbar)^2 has the expectation
    pbar (1 - pbar) (K - 1) + tau2 (N - sum n_a^2/N - (K - 1)); solved for tau2, not below zero, and averaged with
    the start (0.5 min(pbar, 1 - pbar))^2, which has the weight of 4 arms. Then a + b = pbar (1 - pbar)/tau2 - 1.

    Args:
        effective: the arms as they count now; rewards lie in [0, 1].
        start: what to return without data; None is Beta(1, 1).

    >>> from policies.sums import Effective
    >>> def arm(reward):
    ...     return Effective(n_eff=1000.0, count=1000.0, reward=reward, square=reward)
    >>> arms = {"a": arm(10.0), "b": arm(20.0), "c": arm(30.0)}
    >>> prior = fit_beta(arms)
    >>> round(prior.a / (prior.a + prior.b), 4)
    0.02
    """
    arms = _telling(effective)
    if not arms:
        return BetaPrior(a=1.0, b=1.0) if start is None else start
    reward = np.array([max(arm.reward, 0.0) for arm in arms])
    n = np.maximum(np.array([arm.n_eff for arm in arms]), reward)
    total = float(n.sum())
    rate = float(reward.sum()) / total
    if not 0.0 < rate < 1.0:
        rate = (float(reward.sum()) + 1.0) / (total + 2.0)
    tau2 = _moments(reward / n, n, rate)
    start2 = (BIAS_SPREAD * min(rate, 1.0 - rate)) ** 2
    arms_told = 0.0 if tau2 is None else float(len(arms))
    variance = (arms_told * (tau2 or 0.0) + NU * start2) / (arms_told + NU)
    strength = max(rate * (1.0 - rate) / variance - 1.0, 1.0)
    return BetaPrior(a=rate * strength, b=(1.0 - rate) * strength)


def _moments(rates: FloatArray, n: npt.NDArray[np.float64], rate: float) -> float | None:
    """Between-arm variance of the rates, None where too little was seen to tell."""
    total = float(n.sum())
    surplus = len(n) - 1
    weight = total - float((n**2).sum()) / total - surplus
    if len(n) < 2 or weight <= 0.0:
        return None
    spread = float((n * (rates - rate) ** 2).sum())
    return max((spread - rate * (1.0 - rate) * surplus) / weight, 0.0)
