"""The demo's ad server: simulated requests, decisions from the policy client, impressions and delayed clicks."""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from streams.delivery import QueueFull
from streams.freshness import Freshness
from streams.simulation import World, share_of_possible

if TYPE_CHECKING:
    from collections.abc import Callable

    from policies.snapshot import Snapshot
    from streams.client import PolicyClient
    from streams.delivery import Delivery

FloatArray = npt.NDArray[np.float64]
SLOT = "top"


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What was decided, n decisions in their order.

    Attributes:
        time_s: (n,) seconds since the traffic began.
        arm: (n,) index of the arm shown.
        chosen: (n,) its click probability in the world.
        uniform: (n,) mean click probability of all arms.
        best: (n,) that of the best arm.
        clicked: (n,) whether a click follows.
    """

    time_s: FloatArray
    arm: npt.NDArray[np.int64]
    chosen: FloatArray
    uniform: FloatArray
    best: FloatArray
    clicked: npt.NDArray[np.bool_]

    def since(self, start_s: float) -> History:
        """The part from `start_s` on."""
        first = int(np.searchsorted(self.time_s, start_s))
        return History(**{name: getattr(self, name)[first:] for name in _COLUMNS})

    @property
    def share(self) -> float:
        """How far the chosen arms' click probability is from uniform choice (0) to the best choice (1)."""
        return self._share(self.chosen)

    @property
    def share_realised(self) -> float:
        """The same by the clicks themselves: noisier."""
        return self._share(self.clicked)

    @property
    def regret(self) -> float:
        """Expected clicks lost to the best choice."""
        return float((self.best - self.chosen).sum())

    def _share(self, values: FloatArray | npt.NDArray[np.bool_]) -> float:
        if not len(self.time_s):
            return 0.0
        return share_of_possible(float(values.mean()), uniform=float(self.uniform.mean()), best=float(self.best.mean()))


_COLUMNS = ("time_s", "arm", "chosen", "uniform", "best", "clicked")
NOTHING = History(
    time_s=np.zeros(0),
    arm=np.zeros(0, np.int64),
    chosen=np.zeros(0),
    uniform=np.zeros(0),
    best=np.zeros(0),
    clicked=np.zeros(0, np.bool_),
)


class AdServer:
    """Serves simulated requests; call `serve` and `send_due` from one thread.

    Args:
        world: gives requests and clicks.
        policy: whose snapshots decide.
        rng: draws requests, clicks and delays.
        measured: whether its clicks are followed until a snapshot knows them.
        now_s: a clock that does not go back, in seconds.
    """

    def __init__(
        self,
        world: World,
        *,
        policy: str,
        rng: np.random.Generator,
        measured: bool = True,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.freshness = Freshness()
        self.versions: list[int] = []
        self.served = 0
        self.clicks_sent = 0
        self._world = world
        self._policy = policy
        self._measured = measured
        self._rng = rng
        self._now_s = now_s
        self._index = {arm: i for i, arm in enumerate(world.arms)}
        self._due: list[tuple[float, str, int]] = []
        self._parts: list[History] = []
        self._begun_s = now_s()

    def begin(self) -> None:
        """Count time from now."""
        self._begun_s = self._now_s()

    def change(self, world: World) -> None:
        """Go on in another world of the same arms."""
        self._world = world

    @property
    def clicks_due(self) -> int:
        """Clicks that are drawn and not sent yet."""
        return len(self._due)

    def serve(self, client: PolicyClient, n: int) -> None:
        """Decide n requests, log the impressions, draw the clicks to come."""
        x = self._world.contexts(n, rng=self._rng)
        p = self._world.probabilities(x)
        uniforms, delays_s = self._rng.random(n), self._world.delays_s(n, rng=self._rng)
        time_s, arm = np.zeros(n), np.zeros(n, np.int64)
        for i in range(n):
            decision = client.decide(self._policy, x[i], self._world.arms, slot=SLOT)
            _patiently(client.log_impression, decision)
            time_s[i], arm[i] = self._now_s() - self._begun_s, self._index[decision.arm]
            if uniforms[i] < p[i, arm[i]]:
                delay_s = float(delays_s[i])
                due = (self._begun_s + time_s[i] + delay_s, decision.decision_id, decision.ts + int(delay_s * 1000))
                heapq.heappush(self._due, due)
        chosen = p[np.arange(n), arm]
        self.served += n
        self._parts.append(
            History(
                time_s=time_s,
                arm=arm,
                chosen=chosen,
                uniform=p.mean(axis=1),
                best=p.max(axis=1),
                clicked=uniforms < chosen,
            )
        )

    def send_due(self, client: PolicyClient) -> None:
        """Send the clicks whose time has come."""
        while self._due and self._due[0][0] <= self._now_s():
            _, decision_id, ts = heapq.heappop(self._due)
            sent_s = self._now_s()
            _patiently(client.log_click, decision_id, SLOT, ts=ts, tag=sent_s if self._measured else None)
            self.clicks_sent += 1

    def on_delivery(self, delivery: Delivery) -> None:
        """Take the client's delivery reports: clicks carry the time at which they were sent."""
        if delivery.error is None:
            for tag in delivery.tags:
                if isinstance(tag, float):
                    self.freshness.click(partition=delivery.partition, offset=delivery.offset, sent_s=tag)

    def on_snapshot(self, snapshot: Snapshot) -> None:
        """Take the client's snapshots as they come into use."""
        if snapshot.policy != self._policy:
            return
        included = {int(partition): int(sides["clicks"]) for partition, sides in snapshot.offsets.items()}
        self.freshness.snapshot(included, seen_s=self._now_s())
        self.versions.append(snapshot.version)

    def history(self) -> History:
        """Everything decided so far."""
        parts = self._parts or [NOTHING]
        columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS}
        return History(**columns)


def _patiently(log: Callable[..., None], *args: object, **kwargs: object) -> None:
    """The simulated server may wait where a real one would count the event as lost."""
    while True:
        try:
            log(*args, **kwargs)
        except QueueFull:
            time.sleep(0.01)
        else:
            return
