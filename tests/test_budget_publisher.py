"""Budgets on a broker: what learners charge closes budgets in the snapshots, what people say moves them, and a new leader goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from policies.exposure import ETA
from policies.snapshot import Snapshot
from policies.terms import BudgetControl
from policies.terms_records import terms_key
from streams import cli, snapshots, topics
from streams.budgets import BudgetRefused, listed, say, words
from streams.checkpoint import UnknownOutcomeError, Writer
from streams.controls import BadControl, Collected, budget_key, decode_budget, encode_budget
from streams.events import Impression, Outcome, encode
from streams.failpoints import failpoints
from streams.following import Collector, names
from streams.published import is_held, read_published, read_snapshots
from streams.publisher import Publisher
from streams.reading import SimpleRecord
from streams.rules import rules
from streams.settings import Settings
from streams.state import Fetched, PartitionState
from tests.test_publisher import publishing, records, settings_of, tick, until

START_MS = 1_700_000_000_000
FRONT = {
    "model": "beta",
    "arms": ["a", "b"],
    "budgets": {"spring": {"amount": 100.0, "period_s": 3600.0}, "autumn": {"amount": 5.0}},
    "ads": {"a": {"budget": "spring", "cost": 1.0}, "b": {"floor": 0.25, "value": 2.0}},
}


@pytest.fixture
def settings(bootstrap: str, prefix: str) -> Settings:
    made = settings_of(bootstrap, prefix, policies={"front": FRONT})
    topics.create(made)
    return made


class Learner:
    """A partition whose checkpoints are committed as a learner's."""

    def __init__(self, settings: Settings) -> None:
        self.state = PartitionState(0, rules=rules(settings))
        roles = {"posteriors": settings.topics.posteriors, "feedback": settings.topics.feedback}
        self.writer = Writer(
            settings.librdkafka(),
            transactional_id=settings.prefix + "learner-0",
            partition=0,
            topics=roles,
            timeout_s=60.0,
            passing=failpoints(None),
        )
        self.writer.initialise()
        self.offset = 0

    def show(self, arm: str, n: int, *, ts: int = START_MS) -> None:
        """So many impressions of an arm, in a checkpoint of their own."""
        events = [
            Impression(
                decision_id=f"d{self.offset + i}",
                slot="top",
                policy="front",
                snapshot=1,
                arm=arm,
                propensity=0.5,
                ts=ts,
            )
            for i in range(n)
        ]
        found = [SimpleRecord(self.offset + i, ts, None, encode(event), []) for i, event in enumerate(events)]
        self.state.take(Fetched("impressions", 0, self.offset, self.offset + n, found))
        self.offset += n
        self.writer.commit(self.state.freeze(self.state.largest_ts["impressions"]))

    def click(self, numbers: range) -> None:
        """A click on each of these impressions, in a checkpoint of their own."""
        clicks = [Outcome(decision_id=f"d{number}", slot="top", outcome_id="o", ts=START_MS) for number in numbers]
        start = self.state.positions["clicks"]
        found = [SimpleRecord(start + i, START_MS, None, encode(click), []) for i, click in enumerate(clicks)]
        self.state.take(Fetched("clicks", 0, start, start + len(found), found))
        self.writer.commit(self.state.freeze(self.state.largest_ts["impressions"]))


def reached(publisher: Publisher, settings: Settings, so: Callable[[Snapshot], Any]) -> Snapshot:
    """Tick until a snapshot that is published is so."""

    def published() -> Snapshot | None:
        one = read_snapshots(settings).get("front")
        return one if one is not None and so(one) else None

    found: Snapshot = until(publisher, published)
    return found


