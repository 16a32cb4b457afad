"""The learner: the lifecycle of every partition that this worker has, and the checkpoints of those that flow.

One lifecycle a partition, one task at a time: a lock around recovery, checkpoint and giving up. The producer belongs to the
state it writes. Partitions do not wait for each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import monotonic
from typing import Any, TypeVar

import structlog
from faust.types import TP

from streams.blocks import NoRoomError
from streams.checkpoint import FencedError, UnknownOutcomeError, Writer
from streams.lifecycle import Flow, Lifecycle, StuckError, stuck
from streams.monitoring import Monitor
from streams.pacing import Standing, held
from streams.reading import ReadError
from streams.recovery import StateMismatchError, recover
from streams.state import SIDES, Fetched, GapError, OldBatchError, PartitionState, Rules, Side
from streams.transport import RecordBatch
from streams.watermark import Answer, WatermarkClock

log = structlog.get_logger(__name__)
T = TypeVar("T")

RETRY_S = (0.2, 0.5, 1.0, 2.0)


class Learner:
    """All partitions of one worker.

    ``flow`` is the transport's thread, ``make_writer`` a transactional writer for a partition, ``client`` librdkafka's settings,
    ``fatal`` is called with an error that needs a person, ``interval_s`` the time between two checkpoints.
    """

    def __init__(
        self,
        rules: Rules,
        *,
        flow: Callable[[], Flow],
        make_writer: Callable[[int], Writer],
        client: Mapping[str, Any],
        monitor: Monitor,
        fatal: Callable[[BaseException], Awaitable[None]],
        interval_s: float = 0.4,
    ) -> None:
        self.rules = rules
        self.monitor = monitor
        self.lifecycles: dict[int, Lifecycle] = {}
        self.assigned: frozenset[int] = frozenset()
        self.generation = 0
        self.paused = True
        self._revoked = monotonic()  # when the present rebalance, or the wait for the first assignment, began
        self._flow = flow
        self._make_writer = make_writer
        self._client = client
        self._fatal = fatal
        self._interval_s = interval_s
        self._threads = ThreadPoolExecutor(max_workers=32, thread_name_prefix="partition")
        self._tasks: set[asyncio.Task[None]] = set()
        self._sides: dict[str, Side] = {topic: side for side, topic in rules.topics.items()}

    # -- what the group says

    def on_revoked(self) -> None:
        """A rebalance begins: nothing flows, no checkpoint starts; what is known is kept until the assignment."""
        self.paused = True
        self._revoked = monotonic()
        for lifecycle in self.lifecycles.values():
            lifecycle.flowing = False
        log.info("a rebalance begins")

    def on_assigned(self, tps: Iterable[TP]) -> None:
        """A rebalance ended with these partitions. Recovers what is new, goes on with what was kept, gives up the rest."""
        numbers: dict[Side, set[int]] = {side: set() for side in SIDES}
        for tp in tps:
            if tp.topic in self._sides:
                numbers[self._sides[tp.topic]].add(tp.partition)
        both = numbers["impressions"] & numbers["clicks"]
        if numbers["impressions"] ^ numbers["clicks"]:
            log.error(
                "partitions without their pair are not read",
                partitions=sorted(numbers["impressions"] ^ numbers["clicks"]),
            )
        self.generation += 1
        self.assigned = frozenset(both)
        self.paused = False
        for number in both:
            lifecycle = self.lifecycles.setdefault(number, Lifecycle(number))
            self._spawn(self._bring_up(lifecycle, self.generation))
        for number, lifecycle in list(self.lifecycles.items()):
            if number not in both:
                self._spawn(self._give_up(lifecycle))
        self.monitor.assigned(both)
        log.info("assigned", partitions=sorted(both))

    # -- batches

    def take(self, batch: RecordBatch) -> None:
        """Add a batch; one that leaves a gap is refused and asked for again."""
        lifecycle = self.lifecycles.get(batch.partition)
        if lifecycle is None or lifecycle.state is None or not lifecycle.flowing:
            return
        side = self._sides[batch.topic]
        try:
            joined = lifecycle.state.take(Fetched(side, batch.partition, batch.start, batch.end, batch.records))
        except OldBatchError:
            if side not in lifecycle.looking:
                lifecycle.looking.add(side)
                self._spawn(self._look(lifecycle, side))
            return
        except GapError as error:
            if side not in lifecycle.rewinding:
                log.info("rewinding", reason=str(error))
                lifecycle.rewinding.add(side)
                self._spawn(self._rewind(lifecycle, side))
            return
        lifecycle.rewinding.discard(side)
        lifecycle.came[side] = monotonic()
        self._pace(lifecycle, lifecycle.state)
        self.monitor.took(batch, joined)

    def _pace(self, lifecycle: Lifecycle, state: PartitionState) -> None:
        """Hold the topic that is ahead of the other."""
        now = monotonic()
        standings = {
            side: Standing(state.largest_ts[side], self._unread(state, side), now - lifecycle.came[side])
            for side in SIDES
        }
        for side, waits in held(standings).items():
            self._flow().hold(TP(self.rules.topics[side], state.number), held=waits)

    def _unread(self, state: PartitionState, side: Side) -> bool:
        progress = self._flow().progress(TP(self.rules.topics[side], state.number))
        return progress is not None and state.positions[side] < progress.end

    async def _rewind(self, lifecycle: Lifecycle, side: Side) -> None:
        """Ask for the partition again from the position, after looking whether the broker still has it."""
        tp = TP(self.rules.topics[side], lifecycle.number)
        try:
            first, last = await self._flow().bounds(tp)
        except Exception as error:  # noqa: BLE001 - asked again, whatever it was
            log.warning("bounds unknown, asking again", topic=tp.topic, partition=tp.partition, error=repr(error))
            await asyncio.sleep(0.5)
            lifecycle.rewinding.discard(side)
            if lifecycle.state is not None and lifecycle.flowing:
                self._flow().start_flow(tp, lifecycle.state.positions[side])
            return
        state = lifecycle.state
        if state is None or not lifecycle.flowing or await self._is_older(tp, last, state.positions[side]):
            return
        position = state.positions[side]
        if first > position:
            self.monitor.lost(tp.topic, first - position)
            log.error(
                "records were deleted by retention before they were read",
                topic=tp.topic,
                partition=tp.partition,
                records=first - position,
            )
            state.positions[side] = first
        self._flow().start_flow(tp, state.positions[side])
        lifecycle.rewinding.discard(side)

    async def _look(self, lifecycle: Lifecycle, side: Side) -> None:
        """Find out why a batch came that was read before: a rewind asked for too much, or the broker has an older log."""
        tp = TP(self.rules.topics[side], lifecycle.number)
        try:
            _, last = await self._flow().bounds(tp)
            if lifecycle.state is not None and lifecycle.flowing:
                await self._is_older(tp, last, lifecycle.state.positions[side])
        except Exception as error:  # noqa: BLE001 - the next old batch has it looked at again
            log.warning("bounds unknown", topic=tp.topic, partition=tp.partition, error=repr(error))
        finally:
            lifecycle.looking.discard(side)

    async def _is_older(self, tp: TP, last: int, position: int) -> bool:
        """Whether the log ends below what was read of it, which ends the worker: going on would lose what comes next."""
        if last >= position:
            return False
        await self._fatal(
            StateMismatchError(
                f"{tp.topic}-{tp.partition} ends at {last}, {position} was read: the broker has an older log, or the topic was made "
                "anew. Restore the log, or start over under another prefix"
            )
        )
        return True

    # -- lifecycle

    async def _bring_up(self, lifecycle: Lifecycle, generation: int) -> None:
        async with lifecycle.lock:
            if lifecycle.state is not None and not await self._is_as_we_left_it(lifecycle):
                log.info("kept state is not the last one committed", partition=lifecycle.number)
                await self._forget(lifecycle)
            if lifecycle.state is None:
                await self._recover(lifecycle, "assigned")
            if self.generation == generation:
                self._start(lifecycle)

    async def _recover(self, lifecycle: Lifecycle, reason: str) -> None:
        """Initialise, read, rebuild; again until it works or the partition is no longer ours. Holds the lock."""
        attempt = 0
        while lifecycle.number in self.assigned and not self.paused:
            writer = self._make_writer(lifecycle.number)
            started = lifecycle.stirred = monotonic()
            try:
                state, warnings = await self._thread(
                    partial(
                        recover,
                        lifecycle.number,
                        rules=self.rules,
                        client=self._client,
                        writer=writer,
                        stir=lifecycle.stir,
                    )
                )
            except (StateMismatchError, NoRoomError) as error:
                await self._fatal(error)
                return
            except Exception as error:  # noqa: BLE001 - tried again, whatever it was, and said
                await self._thread(writer.close)
                delay_s = RETRY_S[min(attempt, len(RETRY_S) - 1)]
                log.warning(
                    "recovery failed, trying again", partition=lifecycle.number, error=str(error), delay_s=delay_s
                )
                attempt += 1
                await asyncio.sleep(delay_s)
                continue
            lifecycle.state, lifecycle.writer = state, writer
            lifecycle.clock = WatermarkClock(state.join.watermark)
            lifecycle.committed = dict(state.positions)
            for warning in warnings:
                log.error(warning)
            self.monitor.recovered(lifecycle.number, state, reason)
            seconds = round(monotonic() - started, 3)
            log.info(
                "recovered",
                partition=lifecycle.number,
                seconds=seconds,
                offsets=dict(state.positions),
                pending=state.join.pending.rows,
                reason=reason,
            )
            return

    def _start(self, lifecycle: Lifecycle) -> None:
        if lifecycle.state is None or self.paused or lifecycle.number not in self.assigned:
            return
        lifecycle.flowing = True
        lifecycle.rewinding.clear()
        lifecycle.progressed = monotonic()
        lifecycle.came = dict.fromkeys(SIDES, monotonic())
        for side in SIDES:
            self._flow().start_flow(TP(self.rules.topics[side], lifecycle.number), lifecycle.state.positions[side])

    async def _is_as_we_left_it(self, lifecycle: Lifecycle) -> bool:
        """Whether the state's partition of posteriors ends where our last commit ended (its marker takes one offset)."""
        writer = lifecycle.writer
        if writer is None or writer.end is None:
            return False
        try:
            _, end = await self._flow().bounds(TP(writer.topics["posteriors"], lifecycle.number))
        except Exception:  # noqa: BLE001 - not known to be ours: rebuild
            return False
        return end - writer.end in (0, 1)

    async def _forget(self, lifecycle: Lifecycle) -> None:
        lifecycle.flowing = False
        lifecycle.stir()
        writer, lifecycle.writer, lifecycle.state = lifecycle.writer, None, None
        self._flow().halt([TP(self.rules.topics[side], lifecycle.number) for side in SIDES])
        if writer is not None:
            await self._thread(writer.close)

    async def _give_up(self, lifecycle: Lifecycle) -> None:
        async with lifecycle.lock:
            if lifecycle.number in self.assigned:
                return
            await self._forget(lifecycle)
            self.lifecycles.pop(lifecycle.number, None)
            self.monitor.gave_up(lifecycle.number)

    # -- checkpoints

    async def run(self) -> None:
        """Checkpoint every partition, each at its own pace, until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            for lifecycle in list(self.lifecycles.values()):
                if lifecycle.state is not None and lifecycle.flowing:
                    self._pace(lifecycle, lifecycle.state)
                if lifecycle.flowing and not lifecycle.lock.locked():
                    self._spawn(self.checkpoint(lifecycle))
            self.monitor.observe(self)
            reason = stuck(self.lifecycles.values(), self.assigned, self._revoked if self.paused else None)
            if reason is not None:
                await self._fatal(StuckError(reason))

    async def _look_up(self, state: PartitionState) -> bool:
        """Read the references that the state's rows name beside the loop, False if it cannot be done now.

        What rows name that come meanwhile is left to `PartitionState.freeze`, so that no stream of new versions holds it up.
        """
        unknown = state.unknown_versions()
        if unknown and self.rules.references is not None:
            try:
                await self._thread(partial(self.rules.references.look_up, unknown))
            except ReadError as error:
                log.warning("no checkpoint: references cannot be read, trying again", error=str(error))
                return False
        return True

    async def checkpoint(self, lifecycle: Lifecycle) -> None:
        """Steps 1 to 6 of `streams.checkpoint` for one partition, and the way out if they fail."""
        async with lifecycle.lock:
            if lifecycle.state is not None and not await self._look_up(lifecycle.state):
                return
            state, writer = lifecycle.state, lifecycle.writer
            if state is None or writer is None or self.paused or not lifecycle.flowing:
                return
            answers = self._answers(state)
            try:
                messages = state.freeze(lifecycle.clock.next(state.largest_ts, answers))
            except ReadError as error:
                log.warning("no checkpoint: references cannot be read, trying again", error=str(error))
                return
            offsets = dict(state.positions)
            if not messages:
                lifecycle.heard(answers)
                if lifecycle.told != offsets:
                    self._spawn(self._tell(lifecycle, offsets))
                return
            started = monotonic()
            try:
                await self._thread(lambda: writer.commit(messages))
            except FencedError as error:
                await self._fenced(lifecycle, error)
                return
            except UnknownOutcomeError as error:
                await self._unknown(lifecycle, error)
                return
            lifecycle.progressed = monotonic()
            lifecycle.committed = offsets
            self.monitor.committed(lifecycle.number, state, lifecycle.progressed - started)
        await self._tell(lifecycle, offsets)

    async def _tell(self, lifecycle: Lifecycle, offsets: dict[Side, int]) -> None:
        """The group's offsets follow, until they have arrived: an attributor waits for them."""
        if lifecycle.told != offsets and await self._flow().commit_group(
            {TP(self.rules.topics[side], lifecycle.number): offset for side, offset in offsets.items()}
        ):
            lifecycle.told = offsets

    def _answers(self, state: PartitionState) -> dict[Side, Answer]:
        answers: dict[Side, Answer] = {}
        for side in SIDES:
            progress = self._flow().progress(TP(self.rules.topics[side], state.number))
            if progress is not None:
                answers[side] = Answer(progress.answered_ms, state.positions[side] >= progress.end)
        return answers

    async def _fenced(self, lifecycle: Lifecycle, error: FencedError) -> None:
        log.warning(
            "fenced: giving the partition up and joining the group again", partition=lifecycle.number, error=str(error)
        )
        self.monitor.failed("fenced")
        await self._forget(lifecycle)
        if lifecycle.number in self.assigned and not self.paused:
            await self._flow().rejoin()

    async def _unknown(self, lifecycle: Lifecycle, error: UnknownOutcomeError) -> None:
        """The checkpoint may have happened. If this member is still in its generation, read back what the broker has."""
        log.warning("checkpoint with unknown outcome: reading back", partition=lifecycle.number, error=str(error))
        self.monitor.failed("unknown")
        generation = self.generation
        committed = lifecycle.committed
        await self._forget(lifecycle)
        while lifecycle.number in self.assigned and not self.paused and self.generation == generation:
            if await self._flow().commit_group(
                {TP(self.rules.topics[side], lifecycle.number): committed[side] for side in SIDES}
            ):
                await self._recover(lifecycle, "unknown outcome")
                self._start(lifecycle)
                return
            lifecycle.stir()
            await asyncio.sleep(0.5)

    async def close(self) -> None:
        """Last checkpoints, then let go of everything."""
        await asyncio.gather(
            *(self.checkpoint(lifecycle) for lifecycle in self.lifecycles.values()), return_exceptions=True
        )
        self.paused = True
        for task in list(self._tasks):
            task.cancel()
        for lifecycle in self.lifecycles.values():
            if lifecycle.writer is not None:
                lifecycle.writer.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def end_of(self, tp: TP) -> int | None:
        """Where a partition ended at the broker's last answer."""
        progress = self._flow().progress(tp)
        return None if progress is None else progress.end

    # -- plumbing

    async def _thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            error = task.exception() or RuntimeError("a task failed without an error")
            log.critical("a partition's task failed: this is a bug", exc_info=error)
            self._spawn(self._fatal(error))
