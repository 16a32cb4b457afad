"""Sending events: codecs, partitions, the bounded queue, and what is told of failures."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from confluent_kafka import KafkaError, KafkaException

from streams import topics
from streams.columns import encode_impressions
from streams.delivery import NotDelivered, QueueFull, TooLarge
from streams.events import Codec, Impression, Outcome, codec_of
from streams.gathering import BATCH_ROWS, Gathering, batches
from streams.partition import partition_for
from streams.producer import ASK_S, EventProducer
from streams.reading import bounds, read, reader
from streams.settings import Settings

if TYPE_CHECKING:
    from streams.delivery import Delivery

NOBODY = "127.0.0.1:1"


def impression(number: int, *, policy: str = "p", dimension: int = 2) -> Impression:
    """The impression with this number."""
    return Impression(
        decision_id=f"d{number}",
        slot="top",
        policy=policy,
        arm="a",
        propensity=0.5,
        context=[0.5] * dimension,
        ts=number,
    )


def outcome(number: int) -> Outcome:
    """The outcome of the decision with this number."""
    return Outcome(decision_id=f"d{number}", slot="top", outcome_id="o", ts=number)


@pytest.fixture
def settings(local_broker: str, prefix: str) -> Settings:
    made = Settings(bootstrap=local_broker, prefix=prefix, partitions=3)
    topics.create(made)
    return made


def records(settings: Settings, topic: str) -> list[tuple[int, Any]]:
    """Everything in a topic as (partition, record)."""
    found: list[tuple[int, Any]] = []
    with reader(settings.librdkafka()) as consumer:
        for number in range(settings.partitions):
            _, high = bounds(consumer, topic, number, timeout_s=10)
            for batch in read(consumer, topic, number, 0, high, timeout_s=10):
                found.extend((number, record) for record in batch)
    return found


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_single_events_lie_where_murmur2_of_their_decision_says(settings: Settings, codec: Codec) -> None:
    """Key, partition, content type and content of an impression and its click."""
    producer = EventProducer(settings, codec=codec)
    for number in range(50):
        producer.impression(impression(number))
        producer.outcome(outcome(number))
    producer.close()
    for topic in (settings.topics.impressions, settings.topics.clicks):
        found = records(settings, topic)
        assert len(found) == 50
        for partition, record in found:
            event = getattr(msgspec, codec).decode(record.value)
            assert record.key == event["decision_id"].encode()
            assert partition == partition_for(record.key, 3)
            assert codec_of(record.value, dict(record.headers)["content-type"]) == codec_of(record.value) == codec
    assert producer.stats.delivered == 100
    assert producer.stats.queued == producer.stats.failed == 0


def test_columnar_batches_hold_each_row_once_in_its_partition(settings: Settings) -> None:
    """Rows of two policies and of outcomes, gathered, arrive once each, in few records."""
    tags: list[object] = []
    producer = EventProducer(settings, codec="columns", on_delivery=lambda delivery: tags.extend(delivery.tags))
    for number in range(300):
        producer.impression(impression(number, policy="p" if number % 2 else "q"), tag=number)
        producer.outcome(outcome(number))
    producer.close()
    for topic in (settings.topics.impressions, settings.topics.clicks):
        found = records(settings, topic)
        batch = [(partition, msgspec.msgpack.decode(record.value[4:])) for partition, record in found]
        ids = [(partition, name) for partition, columns in batch for name in columns["decision_id"]]
        assert sorted(name for _, name in ids) == sorted(f"d{number}" for number in range(300))
        assert all(partition == partition_for(name.encode(), 3) for partition, name in ids)
        assert len(found) < 100
    assert sorted(tag for tag in tags if isinstance(tag, int)) == list(range(300))
    assert producer.stats.delivered == 600


def test_rows_that_cannot_share_a_batch_are_kept_apart() -> None:
    """Policies and dimensions make batches of their own; a batch has a largest size."""
    gathering = Gathering()
    for number in range(BATCH_ROWS + 1):
        gathering.add("t", impression(number), None)
    gathering.add("t", impression(0, policy="q"), None)
    gathering.add("t", impression(0, dimension=3), None)
    taken = gathering.take()
    assert sorted(len(rows) for _, rows in taken) == [1, 1, BATCH_ROWS + 1]
    assert gathering.take() == []
    sizes = [len(part) for _, rows in taken for _, _, part in batches(rows, partitions=1)]
    assert sorted(sizes) == [1, 1, 1, BATCH_ROWS]


def test_a_page_is_taken_whole_or_not_at_all() -> None:
    """A page for which there is too little room leaves the queue as it was; other codecs refuse pages in words."""
    producer = EventProducer(Settings(bootstrap=NOBODY), codec="columns", queue_rows=5, timeout_s=60)
    page = [impression(number) for number in range(3)]
    assert producer.impressions(page, tags=page)
    assert not producer.impressions(page, tags=page)
    assert producer.stats.taken == 3
    with pytest.raises(NotDelivered):
        producer.close(timeout_s=0.1)
    with pytest.raises(ValueError, match="closed"):
        producer.impressions(page, tags=page)
    one_by_one = EventProducer(Settings(bootstrap=NOBODY), codec="json")
    with pytest.raises(ValueError, match="codec is 'json'"):
        one_by_one.impressions(page, tags=page)
    one_by_one.close()


def test_contexts_given_as_float32_make_the_same_batch() -> None:
    """Byte for byte that of the same numbers in lists; different lengths are refused either way."""
    lists = [impression(number) for number in range(4)]
    narrow = [msgspec.structs.replace(one, context=np.array(one.context, "<f4").tobytes()) for one in lists]
    assert all(np.array_equal(np.array(one.context, "<f4"), one.context) for one in lists)
    assert encode_impressions(narrow) == encode_impressions(lists) == encode_impressions([*narrow[:2], *lists[2:]])
    with pytest.raises(ValueError, match="different dimensions"):
        encode_impressions([narrow[0], msgspec.structs.replace(narrow[1], context=b"\0" * 400)])


@pytest.mark.parametrize("codec", ["json", "columns"])
def test_a_full_queue_is_an_error_to_the_caller_at_once(codec: Codec) -> None:
    """Without a broker the bounded queue fills; then each event is refused, and none of those taken is forgotten."""
    producer = EventProducer(Settings(bootstrap=NOBODY), codec=codec, queue_rows=10, timeout_s=60)
    for number in range(10):
        producer.impression(impression(number))
    begun = time.monotonic()
    with pytest.raises(QueueFull, match="10 events wait for Kafka"):
        producer.impression(impression(11))
    assert time.monotonic() - begun < 5
    assert producer.stats.taken == 10
    producer._producer.purge()
    with pytest.raises(NotDelivered, match=r"10 events (were not delivered|are queued)"):
        producer.close(timeout_s=5 if codec == "json" else 0)  # columns wait in the producer for partitions


def test_events_that_no_broker_takes_fail_and_are_told() -> None:
    """Failures are counted, reported for each record, and raised by flush once."""
    told: list[Delivery] = []
    producer = EventProducer(Settings(bootstrap=NOBODY), timeout_s=0.5, on_delivery=told.append)
    producer.outcome(outcome(1), tag="mine")
    with pytest.raises(NotDelivered, match="1 events were not delivered; the last error was"):
        producer.flush(timeout_s=20)
    assert (producer.stats.failed, producer.stats.queued) == (1, 0)
    assert [(delivery.tags, delivery.offset) for delivery in told] == [(["mine"], -1)]
    assert told[0].error
    producer.flush()
    producer.close()
    producer.close()
    with pytest.raises(ValueError, match="is closed"):
        producer.outcome(outcome(2))


def test_flush_that_takes_too_long_says_how_much_is_queued() -> None:
    """It neither waits for ever nor pretends."""
    producer = EventProducer(Settings(bootstrap=NOBODY), timeout_s=60)
    producer.outcome(outcome(1))
    with pytest.raises(NotDelivered, match=r"1 events are queued after 0.3 s"):
        producer.flush(timeout_s=0.3)
    producer._producer.purge()
    with pytest.raises(NotDelivered):
        producer.close(timeout_s=5)


class Silent:
    """Brokers that tell nothing: each question is noted, and fails when `answer` is set."""

    def __init__(self, *, answers: bool = True) -> None:
        self.asked: list[float] = []
        self.answer = threading.Event()
        if answers:
            self.answer.set()

    def list_topics(self, _: str, *, timeout: float) -> None:
        self.asked.append(timeout)
        self.answer.wait(timeout)
        raise KafkaException(KafkaError(KafkaError._TRANSPORT))

    def flush(self, timeout: float) -> None:
        time.sleep(timeout)

    def poll(self, timeout: float) -> None:
        time.sleep(timeout)


def three_kinds(silent: Silent, *, linger_ms: float) -> EventProducer:
    """A producer with rows of three kinds, whose brokers are silent."""
    producer = EventProducer(Settings(bootstrap=NOBODY), codec="columns", linger_ms=linger_ms)
    producer._producer = silent  # type: ignore[assignment]
    producer.impression(impression(1))
    producer.impression(impression(2, policy="q"))
    producer.outcome(outcome(1))
    return producer


@pytest.mark.parametrize(
    ("timeout_s", "wanted", "failed"),
    [(0.3, "3 events are queued after 0.3 s", 0), (1000.0, "3 events were not delivered", 3)],
)
def test_silent_brokers_are_asked_once_for_all_kinds_and_no_longer_than_there_is_time(
    timeout_s: float, wanted: str, failed: int
) -> None:
    """Rows fail only where nobody cut the question short; else they wait."""
    silent = Silent()
    producer = three_kinds(silent, linger_ms=3_600_000)
    with pytest.raises(NotDelivered, match=wanted):
        producer.flush(timeout_s)
    assert len(silent.asked) == 1
    assert silent.asked[0] <= min(timeout_s, ASK_S)
    assert (producer.stats.failed, producer.stats.queued) == (failed, 3 - failed)
    with contextlib.suppress(NotDelivered):
        producer.close(0.0)
    assert len(silent.asked) == 1


def test_close_does_not_wait_for_a_thread_that_asks_silent_brokers() -> None:
    """It says what is queued, and the thread ends by itself."""
    silent = Silent(answers=False)
    producer = three_kinds(silent, linger_ms=1)
    until = time.monotonic() + 10
    while not silent.asked and time.monotonic() < until:
        time.sleep(0.01)
    with pytest.raises(NotDelivered, match=r"events are queued after 0.1 s"):
        producer.close(0.1)
    assert producer._thread.is_alive()
    silent.answer.set()
    producer._thread.join(10)
    assert not producer._thread.is_alive()


@pytest.mark.parametrize(("codec", "queue_rows"), [("xml", 10), ("json", 0)])
def test_impossible_settings_are_refused(codec: Any, queue_rows: int) -> None:
    """With what is allowed."""
    with pytest.raises(ValueError, match="allowed"):
        EventProducer(Settings(), codec=codec, queue_rows=queue_rows)


def test_context_survives_a_columnar_batch_exactly() -> None:
    """Contexts that are not float32 travel as float64."""
    x = [0.1, 1 / 3]
    event = msgspec.structs.replace(impression(1), context=x)
    [(_, value, _)] = batches([(event, None)], partitions=1)
    columns = msgspec.msgpack.decode(value[4:])
    assert np.frombuffer(columns["context"], columns["dtype"]).tolist() == x


def test_an_event_too_large_for_kafka_is_refused_for_good(local_broker: str, prefix: str) -> None:
    """The caller learns the size and the limit; nothing else is lost by it."""
    settings = Settings(bootstrap=local_broker, prefix=prefix, partitions=1)
    topics.create(settings)
    producer = EventProducer(settings)
    with pytest.raises(TooLarge, match=r"takes 2000\d+ bytes .* about 1000000 bytes") as caught:
        producer.outcome(Outcome(decision_id="d" * 2_000_000, slot="s", outcome_id="o", ts=1))
    assert not caught.value.retriable
    producer.outcome(Outcome(decision_id="d", slot="s", outcome_id="o", ts=1))
    producer.close()
    assert (producer.stats.taken, producer.stats.delivered, producer.stats.failed) == (1, 1, 0)
