"""What `GET /v1/policies` tells: which policies there are, and what decides for them now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from policies.snapshot import Snapshot
    from streams.settings import Settings


class Published(Protocol):
    """Where snapshots come from: a `PolicyClient`, or a stand-in."""

    def snapshot(self, policy: str) -> Snapshot | None: ...  # noqa: D102
    def age_s(self, policy: str) -> float | None: ...  # noqa: D102


def policies(settings: Settings, source: Published) -> list[dict[str, Any]]:
    """One entry for each policy of the settings; numbers of the snapshot are null where there is none."""
    entries = []
    for name, policy in settings.policies.items():
        snapshot, age_s = source.snapshot(name), source.age_s(name)
        entries.append(
            {
                "policy": name,
                "snapshot": None if snapshot is None else snapshot.version,
                "age_s": None if age_s is None else round(age_s, 3),
                "arms": len(policy.arms if snapshot is None else snapshot.names),
                "model": policy.model if snapshot is None else snapshot.model,
                "explorer": policy.explorer if snapshot is None else snapshot.explorer,
                "dimension": policy.dimension,
                "features": None if policy.features is None else list(policy.features.features.names),
            }
        )
    return entries
