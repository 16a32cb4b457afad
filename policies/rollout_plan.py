"""Input and outcome of roll-outs: what is believed, how it is played, what computes, and what it was worth; see policies/rollouts.py."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from policies.batch import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Belief:
    """What is believed of K arms now, and of a new one.

    Attributes:
        mean: (K, d) posterior means.
        covariance: (K, d, d) positive definite.
        prior_mean: (d,) of a new arm.
        prior_variance: (d,) of a new arm, above zero.
        s2: noise variance of one reward.
    """

    mean: FloatArray
    covariance: FloatArray
    prior_mean: FloatArray
    prior_variance: FloatArray
    s2: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How roll-outs are played.

    Attributes:
        horizon: H, rounds that are played.
        after: rounds for which the greedy value at the end counts.
        steps: B, times that agents learn.
        contexts: n, contexts of a step.
        worlds: W.
        most_arms: arms that are played with, those that are most likely the best; the others are left out.
        lag: steps until what is seen counts.
        announced, unannounced: chance of a change, for each arm and round.

    Raises:
        ValueError: a number that cannot work.
    """

    horizon: float = 50_000.0
    after: float = 50_000.0
    steps: int = 10
    contexts: int = 24
    worlds: int = 32
    most_arms: int = 40
    lag: int = 0
    announced: float = 0.0
    unannounced: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "contexts", "most_arms"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
        if self.worlds < 2:
            raise ValueError(f"worlds = {self.worlds}: must be at least 2, or there is no standard error")
        if self.lag < 0:
            raise ValueError(f"lag = {self.lag}: must be 0 steps or more")
        if not (0.0 < self.horizon < math.inf and 0.0 <= self.after < math.inf):
            raise ValueError(f"horizon = {self.horizon}, after = {self.after}: rounds, finite, the horizon above zero")
        for name in ("announced", "unannounced"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be a chance for each arm and round, 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """What J rates earned in W worlds.

    Attributes:
        values: (W, J) mean expected reward of a round.
    """

    values: FloatArray

    @property
    def score(self) -> FloatArray:
        """(J,) mean over worlds."""
        mean: FloatArray = self.values.mean(axis=0)
        return mean

    @property
    def best(self) -> int:
        """Index of the best rate."""
        return int(self.score.argmax())

    def lead(self, over: int) -> tuple[float, float]:
        """By how much the best rate leads over another, and the standard error of that, from differences in each world."""
        gap = self.values[:, self.best] - self.values[:, over]
        return float(gap.mean()), float(gap.std(ddof=1) / math.sqrt(len(gap)))


@dataclass(frozen=True, slots=True)
class Arrays:
    """The module that computes, how numpy arrays become its own and back, and the numbers of an array that it does best."""

    module: ModuleType
    take: Callable[[FloatArray], Any]
    give: Callable[[Any], FloatArray]
    together: int


NUMPY = Arrays(np, np.asarray, np.asarray, 1 << 17)


def check_input(belief: Belief, ring: FloatArray, alphas: FloatArray) -> None:
    """Raise ValueError unless shapes fit and all numbers are finite."""
    d = belief.mean.shape[-1]
    if belief.mean.ndim != 2 or not len(belief.mean) or belief.covariance.shape != (*belief.mean.shape, d):
        raise ValueError(
            f"mean has shape {belief.mean.shape}, covariance {belief.covariance.shape}; must be (K, d) and (K, d, d)"
        )
    if ring.ndim != 2 or ring.shape[1] != d or not len(ring):
        raise ValueError(f"ring has shape {ring.shape}; must hold one context or more, (m, {d})")
    if alphas.ndim != 1 or not len(alphas) or not (alphas >= 0.0).all():
        raise ValueError(f"alphas = {alphas}: must be (J,), one or more, none below zero")
    for name, values in (("mean", belief.mean), ("covariance", belief.covariance), ("ring", ring), ("alphas", alphas)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds numbers that are not finite")
