"""The publisher learns how fast to forget from matured rows on a broker, and a new leader goes on where the last one ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from policies.batch import Batch
from policies.meta_records import encode_meta
from policies.snapshot_records import BetaArm
from streams import feedback, meta_policy, topics
from streams.checkpoint import UnknownOutcomeError, Writer
from streams.decoded import Names
from streams.failpoints import failpoints
from streams.messages import Message
from streams.meta_policy import PolicyMeta
from streams.metrics import Metrics
from streams.posteriors import Place
from streams.published import read_snapshots
from streams.publisher import Publisher
from streams.settings import Settings
from streams.snapshots import history

ARMS = ("a", "b", "c")
LADDER = (0.0, 2.0)
START_MS, STEP_MS, WINDOW = 1_700_000_000_000, 1000, 15
A_STEP = 2000


class World:
    """Stands in for learners: a second's impressions enter the sums of both tracks; once mature they are feedback."""

    def __init__(self, settings: Settings, *, seed: int = 1) -> None:
        self.meta = PolicyMeta("front", settings.policies["front"])
        self.by_track: dict[float, dict[str, Any]] = {one: {} for one in LADDER}
        self.changed: set[str] = set()
        self.place = Place()
        self.error: str | None = None
        self.rng = np.random.default_rng(seed)
        self.waiting: list[bytes] = []
        self.written = 0
        self.writer = Writer(
            settings.librdkafka(),
            transactional_id=settings.prefix + "learner-0",
            partition=0,
            topics={"feedback": settings.topics.feedback},
            timeout_s=60.0,
            passing=failpoints(None),
        )
        self.writer.initialise()

    def step(self, number: int, rates: list[float]) -> None:
        """One second of impressions, with their clicks at once; what is mature is written."""
        arm = self.rng.integers(0, len(ARMS), A_STEP)
        reward = (self.rng.random(A_STEP) < np.array(rates)[arm]).astype(float)
        ts, hit, x = np.full(A_STEP, START_MS + STEP_MS * number), np.flatnonzero(reward), np.zeros((A_STEP, 0))
        batch = Batch(
            arms=ARMS, arm=arm, x=x, ts=ts, reward_arm=arm[hit], reward_x=x[hit], reward_ts=ts[hit],
            reward=np.ones(len(hit)), square=np.ones(len(hit)),
        )  # fmt: skip
        self.by_track = {one: self.meta.models[one].update(sums, batch) for one, sums in self.by_track.items()}
        self.changed, self.place = set(ARMS), Place({0: int(ts[0])}, {}, int(ts[0]))
        self.waiting.append(matured(arm, ts, reward))
        if len(self.waiting) > WINDOW:
            self.writer.commit([Message("feedback", None, self.waiting.pop(0))])
            self.written += 1

    # -- what a publisher asks of the sums it follows

    def start(self) -> None: ...

    def close(self) -> None: ...

    def everything_changed(self) -> None:
        self.changed = set(self.by_track[0.0])

    def take(self, policy: str) -> tuple[dict[float, dict[str, Any]], set[str], Place]:
        changed, self.changed = self.changed, set()
        return self.by_track, changed, self.place


def matured(arm: Any, ts: Any, reward: Any, *, version: int = 1, policy: str = "front") -> bytes:
    """A record of matured rows that this version of a policy decided, one of them a fallback decision."""
    names, slots = Names(), Names()
    for one in ARMS:
        names[one]
    slots["top"]
    n = len(arm)
    snapshot, propensity = np.full(n, version), np.full(n, 1 / len(ARMS))
    snapshot[0], propensity[0] = -1, 1.0
    more = {"reward": reward.astype("<f8").tobytes(), "outcomes": reward.astype("<u4").tobytes(), "share": 1.0}
    return feedback._record(
        "matured", 0, policy, names, slots, arm=arm, slot=np.zeros(n, np.int64), snapshot=snapshot,
        propensity=propensity, impression_ts=ts, impression_offset=np.arange(n), impression_row=np.zeros(n),
        flags=np.zeros(n, np.uint8), x=np.zeros((n, 0)), more=more,
    )  # fmt: skip


@pytest.fixture
def settings(bootstrap: str, prefix: str) -> Settings:
    front = {"model": "beta", "half_lives_s": LADDER, "window_s": WINDOW - 1.0, "grace_s": 1.0, "drift": "alarm"}
    made = Settings(bootstrap=bootstrap, prefix=prefix, partitions=1, policies={"front": front}, meta_interval_s=3600.0)
    topics.create(made)
    return made


