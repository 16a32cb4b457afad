"""Getting a partition of the attribution back, in this order.

1. *Initialise* its transactional producer: this fences the predecessor and ends its open transaction.
2. *Read* its newest checkpoint record.
3. *Rebuild*: the session reads touches and conversions again from the oldest offsets that are needed. Nothing is given out before
   everything is there that the checkpoint included.

A crash in between changes nothing; the next one begins again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from streams.attribution_state import AttributionState, Input
from streams.checkpoint import Writer
from streams.logs import get_logger
from streams.reading import bounds, read
from streams.recovery import StateMismatchError

if TYPE_CHECKING:
    from confluent_kafka import Consumer

    from streams.attribution import Rule
    from streams.failpoints import Pass
    from streams.settings import Settings

log = get_logger(__name__)

TIMEOUT_S = 10.0
TRANSACTION_S = 10.0
"""After which the broker ends the transaction of a dead attributor: until then, nobody reads the clicks behind it."""


def recover(
    looking: Consumer,
    number: int,
    *,
    settings: Settings,
    rules: Mapping[str, Rule],
    topics: Mapping[Input, str],
    passing: Pass,
) -> tuple[AttributionState, Writer, dict[str, int]]:
    """Partition ``number`` up to step 2, its writer, and by topic how many needed records retention has deleted.

    Raises FencedError, UnknownOutcomeError or ReadError (try again), StateMismatchError (do not).
    """
    names = settings.topics
    writer = Writer(
        settings.librdkafka(),
        transactional_id=f"{settings.attributor_group}-{number}",
        partition=number,
        topics={"clicks": names.clicks, "dead_letters": names.dead_letters, "attribution": names.attribution},
        timeout_s=TIMEOUT_S,
        passing=passing,
        transaction_timeout_s=TRANSACTION_S,
    )
    writer.initialise()  # 1
    checkpoint = newest(looking, names.attribution, number)  # 2
    passing("recovery.read")
    state = AttributionState(number, partitions=settings.partitions, rules=rules, topics=topics, checkpoint=checkpoint)
    lost = {}
    for side, topic in topics.items():
        missing = _begin(side, topic, state, bounds(looking, topic, number, timeout_s=TIMEOUT_S))
        if missing:
            lost[topic] = missing
            log.warning("retention deleted what was needed", topic=topic, partition=number, records=missing)
    return state, writer, lost


def _begin(side: Input, topic: str, state: AttributionState, found: tuple[int, int]) -> int:
    """Let the state begin where there is something to read; returns how much that it needs is missing."""
    low, high = found
    if high < state.settled[side]:
        raise StateMismatchError(
            f"{topic}-{state.number} ends at {high}, and what was attributed goes up to {state.settled[side]}: the topic was made anew. "
            "Delete the topic attribution with all it holds and run clickloop topics create, or use another prefix"
        )
    missing = max(0, low - state.positions[side]) if state.settled[side] else 0
    state.reached(side, low)
    return missing


def newest(consumer: Consumer, topic: str, partition: int) -> bytes | None:
    """The last committed record of a partition, None if there is none: a compacted topic of one key keeps that."""
    low, high = bounds(consumer, topic, partition, timeout_s=TIMEOUT_S)
    back = 64
    while high > low:
        start = max(low, high - back)
        found = [r for batch in read(consumer, topic, partition, start, None, timeout_s=TIMEOUT_S) for r in batch]
        if found:
            return found[-1].value
        if start == low:
            return None
        back *= 64
    return None
