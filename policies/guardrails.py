"""Guardrails: what a snapshot must keep before anybody decides by it.

Its numbers are finite and its covariances positive definite; against its parent the arms' chances move by less than a limit; and a policy
that was not tried by a canary must lie near enough to what was logged to be judged by it at all (effective sample size).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from policies.decide import law
from policies.ope import LARGEST_WEIGHT
from policies.snapshot_records import BetaArm, lower_indices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.batch import FloatArray
    from policies.snapshot import Snapshot

CHANGE = 0.2
"""Mean change of the arms' chances, as total variation, that must not be reached."""
EFFECTIVE = 0.05
"""Effective part of the logged decisions that is needed."""
LEAST_ROWS = 32
"""Logged decisions below which neither can be told."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Logged:
    """Recent decisions: n arms, contexts (n, d), propensities (n,)."""

    arm: Sequence[str]
    x: FloatArray
    propensity: FloatArray


def unsound(snapshot: Snapshot) -> tuple[str, ...]:
    """What is not finite or not positive definite, in words; a snapshot of such numbers must not be published."""
    wrong = []
    for name, arm in snapshot.arms.items():
        if isinstance(arm, BetaArm):
            if not (0.0 < arm.a < np.inf and 0.0 < arm.b < np.inf):
                wrong.append(f"arm {name!r} has a = {arm.a}, b = {arm.b}, which must be finite and above zero")
            continue
        if not (np.isfinite(arm.mean).all() and np.isfinite(arm.factor).all()):
            wrong.append(f"arm {name!r} has numbers that are not finite")
            continue
        rows, columns = lower_indices(len(arm.mean))
        if not (arm.factor[rows == columns] > 0.0).all():
            wrong.append(f"the covariance of arm {name!r} is not positive definite")
    return tuple(wrong)


def change_of_chances(before: Snapshot, after: Snapshot, contexts: FloatArray) -> float:
    """Mean over contexts (n, d) of the total variation between two laws, over the arms that both may show; 0 to 1.

    Total variation is half the sum of |p - p'|: with two arms the change of either's chance, whatever their number at most 1.
    """
    names = [name for name in after.names if name in before.arms and name not in before.hidden | after.hidden]
    if not names or not len(contexts):
        return 0.0
    changes = [0.5 * np.abs(law(after, x, names) - law(before, x, names)).sum() for x in contexts]
    return float(np.mean(changes))


def effective_share(weight: FloatArray) -> float:
    """ESS/n = (sum w)^2/(n sum w^2) of weights (n,); 0 if all are 0.

    >>> effective_share(np.array([1.0, 1.0, 0.0, 0.0]))
    0.5
    """
    weight = np.minimum(weight, LARGEST_WEIGHT)
    square = float(weight @ weight)
    return float(weight.sum()) ** 2 / (len(weight) * square) if square > 0.0 else 0.0


def violations(
    before: Snapshot, after: Snapshot, logged: Logged, *, change: float = CHANGE, effective: float = EFFECTIVE
) -> tuple[str, ...]:
    """What speaks against deciding by `after` in all decisions, without a canary, in words; nothing if it may be.

    Args:
        before: what decides now.
        after: what is to decide.
        logged: recent decisions.
        change, effective: the limits.
    """
    wrong = list(unsound(after))
    if wrong:
        return tuple(wrong)
    n = len(logged.arm)
    if n < LEAST_ROWS:
        return (f"{n} matured decisions are known here, {LEAST_ROWS} are needed to tell what changes",)
    moved = change_of_chances(before, after, logged.x)
    if moved >= change:
        wrong.append(f"the arms' chances would change by {moved:.3g} on average, the limit is {change:g}")
    names = after.showable(None)
    places = {name: i for i, name in enumerate(after.names if names is None else names)}
    weights = np.array(
        [
            law(after, x, names)[places[arm]] / p if arm in places else 0.0
            for arm, x, p in zip(logged.arm, logged.x, logged.propensity, strict=True)
        ]
    )
    share = effective_share(weights)
    if share < effective:
        wrong.append(f"of {n} logged decisions {share:.2g} tell of it (ESS/n), {effective:g} is the least")
    return tuple(wrong)
