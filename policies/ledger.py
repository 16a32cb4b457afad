"""What showing ads cost and brought, and how often each was shown: sums of one policy, added up exactly once like those of its arms.

A `Tariff` says what an event costs that does not say it, and which budget the cost draws on. A `Ledger` holds, of every
budget, what was spent and earned in each of its periods by event time, and of every arm that the tariff knows, how often it was
shown. What was spent is a function of the set of events, whatever their order: periods are kept up to KEPT behind the newest
that anything fell into and for KEPT_MS, and what belongs to older ones is one sum. Of costs that are dyadic (1/8, 3, ...) the sums
have the same bits in every order.

Earned is what rewards are worth, value times reward, of the arms that draw on the budget; where a reward is the largest of several
outcomes, or the earliest, it is in the periods of those that changed it as they came.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from policies.batch import FloatArray

KEPT = 3
"""Periods behind the newest that are kept one by one."""
KEPT_MS = 15 * 60_000
"""Or so much event time, if that is more: an event's time may lead by 5 minutes, and must not end the period of the others."""
MOST_KEPT = 1_000
"""Periods that are kept at most."""


class Period(NamedTuple):
    """How a budget's periods lie: of a length in seconds, from an anchor in ms UTC."""

    period_s: float
    anchor_ms: int

    @property
    def kept(self) -> int:
        """Periods behind the newest that are kept one by one."""
        return min(max(KEPT, int(KEPT_MS // (self.period_s * 1000.0)) + 1), MOST_KEPT)


class Price(NamedTuple):
    """What an arm's events cost where they do not say it, what a unit of its reward is worth, and its budget, None for none."""

    budget: str | None = None
    value: float = 1.0
    cost: float = 0.0
    click_cost: float = 0.0


FREE = Price()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """What a policy's events cost.

    Attributes:
        arms: price of every arm that is known; another is worth its reward and draws on nothing.
        periods: of every budget.
        kinds: outcomes that cost an arm's `click_cost`; others cost what they say themselves.
    """

    arms: Mapping[str, Price]
    periods: Mapping[str, Period]
    kinds: frozenset[str] = frozenset({"click"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What was spent on a budget and earned by it.

    Attributes:
        period: how its periods lie.
        spent: cost by number of the period, the newest ones.
        earned: worth of rewards, by the same numbers.
        spent_before: cost of all periods before those.
        earned_before: worth of the rewards of the same.
    """

    period: Period
    spent: Mapping[int, float] = field(default_factory=dict)
    earned: Mapping[int, float] = field(default_factory=dict)
    spent_before: float = 0.0
    earned_before: float = 0.0

    @property
    def total(self) -> float:
        """All that was ever spent."""
        return self.spent_before + sum(self.spent.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Sums of one policy.

    Attributes:
        accounts: of every budget that something was spent on or earned by.
        shown: impressions of each arm that the tariff knows.
        impressions: of all arms.
        earned: worth of all rewards.
    """

    accounts: Mapping[str, Account] = field(default_factory=dict)
    shown: Mapping[str, int] = field(default_factory=dict)
    impressions: int = 0
    earned: float = 0.0


EMPTY = Ledger()


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
    """An outcome that counts: the arm's name, its kind, event time (ms UTC), the cost that it says, and by how much it changed the reward."""

    arm: str
    kind: str
    ts: int
    cost: float | None
    change: float


def followed(ledger: Ledger, tariff: Tariff, outcomes: Iterable[Counted]) -> Ledger:
    """After outcomes that count; a cost or reward that is taken back is one below zero.

    >>> tariff = Tariff(arms={"a": Price(budget="spring", click_cost=0.5)}, periods={"spring": Period(60.0, 0)})
    >>> after = followed(EMPTY, tariff, [Counted("a", "click", 9, None, 1.0), Counted("a", "buy", 9, None, 3.0)])
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
            due = price.click_cost if one.kind in tariff.kinds else 0.0
            by_budget.setdefault(price.budget, []).append((one.ts, due if one.cost is None else one.cost, worth))
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


def merged(ledgers: Iterable[Ledger], periods: Mapping[str, Period]) -> Ledger:
    """Of several partitions, in their order; accounts whose periods lie otherwise are left out.

    >>> one = Ledger(accounts={"spring": Account(period=Period(60.0, 0), spent={0: 0.5})}, shown={"a": 1}, impressions=2)
    >>> both = merged([one, one], {"spring": Period(60.0, 0)})
    >>> both.accounts["spring"].spent, both.shown, both.impressions
    ({0: 1.0}, {'a': 2}, 4)
    """
    counts: dict[str, int] = {}
    accounts: dict[str, Account] = {}
    impressions, earned = 0, 0.0
    for ledger in ledgers:
        impressions, earned = impressions + ledger.impressions, earned + ledger.earned
        for arm, n in ledger.shown.items():
            counts[arm] = counts.get(arm, 0) + n
        for budget, account in ledger.accounts.items():
            if account.period == periods.get(budget):
                before = accounts.get(budget)
                accounts[budget] = account if before is None else _both(before, account)
    return Ledger(accounts=accounts, shown=dict(sorted(counts.items())), impressions=impressions, earned=earned)


def _both(one: Account, other: Account) -> Account:
    """Two accounts of one budget, with all periods that either has."""
    return Account(
        period=one.period,
        spent=_sum(one.spent, other.spent),
        earned=_sum(one.earned, other.earned),
        spent_before=one.spent_before + other.spent_before,
        earned_before=one.earned_before + other.earned_before,
    )


def _sum(one: Mapping[int, float], other: Mapping[int, float]) -> dict[int, float]:
    return {number: one.get(number, 0.0) + other.get(number, 0.0) for number in sorted({*one, *other})}
