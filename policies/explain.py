"""Why an arm was shown: what each part of the context adds to its expected reward, and what exploring adds to its chance.

The expected reward is a sum over the context, x^T m = sum_i x_i m_i, and so is what the prior expects of an arm that
nobody has seen, x^T mu0; the difference is what the arm's own rows have changed. (m shrinks towards mu0 where they say
little: Lindley & Smith 1972.) The width sqrt(x^T V x) beside the prior's sqrt(x^T V0 x) tells how much is known by now.
The chance is that of `policies.decide.law`; beside it stands what it would be if nothing were explored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from policies.arm_contexts import ArmContexts
from policies.beta_thompson import beta_moments
from policies.closed_forms import best
from policies.decide import check_contexts, law, rows_of, scores_of
from policies.stack import BetaStack, StudentStack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.batch import FloatArray
    from policies.snapshot import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One arm in one context. All but the chances are in the reward's unit (logistic: logits).

    Attributes:
        arm: its name.
        mean: expected reward, the sum of `contributions`.
        contributions: (d,) what each component of the context adds. Beta arms have one, the rate itself.
        prior: (d,) what each adds by the prior alone.
        sd: standard deviation of the expectation.
        unknown: share of the prior's variance x^T V0 x that is left, 1 for an arm that nobody has seen. Above 1 where
            rewards vary more than the prior thought.
        bonus: alpha sd where the explorer goes by widths (Thompson sampling, UCB), else 0.
        propensity: chance of being shown.
        greedy: chance if nothing were explored: equal parts for the largest means.
        floor: part of the propensity that is due to uniform draws, epsilon/K.
    """

    arm: str
    mean: float
    contributions: FloatArray
    prior: FloatArray
    sd: float
    unknown: float
    bonus: float
    propensity: float
    greedy: float
    floor: float

    @property
    def learned(self) -> FloatArray:
        """(d,) what the arm's own rows have changed in each contribution."""
        return self.contributions - self.prior

    @property
    def exploration(self) -> float:
        """What exploring adds to the chance; negative for an arm that would be shown more without it."""
        return self.propensity - self.greedy

    def words(self, features: Sequence[str] | None = None, *, most: int = 5) -> str:
        """One line for people: the `most` largest contributions by size, named after `features` (d,).

        >>> import numpy as np
        >>> arm = Explanation(arm="ad-3", mean=0.13, contributions=np.array([0.1, 0.03]), prior=np.array([0.1, 0.0]),
        ...     sd=0.02, unknown=0.25, bonus=0.02, propensity=0.7, greedy=1.0, floor=0.001)
        >>> arm.words(["constant", "sports"])
        'ad-3: 0.13 +- 0.02 = constant 0.1 + sports 0.03 (prior 0.1, learned 0.03; 25% unknown); shown 70%, greedy 100%'
        """
        if features is not None and len(features) != len(self.contributions):
            raise ValueError(f"{len(features)} features are named, {len(self.contributions)} contribute; name each")
        order = np.argsort(-np.abs(self.contributions), kind="stable")
        names = [f"x{i}" for i in range(len(order))] if features is None else features
        parts = [f"{names[i]} {self.contributions[i]:.3g}" for i in order[:most]]
        if len(order) > most:
            parts.append(f"{len(order) - most} others {self.contributions[order[most:]].sum():.3g}")
        return (
            f"{self.arm}: {self.mean:.3g} +- {self.sd:.2g} = {' + '.join(parts)} "
            f"(prior {self.prior.sum():.3g}, learned {self.learned.sum():.3g}; {self.unknown:.0%} unknown); "
            f"shown {self.propensity:.0%}, greedy {self.greedy:.0%}"
        )


def explain(
    snapshot: Snapshot, context: npt.ArrayLike | ArmContexts, candidates: Sequence[str] | None = None
) -> tuple[Explanation, ...]:
    """Explain every candidate, in their order; arguments and errors are those of `policies.decide.decide`.

    >>> import numpy as np
    >>> from policies.model import make_model
    >>> from policies.prior import Prior
    >>> from policies.snapshot import build
    >>> model = make_model("linear", dimension=2)
    >>> prior = Prior(mean=np.array([0.125, 0.0]), tau2=np.array([0.01, 0.01]), s2=0.1)
    >>> front = build("front", model=model, sums={"a": model.zero(), "b": model.zero()}, prior=prior, version=1,
    ...     previous=None, time_ms=0, now_ms=0, rates={"epsilon": 0.1})
    >>> first, second = explain(front, [1.0, 3.0])
    >>> first.words(["constant", "age"])
    'a: 0.125 +- 0.32 = constant 0.125 + age 0 (prior 0.125, learned 0; 100% unknown); shown 50%, greedy 50%'
    """
    p = law(snapshot, context, candidates)
    names = snapshot.names if candidates is None else tuple(candidates)
    contributions, prior, sd, before = _parts(snapshot, context, candidates)
    mean = contributions.sum(axis=1)
    greedy = best(mean)
    return tuple(
        Explanation(
            arm=name,
            mean=float(mean[i]),
            contributions=contributions[i],
            prior=prior[i],
            sd=float(sd[i]),
            unknown=float((sd[i] / before[i]) ** 2) if before[i] > 0.0 else 1.0,
            bonus=float(snapshot.rates.get("alpha", 0.0) * sd[i]),
            propensity=float(p[i]),
            greedy=float(greedy[i]),
            floor=snapshot.rates["epsilon"] / len(names),
        )
        for i, name in enumerate(names)
    )


def _parts(
    snapshot: Snapshot, context: npt.ArrayLike | ArmContexts, candidates: Sequence[str] | None
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Contributions (K, d), those of the prior (K, d), standard deviations (K,) and those of the prior (K,)."""
    arms, rows = snapshot.stack, rows_of(snapshot, candidates)
    chosen = np.arange(len(arms.row)) if rows is None else rows
    last = np.full(len(chosen), len(arms.row))
    if isinstance(arms, BetaStack):
        mean, sd = beta_moments(arms.a, arms.b)
        return mean[chosen, None], mean[last, None], sd[chosen], sd[last]
    weights = (arms.linear if isinstance(arms, StudentStack) else arms).mean
    if isinstance(context, ArmContexts):
        names = snapshot.names if candidates is None else candidates
        x = context.each(names)
        sd, before = (scores_of(snapshot, context, place, names)[1] for place in (chosen, last))
        return weights[chosen] * x, weights[last] * x, sd, before
    x = np.asarray(context, np.float64)
    check_contexts(snapshot, x, (snapshot.dimension,))
    _, sd = arms.scores(x, np.append(chosen, last[:1]))
    return weights[chosen] * x, weights[last] * x, sd[:-1], np.full(len(chosen), sd[-1])
