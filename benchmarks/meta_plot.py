"""The picture of benchmarks/meta.py: a panel for each environment, mean cumulative regrets over seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.meta_kept import Curves

OURS = "#0b6e99"
OTHERS = ("#e07b00", "#2a9d3f", "#b5179e", "#c1121f", "#6d597a", "#8a6d3b", "#577590", "#3d405b", "#b5b200", "#00a6a6")


def draw(path: Path, curves: Curves, *, rounds: int, hindsight: Mapping[str, Sequence[str]]) -> None:
    """Write the picture as PNG; of the systems in `hindsight` only the best of each kind. It needs matplotlib.

    Args:
        path: where to.
        curves: see `Curves`.
        rounds: where they end.
        hindsight: by kind, the systems of which the best is drawn.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = {name: systems for name, systems in curves.items() if systems}
    columns = min(3, max(1, len(panels)))
    figure = Figure(figsize=(5.2 * columns, 3.9 * -(-max(1, len(panels)) // columns)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(-(-max(1, len(panels)) // columns), columns, squeeze=False).ravel()
    for axis, (environment, systems) in zip(axes, panels.items(), strict=False):
        _panel(axis, environment, shown(systems, hindsight), rounds)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.savefig(path, dpi=90, format="png")


def shown(
    systems: Mapping[str, Sequence[Sequence[float]]], hindsight: Mapping[str, Sequence[str]]
) -> dict[str, Sequence[Sequence[float]]]:
    """The systems of a panel: all but those in hindsight, and of these the best of each kind under the kind's name.

    >>> sorted(shown({"a": [[1.0]], "b": [[0.0]], "c": [[1.0]]}, {"best": ["a", "b"]}))
    ['best: b', 'c']
    """
    several = {name for names in hindsight.values() for name in names}
    found = {name: each for name, each in systems.items() if name not in several}
    for kind, names in hindsight.items():
        measured = [name for name in names if name in systems]
        if measured:
            best = min(measured, key=lambda name: float(np.mean([one[-1] for one in systems[name]])))
            found[f"{kind}: {best}"] = systems[best]
    return found


def _panel(axes: Any, environment: str, systems: Mapping[str, Sequence[Sequence[float]]], rounds: int) -> None:
    ordered = sorted(systems.items(), key=lambda item: -float(np.mean([one[-1] for one in item[1]])))
    for i, (name, each) in enumerate(ordered):
        mean = np.mean(np.array(each), axis=0)
        mine = name == "clickloop"
        axes.plot(
            np.linspace(1, rounds, len(mean)),
            mean,
            label=f"{name}: {mean[-1]:,.0f}",
            color=OURS if mine else OTHERS[i % len(OTHERS)],
            linewidth=2.4 if mine else 1.2,
        )
    seeds = sorted({len(each) for each in systems.values()})
    axes.set_title(
        f"{environment}: means over {' to '.join(map(str, seeds[:: max(1, len(seeds) - 1)]))} seeds", fontsize=10
    )
    axes.set_xlabel("round")
    axes.set_ylabel("cumulative regret")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend(loc="upper left", frameon=False, fontsize=7)
