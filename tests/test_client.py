"""The policy client: collecting snapshots, deciding, falling back, logging, and a broker that comes and goes."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from confluent_kafka import Producer

from policies import snapshot as snapshots
from policies.batch import Batch
from policies.decide import law
from policies.empirical_bayes import fit_linear
from policies.model import make_model
from streams import topics
from streams.client import NoSnapshot, PolicyClient
from streams.following import KEPT_VERSIONS, Collector
from streams.local_broker import LocalBroker, free_port
from streams.settings import PolicySettings, Settings
from tests.waiting import assert_ended, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policies.snapshot import Snapshot

NOBODY = "127.0.0.1:1"
MODEL = make_model("linear", dimension=2)
X = np.array([1.0, 0.5])


def snapshot(version: int, *, previous: Snapshot | None = None, arms: str = "abc", rows: int = 20) -> Snapshot:
    """A snapshot of the policy `front`, whose numbers differ from version to version."""
    rng = np.random.default_rng(version)
    x = rng.normal(size=(rows, 2))
    batch = Batch(
        arms=tuple(arms),
        arm=rng.integers(0, len(arms), rows).astype(np.intp),
        x=x,
        ts=np.zeros(rows, np.int64),
        reward_arm=np.zeros(3, np.intp),
        reward_x=x[:3],
        reward_ts=np.zeros(3, np.int64),
        reward=np.ones(3),
        square=np.ones(3),
    )
    sums = MODEL.update({arm: MODEL.zero() for arm in arms}, batch)
    prior = fit_linear({arm: MODEL.at(one, now_ms=0) for arm, one in sums.items()}, dimension=2)
    return snapshots.build(
        "front",
        model=MODEL,
        sums=sums,
        prior=prior,
        version=version,
        previous=previous,
        time_ms=1_000_000,
        now_ms=0,
        rates={"epsilon": 0.05},
        offsets={0: {"impressions": rows, "clicks": version}},
    )


def publish(settings: Settings, *made: Snapshot, abort: bool = False) -> None:
    """Write snapshots to the topic, each in a transaction."""
    config = {**settings.librdkafka(), "transactional.id": f"{settings.prefix}test", "log_level": 2}
    producer = Producer(config)
    producer.init_transactions(60)
    for one in made:
        producer.begin_transaction()
        for key, value in snapshots.records(one):
            producer.produce(settings.topics.policies, value, key)
        if abort:
            producer.flush(10)
            producer.abort_transaction(10)
        else:
            producer.commit_transaction(60)


@pytest.fixture
def settings(local_broker: str, prefix: str) -> Settings:
    made = Settings(bootstrap=local_broker, prefix=prefix, partitions=2)
    topics.create(made)
    return made


@contextmanager
def client_of(settings: Settings, **more: Any) -> Iterator[PolicyClient]:
    """A client whose clock stands one second after the snapshots' time."""
    options = {"clock": lambda: 1001.0, "rng": np.random.default_rng(0), **more}
    client = PolicyClient(settings, **options)
    try:
        yield client
    finally:
        client.close()


def collected(collector: Collector, records: list[tuple[bytes, bytes | None]]) -> tuple[dict[str, Any], list[str]]:
    for key, value in records:
        collector.add(key, value)
    return collector.take()


@pytest.mark.parametrize("order", ["arms first", "head first", "mixed"])
def test_a_snapshot_is_whole_or_not_there(order: str) -> None:
    """Whatever comes first, nothing is seen until the last record that the head names is there."""
    made = snapshot(1)
    *arms, head = snapshots.records(made)
    records: list[Any] = {
        "arms first": [*arms, head],
        "head first": [head, *arms],
        "mixed": [arms[0], head, *arms[1:]],
    }[order]
    collector = Collector()
    for key, value in records[:-1]:
        assert collected(collector, [(key, value)]) == ({}, [])
    ready, problems = collected(collector, [records[-1]])
    assert problems == []
    assert ready["front"].checksum == made.checksum
    assert collector.take() == ({}, [])


def test_arms_that_ran_ahead_of_their_head_do_not_hide_the_snapshot_before() -> None:
    """Arms of version 2 arrive before the head of version 1: each head finds the records that it names."""
    first = snapshot(1)
    second = snapshot(2, previous=first)
    *arms, head = snapshots.records(first)
    *later_arms, later_head = snapshots.records(second)
    collector = Collector()
    ready, _ = collected(collector, [*arms, *later_arms, head])
    assert ready["front"].version == 1
    ready, _ = collected(collector, [later_head])
    assert ready["front"].version == 2


