"""From what a ledger says to the terms that a snapshot publishes: prices, closed budgets and bonuses, step by step at event time.

Budget b in the period of `now_ms`, as of all partitions' ledgers::

    spent_b      all that is known to be spent in the period, by events' own times
    u_b          earned/spent of b in the periods that the ledger keeps: a typical value per cost. Without either the last one, at first 0
    lambda_b     one step of policies/budgets.py with eta = ETA and unit u_b, at most MOST_UNITS u_b: no arm is worth that much more than others
    closed       paused, or spent_b >= amount - margin, in this period or in one that the watermark has not reached

Arms a with a floor or a ceiling: queues in impressions, L_a <- max(0, L_a + f_a n - shown_a) and H_a alike (policies/exposure.py), of which an
arm's bonus is eta pbar (L_a - H_a); pbar, the mean value of a shown slot, is earned/impressions of the ledger. The queue of an arm that
cannot be shown, hidden or of a closed budget, stands still; none exceeds MOST_MISSING.

The state goes from step to step, and from one leader to the next in its record (policies/terms_records.py): what it is told are totals, so
a step that was lost adds up in the next.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from policies import budgets
from policies.allotment import NO_ALLOTMENT, Allotment
from policies.budgets import Budget
from policies.exposure import ETA as BONUS
from policies.exposure import Exposure, counted

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from policies.ledger import Account, Ledger

MOST_UNITS = 100.0
"""Largest price, in units of a typical value per cost."""
MOST_MISSING = 100.0 / BONUS
"""Longest queue in impressions: a bonus of 100 times the mean value of a slot, which wins any slot."""
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
    """What the settings say of a budget; see `policies.budgets.Budget`."""

    amount: float
    period_s: float
    anchor_ms: int = 0
    margin: float = 0.0


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


def heeded(
    state: TermsState, wanted: Mapping[str, Wanted], said: Mapping[str, BudgetControl], *, now_ms: int
) -> tuple[TermsState, tuple[str, ...]]:
    """With the budgets of the settings, as large as was said last, and in words what that changed; `now_ms` as for `stepped`.

    >>> spring = {"spring": Wanted(amount=100.0, period_s=60.0)}
    >>> start, _ = heeded(TermsState(), spring, {}, now_ms=0)
    >>> heeded(start, spring, {"spring": BudgetControl(amount=150.0, reason="sales")}, now_ms=9)[1]
    ('budget spring raised from 100 to 150: sales',)
    """
    after: dict[str, Paced] = {}
    reasons: list[str] = []
    for name, one in wanted.items():
        told = said.get(name, NOTHING_SAID)
        amount = one.amount if told.amount is None else told.amount
        before = state.budgets.get(name)
        if before is None or (before.budget.period_s, before.budget.anchor_ms) != (one.period_s, one.anchor_ms):
            fresh = budgets.budget(amount, period_s=one.period_s, anchor_ms=one.anchor_ms, now_ms=now_ms)
            start = round(one.anchor_ms + fresh.period * one.period_s * 1000.0)
            before = Paced(budget=replace(fresh, stepped_ms=start))
        reasons += _words(name, before.budget, amount, told)
        after[name] = replace(
            before,
            budget=budgets.changed(before.budget, amount=amount, paused=told.paused),
            is_closed=before.is_closed if told.paused == before.budget.paused else told.paused,
        )
    return replace(state, budgets=after), tuple(reasons)


def _words(name: str, before: Budget, amount: float, told: BudgetControl) -> list[str]:
    why = f": {told.reason}" if told.reason else ""
    changes = []
    if amount != before.amount:
        verb = "raised" if amount > before.amount else "lowered"
        changes.append(f"budget {name} {verb} from {before.amount:.12g} to {amount:.12g}{why}")
    if told.paused != before.paused:
        changes.append(f"budget {name} {'paused' if told.paused else 'resumed'}{why}")
    return changes


def stepped(
    state: TermsState, ledger: Ledger, wanted: Mapping[str, Wanted], *, now_ms: int
) -> tuple[TermsState, tuple[str, ...]]:
    """Budgets after a step at event time `now_ms`, with all that the ledger knows, and in words which closed or opened.

    Args:
        state: with every budget that is wanted; see `heeded`.
        ledger: merged over partitions.
        wanted: the settings' budgets.
        now_ms: ms UTC; 0 while nothing was seen, which steps no price.
    """
    after: dict[str, Paced] = {}
    reasons: list[str] = []
    for name, one in state.budgets.items():
        account = ledger.accounts.get(name)
        paced = one if now_ms <= 0 else _step(one, account, now_ms)
        there = _ahead(paced.budget, account)
        is_closed = not all(
            budgets.is_open(budget, now_ms=now_ms, margin=wanted[name].margin) for budget in (paced.budget, there)
        )
        after[name] = replace(paced, is_closed=is_closed)
        if is_closed != one.is_closed:
            told = f"{there.spent:.6g} of {there.amount:.12g} spent in period {there.period}"
            reasons.append(f"budget {name} {'closed' if is_closed else 'opened'}: {told}")
    return replace(state, budgets=after), tuple(reasons)


def _ahead(budget: Budget, account: Account | None) -> Budget:
    """The budget in the period of which most is spent, of the present one and those that the watermark has not reached."""
    later = {} if account is None else {n: cost for n, cost in account.spent.items() if n > budget.period}
    most = max(later, key=lambda n: later[n], default=budget.period)
    return budget if later.get(most, 0.0) <= budget.spent else replace(budget, period=most, spent=later[most])


def _step(one: Paced, account: Account | None, now_ms: int) -> Paced:
    budget = one.budget
    if account is None:
        return replace(one, budget=budgets.stepped(budget, now_ms=now_ms, unit=one.unit))
    late, overspent = _ended(one, account, now_ms)
    there = budgets.rolled(budget, now_ms=now_ms)
    spent = account.spent.get(there.period, 0.0)
    there = replace(there, spent=spent, recent=there.recent + spent - there.spent, late=budget.late + late)
    kept_spent, kept_earned = sum(account.spent.values()), sum(account.earned.values())
    unit = kept_earned / kept_spent if kept_spent > 0.0 and kept_earned > 0.0 else one.unit
    there = budgets.stepped(there, now_ms=now_ms, unit=unit)
    return replace(
        one,
        budget=replace(there, price=min(there.price, MOST_UNITS * unit)),
        unit=unit,
        earlier=_before(account, there.period),
        overspent=one.overspent + overspent,
    )


def _ended(one: Paced, account: Account, now_ms: int) -> tuple[float, float]:
    """What came for periods that were over at the last step, and what the period of the last step was overspent by if it has ended since."""
    budget = one.budget
    newest = max((*account.spent, *account.earned), default=budget.period)
    is_known = budget.period >= newest - account.period.kept
    late = _before(account, budget.period) - one.earlier if is_known and one.earlier is not None else 0.0
    if not is_known or budgets.rolled(budget, now_ms=now_ms).period == budget.period:
        return late, 0.0
    return late, max(account.spent.get(budget.period, 0.0) - budget.amount, 0.0)


def _before(account: Account, period: int) -> float:
    """What was spent in the periods before this one."""
    return account.spent_before + sum(cost for number, cost in account.spent.items() if number < period)


def queued(
    state: TermsState,
    ledger: Ledger,
    shares: Mapping[str, tuple[float, float]],
    *,
    standing: Collection[str] = (),
) -> TermsState:
    """Queues after what the ledger says was shown since the last step.

    Args:
        state: as of the last step.
        ledger: merged over partitions.
        shares: floor and ceiling of every arm that has one of them.
        standing: arms that cannot be shown now, whose queues stand still.
    """
    before = {arm: state.queues.get(arm, Queue(shown=ledger.shown.get(arm, 0))) for arm in shares}
    n = ledger.impressions - (ledger.impressions if state.impressions is None else state.impressions)
    counts = np.array([ledger.shown.get(arm, 0) - one.shown for arm, one in before.items()], float)
    is_step = n > 0 and bool((counts >= 0.0).all()) and counts.sum() <= n  # else the ledger began anew
    exposure = Exposure(
        floor=np.array([floor for floor, _ in shares.values()] + [0.0]),
        ceiling=np.array([ceiling for _, ceiling in shares.values()] + [1.0]),
        low=np.array([one.low for one in before.values()] + [0.0]),
        high=np.array([one.high for one in before.values()] + [0.0]),
    )
    if is_step:
        exposure = counted(exposure, np.append(counts, n - counts.sum()), pbar=1.0, eta=1.0)
    lows, highs = np.minimum(exposure.low, MOST_MISSING).tolist(), np.minimum(exposure.high, MOST_MISSING).tolist()
    queues = {
        arm: Queue(
            low=one.low if arm in standing else lows[i],
            high=one.high if arm in standing else highs[i],
            shown=ledger.shown.get(arm, 0),
        )
        for i, (arm, one) in enumerate(before.items())
    }
    pbar = ledger.earned / ledger.impressions if ledger.impressions and ledger.earned > 0.0 else state.pbar
    return replace(state, queues=queues, impressions=ledger.impressions, pbar=pbar)


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
