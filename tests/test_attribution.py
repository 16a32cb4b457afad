"""Who gets a conversion: by rule, window and time; in any order of arrival within the grace; once, whatever dies when."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import Any

import pytest

from streams.attribution import Attribution, Rule, outcomes
from streams.attribution_state import AttributionState
from streams.conversions import Conversion, encode_conversion
from streams.events import Outcome
from streams.reading import SimpleRecord
from streams.touches import Touch
from tests.attributed import TOPICS, a_log, expected, rules_of, run

HOW = ("last", "first", "even")


def rule(how: Any = "last", **values: Any) -> Rule:
    """A rule for purchases: 100 ms back, grace 10, keep 50."""
    given: dict[str, Any] = {"window_ms": 100, "grace_ms": 10, "keep_ms": 50, "kinds": frozenset({"buy"})} | values
    return Rule(how=how, **given)


def touch(ts: int, decision_id: str = "d", policy: str = "front", until: int = 10_000, **values: Any) -> Touch:
    """A touch of that time."""
    return Touch(policy=policy, decision_id=decision_id, slot="top", ts=ts, until=until, **values)


def bought(ts: int, conversion_id: str = "c", **values: Any) -> Conversion:
    """A purchase worth 3."""
    return Conversion(unit="u", conversion_id=conversion_id, kind="buy", value=3.0, ts=ts, **values)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("seed", range(4))
def test_everything_at_once(how: str, seed: int) -> None:
    """Read in random batches with random checkpoints, the outcomes are those found by looking at everything at once."""
    log = a_log(seed)
    broker, counts = run(log, rules_of(how), seed=seed)
    truth = expected(log, how)
    assert broker.given == truth
    assert truth
    assert counts["attributed"] == len({row[2] for row in truth})
    assert counts["attributed"] + counts["unattributed"] == len(log.conversions)
    assert sum(counts.values()) == len(log.records["conversions"])


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("seed", range(12))
def test_deaths_change_nothing(how: str, seed: int) -> None:
    """Dying before a commit, after one, or in the middle of a rebuild gives each outcome once, and the same counts."""
    log = a_log(seed)
    broker, counts = run(log, rules_of(how), seed=seed, crashes=0.15)
    whole, counted = run(log, rules_of(how), seed=seed + 100)
    assert broker.given == expected(log, how) == whole.given
    assert counts == counted


class WaitsAgain(AttributionState):
    """A broken rebuild: every conversion that it reads again waits again."""

    def __init__(self, *arguments: Any, **values: Any) -> None:
        super().__init__(*arguments, **values)
        self._waited = frozenset(range(100_000))


class ForgetsTheTouches(AttributionState):
    """A broken rebuild: goes on where the checkpoint ended."""

    def __init__(self, *arguments: Any, **values: Any) -> None:
        super().__init__(*arguments, **values)
        self.positions["touches"] = self.settled["touches"]


class ForgetsTheWaiting(AttributionState):
    """A broken rebuild: what waited is gone."""

    def __init__(self, *arguments: Any, **values: Any) -> None:
        super().__init__(*arguments, **values)
        self._waited = frozenset()


class Hasty(AttributionState):
    """No grace: a conversion is given out at once."""

    def __init__(self, *arguments: Any, rules: Any, **values: Any) -> None:
        without = {policy: replace(rule, grace_ms=0) for policy, rule in rules.items()}
        super().__init__(*arguments, rules=without, **values)


@pytest.mark.parametrize("broken", [WaitsAgain, ForgetsTheTouches, ForgetsTheWaiting, Hasty])
def test_broken_ones_are_noticed(broken: type[AttributionState]) -> None:
    """Each way of getting it wrong gives other outcomes for some seed."""
    wrong = []
    for seed in range(6):
        log = a_log(seed)
        broker, _ = run(log, rules_of("last"), seed=seed, crashes=0.15, state_class=broken)
        wrong.append(broker.given != expected(log, "last"))
    assert any(wrong)


@pytest.mark.parametrize(
    ("age", "counts"), [(0, True), (99, True), (100, False), (-1, False)], ids=["now", "inside", "edge", "after"]
)
def test_window_is_half_open(age: int, counts: bool) -> None:
    """A touch counts from its own time up to, not including, the window's end; one after the conversion does not."""
    found = outcomes(bought(500), [touch(500 - age)], {"front": rule()})
    assert bool(found) == counts


