"""Decisions: a function of snapshot, context, candidates and a generator, so that they can be replayed.

`decide` computes the probabilities and draws the arm from them: what is logged is exact. Only Thompson sampling over more
than MANY arms that may win (MANY_KEPT for Beta arms, whose law is computed once for each set of candidates) draws first and
estimates the chosen arm's probability (policies/monte_carlo.py); `law` gives the exact ones there too, for much more
work. Many contexts at once: policies/decide_batch.py. Arms alone, without propensities: policies/draw.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from policies.arm_contexts import ArmContexts
from policies.arm_laws import BetaLaws, NormalLaws, StudentLaws
from policies.beta_thompson import beta_moments, thompson_beta
from policies.explorers import Scores, explore, floor
from policies.monte_carlo import draw_estimated
from policies.stack import BetaStack, Index, dof_of
from policies.thompson_student import scale_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.arm_laws import ArmLaws
    from policies.batch import FloatArray
    from policies.snapshot import Snapshot

Kind = Literal["exact", "estimate"]

KEPT_LAWS = 1024
"""Sets of candidates whose probabilities a snapshot of Beta arms keeps."""

MANY = 100
"""Arms that may win, above which Thompson sampling's propensity is estimated."""

MANY_KEPT = 1000
"""The same for Beta arms."""

LARGEST = 1e30
"""Size of a number of a context above which it counts as unusable, as in events: products with it must stay finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """An arm and the law that it was drawn from.

    Attributes:
        arm: what to show.
        propensity: its probability.
        propensity_kind: "exact": the propensity is `probabilities` at the arm's place. "estimate": it is unbiased, but
            1/propensity is not.
        snapshot: version decided from.
        candidates: the K arms that could have been chosen.
        probabilities: (K,) in their order, sums to one; None where the propensity is an estimate.
    """

    arm: str
    propensity: float
    propensity_kind: Kind = "exact"
    snapshot: int
    candidates: tuple[str, ...]
    probabilities: FloatArray | None


def decide(
    snapshot: Snapshot,
    context: npt.ArrayLike | ArmContexts,
    candidates: Sequence[str] | None = None,
    *,
    rng: np.random.Generator,
) -> Decision:
    """Draw an arm from the policy's probabilities.

    Args:
        snapshot: the policy.
        context: (d,) in the units that were learned from; the model "beta" ignores it. Or one that differs between arms.
        candidates: arms to choose from, each once; None is all that the snapshot has. An unknown arm is scored
            by the prior.
        rng: advanced by one draw, by more for an estimate.

    Raises:
        ValueError: no candidates or one twice, or a context of another length or with numbers that are not finite.

    >>> import numpy as np
    >>> from policies.model import make_model
    >>> from policies.prior import BetaPrior
    >>> from policies.snapshot import build
    >>> model = make_model("beta", dimension=0)
    >>> front = build("front", model=model, sums={"a": model.zero()}, prior=BetaPrior(a=1.0, b=9.0), version=1,
    ...     previous=None, time_ms=0, now_ms=0)
    >>> decision = decide(front, [], ("a", "new"), rng=np.random.default_rng(1))
    >>> decision.arm, round(decision.propensity, 6), decision.snapshot
    ('new', 0.5, 1)
    """
    candidates = snapshot.showable(candidates)
    rows = rows_of(snapshot, candidates)
    names = snapshot.names if candidates is None else tuple(candidates)
    kind: Kind = "exact"
    p: FloatArray | None = None
    scores = _scores(snapshot, context, rows, names)
    many = _many_beta(snapshot, rows) if scores is None else many_of(snapshot, scores)
    if many is not None:
        drawn, propensity = draw_estimated(many, rng=rng, epsilon=snapshot.rates["epsilon"])
        kind = "estimate"
    else:
        p = _beta(snapshot, rows) if scores is None else explore(scores, snapshot.explorer, snapshot.rates)
        cumulative = p.cumsum()
        drawn = min(int(cumulative.searchsorted(rng.random() * cumulative[-1], side="right")), len(p) - 1)
        propensity = float(p[drawn])
    return Decision(
        arm=names[drawn],
        propensity=propensity,
        propensity_kind=kind,
        snapshot=snapshot.version,
        candidates=names,
        probabilities=p,
    )


def law(
    snapshot: Snapshot, context: npt.ArrayLike | ArmContexts, candidates: Sequence[str] | None = None
) -> FloatArray:
    """(K,) exact probability of each candidate, 0 for what is paused or gone; see `decide`."""
    shown = snapshot.showable(candidates)
    if shown is not candidates:
        return spread(snapshot, law(snapshot, context, shown), candidates)
    rows = rows_of(snapshot, candidates)
    scores = _scores(snapshot, context, rows, snapshot.names if candidates is None else candidates)
    return _beta(snapshot, rows) if scores is None else explore(scores, snapshot.explorer, snapshot.rates)


def spread(snapshot: Snapshot, p: FloatArray, candidates: Sequence[str] | None) -> FloatArray:
    """(..., K) from the probabilities of the candidates that may be shown: the others have 0."""
    names = snapshot.names if candidates is None else candidates
    whole = np.zeros((*p.shape[:-1], len(names)))
    whole[..., [i for i, name in enumerate(names) if name not in snapshot.hidden]] = p
    return whole


def many_of(snapshot: Snapshot, scores: Scores) -> ArmLaws | None:
    """The laws of one context's arms if so many of them may win that the propensity is estimated, else None."""
    alpha = snapshot.rates.get("alpha", 0.0)
    if snapshot.explorer != "thompson" or alpha == 0.0 or len(scores.mean) <= MANY:
        return None
    sd = alpha * scores.sd
    arms: ArmLaws
    if scores.dof is None:
        arms = NormalLaws(mean=scores.mean, sd=sd)
    else:
        arms = StudentLaws(mean=scores.mean, scale=scale_of(sd, scores.dof), dof=scores.dof)
    return arms if len(arms.contenders()) > MANY else None


