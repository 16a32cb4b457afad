"""One membership of an attributor in its group: partitions come, are recovered, read, and checkpointed, until something fails.

Whatever fails ends the session, and with it all that is not committed; the next one recovers from what the broker has
(streams/attributor_recovery.py).

A checkpoint is one transaction (`streams.checkpoint`): outcomes, dead letters and the record with the offsets that they include. So
every conversion is given out once. What the watermark moves on is in `streams.horizon`: the ends of topics count open transactions in,
and how far the learner has come are its group's offsets, which follow its commits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from streams.attribution_rules import attribution_rules
from streams.attribution_state import INPUTS, AttributionState, Input
from streams.attributor_recovery import TIMEOUT_S, recover
from streams.horizon import Answers, Marks
from streams.logs import get_logger
from streams.reading import QUIET, ReadError, SimpleRecord, of_message, reader
from streams.recovery import StateMismatchError

if TYPE_CHECKING:
    from streams.checkpoint import Writer
    from streams.failpoints import Pass
    from streams.metrics import Metrics
    from streams.settings import Settings

log = get_logger(__name__)

FETCH = 2_000


@dataclass(slots=True)
class Part:
    """One partition of this worker."""

    state: AttributionState
    writer: Writer
    exported: dict[str, int]


class Session:
    """See above. Blocking; ``beat`` is called whenever it turns, ``stop`` asks it to end.

    Use it as a context manager: leaving closes its clients. Raises FencedError, UnknownOutcomeError, ReadError or
    KafkaException (begin another session), StateMismatchError (do not).
    """

    def __init__(
        self, settings: Settings, *, metrics: Metrics, passing: Pass, beat: Callable[[], None], stop: Event
    ) -> None:
        self.parts: dict[int, Part] = {}
        self.assigned = False
        self._generation = 0
        self._settings = settings
        self._metrics = metrics
        self._passing = passing
        self._beat = beat
        self._stop = stop
        self._rules = attribution_rules(settings)
        names = settings.topics
        self._topics: dict[Input, str] = {"touches": names.touches, "conversions": names.conversions}
        self._sides: dict[str, Input] = {topic: side for side, topic in self._topics.items()}
        self._inputs = {
            number: ((names.impressions, number), (names.clicks, number)) for number in range(settings.partitions)
        }
        self._marks = self._no_marks()
        self._learner = Consumer(
            settings.librdkafka() | {"group.id": settings.learner_group, "log_level": QUIET}
        )  # never joins
        self._admin = AdminClient(settings.librdkafka() | {"log_level": QUIET})
        self._consumer = Consumer(_consuming(settings))

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()
        self._learner.close()
        self._consumer.close()

    def run(self) -> None:
        """Read and checkpoint until it is asked to stop; then once more."""
        self._consumer.subscribe(list(self._topics.values()), on_assign=self._come, on_revoke=self._gone)
        last = monotonic()
        while not self._stop.is_set():
            self._fetch()
            self._beat()
            if monotonic() - last >= self._settings.checkpoint_interval_s:
                self.checkpoint()
                last = monotonic()
        self.checkpoint()

    @property
    def status(self) -> tuple[bool, str]:
        """Whether every partition flows, in words."""
        if not self.assigned:
            return False, "waiting for the group's assignment"
        behind = sorted(number for number, part in self.parts.items() if not part.state.rebuilt)
        if behind:
            return False, f"partitions {behind} of the attribution are being rebuilt"
        return True, f"partitions {sorted(self.parts)} of the attribution flow"

    # -- what the group says

    def _come(self, consumer: Consumer, tps: list[TopicPartition]) -> None:
        numbers = {side: {tp.partition for tp in tps if self._sides[tp.topic] == side} for side in INPUTS}
        if numbers["touches"] != numbers["conversions"]:
            raise StateMismatchError(
                f"partitions {sorted(numbers['touches'])} of touches and {sorted(numbers['conversions'])} of conversions were assigned: "
                "both topics must have the same number of partitions; run clickloop topics check"
            )
        self._drop()
        with reader(self._settings.librdkafka()) as looking:
            for number in sorted(numbers["touches"]):
                self.parts[number] = self._recover(looking, number)
                self._beat()
        self._read_on(consumer)
        self._marks = self._no_marks()
        self.assigned = True
        self._generation += 1
        log.info("attributing", partitions=sorted(self.parts))

    def _read_on(self, consumer: Consumer) -> None:
        """Let everything flow from where the states are."""
        positions = [
            TopicPartition(self._topics[side], number, part.state.positions[side])
            for number, part in self.parts.items()
            for side in INPUTS
        ]
        consumer.assign(positions)

    def _no_marks(self) -> Marks:
        return Marks(
            self._inputs,
            touches={number: (self._topics["touches"], number) for number in self.parts},
            conversions={number: (self._topics["conversions"], number) for number in self.parts},
        )

    def _gone(self, consumer: Consumer, _: list[TopicPartition]) -> None:
        self.assigned = False
        self._generation += 1
        self._drop()
        consumer.unassign()

    def _drop(self) -> None:
        for number, part in self.parts.items():
            part.writer.close()
            for gauge in (
                self._metrics.waiting_conversions,
                self._metrics.kept_touches,
                self._metrics.attribution_watermark,
            ):
                with suppress(KeyError):
                    gauge.remove(str(number))
        self.parts = {}

    def _recover(self, looking: Consumer, number: int) -> Part:
        state, writer, lost = recover(
            looking, number, settings=self._settings, rules=self._rules, topics=self._topics, passing=self._passing
        )
        for topic, records in lost.items():
            self._metrics.lost_records.labels(topic=topic).inc(records)
        self._export(number, state)
        return Part(state, writer, dict(state.counts))

    # -- records

    def _fetch(self) -> None:
        together: dict[tuple[Input, int], list[SimpleRecord]] = {}
        ends: list[tuple[Input, int, int]] = []
        generation = self._generation
        messages = self._consumer.consume(FETCH, timeout=0.1)
        if self._generation != generation:
            if (
                self.assigned
            ):  # some of it may have been read for those who had the partitions before: again, from the states
                self._read_on(self._consumer)
            return
        for message in messages:
            error: KafkaError | None = message.error()
            if error is None:
                together.setdefault(self._place(message), []).append(of_message(message))
            elif error.code() == KafkaError._PARTITION_EOF:
                ends.append((*self._place(message), int(message.offset() or 0)))
            elif error.fatal() or not _passes(error):
                raise ReadError(f"{message.topic() or self._settings.attributor_group}: {error.str()}")
        for (side, number), records in together.items():
            if number in self.parts:
                self.parts[number].state.take(side, records)
        for side, number, offset in ends:
            if number in self.parts:
                self.parts[number].state.reached(side, offset)

    def _place(self, message: Any) -> tuple[Input, int]:
        return self._sides[message.topic()], message.partition()

    # -- checkpoints

    def checkpoint(self) -> None:
        """Give out what is due in every partition that is rebuilt."""
        ready = {number: part for number, part in self.parts.items() if part.state.rebuilt}
        if self.parts:
            self._ask()
        for number, part in ready.items():
            state = part.state
            messages = state.freeze()
            if not messages:
                continue
            began = monotonic()
            part.writer.commit(messages)
            self._metrics.checkpoint_seconds.observe(monotonic() - began)
            self._metrics.checkpoints.labels(result="committed").inc()
            self._count(part)
            self._export(number, state)
            self._beat()
        self._follow(ready.values())

    def _ask(self) -> None:
        """Ask the brokers how far the learner has committed and, after that, where everything ends; set the marks."""
        newest = {number: part.state.horizon.newest for number, part in self.parts.items()}
        inputs = [TopicPartition(*key) for keys in self._inputs.values() for key in keys]
        mine = [TopicPartition(topic, number) for number in self.parts for topic in self._topics.values()]
        known = self._learner.committed(inputs, timeout=TIMEOUT_S)
        asked = self._admin.list_offsets(
            {tp: OffsetSpec.latest() for tp in (*inputs, *mine)},  # type: ignore[no-untyped-call]
            isolation_level=IsolationLevel.READ_UNCOMMITTED,
            request_timeout=TIMEOUT_S,
        )
        answers = Answers(
            read={(tp.topic, tp.partition): tp.offset for tp in known if tp.offset >= 0},
            ends={(tp.topic, tp.partition): answer.result().offset for tp, answer in asked.items()},
        )
        at = {
            (topic, number): part.state.positions[side]
            for number, part in self.parts.items()
            for side, topic in self._topics.items()
        }
        self._marks.heard({number: part.state.horizon for number, part in self.parts.items()}, newest, answers, at)

    def _count(self, part: Part) -> None:
        more = {became: count - part.exported[became] for became, count in part.state.counts.items()}
        for became, count in more.items():
            self._metrics.conversions.labels(outcome=became).inc(count)
        if more["dead"]:
            self._metrics.dead_letters.labels(topic=self._topics["conversions"], reason="dead").inc(more["dead"])
        part.exported = dict(part.state.counts)

    def _export(self, number: int, state: AttributionState) -> None:
        self._metrics.waiting_conversions.labels(partition=str(number)).set(len(state.attribution.waiting))
        self._metrics.kept_touches.labels(partition=str(number)).set(state.attribution.touches)
        if state.attribution.watermark is not None:
            self._metrics.attribution_watermark.labels(partition=str(number)).set(state.attribution.watermark / 1000)

    def _follow(self, parts: Iterable[Part]) -> None:
        """The group's offsets, for lag monitors only."""
        offsets = [
            TopicPartition(self._topics[side], part.state.number, part.state.positions[side])
            for part in parts
            for side in INPUTS
        ]
        if offsets:
            self._consumer.commit(offsets=offsets, asynchronous=True)


def _consuming(settings: Settings) -> dict[str, Any]:
    group, instance = settings.attributor_group, settings.instance_id
    static = {} if instance is None else {"group.instance.id": f"{group}-{instance}"}
    return (
        settings.librdkafka()
        | static
        | {
            "group.id": group,
            "partition.assignment.strategy": "range",  # equal numbers of both topics meet in one worker
            "session.timeout.ms": int(settings.session_timeout_s * 1000),
            "heartbeat.interval.ms": int(min(3.0, settings.session_timeout_s / 4) * 1000),
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 50,
            "log_level": QUIET,
        }
    )


def _passes(error: KafkaError) -> bool:
    return error.retriable() or error.code() in (
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TRANSPORT,
        KafkaError._MAX_POLL_EXCEEDED,
    )


FAILURES = (KafkaException, ReadError)
"""What ends a session beside the errors of `streams.checkpoint`, and is no reason not to begin another."""
