"""Spending of a partition: every event that counts is charged once, to its own period, whatever dies and whatever is read again."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace as changed

from policies.ledger import merged
from streams.cuts import Side
from streams.events import Impression, Outcome
from streams.ledgers import Ledgers, is_ledger, ledger_key, tariff
from streams.posteriors import Posteriors
from streams.recovery import StateMismatchError, restore
from streams.settings import PolicySettings, Settings
from streams.state import SIDES, Fetched, PartitionState, sums_key
from streams.sums import read_states
from streams.table import read_key
from tests import test_budget
from tests.loop import Loop, assert_exact
from tests.oracle import DIMENSION, POLICY, config, fold, traffic
from tests.spending import ADS, costly, spending, told
from tests.test_budget import START_MS, TWO_SUMS, Committed, Log, recovered, rules_of
from tests.test_exactly_once import Load, die, hour_ago_ms

SETTINGS = tomllib.loads(config(more=ADS))["policies"][POLICY]
EVENTS = costly(traffic(5, 1_500, start_ms=START_MS, step_ms=20.0).events)
PARTS: dict[str, Any] = {name: SETTINGS[name] for name in ("ads", "budgets")}


def run(
    monkeypatch: pytest.MonkeyPatch, *, crash: float, budget: int, seed: int = 5
) -> tuple[PartitionState, Committed, int]:
    """The learner of test_budget.py, which is lost again and again, on events that cost something."""
    given = mock.Mock(events=EVENTS)
    monkeypatch.setattr(test_budget, "traffic", lambda *_, **__: given)
    monkeypatch.setattr(test_budget, "set_unit", lambda event, **_: event)
    return test_budget.run("linear", seed, budget, crash=crash, **PARTS)


def test_without_a_crash_the_ledger_is_what_one_thread_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """By budget and period of each event's own time; fallbacks and arms that draw on nothing are counted as shown."""
    state, committed, _ = run(monkeypatch, crash=0.0, budget=10_000_000)
    assert told(state.ledgers.by_policy[POLICY]) == spending(EVENTS)
    assert state.ledgers.by_policy[POLICY].impressions == state.impressions["accepted"]
    (key,) = [key for key in committed.records if is_ledger(key)]
    assert key == ledger_key(POLICY, 0)


def charges_what_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A learner that charges impressions when it takes them again for sums that had no room."""
    inside = PartitionState._impressions

    def impressions(self: PartitionState, records: Any) -> Any:
        to, self._replayed = self._replayed, None
        try:
            return inside(self, records)
        finally:
            self._replayed = to

    monkeypatch.setattr(PartitionState, "_impressions", impressions)


def charges_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A learner that charges every impression that comes, the copies too."""
    inside = Ledgers.shown
    monkeypatch.setattr(
        Ledgers, "shown", lambda self, group, rows, names: inside(self, group, np.arange(len(group.ts)), names)
    )


def forgets_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """A learner that writes its ledger in every second checkpoint only."""
    inside, calls = Ledgers.messages, [0]

    def messages(self: Ledgers, *where: Any) -> Any:
        calls[0] += 1
        return inside(self, *where) if calls[0] % 2 else ()

    monkeypatch.setattr(Ledgers, "messages", messages)


@pytest.mark.parametrize(
    ("broken", "seed"),
    [
        (None, 5),
        (None, 6),
        (None, 7),
        (None, 8),
        (charges_what_is_replayed, 5),
        (charges_copies, 5),
        (forgets_to_write, 5),
    ],
)
def test_each_event_is_charged_once_over_crashes(
    monkeypatch: pytest.MonkeyPatch, broken: Callable[[pytest.MonkeyPatch], None] | None, seed: int
) -> None:
    """Lost again and again between checkpoints with room for two sums of ten: the oracle's bits, unless a rule is broken."""
    if broken is not None:
        broken(monkeypatch)
    state, committed, deaths = run(monkeypatch, crash=0.25, budget=TWO_SUMS, seed=seed)
    assert deaths > 5
    assert (told(state.ledgers.by_policy[POLICY]) == spending(EVENTS)) is (broken is None)
    if broken is None:
        successor = recovered(Log(EVENTS), committed, rules_of("linear", TWO_SUMS, **PARTS))
        assert successor.ledgers.by_policy == state.ledgers.by_policy


