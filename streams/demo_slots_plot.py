"""The picture of the demo with slots: each budget's spending, prices, value and position effects, with pacing and without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from streams.demo_plot import require_matplotlib
from streams.demo_slots_run import PACED, PERIODS, UNPACED
from streams.spending import costs, value

if TYPE_CHECKING:
    from pathlib import Path

    from streams.demo_slots_run import SlotsRun
    from streams.simulation import FloatArray

BINS = 40
COLOURS = {PACED: "#0b6e99", UNPACED: "#d1495b"}
_EVEN = "#9a9a9a"


def draw(path: Path, run: SlotsRun, *, title: str) -> None:
    """Write the picture as PNG. Raises PlotError without matplotlib."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(11, 2.6 * (len(run.amounts) + 3)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13)
    grid = figure.add_gridspec(len(run.amounts) + 3, 1)
    first = figure.add_subplot(grid[0])
    rows = [first, *(figure.add_subplot(grid[i], sharex=first) for i in range(1, len(run.amounts) + 2))]
    for axes, (name, amount) in zip(rows, run.amounts.items(), strict=False):
        _draw_spending(axes, run, name, amount)
    _draw_prices(rows[-2], run)
    _draw_value(rows[-1], run)
    _draw_effects(figure.add_subplot(grid[-1]), run)
    for axes in rows:
        axes.grid(alpha=0.25)
        axes.set_ylim(bottom=0)
        for number in range(1, PERIODS):
            axes.axvline(number * run.period_s, color="black", linewidth=0.8, linestyle=":")
    rows[-1].set_xlabel("event time since the traffic began (s); a period ends at the dotted line")
    rows[-1].set_xlim(0, run.seconds)
    figure.savefig(path, dpi=110, format="png")


def _draw_spending(axes: Any, run: SlotsRun, name: str, amount: float) -> None:
    for number in range(PERIODS):
        edges = np.array([number, number + 1]) * run.period_s
        axes.plot(edges, [0, amount], color=_EVEN, linestyle="--", label="evenly" if number == 0 else None)
        for policy, colour in COLOURS.items():
            time_s, total = spent_over(run, policy, name, number)
            axes.step(time_s, total, where="post", color=colour, linewidth=2, label=policy if number == 0 else None)
            over = total[-1] - amount
            if over > 0.0:
                axes.annotate(
                    f"{over:.2f} over",
                    (time_s[-1], total[-1]),
                    (-4, 5 if policy == UNPACED else -26),
                    textcoords="offset points",
                    ha="right",
                    color=colour,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
                )
    axes.axhline(amount, color="black", linewidth=0.8)
    axes.set_ylabel(f"{name}:\nspent of {amount:,.2f}")
    axes.margins(y=0.15)
    axes.legend(loc="lower right", ncols=3)


def spent_over(run: SlotsRun, policy: str, name: str, number: int) -> tuple[FloatArray, FloatArray]:
    """Seconds since the start, and what a budget had spent in a period until then, from the period's start to its end."""
    start_s, end_s = number * run.period_s, (number + 1) * run.period_s
    mine = costs(run.market, run.server.pages(policy), name)
    mine = mine.within(run.start_ms + 1000 * start_s, run.start_ms + 1000 * end_s)
    until_s = min(end_s, max(run.server.elapsed_s, start_s))
    total = np.cumsum(mine.cost)
    last = total[-1] if len(total) else 0.0
    return np.array([start_s, *((mine.ts - run.start_ms) / 1000), until_s]), np.array([0.0, *total, last])


def _draw_prices(axes: Any, run: SlotsRun) -> None:
    told = run.told[PACED]
    for name in run.amounts:
        prices = [each.get(name, 0.0) for each in told.price]
        axes.step(told.time_s, prices, where="post", linewidth=2, label=name)
    axes.set_ylabel("published price\n(value per cost)")
    axes.legend(loc="upper right", ncols=2, title="paced")


def _draw_value(axes: Any, run: SlotsRun) -> None:
    edges = np.linspace(0, run.seconds, BINS + 1)
    for policy, colour in COLOURS.items():
        pages = run.server.pages(policy)
        expected, _ = value(run.market, pages)
        time_s = (pages.ts - run.start_ms) / 1000
        count, _ = np.histogram(time_s, edges)
        sums, _ = np.histogram(time_s, edges, weights=expected)
        there = count > 0
        axes.plot(
            ((edges[:-1] + edges[1:]) / 2)[there], sums[there] / count[there], color=colour, linewidth=2, label=policy
        )
    axes.set_ylabel("expected value\na page")
    axes.legend(loc="lower left", ncols=2, frameon=False)


def _draw_effects(axes: Any, run: SlotsRun) -> None:
    slots = np.arange(len(run.market.slots))
    axes.bar(slots - 0.25, run.market.kappa, 0.25, color=_EVEN, label="true")
    for i, (policy, colour) in enumerate(COLOURS.items()):
        found = [run.told[policy].kappa.get(slot, np.nan) for slot in run.market.slots]
        bars = axes.bar(slots + 0.25 * i, found, 0.25, color=colour, label=f"found, {policy}")
        axes.bar_label(bars, fmt="%.2f")
    axes.set_xticks(slots, run.market.slots)
    axes.set_ylabel("click rate against\nthe first slot's")
    axes.margins(y=0.15)
    axes.legend(loc="upper right", frameon=False)
