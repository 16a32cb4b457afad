"""What the encoder reads: requests by a consumer group, as long as there is room, and the commits of what is answered.

When requests that have no safe answer take the memory that they may, nothing is read until half of it is free: Kafka keeps the rest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from streams import logs, security
from streams.reading import QUIET, ReadError, SimpleRecord, of_message

if TYPE_CHECKING:
    from streams.encoder_flow import Flow, Submit
    from streams.settings import Settings

TAKEN = 500
"""Records that are taken from the consumer at a time."""
COMMIT_S = 0.4
WAIT_S = 0.05
_BY_ITSELF = frozenset({KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE})
"""What librdkafka tells while brokers are away; it connects again."""

log = logs.get(__name__)


class Input:
    """The consumer of one worker; all of it belongs to one thread.

    Args:
        flow: takes what is read, and tells what may be committed.
        pipeline: encodes.
        catch_up: reads which vectors there are already; called before the first request and after the group has changed.
            It asks its argument now and then whether to go on. It raises ReadError when the brokers do not answer, and is
            called again.
        ended: set when reading is to end.
        fatal: called with an error after which reading cannot go on.
    """

    def __init__(
        self,
        settings: Settings,
        flow: Flow,
        pipeline: Submit,
        *,
        catch_up: Callable[[Callable[[], bool]], None],
        ended: threading.Event,
        fatal: Callable[[BaseException], None],
    ) -> None:
        self._flow, self._pipeline, self._catch_up = flow, pipeline, catch_up
        self._ended, self._fatal = ended, fatal
        self._topic = settings.topics.embedding_requests
        self._most = int(settings.encoder.queue_mb * 1e6)
        self._behind = True  # whether there may be vectors that are not known here
        self.why = "reading what is encoded already"
        self.beat = time.monotonic()
        instance = settings.instance_id
        self._consumer = Consumer(
            security.librdkafka(settings)
            | {
                "group.id": settings.encoder_group,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "session.timeout.ms": int(settings.session_timeout_s * 1000),
                "queued.max.messages.kbytes": 8_192,
                "log_level": QUIET,
            }
            | ({} if instance is None else {"group.instance.id": instance})
        )

    def follow(self) -> None:
        """Read until it is to end."""
        self._consumer.subscribe([self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
        committed = 0.0
        while not self._ended.is_set():
            self.beat = time.monotonic()
            if self.beat - committed > COMMIT_S:
                committed = self.beat
                self.commit()
            if self._behind:
                self._be_up_to_date()
            elif self._flow.wait(self._most, COMMIT_S):
                self._take(TAKEN, WAIT_S)
            else:
                self._hold()

    def commit(self, *, wait: bool = False) -> None:
        """Commit what is answered."""
        offsets = [TopicPartition(self._topic, p, offset) for p, offset in self._flow.committable().items()]
        if not offsets:
            return
        try:
            if wait:
                self._consumer.commit(offsets=offsets, asynchronous=False)
            else:
                self._consumer.commit(offsets=offsets)
        except KafkaException as error:
            log.warning("offsets were not committed; what they cover is read again", why=str(error))

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()

    def _assigned(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._behind = True  # another worker may have answered what is read next
        self._flow.forget([one.partition for one in partitions])
        log.info("partitions assigned", partitions=sorted(one.partition for one in partitions))

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.commit(wait=True)
        self._lost(consumer, partitions)

    def _lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._flow.forget([one.partition for one in partitions])

    def _be_up_to_date(self) -> None:
        try:
            self._catch_up(self._goes_on)
        except ReadError as error:
            self.why = f"reading what is encoded already: {error}"
            log.warning("cannot read what is encoded already; trying again", why=str(error))
            self._ended.wait(1.0)
        else:
            self._behind, self.why = False, ""

    def _goes_on(self) -> bool:
        """A sign of life of something long; whether it is to go on."""
        self.beat = time.monotonic()
        return not self._ended.is_set()

    def _take(self, most: int, timeout_s: float) -> None:
        records: list[tuple[int, SimpleRecord]] = []
        for message in self._consumer.consume(most, timeout=timeout_s):
            if message.error() is None:
                records.append((int(message.partition() or 0), of_message(message)))
            else:
                self._hear(message.error())
        while self._behind and not self._ended.is_set():
            self._be_up_to_date()
        if records and not self._ended.is_set():
            self._flow.take(records, self._pipeline)

    def _hold(self) -> None:
        """Stay in the group without reading, until half of the memory is free or it is to end."""
        self._consumer.pause(self._consumer.assignment())
        while not self._ended.is_set() and not self._flow.wait(self._most // 2, COMMIT_S):
            self.beat = time.monotonic()
            self.commit()
            self._take(1, 0.0)  # what a partition has that came in the meantime
        self._consumer.resume(self._consumer.assignment())

    def _hear(self, error: Any) -> None:
        if error.fatal():
            self._fatal(RuntimeError(f"the consumer cannot go on: {error.str()}"))
        elif error.code() not in _BY_ITSELF:
            log.warning("the consumer says", what=error.str())
