"""Who decides for a policy: itself, another policy that it learns beside (mode "apprentice"), or nobody yet (mode "logging").

An **apprentice** has traffic of its own, on which it decides as the policy that it `follows` does, with that policy's exact
propensities; the impressions are its own, and it learns from them. They name no snapshot, because versions are each policy's own, so
only those with a propensity below 1 are learned from: let what it follows have a floor (`epsilon`). A policy that is **logging-only** is
decided by the fallback, at random with known propensities unless the ad server has a ranked list; it publishes what it learns all the
same. Both are published in the snapshot's head, for ad servers that have no settings of the policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from policies.snapshot import Snapshot
    from streams.settings import Settings

LOGGING = "the policy is logging only"
"""Reason of a decision that the fallback makes for a policy that does not decide."""


def follows(settings: Settings, policy: str, snapshot: Snapshot | None) -> str | None:
    """The policy that decides for another; None if none does."""
    known = settings.policies.get(policy)
    if known is not None:
        return known.follows
    return None if snapshot is None or not snapshot.follows else snapshot.follows


def deciding(settings: Settings, policy: str, snapshot_of: Callable[[str], Snapshot | None]) -> Snapshot | None:
    """The snapshot that decides for a policy, its own or that of the one that it follows."""
    own = snapshot_of(policy)
    other = follows(settings, policy, own)
    return own if other is None else snapshot_of(other)


def logs_only(settings: Settings, policy: str, snapshot: Snapshot | None) -> bool:
    """Whether the policy does not decide, by the settings or, without these, its snapshot."""
    known = settings.policies.get(policy)
    if known is not None:
        return known.mode == "logging"
    return snapshot is not None and snapshot.policy == policy and snapshot.logging


def check_follows(policies: Mapping[str, Any]) -> None:
    """Raise ValueError unless every apprentice follows a policy that decides, with contexts of the same length."""
    for name, policy in policies.items():
        if policy.follows is None:
            continue
        other = policies.get(policy.follows)
        if other is None or other.mode != "online":
            online = ", ".join(sorted(one for one, known in policies.items() if known.mode == "online")) or "none"
            raise ValueError(
                f"policy {name!r} follows {policy.follows!r}: must be a policy of mode 'online' in these settings, of which there are: {online}"
            )
        if other.model != "beta" and (other.dimension, other.fingerprint) != (policy.dimension, policy.fingerprint):
            raise ValueError(
                f"policy {name!r} follows {policy.follows!r}: dimension, features and encoder must be the same, because one decides from "
                f"the other's contexts; they are {policy.dimension}, {policy.fingerprint!r} and {other.dimension}, {other.fingerprint!r}"
            )