@contextmanager
def leading(settings: Settings, world: World) -> Iterator[Publisher]:
    publisher = Publisher(settings, metrics=Metrics(CollectorRegistry()), leads=lambda: True)
    publisher._posteriors = world  # type: ignore[assignment]
    asyncio.run(publisher.follow())
    try:
        yield publisher
    finally:
        asyncio.run(publisher.close())


def catch_up(publisher: Publisher, world: World) -> None:
    """Tick once, then until every matured row that was written is judged."""
    end = time.monotonic() + 90
    while True:
        asyncio.run(publisher.tick())
        meta = publisher._policies["front"].meta
        if publisher._feedback is not None and meta.state.rows + meta.state.unscored == (A_STEP - 1) * world.written:
            return
        assert time.monotonic() < end, (publisher.ready(), meta.state)
        time.sleep(0.01)


def run(publisher: Publisher, world: World, steps: range) -> None:
    for number in steps:
        world.step(number, [0.05, 0.1, 0.3] if number < 40 else [0.3, 0.1, 0.05])
        catch_up(publisher, world)


def dies_writing(publisher: Publisher) -> None:
    """From now on the broker goes away in the middle of the transaction."""
    assert publisher._writer is not None

    def dies(messages: Any) -> None:
        raise UnknownOutcomeError("the broker went away")

    publisher._writer.commit = dies  # type: ignore[method-assign]


def test_a_rate_that_changes_makes_the_short_track_decide(settings: Settings) -> None:
    """Snapshot and history tell the change in words, arms are the short track's, the change is an alarm, and metrics show both."""
    world = World(settings)
    with leading(settings, world) as publisher:
        run(publisher, world, range(40))
        sample = publisher._metrics.registry.get_sample_value
        assert sample("clickloop_half_life_seconds", {"policy": "front"}) == 0.0
        assert sample("clickloop_drift_alarms_total", {"policy": "front"}) == 0.0
        run(publisher, world, range(40, 62))
        meta = publisher._policies["front"].meta
        assert meta.half_life_s == 2.0
        assert sample("clickloop_half_life_seconds", {"policy": "front"}) == 2.0
        assert (sample("clickloop_drift_alarms_total", {"policy": "front"}) or 0) >= 2.0
        scored = sample("clickloop_judged_rows_total", {"policy": "front", "outcome": "scored"})
        assert scored == meta.state.rows
        front = read_snapshots(settings)["front"]
        for name, arm in front.arms.items():
            assert isinstance(arm, BetaArm)
            read = meta.models[2.0].at(world.by_track[2.0][name], now_ms=world.place.now_ms)
            assert arm.a == pytest.approx(front.prior.a + read.reward)  # type: ignore[union-attr]
    told = [reason for head in history(settings, "front") for reason in head["reasons"]]
    assert sum("half-life none -> 2 s: ahead by" in reason for reason in told) == 1


@pytest.mark.parametrize("forgetful", [False, True])
def test_a_new_leader_ends_in_the_state_of_one_that_was_never_replaced(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, forgetful: bool
) -> None:
    """Dead in the middle of a transaction, after rows were judged that no record tells of: the same bits in the end.

    Not so for one that does not write the means by which rows are scored.
    """
    if forgetful:
        monkeypatch.setattr(meta_policy, "encode_means", lambda *_: None)

    def state(publisher: Publisher) -> bytes:
        return encode_meta("front", publisher._policies["front"].meta.state, delays_s=())

    whole = World(settings)
    with leading(settings, whole) as publisher:
        run(publisher, whole, range(40))
        expected = state(publisher)
    other = settings.model_copy(update={"prefix": settings.prefix + "x-"})
    topics.create(other)
    world = World(other)
    with leading(other, world) as publisher:
        run(publisher, world, range(25))
        dies_writing(publisher)
        world.step(25, [0.05, 0.1, 0.3])
        asyncio.run(publisher.tick())
        assert publisher.ready() == (False, "the broker went away")
    with leading(other, world) as publisher:
        world.everything_changed()
        catch_up(publisher, world)
        assert publisher._policies["front"].meta.state.rows > 0
        run(publisher, world, range(26, 40))
        assert (state(publisher) == expected) is not forgetful
