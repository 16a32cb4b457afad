"""Following the feedback topic for the leader: matured rows of the policies that learn from them, a bounded number a tick.

Where a policy has no position yet, it begins at the end: rows from before were shown before any means were kept, so they could
not be scored, and days of them would hold up those that can.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import structlog
from confluent_kafka import Consumer, TopicPartition

from policies.meta_state import Rows
from policies.robust import clip_contexts
from streams.events import COLUMNS_MAGIC, EventError
from streams.feedback import counts, decode
from streams.reading import ReadError, bounds, partition_count, reader
from streams.settings import Settings

log = structlog.get_logger(__name__)

ROWS_A_TICK = 20_000
"""Rows after which the rest waits for the next tick, so that snapshots are not delayed."""
SECONDS_A_TICK = 0.2
"""As ROWS_A_TICK: what a record tells is the same in whichever tick it is judged."""
TIMEOUT_S = 10.0


class _Head(msgspec.Struct, frozen=True):
    type: str
    policy: str
    n: int


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the feedback topic: ``rows`` are those that learn, None if it holds none of a policy that is followed."""

    partition: int
    next_offset: int
    policy: str | None
    rows: Rows | None
    read: int


class FeedbackFollower:
    """Committed feedback records from given positions on; close it when it is not needed any more.

    ``limits``: of each policy that is followed, what contexts are cut to (None for nothing).
    """

    def __init__(self, settings: Settings, *, limits: Mapping[str, float | None]) -> None:
        client, self._topic = settings.librdkafka(), settings.topics.feedback
        self._limits = limits
        self._open = ExitStack()
        self._consumer: Consumer = self._open.enter_context(reader(client))
        try:
            self.bounds = {
                number: bounds(self._consumer, self._topic, number, timeout_s=TIMEOUT_S)
                for number in range(partition_count(client, self._topic))
            }
            self.ended: set[int] = (
                set()
            )  # partitions that had nothing left to read at a moment of the last call of `records`
            self._begun: set[int | None] = set()  # those that had more since
        except ReadError:
            self.close()
            raise

    def start(self, positions: Mapping[int, int]) -> None:
        """Read from these offsets by partition on; those that retention deleted are told and passed over."""
        assigned = []
        for number, (low, high) in self.bounds.items():
            at = positions.get(number, high)
            if at < low:
                log.warning("matured rows were deleted before they were judged", partition=number, records=low - at)
            assigned.append(TopicPartition(self._topic, number, min(max(at, low), high)))
        self.ended, self._begun = set(), set()
        self._consumer.assign(assigned)

    def records(self) -> Iterator[Record]:
        """What has come, until there is no more, `ROWS_A_TICK` rows were read or SECONDS_A_TICK have passed. Raises ReadError."""
        self.ended -= self._begun
        self._begun = set()
        read, until = 0, time.monotonic() + SECONDS_A_TICK
        while read < ROWS_A_TICK and time.monotonic() < until:
            messages = self._consumer.consume(1, timeout=0.0)
            if not messages:
                return
            message = messages[0]
            error = message.error()
            if error is not None:
                if error.fatal():
                    raise ReadError(error.str())
                if error.name() == "_PARTITION_EOF":
                    self._reached_end(message)
                continue
            self._begun.add(message.partition())
            record = self._record(message)
            read += record.read
            yield record

    def _reached_end(self, message: Any) -> None:
        self.ended.add(message.partition())
        self._begun.discard(message.partition())

    def _record(self, message: Any) -> Record:
        number, following, value = message.partition(), message.offset() + 1, message.value()
        head = _head(value)
        if head is None or head.type != "matured" or head.policy not in self._limits:
            return Record(number, following, None, None, 0)
        try:
            rows = rows_of(decode(value), self._limits[head.policy])
        except EventError as error:
            log.warning("a feedback record cannot be judged", partition=number, offset=message.offset(), why=str(error))
            rows = None
        return Record(number, following, head.policy, rows, head.n)

    def close(self) -> None:
        """End the consumer."""
        self._open.close()


def _head(value: bytes | None) -> _Head | None:
    if value is None or value[:4] != COLUMNS_MAGIC:
        return None
    try:
        return msgspec.msgpack.decode(memoryview(value)[4:], type=_Head)
    except msgspec.MsgspecError:
        return None


def rows_of(columns: Mapping[str, Any], limit: float | None) -> Rows | None:
    """Rows of a matured record that learn.

    Passed over are fallbacks and fixed choices (no snapshot, propensity 1), and impressions that never became viewable or were taken back.
    """
    learns = np.flatnonzero(((columns["snapshot"] >= 0) | (columns["propensity"] < 1.0)) & counts(columns))
    if not len(learns):
        return None
    age_ms, slot = columns.get("age_ms"), columns.get("slot")
    group, kind, unit = columns.get("group"), columns.get("propensity_kind"), columns.get("unit")
    return Rows(
        arm=[columns["arm"][i] for i in learns.tolist()],
        ts=columns["impression_ts"][learns],
        x=clip_contexts(columns["context"][learns], limit),
        reward=columns["reward"][learns],
        age_ms=None if age_ms is None else age_ms[learns],
        group=None if group is None else group[learns].astype(np.int64),
        snapshot=columns["snapshot"][learns],
        propensity=columns["propensity"][learns],
        exact=None if kind is None else kind[learns] == 0,
        slot=None if slot is None else [slot[i] for i in learns.tolist()],
        unit=None if unit is None else unit[learns],
    )
