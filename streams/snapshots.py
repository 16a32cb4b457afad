"""What ``clickloop policy show | history | rollback`` do."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import msgspec

from policies.snapshot import Snapshot, assemble, decode_arm, decode_head, republish
from policies.snapshot_records import BetaArm, Head
from streams.checkpoint import FencedError, Writer
from streams.failpoints import failpoints
from streams.following import names
from streams.published import HELD, TIMEOUT_S, messages, read_snapshots
from streams.reading import bounds, partition_count, read, reader
from streams.settings import Settings
from streams.settings_errors import did_you_mean

ATTEMPTS = 5
"""Times that a rollback is tried while the leader takes over again."""


class UnknownVersionError(ValueError):
    """A version that the history does not hold in full."""

    retriable = False


class NotPublishedError(LookupError):
    """No snapshot of a policy of that name."""

    retriable = False

    def __init__(self, policy: str, settings: Settings, *, published: Iterable[str] = ()) -> None:
        names = ", ".join(sorted(published)) or "none"
        way = (
            "clickloop worker publishes the first one when impressions have come (or arms are named in the settings)"
            if policy in settings.policies
            else did_you_mean(policy, known)
            if (known := {*published, *settings.policies})
            else "name the settings' file by --config, if it has the policy"
        )
        super().__init__(
            f"policy {policy!r} has no snapshot in {settings.topics.policies} or {settings.topics.history} at "
            f"{settings.bootstrap}, published: {names}; {way}"
        )


def show(settings: Settings, policy: str) -> dict[str, Any]:
    """The newest snapshot in words and numbers."""
    return _plain(_newest(settings, policy))


def history(settings: Settings, policy: str) -> list[dict[str, Any]]:
    """Heads of the versions that the history topic still has, oldest first."""
    heads, full = _history(settings, policy)
    if not heads:
        raise NotPublishedError(policy, settings, published=read_snapshots(settings))
    return [
        {
            "version": head.version,
            "parent": head.parent,
            "time_ms": head.time_ms,
            "full": head.version in full,
            "reasons": list(head.reasons),
        }
        for head in heads.values()
    ]


def rollback(settings: Settings, policy: str, version: int) -> dict[str, Any]:
    """Publish an old snapshot under a new version, and hold it until ``version`` 0 releases it.

    Raises UnknownVersionError if the history does not have it in full.
    """
    _newest(settings, policy)
    old = None if version == 0 else _kept(settings, policy, version)
    for _ in range(ATTEMPTS - 1):
        try:
            return _plain(_republished(settings, policy, old, version))
        except FencedError:
            continue  # the leader took over between our first and our last step
    return _plain(_republished(settings, policy, old, version))


def _kept(settings: Settings, policy: str, version: int) -> Snapshot:
    _, full = _history(settings, policy)
    if version not in full:
        kept = ", ".join(map(str, sorted(full))) or "none"
        raise UnknownVersionError(f"version = {version}: the history has in full {kept}; choose one of these")
    return full[version]


def _republished(settings: Settings, policy: str, old: Snapshot | None, version: int) -> Snapshot:
    """Publish `old`, or the newest if there is none, above the newest; this is read when nobody else can write any more."""
    writer = Writer(
        settings.librdkafka(),
        transactional_id=settings.publisher_group,
        partition=0,
        topics={"policies": settings.topics.policies, "history": settings.topics.history},
        timeout_s=TIMEOUT_S,
        passing=failpoints(None),
    )
    try:
        writer.initialise()
        newest = _newest(settings, policy)
        snapshot = republish(
            newest if old is None else old,
            version=newest.version + 1,
            parent=newest.version,
            time_ms=int(time.time() * 1000),
            reasons=(
                "released: the publisher goes on"
                if old is None
                else f"{HELD}rolled back to version {version}; version 0 releases it",
            ),
            paused=newest.paused,
            gone=newest.gone,
            allotment=newest.allotment,
        )
        writer.commit(messages(snapshot, full=True))
    finally:
        writer.close()
    return snapshot


def _newest(settings: Settings, policy: str) -> Snapshot:
    found = read_snapshots(settings)
    if policy not in found:
        raise NotPublishedError(policy, settings, published=found)
    return found[policy]


def _history(settings: Settings, policy: str) -> tuple[dict[int, Head], dict[int, Snapshot]]:
    heads: dict[int, Head] = {}
    full: dict[int, Snapshot] = {}
    arms: dict[str, bytes] = {}
    topic, client = settings.topics.history, settings.librdkafka()
    with reader(client) as consumer:
        for partition in range(partition_count(client, topic)):
            low, high = bounds(consumer, topic, partition, timeout_s=TIMEOUT_S)
            batches = read(consumer, topic, partition, low, None, timeout_s=TIMEOUT_S) if high > low else ()
            for record in (record for batch in batches for record in batch):
                name, arm = names(record.key)
                if name != policy or record.value is None:
                    continue
                if arm is not None:
                    arms[arm] = record.value
                    continue
                head = decode_head(record.value)
                heads[head.version] = head
                if arms and set(arms) >= set(head.arms):
                    kept = {arm: decode_arm(value) for arm, value in arms.items() if arm in head.arms}
                    whole = assemble(head, kept)
                    if whole is not None:
                        full[head.version] = whole
                arms = {}
    return heads, full


def _plain(snapshot: Snapshot) -> dict[str, Any]:
    arms = {}
    for name, arm in snapshot.arms.items():
        numbers = {"a": arm.a, "b": arm.b} if isinstance(arm, BetaArm) else {"mean": arm.mean.tolist()}
        arms[name] = {"version": arm.version, "count": arm.count, "alarm": arm.alarm} | numbers
    return {
        "policy": snapshot.policy,
        "version": snapshot.version,
        "parent": snapshot.parent,
        "time_ms": snapshot.time_ms,
        "age_s": round(time.time() - snapshot.time_ms / 1000, 3),
        "model": snapshot.model,
        "dimension": snapshot.dimension,
        "explorer": snapshot.explorer,
        "rates": snapshot.rates,
        "reasons": list(snapshot.reasons),
        "offsets": {str(number): next_ for number, next_ in snapshot.offsets.items()},
        "paused": list(snapshot.paused),
        "gone": list(snapshot.gone),
        "canary": None if snapshot.canary is None else msgspec.to_builtins(snapshot.canary),
        "audit_share": snapshot.audit_share,
        "audit_sticky_s": snapshot.audit_sticky_s,
        "arms": arms,
    }