def test_spending_closes_a_budget_and_what_people_say_opens_it(settings: Settings) -> None:
    """Closed at once with its reason, opened by a larger amount, paused and resumed, each in the words of who said it."""
    learner = Learner(settings)
    learner.show("a", 60)
    with publishing(settings) as publisher:
        first = reached(publisher, settings, lambda one: one.version)
        assert first.allotment.closed == frozenset()
        learner.show("a", 45)
        closed = reached(publisher, settings, lambda one: one.allotment.closed)
        assert closed.allotment.closed == {"spring"}
        assert "budget spring closed: 105 of 100 spent in period 472222" in closed.reasons
        say(settings, "front", "set", "spring", amount=150.0, reason="sales")
        opened = reached(publisher, settings, lambda one: not one.allotment.closed)
        assert opened.reasons[:2] == (
            "budget spring raised from 100 to 150: sales",
            "budget spring opened: 105 of 150 spent in period 472222",
        )
        say(settings, "front", "pause", "spring", reason="fraud")
        paused = reached(publisher, settings, lambda one: one.allotment.closed)
        assert paused.reasons == ("budget spring paused: fraud",)
        say(settings, "front", "resume", "spring")
        reached(publisher, settings, lambda one: not one.allotment.closed)
        learner.show("a", 1, ts=START_MS + 3_600_000)
        publisher._policies["front"].meta_at = -1e18
        until(publisher, lambda: listed(settings, "front")[1]["spent"] == 1.0)
        row = {name: listed(settings, "front")[1][name] for name in ("budget", "state", "amount", "left", "late")}
        assert row == {"budget": "spring", "state": "open", "amount": 150.0, "left": 149.0, "late": 0.0}
        assert listed(settings, "front")[1]["overspent"] == 0.0
    assert (
        publisher._metrics.registry.get_sample_value("clickloop_budget_amount", {"policy": "front", "budget": "spring"})
        == 150.0
    )


def test_a_floor_becomes_a_bonus(settings: Settings) -> None:
    """Of the arm that lacks ten impressions, once a click has said what a slot is worth; less when it was shown."""
    learner = Learner(settings)
    learner.show("a", 10)
    with publishing(settings) as publisher:
        reached(publisher, settings, lambda one: one.version)
        terms = publisher._policies["front"].terms
        learner.show("a", 40)
        until(publisher, lambda: terms.state.queues["b"].low == 10.0)
        assert read_snapshots(settings)["front"].allotment.bonus == {}
        learner.click(range(5))
        found = reached(publisher, settings, lambda one: one.allotment.bonus)
        assert found.allotment.bonus == {"b": pytest.approx(ETA * (5 / 50) * 10.0)}
        learner.show("b", 8)
        left = 10.0 + 0.25 * 8 - 8
        found = reached(publisher, settings, lambda one: one.count == 58.0)
        assert found.allotment.bonus == {"b": pytest.approx(ETA * (5 / 58) * left)}


def test_nothing_is_published_without_a_change(settings: Settings) -> None:
    """Ticks without spending or words leave the topic as it is."""
    Learner(settings).show("a", 60)
    with publishing(settings) as publisher:
        reached(publisher, settings, lambda one: one.version)
        before = len(records(settings, settings.topics.history))
        tick(publisher, 10)
        assert len(records(settings, settings.topics.history)) == before


def test_a_new_leader_goes_on_from_what_was_committed_with_the_snapshot(settings: Settings) -> None:
    """Dead in the middle of the transaction: neither state nor snapshot; the next one makes the same step and says the same."""
    learner = Learner(settings)
    learner.show("a", 60)
    with publishing(settings) as publisher:
        reached(publisher, settings, lambda one: one.version)
        version = reached(publisher, settings, lambda _: True).version
        kept = read_published(settings)[1]["front"][None, "budgets"]
        assert publisher._writer is not None

        def dies(messages: Any) -> None:
            assert [one.key for one in messages if one.key == terms_key("front")] == [terms_key("front")]
            raise UnknownOutcomeError("the broker went away")

        publisher._writer.commit = dies  # type: ignore[method-assign]
        learner.show("a", 40)
        until(publisher, lambda: publisher.ready() == (False, "the broker went away"))
        assert publisher._policies["front"].terms.state.closed == {"spring"}
    assert read_snapshots(settings)["front"].version == version
    assert read_published(settings)[1]["front"][None, "budgets"] == kept
    with publishing(settings) as successor:
        closed = reached(successor, settings, lambda one: one.allotment.closed)
        assert sum(reason.startswith("budget spring closed: 100 of 100") for reason in closed.reasons) == 1
        one, two = (each._policies["front"].terms.state.budgets["spring"] for each in (publisher, successor))
        assert (one.budget.spent, one.budget.price, one.unit) == (two.budget.spent, two.budget.price, two.unit)


