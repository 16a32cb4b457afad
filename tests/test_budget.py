"""Checkpoints that have no room for all sums, and what a recovery makes of them: the very state that was lost."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace as set_unit

from policies.model import MODELS
from streams.events import Impression, Outcome, encode
from streams.messages import Message
from streams.reading import SimpleRecord
from streams.recovery import rebuild, restore
from streams.rules import rules
from streams.settings import Settings
from streams.state import SIDES, Fetched, PartitionState, Rules, Side
from streams.table import Entry, read_key
from tests.oracle import POLICY, config, fold, traffic

START_MS = 1_700_000_000_000
HALF_LIVES = (0.0, 64.0)
ONE_SUM, TWO_SUMS = 1, 500
"""Budgets in bytes with room for so many of the ten sums."""


class Log:
    """One partition of both topics, and what recovery asks of a consumer."""

    def __init__(self, events: list[Impression | Outcome]) -> None:
        self.sides: dict[Side, list[SimpleRecord]] = {"impressions": [], "clicks": []}
        for event in events:
            records = self.sides["impressions" if isinstance(event, Impression) else "clicks"]
            records.append(SimpleRecord(len(records), event.ts, None, encode(event, "msgpack"), []))

    def read(self, side: Side, start: int, end: int) -> Iterator[list[SimpleRecord]]:
        """Batches of records, as a recovery reads them."""
        records = self.sides[side][start:end]
        for i in range(0, len(records), 50):
            yield records[i : i + 50]


class Committed:
    """The posteriors topic: newest value by key, and how much each transaction held."""

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        self.sums_bytes: list[int] = []

    def add(self, messages: list[Message]) -> None:
        """One transaction."""
        found = [message for message in messages if message.topic == "posteriors"]
        self.sums_bytes.append(sum(len(message.value or b"") for message in found[:-1]))
        for message in found:
            self.records.pop(message.key or b"", None)
            if message.value is not None:
                self.records[message.key or b""] = message.value

    @property
    def checkpoint(self) -> dict[str, Any]:
        """The newest checkpoint record."""
        (value,) = [value for key, value in self.records.items() if read_key(key)[:3:2] == (None, None)]
        return msgspec.msgpack.decode(value)  # type: ignore[no-any-return]


def rules_of(model: str, budget: int, **more: Any) -> Rules:
    """The oracle's policy with a ladder of two half-lives, and more settings."""
    policy = tomllib.loads(config(model))["policies"][POLICY] | {"half_lives_s": HALF_LIVES, **more}
    return replace(rules(Settings.model_validate({"policies": {POLICY: policy}})), checkpoint_bytes=budget)


def everything(state: PartitionState) -> dict[Entry, Any]:
    """All sums, as they would be written."""
    table = state.table
    return {
        Entry(policy, track, arm): table.tracks[policy][track].encode(one)
        for policy, by_track in table.sums.items()
        for track, arms in by_track.items()
        for arm, one in arms.items()
    }


def pending(state: PartitionState) -> list[tuple[int, int]]:
    """Places of the impressions that are pending."""
    return sorted(
        (int(chunk.offset[i]), int(chunk.row[i])) for chunk in state.join.pending.chunks() for i in chunk.staying()
    )


def recovered(log: Log, committed: Committed, given: Rules) -> PartitionState:
    """What a successor gets from the committed records and the log."""
    return rebuild(restore(0, committed.records, given), log.read, lambda: None)


def run(
    model: str, seed: int, budget: int, *, crash: float, events: list[Impression | Outcome] | None = None, **more: Any
) -> tuple[PartitionState, Committed, int]:
    """A learner that takes fetches of random sizes, cuts at random, and is lost with a chance of ``crash`` at each cut."""
    rng = random.Random(seed)
    if events is None:
        events = traffic(seed, 1_500, start_ms=START_MS, step_ms=20.0).events
    if "unit_limit" in more:
        events = [
            set_unit(event, unit=f"u{hash(event.ts) % 40}") if isinstance(event, Impression) else event
            for event in events
        ]
    log, committed, deaths = Log(events), Committed(), 0
    state = PartitionState(0, rules=rules_of(model, budget, **more))
    while any(state.positions[side] < len(log.sides[side]) for side in SIDES) or state.table.unwritten:
        for side in SIDES:
            start = state.positions[side]
            end = min(len(log.sides[side]), start + rng.randrange(1, 120 if side == "impressions" else 30))
            if end > start:
                state.take(Fetched(side, 0, start, end, log.sides[side][start:end]))
        if rng.random() < crash:
            deaths += 1
            state = recovered(log, committed, rules_of(model, budget, **more))
            continue
        marks = [ts for ts in state.largest_ts.values() if ts is not None]
        committed.add(state.freeze(min(marks) if len(marks) == 2 else None))
    return state, committed, deaths


