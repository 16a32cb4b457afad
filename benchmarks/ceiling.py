"""aiokafka alone: `getmany` over both topics and nothing else, the most that a Python program on it can read."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks.figures import Moment, Speed

if TYPE_CHECKING:
    from benchmarks.filling import Filled
    from streams.settings import Settings

FETCH_OCTETS = 2 * 1024 * 1024  # as the learner's


def read_all(settings: Settings, filled: Filled) -> Speed:
    """Read what was written, in this process."""
    return asyncio.run(_read_all(settings, filled))


async def _read_all(settings: Settings, filled: Filled) -> Speed:
    names = {"impressions": settings.topics.impressions, "clicks": settings.topics.clicks}
    consumer = AIOKafkaConsumer(
        **settings.aiokafka(), group_id=None, max_partition_fetch_bytes=FETCH_OCTETS, fetch_max_wait_ms=250
    )
    await consumer.start()
    try:
        places = [TopicPartition(names[side], partition) for side, partition in filled.ends]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        wanted, seen = sum(filled.ends.values()), 0
        start = Moment.now(os.getpid())
        while seen < wanted:
            fetched = await consumer.getmany(timeout_ms=1000, max_records=5_000)
            seen += sum(map(len, fetched.values()))
        return Speed.between(start, Moment.now(os.getpid()), events=filled.events(filled.ends))
    finally:
        await consumer.stop()
