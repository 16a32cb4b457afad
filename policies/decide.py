"""Decisions: a function of snapshot, context, candidates and a generator, so that they can be replayed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from policies.beta_thompson import beta_moments, thompson_beta
from policies.explorers import floor, probabilities
from policies.stack import BetaStack, Index

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.batch import FloatArray
    from policies.snapshot import Snapshot

KEPT_LAWS = 1024
"""Sets of candidates whose probabilities a snapshot of Beta arms keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """An arm and the law that it was drawn from.

    Attributes:
        arm: what to show.
        propensity: its probability, exact: `probabilities` at its place.
        snapshot: version decided from.
        candidates: the K arms that could have been chosen.
        probabilities: (K,) in their order, sums to one.
    """

    arm: str
    propensity: float
    snapshot: int
    candidates: tuple[str, ...]
    probabilities: FloatArray


def decide(
    snapshot: Snapshot, context: npt.ArrayLike, candidates: Sequence[str] | None = None, *, rng: np.random.Generator
) -> Decision:
    """Draw an arm from the policy's probabilities.

    Args:
        snapshot: the policy.
        context: (d,) in the units that were learned from; the model "beta" ignores it.
        candidates: arms to choose from, each once; None is all that the snapshot has. An unknown arm is scored
            by the prior.
        rng: advanced by one draw.

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
    names = snapshot.names if candidates is None else tuple(candidates)
    p = law(snapshot, context, candidates)
    cumulative = p.cumsum()
    drawn = min(int(cumulative.searchsorted(rng.random() * cumulative[-1], side="right")), len(p) - 1)
    return Decision(
        arm=names[drawn], propensity=float(p[drawn]), snapshot=snapshot.version, candidates=names, probabilities=p
    )


def law(snapshot: Snapshot, context: npt.ArrayLike, candidates: Sequence[str] | None = None) -> FloatArray:
    """(K,) probability of each candidate; see `decide`."""
    arms = snapshot.stack
    rows = None if candidates is None else _rows(arms.row, candidates)
    if (len(arms.row) if rows is None else len(rows)) == 0:
        raise ValueError(
            f"policy {snapshot.policy!r}, snapshot {snapshot.version}: there is no arm to choose; give candidates"
        )
    alpha, epsilon = snapshot.rates["alpha"], snapshot.rates["epsilon"]
    if isinstance(arms, BetaStack):
        return _beta(snapshot, arms, rows)
    x = np.asarray(context, np.float64)
    if x.shape != (snapshot.dimension,):
        raise ValueError(f"the context has shape {x.shape}; policy {snapshot.policy!r} needs ({snapshot.dimension},)")
    if not np.isfinite(x).all():
        raise ValueError(f"the context holds numbers that are not finite: {x}")
    mean, sd = arms.scores(x, rows)
    return probabilities(mean, sd, explorer=snapshot.explorer, alpha=alpha, epsilon=epsilon)


def _beta(snapshot: Snapshot, arms: BetaStack, rows: Index | None) -> FloatArray:
    """The context does not matter, so a law is computed once for each set of candidates."""
    rows = np.arange(len(arms.row)) if rows is None else rows
    key = rows.tobytes()
    p = arms.laws.get(key)
    if p is None:
        p = _beta_law(arms.a[rows], arms.b[rows], snapshot.explorer, snapshot.rates["alpha"], snapshot.rates["epsilon"])
        p.flags.writeable = False
        if len(arms.laws) < KEPT_LAWS:
            arms.laws[key] = p
    return p


def _beta_law(a: FloatArray, b: FloatArray, explorer: str, alpha: float, epsilon: float) -> FloatArray:
    if explorer == "thompson" and alpha > 0.0:
        return floor(thompson_beta(a, b, alpha=alpha), epsilon)
    mean, sd = beta_moments(a, b)
    return probabilities(mean, sd, explorer=explorer, alpha=alpha, epsilon=epsilon)


def _rows(row: dict[str, int], candidates: Sequence[str]) -> Index:
    if len(set(candidates)) != len(candidates):
        twice = sorted({name for name in candidates if list(candidates).count(name) > 1})
        raise ValueError(f"candidates hold {twice} more than once; each arm may be given once")
    prior = len(row)
    return np.array([row.get(name, prior) for name in candidates], np.intp)
