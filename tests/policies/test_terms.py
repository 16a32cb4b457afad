"""Terms step by step: what ledgers say becomes prices, closed budgets and bonuses, and the record carries all that the next step needs."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.allotment import Allotment
from policies.budget_steps import MOST_UNITS, heeded, stepped
from policies.budgets import budget, charged
from policies.budgets import stepped as step_of
from policies.charging import Counted, followed, shown
from policies.exposure import ETA
from policies.ledger import EMPTY, Ledger, Period, Price, Tariff
from policies.queues import MOST_MISSING, queued
from policies.sums import RecordError
from policies.terms import (
    BudgetControl,
    Paced,
    Queue,
    TermsState,
    Wanted,
    allotted,
    moved,
)
from policies.terms_records import decode_terms, encode_terms, terms_key

PERIOD_S = 64.0
SPRING = {"spring": Wanted(amount=100.0, period_s=PERIOD_S)}
TARIFF = Tariff(arms={"a": Price("spring", 1.0, 1.0)}, periods={"spring": Period(PERIOD_S, 0)})


def spend(ledger: Ledger, ts: int, cost: float) -> Ledger:
    """One impression of arm a."""
    return shown(ledger, TARIFF, names=["a"], arm=np.zeros(1, int), ts=np.array([ts]), cost=np.array([cost]))


def earn(ledger: Ledger, ts: int, worth: float) -> Ledger:
    """One outcome of arm a that costs nothing."""
    return followed(ledger, TARIFF, [Counted("a", ts, worth)])


def at(
    state: TermsState, ledger: Ledger, now_ms: int, said: dict[str, BudgetControl] | None = None
) -> tuple[TermsState, tuple[str, ...]]:
    """What a publisher does at each tick with the budgets."""
    state, told = heeded(state, SPRING, said or {}, now_ms=now_ms)
    state, changed = stepped(state, ledger, SPRING, now_ms=now_ms)
    return state, (*told, *changed)


ROWS = st.lists(st.tuples(st.integers(1, 4_000), st.sampled_from([0.25, 1.0, 4.0, 16.0])), min_size=1, max_size=60)


@given(ROWS)
@settings(max_examples=80)
def test_prices_are_those_of_charging_one_by_one(rows: list[tuple[int, float]]) -> None:
    """Steps from totals equal steps of policies/budgets.py with every cost charged, the unit as the ledger has it."""
    ledger, state = earn(EMPTY, 0, 8.0), TermsState()
    simple, now = budget(100.0, period_s=PERIOD_S, now_ms=0), 0
    for gap, cost in rows:
        now += gap
        ledger = spend(ledger, now, cost)
        state, _ = at(state, ledger, now)
        unit = state.budgets["spring"].unit
        simple = step_of(charged(simple, cost, ts=now), now_ms=now, unit=unit)
        simple = replace(simple, price=min(simple.price, MOST_UNITS * unit))
        found = state.budgets["spring"].budget
        assert found.price == pytest.approx(simple.price, rel=1e-9, abs=1e-12)
        assert (found.period, found.spent, found.stepped_ms) == (simple.period, simple.spent, simple.stepped_ms)
    account = ledger.accounts["spring"]
    assert unit == sum(account.earned.values()) / sum(account.spent.values()) or not sum(account.earned.values())


@given(ROWS, st.integers(2, 5))
@settings(max_examples=60)
def test_a_lost_step_is_made_up_for_by_the_next(rows: list[tuple[int, float]], every: int) -> None:
    """A leader that knows one record in a few, each read back from its bytes, knows the same spending in the end."""
    ledger, whole, other, now = EMPTY, TermsState(), TermsState(), 0
    kept = encode_terms("p", other)
    for i, (gap, cost) in enumerate(rows):
        now += gap
        ledger = spend(ledger, now, cost)
        whole, _ = at(whole, ledger, now)
        other, _ = at(decode_terms(kept), ledger, now)
        if i % every == 0:
            kept = encode_terms("p", other)
    one, two = whole.budgets["spring"], other.budgets["spring"]
    assert (one.budget.spent, one.earlier, one.is_closed) == (two.budget.spent, two.earlier, two.is_closed)
    assert decode_terms(encode_terms("p", whole)) == whole


def test_without_pacing_a_budget_has_no_price_and_closes_all_the_same() -> None:
    """The same spending prices a paced budget; one that is switched to none while priced loses its price with the next step."""
    ledger, unpaced = earn(spend(EMPTY, 1_000, 50.0), 1_000, 50.0), {"spring": replace(SPRING["spring"], pacing="none")}
    start, _ = heeded(TermsState(), SPRING, {}, now_ms=1_000)
    priced, _ = stepped(start, ledger, SPRING, now_ms=1_000)
    assert allotted(priced).price["spring"] > 0.0
    for before in (start, priced):
        state, told = stepped(before, ledger, unpaced, now_ms=1_500)
        assert (allotted(state).price, told) == ({}, ())
        state, told = stepped(state, spend(ledger, 1_600, 50.0), unpaced, now_ms=1_600)
        assert told == ("budget spring closed: 100 of 100 spent in period 0",)
        assert allotted(state).price == {}


def test_a_budget_closes_is_raised_and_rolls_over_with_reasons() -> None:
    """Spent at the margin, opened by a larger amount, closed again, and open in the next period; paused whatever is left."""
    ledger = spend(EMPTY, 1_000, 100.0)
    state, told = at(TermsState(), ledger, 1_000)
    assert told == ("budget spring closed: 100 of 100 spent in period 0",)
    assert allotted(state).closed == {"spring"}
    raised = {"spring": BudgetControl(amount=150.0, reason="sales")}
    state, told = at(state, ledger, 2_000, raised)
    assert told == (
        "budget spring raised from 100 to 150: sales",
        "budget spring opened: 100 of 150 spent in period 0",
    )
    state, told = at(state, ledger, 3_000, {"spring": BudgetControl(amount=50.0)})
    assert told[0] == "budget spring lowered from 150 to 50"
    assert state.budgets["spring"].all_overspent == 50.0
    state, told = at(state, ledger, 64_000, {"spring": BudgetControl(amount=50.0)})
    assert told == ("budget spring opened: 0 of 50 spent in period 1",)
    assert (state.budgets["spring"].overspent, state.budgets["spring"].all_overspent) == (50.0, 50.0)
    state, told = at(state, ledger, 65_000, {"spring": BudgetControl(amount=50.0, paused=True, reason="fraud")})
    assert told == ("budget spring paused: fraud",)
    assert allotted(state).closed == {"spring"}
    state, told = at(state, ledger, 66_000, {"spring": BudgetControl(amount=50.0)})
    assert told == ("budget spring resumed",)
    assert allotted(state).closed == frozenset()
    again, told = at(state, ledger, 67_000, {"spring": BudgetControl(amount=50.0)})
    assert (told, again.closed) == ((), frozenset())


def test_a_margin_closes_before_all_is_spent() -> None:
    """Below amount - margin it is open, at it closed."""
    wanted = {"spring": replace(SPRING["spring"], margin=20.0)}
    for cost, is_closed in ((79.0, False), (80.0, True)):
        state, _ = heeded(TermsState(), wanted, {}, now_ms=1)
        state, _ = stepped(state, spend(EMPTY, 1, cost), wanted, now_ms=1)
        assert state.budgets["spring"].is_closed is is_closed


def test_what_comes_for_a_period_that_is_over_is_late() -> None:
    """It neither closes the present period nor is it lost; what had come before the period ended is not late."""
    ledger = spend(EMPTY, 1_000, 10.0)
    state, _ = at(TermsState(), ledger, 1_000)
    ledger = spend(spend(ledger, 63_999, 20.0), 64_001, 5.0)
    state, _ = at(state, ledger, 64_001)
    assert (state.budgets["spring"].budget.spent, state.budgets["spring"].budget.late) == (5.0, 0.0)
    ledger = spend(ledger, 63_998, 200.0)
    state, _ = at(state, ledger, 65_000)
    assert (state.budgets["spring"].budget.spent, state.budgets["spring"].budget.late) == (5.0, 200.0)
    far = 64_000 * 100
    ledger = spend(ledger, far, 1.0)
    state, _ = at(state, ledger, far)
    assert (state.budgets["spring"].budget.spent, state.budgets["spring"].budget.late) == (1.0, 200.0)


def test_a_budget_that_the_publisher_did_not_know_begins_with_its_period() -> None:
    """What was spent of the present period counts, what was before it is not late, and the price does not jump for it."""
    ledger = earn(reduce(lambda one, i: spend(one, 1_000 * i, 1.0), range(1, 96), EMPTY), 0, 8.0)
    state, told = at(TermsState(), ledger, 96_000)
    found = state.budgets["spring"]
    assert (found.budget.spent, found.budget.late, found.budget.price, told) == (32.0, 0.0, 0.0, ())


def test_a_budget_with_other_periods_begins_anew_and_one_that_is_gone_is_forgotten() -> None:
    """The state holds what the settings have."""
    state, _ = at(TermsState(), spend(EMPTY, 1_000, 40.0), 1_000)
    other, told = heeded(state, {"spring": replace(SPRING["spring"], period_s=7.0)}, {}, now_ms=1_000)
    assert (other.budgets["spring"].budget.spent, told) == (0.0, ())
    assert heeded(state, {}, {}, now_ms=1_000)[0].budgets == {}


def test_nothing_is_priced_before_event_time_is_known() -> None:
    """With no watermark there is no period; paused and empty budgets are closed all the same."""
    state, _ = heeded(TermsState(), {**SPRING, "none": Wanted(amount=0.0, period_s=1.0)}, {}, now_ms=0)
    state, told = stepped(state, EMPTY, {**SPRING, "none": Wanted(amount=0.0, period_s=1.0)}, now_ms=0)
    assert state.closed == {"none"}
    assert told == ("budget none closed: 0 of 0 spent in period 0",)
    state, _ = at(TermsState(), EMPTY, 0, {"spring": BudgetControl(paused=True)})
    assert state.closed == {"spring"}


def test_what_is_spent_in_a_period_that_the_watermark_has_not_reached_closes() -> None:
    """At once and without opening between: a watermark that lags lets nobody spend more."""
    ledger = spend(spend(EMPTY, 1_000, 1.0), 64_500, 100.0)
    state, told = at(TermsState(), ledger, 60_000)
    assert state.closed == {"spring"}
    assert told == ("budget spring closed: 100 of 100 spent in period 1",)
    assert state.budgets["spring"].budget.spent == 1.0
    state, told = at(state, ledger, 64_500)
    assert state.closed == {"spring"}
    assert told == ()
    assert at(TermsState(), ledger, 0)[0].closed == {"spring"}


def test_a_price_is_limited_by_its_unit_and_without_earnings_stays() -> None:
    """A flood of spending makes no price that periods are needed to come down from; nobody prices what never earned."""
    ledger = spend(EMPTY, 1_000, 1e9)
    state, _ = at(TermsState(), ledger, 1_000)
    assert state.budgets["spring"].budget.price == 0.0
    ledger = earn(ledger, 1_000, 2e9)
    state, _ = at(state, spend(ledger, 1_500, 1e9), 2_000)
    assert (state.budgets["spring"].unit, state.budgets["spring"].budget.price) == (1.0, MOST_UNITS)


# -- exposure

SHARES = {"a": (0.25, 1.0), "b": (0.0, 0.5)}


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=40))
@settings(max_examples=80)
def test_the_queue_says_what_a_floor_lacks(steps: list[tuple[int, int, int]]) -> None:
    """Shown >= floor n - queue and shown <= ceiling n + queue after every step, whatever was shown."""
    ledger, state, start = EMPTY, TermsState(), (3, 4, 5)
    ledger = replace(ledger, shown={"a": 3, "b": 4}, impressions=12)
    state = queued(state, ledger, SHARES)
    total = np.zeros(3)
    for step in steps:
        total += step
        counts = total + start
        ledger = replace(ledger, shown={"a": int(counts[0]), "b": int(counts[1])}, impressions=int(counts.sum()))
        state = queued(state, ledger, SHARES)
        assert total[0] >= 0.25 * total.sum() - state.queues["a"].low - 1e-9
        assert total[1] <= 0.5 * total.sum() + state.queues["b"].high + 1e-9
        assert state.queues["a"].high == state.queues["b"].low == 0.0


def test_a_floor_pulls_an_arm_up_to_its_share() -> None:
    """Of an arm worth half of the other, a slot in ten is shown once the bonus makes up for it, and no more than it takes."""
    worth, counts, rng = {"a": 0.02, "b": 0.04}, {"a": 0, "b": 0}, np.random.default_rng(1)
    state, ledger = queued(TermsState(), EMPTY, {"a": (0.1, 1.0)}), EMPTY
    for _ in range(400):
        bonus = allotted(state).bonus
        best = max(worth, key=lambda arm: worth[arm] + bonus.get(arm, 0.0))
        counts[best] += 10
        earned = ledger.earned + rng.binomial(10, worth[best])
        ledger = Ledger(shown=dict(counts), impressions=sum(counts.values()), earned=float(earned))
        state = queued(state, ledger, {"a": (0.1, 1.0)})
    assert 0.0 < state.queues["a"].low < 600
    assert counts["a"] / 4_000 == pytest.approx(0.1, abs=0.1 - (400 - state.queues["a"].low) / 4_000 + 0.01)
    assert counts["a"] < 0.12 * 4_000


def test_the_queue_of_an_arm_that_cannot_be_shown_stands_still() -> None:
    """Paused for an hour it does not come back with an hour's bonus; nor does a ledger that began anew count."""
    state = queued(
        TermsState(queues={"a": Queue(low=7.0)}, impressions=0), Ledger(impressions=100), SHARES, standing={"a"}
    )
    assert (state.queues["a"], state.impressions) == (Queue(low=7.0), 100)
    state = queued(state, Ledger(impressions=100, shown={"a": 9}), SHARES)
    assert state.queues["a"] == Queue(low=7.0, shown=9)
    state = queued(state, Ledger(impressions=8, shown={"a": 2}), SHARES)
    assert state.queues["a"] == Queue(low=7.0, shown=2)
    state = queued(state, Ledger(impressions=10**9, shown={"a": 2}), SHARES)
    assert state.queues["a"].low == MOST_MISSING


