"""A publisher that draws a way to explore for each snapshot: what matured rows earn decides, and a new leader goes on with the counts."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from policies.batch import Batch
from policies.choosing import NONE, Choosing, credited, drawn, first_choosing, of_versions, with_run
from policies.meta_records import read_key
from policies.meta_state import Rows
from policies.model import make_model
from policies.prior import Prior
from policies.snapshot import Snapshot, build
from policies.trials import Word
from streams import publisher as publishers
from streams import topics
from streams.messages import Message
from streams.policy_choosing import PolicyChoosing, choices_of
from streams.posteriors import Place
from streams.promotion import say
from streams.published import read_snapshots
from streams.publisher import Publisher
from streams.settings import PolicySettings, Settings
from streams.snapshots import history, rollback
from tests.test_meta_publisher import (
    A_STEP,
    ARMS,
    START_MS,
    STEP_MS,
    WINDOW,
    World,
    catch_up,
    dies_writing,
    leading,
    matured,
)

FRONT = {
    "model": "beta",
    "half_lives_s": (0.0, 2.0),
    "window_s": WINDOW - 1.0,
    "grace_s": 1.0,
    "explore": "top-layer",
    "choices": [{"alpha": 0.29}, {"explorer": "ucb", "alpha": 0.31}],
}


class Earning(World):
    """Impressions name the snapshot that decided; one that was decided by ucb is clicked twice as often."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.decided: list[tuple[str, float]] = []
        self.late: list[tuple[bytes, int, Any]] = []
        self.fed: list[tuple[int, Any]] = []  # version and rewards of the rows that learn, record by record

    def decide(self, number: int, publisher: Publisher) -> None:
        snapshot = publisher._policies["front"].snapshot
        if snapshot is not None:
            self.decided.append((snapshot.explorer, snapshot.rates["alpha"]))
        version, explorer = (-1, "") if snapshot is None else (snapshot.version, snapshot.explorer)
        arm = self.rng.integers(0, len(ARMS), A_STEP)
        reward = (self.rng.random(A_STEP) < (0.2 if explorer == "ucb" else 0.1)).astype(float)
        ts, hit, x = np.full(A_STEP, START_MS + STEP_MS * number), np.flatnonzero(reward), np.zeros((A_STEP, 0))
        batch = Batch(
            arms=ARMS, arm=arm, x=x, ts=ts, reward_arm=arm[hit], reward_x=x[hit], reward_ts=ts[hit],
            reward=np.ones(len(hit)), square=np.ones(len(hit)),
        )  # fmt: skip
        self.by_track = {one: self.meta.models[one].update(sums, batch) for one, sums in self.by_track.items()}
        self.changed.update(ARMS)
        self.place = Place({0: int(ts[0])}, {}, int(ts[0]))
        self.late.append((matured(arm, ts, reward, version=version), version, reward[1:]))
        if len(self.late) > WINDOW:
            value, *told = self.late.pop(0)
            self.writer.commit([Message("feedback", None, value)])
            self.fed.append((told[0], told[1]))
            self.written += 1


@pytest.fixture
def settings(bootstrap: str, prefix: str) -> Settings:
    made = Settings(bootstrap=bootstrap, prefix=prefix, partitions=1, policies={"front": FRONT}, meta_interval_s=3600.0)
    topics.create(made)
    return made


def run(publisher: Publisher, world: Earning, steps: range) -> None:
    for number in steps:
        world.decide(number, publisher)
        catch_up(publisher, world)


def state(publisher: Publisher) -> Choosing:
    one = publisher._policies["front"].meta.exploring
    assert isinstance(one, PolicyChoosing)
    return one.choosing


def test_the_choice_that_earns_most_gets_the_snapshots_and_history_says_so(settings: Settings) -> None:
    """Explorer and rates of the snapshots are the choice's, and the metric shows the rate."""
    world = Earning(settings)
    with leading(settings, world) as publisher:
        run(publisher, world, range(90))
        snapshot = read_snapshots(settings)["front"]
        sample = publisher._metrics.registry.get_sample_value
        assert sample("clickloop_exploration_rate", {"policy": "front"}) == snapshot.rates["alpha"]
    own, other, better = ("thompson", 0.3), ("thompson", 0.29), ("ucb", 0.31)
    assert set(world.decided) == {own, other, better}
    assert world.decided[:20].count(own) > world.decided[:20].count(better)
    assert world.decided[-20:].count(better) > 14
    reasons = [reason for head in history(settings, "front") for reason in head["reasons"]]
    assert sum("thompson alpha 0.3 -> ucb alpha 0.31" in reason for reason in reasons) == 1


