"""Exploration as a state: what a cut decides is a function of the cut, and its records hold all of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from policies.exploration import (
    RING,
    Exploration,
    Now,
    counted,
    decided,
    first_exploration,
    is_due,
    make_cut,
    with_contexts,
)
from policies.exploration_records import decode_exploration, decode_group, encode_exploration, encode_group
from policies.groups import grouped
from policies.meta import prior_for
from policies.meta_rules import Rules
from policies.prior import HybridPrior, Prior
from policies.rollout_plan import Plan
from policies.sums import Effective, RecordError

D = 3
RULES = Rules(model="linear", dimension=D, explore="roll-outs", sure=0.0, plan=Plan(worlds=8, steps=4, contexts=8))


def arm(mean: float, n: float = 500.0) -> Effective:
    A = n * np.eye(D)
    b = n * np.array([mean, 0.0, 0.0])
    return Effective(n_eff=n, count=n, reward=n * mean, square=n * mean, b=b, A=A)


def now(**more: Any) -> Now:
    given = {
        "arms": {"a": arm(0.05), "b": arm(0.04), "c": arm(0.045, 20.0)},
        "prior": Prior(mean=np.array([0.05, 0.0, 0.0]), tau2=np.full(D, 0.001), s2=0.05),
        "count": 6000.0,
        "now_ms": 60_000,
        "announced": {},
        "offsets": {0: {"impressions": 7, "clicks": 5}, 1: {"impressions": 2, "clicks": 1}},
    }
    return Now(**{**given, **more})


def state(seed: int = 1) -> Exploration:
    x = np.random.default_rng(seed).standard_normal((40, D))
    return with_contexts(first_exploration(0.3, dimension=D), x)


def test_the_same_cut_decides_the_same_after_a_restart() -> None:
    """Through the record of the state, and with partitions and arms in another order: the same bits, whatever was played in between."""
    before = state()
    one = decided(make_cut(before, now(), policy="p", rules=RULES))
    assert one[1]
    assert one[0].alpha != 0.3
    decided(make_cut(state(2), now(), policy="p", rules=RULES))
    restored = decode_exploration(encode_exploration("p", before), first_exploration(0.3, dimension=D))
    offsets = {1: {"clicks": 1, "impressions": 2}, 0: {"clicks": 5, "impressions": 7}}
    arms = dict(reversed(list(now().arms.items())))
    again = decided(make_cut(restored, now(offsets=offsets, arms=arms), policy="p", rules=RULES))
    assert again[1] == one[1]
    assert encode_exploration("p", again[0]) == encode_exploration("p", one[0])


def test_another_cut_has_another_seed() -> None:
    """Offsets and the policy's name make it: two policies on one topic do not share their luck."""
    later = now(offsets={0: {"impressions": 8, "clicks": 5}})
    seeds = {
        make_cut(state(), one, policy=name, rules=RULES).seed
        for one, name in ((now(), "p"), (later, "p"), (now(), "q"))
    }
    assert len(seeds) == 3


def test_a_roll_out_is_due_after_so_many_impressions_and_with_contexts() -> None:
    """From the last cut on; a policy that has seen no matured row waits."""
    assert is_due(state(), RULES, 5000.0)
    assert not is_due(state(), RULES, 4999.0)
    assert not is_due(first_exploration(0.3, dimension=D), RULES, 1e9)
    cut = make_cut(state(), now(), policy="p", rules=RULES)
    assert not is_due(cut.state, RULES, 10_999.0)
    assert is_due(cut.state, RULES, 11_000.0)


def test_what_is_played_is_what_was_seen_since_the_last_cut() -> None:
    """Announced changes count once; the pace reads half-life and delay in events, from the second cut on."""
    first = make_cut(
        state(), now(announced={"a": 5, "b": 7}, half_life_s=3600.0, mean_delay_s=2.0), policy="p", rules=RULES
    )
    assert first.seen.announced == pytest.approx(2 / (3 * 6000))
    assert (first.seen.unannounced, first.rules.delay) == (0.0, 0.0)
    second = make_cut(
        first.state,
        now(count=12_000.0, now_ms=90_000, announced={"a": 9, "b": 7}, half_life_s=3600.0, mean_delay_s=2.0),
        policy="p",
        rules=RULES,
    )
    assert second.rules.delay == pytest.approx(2.0 / (30.0 / 6000.0))
    assert second.seen.unannounced == pytest.approx(np.log(2) * (30.0 / 6000.0) / 3600.0, rel=1e-3)
    assert second.state.hazard.changes == pytest.approx(3.0, rel=0.01)


