"""What the demo with slots shows: a table that lives while it runs, and the end's tables, paced and unpaced side by side."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WIDTH = 20
"""Characters of a bar."""


@dataclass(slots=True, kw_only=True)
class Status:
    """What is known at one moment; by policy, then by budget or slot; None where nothing is known yet."""

    elapsed_s: float = 0.0
    seconds: float = 0.0
    number: int = 0
    passed: float = 0.0
    events: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    amounts: Mapping[str, float] = field(default_factory=dict)
    spent: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    price: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    closed: Mapping[str, frozenset[str]] = field(default_factory=dict)
    value: Mapping[str, float | None] = field(default_factory=dict)
    effects: Mapping[str, float] = field(default_factory=dict)
    found: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    trouble: str = ""


def bar(share: float, width: int = WIDTH) -> str:
    """A share from 0 to 1 as a bar; more is a full one.

    >>> bar(0.5, width=8), bar(2.0, width=3)
    ('████····', '███')
    """
    full = round(width * min(max(share, 0.0), 1.0))
    return "█" * full + "·" * (width - full)


def table(status: Status) -> Table:
    """The live table: each budget's spending by the learners' ledgers against the part of the period that has passed."""
    title = f"clickloop demo --slots: {status.elapsed_s:.0f} of {status.seconds:.0f} s (Ctrl-C ends it)"
    grid = Table(title=title, title_justify="left", min_width=76)
    grid.add_column("")
    for policy in status.spent:
        grid.add_column(policy, min_width=WIDTH + 16)
    grid.add_row(
        f"period {status.number + 1}", *[f"{bar(status.passed)} {status.passed:.0%} passed"] * len(status.spent)
    )
    for name, amount in status.amounts.items():
        grid.add_row(name, *[_spending(status, policy, name, amount) for policy in status.spent])
    grid.add_row("value a page", *[_number(status.value.get(policy)) for policy in status.spent])
    for slot, effect in status.effects.items():
        known = [_number(status.found.get(policy, {}).get(slot), 2) for policy in status.spent]
        grid.add_row(f"effect of {slot}", *[f"{one} found, {effect:g} true" for one in known])
    clicks = "  ".join(f"{name} {status.counts.get(name, 0):,}" for name in ("joined", "late", "dead"))
    grid.caption = f"{status.events:,} events in; clicks: {clicks}   {status.trouble}".rstrip()
    return grid


def _spending(status: Status, policy: str, name: str, amount: float) -> str:
    share = status.spent[policy].get(name, 0.0) / amount
    if name in status.closed.get(policy, ()):
        return f"[red]{bar(share)}[/] {share:.0%} closed"
    return f"[cyan]{bar(share)}[/] {share:.0%} price {status.price.get(policy, {}).get(name, 0.0):.2f}"


def summary(report: Mapping[str, Any]) -> Group:
    """The end: spending and value of the last period, and what was found of the slots, as in JSON."""
    policies = report["policies"]
    last = {policy: one["periods"][-1] for policy, one in policies.items()}
    money = Table(title="spending in the last period", title_justify="left", min_width=76)
    for head in (
        "campaign",
        "policy",
        "amount",
        "spent",
        "in the first half",
        "ran out after",
        "over",
        "by the ledger",
    ):
        money.add_column(head)
    for name in next(iter(last.values()))["budgets"]:
        for policy, one in last.items():
            money.add_row(name, policy, *_row(one["budgets"][name]))
    worth = Table(title="value a page, clicks times what they are worth", title_justify="left", min_width=76)
    for head in (
        "policy",
        *(f"period {i + 1}" for i in range(len(policies[next(iter(last))]["periods"]))),
        "by clicks",
    ):
        worth.add_column(head)
    worth.add_column("last quarter")
    for policy, one in policies.items():
        values = [_number(each["value"]) for each in one["periods"]]
        worth.add_row(policy, *values, _number(last[policy]["value_clicks"]), _number(last[policy]["late_value"]))
    return Group(money, worth, _effects(report), _totals(report))


def _row(budget: Mapping[str, Any]) -> Sequence[str]:
    first, gone = budget["first_half"], budget["ran_out"]
    return (
        f"{budget['amount']:,.2f}",
        f"{budget['spent']:,.2f}",
        "-" if first is None else f"{first:.0%}",
        "-" if gone is None else f"{gone:.0%} of it",
        f"{budget['overspent']:.2f}",
        f"{budget['ledger']:,.2f}",
    )


def _effects(report: Mapping[str, Any]) -> Table:
    grid = Table(title="position effects: click rate against the top slot's", title_justify="left", min_width=76)
    for head in ("slot", "true", *report["policies"]):
        grid.add_column(head)
    for slot, effect in report["effects"].items():
        found = [_number(one["effects"].get(slot), 2) for one in report["policies"].values()]
        grid.add_row(slot, f"{effect:g}", *found)
    return grid


def _totals(report: Mapping[str, Any]) -> str:
    gain = report["gain"]
    told = "" if gain is None else f"Pacing brought {gain:+.1%} value in the last period.\n"
    counts = ", ".join(f"{report[name]:,} {name}" for name in ("joined", "late", "unmatched", "dead"))
    where = "" if report["plot"] is None else f"\npicture: {report['plot']}"
    return f"{told}{report['pages']:,} pages, {report['impressions']:,} impressions, {report['clicks']:,} clicks: {counts}{where}"


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
