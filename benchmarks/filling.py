"""Writing a workload into the input topics beforehand, with librdkafka, in order of event time over both topics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
import numpy as np
from confluent_kafka import Producer

from benchmarks.workload import Ints, Workload, decision_id
from streams.events import COLUMNS_MAGIC, Codec, encode
from streams.partition import partitions_for
from streams.settings import Settings

STRETCH_ROWS = 2_000
"""Impressions between two turns of the clicks."""


@dataclass(slots=True)
class Filled:
    """What was written: records by (side, partition), and of columnar records the events in each."""

    ends: dict[tuple[str, int], int] = field(default_factory=dict)
    rows: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    octets: int = 0

    def events(self, offsets: dict[tuple[str, int], int]) -> int:
        """Events below these offsets."""
        if not self.rows:
            return sum(offsets.values())
        return sum(sum(self.rows.get(place, ())[:offset]) for place, offset in offsets.items())


def fill(workload: Workload, settings: Settings, *, codec: Codec, rows_per_record: int = 1) -> Filled:
    """Write the whole log; columnar records hold `rows_per_record` events of one partition each."""
    producer = Producer(
        {
            **settings.librdkafka(),
            "partitioner": "murmur2_random",
            "enable.idempotence": True,
            "linger.ms": 20,
            "batch.size": 1_000_000,
            "queue.buffering.max.messages": 100_000,
        }
    )
    topics = {"impressions": settings.topics.impressions, "clicks": settings.topics.clicks}
    filled = Filled(ends={(side, p): 0 for side in topics for p in range(settings.partitions)})

    def delivered(side: str, partition: int | None, offset: int | None) -> None:
        assert partition is not None and offset is not None
        filled.ends[side, partition] = max(filled.ends[side, partition], offset + 1)

    def send(side: str, value: bytes, *, key: bytes | None = None, partition: int = -1) -> None:
        def report(error: object, message: object) -> None:
            if error is not None:
                raise RuntimeError(f"{side}: {error}")
            delivered(side, message.partition(), message.offset())  # type: ignore[attr-defined]

        filled.octets += len(value)
        while True:
            try:
                producer.produce(topics[side], value, key, partition=partition, on_delivery=report)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)

    if codec == "columns":
        for side, partition, value, rows in _batches(workload, settings.partitions, rows_per_record):
            filled.rows.setdefault((side, partition), []).append(rows)
            send(side, value, partition=partition)
    else:
        for side, key, value in _records(workload, codec):
            send(side, value, key=key)
    if producer.flush(120):
        raise RuntimeError("the broker did not take the log within 120 s")
    return filled


def _stretches(workload: Workload, size: int) -> Iterator[tuple[slice, slice]]:
    """Impressions and clicks of one stretch of event time after the other; the last has all the clicks that are left."""
    done = 0
    for start in range(0, len(workload.ts), size):
        stop = min(start + size, len(workload.ts))
        upto = len(workload.clicked)
        if stop < len(workload.ts):
            upto = int(np.searchsorted(workload.click_ts, workload.ts[stop]))
        yield slice(start, stop), slice(done, upto)
        done = upto


def _records(workload: Workload, codec: Codec) -> Iterator[tuple[str, bytes, bytes]]:
    for impressions, clicks in _stretches(workload, STRETCH_ROWS):
        for impression in workload.impressions(impressions, codec):
            yield "impressions", impression.decision_id.encode(), encode(impression, codec)
        for click in workload.clicks(clicks):
            yield "clicks", click.decision_id.encode(), encode(click, codec)


def _batches(workload: Workload, partitions: int, size: int) -> Iterator[tuple[str, int, bytes, int]]:
    """Columnar records: full ones as soon as a partition has `size` rows, the rest at the end."""
    waiting: dict[tuple[str, int], Ints] = {}
    for impressions, clicks in _stretches(workload, size * partitions):
        for side, rows, of in (("impressions", impressions, None), ("clicks", clicks, workload.clicked)):
            numbers = np.arange(rows.start, rows.stop)
            keys = [decision_id(i).encode() for i in (numbers if of is None else of[rows]).tolist()]
            to = partitions_for(keys, partitions)
            for partition in range(partitions):
                gathered = np.concatenate([waiting.get((side, partition), numbers[:0]), numbers[to == partition]])
                while len(gathered) >= size:
                    yield side, partition, _columnar(workload, side, gathered[:size]), size
                    gathered = gathered[size:]
                waiting[side, partition] = gathered
    for (side, partition), rest in waiting.items():
        if len(rest):
            yield side, partition, _columnar(workload, side, rest), len(rest)


def _columnar(workload: Workload, side: str, rows: Ints) -> bytes:
    batch = workload.impression_columns(rows) if side == "impressions" else workload.click_columns(rows)
    return COLUMNS_MAGIC + msgspec.msgpack.encode(batch)
