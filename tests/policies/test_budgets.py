"""Budgets: overspending stays within the stated bound with servers that know late, periods roll over, prices pace."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.budgets import Budget, budget, changed, charged, is_open, most_overspent, rolled, stepped

COST = st.floats(0.0, 5.0)


def simulate(
    costs: list[float], gaps_ms: list[int], servers: list[int], *, lag_ms: int, margin: float
) -> tuple[float, float]:
    """What servers spend of 20, and what of it came in the last `lag_ms` with the last cost, if each decides from a snapshot of its own age.

    Server s knows what was spent until (t - age), age between 0 and lag_ms by its number.
    """
    log: list[tuple[int, float]] = []
    now = 0
    for cost, gap, server in zip(costs, gaps_ms, servers, strict=True):
        now += gap
        known_until = now - lag_ms * server // 4
        known = [one for one in log if one[0] <= known_until]
        seen = reduce(lambda state, one: charged(state, one[1], ts=one[0]), known, budget(20.0, period_s=1e6, now_ms=0))
        if is_open(seen, now_ms=now, margin=margin):
            log.append((now, cost))
    spent = sum(cost for _, cost in log)
    recent = sum(cost for ts, cost in log if ts > log[-1][0] - max(lag_ms, 1)) if log else 0.0
    return spent, recent


@settings(max_examples=150)
@given(
    st.lists(st.tuples(COST, st.integers(1, 500), st.integers(0, 4)), min_size=1, max_size=60),
    st.integers(0, 3000),
    st.sampled_from([0.0, 5.0]),
)
def test_overspending_is_within_the_bound(rows: list[tuple[float, int, int]], lag_ms: int, margin: float) -> None:
    """Less than amount - margin + what was spent in the last lag, the last cost included."""
    costs, gaps, servers = ([row[i] for row in rows] for i in range(3))
    spent, recent = simulate(costs, gaps, servers, lag_ms=lag_ms, margin=margin)  # type: ignore[arg-type]
    assert spent < 20.0 - margin + recent + 1e-9


def test_the_bound_in_numbers_and_a_margin_that_rules_it_out() -> None:
    """Ten decisions a second of 1 each, known 2 s late: at most 21 more; with that margin, none."""
    bound = most_overspent(cost=1.0, decisions_per_s=10.0, lag_s=2.0)
    n = 200
    for margin, most in ((0.0, 20.0 + bound), (bound, max(20.0, bound))):
        spent, _ = simulate([1.0] * n, [100] * n, [4] * n, lag_ms=2000, margin=margin)
        assert spent <= most
    assert simulate([1.0] * n, [100] * n, [4] * n, lag_ms=2000, margin=0.0)[0] > 20.0, "lag does cost something"


def test_periods_roll_over_by_event_time() -> None:
    """Spending starts anew, the price goes on, and what comes late for a period that is over is counted apart."""
    state = charged(budget(10.0, period_s=60.0, now_ms=0, price=0.5), 10.0, ts=1)
    assert not is_open(state, now_ms=59_999)
    assert is_open(state, now_ms=60_000)
    new = charged(rolled(state, now_ms=130_000), 1.0, ts=125_000)
    assert (new.period, new.spent, new.price) == (2, 1.0, 0.5)
    assert charged(new, 3.0, ts=119_999).late == 3.0
    assert charged(new, 3.0, ts=119_999).spent == 1.0


@settings(max_examples=80)
@given(st.lists(st.tuples(COST, st.integers(0, 59_999)), max_size=20), st.randoms(use_true_random=False))
def test_costs_within_a_period_come_in_any_order(rows: list[tuple[float, int]], random: np.random.Generator) -> None:
    """The same is spent, up to rounding."""
    start = budget(10.0, period_s=60.0, now_ms=0)

    def spend(order: list[tuple[float, int]]) -> Budget:
        return reduce(lambda state, row: charged(state, row[0], ts=row[1]), order, start)

    mixed = list(rows)
    random.shuffle(mixed)
    assert spend(mixed).spent == pytest.approx(spend(rows).spent)


def test_raised_lowered_and_paused_while_running() -> None:
    """What was spent stays; lowering below it closes; a paused budget keeps its price."""
    state = charged(budget(10.0, period_s=60.0, now_ms=0, price=0.5), 8.0, ts=1)
    assert is_open(changed(state, amount=9.0), now_ms=2)
    assert not is_open(changed(state, amount=7.0), now_ms=2)
    assert changed(state, amount=7.0).overspent == 1.0
    paused = changed(state, paused=True)
    assert not is_open(paused, now_ms=2)
    assert stepped(paused, now_ms=10_000).price == 0.5
    assert is_open(changed(paused, paused=False), now_ms=2)
    assert changed(state, amount=0.0).amount == 0.0


def paced(eta: float, *, rate: float = 5.0, steps: int = 2000, seed: int = 1) -> tuple[Budget, list[float]]:
    """A budget of 100 in 1,000 s where arms worth U(0, 1) per cost are shown if that exceeds the price."""
    rng = np.random.default_rng(seed)
    state, prices = budget(100.0, period_s=1000.0, now_ms=0), []
    for step in range(steps):
        now = step * 500
        for _ in range(rng.poisson(rate * 0.5)):
            if rng.random() > state.price and is_open(state, now_ms=now):
                state = charged(state, 0.1, ts=now)
        state = stepped(state, now_ms=now + 500, eta=eta)
        prices.append(state.price)
    return state, prices


def test_the_price_paces() -> None:
    """Of 500 that could be spent 100 may be: the price settles where a fifth is bought, and the budget lasts till the end."""
    state, prices = paced(20.0, rate=5.0, steps=1999)
    assert 95.0 < state.spent <= 100.0
    assert np.mean(prices[400:]) == pytest.approx(0.8, abs=0.05)


def test_pacing_would_be_missed() -> None:
    """Without steps all is spent in a fifth of the time."""
    assert paced(0.0, rate=5.0, steps=600)[0].spent >= 100.0


def test_a_price_falls_to_zero_where_nothing_is_bought() -> None:
    """It never goes below."""
    state = stepped(budget(100.0, period_s=100.0, now_ms=0, price=0.2), now_ms=50_000)
    assert state.price == 0.0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: budget(-1.0, period_s=1.0, now_ms=0), "amount = -1"),
        (lambda: budget(1.0, period_s=0.0, now_ms=0), "period_s = 0"),
        (lambda: charged(budget(1.0, period_s=1.0, now_ms=0), float("nan"), ts=0), "cost = nan"),
    ],
)
def test_what_cannot_be_is_refused(make: object, says: str) -> None:
    """With the value."""
    with pytest.raises(ValueError, match=says):
        make()  # type: ignore[operator]
