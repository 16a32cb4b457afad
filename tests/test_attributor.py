"""Conversions of units through real brokers: learners write touches, attributors give conversions out, learners count them once."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pytest

from streams.attributor_recovery import newest
from streams.conversions import Conversion, encode_conversion
from streams.events import Impression, Outcome
from streams.partition import partition_for
from streams.reading import bounds, read, reader
from streams.touches import Touch
from tests.attributed import Given, Log, expected
from tests.broker import ApacheKafka, why_no_apache_kafka
from tests.loop import Loop
from tests.test_faults import wait_beyond

PARTITIONS = 3
WINDOW_MS, KEEP_S = 600_000, 1_200.0
BACK_MS = 80_000
UNITS = [f"user-{i}" for i in range(40)]
Event = Impression | Outcome | Conversion


def config(how: str) -> str:
    """A policy whose clicks take purchases 80 s back, and wait two minutes of event time for touches that come late."""
    return f"""
[policies.front]
model = "beta"
window_s = {WINDOW_MS / 1000}
grace_s = {KEEP_S}
outcomes = {{ click = 1.0, purchase = 5.0 }}
attribution = {{ rule = "{how}", kinds = ["purchase"], window_s = {BACK_MS / 1000}, grace_s = 120 }}
"""


@dataclass
class Story:
    """Events in the order of their times, and what they say of touches and conversions."""

    events: list[Event] = field(default_factory=list)
    log: Log = field(default_factory=Log)
    end_ms: int = 0


def a_story(seed: int, impressions: int, *, step_ms: int = 200) -> Story:
    """Impressions of random units, a third clicked, conversions of random units, a tenth of these twice; all in the last hour."""
    rng, story = random.Random(seed), Story()
    start = int(time.time() * 1000) - 3_600_000
    timed: list[tuple[int, Event]] = []
    for i in range(impressions):
        ts, unit, name = start + i * step_ms, rng.choice([*UNITS, None]), f"d{i}"
        shown = Impression(
            decision_id=name, slot="top", policy="front", snapshot=1, arm=f"a{i % 3}", propensity=0.5, ts=ts, unit=unit
        )
        timed.append((ts, shown))
        if rng.random() < 0.3:
            clicked = ts + rng.choice([0, 5_000, 30_000])
            timed.append((clicked, Outcome(decision_id=name, slot="top", outcome_id="o", ts=clicked)))
            if unit is not None:
                touch = Touch(policy="front", decision_id=name, slot="top", ts=clicked, until=ts + WINDOW_MS)
                story.log.touches.append((unit, touch))
        if i % 5 == 0:
            bought = Conversion(
                unit=rng.choice(UNITS),
                conversion_id=f"order-{i}",
                kind="purchase",
                value=float(rng.randrange(1, 9)),
                ts=ts,
            )
            story.log.conversions.append(bought)
            timed += [(ts, bought)] * (2 if rng.random() < 0.1 else 1)
    timed.sort(key=lambda pair: pair[0])
    story.events = [event for _, event in timed]
    story.end_ms = timed[-1][0]
    return story


def send(loop: Loop, events: list[Event]) -> None:
    """Each to its topic."""
    loop.send([event for event in events if not isinstance(event, Conversion)])
    for event in events:
        if isinstance(event, Conversion):
            loop._produce(loop.settings.topics.conversions, encode_conversion(event), key=event.unit.encode())
    loop.producer.poll(0)


def pass_the_grace(loop: Loop, story: Story) -> int:
    """A conversion of nobody for each partition, whose time lets everything before be given out. Returns how many there are."""
    strangers: dict[int, str] = {}
    for i in range(1_000):
        strangers.setdefault(partition_for(f"stranger-{i}".encode(), PARTITIONS), f"stranger-{i}")
    late = story.end_ms + 130_000
    last: list[Event] = [
        Conversion(unit=name, conversion_id=name, kind="purchase", ts=late) for name in strangers.values()
    ]
    send(loop, last)
    loop.flush()
    return len(last)


def counts(loop: Loop) -> Counter[str]:
    """What became of the conversions, by the committed checkpoints; "read": how far they go."""
    found: Counter[str] = Counter()
    with reader(loop.settings.librdkafka()) as consumer:
        for number in range(PARTITIONS):
            value = newest(consumer, loop.settings.topics.attribution, number)
            if value is not None:
                record = msgspec.msgpack.decode(value)
                found.update(record["counts"])
                found["read"] += record["offsets"]["conversions"]
    return found


def wait_given(loop: Loop, conversions: int, strangers: int, timeout_s: float = 60.0) -> Counter[str]:
    """Wait until every conversion but the last of each partition is given out."""
    until = time.monotonic() + timeout_s
    while True:
        found = counts(loop)
        if sum(found.values()) - found["read"] == conversions:
            break
        assert time.monotonic() < until, f"{found} of {conversions} + {strangers}\n" + "\n".join(
            map(loop._tail, loop.starts)
        )
        time.sleep(0.3)
    return found


def wait_joined(loop: Loop, rows: int, timeout_s: float = 90.0) -> None:
    """Wait until the learner has counted so many: a transaction's end shows in one topic before it does in another."""
    until = time.monotonic() + timeout_s
    while len(joined(loop)) < rows and time.monotonic() < until:
        time.sleep(0.3)
    loop.wait_covered()


