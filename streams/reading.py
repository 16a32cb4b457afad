"""Reading a stretch of one partition with librdkafka, once: the state of a partition, or its input again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

BATCH = 5_000
QUIET = 2
"""Librdkafka tells of every attempt to connect at level 3, ten a second; what matters comes as an error."""
HINT = "check that the brokers run and that this client may read the topic"
_PASSING = {
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
}
"""What a broker says of a partition that is being made, or whose leader is being chosen."""


class ReadError(Exception):
    """A partition could not be read to its end."""

    retriable = True


class SimpleRecord(NamedTuple):
    """A record as `streams.decode` wants it; timestamp in ms UTC."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


def of_message(message: Any) -> SimpleRecord:
    """Librdkafka's message as a record; without headers if the name of one is not UTF-8."""
    try:
        headers = message.headers() or []
    except (SystemError, UnicodeDecodeError):
        headers = []  # one attempt only: the client does not say what a second one does
    return SimpleRecord(message.offset(), message.timestamp()[1], message.key(), message.value(), headers)


@contextmanager
def reader(client: Mapping[str, Any], *, wait_ms: int = 50) -> Iterator[Consumer]:
    """A consumer without a group that sees committed records only; ``wait_ms``: how long a broker waits for more at the end."""
    consumer = Consumer(
        dict(client)
        | {
            "group.id": "clickloop-reader",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": wait_ms,
            "queued.max.messages.kbytes": 16_384,
            "log_level": QUIET,
        }
    )
    try:
        yield consumer
    finally:
        consumer.close()


def bounds(consumer: Consumer, topic: str, partition: int, *, timeout_s: float) -> tuple[int, int]:
    """First and next offset of a partition. Raises ReadError if the broker does not say in time.

    Librdkafka remembers that a partition was unknown or had no leader, and answers by that without asking again; `list_topics` asks.
    """
    until = time.monotonic() + timeout_s
    while True:
        try:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=timeout_s)
            break
        except KafkaException as error:
            if error.args[0].code() not in _PASSING or time.monotonic() > until:
                raise ReadError(f"{topic}-{partition} cannot be read: {error.args[0].str()}; {HINT}") from error
            time.sleep(0.1)
            with suppress(KafkaException):
                consumer.list_topics(topic, timeout=timeout_s)
    return low, high


def read(
    consumer: Consumer, topic: str, partition: int, start: int, end: int | None, *, timeout_s: float
) -> Iterator[list[SimpleRecord]]:
    """Records with start <= offset < end in batches; end None reads to the last committed record.

    Raises ReadError when nothing arrives for ``timeout_s``.
    """
    if end is not None and start >= end:
        return
    consumer.assign([TopicPartition(topic, partition, start)])
    heard = time.monotonic()
    while True:
        records, done = _batch(consumer, end)
        if records:
            yield records
        if done:
            consumer.unassign()
            return
        if records:
            heard = time.monotonic()
        elif time.monotonic() - heard > timeout_s:
            raise ReadError(f"{topic}-{partition}: nothing came for {timeout_s} s, from offset {start}; {HINT}")


def _batch(consumer: Consumer, end: int | None) -> tuple[list[SimpleRecord], bool]:
    records: list[SimpleRecord] = []
    for message in consumer.consume(BATCH, timeout=0.2):
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                return records, True
            if error.fatal() or (
                not error.retriable() and error.code() not in (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT)
            ):
                raise ReadError(f"{message.topic()}-{message.partition()}: {error.str()}")
            continue
        record = of_message(message)
        if end is not None and record.offset >= end:
            return records, True
        records.append(record)
    return records, False


def latest(consumer: Consumer, topic: str, partition: int, *, timeout_s: float) -> tuple[dict[bytes, bytes], int]:
    """The newest committed record of each key of a compacted partition, and the offset after the last one."""
    low, high = bounds(consumer, topic, partition, timeout_s=timeout_s)
    newest: dict[bytes, bytes] = {}
    last = low
    if high > low:
        for batch in read(consumer, topic, partition, low, None, timeout_s=timeout_s):
            last = batch[-1].offset + 1
            for record in batch:
                if record.key is None:
                    continue
                newest.pop(record.key, None)
                if record.value is not None:
                    newest[record.key] = record.value
    return newest, last


def partition_count(client: Mapping[str, Any], topic: str, *, timeout_s: float = 10.0) -> int:
    """Number of partitions of a topic. Raises ReadError if the broker does not answer or has no such topic."""
    try:
        found = AdminClient(dict(client) | {"log_level": QUIET}).list_topics(topic, timeout=timeout_s).topics[topic]
    except KafkaException as error:
        raise ReadError(f"{topic} cannot be read: {error.args[0].str()}; {HINT}") from error
    if found.error is not None:
        raise ReadError(f"{topic}: {found.error.str()}; run clickloop topics create")
    return len(found.partitions)
