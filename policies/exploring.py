"""How much to explore, decided from what is believed: roll-outs of the rates, with the observed hazard of change.

Beta arms are played as arms with one number each, of the same mean and variance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from policies.arm_features import prior_of
from policies.gaussian import ArmPosterior
from policies.posterior import posterior, unseen
from policies.prior import AnyPrior, BetaPrior
from policies.rollout_plan import Arrays, Belief, Outcome
from policies.rollouts import roll_out

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policies.batch import FloatArray
    from policies.groups import GroupPriors
    from policies.meta_rules import Rules
    from policies.sums import Effective

HAZARD_MEMORY = 1e6
"""Events after which an announced change counts half for the hazard."""
LEAST_NOISE = 1e-12
"""Least noise variance of a reward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hazard:
    """Announced changes of arms, and the arms times events in which they came; older ones count less."""

    changes: float = 0.0
    exposure: float = 0.0

    @property
    def rate(self) -> float:
        """Chance of a change for each arm and event; 0 before any event."""
        return min(self.changes / self.exposure, 1.0) if self.exposure else 0.0

    def plus(self, changes: int, *, arms: int, events: int) -> Hazard:
        """After more events with so many arms.

        >>> Hazard().plus(3, arms=30, events=5000).rate
        2e-05
        """
        kept = 0.5 ** (events / HAZARD_MEMORY)
        return Hazard(changes=kept * self.changes + changes, exposure=kept * self.exposure + arms * events)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """What is believed and known of the arms: the prior (and those of groups), sums, recent contexts (m, d), chances of change."""

    prior: AnyPrior
    arms: Mapping[str, Effective]
    groups: GroupPriors | None
    contexts: FloatArray | None
    announced: float
    unannounced: float


def by_roll_outs(seen: Seen, chosen: int, rules: Rules, *, rng: np.random.Generator, arrays: Arrays) -> tuple[int, str]:
    """Index of the rate that roll-outs find best, and in words why; the chosen one and "" if no other leads by enough.

    Raises:
        ValueError: there are no contexts to play on.

    >>> from policies.meta_rules import Rules
    >>> from policies.rollout_plan import NUMPY
    >>> from policies.sums import Effective
    >>> sure = {name: Effective(n_eff=1e6, count=1e6, reward=r, square=r) for name, r in (("a", 3e4), ("b", 2e4))}
    >>> seen = Seen(prior=BetaPrior(a=1.0, b=9.0), arms=sure, groups=None, contexts=None, announced=0.0, unannounced=0.0)
    >>> by_roll_outs(seen, 2, Rules(model="beta", dimension=0), rng=np.random.default_rng(1), arrays=NUMPY)
    (2, '')
    """
    if len(seen.arms) < 2:
        return chosen, ""
    ring = np.ones((1, 1)) if rules.model == "beta" else seen.contexts
    if ring is None or not len(ring):
        raise ValueError("explore = 'roll-outs' needs recent contexts, (m, d) with one or more: contexts has none")
    plan = replace(
        rules.plan,
        lag=min(round(rules.delay * rules.plan.steps / rules.plan.horizon), rules.plan.steps),
        announced=seen.announced,
        unannounced=seen.unannounced,
    )
    found = roll_out(belief(seen), ring, np.array(rules.alphas), plan=plan, rng=rng, arrays=arrays)
    lead, error = found.lead(chosen)
    if found.best == chosen or lead <= rules.sure * error:
        return chosen, ""
    return found.best, _words(found, chosen, rules)


def _words(found: Outcome, chosen: int, rules: Rules) -> str:
    lead, error = found.lead(chosen)
    unit = abs(float(found.score[chosen])) or 1.0
    return (
        f"alpha {rules.alphas[chosen]:g} -> {rules.alphas[found.best]:g}: ahead by {lead / unit:.2%} ± {error / unit:.2%} "
        f"of the reward in {len(found.values)} roll-outs over {rules.plan.horizon:g} events"
    )


def belief(seen: Seen) -> Belief:
    """What roll-outs begin with; a new arm's covariance is taken by its diagonal.

    >>> from policies.sums import Effective
    >>> arms = {"a": Effective(n_eff=8.0, count=8.0, reward=3.0, square=3.0)}
    >>> found = belief(Seen(prior=BetaPrior(a=1.0, b=1.0), arms=arms, groups=None, contexts=None, announced=0.0,
    ...     unannounced=0.0))
    >>> found.mean.tolist(), found.covariance.round(4).tolist(), found.s2
    ([[0.4]], [[[0.0218]]], 0.25)
    """
    means, covariances = [], []
    for name, one in seen.arms.items():
        found = posterior(prior_of(seen.prior if seen.groups is None else seen.groups.of(name), name), one)
        if isinstance(found, ArmPosterior):
            means.append(found.mean)
            covariances.append(found.factor.T @ found.factor)
        else:
            mean, variance = moments(found.a, found.b)
            means.append(np.array([mean]))
            covariances.append(np.array([[variance]]))
    if isinstance(seen.prior, BetaPrior):
        start, spread = (np.array([one]) for one in moments(seen.prior.a, seen.prior.b))
        s2 = max(float(start[0]) * (1.0 - float(start[0])), LEAST_NOISE)
    else:
        new = unseen(seen.prior)
        start, spread, s2 = new.mean, np.einsum("ij,ij->j", new.factor, new.factor), seen.prior.s2
    return Belief(
        mean=np.array(means), covariance=np.array(covariances), prior_mean=start, prior_variance=spread, s2=s2
    )


def moments(a: float, b: float) -> tuple[float, float]:
    """Mean and variance of Beta(a, b).

    >>> moments(1.0, 1.0)[0]
    0.5
    """
    mean = a / (a + b)
    return mean, mean * (1.0 - mean) / (a + b + 1.0)


def forgotten(half_life_s: float, seconds_per_event: float) -> float:
    """Chance of an unannounced change for each arm and event that leaves half of what was learned after the half-life.

    >>> forgotten(0.0, 1.0), round(forgotten(100.0, 1.0), 6)
    (0.0, 0.006908)
    """
    return 0.0 if half_life_s == 0.0 else -math.expm1(-math.log(2.0) * seconds_per_event / half_life_s)
