"""Impressions and outcomes to their topics, by librdkafka's idempotent producer.

librdkafka (confluent-kafka) rather than kafka-python: it sends from threads of its own without Python's lock, which a
server that decides needs for itself, and its queue is bounded and says so. Its retries deliver every event once
(``enable.idempotence``), or it counts as failed. librdkafka's default partitioner is not Kafka's: it is set here.

The queue is bounded. When it is full the caller gets `QueueFull`, at once: nothing is dropped silently, nothing blocks.
"""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streams.conversions import Conversion, encode_conversion
from streams.delivery import Delivery, NotDelivered, QueueFull, Stats, TooLarge
from streams.events import CONTENT_TYPE, CONTENT_TYPES, LARGEST_RECORD, Codec, Impression, Outcome, encode
from streams.gathering import Gathering, Row, batches

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streams.settings import Settings

__all__ = ["Delivery", "EventProducer", "NotDelivered", "QueueFull", "Stats", "TooLarge"]

_POLL_S = 0.05

ASK_S = 10.0
"""Seconds that a broker has to tell how many partitions a topic has; rows that waited for it have failed then."""

AGAIN_S = 3.0
"""Seconds after which brokers that did not tell are asked again; rows wait meanwhile."""

JOIN_S = 0.5
"""Seconds that `close` waits for the background thread, which may be asking brokers that are silent."""


class _CutShort(Exception):  # noqa: N818 - reads as what it says
    """Brokers were asked, and nobody waited long enough for the answer."""


