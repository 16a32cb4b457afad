"""Pages of a policy that shares its decisions out: an incumbent, a canary, a share at random (policies/decide_split.py) fill them whole.

A page falls to one group, and its slots are filled by that group's law; what is logged is each slot's marginal probability over the groups.
The rows of a page depend on each other through its group, and the tests of policies/promotion.py bet on one row at a time: so
one slot of each page, drawn evenly by a hash, tells the group, and the others tell none. The tests then compare what a slot earns on average.
A sticky canary is bet on by the visit, whose rows may depend on each other: then all slots tell it, unless a share is random, whose audit
counts pages.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from policies.canary import NOBODY, group_of, uniform
from policies.matching import EMPTY
from policies.snapshot import exploring

if TYPE_CHECKING:
    from collections.abc import Callable

    from policies.canary import Group, Visit
    from policies.decide_slots import SlotDecision
    from policies.snapshot import Snapshot


def decide_slots_split(
    snapshot: Snapshot, page: Callable[[Snapshot], SlotDecision], *, key: str, visit: Visit = NOBODY
) -> tuple[SlotDecision, tuple[Group | None, ...]]:
    """Fill K slots by the group that the key falls to; what is told of propensities is marginal over the groups.

    Args:
        snapshot: the policy.
        page: fills the slots by a snapshot of the same arms (`policies.decide_slots.decide_slots`).
        key: of the decision.
        visit: whom it is for and when, which a sticky canary goes by.

    >>> import numpy as np
    >>> from policies.decide_slots import decide_slots
    >>> from policies.model import make_model
    >>> from policies.prior import Prior
    >>> from policies.snapshot import build
    >>> model = make_model("linear", dimension=1)
    >>> front = build("front", model=model, sums={name: model.zero() for name in "abcd"}, version=1, previous=None, time_ms=0,
    ...     now_ms=0, prior=Prior(mean=np.array([0.1]), tau2=np.array([0.01]), s2=0.1), audit_share=0.2)
    >>> shown, groups = decide_slots_split(front, lambda one: decide_slots(one, [1.0], kappa=np.array([1.0, 0.5]),
    ...     rng=np.random.default_rng(1)), key="d1")
    >>> [round(p, 4) for p in shown.propensity], sorted(groups, key=str)
    ([0.25, 0.25], [None, 'rest'])
    """
    group = group_of(key, snapshot.canary, snapshot.audit_share, visit, audit_sticky_s=snapshot.audit_sticky_s)
    even = snapshot.audit_share
    canary = 0.0 if snapshot.canary is None else snapshot.canary.share_of(visit)
    pages = [((1.0 - even) * (1.0 - canary), page(snapshot))]
    at = 0
    if snapshot.candidate is not None and canary > 0.0:
        at = len(pages) if group == "canary" else at
        pages.append(((1.0 - even) * canary, page(snapshot.candidate)))
    if even > 0.0:
        at = len(pages) if group == "random" else at
        pages.append((even, page(exploring(snapshot, "epsilon-greedy", {"epsilon": 1.0}))))
    p = sum((share * one.allocation.probabilities for share, one in pages), np.zeros(()))
    p = np.minimum(p, 1.0)  # shares add up to 1 but for a rounding
    shown = pages[at][1]
    chance = np.array(
        [
            max(1.0 - row.sum(), 0.0) if arm == EMPTY else row[arm]
            for row, arm in zip(p, shown.allocation.arms.tolist(), strict=True)
        ]
    )
    found = replace(
        shown,
        propensity=tuple(chance.tolist()),
        allocation=replace(shown.allocation, propensity=chance, probabilities=p),
    )
    if snapshot.canary is not None and snapshot.canary.sticky_s and not even:
        return found, (group,) * len(chance)
    told = int(uniform("slot", key) * len(chance))
    return found, tuple(group if slot == told else None for slot in range(len(chance)))
