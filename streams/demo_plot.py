"""The demo's picture: click rate and regret over time against uniform and best, and where the traffic went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from streams.traffic import History

FloatArray = npt.NDArray[np.float64]
BINS = 60
NAMED_ARMS = 8
_CHOSEN, _UNIFORM, _BEST, _FIXED = "#0b6e99", "#9a9a9a", "#2a9d3f", "#d1762a"


class PlotError(RuntimeError):
    """The picture cannot be drawn; the text says why and what to do."""

    retriable = False


def require_matplotlib() -> None:
    """Raise PlotError if matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise PlotError("the picture needs matplotlib; run pip install 'clickloop[local]'") from error


def require_writable(path: Path) -> None:
    """Raise PlotError if no picture can be written there; makes its folder. Asked before a run, not after it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        there = path.exists()
        with path.open("ab"):
            pass
        if not there:
            path.unlink()
    except OSError as error:
        raise PlotError(
            f"the picture cannot be written to {path}: {error.strerror}; choose another place by --plot"
        ) from error


THIN = 0.1


def binned(history: History, bins: int = BINS) -> dict[str, FloatArray]:
    """Means over equal stretches of time: `time_s` (their middles), `chosen`, `uniform`, `best`, `clicked`, each (m,).

    Stretches with fewer decisions than THIN of the usual number are left out, so m <= `bins`: a click of two would be a rate of 50%.
    """
    end_s = float(history.time_s[-1]) if len(history.time_s) else 0.0
    width_s = max(end_s, 1e-9) / bins
    place = np.minimum((history.time_s / width_s).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins).astype(np.float64)
    there = (count > 0) & (count >= THIN * np.median(count[count > 0])) if count.any() else count > 0
    result: dict[str, FloatArray] = {"time_s": np.asarray((np.flatnonzero(there) + 0.5) * width_s, np.float64)}
    for name in ("chosen", "uniform", "best", "clicked"):
        sums = np.bincount(place, weights=getattr(history, name), minlength=bins).astype(np.float64)
        result[name] = sums[there] / count[there]
    return result


def traffic_shares(history: History, arms: int, bins: int = BINS) -> tuple[FloatArray, FloatArray]:
    """Middles of stretches in seconds (m,) and each arm's share of the decisions in them, (arms, m); without the empty ones."""
    end_s = max(float(history.time_s[-1]) if len(history.time_s) else 0.0, 1e-9)
    counts, _, edges = np.histogram2d(
        history.arm, history.time_s, bins=[np.arange(arms + 1) - 0.5, np.linspace(0, end_s, bins + 1)]
    )
    there = counts.any(axis=0)
    shares: FloatArray = counts[:, there] / counts[:, there].sum(axis=0)
    return ((edges[:-1] + edges[1:]) / 2)[there], shares


def draw(
    path: Path,
    history: History,
    *,
    arms: Sequence[str],
    title: str,
    fixed: History | None = None,
    drift_s: float | None = None,
) -> None:
    """Write the picture as PNG. Raises PlotError without matplotlib.

    Args:
        path: where to.
        history: of the policy that tunes itself.
        arms: names.
        title: above the picture.
        fixed: history of the policy without meta-updates.
        drift_s: when the arms changed, None if they did not.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(11, 9), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13)
    rate, regret, traffic = figure.subplots(3, 1, sharex=True, height_ratios=[3, 2, 3])
    _draw_rate(rate, history, fixed)
    _draw_regret(regret, history, fixed)
    _draw_traffic(traffic, history, arms)
    for axes in (rate, regret, traffic) if drift_s is not None else ():
        axes.axvline(drift_s, color="#444444", linestyle="--", linewidth=1)
    traffic.set_xlabel("time since the traffic began (s)")
    figure.savefig(path, dpi=120, format="png")


def _draw_rate(axes: Any, history: History, fixed: History | None) -> None:
    points = binned(history)
    axes.plot(points["time_s"], points["best"], color=_BEST, label="best possible")
    axes.plot(points["time_s"], points["clicked"], ".", color=_CHOSEN, alpha=0.35, label="clicks of the shown arms")
    axes.plot(points["time_s"], points["chosen"], color=_CHOSEN, linewidth=2.2, label="shown arms, expected")
    if fixed is not None:
        beside = binned(fixed)
        axes.plot(beside["time_s"], beside["chosen"], color=_FIXED, label="without meta-updates, expected")
    axes.plot(points["time_s"], points["uniform"], color=_UNIFORM, label="uniform random")
    axes.set_ylabel("click rate (CTR)")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def _draw_regret(axes: Any, history: History, fixed: History | None) -> None:
    step = max(1, len(history.time_s) // 2000)
    lost = np.cumsum(history.best - history.chosen)[::step]
    lost_uniform = np.cumsum(history.best - history.uniform)[::step]
    axes.plot(history.time_s[::step], lost_uniform, color=_UNIFORM, label="uniform random")
    if fixed is not None:
        axes.plot(
            fixed.time_s[::step],
            np.cumsum(fixed.best - fixed.chosen)[::step],
            color=_FIXED,
            label="without meta-updates",
        )
    axes.plot(history.time_s[::step], lost, color=_CHOSEN, linewidth=2.2, label="shown arms")
    axes.set_ylabel("regret (expected clicks\nlost to the best)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend(loc="upper left", frameon=False)


def _draw_traffic(axes: Any, history: History, arms: Sequence[str]) -> None:
    from matplotlib import colormaps

    middles, shares = traffic_shares(history, len(arms))
    order = np.argsort(-shares.sum(axis=1))
    named, others = order[:NAMED_ARMS], order[NAMED_ARMS:]
    layers = [shares[i] for i in named] + ([shares[others].sum(axis=0)] if len(others) else [])
    labels = [arms[i] for i in named] + ([f"{len(others)} others"] if len(others) else [])
    colours = [*(colormaps["tab10"](i) for i in range(len(named))), "#dddddd"]
    axes.stackplot(middles, layers, labels=labels, colors=colours[: len(layers)], linewidth=0)
    axes.set_ylabel("share of the traffic")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_ylim(0, 1)
    axes.margins(x=0)
    handles, texts = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], texts[::-1], loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
