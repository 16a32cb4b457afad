"""`clickloop demo`: the whole loop for a minute, on simulated traffic whose best possible click rate is known."""

from __future__ import annotations

import json as codec
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from streams.demo_plot import draw, require_matplotlib, require_writable
from streams.demo_run import FIXED, POLICY, Run
from streams.demo_view import summary
from streams.local_loop import LocalLoop
from streams.settings import PolicySettings, Settings
from streams.simulation import World, make_world

if TYPE_CHECKING:
    from collections.abc import Mapping

PLOT = Path("clickloop-demo.png")
WINDOW_S, GRACE_S = 8.0, 4.0
"""Rows mature after both, and only then forgetting learns from them: of a drift in the middle of a minute, half a minute is left."""
HALF_LIVES_S = (0.0, 15.0, 5.0)


def run_demo(
    settings: Settings | None = None,
    *,
    own_broker: bool = True,
    seconds: float = 60.0,
    arms: int = 20,
    rate: float = 2000.0,
    seed: int = 0,
    plot: Path | None = None,
    json: bool = False,
) -> dict[str, Any]:
    """Run the loop, show it, write a picture; return the report, which is what `--json` prints.

    Args:
        settings: how the brokers are reached, if not by a broker of the demo's own; the policies in it are not used.
        own_broker: start a local broker. If not, topics with a prefix of their own are made on the cluster and deleted.
        seconds: how long traffic runs.
        arms: number of arms, at least 2.
        rate: decisions per second.
        seed: of the world and its visitors.
        plot: where the PNG goes; None is `clickloop-demo.png` here.
        json: print the report as one JSON object and nothing else to standard output.

    Raises:
        LoopError, LocalBrokerError, BrokerUnreachable, WorkerDied, PlotError: with what to do.
    """
    require_matplotlib()
    path = PLOT if plot is None else plot
    require_writable(path)
    world = make_world(arms=arms, seed=seed, window_s=WINDOW_S)
    chosen = demo_settings(Settings() if settings is None else settings, world, own_broker=own_broker)
    console = Console(stderr=json)
    console.print(_announcement(chosen, own_broker=own_broker))
    with LocalLoop(chosen, own_broker=own_broker) as loop:
        run = Run(loop, world, seconds=seconds, rate=rate, seed=seed)
        interrupted = run.traffic(console, show=not json)
        report, history, fixed = run.report()
    if history.time_s.size:
        try:
            title = _plot_title(report)
            draw(path, history, arms=world.arms, title=title, fixed=fixed, drift_s=report["drift_s"])
            report["plot"] = str(path)
        except OSError as error:
            console.print(f"the picture could not be written: {error}")
    if interrupted:
        console.print("interrupted; this is how far it came")
    if json:
        sys.stdout.write(codec.dumps(report) + "\n")
    else:
        console.print(summary(report))
    return report


def demo_settings(settings: Settings, world: World, *, own_broker: bool) -> Settings:
    """The settings of the demo's workers: two policies for the world, with meta-updates and without; elsewhere, a prefix of their own."""
    fixed = PolicySettings(
        model="linear",
        dimension=world.dimension,
        window_s=world.window_s,
        early_s=1.0,
        grace_s=GRACE_S,
        intercept=0,
        arms=world.arms,
    )
    tuned = fixed.model_copy(update={"half_lives_s": HALF_LIVES_S, "drift": "alarm", "explore": "roll-outs"})
    prefix = "" if own_broker else f"{settings.prefix}demo-{secrets.token_hex(4)}-"
    return settings.model_copy(
        update={
            "prefix": prefix,
            "policies": {POLICY: tuned, FIXED: fixed},
            "meta_interval_s": 2.0,
            "snapshot_max_age_s": None,
        }
    )


def _announcement(settings: Settings, *, own_broker: bool) -> str:
    if own_broker:
        return "starting a local broker, a learner and a publisher ..."
    return (
        f"starting a learner and a publisher on {settings.bootstrap} with topics of the prefix {settings.prefix!r}, "
        "which are deleted at the end ..."
    )


def _plot_title(report: Mapping[str, Any]) -> str:
    return (
        f"clickloop demo: {report['events']:,} events, {report['share']:.0%} of the way from uniform to best, "
        f"click to snapshot p99 {report['freshness_p99_s']:.2f} s"
        if report["freshness_p99_s"] is not None
        else f"clickloop demo: {report['events']:,} events"
    )
