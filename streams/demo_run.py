"""One run of the demo's traffic: what is done in each tick, what is shown, what is reported."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.live import Live

from streams import snapshots
from streams.checkpoints import Checkpoints, total
from streams.client import PolicyClient
from streams.demo_view import Status, table
from streams.reading import ReadError
from streams.simulation import drifted
from streams.traffic import AdServer, History

if TYPE_CHECKING:
    from rich.console import Console

    from streams.local_loop import LocalLoop
    from streams.simulation import World

POLICY, FIXED = "demo", "demo-fixed"
"""The policy that tunes itself, and one beside it that keeps the rates that it began with."""
DRIFT_FROM_S = 30.0
"""Shorter runs have no drift: nothing could be learned of it in time."""
TICK_S = 0.005
LOOK_S = 0.5
DRAIN_S = 6.0
KNOWN_S = 4.0
MOST_AT_ONCE = 100


@dataclass
class Run:
    """One run of traffic against a loop that stands."""

    loop: LocalLoop
    world: World
    seconds: float
    rate: float
    seed: int
    counts: dict[str, int] = field(default_factory=dict)
    shares: list[float] = field(default_factory=list)
    elapsed_s: float = 0.0

    def __post_init__(self) -> None:
        streams = np.random.SeedSequence(self.seed).spawn(3)
        self._rng = np.random.default_rng(streams[1])
        self.server = AdServer(self.world, policy=POLICY, rng=np.random.default_rng(streams[0]))
        # the same seed: both meet the same visitors, who would click and wait alike
        self.fixed = AdServer(self.world, policy=FIXED, rng=np.random.default_rng(streams[0]), measured=False)
        self.drift_s: float | None = None
        self._delivered = 0
        self._failed = 0

    def traffic(self, console: Console, *, show: bool) -> bool:
        """Serve for the time given, then wait for what is under way. Returns whether Ctrl-C ended it early."""
        interrupted = False
        with ExitStack() as stack:
            checkpoints = stack.enter_context(Checkpoints(self.loop.settings))
            client = PolicyClient(
                self.loop.settings,
                rng=self._rng,
                on_snapshot=self.server.on_snapshot,
                on_delivery=self.server.on_delivery,
            )
            stack.callback(client.close)
            live = stack.enter_context(Live(console=console, auto_refresh=False)) if show else None
            try:
                self._serve(client, checkpoints, live)
            except KeyboardInterrupt:
                interrupted = True
            self._drain(client, checkpoints)
            self._look(client, checkpoints, live)
        return interrupted

    def _serve(self, client: PolicyClient, checkpoints: Checkpoints, live: Live | None) -> None:
        for server in (self.server, self.fixed):
            server.begin()
        begun = look = time.monotonic()
        while (now := time.monotonic()) - begun < self.seconds:
            self.elapsed_s = now - begun
            if self.drift_s is None and self.seconds >= DRIFT_FROM_S and self.elapsed_s >= self.seconds / 2:
                self._drift()
            wanted = int(self.elapsed_s * self.rate / 2) - self.server.served
            for server in (self.server, self.fixed):
                if wanted > 0:
                    server.serve(client, min(wanted, MOST_AT_ONCE))
                server.send_due(client)
            if now >= look:
                self._look(client, checkpoints, live)
                look = now + LOOK_S
            if wanted <= MOST_AT_ONCE:
                time.sleep(TICK_S)
        self.elapsed_s = time.monotonic() - begun

    def _drift(self) -> None:
        """From now on arms are clicked as others were."""
        self.drift_s = self.elapsed_s
        for server in (self.server, self.fixed):
            server.change(drifted(self.world))

    def _drain(self, client: PolicyClient, checkpoints: Checkpoints) -> None:
        """Send the clicks of the next seconds, then wait until a snapshot knows them all."""
        begun = time.monotonic()
        while (waited_s := time.monotonic() - begun) < DRAIN_S + KNOWN_S:
            sending = waited_s < DRAIN_S and self.clicks_due > 0
            if sending:
                self.server.send_due(client)
                self.fixed.send_due(client)
            elif not self.server.freshness.unknown():
                return
            checkpoints.poll()
            self.loop.check()
            time.sleep(0.05)

    @property
    def clicks_due(self) -> int:
        """Clicks of both that are drawn and not sent yet."""
        return self.server.clicks_due + self.fixed.clicks_due

    def _look(self, client: PolicyClient, checkpoints: Checkpoints, live: Live | None) -> None:
        self.loop.check()
        self.counts = total(checkpoints.poll(), "counts")
        stats = client.stats
        self._delivered, self._failed = stats.delivered, stats.failed
        if live is not None:
            live.update(table(self._status(client)), refresh=True)

    def _status(self, client: PolicyClient) -> Status:
        history = self.server.history()
        recent = history.since(max(0.0, self.elapsed_s - 2.0))
        delays = self.server.freshness.delays_s(sent_after_s=time.monotonic() - 10.0)
        snapshot = client.snapshot(POLICY)
        some = recent.time_s.size > 0
        if some:
            self.shares.append(recent.share)
        return Status(
            elapsed_s=self.elapsed_s,
            seconds=self.seconds,
            events=self._delivered,
            rate=self._delivered / max(self.elapsed_s, 1e-9),
            counts=self.counts,
            ctr=float(recent.chosen.mean()) if some else None,
            ctr_uniform=float(recent.uniform.mean()) if some else None,
            ctr_best=float(recent.best.mean()) if some else None,
            share=recent.share if some else None,
            share_fixed=self.fixed.history().since(max(0.0, self.elapsed_s - 2.0)).share if some else None,
            drift_s=self.drift_s,
            shares=self.shares,
            version=None if snapshot is None else snapshot.version,
            age_s=client.age_s(POLICY),
            fresh_p50_s=float(np.quantile(delays, 0.5)) if delays.size else None,
            fresh_p99_s=float(np.quantile(delays, 0.99)) if delays.size else None,
            client="" if client.healthy else f"[red]{client.error}[/]",
            addresses=[(worker.role, worker.metrics_url) for worker in self.loop.workers],
        )

    def report(self) -> tuple[dict[str, Any], History, History]:
        """What happened, and every decision of both policies."""
        history = self.server.history()
        fixed, last_s = self.fixed.history(), 0.75 * self.elapsed_s
        last = history.since(last_s)
        delays = self.server.freshness.delays_s()

        def mean(name: str) -> float | None:
            values = getattr(history, name)
            return float(values.mean()) if values.size else None

        report = {
            "events": self._delivered,
            "events_per_s": self._delivered / max(self.elapsed_s, 1e-9),
            **{name: self.counts.get(name, 0) for name in ("joined", "late", "unmatched", "waiting", "dead")},
            "not_delivered": self._failed,
            "clicks_not_sent": self.clicks_due,
            "ctr": mean("clicked"),
            "ctr_expected": mean("chosen"),
            "ctr_uniform": mean("uniform"),
            "ctr_best": mean("best"),
            "share": last.share,
            "share_realised": last.share_realised,
            "share_fixed": fixed.since(last_s).share,
            "regret": history.regret,
            "regret_fixed": fixed.regret,
            "drift_s": self.drift_s,
            "story": self._story(),
            "freshness_p50_s": float(np.quantile(delays, 0.5)) if delays.size else None,
            "freshness_p99_s": float(np.quantile(delays, 0.99)) if delays.size else None,
            "clicks_not_in_a_snapshot": self.server.freshness.unknown(),
            "snapshots": len(set(self.server.versions)),
            "seconds": self.elapsed_s,
            "plot": None,
        }
        return report, history, fixed

    def _story(self) -> list[str]:
        """What the policy that tunes itself changed, and why, from its history; that the prior was fitted again is left out."""
        try:
            heads = snapshots.history(self.loop.settings, POLICY)
        except (snapshots.NotPublishedError, ReadError):
            return []
        return [
            f"version {head['version']}: {reason}"
            for head in heads
            for reason in head["reasons"]
            if not reason.startswith("prior and noise")
        ]