def test_old_records_are_forgotten() -> None:
    """Memory does not grow with the number of snapshots, nor with arms that no head names."""
    collector = Collector()
    previous = None
    for version in range(1, 20):
        previous = snapshot(version, previous=previous)
        collected(collector, [*snapshots.records(previous)])
    assert all(len(versions) <= 2 for versions in collector._arms["front"].values())
    stray = previous.arms["a"] if previous is not None else None
    assert stray is not None
    for version in range(100, 100 + 3 * KEPT_VERSIONS):
        record = snapshots.encode_arm("front", "stray", stray.at_version(version))
        collector.add(snapshots.arm_key("front", "stray"), record)
    assert len(collector._arms["front"]["stray"]) == KEPT_VERSIONS


def test_records_that_do_not_add_up_are_told_and_the_next_snapshot_heals() -> None:
    """A damaged arm fails the checksum; the policy goes on with what it had."""
    made = snapshot(1)
    *arms, head = snapshots.records(made)
    name, arm = "a", made.arms["a"]
    damaged = msgspec.msgpack.decode(snapshots.encode_arm("front", name, arm))
    damaged["count"] += 1
    collector = Collector()
    ready, problems = collected(
        collector, [*arms, (snapshots.arm_key("front", name), msgspec.msgpack.encode(damaged)), head]
    )
    assert ready == {}
    assert "checksum" in problems[0]
    ready, problems = collected(collector, [*snapshots.records(snapshot(2))])
    assert (ready["front"].version, problems) == (2, [])


@pytest.mark.parametrize(("key", "value"), [(b"front", b""), (None, b""), (snapshots.head_key("p"), b"no head")])
def test_records_that_are_none_of_ours_raise_value_error(key: bytes | None, value: bytes) -> None:
    """The follower counts them as problems and goes on."""
    with pytest.raises(ValueError, match=r"is not|cannot be read"):
        Collector().add(key, value)


def test_a_tombstone_of_the_head_removes_the_policy() -> None:
    """And a head after it brings the policy back."""
    collector = Collector()
    collected(collector, [*snapshots.records(snapshot(1))])
    assert collected(collector, [(snapshots.head_key("front"), None)]) == ({"front": None}, [])
    ready, _ = collected(collector, [*snapshots.records(snapshot(2))])
    assert ready["front"].version == 2


def test_the_client_decides_from_the_newest_committed_snapshot(settings: Settings) -> None:
    """The law is that of the snapshot, and the arm's propensity is its place in it."""
    first = snapshot(1)
    publish(settings, first)
    seen: list[int] = []
    with client_of(settings, on_snapshot=lambda one: seen.append(one.version)) as client:
        client.wait_ready(20, policy="front")
        assert client.snapshot("front") is not None
        assert client.age_s("front") == 1.0
        decision = client.decide("front", X, slot="top", unit="u1")
        law_then = law(first, X)
        assert decision.snapshot == 1
        assert decision.probabilities is not None
        assert np.array_equal(decision.probabilities, law_then)
        assert decision.propensity == law_then[decision.candidates.index(decision.arm)]
        assert (decision.slot, decision.unit, decision.ts) == ("top", "u1", 1_001_000)
        publish(settings, snapshot(3, previous=first))
        wait_for(lambda: seen == [1, 3])
        assert client.decide("front", X, ["c", "new"], slot="top").candidates == ("c", "new")
        assert client.healthy
        assert client.error is None


def test_arms_are_drawn_with_the_propensity_that_is_logged(settings: Settings) -> None:
    """Frequencies of 4,000 decisions lie within five standard errors of the law."""
    publish(settings, snapshot(1))
    with client_of(settings) as client:
        client.wait_ready(20)
        n = 4000
        decisions = [client.decide("front", X, slot="top") for _ in range(n)]
    p = decisions[0].probabilities
    assert p is not None
    drawn = np.array([decisions[0].candidates.index(decision.arm) for decision in decisions])
    frequency = np.bincount(drawn, minlength=len(p)) / n
    assert np.all(np.abs(frequency - p) <= 5 * np.sqrt(p * (1 - p) / n) + 1e-9)
    assert len({decision.decision_id for decision in decisions}) == n


