"""From what a ledger says to the terms that a snapshot publishes: prices, closed budgets and bonuses, as of a step at event time.

Budgets are stepped by policies/budget_steps.py and arms' queues by policies/queues.py. The state goes from step to step, and from one
leader to the next in its record (policies/terms_records.py): what it is told are totals, so a step that was lost adds up in the next.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import msgspec

from policies.allotment import NO_ALLOTMENT, Allotment
from policies.exposure import ETA as BONUS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policies.budgets import Budget

Pacing = Literal["dual", "none"]
MOVED = 0.02
"""Part of a price, or of its unit if that is more, by which it has to differ from the published one to be published for its own sake."""


class BudgetControl(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was said last of one budget.

    Attributes:
        amount: what may be spent in a period; None leaves the settings' own.
        paused: whether nothing may draw on it.
        reason: in words, why.
        time_ms: the clock of who said it, ms UTC.
    """

    amount: float | None = None
    paused: bool = False
    reason: str = ""
    time_ms: int = 0


NOTHING_SAID = BudgetControl()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the settings say of a budget; see `policies.budgets.Budget`. ``pacing`` "none" keeps its price at 0, so that it only closes."""

    amount: float
    period_s: float
    anchor_ms: int = 0
    margin: float = 0.0
    pacing: Pacing = "dual"


@dataclass(frozen=True, slots=True, kw_only=True)
class Paced:
    """A budget as of the last step.

    Attributes:
        budget: with its price; `late` is what came for periods that were over.
        unit: u, a typical value per cost, 0 while none is known.
        earlier: what was known to be spent in the periods before the present one, None before the first step.
        overspent: what was spent beyond the amount in the periods that are over, all together, as far as it was known when they ended.
        is_closed: whether nothing may draw on it.
    """

    budget: Budget
    unit: float = 0.0
    earlier: float | None = None
    overspent: float = 0.0
    is_closed: bool = False

    @property
    def all_overspent(self) -> float:
        """What was spent beyond the amount, in all periods."""
        return self.overspent + self.budget.overspent


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """An arm with a floor or a ceiling: how many impressions it lacks, how many it had too many, and how many the ledger said it had."""

    low: float = 0.0
    high: float = 0.0
    shown: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TermsState:
    """Budgets by name, queues by arm, the impressions that the queues have seen (None: none yet), and the mean value of a shown slot."""

    budgets: Mapping[str, Paced] = field(default_factory=dict)
    queues: Mapping[str, Queue] = field(default_factory=dict)
    impressions: int | None = None
    pbar: float = 0.0

    @property
    def closed(self) -> frozenset[str]:
        """Budgets that nothing may draw on."""
        return frozenset(name for name, one in self.budgets.items() if one.is_closed)


def allotted(state: TermsState, before: Allotment = NO_ALLOTMENT) -> Allotment:
    """The terms to publish; what they do not say, `before` says.

    >>> allotted(TermsState(queues={"a": Queue(low=10.0)}, pbar=0.05)).bonus
    {'a': 0.0015}
    """
    bonus = {arm: BONUS * state.pbar * (one.low - one.high) for arm, one in state.queues.items()}
    return replace(
        before,
        price={name: one.budget.price for name, one in state.budgets.items() if one.budget.price > 0.0},
        closed=state.closed,
        bonus={arm: value for arm, value in bonus.items() if value != 0.0},
    )


def moved(state: TermsState, published: Allotment) -> bool:
    """Whether the terms are to be published for their own sake: a budget closed or opened, or a price or bonus moved by more than MOVED.

    >>> moved(TermsState(queues={"a": Queue(low=10.0)}, pbar=0.05), Allotment(bonus={"a": 0.0014}))
    False
    """
    now = allotted(state, published)
    if now.closed != published.closed:
        return True
    units = {name: one.unit for name, one in state.budgets.items()}
    pairs = [
        (now.price.get(name, 0.0), published.price.get(name, 0.0), units.get(name, 0.0))
        for name in {*now.price, *published.price}
    ]
    pairs += [
        (now.bonus.get(arm, 0.0), published.bonus.get(arm, 0.0), state.pbar) for arm in {*now.bonus, *published.bonus}
    ]
    return any(abs(new - old) > MOVED * max(abs(old), unit) for new, old, unit in pairs)