def given(loop: Loop) -> Given:
    """Committed outcomes that came from conversions, in the topic of clicks."""
    found: list[Outcome] = []
    topic = loop.settings.topics.clicks
    with reader(loop.settings.librdkafka()) as consumer:
        for partition in range(PARTITIONS):
            low, high = bounds(consumer, topic, partition, timeout_s=10)
            for batch in read(consumer, topic, partition, low, None, timeout_s=10) if high > low else ():
                for record in batch:
                    if b"conversion:" in (record.value or b""):
                        found.append(msgspec.json.decode(record.value or b"", type=Outcome))
                        assert partition == partition_for(found[-1].decision_id.encode(), PARTITIONS)
    return sorted((o.decision_id, o.slot, o.outcome_id, o.kind, o.value, o.ts) for o in found)


def joined(loop: Loop) -> list[tuple[str, str, str]]:
    """What the learner counted of them."""
    return sorted(
        row
        for record in loop.feedback("joined")
        for row in zip(record["decision_id"], record["slot"], record["outcome_id"], strict=True)
        if row[2].startswith("conversion:")
    )


def check(loop: Loop, story: Story, how: str) -> None:
    """Everything is given out once, to whom looking at everything at once finds, and counted once by the learner."""
    strangers = pass_the_grace(loop, story)
    sent = sum(isinstance(event, Conversion) for event in story.events)
    found = wait_given(loop, sent, strangers)
    truth = expected(story.log, how, windows_ms={"front": BACK_MS}, kinds={"front": ["purchase"]})
    wait_joined(loop, len(truth))
    assert given(loop) == truth
    assert joined(loop) == sorted(row[:3] for row in truth)
    assert found["attributed"] == len({row[2] for row in truth}) > 20
    assert found["unattributed"] == len(story.log.conversions) - found["attributed"] > 0
    assert found["duplicate"] == sent - len(story.log.conversions) > 0
    assert found["late"] == found["dead"] == 0


def test_conversions_find_their_clicks(both_brokers: str, prefix: str, tmp_path: Path) -> None:
    """From impressions, clicks and conversions to outcomes that the learner counts.

    The attributor comes first and finds no touch: it waits for a learner that has not begun, five minutes of event time
    behind.
    """
    story = a_story(1, 1_500)
    with Loop(both_brokers, prefix, tmp_path, config("first"), partitions=PARTITIONS) as loop:
        send(loop, story.events)
        loop.flush()
        loop.start("attributor", "attributor")
        time.sleep(4)
        assert counts(loop)["unattributed"] == 0
        loop.start("one")
        loop.wait_covered()
        check(loop, story, "first")
        loop.stop("attributor")
        loop.stop("one")


def wait_attributing(loop: Loop, name: str, timeout_s: float = 60.0) -> None:
    """Wait until an attributor has its partitions."""
    until = time.monotonic() + timeout_s
    while "attributing" not in loop.log_of(name).read_text():
        assert time.monotonic() < until, loop._tail(name)
        time.sleep(0.2)


@dataclass
class Load:
    """A thread that sends a story in real time, many times faster than it was."""

    loop: Loop
    story: Story
    seconds: float

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        events, began = self.story.events, time.monotonic()
        done = 0
        while done < len(events):
            due = min(len(events), int((time.monotonic() - began) / self.seconds * len(events)) + 1)
            send(self.loop, events[done:due])
            done = due
            time.sleep(0.02)

    def join(self) -> None:
        """Wait until everything is with the broker."""
        self.thread.join(self.seconds + 60)
        self.loop.flush()


