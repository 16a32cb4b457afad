"""The publisher on a broker: sums of partitions in, versioned snapshots out, and who may publish."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from policies.decide import law
from policies.empirical_bayes import fit
from policies.model import Model, Sums
from policies.posterior import ArmPosterior, posterior
from policies.prior import BetaPrior, Prior
from policies.snapshot_records import BetaArm, LinearArm, decode_head
from streams import publisher as publishers
from streams import snapshots, topics
from streams.checkpoint import Writer
from streams.failpoints import failpoints
from streams.following import names
from streams.messages import Message
from streams.metrics import Metrics
from streams.published import is_held, read_snapshots
from streams.publisher import Publisher
from streams.reading import SimpleRecord, bounds, read, reader
from streams.rules import model
from streams.settings import Settings
from streams.state import sums_key
from tests.policies.batches import dyadic, take

X = np.array([0.5, -1.0, 0.25])
LINEAR = {"dimension": 3, "intercept": 0}


def settings_of(bootstrap: str, prefix: str, **more: Any) -> Settings:
    """Two partitions and the policy `front`; meta-updates only when data double, unless told otherwise."""
    given: dict[str, Any] = {"policies": {"front": LINEAR}, "meta_interval_s": 3600.0} | more
    return Settings(bootstrap=bootstrap, prefix=prefix, partitions=2, **given)


@pytest.fixture
def settings(bootstrap: str, prefix: str) -> Settings:
    made = settings_of(bootstrap, prefix)
    topics.create(made)
    return made


class Learners:
    """Stands in for learners: commits sums of a partition as they do."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.models: dict[str, Model] = {name: model(policy) for name, policy in settings.policies.items()}
        self.sums: dict[tuple[str, int], dict[str, Sums]] = {}
        self.offset = 0
        self.writers: dict[int, Writer] = {}

    def commit(self, partition: int, batch: Any, *, policy: str = "front") -> None:
        """Add a batch to a partition's sums and commit the arms that it touched."""
        before = self.sums.get((policy, partition), {})
        after = self.models[policy].update(before, batch)
        self.sums[policy, partition] = after
        messages = [
            Message(
                "posteriors", sums_key(policy, partition, arm), msgspec.msgpack.encode(self.models[policy].encode(one))
            )
            for arm, one in after.items()
            if before.get(arm) is not one
        ]
        self.offset += 10
        checkpoint = {"offsets": {"impressions": self.offset, "clicks": 3}, "watermark": 1000 * self.offset}
        messages.append(Message("posteriors", sums_key(None, partition, None), msgspec.msgpack.encode(checkpoint)))
        writer = self.writers.get(partition)
        if writer is None:
            writer = self.writers[partition] = writer_of(self.settings, f"learner-{partition}", partition)
        writer.commit(messages)

    def merged(self, policy: str = "front") -> dict[str, Sums]:
        """The sums of both partitions."""
        total: dict[str, Sums] = {}
        for (name, _), arms in sorted(self.sums.items()):
            for arm, one in arms.items() if name == policy else ():
                total[arm] = self.models[policy].merge(total[arm], one) if arm in total else one
        return dict(sorted(total.items()))


def writer_of(settings: Settings, name: str, partition: int) -> Writer:
    """An initialised writer."""
    roles = {
        "posteriors": settings.topics.posteriors,
        "policies": settings.topics.policies,
        "history": settings.topics.history,
    }
    writer = Writer(
        settings.librdkafka(),
        transactional_id=settings.prefix + name,
        partition=partition,
        topics=roles,
        timeout_s=60.0,
        passing=failpoints(None),
    )
    writer.initialise()
    return writer


@contextmanager
def publishing(settings: Settings, leads: Callable[[], bool] = lambda: True) -> Iterator[Publisher]:
    """A publisher that follows the sums; `ticks` makes its timer go."""
    publisher = Publisher(settings, metrics=Metrics(CollectorRegistry()), leads=leads)
    asyncio.run(publisher.follow())
    try:
        yield publisher
    finally:
        asyncio.run(publisher.close())


def tick(publisher: Publisher, times: int = 1) -> None:
    for _ in range(times):
        asyncio.run(publisher.tick())


def until(publisher: Publisher, reached: Callable[[], Any], timeout_s: float = 90.0) -> Any:
    """Tick until something is so. Returns what it is."""
    end = time.monotonic() + timeout_s
    while not (found := reached()):
        assert time.monotonic() < end, publisher.ready()
        tick(publisher)
        time.sleep(0.02)
    return found


