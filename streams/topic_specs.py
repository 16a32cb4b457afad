"""What each topic of clickloop must be like: partitions, cleanup policy, retention.

`impressions`, `clicks` and `posteriors` have the same number of partitions: a pair meets in one partition, and its
sums are written to the partition of the same number. Compaction would lose impressions (key: decision id), and
retention would lose sums, so the cleanup policies are checked too. Record timestamps stay CreateTime.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from streams.validation import AHEAD_MS

if TYPE_CHECKING:
    from streams.settings import Settings

SIDE_RETENTION_S = 7 * 86_400.0
"""Seconds that feedback, the history of snapshots and dead letters are kept when created here."""


LARGE = 8 * 1024 * 1024
"""Bytes that a record may take where it must never be refused, because a transaction that holds it would be tried for ever: an
event as large as its topic allows plus the reason, a checkpoint that names very many waiting outcomes, an arm's sums or
its factor, many wide contexts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSpec:
    """What one topic must be like: its partitions, and how it is created."""

    name: str
    partitions: int
    cleanup: Literal["delete", "compact"]
    max_message_bytes: int | None = None
    retention_s: float | None = None
    least_retention_s: float = 0.0

    @property
    def configs(self) -> dict[str, str]:
        """Topic settings in Kafka's own words."""
        configs: dict[str, str] = {"cleanup.policy": self.cleanup}
        if self.retention_s is not None:
            configs["retention.ms"] = str(int(self.retention_s * 1000))
        if self.max_message_bytes is not None:
            configs["max.message.bytes"] = str(self.max_message_bytes)
        if self.cleanup == "compact":
            configs["min.cleanable.dirty.ratio"] = "0.1"  # what is compacted here is read whole at every start
        return configs


def specs(settings: Settings) -> tuple[TopicSpec, ...]:
    """Return what every topic must be like under these settings, the publisher's leader topic included."""
    names, partitions, least = settings.topics, settings.partitions, least_retention_s(settings)

    def compact(name: str, count: int) -> TopicSpec:
        return TopicSpec(name=name, cleanup="compact", partitions=count)

    def side(name: str, count: int) -> TopicSpec:
        return TopicSpec(name=name, cleanup="delete", partitions=count, retention_s=SIDE_RETENTION_S)

    def taken_in(name: str) -> TopicSpec:
        kept = max(settings.retention_s, least)
        return TopicSpec(name=name, cleanup="delete", partitions=partitions, retention_s=kept, least_retention_s=least)

    return (
        taken_in(names.impressions),
        taken_in(names.clicks),
        replace(compact(names.posteriors, partitions), max_message_bytes=LARGE),
        replace(compact(names.policies, 1), max_message_bytes=LARGE),
        replace(side(names.history, 1), max_message_bytes=LARGE),
        replace(side(names.feedback, partitions), max_message_bytes=LARGE),
        replace(side(names.dead_letters, 1), max_message_bytes=LARGE),
        compact(names.controls, 1),
        TopicSpec(name=leader_topic(settings), cleanup="delete", partitions=1),
        *(_of_attribution(settings) if settings.attributing else ()),
    )


def _of_attribution(settings: Settings) -> tuple[TopicSpec, ...]:
    """Conversions meet touches in the partition of their unit; what was given out up to where is in a compacted topic."""
    names, partitions, least = settings.topics, settings.partitions, remembered_s(settings)

    def taken_in(name: str) -> TopicSpec:
        kept = max(settings.retention_s, 2 * least)
        return TopicSpec(
            name=name, cleanup="delete", partitions=partitions, retention_s=kept, least_retention_s=2 * least
        )

    return (
        taken_in(names.conversions),
        taken_in(names.touches),
        TopicSpec(name=names.attribution, cleanup="compact", partitions=partitions, max_message_bytes=LARGE),
    )


def remembered_s(settings: Settings) -> float:
    """Return the seconds of event time that touches and conversions are needed for (`Rule.window_ms` and `keep_ms` at most)."""
    policies = settings.attributing.values()
    windows = [policy.attribution.window_s for policy in policies if policy.attribution is not None]
    return max(windows, default=0.0) + max((policy.grace_s for policy in policies), default=0.0) + AHEAD_MS / 1000


def leader_topic(settings: Settings) -> str:
    """Return the topic by which Faust decides which publisher leads."""
    return f"{settings.publisher_group}-__assignor-__leader"


def least_retention_s(settings: Settings) -> float:
    """Return the seconds that input must be kept, so that a worker can rebuild what was pending.

    Twice the longest window: an impression is needed for `window_s + grace_s`, and for `unit_window_s` more where units are
    limited; the other half is the time that a stopped worker has to come back.
    """
    return 2 * max((policy.reread_s for policy in settings.policies.values()), default=0.0)
