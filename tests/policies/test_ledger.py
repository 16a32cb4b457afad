"""A ledger is a function of what was charged, in whatever order and batches it came."""

from __future__ import annotations

from fractions import Fraction

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.budgets import budget, rolled
from policies.charging import Counted, followed, shown
from policies.ledger import EMPTY, KEPT, Account, Ledger, Period, Price, Tariff, merged
from policies.ledger_records import decode_ledger, encode_ledger
from policies.sums import RecordError

Row = tuple[int, int, float | None, bool]
LONG = 3600.0
TARIFF = Tariff(
    arms={"a": Price("spring", 2.0, 0.25, 0.5), "b": Price("spring"), "c": Price("autumn", 1.0, 1.0)},
    periods={"spring": Period(LONG, 5), "autumn": Period(1.0, 0)},
)
NAMES = ["a", "b", "c", "d"]
ROWS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(0, 20 * 3_600_000),
        st.sampled_from([None, 0.0, 0.125, 2.0, 1024.0]),
        st.booleans(),
    ),
    max_size=60,
)


def added(ledger: Ledger, rows: list[Row]) -> Ledger:
    """A batch of impressions, and those of the others that are clicks."""
    seen = [row for row in rows if not row[3]]
    costs = np.array([np.nan if row[2] is None else row[2] for row in seen])
    ledger = shown(
        ledger,
        TARIFF,
        names=NAMES,
        arm=np.array([row[0] for row in seen], np.int32),
        ts=np.array([row[1] for row in seen], np.int64),
        cost=costs,
    )
    clicks = [Counted(NAMES[row[0]], row[1], 1.0, row[2] or 0.0, clicks=int(row[2] is None)) for row in rows if row[3]]
    return followed(ledger, TARIFF, clicks)


@given(ROWS, st.randoms(use_true_random=False), st.integers(1, 7))
@settings(max_examples=150)
def test_order_batches_and_partitions_make_no_difference(rows: list[Row], rng: object, size: int) -> None:
    """The same bits from one batch, from small ones of another order, and from two partitions put together."""
    whole = added(EMPTY, rows)
    other = list(rows)
    rng.shuffle(other)  # type: ignore[attr-defined]
    parts = EMPTY
    for i in range(0, len(other), size):
        parts = added(parts, other[i : i + size])
    assert parts == whole
    half = merged([added(EMPTY, other[::2]), added(EMPTY, other[1::2])], TARIFF.periods)
    assert {name: one.total for name, one in half.accounts.items()} == {
        name: one.total for name, one in whole.accounts.items()
    }
    assert (half.shown, half.impressions, half.earned) == (whole.shown, whole.impressions, whole.earned)


@given(ROWS)
@settings(max_examples=150)
def test_nothing_is_lost_and_each_period_has_its_own(rows: list[Row]) -> None:
    """By exact fractions: each period that is kept has what fell into it, and the older ones are together what is left."""
    ledger = added(EMPTY, rows)
    for name, period in TARIFF.periods.items():
        due: dict[int, Fraction] = {}
        for arm, ts, cost, clicked in rows:
            price = TARIFF.arms.get(NAMES[arm], Price())
            if price.budget == name:
                at = rolled(
                    budget(1.0, period_s=period.period_s, anchor_ms=period.anchor_ms, now_ms=-(2**40)), now_ms=ts
                )
                said = Fraction(cost if cost is not None else price.click_cost if clicked else price.cost)
                due[at.period] = due.get(at.period, Fraction(0)) + said
        account = ledger.accounts.get(name, Account(period=period))
        assert account.total == sum(due.values())
        assert {n: c for n, c in account.spent.items() if c} == {
            n: c for n, c in due.items() if c and n in account.spent
        }
        newest = max(due, default=0)
        for n, c in due.items():
            if n >= newest - KEPT:
                assert account.spent[n] == c


def test_a_period_of_the_future_does_not_end_the_present_one() -> None:
    """An event whose time leads by five minutes leaves short periods as they are; days later they are one sum."""
    tariff = Tariff(arms={"a": Price("spring", cost=1.0)}, periods={"spring": Period(1.0, 0)})

    def at(ledger: Ledger, *ts: int) -> Ledger:
        return shown(ledger, tariff, names=["a"], arm=np.zeros(len(ts), int), ts=np.array(ts))

    ledger = at(EMPTY, 1_000_000, 1_300_000)
    ledger = at(ledger, 1_000_000)
    assert ledger.accounts["spring"].spent == {1000: 2.0, 1300: 1.0}
    later = at(ledger, 90_000_000, 1_000_001).accounts["spring"]
    assert (later.spent, later.spent_before, later.total) == ({90_000: 1.0}, 4.0, 5.0)


def test_a_budget_with_other_periods_begins_anew() -> None:
    """What was spent in days says nothing of hours: a new account, and one that still counts days is not added to it."""
    days = Tariff(arms=TARIFF.arms, periods={**TARIFF.periods, "spring": Period(86_400.0, 0)})
    before = added(EMPTY, [(0, 7, 4.0, False)])
    after = followed(before, days, [Counted("a", 9, 0.0, 1.0)])
    assert after.accounts["spring"] == Account(period=Period(86_400.0, 0), spent={0: 1.0}, earned={0: 0.0})
    assert merged([before, after], days.periods).accounts["spring"].total == 1.0


def test_clicks_and_impressions_at_the_arms_prices_and_costs_of_their_own_add_up() -> None:
    """A click at the settings' price, a purchase that says its own; what is returned is below zero, also an impression."""
    rows = [Counted("a", 1, 0.0, clicks=1), Counted("a", 1, 0.0), Counted("a", 1, 0.0, 3.0)]
    assert followed(EMPTY, TARIFF, rows).accounts["spring"].total == 3.5
    assert followed(EMPTY, TARIFF, [*rows, Counted("a", 1, 0.0, -3.0, shown=-1)]).accounts["spring"].total == 0.25


def test_a_record_is_read_as_it_was_written() -> None:
    """All numbers, of any period; unknown keys are ignored, a later version and damage are not."""
    ledger = added(EMPTY, [(i % 4, 3_600_000 * i, None, i % 3 == 0) for i in range(40)])
    value = encode_ledger(ledger, offsets={"impressions": 3, "clicks": 4})
    assert decode_ledger(value) == ledger
    fields = msgspec.msgpack.decode(value, type=dict)
    assert fields["offsets"] == {"impressions": 3, "clicks": 4}
    assert decode_ledger(msgspec.msgpack.encode(fields | {"more": 1})) == ledger
    for bad, why in (({"v": 2}, "version 2"), ({"shown": 7}, "cannot be read"), ({"earned": None}, "cannot be read")):
        with pytest.raises(RecordError, match=why):
            decode_ledger(msgspec.msgpack.encode(fields | bad))
    account = {"period_s": 0.0, "anchor_ms": 0, "spent": {}, "earned": {}, "spent_before": 0.0, "earned_before": 0.0}
    with pytest.raises(RecordError, match="damaged"):
        decode_ledger(msgspec.msgpack.encode(fields | {"accounts": {"x": account}}))
