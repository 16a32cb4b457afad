"""Waiting until what was committed can be read.

A commit is acknowledged before its markers are in the topics that it wrote to; who reads at once to the last committed record may
miss it. Programs follow the topics and do not mind; a test that reads once does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache

from confluent_kafka import Consumer, KafkaException

from streams.checkpoint import UNPLACED, Writer
from streams.messages import Message
from streams.reading import ReadError, bounds

ANSWER_S = 10.0


def settle(writer: Writer, messages: Sequence[Message], *, timeout_s: float = 5.0) -> None:
    """Wait until readers of committed records get what a writer committed.

    Returns when the time is over too: a transaction that somebody left open is in the way until it ends, and a broker may be gone.
    """
    until = time.monotonic() + timeout_s
    try:
        roles = {(one.topic, writer.partition if one.partition is None else one.partition) for one in messages}
        for place in {place for role in roles for place in _places(writer, *role)}:
            end = _end("read_uncommitted", *place)
            while _end("read_committed", *place) < end and time.monotonic() < until:
                time.sleep(0.002)
    except (KafkaException, ReadError):
        return


def settled(bootstrap: str, topic: str, partition: int) -> bool:
    """Whether readers of committed records get to the end: no transaction is open."""
    place = bootstrap, topic, partition
    return _end("read_committed", *place) >= _end("read_uncommitted", *place)


def _places(writer: Writer, role: str, partition: int) -> list[tuple[str, str, int]]:
    """Bootstrap address, topic and partition where a message of a role may be."""
    topic = writer.topics[role]
    found = writer._producer.list_topics(topic, timeout=ANSWER_S)
    bootstrap = ",".join(sorted(f"{one.host}:{one.port}" for one in found.brokers.values()))
    return [(bootstrap, topic, one) for one in found.topics[topic].partitions if role in UNPLACED or one == partition]


def _end(isolation: str, bootstrap: str, topic: str, partition: int) -> int:
    return bounds(_consumer(bootstrap, isolation), topic, partition, timeout_s=ANSWER_S)[1]


@lru_cache(maxsize=4)
def _consumer(bootstrap: str, isolation: str) -> Consumer:
    return Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "settling", "isolation.level": isolation, "log_level": 0}
    )
