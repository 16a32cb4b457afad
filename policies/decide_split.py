"""Decisions of a policy that shares them out: an incumbent, a canary, a share at random.

Each group draws from its own law; what is logged is the marginal probability, since the group is a part of the randomness::

    p = a/K + (1 - a) ((1 - b) p_incumbent + b p_canary)

with a the random share and b the canary's; where that is sticky, b is the share of visits, and 0 for decisions that belong to none.
Laws are computed, never estimated: with very many arms that is more work (policies/decide.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from policies.canary import NOBODY, group_of
from policies.decide import Decision, law

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from policies.arm_contexts import ArmContexts
    from policies.batch import FloatArray
    from policies.canary import Group, Visit
    from policies.snapshot import Snapshot


class Laws(NamedTuple):
    """(K,) what the incumbent draws from, what the canary draws from, and the marginal."""

    incumbent: FloatArray
    canary: FloatArray
    marginal: FloatArray

    def of(self, group: Group | None) -> FloatArray:
        """What a group draws from."""
        if group == "random":
            return np.full(len(self.marginal), 1.0 / len(self.marginal))
        return self.canary if group == "canary" else self.incumbent


def laws(
    snapshot: Snapshot,
    context: npt.ArrayLike | ArmContexts,
    candidates: Sequence[str] | None = None,
    *,
    visit: Visit | None = None,
) -> Laws:
    """Of candidates that may be shown, every one of them; see `policies.decide.decide` for arguments and errors.

    ``visit`` None is that of a unit that is known, whichever it is: the law is marginal over units.
    """
    incumbent = law(snapshot, context, candidates)
    other, share, random = snapshot.candidate, 0.0, snapshot.audit_share
    canary = incumbent
    if other is not None and snapshot.canary is not None:
        share = snapshot.canary.share if visit is None else snapshot.canary.share_of(visit)
        canary = law(other, context, candidates) if share else incumbent
    marginal = (1.0 - share) * incumbent + share * canary
    if random > 0.0:
        marginal = (1.0 - random) * marginal + random / len(marginal)
    return Laws(incumbent, canary, marginal)


def split_law(
    snapshot: Snapshot, context: npt.ArrayLike | ArmContexts, candidates: Sequence[str] | None = None
) -> FloatArray:
    """(K,) marginal probability of each candidate, 0 for what is paused or gone."""
    if not snapshot.splits:
        return law(snapshot, context, candidates)
    shown = snapshot.showable(candidates)
    p = laws(snapshot, context, shown).marginal
    if shown is candidates:
        return p
    names = snapshot.names if candidates is None else candidates
    chances = dict(zip(shown or (), p.tolist(), strict=True))
    return np.array([chances.get(name, 0.0) for name in names])


def decide_split(
    snapshot: Snapshot,
    context: npt.ArrayLike | ArmContexts,
    candidates: Sequence[str] | None = None,
    *,
    key: str,
    rng: np.random.Generator,
    visit: Visit = NOBODY,
) -> tuple[Decision, Group | None]:
    """Draw an arm by the group that the key falls to; the decision's propensity and probabilities are the marginal ones.

    Args:
        snapshot: the policy.
        context, candidates: as `policies.decide.decide`.
        key: of the decision, another one for each slot.
        rng: advanced by one draw.
        visit: whom it is for and when, which a sticky canary goes by.
    """
    shown = snapshot.showable(candidates)
    names = snapshot.names if shown is None else tuple(shown)
    found = laws(snapshot, context, shown, visit=visit)
    group = group_of(key, snapshot.canary, snapshot.audit_share, visit, audit_sticky_s=snapshot.audit_sticky_s)
    drawn, propensity = drawn_from(found, group, float(rng.random()))
    return Decision(
        arm=names[drawn],
        propensity=propensity,
        snapshot=snapshot.version,
        candidates=names,
        probabilities=found.marginal,
    ), group


def split_key(decision_id: str, slot: str) -> str:
    """What the group of a decision goes by: slots of one page are assigned each by itself, so that they are independent.

    >>> split_key("d1", "top") != split_key("d1", "side")
    True
    """
    return f"{decision_id}\0{slot}"


def drawn_from(found: Laws, group: Group | None, u: float) -> tuple[int, float]:
    """The arm's place that u in [0, 1) draws for a group, and its marginal probability.

    >>> p = Laws(np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.array([0.9, 0.1]))
    >>> drawn_from(p, "canary", 0.5), drawn_from(p, "incumbent", 0.5)
    ((1, 0.1), (0, 0.9))
    """
    cumulative = found.of(group).cumsum()
    place = min(int(cumulative.searchsorted(u * cumulative[-1], side="right")), len(cumulative) - 1)
    return place, float(found.marginal[place])