def test_a_snapshot_whose_transaction_was_aborted_is_not_seen(shared_apache_kafka: str, prefix: str) -> None:
    """And the next one of the same producer is.

    Not on noida-db: it names aborted transactions in answers about later offsets too, so that kafka-python takes the
    producer's next records for aborted.
    """
    settings = Settings(bootstrap=shared_apache_kafka, prefix=prefix)
    topics.create(settings)
    publish(settings, snapshot(1))
    publish(settings, snapshot(2), abort=True)
    seen: list[int] = []
    with client_of(settings, on_snapshot=lambda one: seen.append(one.version)) as client:
        client.wait_ready(20)
        publish(settings, snapshot(3))
        wait_for(lambda: 3 in seen)
    assert 2 not in seen


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_what_is_logged_is_what_was_decided(settings: Settings, codec: Any) -> None:
    """Every field of the impression, the click's defaults, and the context to the last bit."""
    from streams.reading import bounds, read, reader

    publish(settings, snapshot(1))
    told: list[object] = []
    x = np.array([1.0, 0.1])
    with client_of(settings, codec=codec, on_delivery=lambda delivery: told.extend(delivery.tags)) as client:
        client.wait_ready(20)
        decision = client.decide("front", x, slot="top")
        client.log_impression(decision, tag="shown")
        client.log_click(decision.decision_id, "top", tag="clicked")
        client.log_click(decision.decision_id, "top", kind="refund", of="click", value=0.5, tag="refunded")
        with pytest.raises(ValueError, match="of is missing; a retraction"):
            client.log_click(decision.decision_id, "top", kind="retraction")
        client.flush()
    found = {}
    with reader(settings.librdkafka()) as consumer:
        for topic in (settings.topics.impressions, settings.topics.clicks):
            for number in range(2):
                _, high = bounds(consumer, topic, number, timeout_s=10)
                for batch in read(consumer, topic, number, 0, high, timeout_s=10):
                    found[topic] = [getattr(msgspec, codec).decode(record.value) for record in batch]
    (impression,), (click, refund) = found[settings.topics.impressions], found[settings.topics.clicks]
    assert impression["context"] == [1.0, 0.1]
    assert impression["propensity"] == decision.propensity
    assert "propensity_kind" not in impression
    assert (impression["arm"], impression["snapshot"], impression["ts"]) == (decision.arm, 1, 1_001_000)
    assert click["decision_id"] == impression["decision_id"] == decision.decision_id
    assert (click["outcome_id"], click["kind"], click["value"], click["ts"]) == ("click", "click", 1.0, 1_001_000)
    assert "of" not in click
    assert (refund["outcome_id"], refund["kind"], refund["value"], refund["of"]) == (
        "refund:click",
        "refund",
        0.5,
        "click",
    )
    assert sorted(map(str, told)) == ["clicked", "refunded", "shown"]


