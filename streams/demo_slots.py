"""`clickloop demo --slots`: pages of three slots and campaigns with budgets, once with pacing and once without, on the same visitors."""

from __future__ import annotations

import json as codec
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from streams.demo_plot import require_matplotlib, require_writable
from streams.demo_slots_plot import draw
from streams.demo_slots_run import PACED, PERIODS, UNPACED, SlotsRun
from streams.demo_slots_view import summary
from streams.local_loop import LocalLoop
from streams.market import budgets, make_market
from streams.settings import PolicySettings, Settings
from streams.settings_slots import AdSettings, BudgetSettings, SlotSettings

if TYPE_CHECKING:
    from policies.terms import Pacing
    from streams.market import Market

PLOT = Path("clickloop-demo-slots.png")
SHARE = 0.5
"""Budgets as a share of what campaigns would spend without any: unpaced, they run out half-way."""
MARGIN_S = 1.0
"""Seconds of even spending that are held back: about as long as a cost takes to close a budget."""
STEP_S = 1.5
"""Seconds between steps of the prices: in so short a period they must not follow each other faster than spending comes to be known."""


def run_slots_demo(
    settings: Settings | None = None,
    *,
    own_broker: bool = True,
    seconds: float = 60.0,
    arms: int = 12,
    rate: float = 150.0,
    seed: int = 0,
    plot: Path | None = None,
    json: bool = False,
) -> dict[str, Any]:
    """Run the loop on pages of slots, show it, write a picture; return the report, which is what `--json` prints.

    Args:
        settings: how the brokers are reached, if not by a broker of the demo's own; the policies in it are not used.
        own_broker: start a local broker. If not, topics with a prefix of their own are made on the cluster and deleted.
        seconds: how long traffic runs; budgets have two periods of half of it.
        arms: number of arms, at least 6; campaigns get them in turn.
        rate: pages per second; each is filled by both policies.
        seed: of the market and its visitors.
        plot: where the PNG goes; None is `clickloop-demo-slots.png` here.
        json: print the report as one JSON object and nothing else to standard output.

    Raises:
        LoopError, LocalBrokerError, BrokerUnreachable, WorkerDied, PlotError: with what to do.
        ValueError: too few arms.
    """
    require_matplotlib()
    path = PLOT if plot is None else plot
    require_writable(path)
    market = make_market(arms=arms, seed=seed)
    period_s = seconds / PERIODS
    amounts = budgets(market, pages=rate * period_s, share=SHARE, seed=seed)
    start_ms = int(time.time() * 1000)
    chosen = slots_settings(
        Settings() if settings is None else settings,
        market,
        amounts,
        period_s=period_s,
        start_ms=start_ms,
        own_broker=own_broker,
    )
    console = Console(stderr=json)
    where = "a local broker" if own_broker else f"topics of the prefix {chosen.prefix!r} on {chosen.bootstrap}"
    console.print(f"starting {where}, a learner and a publisher ...")
    with LocalLoop(chosen, own_broker=own_broker) as loop:
        run = SlotsRun(
            loop, market, amounts, seconds=seconds, rate=rate, start_ms=start_ms, rng=np.random.default_rng(seed)
        )
        run.traffic(console, show=not json)
        report = run.report()
    if run.server.served:
        try:
            draw(path, run, title=_title(report))
            report["plot"] = str(path)
        except OSError as error:
            console.print(f"the picture could not be written: {error}")
    if run.interrupted:
        console.print("interrupted; this is how far it came")
    if json:
        sys.stdout.write(codec.dumps(report) + "\n")
    else:
        console.print(summary(report))
    return report


def slots_settings(
    settings: Settings,
    market: Market,
    amounts: dict[str, float],
    *,
    period_s: float,
    start_ms: int,
    own_broker: bool,
) -> Settings:
    """The settings of the demo's workers: two policies that differ in the pacing of their budgets alone."""
    pacing: dict[str, Pacing] = {PACED: "dual", UNPACED: "none"}
    prefix = "" if own_broker else f"{settings.prefix}demo-{secrets.token_hex(4)}-"
    policies = {
        name: PolicySettings(
            model="linear",
            dimension=market.world.dimension,
            window_s=market.world.window_s,
            early_s=1.0,
            grace_s=2.0,
            intercept=0,
            arms=market.world.arms,
            slots={slot: SlotSettings() for slot in market.slots},
            positions="learn",
            swap_share=0.02,
            ads={
                arm: AdSettings(
                    budget=one.name if one.limited else None,
                    value=one.value,
                    cost=one.cost,
                    click_cost=one.click_cost,
                )
                for arm, one in zip(market.world.arms, market.campaign_of, strict=True)
            },
            budgets={
                budget: BudgetSettings(
                    amount=amount,
                    period_s=period_s,
                    anchor_ms=start_ms,
                    margin=amount * min(MARGIN_S / period_s, 1.0),
                    pacing=how,
                )
                for budget, amount in amounts.items()
            },
        )
        for name, how in pacing.items()
    }
    return settings.model_copy(
        update={
            "prefix": prefix,
            "policies": policies,
            "publish_interval_s": STEP_S,
            "meta_interval_s": 2.0,
            "snapshot_max_age_s": None,
        }
    )


def _title(report: dict[str, Any]) -> str:
    gain = report["gain"]
    told = "" if gain is None else f": {gain:+.0%} value in the last period"
    return f"clickloop demo --slots, the same visitors and budgets with pacing and without{told}"