def records(settings: Settings, topic: str) -> list[SimpleRecord]:
    """All committed records of a topic's one partition."""
    with reader(settings.librdkafka()) as consumer:
        low, high = bounds(consumer, topic, 0, timeout_s=10)
        return (
            [one for batch in read(consumer, topic, 0, low, None, timeout_s=10) for one in batch] if high > low else []
        )


def arms_and_heads(settings: Settings, topic: str) -> list[tuple[str | None, int]]:
    """(arm, None for a head, and version) of every record, in order."""
    return [
        (names(one.key)[1], msgspec.msgpack.decode(one.value or b"")["version"]) for one in records(settings, topic)
    ]


def included(publisher: Publisher, *offsets: int) -> Any:
    """The newest snapshot, once it includes learners' commits up to these offsets."""
    known = publisher._policies["front"].snapshot
    if known is None or not set(offsets) <= {next_["impressions"] for next_ in known.offsets.values()}:
        return None
    found = read_snapshots(publisher._settings)["front"]
    assert found.checksum == known.checksum
    return found


def only(arm: int, seed: int, n: int = 60) -> Any:
    """Rows of one arm, with their rewards."""
    batch = dyadic(seed, n)
    return take(batch, np.flatnonzero(batch.arm == arm).tolist(), np.flatnonzero(batch.reward_arm == arm).tolist())


def test_a_snapshot_is_the_posterior_of_the_partitions_merged_sums(settings: Settings) -> None:
    """With the prior that empirical Bayes fits to all arms, which the head carries; arm by arm to float32."""
    learners = Learners(settings)
    learners.commit(0, dyadic(1, 300))
    learners.commit(1, dyadic(2, 200))
    with publishing(settings) as publisher:
        front = until(publisher, lambda: included(publisher, 10, 20))
    merged, learned = learners.merged(), learners.models["front"]
    effective = {arm: learned.at(one, now_ms=0) for arm, one in merged.items()}
    prior = fit(effective, None, model="linear", dimension=3, intercept=0)
    assert isinstance(prior, Prior)
    assert prior.mean[0] != 0.0
    assert front.prior == prior
    for name, one in effective.items():
        found, arm = posterior(prior, one), front.arms[name]
        assert isinstance(arm, LinearArm)
        assert arm.count == one.count == sum(parts[name].count for parts in learners.sums.values())
        assert np.array_equal(arm.mean, found.mean.astype(np.float32))  # type: ignore[union-attr]
    assert front.offsets == {0: {"impressions": 10, "clicks": 3}, 1: {"impressions": 20, "clicks": 3}}
    assert front.watermark_ms == {0: 10_000, 1: 20_000}
    assert "empirical Bayes" in front.reasons[0]


def test_only_what_changed_is_published_and_nothing_without_a_change(settings: Settings) -> None:
    """One arm's new rows: its record and the head, in the compacted topic; the head alone in the history."""
    learners = Learners(settings)
    learners.commit(0, dyadic(1, 300))
    with publishing(settings) as publisher:
        until(publisher, lambda: included(publisher, 10))
        first = [*((name, 1) for name in "abcd"), (None, 1)]
        assert arms_and_heads(settings, settings.topics.policies) == first
        assert arms_and_heads(settings, settings.topics.history) == first
        tick(publisher, 10)
        assert arms_and_heads(settings, settings.topics.policies) == first
        learners.commit(1, only(2, 5))
        until(publisher, lambda: included(publisher, 20))
        tick(publisher, 10)
        assert arms_and_heads(settings, settings.topics.policies) == [*first, ("c", 2), (None, 2)]
        assert arms_and_heads(settings, settings.topics.history) == [*first, (None, 2)]
        assert publisher.ready() == (True, "leading")
    head = decode_head(records(settings, settings.topics.policies)[-1].value or b"")
    assert (head.version, head.parent, head.arms) == (2, 1, {"a": 1, "b": 1, "c": 2, "d": 1})


def test_a_meta_change_puts_every_arm_into_the_history(settings: Settings) -> None:
    """When the data double the prior is fitted anew: all arms are written, with the reason in words."""
    learners = Learners(settings)
    learners.commit(0, dyadic(1, 100))
    with publishing(settings) as publisher:
        before = until(publisher, lambda: included(publisher, 10))
        learners.commit(0, dyadic(2, 150))
        after = until(publisher, lambda: included(publisher, 20))
    assert before.prior != after.prior
    assert "fitted to 250 impressions of 4 arms" in after.reasons[0]
    second = [*((name, 2) for name in "abcd"), (None, 2)]
    assert arms_and_heads(settings, settings.topics.history)[-5:] == second
    assert arms_and_heads(settings, settings.topics.policies)[-5:] == second