def test_the_decision_still_takes_outcomes() -> None:
    """A touch whose impression's window has closed at the conversion's time gets nothing, and no share is lost on it."""
    seen = [touch(450, "closed", until=500), touch(440, "open", until=501)]
    assert [o.decision_id for o in outcomes(bought(500), seen, {"front": rule("last")})] == ["open"]
    even = outcomes(bought(500), seen, {"front": rule("even")})
    assert [(o.decision_id, o.value) for o in even] == [("open", 3.0)]


@pytest.mark.parametrize(
    ("how", "shares"),
    [("last", {"z": 3.0}), ("first", {"a": 3.0}), ("even", {"a": 1.0, "b": 1.0, "z": 1.0})],
)
def test_rules(how: str, shares: dict[str, float]) -> None:
    """Last and first give all to one; even gives each touched decision the same, however often it was touched."""
    seen = [touch(420, "b"), touch(410, "a"), touch(490, "z"), touch(430, "b")]
    for _ in range(5):
        random.Random(3).shuffle(seen)
        found = outcomes(bought(500), seen, {"front": rule(how)})
        assert {o.decision_id: o.value for o in found} == shares


def test_a_touchs_token_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where outcomes may carry their decision's token, what is attributed has that of its touch; one without has none."""

    class Bearing(Outcome, frozen=True, kw_only=True):
        token: str | None = None

    monkeypatch.setattr("streams.attribution.Outcome", Bearing)
    seen = [touch(410, "a", token="secret"), touch(420, "b")]
    found: list[Any] = outcomes(bought(500), seen, {"front": rule("even")})
    assert [(o.decision_id, o.token) for o in found] == [("a", "secret"), ("b", None)]


def test_policies_share_a_conversion_or_are_named() -> None:
    """Without a policy the latest touch of any policy that attributes the kind gets it; with one, only that policy's."""
    rules = {"front": rule(), "side": rule(), "other": rule(kinds=frozenset({"lead"}))}
    seen = [touch(410, "f"), touch(420, "s", "side"), touch(430, "o", "other")]
    assert [o.decision_id for o in outcomes(bought(500), seen, rules)] == ["s"]
    assert [o.decision_id for o in outcomes(bought(500, policy="front"), seen, rules)] == ["f"]
    assert outcomes(bought(500, policy="other"), seen, rules) == []


def test_late_and_duplicate_ones() -> None:
    """A conversion that comes when the watermark has passed its time + keep is late; a copy is a duplicate, even of a late one."""
    state = Attribution({"front": rule()})
    state.touch(1, touch(400), 0)
    state.convert(1, bought(450), 0)
    assert len(state.advance(599)) == 1
    state.convert(1, bought(450), 1)
    state.convert(1, bought(549, "late"), 2)
    state.convert(1, bought(550, "in time"), 3)
    state.convert(1, bought(550, "late"), 4)
    state.convert(2, bought(550), 5)  # another unit's, with an id that is taken
    assert state.advance(599) == []
    assert state.counts == {"attributed": 1, "unattributed": 2, "duplicate": 2, "late": 1, "dead": 0}


