"""What outcomes do to their impression: viewable events, retractions, refunds, invalid traffic, in any order and after any crash."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec import structs

from policies.model import MODELS
from policies.references import Reference, References
from streams import feedback, join, outcomes
from streams.columns import encode_outcomes
from streams.decoded import Click
from streams.events import Codec, Impression, Outcome, encode
from streams.gathered import Gathered
from streams.join import Join, Joined, aggregate
from streams.matured import Rows
from streams.messages import Message
from streams.meta_feedback import rows_of
from streams.outcomes import Seen, counting
from streams.reading import SimpleRecord
from streams.recovery import StateMismatchError, restore
from streams.state import Fetched, PartitionState, Side
from streams.table import Table
from tests.mixture import RETRACTION_S, mixture
from tests.oracle import POLICY, fold
from tests.test_budget import ONE_SUM, START_MS, TWO_SUMS, Committed, Log, everything, pending, recovered, run
from tests.test_budget import rules_of as oracle_rules
from tests.test_state import NOW, dead, header, impression, rules_of

TAKING = {"retraction_window_s": RETRACTION_S}


def outcome(outcome_id: str, kind: str = "click", value: float = 1.0, *, age_ms: int = 5, **more: Any) -> Outcome:
    """An outcome of the decision d0."""
    return Outcome(decision_id="d0", slot="s", outcome_id=outcome_id, kind=kind, value=value, ts=NOW + age_ms, **more)


class Taken(PartitionState):
    """A partition and the records of its first checkpoint, and of one after everything has matured."""

    messages: list[Message]
    later: list[Message] | None = None

    def feedback(self, kind: str) -> list[dict[str, Any]]:
        """Decoded feedback records of both checkpoints."""
        self.later = self.freeze(NOW + 10**10) if self.later is None else self.later
        found = [feedback.decode(one.value or b"") for one in (*self.messages, *self.later) if one.topic == "feedback"]
        return [one for one in found if one["type"] == kind]


def taken(
    events: Sequence[Impression | Outcome], *, codec: Codec = "json", references: Any = None, **policy: Any
) -> Taken:
    """A partition that read these events one by one, in this order, and cut a checkpoint."""
    given = {"outcomes": {"click": 1.0, "buy": 4.0}, "early_s": 1.0, **policy}
    partition = Taken(0, rules=replace(rules_of(**given), references=references))
    for event in events:
        side: Side = "impressions" if isinstance(event, Impression) else "clicks"
        at = partition.positions[side]
        value = encode_outcomes([event]) if codec == "columns" and isinstance(event, Outcome) else encode(event)
        partition.take(Fetched(side, 0, at, at + 1, [SimpleRecord(at, event.ts, None, value, [])]))
    partition.messages = partition.freeze(None)
    return partition


def record(partition: PartitionState) -> dict[str, Any]:
    """The sums of the arm that was shown, as they would be written; nothing if there are none."""
    model = partition.rules.models["p"]
    return {arm: model.encode(one) for arm, one in partition.sums["p"].items()}.get("a", {})


SHOWN = impression(0, [1.0, 0.5])


# -- what an impression is worth


def buy(value: float = 3.0) -> Seen:
    return Seen("o1", 20, 4.0 * value, 0, value=value, worth=4.0)


CLICK = Seen("o2", 10, 1.0, 0, value=1.0)


@pytest.mark.parametrize(
    ("how", "rewards"),
    [
        ("sum", (13.0, 1.0, 11.0, 12.0)),
        ("max", (12.0, 1.0, 10.0, 12.0)),
        ("min", (1.0, 1.0, 1.0, 0.0)),
        ("count", (2.0, 1.0, 2.0, 2.0)),
        ("earliest", (1.0, 1.0, 1.0, 0.0)),
    ],
)
def test_each_aggregate_forgets_what_was_retracted_and_lowers_what_was_refunded(
    how: Any, rewards: tuple[float, ...]
) -> None:
    """Of a buy worth 12 and an earlier click worth 1: both; the buy retracted; half a unit refunded; the click refunded in full."""
    retraction = Seen("t", 30, 0.0, 0, outcomes.RETRACTS, of="o1")
    refund = Seen("t", 30, 0.0, 0, outcomes.REFUNDS, value=0.5, of="o1")
    whole = Seen("t", 30, 0.0, 0, outcomes.REFUNDS, value=7.0, of="o2")
    for one, reward in zip((None, retraction, refund, whole), rewards, strict=True):
        for seen in permutations([buy(), CLICK] + ([] if one is None else [one])):
            assert aggregate(counting(seen, viewable=False) or (), how) == reward


def test_refunds_add_up_and_stop_at_zero() -> None:
    """Towards zero from either side, exactly whatever their order, and never beyond."""
    parts = [Seen(f"t{i}", 30, 0.0, 0, outcomes.REFUNDS, value=v, of="o1") for i, v in enumerate([0.1, 1e16, 0.2, 0.3])]
    for some in permutations(parts[::2] + parts[3:]):
        (left,) = counting([*some, buy()], viewable=False) or ()
        assert left.reward == 4.0 * (3.0 - 0.6)
    (nothing,) = counting([*parts, buy()], viewable=False) or ()
    assert (nothing.reward, nothing.value) == (0.0, 0.0)
    (cost,) = counting([parts[0], buy(-3.0)], viewable=False) or ()
    assert cost.reward == 4.0 * -2.9
    (free,) = counting([*parts, buy(-3.0)], viewable=False) or ()
    assert str(free.reward) == "0.0"


def test_a_mistaken_refund_can_be_taken_back_and_a_retraction_cannot() -> None:
    """A retraction takes back anything but a retraction, so that no order and no circle decides."""
    refund = Seen("t1", 30, 0.0, 0, outcomes.REFUNDS, value=2.0, of="o1")
    back = Seen("t2", 40, 0.0, 0, outcomes.RETRACTS, of="t1")
    assert [one.reward for one in counting([back, refund, buy()], viewable=False) or ()] == [12.0]
    circle = [Seen("t1", 30, 0.0, 0, outcomes.RETRACTS, of="t2"), Seen("t2", 30, 0.0, 0, outcomes.RETRACTS, of="t1")]
    assert [one.reward for one in counting([*circle, buy()], viewable=False) or ()] == [12.0]
    void = Seen("t1", 30, 0.0, 0, outcomes.VOIDS)
    assert counting([void, buy()], viewable=False) is None
    assert counting([void, buy(), back], viewable=False) == [buy()]


def test_what_came_too_late_takes_nothing_back() -> None:
    """Outside its own window a retraction is as though it had never come."""
    late = Seen("t1", 10**9, None, 0, outcomes.RETRACTS, of="o1")
    assert counting([late, buy()], viewable=False) == [buy()]


# -- sums, in any order

EVENTS: dict[str, list[Impression | Outcome]] = {
    "retraction": [SHOWN, outcome("o1"), outcome("o2", "buy", 2.0), outcome("t1", "retraction", of="o2")],
    "refund": [SHOWN, outcome("o1", "buy", 2.0), outcome("t1", "refund", 0.5, of="o1"), outcome("o2")],
    "viewable": [SHOWN, outcome("o1"), outcome("seen", "viewable"), outcome("o2", "buy")],
    "not seen": [SHOWN, outcome("o1"), outcome("seen", "viewable"), outcome("t", "retraction", of="seen")],
    "invalid": [SHOWN, outcome("o1"), outcome("t1", "invalid"), outcome("seen", "viewable")],
}


@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("counts_on", ["impression", "viewable"])
@pytest.mark.parametrize("model", ["linear", "beta", "logistic"])
def test_the_sums_do_not_depend_on_the_order(name: str, counts_on: str, model: str) -> None:
    """All orders, the impression's among them, give the same numbers and the same feedback; with forgetting and pending rows."""
    found, rewards = [], []
    worth = {"click": 1.0, "buy": 0.5 if model == "logistic" else 4.0}
    for events in permutations(EVENTS[name]):
        partition = taken(events, model=model, counts_on=counts_on, outcomes=worth)
        found.append({"newest_ms": 0, "n": 0.0, **record(partition)})
        (matured,) = partition.feedback("matured")
        changes = [float(one["change"].sum()) for one in partition.feedback("joined")]
        assert sum(changes) == matured["reward"][0]
        rewards.append((float(matured["reward"][0]), int(matured["outcomes"][0]), bool(feedback.counts(matured)[0])))
    assert len(set(rewards)) == 1
    reward, _, counts = rewards[0]
    numbers = [{key: value for key, value in one.items() if key not in ("newest_ms", "landmark_ms")} for one in found]
    present = [one for one in numbers if "count" in one]  # an impression that was never seen leaves no record
    assert all(one == present[0] for one in present)
    assert {one["n"] > 0 for one in numbers} == {counts}
    if counts:
        w = present[0]["n"]  # a power of two: the impression lies at a whole half-life
        assert (present[0]["reward"], present[0]["square"]) == (w * reward, w * reward**2)
        assert present[0]["pending"][0]["n"] > 0
    for one in () if counts else present:
        assert (one["n"], one["count"], one["reward"], one["square"]) == (0.0, 0.0, 0.0, 0.0)
        assert one["pending"][0]["n"] == 0.0
        assert not any(np.frombuffer(one.get(name, b"")).any() for name in ("b", "A"))


