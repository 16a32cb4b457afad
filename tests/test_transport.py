"""The batch transport in a Faust app on Apache Kafka: every batch says honestly for which offsets it is complete.

A reader stands in for the learner: it drops what lies below its position, refuses what starts above it, and checks every
batch against the log as librdkafka reads it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)
from faust.types import TP

from streams.app import faust_app
from streams.reading import SimpleRecord, bounds, read, reader
from streams.settings import Settings
from streams.transport import BatchSchema, BatchThread, RecordBatch
from tests.broker import ApacheKafka, wait_until_serving, why_no_apache_kafka
from tests.settling import settled
from tests.waiting import wait_for

pytestmark = pytest.mark.filterwarnings("ignore")  # Faust in this process has many of its own

COMPACT = {
    "cleanup.policy": "compact",
    "segment.ms": "1000",
    "min.cleanable.dirty.ratio": "0.01",
    "max.compaction.lag.ms": "1000",
}


@pytest.fixture(scope="module")
def kafka() -> Iterator[ApacheKafka]:
    """A broker of this file's own, which one test kills and starts again."""
    reason = why_no_apache_kafka()
    if reason is not None:
        pytest.skip(f"no Apache Kafka: {reason}")
    made = ApacheKafka()
    try:
        made.start()
        yield made
    finally:
        made.remove()


@pytest.fixture
def settings(kafka: ApacheKafka, prefix: str) -> Settings:
    return Settings(bootstrap=kafka.bootstrap, prefix=prefix, session_timeout_s=3.0)


def create(settings: Settings, *, partitions: int = 1, config: dict[str, str] | None = None) -> str:
    """A topic. Returns its name."""
    name = settings.topic("in")
    admin = AdminClient(settings.librdkafka())
    for future in admin.create_topics([NewTopic(name, partitions, 1, config=config or {})]).values():
        future.result(20)
    return name


def write(
    settings: Settings, topic: str, keys: list[str], *, end: str | None = None, value: bytes | None = b"v"
) -> None:
    """One batch of records by a producer of its own: idempotent, or in a transaction that ends so (commit, abort)."""
    more = {"enable.idempotence": True} if end is None else {"transactional.id": f"{topic}-{keys[0]}-{end}"}
    producer = Producer(settings.librdkafka() | {"linger.ms": 50} | more)
    if end is not None:
        producer.init_transactions(60)
        producer.begin_transaction()
    for key in keys:
        producer.produce(topic, key=key, value=value, partition=0)
    assert producer.flush(60) == 0
    if end == "commit":
        producer.commit_transaction(60)
    if end == "abort":
        producer.abort_transaction(60)


def log_of(settings: Settings, tp: TP) -> tuple[list[SimpleRecord], int]:
    """Committed records of a partition, and the offset after the last, markers included."""
    with reader(settings.librdkafka()) as consumer:
        _, end = bounds(consumer, tp.topic, tp.partition, timeout_s=10)
        found = [one for batch in read(consumer, tp.topic, tp.partition, 0, None, timeout_s=10) for one in batch]
    return found, end


class Positions:
    """What readers share, as learners share their checkpoints: the next offset of each partition, and what was accepted."""

    def __init__(self) -> None:
        self.next: dict[TP, int] = {}
        self.offsets: dict[TP, list[int]] = {}
        self.batches: list[RecordBatch] = []
        self.refused = 0
        self.dropped = 0

    def take(self, batch: RecordBatch) -> bool:
        """Accept what continues at the position; False if the batch leaves a gap."""
        tp = TP(batch.topic, batch.partition)
        position = self.next.setdefault(tp, 0)
        self.batches.append(batch)
        if batch.start > position:
            self.refused += 1
            return False
        self.dropped += batch.start < position
        if batch.end > position:
            new = [record.offset for record in batch.records if record.offset >= position]
            self.offsets.setdefault(tp, []).extend(new)
            self.next[tp] = batch.end
        return True

    def check(self, settings: Settings, *tps: TP) -> None:
        """Every batch held what the log has in its offsets; together they are the log, each offset once, to its end."""
        for tp in tps:
            records, end = log_of(settings, tp)
            offsets = [record.offset for record in records]
            assert self.next[tp] == end
            assert self.offsets[tp] == offsets
            for batch in self.batches:
                if (batch.topic, batch.partition) == tp:
                    assert batch.start < batch.end
                    inside = [offset for offset in offsets if batch.start <= offset < batch.end]
                    assert [record.offset for record in batch.records] == inside


