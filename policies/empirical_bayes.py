"""Empirical Bayes: prior and noise estimated from all arms together, so that a posterior's width can be believed.

Linear: theta_a ~ N(mu0, T) with diagonal T and noise s2, by three rounds of expectation-maximisation (Morris
1983; the formulas are at `fit_linear`). Beta: method of moments over arms (Kleinman 1973).
Both shrink to a start on the scale of the observed rate pbar, with the weight of nu = 4 arms: a wide start misleads for
a long time. Given an earlier prior as `start`, rounds go on from it, and what the data do not tell stays as it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from policies.hybrid import fit_hybrid
from policies.linear_bayes import fit_linear, fit_logistic, start_linear
from policies.prior import PRIORS, AnyPrior, BetaPrior, HybridPrior, Prior, StudentPrior
from policies.scale import BIAS_SPREAD, NU, telling
from policies.student import fit_student

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policies.arm_features import Features
    from policies.batch import FloatArray
    from policies.sums import Effective

__all__ = [
    "BetaPrior",
    "Prior",
    "fit",
    "fit_beta",
    "fit_hybrid",
    "fit_linear",
    "fit_logistic",
    "fit_student",
    "start_linear",
]


def fit(
    effective: Mapping[str, Effective],
    start: AnyPrior | None = None,
    *,
    model: str,
    dimension: int,
    intercept: int | None = None,
    features: Features | None = None,
) -> AnyPrior:
    """Prior of the model's arms: `fit_linear`, `fit_hybrid`, `fit_student`, `fit_logistic` or `fit_beta`, by the model's name.

    Args:
        effective, start, dimension, intercept: see `fit_linear`.
        features: of the arms, for the model "hybrid"; see policies/arm_features.py.

    Raises:
        ValueError: no such model, a start of another model, or features with a model that has no use for them.

    >>> fit({}, model="beta", dimension=0)
    BetaPrior(a=1.0, b=1.0)
    """
    if features is not None and model != "hybrid":
        raise ValueError(f"features of arms with the model {model!r}: only 'hybrid' uses them; leave them out")
    if model == "linear" and isinstance(start, Prior | None):
        return fit_linear(effective, start, dimension=dimension, intercept=intercept)
    if model == "logistic" and isinstance(start, Prior | None):
        return fit_logistic(effective, start, dimension=dimension, intercept=intercept)
    if model == "student" and isinstance(start, StudentPrior | None):
        return fit_student(effective, start, dimension=dimension, intercept=intercept)
    if model == "hybrid" and isinstance(start, HybridPrior | None):
        return fit_hybrid(effective, start, dimension=dimension, intercept=intercept, features=features)
    if model == "beta" and isinstance(start, BetaPrior | None):
        return fit_beta(effective, start)
    raise ValueError(
        f"cannot fit a prior for model {model!r} from a start of type {type(start).__name__}; models: {', '.join(PRIORS)}"
    )


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
    arms = telling(effective)
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