class Published:
    """References of a policy, as a reader would have them: of version 1."""

    def of(self, policy: str) -> References:
        known = References()
        known.add(Reference(version=1, means={"a": np.array([0.5, 0.0])}))
        return known

    def unknown(self, policy: str, versions: Any) -> set[int]:
        return set()

    def look_up(self, versions: Any) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    ("name", "counts"), [("viewable", True), ("retraction", True), ("refund", True), ("invalid", False)]
)
def test_rows_that_go_by_references_enter_and_leave_by_the_same(name: str, counts: bool) -> None:
    """Huber's rule cuts the reward that is left, not each change; and a linearised row is taken out as it was added."""
    counts_on = "viewable" if name in ("viewable", "invalid") else "impression"
    for events in permutations(EVENTS[name]):
        cut = taken(events, counts_on=counts_on, huber=1.0, references=Published())
        reward = cut.feedback("matured")[0]["reward"][0]
        pseudo = min(reward, 1.5)  # 0.5 was expected, and the limit is 1
        found = record(cut) or {"n": 0.0, "reward": 0.0, "square": 0.0}
        w = found["n"]
        assert (found["reward"], found["square"]) == (w * pseudo, w * pseudo**2)
        plain: dict[str, Any] = {"counts_on": counts_on, "outcomes": {"click": 1.0, "buy": 0.5}, "delays_s": ()}
        curved = taken(events, model="logistic", half_life_s=0.0, references=Published(), **plain)
        p = 1.0 / (1.0 + np.exp(-0.5))
        A = curved.rules.models["p"].at(curved.sums["p"].get("a", curved.rules.models["p"].zero()), now_ms=NOW).A
        assert A.ravel() == pytest.approx((counts * p * (1 - p) * np.array([1.0, 0.5, 0.5, 0.25])), abs=1e-15)
        assert (w > 0) is counts