@asynccontextmanager
async def reading(settings: Settings, topic: str, positions: Positions) -> AsyncIterator[BatchThread]:
    """A Faust app whose agent hands batches to `positions` and asks again after a gap."""
    app = faust_app(settings, settings.learner_group, topic_disable_leader=True)

    async def take(stream: Any) -> None:
        async for batch in stream:
            tp = TP(batch.topic, batch.partition)
            if not positions.take(batch):
                app.consumer.batches.start_flow(tp, positions.next[tp])  # type: ignore[attr-defined]

    async def assigned(_: Any, tps: set[TP], **__: Any) -> None:
        for tp in tps:
            if tp.topic == topic:
                app.consumer.batches.start_flow(tp, positions.next.get(tp, 0))  # type: ignore[attr-defined]

    app.agent(app.topic(topic, schema=BatchSchema(), acks=False), name="take")(take)
    app.on_partitions_assigned.connect(assigned, weak=False)  # type: ignore[arg-type]
    await app.start()
    try:
        yield app.consumer.batches  # type: ignore[attr-defined]
    finally:
        await asyncio.wait_for(app.stop(), 60)


async def until(reached: Callable[[], Any], timeout_s: float = 90.0) -> None:
    end = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


def stay_as_it_is(settings: Settings, topic: str) -> None:
    """End compaction, so that a later comparison meets the same log."""
    entry = ConfigEntry("cleanup.policy", "delete", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient(settings.librdkafka())
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(20)
    before, over = None, time.monotonic() + 60
    while (now := log_of(settings, TP(topic, 0))) != before:  # a cleaning that has begun ends
        assert time.monotonic() < over
        before = now
        time.sleep(2.0)


def with_gaps(settings: Settings) -> TP:
    """A partition with tombstones, offsets that compaction emptied, and transactions of both ends, the last one aborted."""
    topic = create(settings, config=COMPACT)
    write(settings, topic, [f"k{i}" for i in range(10)])  # all written again below: compaction leaves an empty batch
    write(settings, topic, [f"k{i}" for i in range(5)], end="commit")
    write(settings, topic, [f"a{i}" for i in range(5)], end="abort")
    write(settings, topic, [f"m{i}" for i in range(6)])
    write(settings, topic, [f"k{i}" for i in range(10)])
    write(settings, topic, ["m1", "m3"], value=None)
    end = time.monotonic() + 90
    while True:  # a new segment is made when something is written, and only older ones are compacted
        time.sleep(1.1)
        write(settings, topic, ["last"])
        offsets = [record.offset for record in log_of(settings, TP(topic, 0))[0]]
        if offsets[0] >= 10 and sum(offset < 40 for offset in offsets) < 20:
            break
        assert time.monotonic() < end, f"not compacted: {offsets}"
    stay_as_it_is(settings, topic)
    write(settings, topic, ["tombstone"], value=None)
    write(settings, topic, ["never"], end="abort")
    wait_for(lambda: settled(settings.bootstrap, topic, 0))
    return TP(topic, 0)


def test_batches_are_complete_over_gaps_of_every_kind(settings: Settings) -> None:
    """Compaction, tombstones, committed and aborted transactions, also at either end, with batches of any size."""
    tp = with_gaps(settings)
    _, end = log_of(settings, tp)

    async def run(positions: Positions) -> None:
        async with reading(settings, tp.topic, positions):
            await until(lambda: positions.next.get(tp, 0) >= end)

    for limit in (5_000, 1, 3):
        positions = Positions()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("streams.transport.MAX_RECORDS", limit)
            asyncio.run(run(positions))
        positions.check(settings, tp)
        assert positions.refused == 0
        assert any(not batch.records for batch in positions.batches) or limit > 1
        assert sum(batch.end - batch.start for batch in positions.batches) > 2 * len(positions.offsets[tp])
        assert None in [record.value for batch in positions.batches for record in batch.records]

    class Naive(BatchThread):
        """Broken: takes the records' own offsets for what a batch is complete for."""

        def _take(self, fetcher: Any, tp: Any, limit: int) -> RecordBatch | None:
            batch = super()._take(fetcher, tp, limit)
            if batch is None or not batch.records:
                return None
            return RecordBatch(
                batch.topic, batch.partition, batch.records[0].offset, batch.records[-1].offset + 1, batch.records
            )

    async def refused(positions: Positions) -> None:
        async with reading(settings, tp.topic, positions):
            await until(lambda: positions.refused > 3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streams.transport.BatchThread", Naive)
        asyncio.run(refused(positions := Positions()))
    assert positions.next[tp] < end


class Load:
    """Writes to all partitions of a topic in a thread, in transactions of which every third is aborted, until stopped."""

    def __init__(self, settings: Settings, topic: str, partitions: int) -> None:
        self.settings, self.topic, self.partitions = settings, topic, partitions
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.thread.join()

    def _run(self) -> None:
        plain = Producer(self.settings.librdkafka() | {"linger.ms": 5, "enable.idempotence": True, "log_level": 0})
        number = 0
        while not self.stopped.wait(0.02):
            for partition in range(self.partitions):
                for _ in range(50):
                    plain.produce(self.topic, key=str(number), value=b"x" * 50, partition=partition)
                    number += 1
            plain.poll(0)
            if number % 1500 == 0:
                self._transaction(number)
        assert plain.flush(30) == 0

    def _transaction(self, number: int) -> None:
        mine = {"transactional.id": f"{self.topic}-{number}", "transaction.timeout.ms": 5000, "log_level": 0}
        writer = Producer(self.settings.librdkafka() | mine)
        try:
            writer.init_transactions(2)
            writer.begin_transaction()
            for partition in range(self.partitions):
                writer.produce(self.topic, value=b"in a transaction", partition=partition)
            writer.flush(2)
            (writer.abort_transaction if number % 4500 == 0 else writer.commit_transaction)(2)
        except Exception:  # noqa: BLE001, S110 - the broker is away: the transaction times out
            pass


async def to_the_end(settings: Settings, positions: Positions, tps: list[TP]) -> None:
    """Wait until all that was written has been accepted; a transaction that was left open ends first."""
    for tp in tps:
        await asyncio.to_thread(wait_for, partial(settled, settings.bootstrap, tp.topic, tp.partition))
    ends = {tp: (await asyncio.to_thread(log_of, settings, tp))[1] for tp in tps}
    await until(lambda: all(positions.next.get(tp, 0) >= ends[tp] for tp in tps))


def test_no_offset_is_lost_or_doubled_by_seeks_and_rebalances(settings: Settings) -> None:
    """Under load: seeks backwards and to where it is, halts, members that come and go, one that only rejoins."""
    topic = create(settings, partitions=2)
    tps = [TP(topic, 0), TP(topic, 1)]
    positions = Positions()

    async def disturbed(flow: BatchThread, disturb: Callable[[], Awaitable[None]]) -> None:
        await disturb()
        before = dict(positions.next)
        await until(lambda: all(positions.next.get(tp, 0) > before.get(tp, 0) for tp in tps))

    async def run() -> None:
        async with reading(settings, topic, positions) as flow:

            async def seek_back() -> None:
                for back in (0, 1, 300):
                    for tp in tps:
                        flow.start_flow(tp, max(0, positions.next.get(tp, 0) - back))
                    await asyncio.sleep(0.05)

            async def halt() -> None:
                async def turn() -> None:
                    was = positions.next[tps[1]]
                    await until(lambda: positions.next[tps[1]] > was)

                flow.halt(tps[:1])
                await turn()
                await turn()  # batches are handed over in order: what was under way has come
                held = positions.next[tps[0]]
                await turn()
                await turn()
                assert positions.next[tps[0]] == held
                flow.start_flow(tps[0], held)

            async def come_and_go() -> None:
                async with reading(settings, topic, positions):
                    before = dict(positions.next)
                    await until(lambda: all(positions.next[tp] > before[tp] for tp in tps))

            for disturb in (seek_back, halt, flow.rejoin, seek_back, come_and_go):
                await disturbed(flow, disturb)
            load.stopped.set()
            await asyncio.to_thread(load.thread.join)
            await to_the_end(settings, positions, tps)

    with Load(settings, topic, 2) as load:
        asyncio.run(run())
    positions.check(settings, *tps)
    assert positions.dropped > 0


def test_a_seek_forwards_leaves_a_gap_that_is_seen(settings: Settings) -> None:
    """Somebody else moved the consumer: the next batch starts above the position and says so."""
    topic = create(settings)
    tp = TP(topic, 0)
    write(settings, topic, [f"k{i}" for i in range(100)])
    positions = Positions()

    async def run() -> None:
        async with reading(settings, topic, positions) as flow:
            await until(lambda: positions.next.get(tp) == 100)
            flow.halt([tp])
            write(settings, topic, [f"k{i}" for i in range(100)])
            flow.start_flow(tp, 150)
            await until(lambda: positions.next.get(tp) == 200)

    asyncio.run(run())
    positions.check(settings, tp)
    assert positions.refused > 0
    assert next(batch.start for batch in positions.batches if batch.end > 100) == 150


def test_bounds_and_progress_are_the_brokers(settings: Settings) -> None:
    """The end is the last stable offset: an open transaction is nothing that is left to read."""
    topic = create(settings, partitions=2)
    tp = TP(topic, 0)
    write(settings, topic, ["a", "b", "c"])
    positions = Positions()

    async def run() -> None:
        async with reading(settings, topic, positions) as flow:
            await until(lambda: positions.next.get(tp) == 3)
            assert await flow.bounds(tp) == (0, 3)
            assert await flow.bounds(TP(topic, 1)) == (0, 0)
            assert flow.progress(TP("another", 0)) is None
            pending = Producer(settings.librdkafka() | {"transactional.id": topic})
            pending.init_transactions(60)
            pending.begin_transaction()
            pending.produce(topic, value=b"open", partition=0)
            pending.flush(60)
            first = flow.progress(tp)
            assert first is not None
            await until(lambda: (now := flow.progress(tp)) is not None and now.answered_ms > first.answered_ms + 200)
            assert flow.progress(tp).end == 3  # type: ignore[union-attr]
            assert positions.next[tp] == 3
            pending.commit_transaction(60)
            await until(lambda: positions.next[tp] == 5)
            await until(lambda: flow.progress(tp).end == 5)  # type: ignore[union-attr]
            over = time.monotonic() + 60
            while not await flow.commit_group({tp: 5}):  # out of the group for a moment
                assert time.monotonic() < over

    asyncio.run(run())
    positions.check(settings, tp)


def test_no_offset_is_lost_or_doubled_by_a_broker_that_dies(kafka: ApacheKafka, settings: Settings) -> None:
    """Killed and started again under load: the app comes back by itself and goes on where it was."""
    topic = create(settings, partitions=2)
    tps = [TP(topic, 0), TP(topic, 1)]
    positions = Positions()

    def again() -> None:
        kafka.kill()
        kafka.start()
        wait_until_serving(kafka.bootstrap)

    async def run() -> None:
        async with reading(settings, topic, positions):
            await until(lambda: all(positions.next.get(tp, 0) > 500 for tp in tps))
            await asyncio.to_thread(again)
            before = dict(positions.next)
            await until(lambda: all(positions.next[tp] > before[tp] + 500 for tp in tps))
            load.stopped.set()
            await asyncio.to_thread(load.thread.join)
            await to_the_end(settings, positions, tps)

    with Load(settings, topic, 2) as load:
        asyncio.run(run())
    positions.check(settings, *tps)
