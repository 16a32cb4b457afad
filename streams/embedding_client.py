"""Embeddings for a Python program: it asks for the vectors of texts, and has those that come.

    with EmbeddingClient(settings) as client:
        vectors = client.embed(["two red shoes", "a hat"])     # (2, dimension), asks for what is not there yet
        client.request(more)                                   # ahead of time, waits for nothing
        vector = client.get("two red shoes")                   # what is here, at once, or None

It follows the topic `embeddings` in a thread and needs neither the model nor torch: which encoder is at work stands in the topic.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, Producer, TopicPartition

from encoders.keys import KEY_BYTES, key_of
from streams import logs, security
from streams.embedding_events import (
    ANNOUNCEMENT_KEY,
    ENCODER_HEADER,
    Announcement,
    EmbeddingRequest,
    FloatArray,
    decode_announcement,
    encode_request,
    unpack_vector,
)
from streams.embedding_vectors import Vectors
from streams.events import EventError
from streams.projections import PREFIX, ProjectionError, decode_projection
from streams.reading import QUIET, of_message, partition_count

if TYPE_CHECKING:
    from types import TracebackType

    from policies.projection import Projection
    from streams.settings import Settings

log = logs.get(__name__)

_REASON, _TOPIC = "__connect.errors.exception.message", "__connect.errors.topic"


class NotEncoded(RuntimeError):  # noqa: N818 - reads as what it says
    """Texts have no vector: they cannot be encoded (not retriable), or no encoder answered in time (retriable)."""

    def __init__(self, text: str, *, retriable: bool) -> None:
        super().__init__(text)
        self.retriable = retriable


class EmbeddingClient:
    """Asks for embeddings and keeps those that come. Safe from several threads. Close it, or use it as a context manager.

    Args:
        settings: brokers, prefix.
        cache_mb: memory for vectors, in MB of 10^6 bytes.

    Raises:
        ReadError: the topics are not there, or no broker answers.
    """

    def __init__(self, settings: Settings, *, cache_mb: float = 256.0) -> None:
        self._topics = settings.topics
        self._vectors = Vectors(most_bytes=int(cache_mb * 1e6))
        self._announced: Announcement | None = None
        self._projections: dict[str, Projection] = {}
        client = security.librdkafka(settings)
        self._producer = Producer(
            client | {"partitioner": "murmur2_random", "linger.ms": 5, "enable.idempotence": True, "log_level": QUIET}
        )
        self._consumer = Consumer(
            client
            | {
                "group.id": "clickloop-embedding-client",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "log_level": QUIET,
            }
        )
        count = partition_count(client, self._topics.embeddings)
        self._behind = {*((self._topics.embeddings, number) for number in range(count)), (self._topics.dead_letters, 0)}
        own = [TopicPartition(self._topics.embeddings, number, OFFSET_BEGINNING) for number in range(count)]
        self._consumer.assign([*own, TopicPartition(self._topics.dead_letters, 0, OFFSET_END)])
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="clickloop-embeddings", daemon=True)
        self._thread.start()

    @property
    def encoder(self) -> Announcement | None:
        """The encoder at work, as far as it was read."""
        return self._announced

    def get(self, text: str, *, encoder: str | None = None) -> FloatArray | None:
        """The vector (d,) of a text if it is here, by the encoder of that fingerprint; None is the one at work."""
        mark = self._announced
        fingerprint = encoder if encoder is not None or mark is None else mark.fingerprint
        value = None if fingerprint is None else self._vectors.get(key_of(fingerprint, text))
        return None if value is None else unpack_vector(value)

    def projection(self, name: str) -> Projection | None:
        """The projection of that name if it is here."""
        return self._projections.get(name)

    def ask(self, text: str) -> bool:
        """`request` of one text, again where it may be in the topic already, without any waiting; False where there was no room."""
        key, value = self._request(text, again=self._vectors.evicted)
        try:
            self._producer.produce(self._topics.embedding_requests, value=value, key=key)
        except BufferError:
            return False
        return True

    def request(self, texts: Sequence[str], *, again: bool = False) -> None:
        """Ask for vectors without waiting for them; `again` also for those that the topic has, as for those that were taken back."""
        for text in texts:
            key, value = self._request(text, again=again)
            while True:
                try:
                    self._producer.produce(self._topics.embedding_requests, value=value, key=key)
                    break
                except BufferError:
                    self._producer.poll(0.05)
        self._producer.poll(0)

    def embed(self, texts: Sequence[str], *, timeout_s: float = 30.0) -> FloatArray:
        """Vectors (n, d) of texts, in their order; asks for those that are not here, and waits.

        Raises:
            NotEncoded: a text cannot be encoded, or something is missing after `timeout_s`.
        """
        until = time.monotonic() + timeout_s
        mark = self._up_to_date(until)
        keys = [key_of(mark.fingerprint, text) for text in texts]
        call = self._vectors.open(keys)
        try:
            missing = {key: text for key, text in zip(keys, texts, strict=True) if key in call.wanted}
            self.request(list(missing.values()), again=self._vectors.evicted)
            with self._vectors.changed:
                self._vectors.changed.wait_for(lambda: call.done, max(0.0, until - time.monotonic()))
        finally:
            self._vectors.close(call)
        if call.failed:
            key, why = next(iter(call.failed.items()))
            raise NotEncoded(
                f"{len(call.failed)} texts cannot be encoded; {missing[key][:80]!r}: {why}", retriable=False
            )
        if call.wanted:
            raise NotEncoded(
                f"{len(call.wanted)} of {len(set(keys))} vectors did not come within {timeout_s:g} s; see whether an encoder runs "
                "(clickloop worker encoder) and keeps up, or wait longer",
                retriable=True,
            )
        return np.array([unpack_vector(call.found[key]) for key in keys], np.float32).reshape(
            len(texts), mark.dimension
        )

    def close(self, timeout_s: float = 10.0) -> None:
        """Deliver what was asked and stop."""
        self._producer.flush(timeout_s)
        self._ending.set()
        self._thread.join(timeout=timeout_s)
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _request(self, text: str, *, again: bool) -> tuple[bytes | None, bytes]:
        """Key and value of a request; a worker may not know that a vector was taken back."""
        mark = self._announced
        key = None if mark is None else key_of(mark.fingerprint, text)
        again = again or (key is not None and self._vectors.taken_back(key))
        return key, encode_request(EmbeddingRequest(text=text, again=again, ts=int(time.time() * 1000)))

    def _up_to_date(self, until: float) -> Announcement:
        """The encoder at work, once the topic has been read to its end."""
        with self._vectors.changed:
            read = self._vectors.changed.wait_for(
                lambda: not self._behind and self._announced is not None, max(0.0, until - time.monotonic())
            )
        if not read or self._announced is None:
            why = "no encoder has announced itself" if not self._behind else "the brokers do not answer, or it is long"
            raise NotEncoded(f"{self._topics.embeddings} was not read in time: {why}", retriable=True)
        return self._announced

    def _follow(self) -> None:
        while not self._ending.is_set():
            for message in self._consumer.consume(1_000, timeout=0.1):
                error = message.error()
                if error is None:
                    self._take(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    with self._vectors.changed:
                        self._behind.discard((str(message.topic()), int(message.partition() or 0)))
                        self._vectors.changed.notify_all()
            self._producer.poll(0)

    def _take(self, message: Any) -> None:
        record = of_message(message)
        key, value = record.key, record.value
        if message.topic() == self._topics.dead_letters:
            headers = dict(record.headers)
            asked = headers.get(_TOPIC) == self._topics.embedding_requests.encode()
            if key is not None and asked and self._at_work(headers.get(ENCODER_HEADER)):
                self._vectors.fail(key, (headers.get(_REASON) or b"").decode(errors="replace"))
        elif key == ANNOUNCEMENT_KEY and value is not None:
            try:
                found = decode_announcement(value)
            except EventError as error:
                log.warning("an announcement was passed over", why=str(error))
                return
            with self._vectors.changed:
                self._announced = found
                self._vectors.changed.notify_all()
        elif key is not None and key.startswith(PREFIX):
            self._take_projection(key, value)
        elif key is not None and len(key) == KEY_BYTES:
            self._vectors.put(key, value)

    def _at_work(self, encoder: bytes | None) -> bool:
        """Whether that fingerprint, if there is one, is the encoder's whose vectors are waited for."""
        return encoder is None or self._announced is None or encoder == self._announced.fingerprint.encode()

    def _take_projection(self, key: bytes, value: bytes | None) -> None:
        name = key.removeprefix(PREFIX).decode(errors="replace")
        if value is None:
            self._projections.pop(name, None)
            return
        try:
            self._projections[name] = decode_projection(key, value)
        except ProjectionError as error:
            log.warning("a projection was passed over", why=str(error))