# -- time, and what the sums say of it


def test_an_impression_enters_with_its_own_time_when_it_is_seen() -> None:
    """With forgetting and a delay: to the last bit the sums of a policy that counted it at once, pending accumulators too."""
    later = [outcome("seen", "viewable", age_ms=700), outcome("o1", age_ms=900)]
    at_once = taken([SHOWN, later[1]], window_s=1.0)
    seen = taken([SHOWN, *later], window_s=1.0, counts_on="viewable")
    assert record(seen) == record(at_once)
    pending_n = record(seen)["pending"][0]["n"]
    assert pending_n > 0
    model = seen.rules.models["p"]
    for now in (NOW, NOW + 30_000, NOW + 64_000):
        read_at, alone = (model.at(one.sums["p"]["a"], now_ms=now) for one in (seen, at_once))
        assert (read_at.n_eff, read_at.A.tolist(), read_at.b.tolist()) == (
            alone.n_eff,
            alone.A.tolist(),
            alone.b.tolist(),
        )


def test_what_is_not_seen_in_the_window_never_enters() -> None:
    """A viewable event before -early_s or from window_s on is late; the click that came changes nothing, not even the arm's time."""
    for age_ms in (-1_001, 1_000):
        partition = taken(
            [SHOWN, outcome("o1"), outcome("seen", "viewable", age_ms=age_ms)], window_s=1.0, counts_on="viewable"
        )
        assert record(partition) == {}
        assert partition.counts["late"] == 1
        assert partition.counts["joined"] == 1