def test_a_page_says_what_its_decisions_say_one_by_one(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Impressions logged together are those logged each by itself; a codec without batches takes no page."""
    publish(settings, snapshot(1))
    with client_of(settings, codec="columns") as client:
        client.wait_ready(20)
        page = client.decide_slots("front", np.array([1.0, 0.1]), slots=("top", "side"), unit="u1").decisions
        together: list[Any] = []
        alone: list[Any] = []

        def taken(events: list[Any], *, tags: list[object]) -> bool:
            together.extend(zip(events, tags, strict=True))
            return True

        monkeypatch.setattr(client._producer, "impressions", taken)
        monkeypatch.setattr(client._producer, "impression", lambda event, tag: alone.append(event))
        for decision in page:
            client.log_impression(decision)
        assert client.log_page(alone)
    assert len(alone) == 2
    assert together == list(zip(alone, alone, strict=True))
    with client_of(settings, codec="json") as client:
        assert not client.log_page(alone)
        assert client.stats.taken == 0


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_an_estimated_propensity_is_logged_as_one(settings: Settings, codec: Any) -> None:
    """With so many arms that may win, the impression says so, and there is no law beside the decision."""
    from streams.reading import bounds, read, reader

    publish(settings, snapshot(1, arms="".join(map(chr, range(200, 360)))))
    with client_of(settings, codec=codec) as client:
        client.wait_ready(20)
        decision = client.decide("front", X, slot="top")
        client.log_impression(decision)
        client.flush()
    topic, found = settings.topics.impressions, list[Any]()
    with reader(settings.librdkafka()) as consumer:
        for number in range(2):
            _, high = bounds(consumer, topic, number, timeout_s=10)
            for batch in read(consumer, topic, number, 0, high, timeout_s=10):
                found.extend(getattr(msgspec, codec).decode(record.value) for record in batch)
    assert (decision.propensity_kind, decision.probabilities) == ("estimate", None)
    assert [(one["propensity"], one["propensity_kind"]) for one in found] == [(decision.propensity, "estimate")]


def test_without_a_snapshot_uniform_draws_with_known_propensity() -> None:
    """Usable for learning: snapshot null, propensity 1/K."""
    settings = Settings(bootstrap=NOBODY, policies={"front": PolicySettings(dimension=2, arms=("a", "b", "c", "d"))})
    with client_of(settings) as client:
        decisions = [client.decide("front", X, slot="top") for _ in range(200)]
        assert {decision.arm for decision in decisions} == {"a", "b", "c", "d"}
        assert {(decision.propensity, decision.snapshot) for decision in decisions} == {(0.25, None)}
        assert client.decide("front", X, ["x", "y"], slot="top").propensity == 0.5
        with pytest.raises(NoSnapshot, match="pass candidates, or list arms in the settings"):
            client.decide("other", X, slot="top")
        with pytest.raises(ValueError, match="given once"):
            client.decide("front", X, ["x", "x"], slot="top")


def test_without_a_snapshot_a_ranked_list_takes_the_first_candidate() -> None:
    """Propensity 1 and snapshot null keep it out of the sums."""
    with client_of(Settings(bootstrap=NOBODY), fallback=["best", "second"]) as client:
        for candidates, arm in ((None, "best"), (["second", "best"], "best"), (["x", "second"], "second")):
            decision = client.decide("front", X, candidates, slot="top")
            assert (decision.arm, decision.propensity, decision.snapshot) == (arm, 1.0, None)
        with pytest.raises(NoSnapshot, match="finds no arm among"):
            client.decide("front", X, ["x"], slot="top")


@pytest.mark.parametrize("fallback", ["best", [], ""])
def test_impossible_fallbacks_are_refused(fallback: Any) -> None:
    """With what is allowed."""
    with pytest.raises(ValueError, match="allowed: 'uniform' or a list"):
        PolicyClient(Settings(), fallback=fallback)


def test_a_snapshot_that_is_too_old_is_not_used(settings: Settings) -> None:
    """The limit is inclusive: at exactly that age it still counts. Its arms remain known."""
    publish(settings, snapshot(1))
    now = [1005.0]
    with client_of(settings, max_age_s=5.0, clock=lambda: now[0]) as client:
        client.wait_ready(20)
        assert client.decide("front", X, slot="top").snapshot == 1
        now[0] = 1005.001
        decision = client.decide("front", X, slot="top")
        assert (decision.snapshot, decision.propensity) == (None, 1 / 3)
        assert set(decision.candidates) == {"a", "b", "c"}


def test_missing_topic_and_missing_snapshot_are_told(local_broker: str, prefix: str, settings: Settings) -> None:
    """Waiting ends with the reason."""
    with client_of(settings) as client:
        wait_for(lambda: client.healthy)
        with pytest.raises(NoSnapshot, match=r"'front' .* is a publisher running"):
            client.wait_ready(0.5, policy="front")
    elsewhere = Settings(bootstrap=local_broker, prefix=f"{prefix}none-")
    with client_of(elsewhere) as client:
        wait_for(lambda: "topic" in (client.error or ""))
        with pytest.raises(NoSnapshot, match="run clickloop topics create"):
            client.wait_ready(0.1)


def test_a_broker_that_goes_and_comes_back_is_found_again(prefix: str) -> None:
    """Deciding goes on from what was there; health tells of the loss; the new broker's snapshots are followed."""
    port = free_port()
    settings = Settings(bootstrap=f"127.0.0.1:{port}", prefix=prefix)
    with LocalBroker(port=port):
        topics.create(settings)
        publish(settings, snapshot(1))
        client = PolicyClient(settings, clock=lambda: 1001.0, rng=np.random.default_rng(0))
        client.wait_ready(20)
    try:
        wait_for(lambda: not client.healthy)
        assert client.error
        assert client.decide("front", X, slot="top").snapshot == 1
        with LocalBroker(port=port):  # keeps nothing: a cluster that was set up anew
            topics.create(settings)
            publish(settings, *(snapshot(version) for version in (2, 3, 4)))
            wait_for(lambda: client.decide("front", X, slot="top").snapshot == 4)
            wait_for(lambda: client.healthy)
    finally:
        client.close()


def test_close_ends_the_threads() -> None:
    """And may be called twice."""

    def running() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("clickloop-")}

    before = running()
    client = PolicyClient(Settings(bootstrap=NOBODY))
    mine = running() - before
    assert mine
    client.close()
    client.close()
    assert_ended(mine)
    assert client.error == "closed"
