"""Outcomes that bring their impression along: counted once, days late, over crashes; what is refused."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policies.model import MODELS
from policies.references import Reference, References
from streams.events import Impression, Outcome
from streams.feedback import decode
from streams.messages import Message
from streams.rules import rules
from streams.settings import Settings
from streams.state import SIDES, Fetched, PartitionState, Rules, Side
from streams.table import Entry
from tests.oracle import ARMS, POLICY, config
from tests.test_budget import Committed, Log, everything, recovered
from tests.token_mutants import MUTANTS, mutant
from tests.token_traffic import DAY_MS, HOUR_MS, START_MS, days_late, mixed, token_of

ROOM = 10_000_000
SOME = 1
"""Budgets in bytes: for all sums, and for one of the five."""
SECRETS = {7: "0123456789abcdef", 8: "fedcba9876543210"}


def rules_of(*, model: str = "linear", budget: int = ROOM, secrets: dict[int, str] | None = None, **more: Any) -> Rules:
    """The oracle's policy with more settings, in one partition."""
    policy = tomllib.loads(config(model))["policies"][POLICY] | more
    given = {7: SECRETS[7]} if secrets is None else secrets
    settings = Settings.model_validate(
        {"partitions": 1, "token_keys": given, "policies": {POLICY: policy}, "token_key": min(given)}
    )
    found = replace(rules(settings), checkpoint_bytes=budget)
    return replace(found, references=Published()) if "huber" in more else found


class Published:
    """References of two meta-changes, all of them read."""

    def __init__(self) -> None:
        self.references = References(newest=12)
        for version, weight in ((3, 0.5), (8, -0.25)):
            means = {arm: np.array([weight, 0.0, 0.25, weight]) for arm in ARMS}
            self.references.add(Reference(version=version, means=means))

    def of(self, _: str) -> References:
        return self.references

    def unknown(self, _: str, versions: Any) -> set[int]:
        return set()

    def look_up(self, versions: Any) -> None:
        raise AssertionError("nothing is unknown")


class Run:
    """A learner on a log: takes fetches of random sizes, cuts, and is lost if asked to be.

    ``paced``: the topic that is ahead by more than a minute of event time waits, as in a worker.
    """

    def __init__(self, events: list[Impression | Outcome], seed: int = 1, *, paced: bool = False, **more: Any) -> None:
        self.paced = paced
        self.log, self.committed, self.more = Log(events), Committed(), more
        self.rng, self.messages = random.Random(seed), list[Message]()
        self.state = PartitionState(0, rules=rules_of(**more))
        self.most_backlog = 0

    @property
    def over(self) -> bool:
        """Whether everything is read and written."""
        left = any(self.state.positions[side] < len(self.log.sides[side]) for side in SIDES)
        return not left and not self.state.table.unwritten

    def take(self) -> None:
        """One fetch of each side, in either order."""
        for side in self.rng.sample(SIDES, 2):
            start = self.state.positions[side]
            end = min(len(self.log.sides[side]), start + self.rng.randrange(1, 60))
            if end > start and not (self.paced and self._ahead(side)):
                self.state.take(Fetched(side, 0, start, end, self.log.sides[side][start:end]))

    def _ahead(self, side: Side) -> bool:
        """Whether a topic's next record is later than the other's, as long as that has one."""
        (other,) = set(SIDES) - {side}
        mine, theirs = (self.log.sides[one][self.state.positions[one] :] for one in (side, other))
        return bool(theirs) and mine[0].timestamp > theirs[0].timestamp + 60_000

    def cut(self) -> None:
        """A checkpoint."""
        marks = [ts for ts in self.state.largest_ts.values() if ts is not None]
        messages = self.state.freeze(min(marks) if len(marks) == 2 else None)
        self.messages += messages
        if messages:
            self.committed.add(messages)
            self.most_backlog = max(self.most_backlog, len(self.committed.checkpoint.get("cuts", ())))

    def successor(self) -> PartitionState:
        """What a recovery gets."""
        return recovered(self.log, self.committed, rules_of(**self.more))

    def to_the_end(self, *, crash: float = 0.0) -> Run:
        """All of the log, lost with a chance of ``crash`` before each cut."""
        while not self.over:
            self.take()
            if self.rng.random() < crash:
                self.state = self.successor()
            else:
                self.cut()
        return self

    def feedback(self, kind: str) -> list[dict[str, Any]]:
        """Records of a type."""
        found = [decode(message.value or b"") for message in self.messages if message.topic == "feedback"]
        return [record for record in found if record["type"] == kind]


def conserved(state: PartitionState, outcomes: int) -> bool:
    """Every outcome is exactly one of what it can be."""
    return sum(state.counts.values()) == outcomes


def kept(state: PartitionState) -> dict[Entry, Any]:
    """The sums that nothing is forgotten of: exact in any order."""
    return {entry: sums for entry, sums in everything(state).items() if entry.track == 0.0}


def remembered(state: PartitionState) -> list[tuple[int, int, float]]:
    """All that must not count again: (hour, hash, reward), with what is new since the last cut."""
    store = state.join.tokens.store
    stored = [
        (number, outcome, reward)
        for number, hour in store._hours.items()
        for decision in set(hour.columns(0, hour.n)[0].tolist())
        for outcome, reward in hour.of(decision)
    ]
    return sorted(stored)


def noted(state: PartitionState) -> dict[int, list[tuple[str, float]]]:
    """Outcomes that count for pending impressions, by offset."""
    return {
        int(chunk.offset[position]): sorted((one.outcome_id, one.reward) for one in seen if one.reward is not None)
        for chunk in state.join.pending.chunks()
        for position, seen in chunk.seen.items()
        if any(one.reward is not None for one in seen)
    }


