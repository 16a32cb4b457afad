"""Watching how far the learners have come: the newest checkpoint record of every partition, as committed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from streams.reading import HINT, ReadError
from streams.table import read_key

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from streams.settings import Settings

_BATCH = 5_000


class NoCheckpoints(RuntimeError):  # noqa: N818 - reads as what it says
    """The topic of the learners' checkpoints does not exist."""

    retriable = False


class Checkpoints:
    """Reads the posteriors topic from its beginning, a little at each `poll`, and keeps the checkpoint records.

    Args:
        settings: how the brokers are reached, and the topic's name.

    Use as a context manager, or call `close`.
    """

    def __init__(self, settings: Settings) -> None:
        topic = settings.topics.posteriors
        self._newest: dict[int, dict[str, Any]] = {}
        self._consumer = Consumer(
            {
                **settings.librdkafka(),
                "group.id": "clickloop-checkpoints",  # a name is asked for; no group is joined
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 100,
                "log_level": 2,
            }
        )
        found = self._consumer.list_topics(topic, timeout=10).topics[topic].partitions
        if not found:
            self._consumer.close()
            raise NoCheckpoints(f"there is no topic {topic!r}; run clickloop topics create")
        self._topic, self._unread = topic, set(found)  # partitions whose end has not been seen
        self._consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in found])

    def read_all(self, timeout_s: float = 30.0) -> dict[int, dict[str, Any]]:
        """`poll` until the end of every partition has been seen. Raises ReadError if that takes longer."""
        until = time.monotonic() + timeout_s
        newest = self.poll()
        while self._unread:
            if time.monotonic() > until:
                where = ", ".join(map(str, sorted(self._unread)))
                raise ReadError(f"{self._topic} was not read to its end in {timeout_s:g} s, partitions {where}; {HINT}")
            newest = self.poll(0.1)
        return newest

    def poll(self, wait_s: float = 0.0) -> dict[int, dict[str, Any]]:
        """Read what has arrived, waiting at most `wait_s` for the first; return the newest checkpoint by partition."""
        timeout = wait_s
        while messages := self._consumer.consume(_BATCH, timeout=timeout):
            timeout = 0.0
            for message in messages:
                error = message.error()
                if error is None:
                    self._take(message.key(), message.value())
                elif error.name() == "_PARTITION_EOF":
                    self._unread.discard(message.partition())
        return dict(self._newest)

    def _take(self, key: bytes | None, value: bytes | None) -> None:
        policy, partition, arm, _ = read_key(key or b"")
        if policy is None and arm is None and value is not None:
            self._newest[partition] = msgspec.msgpack.decode(value)

    def close(self) -> None:
        """Let go of the consumer."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def total(checkpoints: Mapping[int, Mapping[str, Any]], section: str) -> dict[str, int]:
    """Sum of a section ("counts" of outcomes, "impressions") over partitions.

    >>> total({0: {"counts": {"joined": 2}}, 1: {"counts": {"joined": 3}}}, "counts")
    {'joined': 5}
    """
    result: dict[str, int] = {}
    for record in checkpoints.values():
        for name, value in record[section].items():
            result[name] = result.get(name, 0) + value
    return result


def behind(
    checkpoints: Mapping[int, Mapping[str, Any]], ends: Mapping[str, Mapping[int, int]]
) -> dict[tuple[str, int], int]:
    """What is not covered yet: records missing by (side, partition), for `ends` of next offsets by side and partition.

    >>> behind({0: {"offsets": {"impressions": 5, "clicks": 2}}}, {"impressions": {0: 7}, "clicks": {0: 2}})
    {('impressions', 0): 2}
    """
    missing = {}
    for side, by_partition in ends.items():
        for partition, end in by_partition.items():
            done = checkpoints[partition]["offsets"][side] if partition in checkpoints else 0
            if done < end:
                missing[side, partition] = end - done
    return missing
