"""The demo with slots: the market's budgets, what pages cost and bring, and a whole run on a broker, paced and unpaced side by side."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from policies.budget_steps import MOST_UNITS
from streams.demo_slots import slots_settings
from streams.demo_slots_view import Status, summary, table
from streams.market import LEAST_ARMS, Market, budgets, make_market, spending
from streams.pages import EMPTY, NO_CLICK, Pages, PageServer
from streams.settings import Settings
from streams.spending import costs, period, value
from tests.test_demo import PNG, run_cli

START_MS = 1_700_000_000_000
SPRING, SUMMER, HOUSE = 0, 1, 2


def shown(arms: list[list[int]], delays_ms: list[list[int]]) -> Pages:
    """Pages a second apart, each slot with a chance of a half."""
    arm = np.array(arms, np.int64)
    ts = START_MS + 1000 * np.arange(len(arm), dtype=np.int64)
    return Pages(ts=ts, arm=arm, chance=np.where(arm == EMPTY, 0.0, 0.5), delay_ms=np.array(delays_ms, np.int64))


@pytest.fixture
def market() -> Market:
    return make_market(arms=LEAST_ARMS, seed=1)


def test_a_slot_scales_the_clicks_of_every_arm(market: Market) -> None:
    """The probability in a slot is the world's times the slot's effect."""
    x = market.world.contexts(50, rng=np.random.default_rng(0))
    clicks = market.clicks(x)
    assert clicks.shape == (50, 3, LEAST_ARMS)
    assert np.allclose(clicks[:, 0], market.world.probabilities(x))
    assert np.allclose(clicks[:, 2] / clicks[:, 0], market.effects["foot"])


def test_budgets_are_the_share_of_what_would_be_spent_without_any(market: Market) -> None:
    """Twice the pages, twice the amount; nothing for who has no budget; a price that no arm is worth ends the spending."""
    amounts = budgets(market, pages=4_000, share=0.5)
    free = spending(market, market.world.contexts(20_000, rng=np.random.default_rng(9)))
    assert set(amounts) == {"spring", "summer"}
    for name, amount in amounts.items():
        assert amount == pytest.approx(0.5 * 4_000 * free[name], rel=0.1)
        assert budgets(market, pages=8_000, share=0.5)[name] == pytest.approx(2 * amount, abs=0.5)
    x = market.world.contexts(500, rng=np.random.default_rng(9))
    dear = spending(market, x, {"spring": MOST_UNITS, "summer": MOST_UNITS})
    assert (dear["spring"], dear["summer"]) == (0.0, 0.0)


def test_too_few_arms_are_refused() -> None:
    """The number and what is needed."""
    with pytest.raises(ValueError, match="arms = 5: 3 campaigns need at least 6"):
        make_market(arms=5)


def test_impressions_are_charged_at_their_page_and_clicks_at_their_own_time(market: Market) -> None:
    """Spring pays 1/16 an impression, summer 1/2 a click; an empty slot costs nothing."""
    pages = shown([[SPRING, SUMMER, EMPTY], [SUMMER, SPRING, HOUSE]], [[300, 1500, NO_CLICK], [10, NO_CLICK, 20]])
    spring, summer = costs(market, pages, "spring"), costs(market, pages, "summer")
    assert (spring.ts - START_MS).tolist() == [0, 1000]
    assert spring.cost.tolist() == [0.0625, 0.0625]
    assert (summer.ts - START_MS).tolist() == [1010, 1500]
    assert summer.cost.tolist() == [0.5, 0.5]
    assert costs(market, pages, "house").total == 0.0
    assert summer.within(START_MS, START_MS + 1500).total == 0.5


def test_value_is_expected_by_chances_and_realised_by_clicks(market: Market) -> None:
    """Worth of a click times the chance of each slot, or times whether it was clicked."""
    expected, clicked = value(market, shown([[SPRING, SUMMER, EMPTY]], [[300, NO_CLICK, NO_CLICK]]))
    assert expected.tolist() == [0.5 * 2.0 + 0.5 * 1.5]
    assert clicked.tolist() == [2.0]


def test_a_period_says_when_the_budget_ran_out(market: Market) -> None:
    """Four pages that spend 1/8 each: an amount of 1/4 is gone at the second, 1/2 at the last, more never."""
    pages = shown([[SPRING, 3, HOUSE]] * 4, [[NO_CLICK] * 3] * 4)  # arm 3 is spring's, too

    def of(amount: float) -> Any:
        return period(market, pages, {"spring": amount}, start_ms=START_MS, end_ms=START_MS + 4000)["budgets"]["spring"]

    assert (of(0.25)["ran_out"], of(0.5)["ran_out"], of(0.51)["ran_out"]) == (0.25, 0.75, None)
    assert (of(0.25)["overspent"], of(0.25)["first_half"]) == (0.25, 0.5)
    nothing = period(market, pages, {"spring": 1.0}, start_ms=0, end_ms=10)
    assert (nothing["value"], nothing["budgets"]["spring"]["first_half"]) == (None, None)


class Client:
    """Shows what it is told and keeps what is logged."""

    def __init__(self, arms: dict[str, tuple[str | None, ...]], server: Any = None) -> None:
        self.arms, self.server = arms, server
        self.clicks: list[tuple[str, str, int]] = []

    def decide_slots(self, policy: str, context: Any, *, slots: Any) -> Any:
        from streams.client import SlotsDecision

        return SlotsDecision(
            decision_id=f"{policy}-{self.server.served}",
            policy=policy,
            slots=tuple(slots),
            arms=self.arms[policy],
            propensity=(1.0,) * 3,
            snapshot=1,
            context=context,
            candidates=(),
            probabilities=None,
            ts=int(1000 * self.server.event_s()),
        )

    def log_impressions(self, page: Any) -> None:
        """Taken."""

    def log_click(self, decision_id: str, slot: str, *, ts: int) -> None:
        self.clicks.append((decision_id, slot, ts))


def served(market: Market, arms: dict[str, tuple[str | None, ...]], n: int = 400) -> tuple[PageServer, Client]:
    """Pages of a hundred a second."""
    rng = np.random.default_rng(0)
    server = PageServer(market, policies=tuple(arms), start_ms=START_MS, rate=100.0, rng=rng)
    client: Any = Client(arms, server)
    server.serve(client, n)
    return server, client


def test_policies_that_show_the_same_get_the_same_clicks(market: Market) -> None:
    """Visitors are the same for all; one who sees another arm has another mind."""
    first, second, third = market.world.arms[:3]
    server, _ = served(
        market, {"one": (first, second, None), "same": (first, second, None), "other": (third, second, None)}
    )
    one, same, other = (server.pages(policy).delay_ms for policy in ("one", "same", "other"))
    assert np.array_equal(one, same)
    assert np.array_equal(one[:, 1], other[:, 1])
    assert not np.array_equal(one[:, 0], other[:, 0])
    assert (one[:, 2] == NO_CLICK).all()


def test_event_time_goes_by_pages_and_clicks_wait_for_theirs(market: Market) -> None:
    """The n-th page is n/rate after the start; a click is sent once event time has reached it, all of them in the order of their times."""
    first, second, third = market.world.arms[:3]
    server, client = served(market, {"one": (first, second, third)})
    pages = server.pages("one")
    assert np.abs(pages.ts - START_MS - 10 * np.arange(400)).max() <= 1
    server.send_due(client)  # type: ignore[arg-type]
    times = [ts for _, _, ts in client.clicks]
    assert times == sorted(times)
    assert times[-1] <= 1000 * server.event_s()
    all_ts = (pages.ts[:, None] + pages.delay_ms)[pages.delay_ms != NO_CLICK]
    assert len(times) == (all_ts <= 1000 * server.event_s()).sum() < len(all_ts)
    server.send_due(client, ahead_s=market.world.window_s)  # type: ignore[arg-type]
    assert (len(client.clicks), server.clicks_due) == (len(all_ts), 0)


def test_the_two_policies_differ_in_pacing_alone(market: Market) -> None:
    """Whatever else differs would be taken for its effect."""
    settings = slots_settings(
        Settings(), market, {"spring": 5.0, "summer": 3.0}, period_s=30.0, start_ms=START_MS, own_broker=True
    )
    paced, unpaced = settings.policies["paced"], settings.policies["unpaced"]
    assert {one.pacing for one in paced.budgets.values()} == {"dual"}
    switched = {name: one.model_copy(update={"pacing": "none"}) for name, one in paced.budgets.items()}
    assert paced.model_copy(update={"budgets": switched}) == unpaced
    assert paced.ads[market.world.arms[HOUSE]].budget is None


def test_the_live_table_says_what_is_spent_closed_and_priced() -> None:
    """At the start nothing is known and nothing breaks."""
    console = Console(record=True, width=140, file=io.StringIO())
    console.print(table(Status()))
    status = Status(
        elapsed_s=45,
        seconds=60,
        number=1,
        passed=0.5,
        amounts={"spring": 8.0},
        spent={"paced": {"spring": 4.0}, "unpaced": {"spring": 9.0}},
        price={"paced": {"spring": 1.25}},
        closed={"unpaced": frozenset({"spring"})},
        effects={"top": 1.0},
        found={"paced": {"top": 1.0}},
    )
    console.print(table(status))
    told = console.export_text()
    for words in ("period 2", "50% price 1.25", "112% closed", "1.00 found, 1 true", "- found, 1 true"):
        assert words in told


def test_too_few_arms_are_refused_on_the_command_line() -> None:
    """Before anything starts, with what is allowed."""
    done = run_cli("demo", "--slots", "--arms", "5")
    assert done.returncode == 2
    assert "at least 6" in done.stderr


def spread(report: dict[str, Any]) -> bool:
    """What the demo is to show of its last period: paced spending is spread, unpaced spring is gone early, and late traffic pays for it.

    Summer is not asked for: it pays by the click, which a busy machine tells late, and while unpaced spring lasts it gets few slots.
    """
    paced, unpaced = (report["policies"][name]["periods"][-1] for name in ("paced", "unpaced"))
    spring, early = paced["budgets"]["spring"], unpaced["budgets"]["spring"]
    even = spring["first_half"] < 0.75 and (spring["ran_out"] or 1.0) > 0.8
    gone = early["first_half"] > spring["first_half"] + 0.15
    return even and gone and bool(paced["late_value"] > 1.1 * unpaced["late_value"])


def demonstrated(bootstrap: str, plot: Path, *, seconds: int, rate: int) -> dict[str, Any]:
    """The report of a run."""
    options = ["--seconds", str(seconds), "--rate", str(rate), "--json", "--plot", str(plot)]
    done = run_cli("demo", "--slots", *options, "--bootstrap", bootstrap, timeout_s=400)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.timeout(900)
def test_pacing_spreads_what_is_gone_early_without_it(local_broker: str, tmp_path: Path) -> None:
    """A whole run: spending is spread with a price and closes early without, the ledgers agree with what was sent to the last bit.

    The run is in real time: prices that come seconds late, because the processor is busy with other things, spread less. The same
    pages in three times as long are then asked for.
    """
    plot = tmp_path / "slots.png"
    report = demonstrated(local_broker, plot, seconds=40, rate=100)
    if not spread(report):
        report = demonstrated(local_broker, plot, seconds=125, rate=32)
    assert report["pages"] == 4_000
    assert report["events"] == report["impressions"] + report["clicks"]
    assert report["joined"] == report["clicks"]
    assert report["dead"] == report["late"] == report["unmatched"] == report["not_delivered"] == 0
    assert spread(report), json.dumps({name: one["periods"][-1] for name, one in report["policies"].items()})
    swapped = replace_policies(report, {"paced": "unpaced", "unpaced": "paced"})
    assert not spread(swapped)
    for one in report["policies"].values():
        for each in one["periods"]:
            assert all(budget["ledger"] == budget["spent"] for budget in each["budgets"].values())
        assert 0.3 < one["effects"]["side"] < 1.0
        assert 0.15 < one["effects"]["foot"] < 0.8
    assert plot.read_bytes().startswith(PNG)
    console = Console(record=True, width=140, file=io.StringIO())
    console.print(summary(report))
    assert "Pacing brought" in console.export_text()


def replace_policies(report: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """The report with the policies' results under other names."""
    return {**report, "policies": {names[name]: one for name, one in report["policies"].items()}}