@pytest.mark.parametrize("forgetful", [False, True])
def test_over_leaders_that_die_every_row_is_credited_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, forgetful: bool
) -> None:
    """Dead in the middle of a transaction: in the end the counts are those of all rows in their order, bit for bit.

    Not so where the record is not read.
    """
    monkeypatch.setattr("policies.choosing.SNAPSHOTS", 0)  # so that what is remembered does not change on the way
    if forgetful:
        monkeypatch.setattr("streams.policy_choosing.decode_choosing", lambda data, start, names: start)
    world = Earning(settings)
    with leading(settings, world) as publisher:
        run(publisher, world, range(22))
        runs = state(publisher).runs
        dies_writing(publisher)
        world.decide(22, publisher)
        asyncio.run(publisher.tick())
        assert publisher.ready() == (False, "the broker went away")
    with leading(settings, world) as publisher:
        world.everything_changed()
        catch_up(publisher, world)
        run(publisher, world, range(23, 30))
        found = state(publisher)
    expected = replace(first_choosing(3, default=0, bound=1.0), runs=runs if forgetful else found.runs)
    for version, reward in world.fed:
        expected = credited(expected, np.full(len(reward), version), reward)
    assert ((found.layer.S, found.layer.F) == (expected.layer.S, expected.layer.F)) is not forgetful


def draws_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is known, the second choice is drawn."""

    def second(state: Choosing, *, policy: str, version: int, count: float) -> Choosing:
        return with_run(drawn(state, policy=policy, version=version, count=count), version, 1)

    monkeypatch.setattr("streams.policy_choosing.drawn", second)


def test_beside_a_candidate_the_policy_s_own_way_decides_over_leaders(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the choice that was drawn before; and what the proposal does not say is as in the settings."""
    draws_the_second(monkeypatch)
    world = Earning(settings)
    with leading(settings, world) as publisher:
        run(publisher, world, range(3))
        assert read_snapshots(settings)["front"].rates["alpha"] == 0.29
        say(settings, "front", Word(kind="propose", rates={"epsilon": 0.2}))
        tried(publisher, world)
    with leading(settings, world) as publisher:
        world.everything_changed()
        tried(publisher, world)


def tried(publisher: Publisher, world: Earning) -> None:
    """Until a snapshot has the candidate; it and its incumbent have the policy's own rates."""
    for number in range(3, 30):
        run(publisher, world, range(number, number + 1))
        found = publisher._policies["front"].snapshot
        if found is not None and found.canary is not None:
            assert (found.explorer, found.rates) == ("thompson", {"alpha": 0.3, "epsilon": 0.005})
            assert (found.canary.explorer, found.canary.rates) == ("thompson", {"alpha": 0.3, "epsilon": 0.2})
            return
    raise AssertionError("no snapshot has the candidate")


