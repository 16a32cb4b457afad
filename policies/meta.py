"""The meta-update: what a policy learns about its own learning, as one function of its state and of what was seen.

Three problems, three tools. What new arms start from, and how noisy rewards are: empirical Bayes over the arms, and over their
groups where there are any. How fast to forget: the ladder. How much to explore: the calibrated default, moved by Bayesian
roll-outs, or by the top layer, and only as far as the evidence goes. The function decides nothing about single events, so
it can run in the background, or on a replayed log before a policy goes live.

Cost, for K arms of dimension d with J rates: three rounds of K inverses of d x d, one factor of d x d for each arm, and the
roll-outs, which are played with at most `Plan.most_arms` arms. The state is bounded: 2 d numbers for the prior, or d (d + 3) for
each group; G scores; 2 J counts; five numbers more.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from policies import top_layer as top
from policies.empirical_bayes import fit
from policies.exploring import Hazard, Seen, by_roll_outs, forgotten
from policies.groups import GroupedPrior, GroupPriors, fit_groups, grouped
from policies.ladder import Ladder, ladder, scored
from policies.meta_rules import Rules
from policies.rollout_plan import NUMPY, Arrays

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from policies.arm_features import Features
    from policies.batch import FloatArray
    from policies.prior import AnyPrior
    from policies.sums import Effective


GROUPED = ("linear", "hybrid")
"""Models whose arms may have priors by group."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Meta:
    """State of one policy's meta-update.

    Attributes:
        ladder: scores of the tracks, and which decides.
        choices: counts of the top layer over `Rules.alphas`.
        chosen: index of the rate that decides; with the top layer, of the one that most events go to.
        prior: of arms, None before the first update.
        groups: priors by group, None where arms have no groups.
        hazard: of announced changes.
        events: seen so far.
        rolled: events at the last roll-out.
        reasons: of the last changes, in words.
    """

    ladder: Ladder
    choices: top.TopLayer
    chosen: int
    prior: AnyPrior | None = None
    groups: GroupPriors | None = None
    hazard: Hazard = field(default_factory=Hazard)
    events: int = 0
    rolled: int = 0
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Statistics:
    """What was seen since the last update.

    Attributes:
        effective: the arms' sums as they count now, under each of the G tracks.
        predicted: (n, G) what each track expected of the rows that matured, when they were shown.
        reward: (n,) their final rewards, in the order in which they matured.
        choice: (n,) index of the rate that was drawn for each, for the top layer; None without it.
        contexts: (m, d) recent contexts, for roll-outs.
        events: impressions since the last update.
        changes: announced changes of arms since then.
        s2: variance of one reward for the ladder's scores, None if rewards are 0 or 1.
        group_of: group of each arm that has one; for the models of `GROUPED`.
        features: of the arms, for the model "hybrid"; see policies/arm_features.py. Not together with groups.
        seconds_per_event: to read half-lives, which are in seconds, in events.
    """

    effective: Sequence[Mapping[str, Effective]]
    predicted: FloatArray
    reward: FloatArray
    choice: npt.NDArray[np.integer] | None = None
    contexts: FloatArray | None = None
    events: int = 0
    changes: int = 0
    s2: float | None = None
    group_of: Mapping[str, str] = field(default_factory=dict)
    features: Features | None = None
    seconds_per_event: float = 1.0


def first(rules: Rules, half_lives_s: tuple[float, ...], *, bound: float = 1.0) -> Meta:
    """Before anything was seen. `bound`: the largest reward of one event, for the top layer.

    >>> first(Rules(model="beta", dimension=0), (0.0, 3600.0)).chosen
    2
    """
    choices = top.top_layer(len(rules.alphas), default=rules.default, bound=bound, kept=_kept(rules))
    return Meta(ladder=ladder(half_lives_s), choices=choices, chosen=rules.default)


