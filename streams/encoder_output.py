"""What the encoder writes: vectors, dead letters, its announcement; and who is told when the brokers have them."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import KafkaError, Producer

from streams import dead_letters, logs, security
from streams.decoded import Dead
from streams.embedding_events import (
    ENCODER_HEADER,
    Announcement,
    FloatArray,
    announcement_key,
    encode_announcement,
    pack_vector,
    vector_headers,
)
from streams.reading import QUIET
from streams.settings import Settings

POLL_S = 0.1

log = logs.get(__name__)


class Output:
    """An idempotent producer that never gives a record up while it runs, with a thread for its acknowledgements.

    Args:
        fingerprint: the encoder's, for the headers of vectors and dead letters.
        dimension: of its vectors.
        fatal: called when a record can never be delivered.
    """

    def __init__(
        self, settings: Settings, *, fingerprint: str, dimension: int, fatal: Callable[[BaseException], None]
    ) -> None:
        self._topics = settings.topics
        self._beside = settings.encoder.name is not None
        self._headers = vector_headers(fingerprint, dimension)
        self._blame = (ENCODER_HEADER, fingerprint.encode())
        self._fatal = fatal
        self._numbers = itertools.count()
        self._open: dict[int, float] = {}  # since when each record waits, the oldest first
        self._producer = Producer(
            security.librdkafka(settings)
            | {
                "enable.idempotence": True,
                "message.timeout.ms": 0,  # brokers come back; the bounded queue makes the input wait for them
                "linger.ms": 5,
                "compression.type": "none",  # float32 vectors do not get smaller
                "partitioner": "murmur2_random",
                "message.max.bytes": 16_000_000,
                "queue.buffering.max.messages": 1_000_000,
                "log_level": QUIET,
            }
        )
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="clickloop-encoder-output", daemon=True)
        self._thread.start()

    @property
    def silent_s(self) -> float:
        """How long the oldest record has waited for its acknowledgement; 0 if none waits."""
        oldest = next(iter(list(self._open.values())), None)
        return 0.0 if oldest is None else time.monotonic() - oldest

    def vector(self, key: bytes, vector: FloatArray, safe: Callable[[float], None]) -> None:
        """Write a vector; `safe` is called with the seconds that it took, once the brokers have it."""
        self._produce(self._topics.embeddings, key, pack_vector(vector), self._headers, safe)

    def dead(self, topic: str, partition: int, rows: Sequence[Dead], safe: Callable[[float], None]) -> None:
        """Write what one record did wrong, and by which encoder; `safe` is called once the brokers have all of it."""
        letters = list(dead_letters.letters(topic, partition, rows))
        left = [len(letters)]

        def one_safe(took_s: float) -> None:
            left[0] -= 1
            if not left[0]:
                safe(took_s)

        for letter in letters:
            self._produce(self._topics.dead_letters, letter.key, letter.value, [*letter.headers, self._blame], one_safe)

    def announce(self, announcement: Announcement) -> None:
        """Say which encoder is at work."""
        key = announcement_key(announcement.fingerprint, beside=self._beside)
        self._produce(self._topics.embeddings, key, encode_announcement(announcement), self._headers, lambda _: None)

    def flush(self, timeout_s: float) -> int:
        """Wait for acknowledgements; how many records are left without."""
        return int(self._producer.flush(timeout_s))

    def close(self) -> None:
        """End the thread; what has no acknowledgement is given up."""
        self._ending.set()
        self._thread.join(timeout=5)

    def _produce(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Any, safe: Callable[[float], None]
    ) -> None:
        began = time.monotonic()
        number = next(self._numbers)
        self._open[number] = began

        def delivered(error: KafkaError | None, _: Any) -> None:
            self._open.pop(number, None)
            if error is None:
                safe(time.monotonic() - began)
            elif not self._ending.is_set():
                self._fatal(RuntimeError(f"{topic} does not take what the encoder writes: {error.str()}"))

        while True:
            try:
                self._producer.produce(topic, value=value, key=key, headers=headers, on_delivery=delivered)
            except BufferError:
                time.sleep(0.05)
            else:
                return

    def _poll(self) -> None:
        while not self._ending.is_set():
            try:
                self._producer.poll(POLL_S)
            except Exception as error:  # noqa: BLE001 - a callback's own error must not end the acknowledgements silently
                self._fatal(error)
                return
