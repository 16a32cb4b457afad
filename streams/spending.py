"""What shown pages cost and brought by campaign and period: the demo's own account, to be compared with the learner's ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from streams.pages import EMPTY, NO_CLICK

if TYPE_CHECKING:
    from streams.market import Market
    from streams.pages import IntArray, Pages
    from streams.simulation import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """m costs in the order of their event times.

    Attributes:
        ts: (m,) ms UTC.
        cost: (m,) what each was.
    """

    ts: IntArray
    cost: FloatArray

    def within(self, start_ms: float, end_ms: float) -> Costs:
        """Those from start to end, the end exclusive."""
        there = slice(*np.searchsorted(self.ts, [start_ms, end_ms]).tolist())
        return Costs(ts=self.ts[there], cost=self.cost[there])

    @property
    def total(self) -> float:
        """Their sum."""
        return float(self.cost.sum())


def costs(market: Market, pages: Pages, campaign: str) -> Costs:
    """What a campaign was charged: impressions at the page's time, clicks at their own."""
    mine = np.array([*(one.name == campaign for one in market.campaign_of), False])[pages.arm]
    each = np.array([*market.terms("cost"), 0.0])[pages.arm]
    followed = mine & (pages.delay_ms != NO_CLICK)
    click = np.array([*market.terms("click_cost"), 0.0])[pages.arm]
    page_ts = np.broadcast_to(pages.ts[:, None], pages.arm.shape)
    ts = np.concatenate([page_ts[mine], (page_ts + pages.delay_ms)[followed]])
    cost = np.concatenate([each[mine], click[followed]])
    order, charged = np.argsort(ts, kind="stable"), cost > 0.0
    order = order[charged[order]]
    return Costs(ts=ts[order], cost=cost[order])


def value(market: Market, pages: Pages) -> tuple[FloatArray, FloatArray]:
    """(n,) worth of each page: expected by the click probabilities of what it showed, and of its clicks."""
    worth = np.array([*market.terms("value"), 0.0])[pages.arm]
    return (worth * pages.chance).sum(axis=1), (worth * (pages.delay_ms != NO_CLICK)).sum(axis=1)


def period(
    market: Market, pages: Pages, amounts: dict[str, float], *, start_ms: float, end_ms: float
) -> dict[str, Any]:
    """One period of one policy, as the report has it.

    Returns:
        ``value`` and ``value_clicks`` a page, ``late_value`` in the last quarter, ``clicks`` and ``pages``, and of each budget ``spent``,
        ``first_half`` (share of what was spent that was spent in the first half), ``overspent`` and ``ran_out`` (share of the period
        after which the amount was spent, None if it was not).
    """
    there = (pages.ts >= start_ms) & (pages.ts < end_ms)
    late = there & (pages.ts >= end_ms - (end_ms - start_ms) / 4)
    expected, clicked = value(market, pages)
    found: dict[str, Any] = {
        "pages": int(there.sum()),
        "clicks": int((pages.delay_ms[there] != NO_CLICK).sum()),
        "empty": int((pages.arm[there] == EMPTY).sum()),
        "value": _mean(expected[there]),
        "value_clicks": _mean(clicked[there]),
        "late_value": _mean(expected[late]),
        "budgets": {},
    }
    for name, amount in amounts.items():
        mine = costs(market, pages, name).within(start_ms, end_ms)
        half = mine.within(start_ms, (start_ms + end_ms) / 2).total
        gone = np.flatnonzero(np.cumsum(mine.cost) >= amount)
        found["budgets"][name] = {
            "amount": amount,
            "spent": mine.total,
            "first_half": half / mine.total if mine.total else None,
            "overspent": max(mine.total - amount, 0.0),
            "ran_out": float(mine.ts[gone[0]] - start_ms) / (end_ms - start_ms) if gone.size else None,
        }
    return found


def _mean(values: FloatArray) -> float | None:
    return float(values.mean()) if values.size else None