def _many_beta(snapshot: Snapshot, rows: Index | None) -> BetaLaws | None:
    arms, alpha = snapshot.stack, snapshot.rates.get("alpha", 0.0)
    if snapshot.explorer != "thompson" or alpha == 0.0 or not isinstance(arms, BetaStack):
        return None
    if (len(arms.row) if rows is None else len(rows)) <= MANY_KEPT:
        return None
    a, b = (arms.a[:-1], arms.b[:-1]) if rows is None else (arms.a[rows], arms.b[rows])
    laws = BetaLaws(a=a / alpha**2, b=b / alpha**2)
    return laws if len(laws.contenders()) > MANY_KEPT else None


def rows_of(snapshot: Snapshot, candidates: Sequence[str] | None) -> Index | None:
    """Rows of the candidates in the snapshot's arrays; None is all. Raises ValueError for none, or one twice."""
    row = snapshot.stack.row
    if (len(row) if candidates is None else len(candidates)) == 0:
        raise ValueError(
            f"policy {snapshot.policy!r}, snapshot {snapshot.version}: there is no arm to choose that is not paused or gone; give candidates"
        )
    if candidates is None:
        return None
    if len(set(candidates)) != len(candidates):
        twice = sorted({name for name in candidates if list(candidates).count(name) > 1})
        raise ValueError(f"candidates hold {twice} more than once; each arm may be given once")
    prior = len(row)
    return np.array([row.get(name, prior) for name in candidates], np.intp)


def check_contexts(snapshot: Snapshot, contexts: FloatArray, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless contexts have the shape, and numbers that can be computed with."""
    if contexts.shape != shape:
        raise ValueError(f"the context has shape {contexts.shape}; policy {snapshot.policy!r} needs {shape}")
    if not np.abs(contexts).max(initial=0.0) <= LARGEST:  # false for NaN
        raise ValueError(f"the context holds numbers that are not finite, or above {LARGEST:g}: {contexts}")


def scores_of(
    snapshot: Snapshot, contexts: ArmContexts, rows: Index | None, names: Sequence[str]
) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation (C,) of the arms in `rows`, which are `names`, each in its own context.

    Raises:
        ValueError: contexts of another length or with numbers that are not finite; Beta arms, which have none.
    """
    arms = snapshot.stack
    if isinstance(arms, BetaStack):
        raise ValueError(f"policy {snapshot.policy!r} has no contexts: the model is {snapshot.model!r}")
    each = contexts.each(names)
    check_contexts(snapshot, each, (len(names), snapshot.dimension))
    return arms.scores_each(each, rows)


def _scores(
    snapshot: Snapshot, context: npt.ArrayLike | ArmContexts, rows: Index | None, names: Sequence[str]
) -> Scores | None:
    """What the explorer goes by; None for Beta arms, whose law does not need the context."""
    arms = snapshot.stack
    if isinstance(arms, BetaStack):
        return None
    if isinstance(context, ArmContexts):
        mean, sd = scores_of(snapshot, context, rows, names)
    else:
        x = np.asarray(context, np.float64)
        check_contexts(snapshot, x, (snapshot.dimension,))
        mean, sd = arms.scores(x, rows)
    return Scores(mean=mean, sd=sd, count=snapshot.count, noise_sd=snapshot.noise_sd, dof=dof_of(arms, rows))


def _beta(snapshot: Snapshot, rows: Index | None) -> FloatArray:
    """A law is computed once for each set of candidates."""
    arms = snapshot.stack
    if not isinstance(arms, BetaStack):
        raise TypeError(f"{type(arms).__name__} has scores that depend on the context; this is a bug")
    rows = np.arange(len(arms.row)) if rows is None else rows
    key = rows.tobytes()
    p = arms.laws.get(key)
    if p is None:
        p = _beta_law(snapshot, arms.a[rows], arms.b[rows])
        p.flags.writeable = False
        if len(arms.laws) < KEPT_LAWS:
            arms.laws[key] = p
    return p


def _beta_law(snapshot: Snapshot, a: FloatArray, b: FloatArray) -> FloatArray:
    rates = snapshot.rates
    if snapshot.explorer == "thompson" and rates["alpha"] > 0.0:
        return floor(thompson_beta(a, b, alpha=rates["alpha"]), rates["epsilon"])
    mean, sd = beta_moments(a, b)
    scores = Scores(mean=mean, sd=sd, count=snapshot.count, noise_sd=snapshot.noise_sd)
    return explore(scores, snapshot.explorer, rates)
