"""What new arms and new slots of a policy would start from now: `clickloop meta prior`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.arm_contexts import ArmContexts
from policies.exploration_records import GROUP, decode_group
from policies.starting import start_of
from streams.contexts import Context, compiled
from streams.explaining import ContextError
from streams.published import read_published
from streams.snapshots import NotPublishedError
from streams.texts import Texts

if TYPE_CHECKING:
    from policies.batch import FloatArray
    from policies.snapshot import Snapshot
    from streams.settings import Settings

ANY = "(none)"
"""Stands for an arm of no group, or of one that has no arms yet."""
NEW = "(new)"
"""Stands for a slot that the policy has not had."""


def prior(settings: Settings, policy: str, context: Context = ()) -> dict[str, Any]:
    """Mean and standard deviation of the expected reward of a new arm, by group, and in each slot.

    The context is the intercept alone, unless one is given.

    Raises:
        NotPublishedError: the policy has no snapshot.
        ContextError: the context does not fit, or none is given and the policy names no intercept.
    """
    found, others = read_published(settings)
    if policy not in found:
        raise NotPublishedError(policy, settings, published=found)
    snapshot = found[policy]
    x = _context(settings, policy, context, snapshot)
    groups = {arm: value for (arm, kind), value in others.get(policy, {}).items() if kind == GROUP and arm is not None}
    start = start_of(snapshot.prior, x, model=snapshot.model)
    by_group = {group: start_of(decode_group(groups[group]), x, model=snapshot.model) for group in sorted(groups)}
    return {
        "policy": policy,
        "version": snapshot.version,
        "model": snapshot.model,
        "impressions": snapshot.count,
        "context": x.tolist(),
        "arms": {group: asdict(one) for group, one in {ANY: start, **by_group}.items()},
        "slots": {
            slot: {"effect": effect, **asdict(start.times(effect))}
            for slot, effect in {NEW: 1.0, **_effects(settings, policy, snapshot)}.items()
        },
    }


def _effects(settings: Settings, policy: str, snapshot: Snapshot) -> dict[str, float]:
    """Position effects: those of the settings until others are learned."""
    known = settings.policies.get(policy)
    declared = {} if known is None else {slot: one.position for slot, one in known.slots.items()}
    return {**declared, **snapshot.allotment.kappa}


def _context(settings: Settings, policy: str, context: Context, snapshot: Snapshot) -> FloatArray:
    d = 0 if snapshot.model == "beta" else snapshot.dimension
    known = settings.policies.get(policy)
    if len(context) or not d:
        with Texts(settings) as texts:
            given = compiled(settings, policy, context, snapshot, texts).context
        x = given.x if isinstance(given, ArmContexts) else given
        if x.shape != (d,) or not np.isfinite(x).all():
            raise ContextError(f"the context has {x.size} numbers; policy {policy!r} takes {d}, all finite")
        return x
    if known is None or known.intercept is None:
        raise ContextError(
            f"policy {policy!r} names no intercept in the settings, so there is no context to start from; give --context or --vector"
        )
    x = np.zeros(d)
    x[known.intercept] = 1.0
    return x
