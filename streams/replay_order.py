"""The order in which a log may be sent, so that the learner finds every outcome's impression whatever the speed.

The learner's clock is event time as read: an impression leaves when it sees a time of ``window_s + grace_s`` later. So
the log goes out in chunks of at most ``window_s`` of event time: first the outcomes whose time lies in the chunk, then,
when these are readable, its impressions; the next chunk's outcomes follow when these impressions are readable. So the
largest readable time never runs ahead of an impression by more than its window, and no impression is readable before
the outcomes of its chunk. Outcomes that come first wait in the learner.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from streams.events import Impression, Outcome
    from streams.logged_rows import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Outcomes, then impressions. ``start_ms`` is its first impression's event time; without one, its first outcome's."""

    start_ms: int
    outcomes: list[Outcome] = field(default_factory=list)
    impressions: list[Impression] = field(default_factory=list)


def chunks(events: Iterable[Event], *, span_ms: int) -> Iterator[Chunk]:
    """Yield chunks of less than `span_ms` of event time, in the order they have to be sent.

    Outcomes that happened after all impressions come last, in the order of their times.
    """
    later: list[tuple[int, int, Outcome]] = []
    impressions: list[Impression] = []
    start_ms = 0
    for event in events:
        ts = event.impression.ts
        if impressions and ts >= start_ms + span_ms:
            yield Chunk(start_ms=start_ms, outcomes=_before(later, start_ms + span_ms), impressions=impressions)
            impressions = []
        if not impressions:
            start_ms = ts
        impressions.append(event.impression)
        if event.outcome is not None:
            heapq.heappush(later, (event.outcome.ts, event.row, event.outcome))
    if impressions:
        yield Chunk(start_ms=start_ms, outcomes=_before(later, start_ms + span_ms), impressions=impressions)
    while later:
        start_ms = later[0][0]
        yield Chunk(start_ms=start_ms, outcomes=_before(later, start_ms + span_ms))


def _before(later: list[tuple[int, int, Outcome]], end_ms: int) -> list[Outcome]:
    """Take the outcomes with a time below `end_ms` off the heap, oldest first."""
    outcomes = []
    while later and later[0][0] < end_ms:
        outcomes.append(heapq.heappop(later)[2])
    return outcomes
