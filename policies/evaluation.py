"""Comparing policies on a log before one of them goes live: each learns from its first part and is evaluated on the rest.

Learning and evaluating on the same rows flatters whoever learned by heart, so the log is cut in time. The policies do not
go on learning in the second part: what is estimated is what the policy as it stood at the cut would have earned there, deciding
among the arms that the log has. Do not choose how much to explore by it: exploring pays later, and this looks at rewards at
once, so greedy looks best.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from policies.batch import Batch
from policies.decide import law
from policies.empirical_bayes import fit
from policies.ope import MODEL_FREE, OFF_POLICY, LoggedRows, Support, bootstrap, support
from policies.scores import Scores, arm_means, score
from policies.sequences import interval
from policies.snapshot import Snapshot, build
from policies.stack import BetaStack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from policies.arm_features import Features
    from policies.batch import FloatArray, IntArray
    from policies.model import Model


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decided:
    """n logged decisions with their final rewards, in the order of event time.

    Attributes:
        arms: names that `arm` points to.
        arm: (n,) index into `arms`.
        x: (n, d) contexts.
        ts: (n,) event times, ms UTC, ascending.
        propensity: (n,) logged propensities.
        reward: (n,) final rewards.
    """

    arms: tuple[str, ...]
    arm: npt.NDArray[np.intp]
    x: FloatArray
    ts: IntArray
    propensity: FloatArray
    reward: FloatArray

    def split(self, share: float) -> tuple[Decided, Decided]:
        """The first ``share`` of the rows, and the rest.

        Raises:
            ValueError: one of the parts would be empty.
        """
        at = round(share * len(self.reward))
        if not 0 < at < len(self.reward):
            raise ValueError(f"{len(self.reward)} rows cannot be cut at {share:g} into two parts with rows in them")
        return self.part(0, at), self.part(at, None)

    def part(self, start: int, end: int | None) -> Decided:
        """The rows from one place to before another."""
        rows = slice(start, end)
        return Decided(
            arms=self.arms,
            arm=self.arm[rows],
            x=self.x[rows],
            ts=self.ts[rows],
            propensity=self.propensity[rows],
            reward=self.reward[rows],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """An estimate of the mean reward and the ends of its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Anytime:
    """Ends that hold however often one looks; cutting weights to `weight_cap`, and rewards, took the share `cut` of what was earned."""

    low: float
    high: float
    weight_cap: float
    cut: float


def learned(
    rows: Decided,
    model: Model,
    *,
    explorer: str,
    rates: Mapping[str, float],
    intercept: int | None,
    features: Features | None = None,
) -> Snapshot:
    """The policy that a publisher would publish after these rows, all of them matured; ``features`` of the arms for "hybrid".

    Raises:
        ValueError: no such explorer, or a rate that it does not have.
    """
    sums = {arm: model.zero() for arm in rows.arms} | model.update({}, batch_of(rows, model))
    now_ms = int(rows.ts[-1])
    effective = {arm: model.at(one, now_ms=now_ms) for arm, one in sums.items()}
    prior = fit(effective, model=model.name, dimension=model.dimension, intercept=intercept, features=features)
    return build(
        "evaluated",
        model=model,
        sums=sums,
        prior=prior,
        version=1,
        previous=None,
        time_ms=now_ms,
        now_ms=now_ms,
        explorer=explorer,
        rates=dict(rates),
    )


def batch_of(rows: Decided, model: Model) -> Batch:
    """The rows as a model learns from them."""
    x = rows.x if model.dimension else rows.x[:, :0]
    return Batch(
        arms=rows.arms,
        arm=rows.arm,
        x=x,
        ts=rows.ts,
        reward_arm=rows.arm,
        reward_x=x,
        reward_ts=rows.ts,
        reward=rows.reward,
        square=rows.reward**2,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Foreseen:
    """What a policy would do in n rows with K arms, and what it expects: `laws` (n, K) and `expected` rewards (n, K)."""

    laws: FloatArray
    expected: FloatArray


def foresee(snapshot: Snapshot, rows: Decided) -> Foreseen:
    """What the policy would do in these rows."""
    laws = np.array([law(snapshot, x, rows.arms) for x in rows.x])
    return Foreseen(laws=laws, expected=expectations(snapshot, rows.x, rows.arms))


def under(foreseen: Foreseen, rows: Decided) -> LoggedRows:
    """The rows under a policy, as off-policy estimators want them."""
    at = np.arange(len(rows.arm)), rows.arm
    return LoggedRows(
        reward=rows.reward,
        propensity=rows.propensity,
        target=np.minimum(foreseen.laws[at], 1.0),
        predicted=foreseen.expected[at],
        value=(foreseen.laws * foreseen.expected).sum(axis=1),
    )


def scored(foreseen: Foreseen, rows: Decided, *, k: int) -> Scores:
    """How good a policy's predictions are in these rows; `k` arms are taken for the best."""
    return score(
        rows.reward,
        foreseen.expected[np.arange(len(rows.arm)), rows.arm],
        arm_means=arm_means(rows.arm, rows.reward, rows.propensity, len(rows.arms)),
        arm_predicted=foreseen.expected.mean(axis=0),
        k=k,
    )


def anytime(rows: LoggedRows, *, bounds: tuple[float, float], weight_cap: float) -> Anytime:
    """Confidence sequence of the inverse propensity scores at its last row, for weights up to a cap and rewards within bounds.

    Both are declared before the rows are looked at. What lies beyond them is cut, and the interval is one for the mean after that.
    """
    least, most = weight_cap * min(0.0, bounds[0]), weight_cap * max(0.0, bounds[1])
    whole = rows.weight * rows.reward
    terms = np.clip(np.minimum(rows.weight, weight_cap) * rows.reward, least, most)
    low, high = interval(terms, least=least, most=most)
    total = float(np.abs(whole).sum())
    cut = 1.0 - float(np.abs(terms).sum()) / total if total > 0.0 else 0.0
    return Anytime(low=float(low[-1]), high=float(high[-1]), weight_cap=weight_cap, cut=cut)


def expectations(snapshot: Snapshot, x: FloatArray, arms: Sequence[str]) -> FloatArray:
    """(n, K) expected reward of each arm in each context."""
    stack = snapshot.stack
    rows = np.array([stack.row.get(arm, len(stack.row)) for arm in arms], np.intp)
    if isinstance(stack, BetaStack):
        means = stack.a[rows] / (stack.a[rows] + stack.b[rows])
        return np.tile(means, (len(x), 1))
    scores = np.array([stack.scores(one, rows)[0] for one in x])
    expected: FloatArray = expit(scores) if snapshot.model == "logistic" else scores
    return expected


def evaluate(
    rows: LoggedRows, *, rng: np.random.Generator, times: int = 200, unreached: float | None = None
) -> tuple[dict[str, Estimate], Support]:
    """Every estimate that the rows allow with its interval, and what the weights say of their worth."""
    names = OFF_POLICY if rows.predicted is not None else MODEL_FREE
    found = {}
    for name in names:
        low, high = bootstrap(rows, OFF_POLICY[name], rng=rng, times=times)
        found[name] = Estimate(value=float(OFF_POLICY[name](rows).mean()), low=low, high=high)
    return found, support(rows, unreached=unreached)