def test_rows_of_a_held_snapshot_are_credited_to_no_choice(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody drew it; the next leader knows, and after its release choices are drawn again."""
    draws_the_second(monkeypatch)
    monkeypatch.setattr(publishers, "HELD_LOOK_S", 0.0)  # a release is seen at the next tick
    world = Earning(settings)
    with leading(settings, world) as publisher:
        run(publisher, world, range(3))
        first = next(head["version"] for head in history(settings, "front") if head["full"])
        held = rollback(settings, "front", first)["version"]
        run(publisher, world, range(3, 5))
        assert of_versions(state(publisher), np.array([held - 1, held, held + 1])).tolist() == [1, NONE, NONE]
    with leading(settings, world) as publisher:
        world.everything_changed()
        run(publisher, world, range(5, 6))
        released = rollback(settings, "front", 0)["version"]
        run(publisher, world, range(6, 9))
        newest = read_snapshots(settings)["front"].version
        assert newest > released
        assert of_versions(state(publisher), np.array([held - 1, held, newest])).tolist() == [1, NONE, 1]


def choosing() -> PolicyChoosing:
    return PolicyChoosing("front", PolicySettings(**FRONT))


def test_while_something_is_tried_no_choice_is_drawn_or_credited() -> None:
    """The policy's own way decides those snapshots, and what they earn is nobody's."""
    one = choosing()
    one.before(1, count=10.0, snapshot=None, free=False)
    assert one.now(one.choices[1]) is one.choices[0]
    before = one.choosing.layer
    rows = Rows(
        arm=["a"], ts=np.zeros(1, np.int64), x=np.zeros((1, 0)), reward=np.ones(1), snapshot=np.array([1]), group=None
    )
    one.take(rows)
    assert (one.choosing.layer.S, one.choosing.layer.F) == (before.S, before.F)


def test_rows_drawn_at_random_are_credited_to_nothing() -> None:
    """They say nothing of how the policy explores."""
    one = choosing()
    one.before(1, count=10.0, snapshot=None, free=True)
    rows = Rows(
        arm=["a"] * 2,
        ts=np.zeros(2, np.int64),
        x=np.zeros((2, 0)),
        reward=np.ones(2),
        snapshot=np.array([1, 1]),
        group=np.array([3, 4]),
    )
    one.take(rows)
    assert sum(one.choosing.layer.S) == pytest.approx(len(one.choices) + 1.0)


def test_a_choice_that_a_guardrail_speaks_against_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings' own way decides that snapshot."""
    monkeypatch.setattr(PolicyChoosing, "against", lambda self, snapshot, wished: "chances would change by 0.5")
    one = choosing()
    for version in range(1, 100):
        one.before(version, count=10.0 * version, snapshot=None, free=True)
    assert one.choosing.runs == ((1, 0),)


LINEAR = {"dimension": 2, "explore": "top-layer"}


def two_arms() -> Snapshot:
    """Of which the first is better by a little less than is known of either."""
    model = make_model("linear", dimension=2)
    x = np.tile(np.eye(2), (20, 1))
    batch = Batch(
        arms=("a", "b"), arm=np.repeat([0, 1], 20), x=x, ts=np.zeros(40, np.int64), reward_arm=np.zeros(8, np.int64),
        reward_x=x[:8], reward_ts=np.zeros(8, np.int64), reward=np.ones(8), square=np.ones(8),
    )  # fmt: skip
    prior = Prior(mean=np.zeros(2), tau2=np.ones(2), s2=4.0)
    sums = model.update({}, batch)
    return build("front", model=model, sums=sums, prior=prior, version=1, previous=None, time_ms=0, now_ms=0)


def rows_with_contexts() -> Rows:
    return Rows(arm=["a"] * 300, ts=np.zeros(300, np.int64), x=np.tile(np.eye(2), (150, 1)), reward=np.zeros(300))


def written(one: PolicyChoosing) -> dict[tuple[str | None, str], bytes]:
    found = {read_key(message.key): message.value for message in one.messages(moved=True)}
    return {key[1:]: value for key, value in found.items() if key is not None and value is not None}


@pytest.mark.parametrize(("alpha", "taken"), [(0.29, {0, 1}), (30.0, {0})])
def test_with_a_context_the_guardrail_goes_by_recent_ones_over_leaders(alpha: float, taken: set[int]) -> None:
    """By which chances hardly change, or change too much; a new leader has the same contexts, and takes the same choices."""
    policy = PolicySettings(**LINEAR, choices=[{"alpha": alpha}])
    whole = PolicyChoosing("front", policy)
    whole.take(rows_with_contexts())
    for version in range(2, 100):
        dies, whole = whole, PolicyChoosing("front", policy) if version == 50 else whole
        if dies is not whole:
            whole.restore(written(dies))
            assert np.array_equal(whole.state.ring, dies.state.ring)
            assert len(whole.state.ring) > 0
        whole.before(version, count=10.0 * version, snapshot=two_arms(), free=True)
    assert {index for _, index in whole.choosing.runs} == taken


def test_without_recent_contexts_the_policy_s_own_way_is_taken() -> None:
    """Nobody can tell how far chances would change."""
    one = PolicyChoosing("front", PolicySettings(**LINEAR, choices=[{"alpha": 0.29}]))
    for version in range(2, 100):
        one.before(version, count=10.0 * version, snapshot=two_arms(), free=True)
    assert one.choosing.runs == ((2, 0),)


def test_without_choices_they_are_the_usual_rates() -> None:
    """The settings' own first, each once."""
    made = choices_of(PolicySettings(model="beta", explore="top-layer", alpha=0.4))
    assert [one.rates["alpha"] for one in made] == [0.4, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ({"explore": "fixed"}, "nothing chooses"),
        ({"choices": [{"tau": 0.1}]}, r"choices\[0\] = .*has no rate 'tau'"),
        ({"choices": [{"explorer": "magic"}]}, "there is no explorer 'magic'"),
        ({"choices": [{"alpha": "wide"}]}, "could not convert"),
        ({"choices": [], "explorer": "softmax"}, "give choices"),
        ({"mode": "logging"}, "decide nothing"),
        ({"outcomes": {"hide": -1.0}}, "with outcomes = {'hide': -1.0}: .* must be above 0; give an outcome"),
        ({"reward_bounds": (-1.0, 0.0)}, r"with reward_bounds = \[-1.0, 0.0\]: .* must be above 0"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_the_start(more: dict[str, Any], part: str) -> None:
    """With the value and the way out."""
    with pytest.raises(ValidationError, match=part):
        PolicySettings(**{**FRONT, **more})
