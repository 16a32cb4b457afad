"""Budgets of a policy, step by step: as large as settings and people say, with what ledgers know to be spent, priced and closed.

Budget b in the period of `now_ms`, as of all partitions' ledgers::

    spent_b      all that is known to be spent in the period, by events' own times
    u_b          earned/spent of b in the periods that the ledger keeps: a typical value per cost. Without either the last one, at first 0
    lambda_b     one step of policies/budgets.py with eta = ETA and unit u_b, at most MOST_UNITS u_b: no arm is worth that much more than others
                 Always 0 where `Wanted.pacing` is "none"
    closed       paused, or spent_b >= amount - margin, in this period or in one that the watermark has not reached
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from policies import budgets
from policies.terms import NOTHING_SAID, BudgetControl, Paced, TermsState, Wanted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policies.budgets import Budget
    from policies.ledger import Account, Ledger

MOST_UNITS = 100.0
"""Largest price, in units of a typical value per cost."""


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
        if wanted[name].pacing == "none":
            paced = replace(paced, budget=replace(paced.budget, price=0.0))
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
