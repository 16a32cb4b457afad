"""One run of the demo with slots: pages for two policies that differ in pacing alone, what is shown, what is reported."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.live import Live

from streams.checkpoints import Checkpoints, total
from streams.client import PolicyClient
from streams.delivery import NotDelivered
from streams.demo_slots_view import Status, table
from streams.pages import PageServer
from streams.posteriors import Posteriors
from streams.rules import tracks
from streams.spending import period

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from policies.snapshot import Snapshot
    from streams.local_loop import LocalLoop
    from streams.market import Market

PACED, UNPACED = "paced", "unpaced"
PERIODS = 2
TICK_S = 0.005
LOOK_S = 0.5
DRAIN_S = 30.0
MOST_AT_ONCE = 20


@dataclass(slots=True)
class Prices:
    """What the snapshots of one policy said of its budgets, at event times in seconds since the start."""

    time_s: list[float] = field(default_factory=list)
    price: list[dict[str, float]] = field(default_factory=list)
    closed: list[frozenset[str]] = field(default_factory=list)
    kappa: dict[str, float] = field(default_factory=dict)


@dataclass
class SlotsRun:
    """One run of traffic against a loop that stands; event time begins at `start_ms`, with the budgets' first period."""

    loop: LocalLoop
    market: Market
    amounts: dict[str, float]
    seconds: float
    rate: float
    start_ms: int
    rng: np.random.Generator
    interrupted: bool = False
    told: dict[str, Prices] = field(default_factory=lambda: {PACED: Prices(), UNPACED: Prices()})
    counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.server = PageServer(
            self.market, policies=(PACED, UNPACED), start_ms=self.start_ms, rate=self.rate, rng=self.rng
        )
        policies = self.loop.settings.policies
        self.ledgers = Posteriors(self.loop.settings, {name: tracks(policy) for name, policy in policies.items()})
        self._delivered = self._failed = 0

    @property
    def period_s(self) -> float:
        """Length of a period of the budgets."""
        return self.seconds / PERIODS

    def traffic(self, console: Console, *, show: bool) -> None:
        """Serve for the time given or until Ctrl-C, then wait for what is under way."""
        with ExitStack() as stack:
            self.ledgers.start()
            stack.callback(self.ledgers.close)
            checkpoints = stack.enter_context(Checkpoints(self.loop.settings))
            client = PolicyClient(
                self.loop.settings, rng=self.rng.spawn(1)[0], clock=self.server.event_s, on_snapshot=self._hear
            )
            stack.callback(client.close)
            live = stack.enter_context(Live(console=console, auto_refresh=False)) if show else None
            try:
                self._serve(client, checkpoints, live)
            except KeyboardInterrupt:
                self.interrupted = True
            self._drain(client, checkpoints)
            self._look(client, checkpoints, live)

    def _hear(self, snapshot: Snapshot) -> None:
        if snapshot.policy in self.told:
            told = self.told[snapshot.policy]
            told.time_s.append(self.server.elapsed_s)
            told.price.append(dict(snapshot.allotment.price))
            told.closed.append(snapshot.allotment.closed)
            told.kappa = dict(snapshot.allotment.kappa)

    def _serve(self, client: PolicyClient, checkpoints: Checkpoints, live: Live | None) -> None:
        begun = look = time.monotonic()
        pages = round(self.seconds * self.rate)
        while self.server.served < pages:
            now = time.monotonic()
            wanted = min(int((now - begun) * self.rate), pages) - self.server.served
            if wanted > MOST_AT_ONCE:  # not caught up with: event time waits
                begun += (wanted - MOST_AT_ONCE) / self.rate
            if wanted > 0:
                self.server.serve(client, min(wanted, MOST_AT_ONCE))
            self.server.send_due(client)
            if now >= look:
                self._look(client, checkpoints, live)
                look = now + LOOK_S
            if wanted <= MOST_AT_ONCE:
                time.sleep(TICK_S)

    def _drain(self, client: PolicyClient, checkpoints: Checkpoints) -> None:
        """Send the clicks that are still to come, and wait until all is delivered, joined, and in the ledgers that are shown."""
        self.server.send_due(client, ahead_s=self.market.world.window_s)
        until = time.monotonic() + DRAIN_S
        with suppress(NotDelivered):  # counted
            client.flush(DRAIN_S)
        while time.monotonic() < until:
            seen = checkpoints.poll()
            joined = total(seen, "counts").get("joined", 0) >= self.server.clicks_sent
            shown = total(seen, "impressions").get("accepted", 0) >= self.server.impressions_sent
            known = self.ledgers.place().offsets == {number: one["offsets"] for number, one in seen.items()}
            if joined and shown and known:
                return
            self.loop.check()
            time.sleep(0.05)

    def _look(self, client: PolicyClient, checkpoints: Checkpoints, live: Live | None) -> None:
        self.loop.check()
        self.counts = total(checkpoints.poll(), "counts")
        self._delivered, self._failed = client.stats.delivered, client.stats.failed
        if live is not None:
            live.update(table(self._status(client)), refresh=True)

    def spent(self, policy: str, number: int) -> dict[str, float]:
        """By budget, what the learner's ledger says was spent in a period, as far as it is committed."""
        accounts = self.ledgers.ledger(policy)[0].accounts
        return {name: accounts[name].spent.get(number, 0.0) if name in accounts else 0.0 for name in self.amounts}

    def _status(self, client: PolicyClient) -> Status:
        elapsed_s = self.server.elapsed_s
        number = min(int(elapsed_s / self.period_s), PERIODS - 1)
        start_ms, end_ms = self._bounds(number)
        snapshots = {policy: client.snapshot(policy) for policy in self.told}
        return Status(
            elapsed_s=elapsed_s,
            seconds=self.seconds,
            number=number,
            passed=min(elapsed_s / self.period_s - number, 1.0),
            events=self._delivered,
            counts=self.counts,
            amounts=self.amounts,
            spent={policy: self.spent(policy, number) for policy in self.told},
            price={policy: dict(one.allotment.price) for policy, one in snapshots.items() if one is not None},
            closed={policy: one.allotment.closed for policy, one in snapshots.items() if one is not None},
            value={
                policy: period(self.market, self.server.pages(policy), {}, start_ms=start_ms, end_ms=end_ms)["value"]
                for policy in self.told
            },
            effects=self.market.effects,
            found={policy: told.kappa for policy, told in self.told.items()},
            trouble="" if client.healthy else f"[red]{client.error}[/]",
        )

    def _bounds(self, number: int) -> tuple[float, float]:
        length_ms = 1000.0 * self.period_s
        return self.start_ms + number * length_ms, self.start_ms + (number + 1) * length_ms

    def report(self) -> dict[str, Any]:
        """What happened."""
        policies = {policy: self._of(policy) for policy in self.told}
        last = {policy: one["periods"][-1]["value"] for policy, one in policies.items()}
        whole = not self.interrupted and last[PACED] is not None and last[UNPACED]  # early, the unpaced lead
        gain = last[PACED] / last[UNPACED] - 1.0 if whole else None
        return {
            "pages": self.server.served,
            "impressions": self.server.impressions_sent,
            "clicks": self.server.clicks_sent,
            "events": self._delivered,
            **{name: self.counts.get(name, 0) for name in ("joined", "late", "unmatched", "waiting", "dead")},
            "not_delivered": self._failed,
            "seconds": self.server.elapsed_s,
            "period_s": self.period_s,
            "gain": gain,
            "policies": policies,
            "effects": self.market.effects,
            "plot": None,
        }

    def _of(self, policy: str) -> dict[str, Any]:
        pages = self.server.pages(policy)
        periods = []
        for number in range(PERIODS):
            start_ms, end_ms = self._bounds(number)
            one = period(self.market, pages, self.amounts, start_ms=start_ms, end_ms=end_ms)
            known = self.spent(policy, number)
            for name, budget in one["budgets"].items():
                budget["ledger"] = known[name]
            periods.append(one)
        return {"periods": periods, "effects": self.told[policy].kappa}
