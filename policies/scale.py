"""Size of the rewards over all arms, and what follows from it before anything is learned: where priors start.

Priors are fitted to all arms together and shrunk to a start on the scale of the observed rate pbar, with the weight of
nu = 4 arms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from policies.prior import HybridPrior, Prior

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policies.batch import FloatArray
    from policies.sums import Effective

NU = 4.0
"""Weight of the start value in the prior variances, in arms."""
BIAS_SPREAD, SLOPE_SPREAD = 0.5, 0.3
"""Start of the prior's standard deviations, as shares of the observed rate."""

LEAST_RATE = 0.1
"""Least rate of rewards that are not 0/1, in standard deviations: what equal rewards of 1% of impressions have."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Size of the rewards over all arms: pbar (their rate), and the pooled variance of one reward."""

    rate: float
    variance: float


def check_start(start: Prior | HybridPrior | None, *, dimension: int, intercept: int | None) -> None:
    """Raise ValueError unless the intercept is an index below d and the start has d components."""
    if intercept is not None and not 0 <= intercept < dimension:
        raise ValueError(f"intercept = {intercept}: must be the index of a component, 0 to {dimension - 1}, or None")
    if start is not None and len(start.mean) != dimension:
        raise ValueError(
            f"start has {len(start.mean)} components, the contexts have {dimension}; start from None instead"
        )


def telling(effective: Mapping[str, Effective]) -> list[Effective]:
    """Arms that tell something: shown, and with sums that can be used.

    >>> from policies.sums import Effective
    >>> len(telling({"never shown": Effective(n_eff=0.0, count=0.0, reward=0.0, square=0.0)}))
    0
    """
    return [arm for arm in effective.values() if is_telling(arm)]


def is_telling(arm: Effective) -> bool:
    """Whether an arm was shown and its sums are finite.

    >>> from policies.sums import Effective
    >>> is_telling(Effective(n_eff=1.0, count=1.0, reward=np.inf, square=0.0))
    False
    """
    return bool(
        0.0 < arm.n_eff < np.inf
        and np.isfinite((arm.reward, arm.square)).all()
        and np.isfinite(arm.b).all()
        and np.isfinite(arm.A).all()
    )


def beginning(scale: Scale, dimension: int, intercept: int | None) -> Prior:
    """Prior of that scale: mean (rate at the intercept, else 0), `spread`, and the rewards' variance as noise.

    >>> beginning(Scale(0.1, 0.09), 2, 0).mean.tolist()
    [0.1, 0.0]
    """
    mean = np.zeros(dimension)
    if intercept is not None:
        mean[intercept] = scale.rate
    return Prior(mean=mean, tau2=spread(scale, dimension, intercept), s2=scale.variance)


def spread(scale: Scale, dimension: int, intercept: int | None) -> FloatArray:
    """(d,) variances at the start: (0.5 rate)^2 for the intercept, (0.3 rate)^2 for slopes; without one all the former.

    >>> spread(Scale(0.1, 0.09), 2, 0).round(6).tolist()
    [0.0025, 0.0009]
    """
    tau2 = np.full(dimension, ((BIAS_SPREAD if intercept is None else SLOPE_SPREAD) * scale.rate) ** 2)
    if intercept is not None:
        tau2[intercept] = (BIAS_SPREAD * scale.rate) ** 2
    return tau2


def pooled(E: FloatArray, scale: Scale, intercept: int | None) -> FloatArray:
    """(d,) variances from (K, d) expected squares: the intercept's and one for all others, shrunk to their starts.

    >>> import numpy as np
    >>> pooled(np.full((96, 2), 0.01), Scale(0.1, 0.09), 0).round(4).tolist()
    [0.0097, 0.0096]
    """
    target = spread(scale, E.shape[1], intercept)
    slopes = np.ones(E.shape[1], np.bool_)
    if intercept is not None:
        slopes[intercept] = False
    tau2 = np.empty(E.shape[1])
    for group in (slopes, ~slopes):
        if group.any():
            tau2[group] = (E[:, group].sum() + NU * target[group][0]) / (E[:, group].size + NU)
    return tau2


def scale_of(arms: list[Effective]) -> Scale:
    """Rate and variance of rewards over all arms.

    Rewards are 0/1 exactly if their sum is that of their squares. For others the variance is c/n - (r/n)^2 and the rate
    is the root mean square over arms of the mean reward, without its noise: |r/n| where all arms are alike, the spread
    between them where the mean is near zero; and at least LEAST_RATE standard deviations, because where rewards of both
    signs cancel a smaller start takes all that contexts explain for noise.

    >>> from policies.sums import Effective
    >>> scale_of([Effective(n_eff=100.0, count=100.0, reward=10.0, square=10.0)]).rate
    0.1
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
    return Scale(max(abs(mean), max(between, 0.0) ** 0.5, LEAST_RATE * variance**0.5), variance)
