"""What publishers leave in the topics: the records of a snapshot, and what was published last.

The arms' records come before the head, all of them in one transaction; readers swap when they have what the head names.
"""

from __future__ import annotations

from typing import Any

import structlog

from policies.meta_records import read_key
from policies.snapshot import Snapshot, encode_head, records
from policies.snapshot_records import LATER, head_key
from streams.following import Collector
from streams.messages import Message
from streams.reading import bounds, partition_count, read, reader
from streams.settings import Settings

log = structlog.get_logger(__name__)

TIMEOUT_S = 10.0


def messages(snapshot: Snapshot, *, full: bool) -> list[Message]:
    """Records of one publication: arms and head to the policies topic, the head (and all arms if full) to the history."""
    history = records(snapshot, every_arm=True) if full else [(head_key(snapshot.policy), encode_head(snapshot))]
    return [
        *(Message("history", key, value) for key, value in history),
        *(Message("policies", key, value) for key, value in records(snapshot)),
    ]


def differ(old: Snapshot, new: Snapshot) -> bool:
    """Whether a snapshot says something that the one before does not; that it was made later does not count."""
    return bool(new.changed) or any(
        getattr(old, name) != getattr(new, name)
        for name in (
            "prior",
            "explorer",
            "rates",
            "model",
            "dimension",
            "encoder",
            "offsets",
            "names",
            *LATER,
        )
    )


HELD = "held: "
"""How the reason of a snapshot begins that the publisher does not replace."""


def is_held(snapshot: Snapshot) -> bool:
    """Whether a rollback holds this snapshot until it is released."""
    return any(reason.startswith(HELD) for reason in snapshot.reasons)


def read_snapshots(settings: Settings) -> dict[str, Snapshot]:
    """The newest complete snapshot of each policy, as committed. Raises ReadError."""
    return read_published(settings)[0]


def read_published(
    settings: Settings,
) -> tuple[dict[str, Snapshot], dict[str, dict[tuple[str | None, str], bytes]]]:
    """The newest complete snapshot of each policy, and by policy its records of other kinds by arm and kind. Raises ReadError."""
    collector, topic, client = Collector(), settings.topics.policies, settings.librdkafka()
    found: dict[str, Any] = {}
    others: dict[str, dict[tuple[str | None, str], bytes]] = {}
    with reader(client) as consumer:
        for partition in range(partition_count(client, topic)):
            low, high = bounds(consumer, topic, partition, timeout_s=TIMEOUT_S)
            if high > low:
                for batch in read(consumer, topic, partition, low, None, timeout_s=TIMEOUT_S):
                    for record in batch:
                        collector.add(record.key, record.value)
                        _take_other(others, record.key, record.value)
                    ready, problems = collector.take()
                    found.update(ready)
                    for problem in problems:
                        log.warning("a snapshot could not be read", problem=problem)
    return {name: snapshot for name, snapshot in found.items() if snapshot is not None}, others


def _take_other(others: dict[str, dict[tuple[str | None, str], bytes]], key: bytes | None, value: bytes | None) -> None:
    named = read_key(key)
    if named is None:
        return
    policy, arm, kind = named
    of = others.setdefault(policy, {})
    of.pop((arm, kind), None)
    if value is not None:
        of[arm, kind] = value