def test_arms_that_expire_neither_put_off_a_roll_out_nor_slow_the_pace() -> None:
    """Of a million impressions 400,000 expire after 4,000 more: the next 1,000 make one due, and it plays at the pace of 5,000."""
    first = make_cut(state(), now(count=1_000_000.0), policy="p", rules=RULES).state
    went = counted(counted(first, 1_004_000.0), 604_000.0)
    assert not is_due(went, RULES, 604_999.0)
    assert is_due(went, RULES, 605_000.0)
    assert is_due(counted(first, 600_000.0), RULES, 605_000.0)
    restored = decode_exploration(encode_exploration("p", went), first_exploration(0.3, dimension=D))
    assert (restored.events, restored.count) == (4_000.0, 604_000.0)
    again = now(count=605_000.0, now_ms=90_000, mean_delay_s=2.0)
    lost, kept = (make_cut(one, again, policy="p", rules=RULES) for one in (restored, replace(first, count=600_000.0)))
    assert lost.rules.delay == kept.rules.delay == pytest.approx(2.0 / (30.0 / 5000.0))
    assert lost.seen.announced == kept.seen.announced
    assert encode_exploration("p", lost.state) == encode_exploration("p", kept.state)


def test_a_state_of_before_goes_on_from_the_impressions_at_its_cut() -> None:
    """Its record says nothing of those that came since."""
    cut = make_cut(state(), now(), policy="p", rules=RULES).state
    record = msgspec.msgpack.decode(encode_exploration("p", cut))
    del record["events"]
    restored = decode_exploration(msgspec.msgpack.encode(record), first_exploration(0.3, dimension=D))
    assert not is_due(restored, RULES, 10_999.0)
    assert is_due(restored, RULES, 11_000.0)


def test_the_newest_contexts_are_kept_within_a_bound() -> None:
    """The oldest go first; of long contexts fewer stay."""
    some = with_contexts(first_exploration(0.3, dimension=1), np.arange(1000.0)[:, None])
    assert some.ring[:, 0].tolist() == list(range(1000 - RING, 1000))
    assert with_contexts(first_exploration(0.3, dimension=4096), np.ones((300, 4096))).ring.nbytes <= 1_000_000


def test_another_rate_in_the_settings_begins_anew() -> None:
    """What roll-outs found from another beginning does not outlive it; the rest does."""
    record = encode_exploration("p", replace(state(), alpha=0.1, count=9.0))
    assert decode_exploration(record, first_exploration(0.3, dimension=D)).alpha == 0.1
    other = decode_exploration(record, first_exploration(0.5, dimension=D))
    assert (other.alpha, other.count) == (0.5, 9.0)
    assert decode_exploration(record, first_exploration(0.3, dimension=2)).ring.shape == (0, 2)


@pytest.mark.parametrize("data", [b"", b"\x81\xa1v\x01", b"\xc1"])
def test_a_damaged_record_is_told(data: bytes) -> None:
    """With its first bytes."""
    with pytest.raises(RecordError, match="cannot be read"):
        decode_exploration(data, first_exploration(0.3, dimension=D))
    with pytest.raises(RecordError, match="cannot be read"):
        decode_group(data)


def test_a_later_version_is_told_as_such_though_it_has_other_fields() -> None:
    """Rather than as damage."""
    with pytest.raises(RecordError, match="has version 2, this reader knows 1 to 1; upgrade it"):
        decode_exploration(b"\x81\xa1v\x02", first_exploration(0.3, dimension=0))


def test_a_new_arm_starts_from_its_group_and_the_record_says_the_same() -> None:
    """Two groups that differ: what the prior of all would say lies between."""
    rules = Rules(model="hybrid", dimension=D, intercept=0)
    group_of = {"a": "x", "b": "x", "c": "y", "d": "y", "new": "y"}
    arms = {"a": arm(0.02), "b": arm(0.03), "c": arm(0.3), "d": arm(0.32)}
    found = prior_for(arms, rules=rules, group_of=group_of)
    assert isinstance(found, HybridPrior)
    start = found.of("new")  # type: ignore[attr-defined]
    assert start.mean[0] == pytest.approx(0.31, abs=0.05)
    assert found.mean[0] < 0.25
    assert decode_group(encode_group("p", "y", start)) == start
    assert found == prior_for(arms, rules=rules, group_of=group_of)
    assert found != prior_for(arms, rules=rules, group_of={**group_of, "new": "x"})
    assert grouped(found.groups) == found  # type: ignore[attr-defined]
