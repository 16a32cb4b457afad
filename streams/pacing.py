"""Which topic of a partition pair has to wait for the other, so that both are read at about the same event time.

A worker that catches up would otherwise read the smaller topic to its end first: all its outcomes would wait in memory for
their impressions, or all its impressions for outcomes that are in the log already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streams.state import Side
from streams.watermark import OTHER

LEAD_MS = 5_000
PATIENCE_S = 1.0


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a topic is read: its largest event time (ms), whether the broker has more, and for how long none of it came (s)."""

    largest_ts: int | None
    unread: bool
    idle_s: float


def held(standings: Mapping[Side, Standing]) -> dict[Side, bool]:
    """Whether each topic waits: it is more than `LEAD_MS` ahead of the other, of which more is coming.

    What the broker has and does not hand over (the open transaction of a producer that died) stops nobody for longer than `PATIENCE_S`.

    >>> ahead, behind = Standing(90_000, True, 0.1), Standing(60_000, True, 0.1)
    >>> held({"impressions": behind, "clicks": ahead})
    {'impressions': False, 'clicks': True}
    >>> held({"impressions": Standing(60_000, False, 0.1), "clicks": ahead})
    {'impressions': False, 'clicks': False}
    """
    return {side: _waits(standing, standings[OTHER[side]]) for side, standing in standings.items()}


def _waits(one: Standing, other: Standing) -> bool:
    if one.largest_ts is None or other.largest_ts is None or not other.unread or other.idle_s > PATIENCE_S:
        return False
    return one.largest_ts > other.largest_ts + LEAD_MS