def test_a_ledger_is_written_when_it_changed() -> None:
    """A checkpoint of time alone has none; nor has a policy of which no arm is known."""
    state = PartitionState(0, rules=rules_of("linear", 10_000_000, **PARTS))
    log = Log(EVENTS)
    state.take(Fetched("impressions", 0, 0, 10, log.sides["impressions"][:10]))
    written = [message.key or b"" for message in state.freeze(None) if message.topic == "posteriors"]
    assert [key for key in written if is_ledger(key)] == [ledger_key(POLICY, 0)]
    state.join.watermark = 0
    assert not any(is_ledger(message.key or b"") for message in state.freeze(START_MS) if message.topic == "posteriors")
    assert tariff(PolicySettings.model_validate(SETTINGS | {"ads": {}})) is None


def test_programs_without_ledgers_pass_over_the_key() -> None:
    """To them it is sums of a track that they do not have; of the checkpoint record, whose arm is null, it is not one."""
    found: tuple[object, ...] = read_key(ledger_key("p", 3))
    assert found == ("p", 3, "", "ledger")
    assert not is_ledger(sums_key(None, 3, None))


def test_a_damaged_ledger_needs_a_person() -> None:
    """It is not taken for one of nothing spent."""
    records = {
        ledger_key(POLICY, 0): msgspec.msgpack.encode({"v": 9}),
        sums_key(None, 0, None): msgspec.msgpack.encode(
            {"offsets": dict.fromkeys(SIDES, 0), "watermark": None, "oldest": {}, "waiting": b"", "counts": {}}
            | {"impressions": {}, "largest_ts": {}}
        ),
    }
    with pytest.raises(StateMismatchError, match="version 9"):
        restore(0, records, rules_of("linear", 1, **PARTS))


def test_the_follower_merges_the_ledgers_that_are_committed() -> None:
    """What a checkpoint has not closed yet is not seen; partitions add up; a policy without one has an empty one."""
    state = PartitionState(0, rules=rules_of("linear", 10_000_000, **PARTS))
    log = Log(EVENTS)
    for side in SIDES:
        state.take(Fetched(side, 0, 0, len(log.sides[side]), log.sides[side]))
    messages = [one for one in state.freeze(START_MS) if one.topic == "posteriors"]
    settings = Settings.model_validate({"policies": {POLICY: SETTINGS}})
    found = Posteriors(settings, {POLICY: state.rules.tracks[POLICY]})
    for message in messages[:-1]:
        found.add(0, message.key, message.value)
    assert found.ledger(POLICY)[0].impressions == 0
    found.add(0, messages[-1].key, messages[-1].value)
    ledger, now_ms = found.ledger(POLICY)
    assert told(ledger) == spending(EVENTS)
    assert now_ms == START_MS
    other = msgspec.msgpack.encode([POLICY, 1, "", "ledger"])
    (value,) = [one.value for one in messages if is_ledger(one.key or b"")]
    found.add(1, other, value)
    found.add(1, sums_key(None, 1, None), messages[-1].value)
    periods = state.rules.tariffs[POLICY].periods
    assert found.ledger(POLICY)[0] == merged([ledger, ledger], periods)


@pytest.mark.timeout(300)
def test_killed_workers_charge_once(bootstrap: str, prefix: str, tmp_path: Path) -> None:
    """Real workers on a broker, killed by -9 and between the steps of a checkpoint that has no room for all sums."""
    events = costly(traffic(3, 9_000, start_ms=hour_ago_ms()).events)
    with Loop(
        bootstrap, prefix, tmp_path, config(more=ADS), checkpoint_interval_s=0.15, checkpoint_bytes=1_024
    ) as loop:
        load = Load(loop, events, seconds=8.0)
        for point in ("checkpoint.produced:3", None, "checkpoint.committed:2", None):
            loop.start("one", fail_at=point)
            if point is None:
                time.sleep(2.5)
                loop.kill("one")
            else:
                die(loop, load)
        loop.start("one")
        load.join(timeout=120)
        loop.wait_covered()
        truth, counted = fold(events)
        assert_exact(loop, truth, counted)
        states = read_states(loop.settings)
        periods = states[0].rules.tariffs[POLICY].periods
        assert told(merged([state.ledgers.by_policy[POLICY] for state in states], periods)) == spending(events)
        loop.stop("one")


