"""Putting impressions and outcomes on a ledger (policies/ledger.py), in batches; Kafka's part is in streams/ledgers.py."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from policies.ledger import FREE, Account, Ledger, Tariff

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from policies.batch import FloatArray


def shown(
    ledger: Ledger,
    tariff: Tariff,
    *,
    names: Sequence[str],
    arm: npt.NDArray[np.integer[Any]],
    ts: npt.NDArray[np.int64],
    cost: FloatArray | None = None,
) -> Ledger:
    """After n impressions.

    Args:
        ledger: before them.
        tariff: what they cost.
        names: of arms, by number.
        arm: (n,) number of the arm.
        ts: (n,) event time, ms UTC.
        cost: (n,) what the event says, NaN where it says nothing; None where none does.

    >>> from policies.ledger import EMPTY, Period, Price
    >>> tariff = Tariff(arms={"a": Price(budget="spring", cost=0.5)}, periods={"spring": Period(60.0, 0)})
    >>> after = shown(EMPTY, tariff, names=["a"], arm=np.array([0, 0]), ts=np.array([1, 60_000]), cost=np.array([np.nan, 4.0]))
    >>> after.accounts["spring"].spent, after.shown
    ({0: 0.5, 1: 4.0}, {'a': 2})
    """
    if not len(arm):
        return ledger
    times = np.bincount(arm)
    prices = [tariff.arms.get(name) for name in names[: len(times)]]
    counts = dict(ledger.shown)
    for name, price, n in zip(names, prices, times.tolist(), strict=False):
        if price is not None and n:
            counts[name] = counts.get(name, 0) + n
    costs = np.array([0.0 if price is None else price.cost for price in prices])[arm]
    if cost is not None:
        costs = np.where(np.isnan(cost), costs, cost)
    drawing = sorted({price.budget for price, n in zip(prices, times, strict=True) if n and price and price.budget})
    number_of = {budget: i for i, budget in enumerate(drawing)}
    drawn = np.array([-1 if price is None else number_of.get(price.budget or "", -1) for price in prices])[arm]
    order = np.argsort(drawn, kind="stable")
    ends = np.searchsorted(drawn[order], np.arange(len(drawing) + 1))
    accounts = dict(ledger.accounts)
    for i, budget in enumerate(drawing):
        rows = order[ends[i] : ends[i + 1]]
        _add(accounts, tariff, budget, ts[rows], costs[rows], None)
    return replace(
        ledger, accounts=accounts, shown=dict(sorted(counts.items())), impressions=ledger.impressions + len(arm)
    )


class Counted(NamedTuple):
    """An outcome that counts: its arm's name, event time (ms UTC), by how much it changed the reward, and what it costs.

    That is a cost of its own, and a number of clicks and of impressions at the arm's prices; below zero what is returned.
    """

    arm: str
    ts: int
    change: float
    cost: float = 0.0
    clicks: int = 0
    shown: int = 0


def followed(ledger: Ledger, tariff: Tariff, outcomes: Iterable[Counted]) -> Ledger:
    """After outcomes that count; a cost or reward that is taken back is one below zero.

    >>> from policies.ledger import EMPTY, Period, Price
    >>> tariff = Tariff(arms={"a": Price(budget="spring", click_cost=0.5)}, periods={"spring": Period(60.0, 0)})
    >>> after = followed(EMPTY, tariff, [Counted("a", 9, 1.0, clicks=1), Counted("a", 9, 3.0)])
    >>> after.accounts["spring"].spent, after.accounts["spring"].earned
    ({0: 0.5}, {0: 4.0})
    """
    accounts, earned = dict(ledger.accounts), ledger.earned
    by_budget: dict[str, list[tuple[int, float, float]]] = {}
    for one in outcomes:
        price = tariff.arms.get(one.arm, FREE)
        worth = price.value * one.change
        earned += worth
        if price.budget is not None:
            due = one.cost + one.clicks * price.click_cost + one.shown * price.cost
            by_budget.setdefault(price.budget, []).append((one.ts, due, worth))
    for budget, rows in by_budget.items():
        ts, costs, worths = (np.array(column) for column in zip(*rows, strict=True))
        _add(accounts, tariff, budget, ts, costs, worths)
    return replace(ledger, accounts=accounts, earned=earned)


def _add(
    accounts: dict[str, Account],
    tariff: Tariff,
    budget: str,
    ts: npt.NDArray[np.int64],
    cost: FloatArray,
    worth: FloatArray | None,
) -> None:
    """Put costs and worths (n,) at event times (n,) on a budget's account."""
    period = tariff.periods[budget]
    account = accounts.get(budget)
    if account is None or account.period != period:
        account = Account(period=period)
    numbers = np.floor_divide((ts - period.anchor_ms).astype(np.float64), period.period_s * 1000.0).astype(np.int64)
    spent, earned = dict(account.spent), dict(account.earned)
    if numbers[0] == numbers[-1] and (numbers == numbers[0]).all():
        found, of = numbers[:1], np.zeros(len(numbers), np.intp)
    else:
        found, of = np.unique(numbers, return_inverse=True)
    for sums, values in ((spent, cost), (earned, worth)):
        if values is not None:
            added = np.bincount(of, weights=values, minlength=len(found))
            for number, value in zip(found.tolist(), added.tolist(), strict=True):
                sums[number] = sums.get(number, 0.0) + value  # 0 as well: the newest period is not to hang on batches
    accounts[budget] = _folded(replace(account, spent=spent, earned=earned))


def _folded(account: Account) -> Account:
    """With what lies too far behind the newest period in one sum."""
    newest = max((*account.spent, *account.earned), default=0)
    first = newest - account.period.kept
    spent, spent_before = _cut(account.spent, first)
    earned, earned_before = _cut(account.earned, first)
    return Account(
        period=account.period,
        spent=spent,
        earned=earned,
        spent_before=account.spent_before + spent_before,
        earned_before=account.earned_before + earned_before,
    )


def _cut(by_period: Mapping[int, float], first: int) -> tuple[dict[int, float], float]:
    """Those from a period on, in order, and the sum of the others."""
    kept = {number: by_period[number] for number in sorted(by_period) if number >= first}
    return kept, sum(by_period[number] for number in sorted(by_period) if number < first)