class EventProducer:
    """Sends impressions and outcomes; safe to use from several threads.

    Args:
        settings: how the brokers are reached, and the names of the topics.
        codec: "json", "msgpack", or "columns", which gathers rows of a partition in one record.
        linger_ms: how long records, or rows of columnar batches, are gathered before they are sent.
        queue_rows: bound on the rows that wait.
        timeout_s: seconds after which a record that no broker took has failed.
        on_delivery: called for each record, in a background thread, when its fate is known. Must not raise.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        codec: Codec = "json",
        linger_ms: float = 5.0,
        queue_rows: int = 100_000,
        timeout_s: float = 30.0,
        on_delivery: Callable[[Delivery], None] | None = None,
    ) -> None:
        if codec not in CONTENT_TYPES:
            raise ValueError(f"codec is {codec!r}; allowed: {', '.join(CONTENT_TYPES)}")
        if queue_rows < 1:
            raise ValueError(f"queue_rows is {queue_rows}; allowed: 1 and above")
        self._topics = settings.topics
        self._codec: Codec = codec
        self._headers: list[tuple[str, str | bytes | None]] = [(CONTENT_TYPE, CONTENT_TYPES[codec])]
        self._linger_s = linger_ms / 1000
        self._queue_rows = queue_rows
        self._on_delivery = on_delivery
        self._lock = threading.Lock()
        self._stats = Stats()
        self._told = 0  # failures that a flush has raised
        self._gathering = Gathering()
        self._partitions: dict[str, int] = {}
        self._silence: tuple[float, Exception] | None = None  # until when nobody is asked again, and why
        self._closed = threading.Event()
        self._producer = Producer(
            {
                **settings.librdkafka(),
                "client.id": "clickloop",
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "linger.ms": linger_ms if codec != "columns" else 0,
                "queue.buffering.max.messages": queue_rows,
                "message.timeout.ms": int(timeout_s * 1000),
                "log_level": 2,  # what goes wrong is counted, and told by flush and stats
            }
        )
        self._thread = threading.Thread(target=self._serve, name="clickloop-deliver", daemon=True)
        self._thread.start()

    @property
    def stats(self) -> Stats:
        """The counts now."""
        return self._stats

    def impression(self, event: Impression, *, tag: object = None) -> None:
        """Queue one impression. Raises QueueFull if there is no room, TooLarge, ValueError after `close`."""
        self._take(self._topics.impressions, event, tag)

    def impressions(self, page: Sequence[Impression], *, tags: Sequence[object]) -> bool:
        """Queue impressions of one policy and dimension by the codec "columns"; False, and none was taken, if there is no room for all.

        Raises ValueError after `close`, or with another codec.
        """
        if self._closed.is_set():
            raise ValueError("the producer is closed; make a new one")
        if self._codec != "columns":
            raise ValueError(f"codec is {self._codec!r}, which writes events one by one; give each to `impression`")
        if not self._count(taken=len(page)):
            return False
        self._gathering.add_page(self._topics.impressions, page, tags)
        return True

    def outcome(self, event: Outcome, *, tag: object = None) -> None:
        """Queue one outcome. Raises QueueFull if there is no room, TooLarge, ValueError after `close`."""
        self._take(self._topics.clicks, event, tag)

    def conversion(self, event: Conversion, *, tag: object = None) -> None:
        """Queue one conversion, always as a record of its own. Raises QueueFull if there is no room, TooLarge, ValueError after `close`."""
        self._take(self._topics.conversions, event, tag)

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until the fate of everything queued is known.

        Raises:
            NotDelivered: something is still queued after `timeout_s`, or failed since the last flush.
        """
        until = time.monotonic() + timeout_s
        while self._stats.queued:
            if time.monotonic() > until:
                raise NotDelivered(f"{self._stats.queued} events are queued after {timeout_s:g} s; {self._why()}")
            self._send_gathered(until)
            left = self._producer.flush(max(0.0, min(0.2, until - time.monotonic())))
            if self._stats.queued and not left:  # they wait for brokers that are silent
                time.sleep(_POLL_S)
        failed, self._told = self._stats.failed - self._told, self._stats.failed
        if failed:
            raise NotDelivered(f"{failed} events were not delivered; {self._why()}")

    def close(self, timeout_s: float = 10.0) -> None:
        """Flush and stop; later events are refused. Raises NotDelivered as `flush` does. May be called twice."""
        if self._closed.is_set():
            return
        try:
            self.flush(timeout_s)
        finally:
            self._closed.set()
            self._thread.join(JOIN_S)

    def _take(self, topic: str, event: Impression | Outcome | Conversion, tag: object) -> None:
        if self._closed.is_set():
            raise ValueError("the producer is closed; make a new one")
        gathered = self._codec == "columns" and not isinstance(event, Conversion)
        value = b"" if gathered else _encoded(event, self._codec)
        if not self._count(taken=1):
            raise self._full()
        if not isinstance(event, Conversion) and gathered:
            self._gathering.add(topic, event, tag)
            return
        name = event.unit if isinstance(event, Conversion) else event.decision_id
        try:
            self._send(topic, value, key=name.encode(), tags=[tag])
        except BufferError as error:
            self._count(taken=-1)
            raise self._full() from error
        except KafkaException as error:
            self._count(taken=-1)
            if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                raise
            raise TooLarge(
                f"{topic}: the event of {_whose(event)} {name[:40]!r} takes {len(value)} bytes and was not sent: "
                f"{error.args[0].str()}; a record may take about {LARGEST_RECORD} bytes"
            ) from error

    def _count(self, *, taken: int = 0, delivered: int = 0, failed: int = 0, error: str | None = None) -> bool:
        """Add to the counts; False, and nothing added, if that would pass the bound of the queue."""
        with self._lock:
            now = self._stats
            if taken > 0 and now.queued + taken > self._queue_rows:
                return False
            self._stats = Stats(
                taken=now.taken + taken,
                delivered=now.delivered + delivered,
                failed=now.failed + failed,
                last_error=now.last_error if error is None else error,
            )
            return True

    def _full(self) -> QueueFull:
        return QueueFull(
            f"{self._queue_rows} events wait for Kafka and this one was not taken; try again later, slow down, "
            f"or raise queue_rows; {self._why()}"
        )

    def _why(self) -> str:
        last = self._stats.last_error
        return "no broker has answered yet" if last is None else f"the last error was: {last}"

    def _serve(self) -> None:
        """Serve delivery reports, and send columnar batches that have lingered."""
        last = time.monotonic()
        while not self._closed.is_set():
            self._producer.poll(min(_POLL_S, max(0.001, self._linger_s)))
            if time.monotonic() - last >= self._linger_s:
                self._send_gathered()
                last = time.monotonic()

    def _send_gathered(self, until: float = math.inf) -> None:
        """Send what is gathered; what no broker could be asked for by `until` (monotonic) waits on."""
        if self._silence is not None and time.monotonic() < self._silence[0]:
            return
        for topic, rows in self._gathering.take():
            try:
                parts = list(batches(rows, partitions=self._partition_count(topic, until)))
            except _CutShort:
                for event, tag in rows:
                    self._gathering.add(topic, event, tag)
                continue
            except (KafkaException, ValueError) as error:
                self._settle(Delivery(topic=topic, partition=-1, offset=-1, tags=_tags(rows), error=str(error)))
                continue
            for partition, value, part in parts:
                self._send_patiently(topic, value, partition=partition, tags=_tags(part))

    def _send_patiently(self, topic: str, value: bytes, *, partition: int, tags: Sequence[object]) -> None:
        """Wait for room in librdkafka's queue (bounded by bytes too): these rows were taken already."""
        while True:
            try:
                self._send(topic, value, key=None, tags=tags, partition=partition)
            except BufferError:
                time.sleep(_POLL_S)
            except KafkaException as error:
                self._settle(Delivery(topic=topic, partition=partition, offset=-1, tags=tags, error=str(error)))
                return
            else:
                return

    def _send(
        self, topic: str, value: bytes, *, key: bytes | None, tags: Sequence[object], partition: int = -1
    ) -> None:
        def report(error: KafkaError | None, message: Message) -> None:
            self._settle(
                Delivery(
                    topic=topic,
                    partition=_number(message.partition()),
                    offset=_number(message.offset()) if error is None else -1,
                    tags=tags,
                    error=None if error is None else error.str(),
                )
            )

        headers = None if topic == self._topics.conversions else self._headers  # their first byte tells the codec
        self._producer.produce(topic, value, key, partition=partition, on_delivery=report, headers=headers)

    def _partition_count(self, topic: str, until: float) -> int:
        if topic not in self._partitions:
            found: Any = self._asked(topic, until).topics[topic]
            if found.error is not None:
                raise KafkaException(found.error)
            self._partitions[topic] = len(found.partitions)
        return self._partitions[topic]

    def _asked(self, topic: str, until: float) -> Any:
        """What the brokers tell of a topic. Raises what was raised last if they were silent a moment ago."""
        now = time.monotonic()
        if self._silence is not None and now < self._silence[0]:
            raise self._silence[1]
        wait_s = min(ASK_S, max(0.01, until - now))
        try:
            return self._producer.list_topics(topic, timeout=wait_s)
        except KafkaException as error:
            why = error if wait_s == ASK_S else _CutShort(str(error))
            self._silence = (time.monotonic() + AGAIN_S, why)
            raise why from None

    def _settle(self, delivery: Delivery) -> None:
        if delivery.error is None:
            self._count(delivered=len(delivery.tags))
        else:
            self._count(failed=len(delivery.tags), error=delivery.error)
        if self._on_delivery is not None:
            self._on_delivery(delivery)


def _encoded(event: Impression | Outcome | Conversion, codec: Codec) -> bytes:
    return encode_conversion(event, codec) if isinstance(event, Conversion) else encode(event, codec)


def _whose(event: Impression | Outcome | Conversion) -> str:
    return "unit" if isinstance(event, Conversion) else "decision"


def _tags(rows: Sequence[Row]) -> list[object]:
    return [tag for _, tag in rows]


def _number(value: int | None) -> int:
    return -1 if value is None else value