TAKEN_BACK = [
    Outcome(decision_id="d", slot="s", outcome_id="o1", kind="click", ts=START_MS + 10),
    Outcome(decision_id="d", slot="s", outcome_id="o2", kind="click", ts=START_MS + 20, cost=2.0),
    Outcome(decision_id="d", slot="s", outcome_id="r1", kind="refund", of="o2", value=0.5, cost=0.75, ts=START_MS + 30),
    Outcome(decision_id="d", slot="s", outcome_id="t1", kind="retraction", of="o1", ts=START_MS + 40),
    Outcome(decision_id="d", slot="s", outcome_id="i1", kind="invalid", ts=START_MS + 50),
    Outcome(decision_id="d", slot="s", outcome_id="t2", kind="retraction", of="i1", ts=START_MS + 60),
]


@pytest.mark.parametrize(
    ("taken", "spent"),
    [(1, 0.25 + 0.5), (2, 2.75), (3, 2.0), (4, 1.5), (5, 0.0), (6, 1.5)],
    ids=["click", "click that says its cost", "refund", "retraction", "invalid", "invalid that was a mistake"],
)
def test_what_is_taken_back_is_returned_in_any_order(taken: int, spent: float) -> None:
    """The impression costs 0.25 and a click 0.5: every order of the events, the impression among them, spends the same."""
    ads = {
        "ads": {"a": {"budget": "b", "cost": 0.25, "click_cost": 0.5}},
        "budgets": {"b": {"amount": 9, "period_s": 9e6}},
    }
    shown = Impression(
        decision_id="d",
        slot="s",
        policy=POLICY,
        snapshot=1,
        arm="a",
        propensity=1.0,
        ts=START_MS,
        context=[0.0] * DIMENSION,
    )
    events: list[Impression | Outcome] = [shown, *TAKEN_BACK[:taken]]
    for order in permutations(events):
        state = PartitionState(0, rules=rules_of("linear", 10_000_000, **ads))
        for event in order:
            log = Log([event])
            side: Side = "impressions" if event is shown else "clicks"
            (record,) = log.sides[side]
            at = state.positions[side]
            state.take(Fetched(side, 0, at, at + 1, [record._replace(offset=at)]))
        state.freeze(None)
        assert state.ledgers.by_policy[POLICY].accounts["b"].total == spent, order


def test_costs_are_refused_that_cannot_be_charged() -> None:
    """Below zero, not finite, larger than 1e30 or no number, in every codec, with the reason; none and 0 are allowed."""
    from streams.columns import encode_impressions, encode_outcomes
    from streams.events import encode
    from streams.reading import SimpleRecord

    decoder = rules_of("linear", 1).decoder
    shown = next(one for one in EVENTS if isinstance(one, Impression))
    click = next(one for one in EVENTS if isinstance(one, Outcome))
    bad = (-1.0, float("inf"), 1e31)

    def record(value: bytes) -> list[SimpleRecord]:
        return [SimpleRecord(0, START_MS * 2, None, value, [])]

    for cost in (*bad, float("nan")):
        for value in (encode(changed(shown, cost=cost), "msgpack"), encode_impressions([changed(shown, cost=cost)])):
            if value[:4] == b"CLC1" and cost != cost:
                continue  # NaN is none there
            groups, dead = decoder.impressions(record(value))
            assert (groups, len(dead), "cost is" in dead[0].reason) == ([], 1, True), (cost, dead)
        clicks, dead = decoder.clicks(record(encode(changed(click, cost=cost), "msgpack")))
        assert (clicks, len(dead), "cost is" in dead[0].reason) == ([], 1, True), (cost, dead)
    clicks, dead = decoder.clicks(record(encode_outcomes([changed(click, cost=-1.0), changed(click, cost=None)])))
    assert ([one.cost for one in clicks], [one.row for one in dead]) == ([None], [0])
    text = encode(changed(click, cost=1.0)).replace(b'"cost":1.0', b'"cost":"much"')
    assert "cannot be decoded" in decoder.clicks(record(text))[1][0].reason
    for good in (None, 0.0, 0.25):
        for value in (encode(changed(shown, cost=good)), encode_impressions([changed(shown, cost=good)] * 2)):
            (group,), dead = decoder.impressions(record(value))
            told_cost = None if group.cost is None else float(group.cost[0])
            assert (told_cost, dead) == (good, [])