def test_the_last_rows_enter_the_prior_when_the_meta_update_is_due(bootstrap: str, prefix: str) -> None:
    """Also when nothing comes after them, and then no snapshot more."""
    settings = settings_of(bootstrap, prefix, meta_interval_s=0.5)
    topics.create(settings)
    learners = Learners(settings)
    learners.commit(0, dyadic(1, 300))
    with publishing(settings) as publisher:
        until(publisher, lambda: included(publisher, 10))
        learners.commit(0, dyadic(2, 60))
        last = until(
            publisher, lambda: (one := included(publisher, 20)) and "360 impressions" in str(one.reasons) and one
        )
        time.sleep(0.6)
        tick(publisher, 3)
        assert read_snapshots(settings)["front"].version == last.version


def test_arms_of_the_settings_are_there_before_any_impression(bootstrap: str, prefix: str) -> None:
    """Under the prior's start; an arm that the settings name later is there after the next start, without any rows."""
    settings = settings_of(bootstrap, prefix, policies={"front": LINEAR | {"arms": ["x", "y"]}, "silent": LINEAR})
    topics.create(settings)
    with publishing(settings) as publisher:
        until(publisher, lambda: publisher._policies["front"].snapshot)
    found = read_snapshots(settings)
    assert list(found) == ["front"]
    assert found["front"].names == ("x", "y")
    assert law(found["front"], X) == pytest.approx([0.5, 0.5])
    more = settings_of(bootstrap, prefix, policies={"front": LINEAR | {"arms": ["x", "y", "z"]}})
    with publishing(more) as publisher:
        until(publisher, lambda: read_snapshots(settings)["front"].names == ("x", "y", "z"))


def test_beta_arms_are_published_with_their_prior(bootstrap: str, prefix: str) -> None:
    """Beta(a0 + r, b0 + n - r), and the head says a0 and b0."""
    settings = settings_of(bootstrap, prefix, policies={"front": {"model": "beta"}})
    topics.create(settings)
    learners = Learners(settings)
    learners.commit(1, dyadic(1, 300))
    with publishing(settings) as publisher:
        front = until(publisher, lambda: included(publisher, 10))
    assert isinstance(front.prior, BetaPrior)
    for name, one in learners.merged().items():
        arm = front.arms[name]
        assert isinstance(arm, BetaArm)
        assert arm.a == front.prior.a + one.reward
        assert arm.b == front.prior.b + max(one.n - one.reward, 0.0)


@pytest.mark.parametrize("name", ["hybrid", "student", "logistic"])
def test_every_model_is_published_with_its_own_prior(bootstrap: str, prefix: str, name: str) -> None:
    """Arm by arm the posterior of the merged sums; one arm's new rows change its record alone, and the tag is the settings'."""
    policy = LINEAR | {"model": name, "encoder": "text-7c"}
    settings = settings_of(bootstrap, prefix, policies={"front": policy})
    topics.create(settings)
    learners = Learners(settings)
    learners.commit(0, dyadic(1, 300))
    learners.commit(1, dyadic(2, 200))
    with publishing(settings) as publisher:
        first = until(publisher, lambda: included(publisher, 10, 20))
        learners.commit(1, only(0, 3, n=20))
        front = until(publisher, lambda: included(publisher, 10, 30))
    learned = learners.models["front"]
    effective = {arm: learned.at(one, now_ms=0) for arm, one in learners.merged().items()}
    assert (front.model, front.encoder, front.prior) == (name, "text-7c", first.prior)
    assert list(front.changed) == ["a"]
    for arm, one in effective.items():
        found, published = posterior(front.prior, one), front.arms[arm]
        assert isinstance(found, ArmPosterior)
        assert isinstance(published, LinearArm)
        assert np.array_equal(published.mean, found.mean.astype(np.float32))
        assert published.dof == found.dof
    assert law(front, X).sum() == pytest.approx(1.0)


