"""Conversions on their way to Kafka, and an attributor that cannot go on."""

from __future__ import annotations

import time
from typing import Any

import pytest
from confluent_kafka import Producer
from prometheus_client import CollectorRegistry

from streams import cli_run, topics
from streams.attribution_state import AttributionState
from streams.attributor import Attributor
from streams.attributor_recovery import newest
from streams.attributor_session import Session
from streams.cli import run
from streams.conversions import Conversion, encode_conversion, read_conversion
from streams.delivery import TooLarge
from streams.events import Codec
from streams.failpoints import failpoints
from streams.metrics import Metrics
from streams.partition import partition_for
from streams.producer import EventProducer
from streams.reading import bounds, read, reader
from streams.recovery import StateMismatchError
from streams.settings import Settings

POLICIES: Any = {
    "front": {
        "model": "beta",
        "outcomes": {"click": 1.0, "purchase": 5.0},
        "attribution": {"kinds": ["purchase"], "window_s": 300},
    }
}
KINDS = {"front": frozenset({"purchase"})}


@pytest.fixture
def settings(local_broker: str, prefix: str) -> Settings:
    made = Settings(bootstrap=local_broker, prefix=prefix, partitions=3, policies=POLICIES)
    topics.create(made)
    return made


def bought(number: int, **values: Any) -> Conversion:
    """The conversion with this number."""
    return Conversion(unit=f"u{number}", conversion_id=f"c{number}", kind="purchase", ts=number, **values)


@pytest.mark.parametrize("codec", ["json", "msgpack", "columns"])
def test_each_is_a_record_in_its_units_partition(settings: Settings, codec: Codec) -> None:
    """Whatever codec events have, a conversion can be read where the unit's touches are."""
    sent = [bought(i, value=0.5, policy="front" if i % 2 else None) for i in range(10)]
    producer = EventProducer(settings, codec=codec)
    for one in sent:
        producer.conversion(one)
    producer.close()
    found = []
    with reader(settings.librdkafka()) as consumer:
        for partition in range(3):
            low, high = bounds(consumer, settings.topics.conversions, partition, timeout_s=10)
            for batch in read(consumer, settings.topics.conversions, partition, low, high, timeout_s=10):
                found += [read_conversion(record, kinds=KINDS) for record in batch]
                assert {partition_for(record.key or b"", 3) for record in batch} == {partition}
    assert sorted(found, key=lambda one: one.ts) == sent


def test_too_large_ones_are_told() -> None:
    """The text names the unit."""
    producer = EventProducer(Settings(bootstrap="127.0.0.1:1"))
    with pytest.raises(TooLarge, match="the event of unit 'uuu"):
        producer.conversion(Conversion(unit="u" * 2_000_000, conversion_id="c", kind="purchase", ts=1))
    producer.close()


def test_topics_made_anew_end_the_attributor(settings: Settings) -> None:
    """What was attributed goes beyond the topic's end: a person has to look, and trying again would not help."""
    rules: Any = {}
    state = AttributionState(1, partitions=3, rules=rules, topics={"touches": "touches", "conversions": "conversions"})
    state.reached("touches", 1_000_000)
    producer = Producer(settings.librdkafka())
    producer.produce(settings.topics.attribution, state.freeze()[-1].value, b"1", partition=1)
    assert producer.flush(10) == 0
    attributor = Attributor(settings, metrics=Metrics(CollectorRegistry()))
    attributor._run()
    assert isinstance(attributor.crash_reason, StateMismatchError)
    assert "the topic was made anew" in str(attributor.crash_reason)


def test_the_newest_checkpoint_is_found_behind_many_aborted_ones(bootstrap: str, prefix: str) -> None:
    """However far back it lies, and None where there is none."""
    settings = Settings(bootstrap=bootstrap, prefix=prefix, partitions=1, policies=POLICIES)
    topics.create(settings)
    topic = settings.topics.attribution
    with reader(settings.librdkafka()) as consumer:
        assert newest(consumer, topic, 0) is None
        plain = Producer(settings.librdkafka())
        plain.produce(topic, b"the one", b"0")
        assert plain.flush(10) == 0
        aborting = Producer(settings.librdkafka() | {"transactional.id": f"{prefix}t"})
        aborting.init_transactions(10)
        aborting.begin_transaction()
        for _ in range(200):
            aborting.produce(topic, b"none", b"0")
        aborting.flush(10)
        aborting.abort_transaction(10)
        assert newest(consumer, topic, 0) == b"the one"


def test_a_session_tells_what_it_counts(settings: Settings) -> None:
    """Ready when its partitions flow; dead and unattributed conversions are in the metrics once they are committed."""
    producer = Producer(settings.librdkafka() | {"partitioner": "murmur2_random"})
    for i in range(40):
        producer.produce(settings.topics.conversions, encode_conversion(bought(i)), f"u{i}".encode())
    producer.produce(settings.topics.conversions, b"{", b"u1")
    for i in range(40):
        late = Conversion(unit=f"u{i}", conversion_id=f"late-{i}", kind="purchase", ts=20_000)
        producer.produce(settings.topics.conversions, encode_conversion(late), f"u{i}".encode())
    assert producer.flush(10) == 0
    metrics, until = Metrics(CollectorRegistry()), time.monotonic() + 90

    class Stop:
        def is_set(self) -> bool:
            return value("unattributed") == 40 or time.monotonic() > until

    def value(outcome: str) -> float | None:
        return metrics.registry.get_sample_value("clickloop_conversions_total", {"outcome": outcome})

    stop: Any = Stop()
    with Session(settings, metrics=metrics, passing=failpoints(None), beat=lambda: None, stop=stop) as session:
        assert session.status == (False, "waiting for the group's assignment")
        session.run()
        assert session.status == (True, "partitions [0, 1, 2] of the attribution flow")
        waiting = [
            metrics.registry.get_sample_value("clickloop_waiting_conversions", {"partition": str(p)}) for p in range(3)
        ]
        assert sum(one or 0 for one in waiting) == 40
    assert (value("unattributed"), value("dead"), value("attributed")) == (40, 1, 0)


def test_a_worker_has_the_roles_that_its_policies_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a role named: an attributor beside learner and publisher where a policy attributes, else not."""
    chosen: list[tuple[str, ...]] = []
    monkeypatch.setattr("streams.topics.check", lambda _: [])
    monkeypatch.setattr("streams.app.run_worker", lambda _, roles: chosen.append(roles))
    monkeypatch.setenv("CLICKLOOP_POLICIES__FRONT__MODEL", "beta")
    assert run(["worker"]) == 0
    monkeypatch.setenv("CLICKLOOP_POLICIES__FRONT__OUTCOMES", '{"click": 1, "purchase": 5}')
    monkeypatch.setenv("CLICKLOOP_POLICIES__FRONT__ATTRIBUTION", '{"kinds": ["purchase"], "window_s": 300}')
    assert run(["worker"]) == 0
    assert run(["worker", "attributor"]) == 0
    assert chosen == [("learner", "publisher"), ("learner", "publisher", "attributor"), ("attributor",)]
    assert set(cli_run.Role) == {"learner", "publisher", "attributor", "encoder"}