@pytest.mark.parametrize("model", MODELS)
def test_a_recovery_adds_to_each_sum_what_its_record_lacks(model: str) -> None:
    """Lost again and again between checkpoints with room for two sums of ten: all tracks as in one run, and the oracle's."""
    whole, _, _ = run(model, 5, 10_000_000, crash=0.0)
    state, committed, deaths = run(model, 5, TWO_SUMS, crash=0.25)
    assert deaths > 5
    assert {entry: sums["count"] for entry, sums in everything(state).items()} == {
        entry: sums["count"] for entry, sums in everything(whole).items()
    }
    truth, counted = fold(traffic(5, 1_500, start_ms=START_MS, step_ms=20.0).events, model)
    now = {arm: state.rules.models[POLICY].at(sums, now_ms=START_MS) for arm, sums in state.sums[POLICY].items()}
    assert {arm: (one.n_eff, one.reward, one.b.tolist(), one.A.tolist()) for arm, one in now.items()} == {
        arm: (one.n, one.reward, one.b.tolist(), one.A.tolist()) for arm, one in truth.items()
    }
    assert state.counts["joined"] == len(counted) == whole.counts["joined"]
    assert 0 < max(committed.sums_bytes) < 2_000


def test_limits_for_each_unit_hold_over_a_replay() -> None:
    """What learned of a unit is the same whether the input was taken once or again, cut by cut."""
    limit: dict[str, Any] = {"unit_limit": 3, "unit_window_s": 10}
    whole, _, _ = run("linear", 7, 10_000_000, crash=0.0, **limit)
    state, _, deaths = run("linear", 7, TWO_SUMS, crash=0.25, **limit)
    assert deaths > 5
    assert 0 < whole.impressions["limited"] < whole.impressions["accepted"]
    assert state.impressions == whole.impressions
    main = [{entry: one for entry, one in everything(each).items() if entry.track == 0.0} for each in (state, whole)]
    assert main[0] == main[1]


@pytest.mark.parametrize("seed", range(4))
def test_every_checkpoint_is_one_that_can_be_recovered_from(seed: int) -> None:
    """At every cut the successor has the same sums, pending rows, counts and backlog as the learner that wrote it."""
    rng = random.Random(seed)
    events = traffic(seed, 700, start_ms=START_MS, step_ms=60.0).events
    log, committed = Log(events), Committed()
    given = rules_of("linear", ONE_SUM)
    state, backlog = PartitionState(0, rules=given), 0
    while any(state.positions[side] < len(log.sides[side]) for side in SIDES) or state.table.unwritten:
        for side in SIDES:
            start = state.positions[side]
            end = min(len(log.sides[side]), start + rng.randrange(1, 60 if side == "impressions" else 15))
            if end > start:
                state.take(Fetched(side, 0, start, end, log.sides[side][start:end]))
        marks = [ts for ts in state.largest_ts.values() if ts is not None]
        committed.add(state.freeze(min(marks) if len(marks) == 2 else None))
        backlog = max(backlog, len(committed.checkpoint.get("cuts", ())))
        successor = recovered(log, committed, given)
        assert pending(successor) == pending(state)
        assert successor.counts == state.counts
        assert successor.impressions == state.impressions
        assert successor.table.unwritten.keys() == state.table.unwritten.keys()
        main = {entry: sums for entry, sums in everything(state).items() if entry.track == 0.0}
        assert {entry: sums for entry, sums in everything(successor).items() if entry.track == 0.0} == main
        if rng.random() < 0.3:
            state = successor
    assert backlog > 5


def test_a_backlog_is_written_though_nothing_comes() -> None:
    """What has no room now follows in the next checkpoints, longest first, until all is written; then there are none."""
    log = Log(traffic(1, 200, start_ms=START_MS).events)
    state, committed = PartitionState(0, rules=rules_of("linear", ONE_SUM)), Committed()
    for side in SIDES:
        state.take(Fetched(side, 0, 0, len(log.sides[side]), log.sides[side]))
    left = []
    while messages := state.freeze(None):
        committed.add(messages)
        left.append(committed.checkpoint["unwritten"])
    assert left == sorted(left, reverse=True)
    assert len(left) > 2
    assert left[-1] == 0
    assert "base" not in committed.checkpoint
    restored = restore(0, committed.records, rules_of("linear", ONE_SUM))
    assert everything(restored.state) == everything(state)


def test_the_offsets_of_a_sum_are_what_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records whose offsets are not looked at count twice what they have: the check above sees it."""
    log = Log(traffic(2, 400, start_ms=START_MS).events)
    given = rules_of("linear", ONE_SUM)
    state, committed = PartitionState(0, rules=given), Committed()
    for start in range(0, len(log.sides["impressions"]), 60):
        records = log.sides["impressions"][start : start + 60]
        state.take(Fetched("impressions", 0, start, start + len(records), records))
        committed.add(state.freeze(None))
    honest = recovered(log, committed, given)
    assert everything(honest) == everything(state)
    monkeypatch.setattr(PartitionState, "_lacking", lambda *_: None)
    blind = recovered(log, committed, given)
    assert sum(one["count"] for one in everything(blind).values()) > sum(
        one["count"] for one in everything(state).values()
    )