def test_sums_that_were_not_committed_are_not_published(settings: Settings) -> None:
    """An arm's record counts when its checkpoint record has come, and only if the transaction was committed."""
    learners = Learners(settings)
    learners.commit(0, dyadic(1, 200))
    open_one = writer_of(settings, "dying", 1)
    open_one._producer.begin_transaction()
    sums = learners.models["front"].update({}, dyadic(9, 500))
    for arm, one in sums.items():
        value = msgspec.msgpack.encode(learners.models["front"].encode(one))
        open_one._producer.produce(settings.topics.posteriors, key=sums_key("front", 1, arm), value=value, partition=1)
    checkpoint = msgspec.msgpack.encode({"offsets": {"impressions": 999, "clicks": 0}, "watermark": 5})
    open_one._producer.produce(settings.topics.posteriors, key=sums_key(None, 1, None), value=checkpoint, partition=1)
    open_one._producer.flush(10)
    with publishing(settings) as publisher:
        front = until(publisher, lambda: included(publisher, 10))
        tick(publisher, 5)
        assert sum(arm.count for arm in front.arms.values()) == 200
        open_one._producer.abort_transaction(10)
        learners.commit(1, dyadic(3, 50))
        front = until(publisher, lambda: included(publisher, 20))
    assert sum(arm.count for arm in front.arms.values()) == 250


def test_a_restart_goes_on_where_the_last_one_ended(settings: Settings) -> None:
    """The same sums and settings make no new version; new rows make the next, whose parent is the last."""
    learners = Learners(settings)
    learners.commit(0, dyadic(1, 300))
    learners.commit(1, dyadic(2, 100))
    with publishing(settings) as publisher:
        until(publisher, lambda: included(publisher, 10, 20))
        version = read_snapshots(settings)["front"].version
    written = len(records(settings, settings.topics.policies))
    with publishing(settings) as publisher:
        until(publisher, lambda: publisher.ready() == (True, "leading"))
        tick(publisher, 5)
        assert len(records(settings, settings.topics.policies)) == written
        learners.commit(1, only(0, 3))
        front = until(publisher, lambda: included(publisher, 30))
    assert (front.version, front.parent) == (version + 1, version)


def test_other_settings_make_a_new_version_at_the_start(settings: Settings, bootstrap: str) -> None:
    """How arms are chosen is part of the snapshot."""
    learners = Learners(settings)
    learners.commit(0, dyadic(1, 300))
    with publishing(settings) as publisher:
        until(publisher, lambda: included(publisher, 10))
    changed = settings_of(bootstrap, settings.prefix, policies={"front": LINEAR | {"explorer": "ucb"}})
    with publishing(changed) as publisher:
        front = until(publisher, lambda: (one := read_snapshots(settings)["front"]).version == 2 and one)
    assert front.explorer == "ucb"
    assert {arm.version for arm in front.arms.values()} == {1}


def test_two_that_think_they_lead_never_give_a_version_twice(settings: Settings) -> None:
    """Each fences the other and starts over from what was published: versions increase by one, arms fit their heads."""
    learners = Learners(settings)
    learners.commit(0, dyadic(1, 100))
    with publishing(settings) as one, publishing(settings) as two:
        until(one, lambda: included(one, 10))
        for round_ in range(4):
            learners.commit(round_ % 2, only(round_ % 4, 20 + round_))
            both = (two, one) if round_ % 2 == 0 else (one, two)
            leader, offset = both[0], 20 + 10 * round_
            until(leader, lambda leader=leader, offset=offset: included(leader, offset))  # type: ignore[misc]
            tick(both[1])
    heads = [version for arm, version in arms_and_heads(settings, settings.topics.policies) if arm is None]
    assert heads == list(range(1, len(heads) + 1))
    front = read_snapshots(settings)["front"]
    assert front.version == heads[-1]
    merged = learners.merged()
    assert {name: arm.count for name, arm in front.arms.items()} == {name: one.count for name, one in merged.items()}


def test_who_does_not_lead_publishes_nothing_and_tells_no_age(settings: Settings) -> None:
    """A stand-by is ready; a leader that is replaced stops telling an age that would only grow."""
    learners = Learners(settings)
    learners.commit(0, dyadic(1, 100))
    leader = False
    with publishing(settings, lambda: leader) as publisher:
        until(publisher, lambda: publisher.ready() == (True, "standing by"))
        tick(publisher, 3)
        assert records(settings, settings.topics.policies) == []
        leader = True
        until(publisher, lambda: included(publisher, 10))
        tick(publisher)
        sample = publisher._metrics.registry.get_sample_value
        assert sample("clickloop_snapshot_version", {"policy": "front"}) == 1.0
        assert sample("clickloop_snapshot_age_seconds", {"policy": "front"}) is not None
        leader = False
        tick(publisher)
        assert sample("clickloop_snapshot_version", {"policy": "front"}) is None
        assert sample("clickloop_snapshot_age_seconds", {"policy": "front"}) is None
        leader = True
        until(publisher, lambda: sample("clickloop_snapshot_version", {"policy": "front"}) == 1.0)


