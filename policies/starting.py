"""What a new arm starts from, in the unit of rewards: mean and standard deviation of its expected reward by the prior alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from policies.exploring import moments
from policies.posterior import unseen
from policies.prior import AnyPrior, BetaPrior

if TYPE_CHECKING:
    from policies.batch import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Mean and standard deviation of an expected reward."""

    mean: float
    sd: float

    def times(self, effect: float) -> Start:
        """In a slot of this position effect.

        >>> Start(mean=0.25, sd=0.125).times(0.5)
        Start(mean=0.125, sd=0.0625)
        """
        return Start(mean=effect * self.mean, sd=effect * self.sd)


def start_of(prior: AnyPrior, x: FloatArray, *, model: str) -> Start:
    """Of an arm without rows in a context (d,): x^T mu0 and sqrt(x^T V0 x).

    Logistic ones are chances, with the standard deviation p (1 - p) sd to first order; a beta arm has no context, x is (0,).

    >>> start_of(BetaPrior(a=1.0, b=3.0), np.zeros(0), model="beta").mean
    0.25
    >>> from policies.prior import Prior
    >>> start_of(Prior(mean=np.array([0.5, 0.0]), tau2=np.array([4.0, 1.0]), s2=1.0), np.array([1.0, 0.0]), model="linear")
    Start(mean=0.5, sd=2.0)
    """
    if isinstance(prior, BetaPrior):
        mean, variance = moments(prior.a, prior.b)
        return Start(mean=mean, sd=float(np.sqrt(variance)))
    new = unseen(prior)
    mean, sd = float(new.mean @ x), float(np.linalg.norm(new.factor @ x))
    if model != "logistic":
        return Start(mean=mean, sd=sd)
    chance = float(expit(mean))
    return Start(mean=chance, sd=chance * (1.0 - chance) * sd)