def test_a_held_snapshot_is_closed_too(settings: Settings) -> None:
    """What was rolled back stays in every arm, and its budgets are of today; arms are not written again for that."""
    learner = Learner(settings)
    learner.show("a", 60)
    with publishing(settings) as publisher:
        first = reached(publisher, settings, lambda one: one.version)
        learner.show("b", 10)
        reached(publisher, settings, lambda one: one.count > first.count)
        snapshots.rollback(settings, "front", first.version)
        held = reached(publisher, settings, is_held)
        learner.show("a", 50)
        closed = reached(publisher, settings, lambda one: one.allotment.closed)
        assert is_held(closed)
        assert closed.count == first.count
        assert {one.version for one in closed.arms.values()} == {held.version}
        assert closed.reasons[-1].startswith("budget spring closed: 110 of 100")
        say(settings, "front", "set", "spring", amount=200.0)
        assert is_held(reached(publisher, settings, lambda one: not one.allotment.closed))


def test_the_commands_write_what_anybody_can_read(
    bootstrap: str, prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every verb through the command line, before any snapshot; what makes no sense is refused with the way out."""
    config = tmp_path / "clickloop.toml"
    config.write_text("[policies.front]\ndimension = 3\nbudgets.spring = { amount = 100.0 }\n")
    where = ["--bootstrap", bootstrap, "--config", str(config)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLICKLOOP_PREFIX", prefix)
        assert cli.run(["topics", "create", *where]) == 0
        assert cli.run(["budget", "set", "front", "spring", "--amount", "150", "--reason", "sales", *where]) == 0
        assert cli.run(["budget", "pause", "front", "spring", *where]) == 0
        capsys.readouterr()
        assert cli.run(["budget", "list", "front", "--json", *where]) == 0
        (row,) = json.loads(capsys.readouterr().out)["budgets"]
        assert (row["state"], row["amount"], row["spent"]) == ("paused", 150.0, None)
        assert cli.run(["budget", "resume", "front", "spring", *where]) == 0
        assert cli.run(["budget", "set", "front", "sprng", "--amount", "1", *where]) == 1
        assert "there are: spring" in capsys.readouterr().err
        assert cli.run(["budget", "set", "front", "spring", "--amount", "-1", *where]) == 1
        assert "pause the budget" in capsys.readouterr().err
        settings = Settings(bootstrap=bootstrap, prefix=prefix)
    raw = [
        (msgspec.msgpack.decode(one.key or b""), msgspec.msgpack.decode(one.value or b""))
        for one in records(settings, settings.topics.controls)
    ]
    assert [key for key, _ in raw] == [["front", None, "budget", "spring"]] * 3
    assert {name: raw[0][1][name] for name in ("v", "amount", "reason")} == {"v": 1, "amount": 150.0, "reason": "sales"}
    assert [value.get("paused", False) for _, value in raw] == [False, True, False]


def test_words_change_what_they_say_and_nothing_else() -> None:
    """A pause keeps the amount; an amount left out goes back to the settings' own."""
    before = BudgetControl(amount=5.0, paused=True, reason="fraud", time_ms=1)
    assert words(before, "resume", time_ms=2) == BudgetControl(amount=5.0, time_ms=2)
    assert words(before, "set", reason="as it was", time_ms=2) == BudgetControl(
        paused=True, reason="as it was", time_ms=2
    )
    with pytest.raises(BudgetRefused, match="allowed: 0 to"):
        words(before, "set", amount=float("nan"), time_ms=2)


@pytest.mark.parametrize(
    "value", [b"", b"{", b"\x80", b'{"v": 2}', b'{"v": 1, "amount": -1}', b'{"v": 1, "paused": 3}']
)
def test_what_says_nothing_is_passed_over(value: bytes) -> None:
    """A word before it stands; a tombstone takes it back; controls of arms are others."""
    found = Collected()
    found.add(budget_key("front", "spring"), encode_budget(BudgetControl(amount=7.0)))
    with pytest.raises(BadControl):
        found.add(budget_key("front", "spring"), value)
    assert (found.policies, found.budgets["front"]["spring"].amount) == ({}, 7.0)
    found.add(budget_key("front", "spring"), None)
    assert found.budgets == {"front": {}}
    assert decode_budget(b'{"v": 1, "amount": 3, "owner": "eve"}') == BudgetControl(amount=3.0)


def test_programs_without_budgets_pass_over_the_records() -> None:
    """The key of a control is no arm's to them, and readers of snapshots take the state for the publisher's own."""
    assert budget_key("front", "spring") == b"\x94\xa5front\xc0\xa6budget\xa6spring"  # as docs/budgets.md has it
    with pytest.raises(ValueError, match="is not"):
        names(budget_key("front", "spring"))
    collector = Collector()
    collector.add(terms_key("front"), b"whatever")
    assert collector.take() == ({}, [])