def test_a_viewable_event_may_be_worth_something_and_have_another_name() -> None:
    """Listed among the outcomes it earns like any other; not listed, it does not enter an aggregate of count or min."""
    named: dict[str, Any] = {"counts_on": "viewable", "viewable_kind": "seen", "window_s": 1.0}
    events: list[Impression | Outcome] = [SHOWN, outcome("v", "seen", 2.0), outcome("o1", value=3.0)]
    worth = {"click": 1.0, "seen": 0.25}
    for outcomes_, how, reward in (
        ({"click": 1.0}, "count", 1.0),
        ({"click": 1.0}, "min", 3.0),
        (worth, "count", 2.0),
        (worth, "sum", 3.5),
    ):
        (matured,) = taken(events, outcomes=outcomes_, aggregate=how, **named).feedback("matured")
        assert matured["reward"].tolist() == [reward]
    (letter,) = dead(taken(events[:2]).messages)
    assert b"kind is 'seen', which no policy lists" in (header(letter, REASON) or b"")


@pytest.mark.parametrize(("window_s", "late"), [(0.0, 2), (5.0, 1)])
def test_returns_count_for_as_long_as_the_policy_says(window_s: float, late: int) -> None:
    """The row stays until then, and only then it matures, with what came meanwhile; clicks keep their own window."""
    events = [
        outcome("o1", "buy", 2.0, age_ms=900),
        outcome("o2", age_ms=1_000),
        outcome("t", "refund", 1.5, age_ms=4_999, of="o1"),
    ]
    given: dict[str, Any] = {"window_s": 1.0, "grace_s": 1.0, "retraction_window_s": window_s}
    partition = taken([SHOWN, *events], **given)
    assert partition.counts["late"] == late
    hold_ms = round(max(1.0, window_s) * 1000) + 1_000
    for watermark, there in ((NOW + hold_ms - 1, 0), (NOW + hold_ms, 1)):
        found = [feedback.decode(one.value or b"") for one in partition.freeze(watermark) if one.topic == "feedback"]
        rows = [one["reward"].tolist() for one in found if one["type"] == "matured"]
        assert rows == [[2.0 if window_s else 8.0]] * there


def test_units_are_limited_by_what_was_served() -> None:
    """Of a unit with a limit of one, the first served impression counts, if it is seen; the second does not, though it is."""
    shown = [impression(i, [1.0, 0.0], unit="u") for i in range(2)]
    for first_seen in (True, False):
        seen = [outcome("seen", "viewable")] if first_seen else []
        second = structs.replace(outcome("seen", "viewable"), decision_id="d1")
        partition = taken([*shown, *seen, second], counts_on="viewable", unit_limit=1)
        assert partition.impressions["limited"] == 1
        assert sum(one.count for one in partition.sums["p"].values()) == float(first_seen)


def test_a_fallback_stays_out_though_it_is_seen() -> None:
    """No snapshot and no chance: nothing was chosen."""
    fallback = impression(0, [1.0, 0.0], snapshot=None, propensity=1.0)
    assert record(taken([fallback, outcome("seen", "viewable"), outcome("o1")], counts_on="viewable")) == {}


# -- what cannot be used

REASON = "__connect.errors.exception.message"


