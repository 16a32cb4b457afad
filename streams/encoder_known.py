"""What is in the topic `embeddings` already: read at the start and whenever the group changes, kept as keys alone."""

from __future__ import annotations

from collections.abc import Callable

from encoders.keys import KEY_BYTES
from encoders.seen import Seen
from streams import logs, security
from streams.embedding_events import ANNOUNCEMENT_KEY, Announcement, decode_announcement
from streams.events import EventError
from streams.reading import SimpleRecord, bounds, partition_count, read, reader
from streams.settings import Settings

TIMEOUT_S = 10.0

log = logs.get(__name__)


class Known:
    """Keys whose vector by one encoder is in the topic, as far as there is memory. Not safe from several threads.

    Attributes:
        seen: the keys.
        announced: the newest announcement that was read.
    """

    def __init__(self, settings: Settings, *, fingerprint: str) -> None:
        self._client = security.librdkafka(settings)
        self._topic = settings.topics.embeddings
        self._fingerprint = fingerprint.encode()
        self._positions: dict[int, int] = {}
        self.seen = Seen(most_bytes=max(int(settings.encoder.cache_mb * 1e6), 1_000))
        self.announced: Announcement | None = None

    def catch_up(self, goes_on: Callable[[], bool]) -> int:
        """Read what was written since the last call; how many keys came. Blocking. Raises ReadError.

        Of what there was before the first call, the newest that there is room for. `goes_on` is asked before each partition and
        after each batch, and ends it by False; the next call reads on.
        """
        came = 0
        with reader(self._client, wait_ms=5) as consumer:
            for partition in range(partition_count(self._client, self._topic, timeout_s=TIMEOUT_S)):
                if not goes_on():
                    return came
                low, high = bounds(consumer, self._topic, partition, timeout_s=TIMEOUT_S)
                start = max(low, self._positions.get(partition, high - self.seen.capacity))
                self._positions[partition] = start
                if start < high:
                    for batch in read(consumer, self._topic, partition, start, None, timeout_s=TIMEOUT_S):
                        came += self._take(batch)
                        self._positions[partition] = batch[-1].offset + 1
                        if not goes_on():
                            return came
                self._positions[partition] = max(self._positions[partition], high)
        return came

    def _take(self, records: list[SimpleRecord]) -> int:
        fresh: list[bytes] = []
        came = 0
        for record in records:
            if record.key == ANNOUNCEMENT_KEY and record.value is not None:
                self._announce(record.value)
            elif record.key is None or len(record.key) != KEY_BYTES:
                continue
            elif record.value is None:
                self.seen.add(fresh)
                came, fresh = came + len(fresh), []
                self.seen.discard([record.key])
            elif dict(record.headers).get("fingerprint") == self._fingerprint:
                fresh.append(record.key)
        self.seen.add(fresh)
        return came + len(fresh)

    def _announce(self, value: bytes) -> None:
        try:
            self.announced = decode_announcement(value)
        except EventError as error:
            log.warning("an announcement was passed over", why=str(error))