# -- what is published, and when


def test_small_movements_are_published_with_the_next_snapshot_only() -> None:
    """A price by two hundredths of itself or of a typical value per cost, whichever is more; closing at once."""
    paced = Paced(budget=replace(budget(9.0, period_s=9.0, now_ms=0), price=2.0), unit=1.0)
    state = TermsState(budgets={"spring": paced}, queues={"a": Queue(low=100.0)}, pbar=0.5)
    published = allotted(state, Allotment(kappa={"top": 0.5}))
    assert published == Allotment(kappa={"top": 0.5}, price={"spring": 2.0}, bonus={"a": ETA * 0.5 * 100.0})

    def priced(price: float, unit: float) -> TermsState:
        one = replace(paced, budget=replace(paced.budget, price=price), unit=unit)
        return replace(state, budgets={"spring": one})

    assert not moved(state, published)
    assert not moved(priced(2.03, 1.0), published)
    assert moved(priced(2.05, 1.0), published)
    assert not moved(priced(2.05, 10.0), published)
    assert moved(priced(0.0, 1.0), published)
    assert moved(replace(state, budgets={"spring": replace(paced, is_closed=True)}), published)
    assert moved(replace(state, budgets={}), published)
    assert moved(replace(state, queues={}), published)


def test_records_are_refused_that_cannot_be_used() -> None:
    """A later version, damage, numbers that are not finite; unknown keys are ignored, and the key is a golden one."""
    state, _ = at(TermsState(), earn(spend(EMPTY, 1, 1.0), 1, 1.0), 1)
    state = replace(state, queues={"a": Queue(low=1.0, high=2.0, shown=3)}, impressions=4, pbar=0.5)
    fields = msgspec.msgpack.decode(encode_terms("p", state), type=dict)
    assert decode_terms(msgspec.msgpack.encode(fields | {"more": 1})) == state
    for bad, why in (
        ({"v": 2}, "version 2"),
        ({"queues": 7}, "cannot be read"),
        ({"pbar": float("nan")}, "not finite"),
    ):
        with pytest.raises(RecordError, match=why):
            decode_terms(msgspec.msgpack.encode(fields | bad))
    assert terms_key("p").hex() == "93a170c0a762756467657473"
