"""Whole policies that compete live: routes in client and service, shares in snapshots, and a publisher that dies in between."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from policies.contest import contender, credited, first_contest
from policies.snapshot import assemble, head_of
from policies.snapshot_records import decode_head, encode_head_record
from streams import topics
from streams.messages import Message
from streams.policy_contest import PolicyContest
from streams.published import read_snapshots
from streams.publisher import Publisher
from streams.settings import PolicySettings, Settings
from streams.snapshots import history
from streams.succession import Route, Routes
from tests.serving import ASK, Kafka, Serving
from tests.test_client import snapshot
from tests.test_meta_publisher import A_STEP, START_MS, STEP_MS, WINDOW, World, dies_writing, leading, matured

FRONT = {"model": "beta", "half_lives_s": (0.0, 2.0), "window_s": WINDOW - 1.0, "grace_s": 1.0}
POLICIES = {"front": FRONT, "deep": FRONT | {"contends": "front", "alpha": 0.2}}


class Rivals(World):
    """Decisions of both policies by the published shares; those of the contender are clicked twice as often."""

    def both(self, number: int, publisher: Publisher) -> None:
        known = publisher._policies["front"].snapshot
        share = 0.0 if known is None else known.shares.get("deep", 0.0)
        at = START_MS + STEP_MS * number
        self.step(number, [0.1, 0.1, 0.1])
        self.waiting.pop()
        records = []
        n = int(share * A_STEP)
        for policy, rows, rate in (("front", A_STEP - n, 0.1), ("deep", n, 0.2)):
            if rows:
                arm, reward = self.rng.integers(0, 3, rows), (self.rng.random(rows) < rate).astype(float)
                records.append((matured(arm, np.full(rows, at), reward, policy=policy), policy, reward[1:]))
        self.late.append(records)
        if len(self.late) > WINDOW:
            for value, policy, reward in self.late.pop(0):
                self.writer.commit([Message("feedback", None, value)])
                self.fed.append((policy, reward))

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.late: list[list[tuple[bytes, str, Any]]] = []
        self.fed: list[tuple[str, Any]] = []  # policy and rewards of the rows that learn, record by record


@pytest.fixture
def settings(bootstrap: str, prefix: str) -> Settings:
    made = Settings(bootstrap=bootstrap, prefix=prefix, partitions=1, policies=POLICIES, meta_interval_s=3600.0)
    topics.create(made)
    return made


def catch_up(publisher: Publisher, world: Rivals) -> None:
    """Tick once, then until every matured row that was written is judged."""
    end = time.monotonic() + 60
    while True:
        asyncio.run(publisher.tick())
        metas = [known.meta.state for known in publisher._policies.values()]
        judged = sum(meta.rows + meta.unscored for meta in metas)
        if publisher._feedback is not None and judged == sum(len(reward) for _, reward in world.fed):
            return
        assert time.monotonic() < end, (publisher.ready(), metas)
        time.sleep(0.01)


def run(publisher: Publisher, world: Rivals, steps: range) -> None:
    for number in steps:
        world.both(number, publisher)
        catch_up(publisher, world)


def test_the_better_policy_gets_the_decisions_and_history_says_so(settings: Settings) -> None:
    """Shares are in the snapshot of the policy that ad servers ask for, and in no other."""
    world = Rivals(settings)
    with leading(settings, world) as publisher:
        run(publisher, world, range(60))
        share = publisher._metrics.registry.get_sample_value(
            "clickloop_contest_share", {"policy": "front", "contender": "deep"}
        )
    assert share is not None
    assert share > 0.9
    found = read_snapshots(settings)
    assert found["front"].shares["deep"] > 0.9
    assert found["deep"].shares == {}
    reasons = [reason for head in history(settings, "front") for reason in head["reasons"]]
    assert sum("'front' -> 'deep': " in reason for reason in reasons) == 1


@pytest.mark.parametrize("forgetful", [False, True])
def test_over_leaders_that_die_every_row_is_credited_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, forgetful: bool
) -> None:
    """Dead in the middle of a transaction: in the end the counts are those of all rows in their order, bit for bit.

    Not so where the record is not read.
    """
    if forgetful:
        monkeypatch.setattr("streams.policy_contest.decode_contest", lambda data, start: start)
    world = Rivals(settings)
    with leading(settings, world) as publisher:
        run(publisher, world, range(20))
        dies_writing(publisher)
        world.both(20, publisher)
        asyncio.run(publisher.tick())
        assert publisher.ready() == (False, "the broker went away")
    with leading(settings, world) as publisher:
        world.everything_changed()
        catch_up(publisher, world)
        run(publisher, world, range(21, 28))
        found = publisher._policies["front"].contest.state
    expected = first_contest(("front", "deep"), bound=1.0)
    for policy, reward in world.fed:
        expected = credited(expected, policy, reward)
    assert (found.layer == expected.layer) is not forgetful


def rivals(**more: Any) -> Settings:
    front = {"dimension": 2, "arms": ("a", "b", "c")}
    return Settings(policies={"front": front, "deep": front | {"contends": "front"}} | more)


def test_decisions_go_by_the_shares_and_to_the_policy_that_is_asked_for_without_them() -> None:
    """A contender without a snapshot decides nothing."""
    routes = Routes(rivals())
    front = replace(snapshot(3), shares={"deep": 0.3, "gone": 0.3})
    deep = replace(snapshot(4), policy="deep")
    both = {"front": front, "deep": deep}
    found = [routes.of("front", f"d{i}", both.get) for i in range(3000)]
    expected = [Route(name, name) for i in range(3000) for name in [contender(f"d{i}", {"deep": 0.3}) or "front"]]
    assert found == expected
    for known in ({"front": front}, {"deep": deep}, {"front": snapshot(3), "deep": deep}):
        assert {routes.of("front", f"d{i}", known.get) for i in range(100)} == {Route("front", "front")}
    assert routes.of("deep", "d1", both.get) == Route("deep", "deep")


def test_the_service_answers_and_logs_for_the_policy_that_decided() -> None:
    """All slots of a page go to one policy, with its snapshot and its exact propensity."""
    kafka = Kafka(replace(snapshot(3), shares={"deep": 0.5}))
    kafka.snapshots["deep"] = replace(snapshot(7), policy="deep")
    policies = {name: one.model_dump(exclude_unset=True) for name, one in rivals().policies.items()}
    page = {key: value for key, value in ASK.items() if key != "slot"} | {"slots": ["top", "side"]}
    with Serving(kafka, policies=policies) as serving:
        answers = [serving.decide(page | {"decision_id": f"d{i}"}) for i in range(60)]
    for i, answer in enumerate(answers):
        name = contender(f"d{i}", {"deep": 0.5}) or "front"
        assert (answer["policy"], answer["snapshot"]) == (name, 7 if name == "deep" else 3)
        logged = [one for one in kafka.impressions if one.decision_id == f"d{i}"]
        assert [(one.policy, one.snapshot) for one in logged] == [(name, answer["snapshot"])] * 2
        assert [one.propensity for one in logged] == [slot["propensity"] for slot in answer["slots"]]


def test_shares_are_in_the_head_s_record_and_left_out_without_them() -> None:
    """Readers of before do not know them: they decide all themselves."""
    shared = replace(snapshot(3), shares={"deep": 0.25})
    for one in (shared, snapshot(3)):
        head = decode_head(encode_head_record(head_of(one)))
        back = assemble(head, one.arms)
        assert back is not None
        assert back.shares == one.shares
    assert b"shares" not in encode_head_record(head_of(snapshot(3)))


@pytest.mark.parametrize(
    ("front", "deep", "part"),
    [
        ({}, {"contends": "nobody"}, "no such other policy"),
        ({}, {"contends": "deep"}, "no such other policy"),
        ({}, {"dimension": 3}, "the same dimension"),
        ({}, {"features": {"numeric": {"hour": {}}}}, "give both"),
        ({"mode": "logging"}, {}, "only policies that are online"),
        ({"budgets": {"b": {"amount": 1.0}}}, {}, "budgets and caps"),
        ({"contends": "deep"}, {}, "itself contends"),
        (
            {"outcomes": {"hide": -1.0}},
            {},
            "'front' has outcomes = {'hide': -1.0}: .* must be above 0; give an outcome",
        ),
        ({}, {"reward_bounds": (-1.0, 0.0)}, r"'deep' has reward_bounds = \[-1.0, 0.0\]: .* must be above 0"),
    ],
)
def test_contests_that_cannot_work_are_refused_at_the_start(
    front: dict[str, Any], deep: dict[str, Any], part: str
) -> None:
    """With the value and the way out."""
    base: dict[str, Any] = {"dimension": 2, "arms": ("a", "b")}
    with pytest.raises(ValidationError, match=part):
        Settings(policies={"front": base | front, "deep": base | {"contends": "front"} | deep})


@pytest.mark.parametrize("more", [{"outcomes": {"hide": -1.0}}, {"reward_bounds": (-1.0, 0.0)}])
def test_a_policy_without_contenders_may_have_rewards_that_are_never_above_zero(more: dict[str, Any]) -> None:
    """Its publisher starts: nothing is compared."""
    alone = PolicyContest("front", {"front": PolicySettings(dimension=2, **more)})
    assert not alone.follows
    assert alone.shares == {}
