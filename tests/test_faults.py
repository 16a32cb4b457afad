"""Rebalances and broker faults on Apache Kafka, under load: the sums stay exact and the loop goes on by itself."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
from msgspec import structs

from streams.events import Impression, Outcome
from streams.reading import ReadError
from tests.broker import ApacheKafka
from tests.loop import Loop, assert_conserved, assert_exact, assert_matured_once
from tests.oracle import CONFIG, config, fold, traffic
from tests.test_exactly_once import Load, hour_ago_ms

SESSION_S = 3.0


def goes_on_within_s(kafka: ApacheKafka) -> float:
    """How soon the loop is back: 15 s where the broker starts in four, in proportion on a machine that is busy."""
    return max(15.0, 4.0 * kafka.took_s)


def compare(loop: Loop, events: list[Impression | Outcome], model: str = "linear") -> None:
    """Sums, feedback, conservation and maturity against the oracle."""
    truth, counted = fold(events, model)
    assert_exact(loop, truth, counted)
    assert_conserved(loop, sum(isinstance(event, Outcome) for event in events))
    assert_matured_once(loop)


def wait_beyond(loop: Loop, records: int, timeout_s: float) -> None:
    """Wait until committed checkpoints include more than so many input records."""
    began = time.monotonic()
    while (now := committed(loop)) <= records:
        assert time.monotonic() - began < timeout_s, (
            f"{now} records committed after {timeout_s} s, waiting for {records}"
        )
        time.sleep(0.2)


def committed(loop: Loop) -> int:
    """Input records that committed checkpoints include; 0 while the broker, just back, has no leaders yet."""
    try:
        offsets = loop.sums()["offsets"]
    except ReadError:
        return 0
    return sum(offset for side in offsets.values() for offset in side.values())


def under_load(loop: Loop, events: list[Impression | Outcome], seconds: float) -> Load:
    """A load that has just begun, on a worker that has already committed what the first events brought."""
    first = 600
    loop.send(events[:first])
    wait_beyond(loop, 0, 60)
    loop.flush()
    delivered = loop.delivered
    load = Load(loop, events[first:], seconds)
    while loop.delivered == delivered:
        assert load.is_alive(), "the load ended and nothing of it was delivered"
        time.sleep(0.05)
    return load


@pytest.mark.parametrize("seed", [3])
def test_learners_join_and_leave(shared_apache_kafka: str, prefix: str, tmp_path: Path, seed: int) -> None:
    """Workers come, go in order, and are killed, while events arrive."""
    rng = random.Random(seed)
    events = traffic(seed, 16_000, start_ms=hour_ago_ms()).events
    with Loop(shared_apache_kafka, prefix, tmp_path, CONFIG, partitions=4, session_timeout_s=SESSION_S) as loop:
        loop.start("one")
        load = Load(loop, events, seconds=16)
        time.sleep(3)
        loop.start("two")
        time.sleep(4 + rng.random())
        loop.start("three")
        time.sleep(3 + rng.random())
        loop.kill("two")
        time.sleep(2 + rng.random())
        loop.start("two")
        time.sleep(2 + rng.random())
        loop.stop("three")
        load.join(timeout=60)
        loop.wait_covered()
        compare(loop, events)


def test_a_learner_stopped_past_its_session_harms_nothing(
    shared_apache_kafka: str, prefix: str, tmp_path: Path
) -> None:
    """A worker that sleeps until another has its partitions is fenced when it wakes, and finds its way back."""
    events = traffic(4, 18_000, start_ms=hour_ago_ms()).events
    with Loop(shared_apache_kafka, prefix, tmp_path, CONFIG, partitions=4, session_timeout_s=SESSION_S) as loop:
        loop.start("one")
        loop.start("two")
        load = Load(loop, events, seconds=18)
        time.sleep(6)
        loop.signal("one", signal.SIGSTOP)
        time.sleep(SESSION_S + 4)
        loop.signal("one", signal.SIGCONT)
        load.join(timeout=60)
        loop.wait_covered()
        compare(loop, events)
        loop.stop("one")
        loop.stop("two")


@pytest.mark.parametrize("model", ["linear", "logistic"])
def test_the_broker_is_killed_and_restarted(apache_kafka: ApacheKafka, prefix: str, tmp_path: Path, model: str) -> None:
    """A broker crash under load costs nothing, and the loop goes on within 15 s of its return; references are looked up meanwhile."""
    events = traffic(5, 16_000, start_ms=hour_ago_ms()).events
    if model == "logistic":  # each row names a version that nobody looked up before
        events = [
            structs.replace(one, snapshot=1 + i) if isinstance(one, Impression) else one for i, one in enumerate(events)
        ]
    with Loop(apache_kafka.bootstrap, prefix, tmp_path, config(model), partitions=4) as loop:
        loop.start("one")
        load = under_load(loop, events, seconds=14)
        apache_kafka.kill()
        delivered = loop.delivered
        time.sleep(1)
        apache_kafka.start()
        wait_beyond(loop, delivered, goes_on_within_s(apache_kafka))
        load.join(timeout=90)
        loop.wait_covered()
        compare(loop, events, model)
        loop.stop("one")


def test_the_broker_is_paused(apache_kafka: ApacheKafka, prefix: str, tmp_path: Path) -> None:
    """A broker that does not answer for 10 s under load costs nothing, and the loop goes on within 15 s."""
    events = traffic(6, 18_000, start_ms=hour_ago_ms()).events
    with Loop(apache_kafka.bootstrap, prefix, tmp_path, CONFIG, partitions=4) as loop:
        loop.start("one")
        load = under_load(loop, events, seconds=16)
        apache_kafka.pause()
        delivered = loop.delivered
        time.sleep(10)
        apache_kafka.resume()
        wait_beyond(loop, delivered, goes_on_within_s(apache_kafka))
        load.join(timeout=90)
        loop.wait_covered()
        compare(loop, events)
        loop.stop("one")