def test_memory_is_given_back() -> None:
    """When the watermark has passed everything, nothing is remembered and no offset is needed."""
    state = Attribution({"front": rule()})
    for i in range(50):
        state.touch(i % 3, touch(i, f"d{i}"), i)
        state.convert(i % 3, bought(i, f"c{i}"), i)
    state.advance(40)
    assert state.oldest() == (0, 0)
    assert state.touches == 50
    state.advance(49 + 100 + 50)
    assert (state.touches, state.oldest(), state.waiting) == (0, (None, None), [])
    assert not any([state._touched, state._leaving, state._ids, state._forgetting])


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"{", "cannot be decoded"),
        (b"CLC1", "codec is columns"),
        (None, "tombstone"),
        (b'{"v":1,"unit":"","conversion_id":"c","kind":"buy","ts":1}', "unit is empty"),
        (b'{"v":1,"unit":"u","conversion_id":"","kind":"buy","ts":1}', "conversion_id is empty"),
        (b'{"v":2,"unit":"u","conversion_id":"c","kind":"buy","ts":1}', "v is 2"),
        (b'{"v":1,"unit":"u","conversion_id":"c","kind":"sell","ts":1}', "kind is 'sell', which no policy attributes"),
        (
            b'{"v":1,"unit":"u","conversion_id":"c","kind":"buy","ts":1,"policy":"x"}',
            "policy is 'x', which attributes no",
        ),
        (b'{"v":1,"unit":"u","conversion_id":"c","kind":"buy","ts":1,"value":1e31}', "value is 1e\\+31"),
        (b'{"v":1,"unit":"u","conversion_id":"c","kind":"buy","ts":9999999}', "ts is 9999999; allowed"),
        (b'{"v":1,"unit":"u","conversion_id":"c","kind":"buy","ts":-1}', "ts is -1; allowed"),
    ],
)
def test_what_cannot_be_used_is_a_dead_letter(value: bytes | None, why: str) -> None:
    """Each says why, and counts as dead; the rest of the batch is taken."""
    state = AttributionState(0, partitions=1, rules={"front": rule()}, topics=TOPICS)
    good = encode_conversion(bought(5))
    state.take("conversions", [SimpleRecord(0, 1_000, b"u", value, []), SimpleRecord(1, 1_000, b"u", good, [])])
    letters = [message for message in state.freeze() if message.topic == "dead_letters"]
    assert len(letters) == 1
    assert letters[0].value == value
    reason = dict(letters[0].headers)["__connect.errors.exception.message"].decode()
    assert re.search(why, reason), reason
    assert state.counts["dead"] == 1
    assert state.attribution.waiting == [1]


def test_a_conversion_in_the_wrong_partition_is_told() -> None:
    """Its touches are elsewhere: the letter names the partitioner."""
    state = AttributionState(1, partitions=2, rules={"front": rule()}, topics=TOPICS)
    names = [f"u{i}" for i in range(20)]
    records = [
        SimpleRecord(i, 1_000, b"", encode_conversion(Conversion(unit=name, conversion_id=name, kind="buy", ts=5)), [])
        for i, name in enumerate(names)
    ]
    state.take("conversions", records)
    letters = [message for message in state.freeze() if message.topic == "dead_letters"]
    assert 0 < len(letters) == 20 - len(state.attribution.waiting) < 20
    assert b"partitioner=murmur2_random" in dict(letters[0].headers)["__connect.errors.exception.message"]


def test_no_touch_is_told() -> None:
    """What is no touch in their topic is a dead letter, and no conversion is counted for it."""
    state = AttributionState(0, partitions=1, rules={"front": rule()}, topics=TOPICS)
    state.take("touches", [SimpleRecord(0, 1_000, b"", b"what", []), SimpleRecord(1, 1_000, b"", b'{"unit":"x"}', [])])
    assert [message.topic for message in state.freeze()] == ["dead_letters", "dead_letters", "attribution"]
    assert sum(state.counts.values()) == 0


def test_freezing_before_the_rebuild_is_a_bug() -> None:
    """It would let conversions wait that have been given out."""
    log = a_log(1)
    broker, _ = run(log, rules_of("last"), seed=1)
    state = AttributionState(0, partitions=1, rules=rules_of("last"), topics=TOPICS, checkpoint=broker.checkpoint)
    state.settled["touches"] += 1
    with pytest.raises(RuntimeError, match="this is a bug"):
        state.freeze()
