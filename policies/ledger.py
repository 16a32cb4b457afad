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

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
    """

    arms: Mapping[str, Price]
    periods: Mapping[str, Period]


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
