"""One partition of a worker as the learner knows it, and what it asks of the transport."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

from faust.types import TP

from streams.checkpoint import Writer
from streams.state import SIDES, PartitionState, Side
from streams.transport import Progress
from streams.watermark import Answer, WatermarkClock

STUCK_S = 180.0
"""Silence after which a recovery or a rebalance is given up; each of their steps has a timeout of its own far below."""


class StuckError(Exception):
    """Something that has to end by itself did not: a client's thread hangs, or the group never agrees. Start afresh."""

    retriable = False


class Flow(Protocol):
    """What the learner asks of the transport."""

    def start_flow(self, tp: TP, offset: int) -> None: ...  # noqa: D102
    def halt(self, tps: Iterable[TP] | None = None) -> None: ...  # noqa: D102
    def hold(self, tp: TP, *, held: bool) -> None: ...  # noqa: D102
    def progress(self, tp: TP) -> Progress | None: ...  # noqa: D102
    async def bounds(self, tp: TP) -> tuple[int, int]: ...  # noqa: D102
    async def commit_group(self, offsets: dict[TP, int]) -> bool: ...  # noqa: D102
    async def rejoin(self) -> None: ...  # noqa: D102


@dataclass(slots=True)
class Lifecycle:
    """One partition of this worker."""

    number: int
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    state: PartitionState | None = None
    writer: Writer | None = None
    clock: WatermarkClock = field(default_factory=WatermarkClock)
    flowing: bool = False
    rewinding: set[Side] = field(default_factory=set)
    looking: set[Side] = field(default_factory=set)
    committed: dict[Side, int] = field(default_factory=dict)
    told: dict[Side, int] = field(default_factory=dict)  # what the group knows of it
    answered: int = 0  # number of the broker's newest answer
    progressed: float = field(default_factory=monotonic)
    stirred: float = field(default_factory=monotonic)  # when its recovery last did something
    came: dict[Side, float] = field(default_factory=lambda: dict.fromkeys(SIDES, monotonic()))  # when a batch last did

    def stir(self) -> None:
        """Its recovery did something."""
        self.stirred = monotonic()

    def heard(self, answers: Mapping[Side, Answer]) -> None:
        """With nothing to commit, an answer of the broker that was not seen before is progress; silence is not."""
        newest = max((answer.number for answer in answers.values()), default=0)
        if newest != self.answered:
            self.answered, self.progressed = newest, monotonic()


def stuck(lifecycles: Iterable[Lifecycle], assigned: Container[int], revoked: float | None) -> str | None:
    """What hangs, in words; None if nothing does. ``revoked``: when a rebalance began that has not ended (monotonic s)."""
    now = monotonic()
    if revoked is not None and now - revoked > STUCK_S:
        return f"a rebalance has not ended for {STUCK_S:g} s; ending, to be started afresh"
    if revoked is None:
        for lifecycle in lifecycles:
            recovers = lifecycle.state is None and lifecycle.number in assigned
            if recovers and now - lifecycle.stirred > STUCK_S:
                return f"the recovery of partition {lifecycle.number} hangs for {STUCK_S:g} s; ending, to be started afresh"
    return None
