"""From requests to answers that are safe: what is asked for once, what is known, what failed, what may be committed.

The order for one request, and what a crash after each step means:

1. *taken*: its offset is open; the request is known, joins an equal one that waits, or goes to the device. After a crash it is read again.
2. *encoded*: its vector, or its dead letter, is given to the producer. As after 1.
3. *safe*: all brokers have it. The key counts as known and the offset as settled. After a crash the request is read again, and found
   in the topic, which is read before anything else (`encoder_known`). A dead letter is written twice then.
4. *committed*: offsets before which all is settled. Nothing is read again.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from encoders.batching import InFlight, Outcome
from encoders.errors import TextError
from encoders.keys import key_of
from encoders.seen import Seen
from encoders.worker import Job
from streams.decoded import Dead
from streams.embedding_events import EmbeddingRequest, decode_request
from streams.encoder_metrics import EncoderMetrics
from streams.encoder_offsets import Offsets, Place
from streams.encoder_output import Output
from streams.events import EventError
from streams.reading import SimpleRecord

OVERHEAD_BYTES = 2_000
"""What a request takes besides its text: the record, the vector, their objects."""


class Submit(Protocol):
    """What encodes texts."""

    def submit(self, jobs: Sequence[Job]) -> None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that waits."""

    place: Place
    record: SimpleRecord

    @property
    def octets(self) -> int:
        """Memory that it takes, about."""
        return 2 * len(self.record.value or b"") + OVERHEAD_BYTES


class Flow:
    """Requests of one worker on their way. Safe from several threads.

    Args:
        fingerprint: the encoder's.
        topic: where requests come from, for dead letters.
        most_text_bytes: a longer text is a dead letter.
        seen: keys that are in the topic.
        output: writes.
        metrics: told.

    Give `answered` to the pipeline, and the pipeline to `take`.
    """

    def __init__(
        self, *, fingerprint: str, topic: str, most_text_bytes: int, seen: Seen, output: Output, metrics: EncoderMetrics
    ) -> None:
        self._fingerprint, self._topic, self._most_text_bytes = fingerprint, topic, most_text_bytes
        self._seen, self._output, self._metrics = seen, output, metrics
        self._waiting: InFlight[bytes, Asked] = InFlight()
        self._offsets = Offsets()
        self._changed = threading.Condition()
        self._octets = 0

    @property
    def octets(self) -> int:
        """Memory that requests take which have no safe answer, about."""
        return self._octets

    def take(self, records: Sequence[tuple[int, SimpleRecord]], pipeline: Submit) -> None:
        """Requests (partition, record) were read; step 1."""
        good: list[tuple[Asked, EmbeddingRequest, bytes]] = []
        dead: list[tuple[Asked, str]] = []
        for partition, record in records:
            asked = Asked(Place(partition, record.offset), record)
            try:
                request = decode_request(record.value, record.headers, most_bytes=self._most_text_bytes)
                good.append((asked, request, key_of(self._fingerprint, request.text)))
            except EventError as error:
                dead.append((asked, str(error)))
        with self._changed:
            for asked in [asked for asked, *_ in good] + [asked for asked, _ in dead]:
                self._octets += asked.octets
            for place in sorted(Place(partition, record.offset) for partition, record in records):
                self._offsets.take(place)
            jobs = self._new(good)
        for asked, why in dead:
            self._fail(asked, why, "event")
        pipeline.submit(jobs)

    def answered(self, answers: Sequence[tuple[bytes, Outcome]]) -> None:
        """Texts were encoded, or were not; step 2. Called in the device's thread."""
        for key, outcome in answers:
            if isinstance(outcome, Exception):
                with self._changed:
                    failed = self._waiting.answer(key)
                fault = "text" if isinstance(outcome, TextError) else "forward"
                for asked in failed:
                    self._fail(asked, f"the text cannot be encoded: {_words(outcome)}", fault)
            else:
                self._output.vector(key, outcome, lambda took_s, key=key: self._safe(key, took_s))  # type: ignore[misc]

    def committable(self) -> dict[int, int]:
        """By partition the offset that may be committed, where it is another than the last time; step 4."""
        with self._changed:
            return self._offsets.committable()

    def forget(self, partitions: Sequence[int]) -> None:
        """The partitions are somebody else's; what is on its way is answered all the same."""
        with self._changed:
            self._offsets.forget(partitions)

    def wait(self, most_octets: int, timeout_s: float) -> bool:
        """Wait until requests take no more memory than that; whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: self._octets <= most_octets, timeout_s)

    def _new(self, good: Sequence[tuple[Asked, EmbeddingRequest, bytes]]) -> list[Job]:
        jobs: list[Job] = []
        known = self._seen.has([key for *_, key in good]) if good else ()
        for (asked, request, key), there in zip(good, known, strict=True):
            if there and not request.again:
                self._metrics.requests.labels(outcome="cached").inc()
                self._settle(asked)
            elif self._waiting.ask(key, asked):
                jobs.append(Job(request.text, key))
            else:
                self._metrics.requests.labels(outcome="joined").inc()
        return jobs

    def _safe(self, key: bytes, took_s: float) -> None:
        """Step 3 of all requests for a key."""
        self._metrics.publish_seconds.observe(took_s)
        self._metrics.requests.labels(outcome="encoded").inc()
        with self._changed:
            self._seen.add([key])
            for asked in self._waiting.answer(key):
                self._settle(asked)

    def _fail(self, asked: Asked, why: str, reason: str) -> None:
        self._metrics.requests.labels(outcome="failed").inc()
        self._metrics.failures.labels(reason=reason).inc()

        def safe(_: float) -> None:
            with self._changed:
                self._settle(asked)

        self._output.dead(self._topic, asked.place.partition, [Dead(asked.record, why)], safe)

    def _settle(self, asked: Asked) -> None:
        self._offsets.settle(asked.place)
        self._octets -= asked.octets
        self._changed.notify_all()


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, TextError) else f"{type(error).__name__}: {error}"
