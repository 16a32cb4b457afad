"""Each rule of the checkpoint has a schedule that provokes its breach for certain: the learner passes, the mutant fails."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from faust.types import TP
from prometheus_client import CollectorRegistry

from streams import learner, lifecycle
from streams.checkpoint import Writer
from streams.failpoints import failpoints
from streams.learner import Learner
from streams.lifecycle import StuckError
from streams.metrics import Metrics
from streams.monitoring import Monitor
from streams.reading import bounds, read, reader
from streams.rules import rules
from streams.transport import Progress, RecordBatch
from tests.loop import WORKER, Loop, assert_exact
from tests.mutants import mutant
from tests.oracle import CONFIG, fold, traffic
from tests.test_exactly_once import hour_ago_ms


def program(name: str | None) -> tuple[str, str]:
    """Arguments to python for a worker, whole or broken."""
    return ("-c", WORKER if name is None else f"from tests.mutants import run; run({name!r})")


def exact(loop: Loop, events: list[Any]) -> bool:
    """Whether the committed sums are the oracle's."""
    try:
        assert_exact(loop, *fold(events))
    except AssertionError:
        return False
    return True


# -- a death between the sums' commit and the offsets


@pytest.mark.parametrize(("name", "right"), [(None, True), ("offsets-outside", False)])
def test_offsets_commit_with_the_sums(
    both_brokers: str, prefix: str, tmp_path: Path, name: str | None, right: bool
) -> None:
    """Dying right after the transaction must not make anything count again."""
    events = traffic(7, 2_000, start_ms=hour_ago_ms()).events
    with Loop(both_brokers, prefix, tmp_path, CONFIG, partitions=1) as loop:
        loop.send(events)
        loop.flush()
        loop.start("one", program=program(name), fail_at="checkpoint.committed:1")
        loop.wait_dead("one")
        loop.start("one", program=program(name))
        loop.wait_covered()
        assert exact(loop, events) is right


# -- a restart while much is pending


@pytest.mark.parametrize(("name", "right"), [(None, True), ("rebuild-adds", False)])
def test_a_rebuild_adds_nothing(both_brokers: str, prefix: str, tmp_path: Path, name: str | None, right: bool) -> None:
    """Reading again what is pending must not add it again."""
    events = traffic(8, 1_000, start_ms=hour_ago_ms()).events
    with Loop(both_brokers, prefix, tmp_path, CONFIG, partitions=1) as loop:
        loop.send(events[:-50])
        loop.flush()
        loop.start("one", program=program(name))
        loop.wait_covered()
        loop.kill("one")
        loop.start("one", program=program(name))
        loop.send(events[-50:])
        loop.flush()
        loop.wait_covered()
        assert exact(loop, events) is right


# -- scripted flow: batches by hand, transactions on a real broker


