"""The picture of regret curves: one line for each system, the mean over seeds, in a band from the least to the most."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from policies.batch import FloatArray

POINTS = 400
"""Rounds that a curve is drawn through."""
OURS, OTHERS = "#0b6e99", ("#e07b00", "#2a9d3f", "#b5179e", "#c1121f", "#6d597a", "#8a6d3b", "#577590", "#3d405b")


def draw(path: Path, curves: Mapping[str, Sequence[FloatArray]], *, world: str) -> None:
    """Write the picture as PNG. It needs matplotlib, of the extra `local`.

    Args:
        path: where to.
        curves: by system, one for each seed: (rounds,) cumulative regret. Clickloop's is drawn thicker.
        world: its name, for the title.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    colours = cycle(OTHERS)
    for system, each in sorted(curves.items(), key=lambda item: -float(np.mean([one[-1] for one in item[1]]))):
        mine = system == "clickloop"
        _draw_system(axes, system, np.array(each), colour=OURS if mine else next(colours), width=2.6 if mine else 1.4)
    seeds = max(len(each) for each in curves.values())
    axes.set_title(
        f"World {world}, " + (f"{seeds} seeds: mean, least and most" if seeds > 1 else "1 seed"), fontsize=11
    )
    axes.set_xlabel("round")
    axes.set_ylabel("cumulative regret (expected clicks lost)")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend(loc="upper left", frameon=False, fontsize=9)
    figure.savefig(path, dpi=100, format="png")


def _draw_system(axes: Any, system: str, each: FloatArray, *, colour: str, width: float) -> None:
    """One line and its band; each (seeds, rounds)."""
    at = np.unique(np.linspace(0, each.shape[1] - 1, POINTS).astype(np.intp))
    mean = each[:, at].mean(axis=0)
    axes.plot(at + 1, mean, label=f"{system}: {mean[-1]:,.0f}", color=colour, linewidth=width)
    axes.fill_between(at + 1, each[:, at].min(axis=0), each[:, at].max(axis=0), color=colour, alpha=0.15, linewidth=0)
