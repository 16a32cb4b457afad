"""What ``clickloop budget`` does: a new last word on a budget, made from the one before, and how the budgets stand."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from policies.terms import NOTHING_SAID, BudgetControl, Paced, TermsState
from policies.terms_records import KIND, decode_terms
from streams.controls import budget_key, encode_budget, read_said, write_records
from streams.events import LARGEST
from streams.policy_terms import wanted
from streams.published import read_published
from streams.settings_policy import UnknownPolicyError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policies.terms import Wanted
    from streams.settings import Settings


class BudgetRefused(ValueError):  # noqa: N818 - reads as what it says
    """What was asked for makes no sense for this budget."""

    retriable = False


def say(
    settings: Settings, policy: str, verb: str, budget: str, *, amount: float | None = None, reason: str = ""
) -> dict[str, Any]:
    """Write what a verb makes of a budget, and return the budget's row of `listed`.

    Args:
        settings: with the policy.
        policy: its name.
        verb: "set", "pause" or "resume".
        budget: its name.
        amount: what may be spent in a period, for "set"; None goes back to what the settings say.
        reason: in words; it comes with the snapshot.

    Raises:
        UnknownPolicyError: the settings have no such policy.
        BudgetRefused: the policy has no such budget, or the amount is none.
    """
    of = _wanted(settings, policy)
    if budget not in of:
        raise BudgetRefused(f"policy {policy!r} has no budget {budget!r}; there are: {', '.join(sorted(of)) or 'none'}")
    said = read_said(settings).budgets.get(policy, {})
    word = words(said.get(budget, NOTHING_SAID), verb, amount=amount, reason=reason, time_ms=int(time.time() * 1000))
    write_records(settings, [(budget_key(policy, budget), encode_budget(word))])
    return _row(budget, of[budget], word, _state(settings, policy).budgets.get(budget))


def words(
    before: BudgetControl, verb: str, *, amount: float | None = None, reason: str = "", time_ms: int
) -> BudgetControl:
    """The new last word. Raises BudgetRefused.

    >>> words(BudgetControl(amount=5.0), "pause", time_ms=7).amount
    5.0
    >>> words(NOTHING_SAID, "set", amount=-1.0, time_ms=7)
    Traceback (most recent call last):
    streams.budgets.BudgetRefused: amount is -1.0; allowed: 0 to 1e+30. To spend nothing, pause the budget
    """
    if amount is not None and not 0.0 <= amount <= LARGEST:
        raise BudgetRefused(f"amount is {amount}; allowed: 0 to {LARGEST:g}. To spend nothing, pause the budget")
    after = {
        "set": replace(before, amount=amount),
        "pause": replace(before, paused=True),
        "resume": replace(before, paused=False),
    }[verb]
    return replace(after, reason=reason, time_ms=time_ms)


def listed(settings: Settings, policy: str) -> list[dict[str, Any]]:
    """How each budget of the settings stands: what was said of it, and what the publisher wrote last (at most 5 s ago)."""
    of = _wanted(settings, policy)
    said, state = read_said(settings).budgets.get(policy, {}), _state(settings, policy)
    return [_row(name, of[name], said.get(name, NOTHING_SAID), state.budgets.get(name)) for name in sorted(of)]


def _wanted(settings: Settings, policy: str) -> Mapping[str, Wanted]:
    if policy not in settings.policies:
        raise UnknownPolicyError(policy, known=settings.policies)
    return wanted(settings.policies[policy])


def _state(settings: Settings, policy: str) -> TermsState:
    value = read_published(settings)[1].get(policy, {}).get((None, KIND))
    return TermsState() if value is None else decode_terms(value)


def _row(name: str, one: Wanted, said: BudgetControl, known: Paced | None) -> dict[str, Any]:
    amount = one.amount if said.amount is None else said.amount
    row: dict[str, Any] = {"budget": name, "state": "paused" if said.paused else "open", "amount": amount}
    row |= dict.fromkeys(("spent", "left", "price", "overspent", "late", "period_ends_ms"))
    if known is not None:
        there = known.budget
        row["state"] = "paused" if said.paused else "spent" if known.is_closed and not there.paused else "open"
        row |= {"spent": there.spent, "left": amount - there.spent, "price": there.price, "late": there.late}
        row |= {"overspent": known.all_overspent, "period_ends_ms": round(there.ends_ms)}
    return {**row, "reason": said.reason}
