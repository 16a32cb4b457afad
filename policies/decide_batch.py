"""Decisions for many contexts at once: the laws of `policies.decide`, computed together, and an arm drawn from each.

Beta arms have one law for all contexts: it is computed exactly, however many they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from policies.decide import MANY, check_contexts, law, many_of, rows_of, spread
from policies.explorers import Scores, explore
from policies.monte_carlo import draw_estimated
from policies.stack import BetaStack, Index, dof_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.arm_laws import ArmLaws
    from policies.batch import FloatArray
    from policies.snapshot import Snapshot

NUMBERS = 1 << 20
"""Numbers (contexts times candidates) that are worked on at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """Arms for n contexts.

    Attributes:
        arm: (n,) indices into `candidates`.
        propensity: (n,) probability of each.
        estimated: (n,) whether that is an estimate, as in `policies.decide.Decision.propensity_kind`.
        snapshot: version decided from.
        candidates: the K arms that could have been chosen.
    """

    arm: Index
    propensity: FloatArray
    estimated: npt.NDArray[np.bool_]
    snapshot: int
    candidates: tuple[str, ...]


def decide_batch(
    snapshot: Snapshot, contexts: npt.ArrayLike, candidates: Sequence[str] | None = None, *, rng: np.random.Generator
) -> Decisions:
    """Draw an arm for each of n contexts (n, d) from the policy's probabilities; see `policies.decide.decide`.

    Raises:
        ValueError: no candidates or one twice, or contexts of another shape or with numbers that are not finite.

    >>> import numpy as np
    >>> from policies.model import make_model
    >>> from policies.prior import Prior
    >>> from policies.snapshot import build
    >>> model = make_model("linear", dimension=2)
    >>> prior = Prior(mean=np.array([0.1, 0.0]), tau2=np.array([0.01, 0.01]), s2=0.1)
    >>> front = build("front", model=model, sums={"a": model.zero(), "b": model.zero()}, prior=prior, version=1,
    ...     previous=None, time_ms=0, now_ms=0)
    >>> decided = decide_batch(front, [[1.0, 0.5], [1.0, -2.0]], rng=np.random.default_rng(1))
    >>> decided.arm.shape, decided.propensity.round(6).tolist()
    ((2,), [0.5, 0.5])
    """
    candidates = snapshot.showable(candidates)
    rows = rows_of(snapshot, candidates)
    names = snapshot.names if candidates is None else tuple(candidates)
    x = np.asarray(contexts, np.float64)
    n = len(x)
    arm, propensity, estimated = np.empty(n, np.intp), np.empty(n), np.zeros(n, np.bool_)
    if isinstance(snapshot.stack, BetaStack):
        arm, propensity = _drawn(np.broadcast_to(law(snapshot, (), candidates), (n, len(names))), rng)
    else:
        check_contexts(snapshot, x, (n, snapshot.dimension))
        together = max(NUMBERS // len(names), 1)
        for first in range(0, n, together):
            part = slice(first, first + together)
            arm[part], propensity[part], estimated[part] = _part(snapshot, x[part], rows, rng)
    return Decisions(arm=arm, propensity=propensity, estimated=estimated, snapshot=snapshot.version, candidates=names)


def law_batch(snapshot: Snapshot, contexts: npt.ArrayLike, candidates: Sequence[str] | None = None) -> FloatArray:
    """(n, K) exact probability of each candidate for each context (n, d), 0 for what is paused or gone; see `decide_batch`."""
    shown = snapshot.showable(candidates)
    if shown is not candidates:
        return spread(snapshot, law_batch(snapshot, contexts, shown), candidates)
    rows = rows_of(snapshot, candidates)
    x = np.asarray(contexts, np.float64)
    if isinstance(snapshot.stack, BetaStack):
        return np.tile(law(snapshot, (), candidates), (len(x), 1))
    check_contexts(snapshot, x, (len(x), snapshot.dimension))
    scores = _scores(snapshot, x, rows)
    return explore(scores, snapshot.explorer, snapshot.rates)


def _scores(snapshot: Snapshot, x: FloatArray, rows: Index | None) -> Scores:
    arms = snapshot.stack
    if isinstance(arms, BetaStack):
        raise TypeError("Beta arms have no scores that depend on the context; this is a bug")
    mean, sd = arms.scores(np.ascontiguousarray(x.T), rows)
    return Scores(
        mean=np.ascontiguousarray(mean.T),
        sd=np.ascontiguousarray(sd.T),
        count=snapshot.count,
        noise_sd=snapshot.noise_sd,
        dof=dof_of(arms, rows),
    )


def _part(
    snapshot: Snapshot, x: FloatArray, rows: Index | None, rng: np.random.Generator
) -> tuple[Index, FloatArray, npt.NDArray[np.bool_]]:
    scores = _scores(snapshot, x, rows)
    many = _many(snapshot, scores)
    estimated = np.array([laws is not None for laws in many], np.bool_)
    arm, propensity = np.empty(len(x), np.intp), np.empty(len(x))
    exact = np.flatnonzero(~estimated)
    if len(exact):
        some = replace(scores, mean=scores.mean[exact], sd=scores.sd[exact])
        arm[exact], propensity[exact] = _drawn(explore(some, snapshot.explorer, snapshot.rates), rng)
    for i, laws in enumerate(many):
        if laws is not None:
            arm[i], propensity[i] = draw_estimated(laws, rng=rng, epsilon=snapshot.rates["epsilon"])
    return arm, propensity, estimated


def _many(snapshot: Snapshot, scores: Scores) -> list[ArmLaws | None]:
    """Of each context, the laws to estimate from, None where the probabilities are computed."""
    if scores.mean.shape[1] <= MANY:
        return [None] * len(scores.mean)
    return [many_of(snapshot, replace(scores, mean=m, sd=s)) for m, s in zip(scores.mean, scores.sd, strict=True)]


def _drawn(p: FloatArray, rng: np.random.Generator) -> tuple[Index, FloatArray]:
    """(n,) an arm drawn from each row of p (n, K), and its probability."""
    cumulative = p.cumsum(axis=1)
    u = rng.random(len(p)) * cumulative[:, -1]
    arm: Index = np.minimum((cumulative <= u[:, None]).sum(axis=1), p.shape[1] - 1)
    return arm, p[np.arange(len(p)), arm]
