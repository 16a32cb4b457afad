"""One policy's budgets and exposure while its publisher leads: ledgers in, published terms out, and their state in the same transaction.

State and snapshot are written together, or the state alone where no snapshot is due. A step that a crash loses is made up for by the next
one: ledgers say totals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.budget_steps import heeded, stepped
from policies.queues import queued
from policies.terms import TermsState, Wanted, allotted, moved
from policies.terms_records import KIND, decode_terms, encode_terms, terms_key
from streams.messages import Message

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from policies.allotment import Allotment
    from policies.ledger import Ledger
    from policies.terms import BudgetControl
    from streams.metrics import Metrics
    from streams.settings_slots import SlotPolicy

MOST_LABELLED = 100
"""Budgets of a policy that metrics tell of, the first by name: `clickloop budget list` tells of all."""
MOST_TOLD = 20
"""Changes of budgets that one snapshot tells in words."""
GAUGES = ("budget_amount", "budget_spent", "budget_overspent", "budget_late", "budget_price")


class PolicyTerms:
    """Budgets and queues of one policy."""

    def __init__(self, name: str, policy: SlotPolicy) -> None:
        self.name = name
        self.state = TermsState()
        self.reasons: tuple[str, ...] = ()
        """Of what changed since the last snapshot, in words."""
        self._wanted = wanted(policy)
        self._shares = {
            arm: (ad.floor, ad.ceiling) for arm, ad in policy.ads.items() if ad.floor > 0.0 or ad.ceiling < 1.0
        }
        self._drawing = {arm: ad.budget for arm, ad in policy.ads.items() if ad.budget is not None}
        self._stepped = False

    @property
    def follows(self) -> bool:
        """Whether it needs the ledgers."""
        return bool(self._wanted or self._shares)

    def restore(self, records: Mapping[tuple[str | None, str], bytes]) -> None:
        """Begin with what was written, by arm and kind; without a record, anew. Raises RecordError."""
        value = records.get((None, KIND))
        self.state = TermsState() if value is None else decode_terms(value)
        self.reasons, self._stepped = (), False

    def step(
        self, ledger: Ledger, said: Mapping[str, BudgetControl], *, now_ms: int, hidden: Collection[str] = ()
    ) -> None:
        """Take what was spent and shown until now, ms UTC of event time, and what was said. ``hidden``: arms that are not shown."""
        state, told = heeded(self.state, self._wanted, said, now_ms=now_ms)
        state, changed = stepped(state, ledger, self._wanted, now_ms=now_ms)
        closed = {arm for arm, budget in self._drawing.items() if budget in state.closed}
        state = queued(state, ledger, self._shares, standing={*hidden, *closed})
        self._stepped = self._stepped or state != self.state
        self.state = state
        self.reasons = _some((*self.reasons, *told, *changed))

    def allotment(self, before: Allotment) -> Allotment:
        """The terms of the next snapshot; what they do not say is as before."""
        return allotted(self.state, before)

    def moved(self, published: Allotment) -> bool:
        """Whether there is something to publish for its own sake."""
        return bool(self.reasons) or moved(self.state, published)

    def messages(self) -> list[Message]:
        """The state's record, if it moved since the last call of `written`."""
        return [Message("policies", terms_key(self.name), encode_terms(self.name, self.state))] if self._stepped else []

    def written(self, *, published: bool) -> None:
        """What `messages` gave is committed, with a snapshot that tells the reasons or without one."""
        self._stepped = False
        if published:
            self.reasons = ()

    def measure(self, metrics: Metrics) -> None:
        """Set the gauges of the first budgets."""
        for name in sorted(self.state.budgets)[:MOST_LABELLED]:
            one = self.state.budgets[name]
            values = (one.budget.amount, one.budget.spent, one.all_overspent, one.budget.late, one.budget.price)
            for gauge, value in zip(GAUGES, values, strict=True):
                getattr(metrics, gauge).labels(policy=self.name, budget=name).set(value)


def silence(metrics: Metrics) -> None:
    """Tell nothing of budgets: another process leads."""
    for gauge in GAUGES:
        getattr(metrics, gauge).clear()


def wanted(policy: SlotPolicy) -> dict[str, Wanted]:
    """What the settings say of every budget."""
    return {
        name: Wanted(
            amount=one.amount,
            period_s=one.period_s,
            anchor_ms=one.anchor_ms,
            margin=one.margin,
            pacing=one.pacing,
        )
        for name, one in policy.budgets.items()
    }


def _some(reasons: tuple[str, ...]) -> tuple[str, ...]:
    left = len(reasons) - MOST_TOLD
    return reasons if left <= 0 else (*reasons[:MOST_TOLD], f"and {left} more changes of budgets")
