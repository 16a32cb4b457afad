"""What becomes of events on their way to Kafka: delivered, failed, or refused because the queue is full."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class QueueFull(RuntimeError):  # noqa: N818 - reads as what it says: except QueueFull
    """The queue to Kafka is full; the event was not taken. Worth a retry a little later."""

    retriable = True


class NotDelivered(RuntimeError):  # noqa: N818 - as above
    """Events that were taken did not reach Kafka."""

    retriable = True


class TooLarge(NotDelivered):
    """An event is larger than a Kafka record may be. It was not taken, and will not be later."""

    retriable = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What became of one record. ``tags`` are what the caller gave with its rows; ``offset`` is -1 if it failed."""

    topic: str
    partition: int
    offset: int
    tags: Sequence[object]
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Rows (events, not records) by what became of them; ``last_error`` in words, None if there was none."""

    taken: int = 0
    delivered: int = 0
    failed: int = 0
    last_error: str | None = None

    @property
    def queued(self) -> int:
        """Rows taken whose fate is open."""
        return self.taken - self.delivered - self.failed