class Script:
    """A transport that the test plays: it keeps what the learner asked for."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.started: dict[TP, int] = {}
        self.rejoins = 0

    def start_flow(self, tp: TP, offset: int) -> None:
        self.started[tp] = offset

    def halt(self, tps: Iterable[TP] | None = None) -> None:
        for tp in list(self.started) if tps is None else tps:
            self.started.pop(tp, None)

    def hold(self, tp: TP, *, held: bool) -> None:
        pass

    def progress(self, tp: TP) -> Progress | None:
        return None

    async def bounds(self, tp: TP) -> tuple[int, int]:
        with reader(self.loop.settings.librdkafka()) as consumer:
            return bounds(consumer, tp.topic, tp.partition, timeout_s=10)

    async def commit_group(self, offsets: Mapping[TP, int]) -> bool:
        return True

    async def rejoin(self) -> None:
        self.rejoins += 1


class Player:
    """A learner on a scripted flow, with every partition assigned."""

    def __init__(self, loop: Loop) -> None:
        settings = loop.settings
        self.script = Script(loop)
        self.loop = loop
        self.failed: list[BaseException] = []
        topics = {
            "posteriors": settings.topics.posteriors,
            "feedback": settings.topics.feedback,
            "dead_letters": settings.topics.dead_letters,
        }
        working = rules(settings)

        def make_writer(number: int) -> Writer:
            identity = f"{settings.learner_group}-{number}"
            return Writer(
                settings.librdkafka(),
                transactional_id=identity,
                partition=number,
                topics=topics,
                timeout_s=60,
                passing=failpoints(None),
            )

        async def fatal(error: BaseException) -> None:
            self.failed.append(error)

        monitor = Monitor(Metrics(CollectorRegistry()), topics=working.topics, partitions=settings.partitions)
        self.learner = Learner(
            working,
            flow=lambda: self.script,
            make_writer=make_writer,
            client=settings.librdkafka(),
            monitor=monitor,
            fatal=fatal,
        )

    async def join(self) -> None:
        """Get partition 0 of both topics, and wait until it flows."""
        names = self.loop.settings.topics
        self.learner.on_assigned([TP(names.impressions, 0), TP(names.clicks, 0)])
        await self.until(lambda: len(self.script.started) == 2)

    async def until(self, condition: Any) -> None:
        """Wait for something, a minute at most."""
        end = time.monotonic() + 60
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(self.failed or "did not happen within a minute")
            await asyncio.sleep(0.05)

    def give(self, topic: str, start: int, end: int) -> None:
        """Hand over the records [start, end) of partition 0 as the transport would."""
        with reader(self.loop.settings.librdkafka()) as consumer:
            records = [record for batch in read(consumer, topic, 0, start, end, timeout_s=10) for record in batch]
        self.learner.take(RecordBatch(topic, 0, start, end, records))

    async def checkpoint(self) -> None:
        """One checkpoint of partition 0."""
        await self.learner.checkpoint(self.learner.lifecycles[0])


def scripted(test: Any) -> Any:
    """Run an async test."""

    @functools.wraps(test)
    def wrapped(*args: Any, **more: Any) -> None:
        asyncio.run(test(*args, **more))

    return wrapped


@pytest.mark.parametrize(("name", "right"), [(None, True), ("no-contiguity", False)])
@scripted
async def test_a_batch_that_leaves_a_gap_is_refused(
    both_brokers: str, prefix: str, tmp_path: Path, name: str | None, right: bool
) -> None:
    """When the flow loses a fetch, the learner asks for it again instead of going on behind it."""
    events = traffic(9, 400, start_ms=hour_ago_ms()).events
    with mutant(name), Loop(both_brokers, prefix, tmp_path, CONFIG, partitions=1) as loop:
        loop.send(events)
        loop.flush()
        player = Player(loop)
        await player.join()
        names = loop.settings.topics
        ends = {topic: (await player.script.bounds(TP(topic, 0)))[1] for topic in (names.impressions, names.clicks)}
        player.give(names.clicks, 0, ends[names.clicks])
        player.give(names.impressions, 0, 50)
        player.script.started.clear()
        player.give(
            names.impressions, 120, ends[names.impressions]
        )  # 50 to 119 were fetched and discarded by a rebalance
        if right:
            await player.until(lambda: player.script.started.get(TP(names.impressions, 0)) == 50)
            player.give(names.impressions, 50, ends[names.impressions])
        await player.checkpoint()
        assert exact(loop, events) is right


@pytest.mark.parametrize("hangs", ["recovery", "rebalance"])
@scripted
async def test_what_hangs_ends_the_worker(
    local_broker: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: str
) -> None:
    """A client's thread that never returns, or a group that never agrees, is not waited for for ever."""
    monkeypatch.setattr(lifecycle, "STUCK_S", 0.5)
    let_go = threading.Event()
    with Loop(local_broker, prefix, tmp_path, CONFIG, partitions=1) as loop:
        player = Player(loop)
        if hangs == "recovery":
            monkeypatch.setattr(learner, "recover", lambda *_, **__: let_go.wait(120))
            names = loop.settings.topics
            player.learner.on_assigned([TP(names.impressions, 0), TP(names.clicks, 0)])
        else:
            await player.join()
            player.learner.on_revoked()
        running = asyncio.create_task(player.learner.run())
        await player.until(lambda: player.failed)
        running.cancel()
        let_go.set()
        assert isinstance(player.failed[0], StuckError)
        assert hangs in str(player.failed[0])


@scripted
async def test_an_older_log_ends_the_worker(local_broker: str, prefix: str, tmp_path: Path) -> None:
    """Batches from below the position mean nothing by themselves; if the log ends below it, going on would lose events."""
    events = traffic(9, 100, start_ms=hour_ago_ms()).events
    with Loop(local_broker, prefix, tmp_path, CONFIG, partitions=1) as loop:
        loop.send(events)
        loop.flush()
        player = Player(loop)
        await player.join()
        topic = loop.settings.topics.impressions
        player.give(topic, 0, 50)
        player.give(topic, 0, 50)
        await asyncio.sleep(0.3)
        assert not player.failed
        state = player.learner.lifecycles[0].state
        assert state is not None
        state.positions["impressions"] = 10_000
        player.give(topic, 0, 50)
        await player.until(lambda: player.failed)
        assert "the broker has an older log" in str(player.failed[0])


@pytest.mark.parametrize(("name", "right"), [(None, True), ("fenced-initialises-again", False)])
@scripted
async def test_a_fenced_worker_gives_up(
    both_brokers: str, prefix: str, tmp_path: Path, name: str | None, right: bool
) -> None:
    """Of two workers that both believe to have a partition, the older gives up, and the newer is never fenced by it."""
    events = traffic(10, 400, start_ms=hour_ago_ms()).events
    with mutant(name), Loop(both_brokers, prefix, tmp_path, CONFIG, partitions=1) as loop:
        loop.send(events)
        loop.flush()
        names = loop.settings.topics
        sleeper, owner = Player(loop), Player(loop)
        await sleeper.join()
        sleeper.give(names.impressions, 0, 100)
        await owner.join()
        owner.give(names.impressions, 0, 200)
        await sleeper.checkpoint()  # it wakes up: fenced
        await owner.checkpoint()
        assert (sleeper.script.rejoins == 1 and owner.script.rejoins == 0) is right
        assert (sleeper.learner.lifecycles[0].state is None and owner.learner.lifecycles[0].state is not None) is right


def test_every_mutant_has_its_schedule() -> None:
    """A mutant that no test runs would be a rule that no test checks."""
    from tests.mutants import MUTANTS

    source = Path(__file__).read_text()
    assert all(f'("{name}", False)' in source for name in MUTANTS)