@pytest.mark.parametrize("codec", ["json", "columns"])
@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (outcome("t", "retraction"), b"of is missing; a retraction names by it the outcome_id"),
        (outcome("t", "refund", 1.0), b"of is missing; a refund"),
        (outcome("t", "retraction", of=""), b"of is empty"),
        (outcome("t", "retraction", of="t"), b"of is 't', the retraction's own outcome_id"),
        (outcome("t", "refund", -0.5, of="o1"), b"value is -0.5; allowed for a refund: 0 or more"),
    ],
)
def test_what_takes_back_nothing_that_can_be_named_is_dead(codec: Codec, event: Outcome, reason: bytes) -> None:
    """With the reason; nothing else changes."""
    partition = taken([SHOWN, outcome("o1"), event], codec=codec)
    (letter,) = dead(partition.messages)
    assert reason in (header(letter, REASON) or b"")
    assert (partition.counts["dead"], partition.counts["joined"]) == (1, 1)


def test_a_retraction_of_what_never_comes_is_harmless() -> None:
    """It was used, and counts as joined; sent twice it is a duplicate; and what other kinds give as `of` is passed over."""
    back = outcome("t", "retraction", of="never")
    partition = taken([SHOWN, outcome("o1", of="t"), back, back])
    assert (partition.counts["joined"], partition.counts["duplicate"]) == (2, 1)
    assert record(partition)["reward"] == record(taken([SHOWN, outcome("o1")]))["reward"] > 0


@pytest.mark.parametrize("codec", ["json", "columns"])
def test_every_codec_carries_what_is_taken_back(codec: Codec) -> None:
    """And the feedback row says which outcome that was."""
    partition = taken([SHOWN, outcome("o1"), outcome("t", "retraction", of="o1")], codec=codec)
    assert (record(partition)["reward"], record(partition)["square"]) == (0.0, 0.0)
    (joined,) = partition.feedback("joined")
    assert joined["change"].tolist() == [1.0, -1.0]
    assert joined["reward"].tolist() == [1.0, 0.0]
    assert joined["of"] == [None, "o1"]


def test_sums_of_other_impressions_are_refused() -> None:
    """Pending impressions would count twice: what counts cannot change under the same name. Older checkpoints count each."""
    stored = {
        counts_on: {
            one.key or b"": one.value or b""
            for one in taken([SHOWN, outcome("v", "viewable")], counts_on=counts_on).messages
            if one.topic == "posteriors"
        }
        for counts_on in ("impression", "viewable")
    }
    for written, wanted in (("impression", "viewable"), ("viewable", "impression")):
        assert restore(0, stored[written], rules_of(counts_on=written)).state.sums["p"]["a"].count == 1.0
        with pytest.raises(
            StateMismatchError, match=r"policy 'p' counts .*impressions? .*'viewable'.* give the policy a new name"
        ):
            restore(0, stored[written], rules_of(counts_on=wanted))


def test_the_documented_events_are_worth_what_the_page_says() -> None:
    """The lines that docs/outcomes.md gives to kcat, under the settings that it shows, in reverse order as well."""
    page = (Path(__file__).parents[1] / "docs" / "outcomes.md").read_text()
    settings = tomllib.loads(page.split("```toml")[1].split("```")[0])["policies"]["shop"]
    lines = page.split("<<'END'\n")[1].split("END")[0].splitlines()
    events = [msgspec.json.decode(line.split("|")[1], type=Outcome) for line in lines]
    assert [line.split("|")[0] for line in lines] == [event.decision_id for event in events]
    shown = [impression(i, [0.0] * 8, slot="top", ts=1_700_000_000_000) for i in (1, 2, 3)]
    for order in (1, -1):
        partition = taken([*shown, *events[::order]], **settings)
        (matured,) = partition.feedback("matured")
        assert matured["reward"].tolist() == [25.0, 0.0, 0.0]
        assert feedback.counts(matured).tolist() == [True, True, False]
        assert partition.counts["joined"] == len(events) == 9


# -- who reads matured rows


