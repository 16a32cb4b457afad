"""The ad server of the demo with slots: one stream of visitors' pages, filled by several policies side by side, and delayed clicks.

Every policy sees the same contexts, and a visitor who would click an arm in a slot clicks it whoever put it there: policies differ by what
they show and not by luck.
"""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from streams.delivery import QueueFull

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streams.client import PolicyClient, SlotsDecision
    from streams.market import Market
    from streams.simulation import FloatArray

IntArray = npt.NDArray[np.int64]
EMPTY = -1
NO_CLICK = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """What one policy showed, n pages of L slots in their order.

    Attributes:
        ts: (n,) event time in ms UTC.
        arm: (n, L) index of the arm in each slot, `EMPTY` for none.
        chance: (n, L) its click probability in the world, 0 for none.
        delay_ms: (n, L) from page to click, `NO_CLICK` where none follows.
    """

    ts: IntArray
    arm: IntArray
    chance: FloatArray
    delay_ms: IntArray


@dataclass(slots=True)
class _Shown:
    ts: list[int] = field(default_factory=list)
    arm: list[list[int]] = field(default_factory=list)
    chance: list[list[float]] = field(default_factory=list)
    delay_ms: list[list[int]] = field(default_factory=list)


class PageServer:
    """Serves simulated pages; call `serve` and `send_due` from one thread.

    Event time goes by the pages, one every 1/rate seconds, so that a machine that is slow for a while makes a slow run and no bursts.

    Args:
        market: gives contexts and clicks.
        policies: names of those that fill each page.
        start_ms: event time of the first page, ms UTC.
        rate: pages in a second of event time.
        rng: draws contexts, clicks and delays.
    """

    def __init__(
        self,
        market: Market,
        *,
        policies: Sequence[str],
        start_ms: int,
        rate: float,
        rng: np.random.Generator,
    ) -> None:
        self.served = 0
        self.clicks_sent = 0
        self.impressions_sent = 0
        self._market = market
        self._start_ms = start_ms
        self._rate = rate
        self._rng = rng
        self._index = {arm: i for i, arm in enumerate(market.world.arms)}
        self._shown = {policy: _Shown() for policy in policies}
        self._due: list[tuple[int, str, str]] = []

    @property
    def elapsed_s(self) -> float:
        """Event time since the first page."""
        return self.served / self._rate

    def event_s(self) -> float:
        """Event time now, seconds since the epoch: the clock of the policy client."""
        return self._start_ms / 1000 + self.elapsed_s

    @property
    def clicks_due(self) -> int:
        """Clicks that are drawn and not sent yet."""
        return len(self._due)

    def serve(self, client: PolicyClient, n: int) -> None:
        """Fill n pages by every policy, log the impressions, draw the clicks to come."""
        x = self._market.world.contexts(n, rng=self._rng)
        chances, luck = self._market.clicks(x), self._rng.random((n, len(self._index)))
        slots = len(self._market.slots)
        delays_ms = (1000.0 * self._market.world.delays_s(n * slots, rng=self._rng)).astype(np.int64).reshape(n, slots)
        for i in range(n):
            for policy in self._shown:
                page = client.decide_slots(policy, x[i], slots=self._market.slots)
                _patiently(partial(client.log_impressions, page))
                self._take(page, chances[i], luck[i], delays_ms[i])
            self.served += 1

    def _take(self, page: SlotsDecision, chances: FloatArray, luck: FloatArray, delays_ms: IntArray) -> None:
        shown = self._shown[page.policy]
        arms = [EMPTY if arm is None else self._index[arm] for arm in page.arms]
        found = [0.0 if arm == EMPTY else float(chances[slot, arm]) for slot, arm in enumerate(arms)]
        clicked = [arm != EMPTY and luck[arm] < chance for arm, chance in zip(arms, found, strict=True)]
        waits = [int(wait) if yes else NO_CLICK for wait, yes in zip(delays_ms.tolist(), clicked, strict=True)]
        shown.ts.append(page.ts)
        shown.arm.append(arms)
        shown.chance.append(found)
        shown.delay_ms.append(waits)
        self.impressions_sent += len(page.decisions)
        for slot, wait in zip(page.slots, waits, strict=True):
            if wait != NO_CLICK:
                heapq.heappush(self._due, (page.ts + wait, page.decision_id, slot))

    def send_due(self, client: PolicyClient, *, ahead_s: float = 0.0) -> None:
        """Send the clicks whose time has come, or comes so soon."""
        until_ms = 1000.0 * (self.event_s() + ahead_s)
        while self._due and self._due[0][0] <= until_ms:
            ts, decision_id, slot = heapq.heappop(self._due)
            _patiently(partial(client.log_click, decision_id, slot, ts=ts))
            self.clicks_sent += 1

    def pages(self, policy: str) -> Pages:
        """All that a policy showed so far."""
        shown, slots = self._shown[policy], len(self._market.slots)
        return Pages(
            ts=np.array(shown.ts, np.int64),
            arm=np.array(shown.arm, np.int64).reshape(-1, slots),
            chance=np.array(shown.chance, np.float64).reshape(-1, slots),
            delay_ms=np.array(shown.delay_ms, np.int64).reshape(-1, slots),
        )


def _patiently(log: Callable[[], None]) -> None:
    """The simulated server may wait where a real one would count the event as lost; logging a page again is harmless."""
    while True:
        try:
            log()
        except QueueFull:
            time.sleep(0.01)
        else:
            return