def test_a_rollback_holds_until_it_is_released(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """New rows publish nothing meanwhile; after the release the running leader publishes all that came."""
    monkeypatch.setattr(publishers, "HELD_LOOK_S", 0.1)
    learners = Learners(settings)
    learners.commit(0, dyadic(1, 100))
    with publishing(settings) as publisher:
        first = until(publisher, lambda: included(publisher, 10))
        learners.commit(0, dyadic(2, 300))
        second = until(publisher, lambda: included(publisher, 20))
        back = snapshots.rollback(settings, "front", first.version)
        assert (back["version"], back["parent"]) == (second.version + 1, second.version)
        held = read_snapshots(settings)["front"]
        assert np.array_equal(law(held, X), law(first, X))
        learners.commit(1, only(1, 7))

        def holds() -> bool:
            """Whether the leader that was fenced leads again, and knows of the rollback."""
            one = publisher._policies["front"].snapshot
            return one is not None and is_held(one) and publisher.ready() == (True, "leading")

        until(publisher, holds)
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            tick(publisher)
            time.sleep(0.05)
        assert read_snapshots(settings)["front"].version == held.version
        assert publisher.ready() == (True, "leading")
        snapshots.rollback(settings, "front", 0)
        released = until(publisher, lambda: included(publisher, 30))
    assert released.version > held.version + 1
    assert {name: arm.count for name, arm in released.arms.items()} == {
        n: one.count for n, one in learners.merged().items()
    }
    heads = [version for arm, version in arms_and_heads(settings, settings.topics.policies) if arm is None]
    assert heads == list(range(1, len(heads) + 1))


def test_a_rollback_while_the_leader_publishes_takes_a_version_of_its_own(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader publishes after the rollback has looked up what to republish: the rollback comes after that."""
    learners = Learners(settings)
    learners.commit(0, dyadic(1, 100))
    with publishing(settings) as publisher:
        first = until(publisher, lambda: included(publisher, 10))
        looked_up = snapshots._history

        def slow(*arguments: Any) -> Any:
            found = looked_up(*arguments)
            learners.commit(0, only(3, 11))
            until(publisher, lambda: included(publisher, 20))
            return found

        monkeypatch.setattr(snapshots, "_history", slow)
        assert snapshots.rollback(settings, "front", first.version)["version"] == 3
        tick(publisher, 5)
    heads = [version for arm, version in arms_and_heads(settings, settings.topics.policies) if arm is None]
    assert heads == [1, 2, 3]


def test_a_rollback_that_the_leader_interrupts_is_tried_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader takes over between its first and its last step, once."""
    learners = Learners(settings)
    learners.commit(0, dyadic(1, 100))
    with publishing(settings) as publisher:
        until(publisher, lambda: included(publisher, 10))
        newest = snapshots._newest
        interrupted: list[int] = []

        def interrupting(*arguments: Any) -> Any:
            found = newest(*arguments)
            if len(interrupted) == 1:
                learners.commit(0, only(3, 11))
                until(publisher, lambda: included(publisher, 20))
            interrupted.append(found.version)
            return found

        monkeypatch.setattr(snapshots, "_newest", interrupting)
        assert snapshots.rollback(settings, "front", 1)["version"] == 3
    assert interrupted == [1, 1, 2]
    heads = [version for arm, version in arms_and_heads(settings, settings.topics.policies) if arm is None]
    assert heads == [1, 2, 3]


def test_only_versions_that_the_history_has_in_full_can_come_back(settings: Settings) -> None:
    """With those that can."""
    learners = Learners(settings)
    learners.commit(0, dyadic(1, 300))
    with publishing(settings) as publisher:
        until(publisher, lambda: included(publisher, 10))
        learners.commit(0, only(1, 5))
        until(publisher, lambda: included(publisher, 20))
    assert [(head["version"], head["full"]) for head in snapshots.history(settings, "front")] == [(1, True), (2, False)]
    with pytest.raises(
        snapshots.UnknownVersionError, match="version = 2: the history has in full 1; choose one of these"
    ):
        snapshots.rollback(settings, "front", 2)


def test_a_dead_broker_makes_the_publisher_unready_with_the_reason(prefix: str) -> None:
    """And publishing is tried again at the next tick."""
    settings = settings_of("127.0.0.1:1", prefix)
    with publishing(settings) as publisher:
        tick(publisher)
        ready, reason = publisher.ready()
    assert not ready
    assert "sums" in reason