def test_impressions_that_were_never_seen_are_not_taken_for_shown_without_a_click() -> None:
    """Of three, one seen, one not, one invalid: only the first reaches evaluation, forgetting scores and delay estimates."""
    shown = [impression(i, [1.0, float(i)]) for i in range(3)]
    seen = [structs.replace(outcome("seen", "viewable"), decision_id=f"d{i}") for i in (0, 2)]
    clicks = [structs.replace(outcome("o1"), decision_id=f"d{i}") for i in range(3)]
    void = structs.replace(outcome("t", "invalid"), decision_id="d2")
    (matured,) = taken([*shown, *seen, *clicks, void], counts_on="viewable").feedback("matured")
    assert feedback.counts(matured).tolist() == [True, False, False]
    assert matured["reward"].tolist() == [1.0, 0.0, 0.0]
    assert matured["outcomes"].tolist() == [1, 0, 0]
    assert matured["age_ms"].tolist() == [5, -1, -1]
    rows = rows_of(matured, None)
    assert rows is not None
    assert (rows.x.tolist(), rows.reward.tolist()) == ([[1.0, 0.0]], [1.0])
    evaluated = Rows(2)
    evaluated.add(matured)
    evaluated.keep(10)
    assert evaluated.decided().reward.tolist() == [1.0]


def test_records_without_such_impressions_have_no_such_column() -> None:
    """So they stay what older readers know, to the byte; and of older writers' records every row counts."""
    for counts_on in ("impression", "viewable"):
        (matured,) = taken([SHOWN, outcome("v", "viewable")], counts_on=counts_on).feedback("matured")
        assert "counts" not in matured
        assert feedback.counts(matured).tolist() == [True]


# -- over crashes


def mixed(seed: int, impressions: int = 1_500, step_ms: float = 20.0) -> list[Impression | Outcome]:
    return mixture(seed, impressions, start_ms=START_MS, step_ms=step_ms).events


def exact(state: PartitionState, events: list[Impression | Outcome], model: str, counts_on: str) -> None:
    """The sums and the outcomes that were used are the oracle's, bit for bit."""
    truth, counted = fold(events, model, viewable=counts_on == "viewable", retraction_s=RETRACTION_S)
    now = {arm: state.rules.models[POLICY].at(sums, now_ms=START_MS) for arm, sums in state.sums[POLICY].items()}
    assert {arm: (one.n_eff, one.reward, one.square, one.b.tolist(), one.A.tolist()) for arm, one in now.items()} == {
        arm: (one.n, one.reward, one.square, one.b.tolist(), one.A.tolist()) for arm, one in truth.items()
    }
    assert state.counts["joined"] == len(counted)
    assert sum(state.counts.values()) == sum(isinstance(event, Outcome) for event in events)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("counts_on", ["impression", "viewable"])
def test_a_learner_that_is_lost_again_and_again_ends_with_the_oracles_sums(model: str, counts_on: str) -> None:
    """With room for two sums of ten in a checkpoint, so that recoveries replay cut by cut; all half-lives as in one run."""
    given = {**TAKING, "counts_on": counts_on}
    whole, _, _ = run(model, 3, 10_000_000, crash=0.0, events=mixed(3), **given)
    state, committed, deaths = run(model, 3, TWO_SUMS, crash=0.25, events=mixed(3), **given)
    assert deaths > 5
    assert max(committed.sums_bytes) < 2_000
    for one in (whole, state):
        exact(one, mixed(3), model, counts_on)
    assert {entry: (sums["count"], sums["newest_ms"]) for entry, sums in everything(state).items()} == {
        entry: (sums["count"], sums["newest_ms"]) for entry, sums in everything(whole).items()
    }