def unmet(state: PartitionState) -> list[int]:
    """Offsets of outcomes by token whose impression may still come."""
    window, watermark = state.rules.windows[POLICY], state.join.watermark or 0
    found = [(click.offset, click.brought.ts) for click in state.join.tokens.unmet if click.brought is not None]
    return sorted(offset for offset, ts in found if ts + window.hold_ms > watermark)


@pytest.mark.parametrize(
    ("model", "limit"),
    [
        *((model, {}) for model in MODELS),
        *((model, {"reward_bounds": (-1.0, 6.0)}) for model in MODELS),
        ("linear", {"huber": 2.0}),
        ("student", {"huber": 2.0, "reward_bounds": (-1.0, 6.0)}),
        ("linear", {"aggregate": "count", "feature_limit": 0.5}),
    ],
)
def test_three_days_late_by_token_is_as_a_window_of_three_days(model: str, limit: dict[str, Any]) -> None:
    """A join window of ten minutes with tokens: all sums bit for bit those of a window of three days."""
    events = days_late(3, 1_200, delay_ms=3 * DAY_MS)
    more: dict[str, Any] = {"model": model, "half_lives_s": (0.0, 86_400.0), **limit}
    by_token = Run(events, paced=True, window_s=600, token_window_s=3 * 86_400 + 60, **more).to_the_end()
    by_join = Run(events, paced=True, window_s=3 * 86_400 + 60, **more).to_the_end()
    assert everything(by_token.state) == everything(by_join.state)
    hasty = Run(events, seed=2, window_s=600, token_window_s=3 * 86_400 + 60, **more).to_the_end(crash=0.2)
    assert kept(hasty.state) == kept(by_join.state)
    counts = by_token.state.counts
    assert counts == by_join.state.counts
    assert counts["joined"] > 300
    assert counts["duplicate"] > 20
    assert conserved(by_token.state, len(by_token.log.sides["clicks"]))
    assert by_token.state.join.pending.rows < by_join.state.join.pending.rows
    rewards = [sum(record["reward"].sum() for record in run.feedback("joined")) for run in (by_token, by_join)]
    assert rewards[0] == rewards[1] != 0


LIFE: dict[str, Any] = {"token_window_s": 3600.0}


def differences(seed: int, budget: int, impressions: int = 500, step_ms: int = 30_000) -> Iterator[str]:
    """Where a successor differs from the learner that wrote the cut, at every cut of a run that goes on with either; the run is last."""
    run = Run(mixed(seed, impressions, step_ms=step_ms, disagree=True), seed, budget=budget, **LIFE)
    while not run.over:
        for _ in range(run.rng.randrange(1, 4)):
            run.take()
        run.cut()
        successor, state = run.successor(), run.state
        for look in (counts_of, everything, remembered, noted, unmet, floor_of):
            if look(successor) != look(state):
                yield look.__name__
        if run.rng.random() < 0.4:
            run.state = successor
    assert (run.most_backlog > 3) is (budget == SOME)
    counts = run.state.join.tokens.counts
    assert all(counts[name] > 10 for name in ("joined", "duplicate", "late", "forged"))
    assert conserved(run.state, len(run.log.sides["clicks"]))
    assert floor_of(run.state) > START_MS // HOUR_MS


def counts_of(state: PartitionState) -> tuple[dict[str, int], dict[str, int]]:
    """Outcomes by what became of them."""
    return state.counts, state.join.tokens.counts


def floor_of(state: PartitionState) -> int:
    """Hours below it were let go of."""
    return state.join.tokens.store.floor


@pytest.mark.parametrize("budget", [ROOM, SOME], ids=["all", "some"])
@pytest.mark.parametrize("seed", range(4))
def test_every_cut_is_one_that_can_be_recovered_from(seed: int, budget: int) -> None:
    """The successor has the sums, counts, memory and noted outcomes of the learner that wrote the cut, though reports disagree."""
    assert list(differences(seed, budget)) == []


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_memory_is_caught(name: str) -> None:
    """Each rule that keeps the memory right over a recovery, broken, makes a successor differ."""
    with mutant(name):
        assert any(found for seed in range(6) for found in differences(seed, SOME, 900, 10_000))


def test_a_learner_that_is_lost_again_and_again_counts_each_outcome_once() -> None:
    """With sums that lag behind the cuts, the sums of one run; and every outcome that could count is in them once."""
    events = mixed(11, 600, step_ms=30_000, disagree=False)
    whole = Run(events, 1, **LIFE).to_the_end()
    lost = Run(events, 2, budget=SOME, **LIFE).to_the_end(crash=0.3)
    assert everything(lost.state) == everything(whole.state)
    assert lost.state.counts["joined"] == whole.state.counts["joined"] == len(countable(events))
    assert lost.most_backlog > 3


def countable(events: list[Impression | Outcome]) -> set[tuple[str, str]]:
    """Outcomes that count, by set semantics: in the join's window, or with a token that is ours within its life."""
    shown = {event.decision_id: event for event in events if isinstance(event, Impression)}
    return {
        (event.decision_id, event.outcome_id)
        for event in events
        if isinstance(event, Outcome)
        and (event.token is None or event.token == token_of(shown[event.decision_id]))
        and -2_000 <= event.ts - shown[event.decision_id].ts < (20_000 if event.token is None else HOUR_MS)
    }
