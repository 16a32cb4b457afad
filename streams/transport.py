"""A Faust transport that hands over whole fetches: one message for each (partition, fetch) of a topic marked with `BatchSchema`.

Registered as the entry point ``faust.transports`` / ``clickloop``, so a broker address ``clickloop://host:port`` selects it. Its
consumer differs from Faust's own in these points:

- A batch says for which offsets it is complete, ``[start, end)``: gaps left by compaction, transactions and empty batches
  included, also when no record is left in it. The label is taken from aiokafka's position before and after the records
  are drained, in one step without an await.
- Nothing but the fetch loop moves the consumer. A seek is a request, applied between two fetches; group offsets move nothing.
- A partition flows only between `start` and the next rebalance or `stop`. What the loop discards on the way (a rebalance came)
  is read again, because whoever starts the partition again says from where.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import aiokafka
import faust
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import CommitFailedError, ConsumerStoppedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata
from aiokafka.structs import TopicPartition as KafkaTP
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from streams.logs import get_logger

log = get_logger(__name__)

MAX_RECORDS = 5_000
FETCH_BYTES = (
    64 * 1024
)  # or what has come within FETCH_WAIT_MS: a fetch for every few records would cost most of the time
FETCH_WAIT_MS = 50  # while the broker waits for more of one partition, nothing else is fetched from it


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """The records of one partition in one fetch, complete for the offsets [start, end)."""

    topic: str
    partition: int
    start: int
    end: int
    records: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a partition ended when the broker last answered. ``answered_ms`` names the answer: it differs for each."""

    end: int
    answered_ms: int


class BatchSchema(faust.Schema):  # type: ignore[type-arg]
    """Marks a topic as batched: the value of a message is a `RecordBatch`, undecoded."""

    def compile(self, app: Any, **_: Any) -> Any:
        """The decoder that Faust calls for each message: it passes the batch on."""

        async def decode(message: Any, *, propagate: bool = False) -> Any:
            return app.create_event(None, message.value, message.headers, message)

        return decode


class BatchThread(driver.AIOKafkaConsumerThread):
    """aiokafka in its own thread and event loop; requests reach it through a lock or a call."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._lock = threading.Lock()
        self._flowing: set[TP] = set()
        self._held: set[TP] = set()
        self._seeks: dict[TP, int] = {}

    def start_flow(self, tp: TP, offset: int) -> None:
        """Let a partition flow from an offset; takes effect before the next fetch."""
        with self._lock:
            self._seeks[tp] = offset
            self._flowing.add(tp)
            self._held.discard(tp)

    def halt(self, tps: Iterable[TP] | None = None) -> None:
        """Let partitions, or all, flow no more."""
        with self._lock:
            for tp in list(self._flowing) if tps is None else tps:
                self._flowing.discard(tp)
                self._seeks.pop(tp, None)
                self._held.discard(tp)

    def hold(self, tp: TP, *, held: bool) -> None:
        """Let what has been fetched of a partition lie, and fetch no more of it, until it is held no longer."""
        with self._lock:
            (self._held.add if held else self._held.discard)(tp)

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        conf = self.app.conf
        self._assignor = RangePartitionAssignor  # equal numbers of one partition meet in one worker
        return aiokafka.AIOKafkaConsumer(
            client_id=conf.broker_client_id,
            group_id=conf.id,
            group_instance_id=conf.consumer_group_instance_id,
            bootstrap_servers=driver.server_list(transport.url, transport.default_port),
            partition_assignment_strategy=[RangePartitionAssignor],
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_poll_interval_ms=int((conf.broker_max_poll_interval or 300) * 1000),
            max_partition_fetch_bytes=conf.consumer_max_fetch_size,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            fetch_min_bytes=FETCH_BYTES,
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            check_crcs=conf.broker_check_crcs,
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
            metadata_max_age_ms=conf.consumer_metadata_max_age_ms,
            retry_backoff_ms=100,
            isolation_level="read_committed",
            **driver.credentials_to_aiokafka_auth(conf.broker_credentials, conf.ssl_context),
        )

    async def fetch(self, timeout_s: float) -> list[RecordBatch]:
        """The next batches; empty if none came in time, or the flow is stopped."""
        return cast("list[RecordBatch]", await self.call_thread(self._fetch, timeout_s))

    async def _fetch(self, timeout_s: float) -> list[RecordBatch]:
        consumer = self._ensure_consumer()
        fetcher = consumer._fetcher
        if consumer._closed or fetcher._closed:
            raise ConsumerStoppedError
        consumer._coordinator.check_errors()
        if not self.consumer.flow_active:
            return []
        with fetcher._subscriptions.fetch_context():
            batches = self._drain(consumer)
            if not batches:
                waiter = fetcher._create_fetch_waiter()
                _, pending = await asyncio.wait([waiter], timeout=timeout_s)
                for waiting in pending:
                    waiting.cancel()
                batches = self._drain(consumer)
        return batches

    def _drain(self, consumer: aiokafka.AIOKafkaConsumer) -> list[RecordBatch]:
        """Apply the seeks, then take what has been fetched. One step: no await between position, records and position."""
        fetcher = consumer._fetcher
        if not self.consumer.flow_active or fetcher._subscriptions.reassignment_in_progress:
            return []
        with self._lock:
            seeks, self._seeks = self._seeks, {}
            flowing = self._flowing - self._held
        assigned = set(consumer.assignment())
        for tp, offset in seeks.items():
            if tp in assigned:
                consumer.seek(KafkaTP(tp.topic, tp.partition), offset)
        batches: list[RecordBatch] = []
        left = MAX_RECORDS
        for tp in list(fetcher._records):
            if left <= 0:
                break
            if (tp.topic, tp.partition) not in flowing:
                continue
            batch = self._take(fetcher, tp, left)
            if batch is not None:
                left -= len(batch.records)
                batches.append(batch)
        return batches

    def _take(self, fetcher: Any, tp: Any, limit: int) -> RecordBatch | None:
        fetched = fetcher._records[tp]
        if type(fetched) is not FetchResult:
            del fetcher._records[tp]
            fetcher._notify(fetcher._wait_consume_future)
            fetched.check_raise()
            return None
        if not fetched.check_assignment(tp):
            del fetcher._records[tp]
            fetcher._notify(fetcher._wait_consume_future)
            return None
        partition_records = fetched._partition_records
        partition_records._consumer_record = _as_it_is
        start = partition_records.next_fetch_offset
        records = fetched.getall(limit)
        end = fetched._assignment.state_value(tp).position
        if not fetched.has_more():
            del fetcher._records[tp]
            fetcher._notify(fetcher._wait_consume_future)
        return RecordBatch(tp.topic, tp.partition, start, end, records) if end > start else None

    def progress(self, tp: TP) -> Progress | None:
        """Where the partition ended at the broker's last answer; None if it is not ours or nothing has been answered."""
        consumer = self._consumer
        subscription = None if consumer is None else consumer._subscription.subscription
        assignment = None if subscription is None else subscription.assignment
        if assignment is None:
            return None
        try:
            state = assignment.state_value(KafkaTP(tp.topic, tp.partition))
        except (KeyError, AssertionError):
            return None
        if state is None or state.timestamp is None or state.highwater is None:
            return None
        end = state.highwater if state.lso is None or state.lso < 0 else state.lso
        return Progress(end, state.timestamp)

    async def bounds(self, tp: TP) -> tuple[int, int]:
        """First and next offset of a partition as the broker has them now."""
        return cast("tuple[int, int]", await self.call_thread(self._bounds, tp))

    async def _bounds(self, tp: TP) -> tuple[int, int]:
        consumer, key = self._ensure_consumer(), KafkaTP(tp.topic, tp.partition)
        first, last = await consumer.beginning_offsets([key]), await consumer.end_offsets([key])
        return first[key], last[key]

    async def commit_group(self, offsets: dict[TP, int]) -> bool:
        """Commit offsets to the group: for lag monitors, and as the proof that this member is still in its generation."""
        return cast("bool", await self.call_thread(self._commit_group, offsets))

    async def _commit_group(self, offsets: dict[TP, int]) -> bool:
        consumer = self._ensure_consumer()
        plain = {KafkaTP(tp.topic, tp.partition): OffsetAndMetadata(int(offset), "") for tp, offset in offsets.items()}
        try:
            await asyncio.wait_for(consumer.commit(plain), timeout=5)
        except (CommitFailedError, IllegalStateError, KafkaError, TimeoutError) as error:
            log.debug("group offsets not committed", error=repr(error))
            return False
        return True

    async def rejoin(self) -> None:
        """Ask the group for a new assignment."""
        await self.call_thread(self._rejoin)

    async def _rejoin(self) -> None:
        self._ensure_consumer()._coordinator.request_rejoin()