def update(
    before: Meta,
    seen: Statistics,
    *,
    rules: Rules,
    rng: np.random.Generator,
    arrays: Arrays = NUMPY,
) -> tuple[Meta, tuple[str, ...]]:
    """The state after what was seen, and what changed, in words.

    1. Forgetting: the rows that matured score the tracks.
    2. The prior is fitted to the sums under the track that decides now.
    3. The hazard takes what was announced.
    4. Exploration: by roll-outs when they are due, or by the top layer.

    Args:
        before: state.
        seen: since then.
        rules: what is done.
        rng: of the roll-outs; nothing else is random.
        arrays: what computes roll-outs.

    Raises:
        ValueError: what was seen does not fit the state.

    >>> from policies.sums import Effective
    >>> rules = Rules(model="beta", dimension=0)
    >>> arms = {"a": Effective(n_eff=1000.0, count=1000.0, reward=30.0, square=30.0)}
    >>> seen = Statistics(effective=[arms, arms], predicted=np.tile([0.1, 0.5], (2000, 1)),
    ...     reward=np.tile([0.0, 1.0], 1000), events=2000)
    >>> after, reasons = update(first(rules, (0.0, 3600.0)), seen, rules=rules, rng=np.random.default_rng(1))
    >>> reasons
    ('half-life none -> 3600 s: ahead by 924.6 nats over 2000 labels',)
    """
    if len(seen.effective) != len(before.ladder.scores):
        raise ValueError(f"there are sums of {len(seen.effective)} tracks; the ladder has {len(before.ladder.scores)}")
    steps, reason = scored(before.ladder, seen.predicted, seen.reward, s2=seen.s2)
    reasons = [reason] if reason else []
    arms = seen.effective[steps.chosen]
    after = replace(before, ladder=steps, events=before.events + seen.events)
    after = _fitted(after, arms, seen, rules)
    after = replace(after, hazard=before.hazard.plus(seen.changes, arms=len(arms), events=seen.events))
    if rules.explore == "top-layer":
        after, reason = _drawn(after, seen, rules)
    elif rules.explore == "roll-outs" and after.events - before.rolled >= rules.every:
        after, reason = _rolled(after, arms, seen, rules, rng, arrays)
    else:
        reason = ""
    reasons += [reason] if reason else []
    told = tuple(reasons)
    return (replace(after, reasons=told) if told else after), told


def prior_for(
    arms: Mapping[str, Effective],
    *,
    rules: Rules,
    group_of: Mapping[str, str] | None = None,
    features: Features | None = None,
) -> AnyPrior:
    """What arms start from by the arms that there are: a `GroupedPrior` where they have groups.

    Raises:
        ValueError: groups with a model that has none, or beside features.

    >>> prior_for({}, rules=Rules(model="beta", dimension=0))
    BetaPrior(a=1.0, b=1.0)
    """
    d, intercept = rules.dimension, rules.intercept
    if not group_of:
        return fit(arms, None, model=rules.model, dimension=d, intercept=intercept, features=features)
    if rules.model not in GROUPED or features is not None:
        raise ValueError(
            f"groups of arms with the model {rules.model!r}{' and features' if features is not None else ''}: "
            f"priors by group are for {' and '.join(GROUPED)}, without features; leave group_of out"
        )
    return grouped(fit_groups(arms, group_of, dimension=d, intercept=intercept))


def rates(state: Meta, rules: Rules) -> tuple[FloatArray, FloatArray]:
    """Rates (J,) and the probability q (J,) with which each is drawn for an event; see `policies.top_layer.mixed`.

    >>> rules = Rules(model="beta", dimension=0)
    >>> alphas, q = rates(first(rules, (0.0,)), rules)
    >>> alphas.tolist(), q.tolist()
    ([0.3], [1.0])
    """
    if rules.explore == "top-layer":
        return np.array(rules.alphas), top.law(state.choices)
    return np.array([rules.alphas[state.chosen]]), np.ones(1)


def _kept(rules: Rules) -> float:
    return min(top.KEPT, 1.0 / len(rules.alphas))


def _fitted(state: Meta, arms: Mapping[str, Effective], seen: Statistics, rules: Rules) -> Meta:
    """With the prior of these arms, and of their groups."""
    prior = prior_for(arms, rules=rules, group_of=seen.group_of, features=seen.features)
    groups = prior.groups if isinstance(prior, GroupedPrior) else None
    return replace(state, prior=prior if groups is None else groups.other, groups=groups)


def _drawn(state: Meta, seen: Statistics, rules: Rules) -> tuple[Meta, str]:
    """The top layer after the rows that matured."""
    if seen.choice is None:
        raise ValueError(
            "explore = 'top-layer' needs the index of the rate that was drawn for each row: choice is None"
        )
    after = top.matured(state.choices, seen.choice, seen.reward)
    names = [f"{alpha:g}" for alpha in rules.alphas]
    reason = top.told(state.choices, after, names)
    chosen = int(top.law(after).argmax())
    return replace(state, choices=after, chosen=chosen), f"alpha {reason}" if reason else ""


def _rolled(
    state: Meta,
    arms: Mapping[str, Effective],
    seen: Statistics,
    rules: Rules,
    rng: np.random.Generator,
    arrays: Arrays,
) -> tuple[Meta, str]:
    """The rate that roll-outs find best, if it leads by enough."""
    if state.prior is None:
        raise ValueError("there is no prior: this is a bug")
    known = Seen(
        prior=state.prior,
        arms=arms,
        groups=state.groups,
        contexts=seen.contexts,
        announced=state.hazard.rate,
        unannounced=forgotten(state.ladder.half_life_s, seen.seconds_per_event),
    )
    chosen, reason = by_roll_outs(known, state.chosen, rules, rng=rng, arrays=arrays)
    return replace(state, chosen=chosen, rolled=state.events), reason