def told(state: PartitionState) -> list[tuple[int, Any]]:
    """What is known of every pending row's outcomes."""
    return sorted(
        (int(chunk.offset[i]), sorted((s.outcome_id, s.ts, s.reward, s.does, s.value, s.worth, s.of) for s in seen))
        for chunk in state.join.pending.chunks()
        for i in chunk.staying().tolist()
        if (seen := [s for s in chunk.seen.get(i, ()) if s.reward is not None])
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("counts_on", ["impression", "viewable"])
def test_every_checkpoint_knows_what_is_not_yet_seen_and_what_was_taken_back(seed: int, counts_on: str) -> None:
    """At every cut the successor has the same sums, pending rows with the same outcomes, and counts."""
    rng = random.Random(seed)
    log, committed = Log(mixed(seed, 500, 80.0)), Committed()
    given = oracle_rules("linear", ONE_SUM, counts_on=counts_on, **TAKING)
    state, backlog = PartitionState(0, rules=given), 0
    while any(state.positions[side] < len(log.sides[side]) for side in log.sides) or state.table.unwritten:
        for side in log.sides:
            start = state.positions[side]
            end = min(len(log.sides[side]), start + rng.randrange(1, 60 if side == "impressions" else 50))
            if end > start:
                state.take(Fetched(side, 0, start, end, log.sides[side][start:end]))
        marks = [ts for ts in state.largest_ts.values() if ts is not None]
        committed.add(state.freeze(min(marks) if len(marks) == 2 else None))
        backlog = max(backlog, len(committed.checkpoint.get("cuts", ())))
        successor = recovered(log, committed, given)
        assert (pending(successor), told(successor)) == (pending(state), told(state))
        assert (successor.counts, successor.impressions) == (state.counts, state.impressions)
        main = {entry: sums for entry, sums in everything(state).items() if entry.track == 0.0}
        assert {entry: sums for entry, sums in everything(successor).items() if entry.track == 0.0} == main
        if rng.random() < 0.3:
            state = successor
    assert backlog > 5
    exact(state, mixed(seed, 500, 80.0), "linear", counts_on)


# -- broken ones


def first_come(seen: Sequence[Seen], *, viewable: bool) -> Sequence[Seen] | None:
    """A retraction takes back what had come before it, and nothing else."""
    kept: list[Seen] = []
    for one in seen:
        if one.does == outcomes.RETRACTS:
            kept = [other for other in kept if other.outcome_id != one.of]
        elif one.reward is not None:
            kept.append(one)
    return counting(kept, viewable=viewable)


def clicks_before_are_lost(seen: Sequence[Seen], *, viewable: bool) -> Sequence[Seen] | None:
    """What came before the viewable event does not count with it."""
    first = next((i for i, one in enumerate(seen) if one.does & outcomes.SHOWS), 0)
    return counting(seen[first:], viewable=viewable)


def refund_beyond_zero(one: Seen, refunds: Sequence[float] | None) -> Seen:
    """A refund takes back more than the outcome had."""
    return one if refunds is None else structs.replace(one, reward=one.worth * (one.value - sum(refunds)))


def uncorrected(*given: Any, **named: Any) -> Joined:
    """The square of the change, in place of the change of the square."""
    return structs.replace(Joined(*given, **named), square=given[11] ** 2)


def replaced(target: Any, name: str, by: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """A mutant that has something else under a name."""
    return lambda patch: patch.setattr(target, name, by)


def forgets_what_shows(patch: pytest.MonkeyPatch) -> None:
    """A rebuild remembers outcomes that earn alone."""
    match = Join._match

    def broken(self: Join, click: Click, row: int, changes: Any, *, counted: bool) -> None:
        if counted or click.kind in ("click", "buy"):
            match(self, click, row, changes, counted=counted)

    patch.setattr(Join, "_match", broken)


def taken_out_again(patch: pytest.MonkeyPatch) -> None:
    """A replay takes impressions out of sums that lack nothing."""
    take_out = Table.take_out
    patch.setattr(Table, "take_out", lambda self, policy, batch, *, cut, only: take_out(self, policy, batch, cut=cut))


MUTANTS = {
    "retraction before its outcome": replaced(join, "counting", first_come),
    "click before the viewable event": replaced(join, "counting", clicks_before_are_lost),
    "refund beyond zero": replaced(outcomes, "_refunded", refund_beyond_zero),
    "square": replaced(join, "Joined", uncorrected),
    "rebuild": forgets_what_shows,
    "never taken out": replaced(Table, "take_out", lambda *_, **__: None),
    "taken out again": taken_out_again,
    "waits as though it were seen": replaced(Gathered, "add", lambda self, row: self.joined.append(row)),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_learners_that_break_a_rule_are_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Each by the crash test above."""
    MUTANTS[name](monkeypatch)
    with pytest.raises(AssertionError):
        test_a_learner_that_is_lost_again_and_again_ends_with_the_oracles_sums("linear", "viewable")