def _as_it_is(tp: Any, record: Any) -> Any:
    """In place of aiokafka's ConsumerRecord, which costs as much as reading the record: keep the record read."""
    return record


class BatchConsumer(driver.Consumer):
    """Faust's consumer with its own fetch loop."""

    _thread: BatchThread

    def _new_consumer_thread(self) -> BatchThread:
        return BatchThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def batches(self) -> BatchThread:
        """The thread that reads: start, halt, progress, commit."""
        return self._thread

    async def perform_seek(self) -> None:
        """Do nothing: positions come from the state that the learner read back, not from the group."""

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Stop the flow of every partition before anything else happens."""
        self._thread.halt()
        await super().on_partitions_revoked(revoked)

    async def _drain_messages(self, fetcher: Any) -> None:
        try:
            while not (self.should_stop or fetcher.should_stop):
                if not self.flow_active:
                    await self.wait(self.can_resume_flow)  # type: ignore[arg-type]
                    continue
                await self._pass_on(await self._fetched())
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise

    async def _fetched(self) -> list[RecordBatch]:
        try:
            return await self._thread.fetch(FETCH_WAIT_MS / 1000)
        except KafkaError as error:
            if not error.retriable:
                raise
            log.warning("reading failed, trying again", error=repr(error))
            await self.sleep(0.5)
            return []

    async def _pass_on(self, batches: list[RecordBatch]) -> None:
        """Give batches to the agents. What a rebalance interrupts is discarded: it is read again after it."""
        generation = self.app.consumer_generation_id
        for batch in batches:
            if not self.flow_active or self.app.consumer_generation_id != generation:
                return
            try:
                handed_over: Awaitable[None] = self.callback(self._batch_message(batch))
            except KeyError:
                continue
            await self.wait_first(handed_over, self.suspend_flow.wait())

    def _batch_message(self, batch: RecordBatch) -> Any:
        tp = TP(batch.topic, batch.partition)
        timestamp_s = 0.0
        return ConsumerMessage(
            batch.topic,
            batch.partition,
            batch.end - 1,
            timestamp_s,
            0,
            [],
            None,
            cast("Any", batch),
            None,
            0,
            0,
            tp,
            generation_id=self.app.consumer_generation_id,
        )


class Transport(driver.Transport):
    """The transport behind ``clickloop://`` addresses."""

    Consumer: ClassVar[type[BatchConsumer]] = BatchConsumer
    driver_version = f"clickloop batches over aiokafka={aiokafka.__version__}"
