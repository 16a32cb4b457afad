"""What the made-up log of tests/oracle.py costs, and what its spending is when one thread adds it up: the truth of the ledgers."""

from __future__ import annotations

import random
from collections import defaultdict

from msgspec.structs import replace

from policies.ledger import Ledger
from streams.events import Impression, Outcome
from tests.oracle import fold

PERIODS = {"spring": 7, "autumn": 3600}
BUDGET = {"ad-0": "spring", "ad-1": "spring", "ad-2": "autumn"}
COST = {"ad-0": 0.25, "ad-2": 0.125}
CLICK_COST = {"ad-0": 0.5, "ad-1": 2.0}
ADS = """
budgets.spring = { amount = 100.0, period_s = 7 }
budgets.autumn = { amount = 1000.0, period_s = 3600 }
ads.ad-0 = { budget = "spring", cost = 0.25, click_cost = 0.5 }
ads.ad-1 = { budget = "spring", click_cost = 2.0 }
ads.ad-2 = { budget = "autumn", cost = 0.125 }
ads.ad-3 = { floor = 0.1 }
"""
"""Settings of the policy: ad-3 draws on nothing, ad-4 is not known."""


def costly(events: list[Impression | Outcome], *, seed: int = 0) -> list[Impression | Outcome]:
    """The events, of which a third say what they cost; copies say the same."""
    rng = random.Random(seed)
    chosen: dict[tuple[str, ...], float | None] = {}

    def cost(event: Impression | Outcome) -> float | None:
        name = (event.decision_id, event.slot, "" if isinstance(event, Impression) else event.outcome_id)
        if name not in chosen:
            chosen[name] = rng.choice([0.0, 0.375, 3.0]) if rng.random() < 1 / 3 else None
        return chosen[name]

    return [replace(event, cost=cost(event)) for event in events]


def spending(events: list[Impression | Outcome]) -> tuple[dict[str, dict[int, float]], dict[str, int]]:
    """What was spent by budget and period, and how often each arm was shown, by set semantics."""
    counted = fold(events)[1]
    shown: dict[tuple[str, str], Impression] = {}
    outcomes: dict[tuple[str, str, str], Outcome] = {}
    for event in events:
        if isinstance(event, Impression):
            shown.setdefault((event.decision_id, event.slot), event)
        else:
            outcomes.setdefault((event.decision_id, event.slot, event.outcome_id), event)
    spent: dict[str, dict[int, float]] = {budget: defaultdict(float) for budget in PERIODS}
    times: dict[str, int] = defaultdict(int)

    def charge(arm: str, ts: int, said: float | None, else_: float) -> None:
        if arm in BUDGET:
            budget = BUDGET[arm]
            spent[budget][ts // (1000 * PERIODS[budget])] += else_ if said is None else said

    for one in shown.values():
        times[one.arm] += 1
        charge(one.arm, one.ts, one.cost, COST.get(one.arm, 0.0))
    for key in counted:
        arm, click = shown[key[:2]].arm, outcomes[key]
        charge(arm, click.ts, click.cost, CLICK_COST.get(arm, 0.0) if click.kind == "click" else 0.0)
    return {budget: {n: c for n, c in of.items() if c} for budget, of in spent.items()}, dict(times)


def told(ledger: Ledger) -> tuple[dict[str, dict[int, float]], dict[str, int]]:
    """The same of a ledger; arms that the settings do not know come as the rest."""
    spent = {budget: {n: c for n, c in account.spent.items() if c} for budget, account in ledger.accounts.items()}
    return spent, {**ledger.shown, "ad-4": ledger.impressions - sum(ledger.shown.values())}