DEATHS = (
    "checkpoint.cut:3",
    "checkpoint.begun:4",
    "checkpoint.committed:4",
    "recovery.initialised:2",
    "recovery.read:3",
)
DEATHS_IN_A_TRANSACTION = ("checkpoint.produced:4", "checkpoint.flushed:4", "checkpoint.flushed:1")
"""The local broker still tells of an aborted transaction when a reader is past its end, and readers then skip the next one's records."""


def feed_until_dead(loop: Loop, name: str, left: list[Event], timeout_s: float = 120.0) -> None:
    """Send what is left until the worker has died of what it was told to.

    A little each time that it has read the last, or that a second has passed, as soon as it attributes.
    """
    until, log = time.monotonic() + timeout_s, loop.log_of(name)
    before = log.read_text().count("attributing") if log.exists() else 0
    seen, fed = -1, 0.0
    while loop.runs(name):
        assert time.monotonic() < until, loop._tail(name)
        if log.read_text().count("attributing") > before:
            read = counts(loop)["read"]
            if read != seen or time.monotonic() - fed > 1.0:
                seen, fed = read, time.monotonic()
                send(loop, left[:15])
                del left[:15]
        time.sleep(0.1)
    loop.wait_dead(name)


@pytest.mark.timeout(900)
def test_deaths_at_every_step(bootstrap: str, prefix: str, tmp_path: Path) -> None:
    """An attributor that is killed at every step of a checkpoint and of a recovery gives every conversion out once."""
    story = a_story(2, 2_000)
    left = list(story.events)
    deaths = DEATHS if why_no_apache_kafka() else (*DEATHS, *DEATHS_IN_A_TRANSACTION)
    with Loop(bootstrap, prefix, tmp_path, config("last"), partitions=PARTITIONS) as loop:
        loop.start("one")
        for death in deaths:
            loop.start("attributor", "attributor", fail_at=death)
            feed_until_dead(loop, "attributor", left)
        assert left, "the story was over before the last death"
        loop.start("attributor", "attributor")
        send(loop, left)
        loop.flush()
        loop.wait_covered()
        check(loop, story, "last")
        loop.stop("attributor")
        loop.stop("one")


def test_workers_come_and_go(shared_apache_kafka: str, prefix: str, tmp_path: Path) -> None:
    """Two attributors and a learner that are killed, join and leave under load change nothing."""
    story = a_story(3, 2_000, step_ms=20)  # real time runs almost as fast: the learner's absence is within the grace
    with Loop(
        shared_apache_kafka, prefix, tmp_path, config("even"), partitions=PARTITIONS, session_timeout_s=3.0
    ) as loop:
        loop.start("one")
        loop.start("first", "attributor")
        wait_attributing(loop, "first")
        load = Load(loop, story, seconds=25)
        time.sleep(2)
        loop.start("second", "attributor")
        time.sleep(5)
        loop.kill("first")
        loop.kill("one")
        time.sleep(2)
        loop.start("one")
        time.sleep(5)
        loop.start("first", "attributor")
        time.sleep(4)
        loop.stop("second")
        load.join()
        loop.wait_covered()
        check(loop, story, "even")
        loop.stop("first")
        loop.stop("one")


def test_the_broker_is_killed_and_restarted(apache_kafka: ApacheKafka, prefix: str, tmp_path: Path) -> None:
    """A broker crash under load costs nothing, and the attributor goes on by itself."""
    story = a_story(4, 2_000, step_ms=20)
    with Loop(apache_kafka.bootstrap, prefix, tmp_path, config("last"), partitions=PARTITIONS) as loop:
        loop.start("one")
        loop.start("first", "attributor")
        send(loop, story.events[:100])
        wait_beyond(loop, 0, 60)
        wait_attributing(loop, "first")
        load = Load(loop, replace(story, events=story.events[100:]), seconds=12)
        time.sleep(3)
        apache_kafka.kill()
        time.sleep(1)
        apache_kafka.start()
        load.join()
        loop.wait_covered()
        check(loop, story, "last")
        loop.stop("first")
        loop.stop("one")
