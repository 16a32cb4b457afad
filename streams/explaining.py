"""Why the newest published snapshot would show each arm, in words and numbers: `clickloop policy explain`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policies.explain import Explanation, explain
from streams.contexts import Context, compiled, components
from streams.published import read_snapshots
from streams.snapshots import NotPublishedError
from streams.texts import Texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streams.settings import Settings


TEXTS_S = 5.0
"""Seconds that vectors of texts may take to come; those that have not are at the mean, and the answer says so."""


class ContextError(ValueError):
    """A context or candidates that the policy cannot decide by."""

    retriable = False


def explained(
    settings: Settings, policy: str, context: Context = (), candidates: Sequence[str] | None = None
) -> dict[str, Any]:
    """The newest published snapshot's explanation of every candidate, in words and numbers.

    Raises:
        NotPublishedError: the policy has no snapshot.
        ContextError: context or candidates do not fit the policy.
    """
    found = read_snapshots(settings)
    if policy not in found:
        raise NotPublishedError(policy, settings, published=found)
    snapshot = found[policy]
    try:
        with Texts(settings) as texts:
            made = compiled(settings, policy, context, snapshot, texts)
            if made.missing and texts.wait(
                lambda: not compiled(settings, policy, context, snapshot, texts).missing, TEXTS_S
            ):
                made = compiled(settings, policy, context, snapshot, texts)
        arms = explain(snapshot, made.context, candidates)
    except ValueError as error:
        raise ContextError(str(error)) from error
    names = components(settings, policy, len(arms[0].contributions))
    return {
        "policy": policy,
        "version": snapshot.version,
        "model": snapshot.model,
        "explorer": snapshot.explorer,
        "rates": snapshot.rates,
        **({"missing": list(made.missing)} if made.missing else {}),
        "arms": {arm.arm: _numbers(arm, names) for arm in arms},
    }


def _numbers(arm: Explanation, names: Sequence[str]) -> dict[str, Any]:
    return {
        "propensity": arm.propensity,
        "greedy": arm.greedy,
        "floor": arm.floor,
        "mean": arm.mean,
        "sd": arm.sd,
        "bonus": arm.bonus,
        "prior": float(arm.prior.sum()),
        "learned": float(arm.learned.sum()),
        "unknown": arm.unknown,
        "contributions": dict(zip(names, arm.contributions.tolist(), strict=True)),
    }
