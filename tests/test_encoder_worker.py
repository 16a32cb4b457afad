"""The encoder as a process on a broker: every request answered, whatever dies, comes or stays away."""

from __future__ import annotations

from tests.encoders import tiny

# isort: split

import contextlib
import itertools
import random
import signal
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from encoders.keys import KEY_BYTES, key_of
from encoders.model import Encoder, load
from streams.embedding_client import EmbeddingClient, NotEncoded
from streams.embedding_events import ANNOUNCEMENT_KEY, EmbeddingRequest, encode_request, unpack_vector
from streams.processes import WorkerProcess
from streams.reading import SimpleRecord, bounds, read, reader
from streams.settings import Settings
from streams.topics import create
from tests.broker import ApacheKafka
from tests.waiting import wait_for

READY_S = 120.0
ANSWERED_S = 90.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder with poisonous words."""
    return tiny.make(tmp_path_factory.mktemp("model"), poisoned=True)


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    """The same in this process, for what the vectors must be."""
    return load(str(folder), dtype="fp32", device="cpu")


class World:
    """Topics under a prefix, encoder workers, and what is in the topics."""

    def __init__(self, bootstrap: str, prefix: str, folder: Path, logs: Path, **encoder: Any) -> None:
        given = {"model": str(folder), "dtype": "fp32", "device": "cpu", "threads": 1, "tokenizer_threads": 1} | encoder
        values: Any = {"encoder": given, "session_timeout_s": 6.0}
        self.settings = Settings(bootstrap=bootstrap, prefix=prefix, partitions=2, **values)
        self.logs = logs
        self.workers: list[WorkerProcess] = []
        assert create(self.settings).problems == ()
        self.producer = Producer(self.settings.librdkafka() | {"log_level": 2})

    def start(self, *, ready: bool = True) -> WorkerProcess:
        logs = self.logs / str(len(self.workers))
        logs.mkdir()
        settings = self.settings.model_copy(update={"instance_id": None})
        worker = WorkerProcess(settings, "encoder", folder=logs)
        self.workers.append(worker)
        if ready:
            worker.wait_ready(READY_S)
        return worker

    def ask(self, texts: Sequence[str | bytes], **more: Any) -> None:
        for text in texts:
            value = text if isinstance(text, bytes) else encode_request(EmbeddingRequest(text=text, **more))
            while True:
                try:
                    self.producer.produce(self.settings.topics.embedding_requests, value=value)
                    break
                except BufferError:
                    self.producer.poll(0.1)
            self.producer.poll(0)

    def wait_answered(self, timeout_s: float = ANSWERED_S) -> None:
        """Wait until the group has committed everything that was asked."""
        assert self.producer.flush(30) == 0
        until = time.monotonic() + timeout_s
        while self.uncommitted():
            assert time.monotonic() < until, "\n".join(worker.log_end() for worker in self.workers)
            time.sleep(0.2)

    def uncommitted(self) -> int:
        topic = self.settings.topics.embedding_requests
        group = Consumer(self.settings.librdkafka() | {"group.id": self.settings.encoder_group, "log_level": 2})
        try:
            left = 0
            for place in group.committed([TopicPartition(topic, number) for number in range(2)], timeout=10):
                low, high = group.get_watermark_offsets(place, timeout=10)
                left += high - max(place.offset, low)
        finally:
            group.close()
        return left

    def written(self) -> int:
        """How many records the topic of vectors has taken."""
        with reader(self.settings.librdkafka()) as consumer:
            topic = self.settings.topics.embeddings
            return sum(bounds(consumer, topic, number, timeout_s=10)[1] for number in range(2))

    def records(self, topic: str, partitions: int) -> list[SimpleRecord]:
        found: list[SimpleRecord] = []
        with reader(self.settings.librdkafka()) as consumer:
            for number in range(partitions):
                low, high = bounds(consumer, topic, number, timeout_s=10)
                for batch in read(consumer, topic, number, low, None, timeout_s=10) if high > low else ():
                    found += batch
        return found

    def vectors(self) -> dict[bytes, list[np.ndarray[Any, Any]]]:
        """All records of the topic of vectors, by key, the announcement left out."""
        found: dict[bytes, list[np.ndarray[Any, Any]]] = {}
        for record in self.records(self.settings.topics.embeddings, 2):
            if record.key != ANNOUNCEMENT_KEY:
                assert record.key is not None
                assert record.value is not None
                assert len(record.key) == KEY_BYTES
                found.setdefault(record.key, []).append(unpack_vector(record.value))
        return found

    def letters(self) -> dict[bytes | None, str]:
        """Dead letters: reason by original value."""
        found = self.records(self.settings.topics.dead_letters, 1)
        return {one.value: dict(one.headers)["__connect.errors.exception.message"].decode() for one in found}

    def close(self) -> None:
        for worker in self.workers:
            worker.stop()


@pytest.fixture
def world(bootstrap: str, prefix: str, folder: Path, tmp_path: Path) -> Iterator[World]:
    """A world on the best broker at hand."""
    made = World(bootstrap, prefix, folder, tmp_path)
    yield made
    made.close()


def check(world: World, encoder: Encoder, texts: Sequence[str], *, most: int = 1) -> None:
    """Every text has its vector under its key, at most so many records a key, and there is nothing else."""
    different = sorted(set(texts))
    wanted = encoder.encode(different)
    found = world.vectors()
    keys = [key_of(encoder.fingerprint, text) for text in different]
    assert set(found) == set(keys)
    assert max(map(len, found.values())) <= most
    for key, vector in zip(keys, wanted, strict=True):
        assert all(np.abs(one - vector).max() < 1e-5 for one in found[key])


def metric(worker: WorkerProcess, name: str) -> float:
    with urllib.request.urlopen(worker.metrics_url, timeout=60) as answer:  # noqa: S310 - an address of this test's own
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_every_request_is_answered(world: World, encoder: Encoder) -> None:
    """Vectors for texts, each once; dead letters with reasons for poison, nonsense and a text too long; metrics that add up."""
    texts = tiny.texts(400)
    bad: list[str | bytes] = [f"red {tiny.POISON}", f"{tiny.OUTSIDE} hat", b"nonsense", "x" * 100_001]
    worker = world.start()
    world.ask([*texts, *bad])
    world.wait_answered()
    check(world, encoder, texts)
    reasons = world.letters()
    assert len(reasons) == 4
    assert reasons[b"nonsense"].startswith("first byte is 0x6e")
    assert reasons[encode_request(EmbeddingRequest(text=f"red {tiny.POISON}"))].endswith("its vector is not finite")
    assert "IndexError" in reasons[encode_request(EmbeddingRequest(text=f"{tiny.OUTSIDE} hat"))]
    assert "text has 100001 bytes in UTF-8" in reasons[encode_request(EmbeddingRequest(text="x" * 100_001))]
    counted = {
        name: metric(worker, f'clickloop_encoder_requests_total{{outcome="{name}"}}')
        for name in ("encoded", "joined", "cached", "failed")
    }
    assert sum(counted.values()) == len(texts) + 4
    assert counted["encoded"] == len(set(texts))
    assert counted["failed"] == 4
    assert metric(worker, "clickloop_encoder_batch_texts_sum") == len(set(texts)) + 2
    worker._process.terminate()
    assert worker._process.wait(timeout=90) == 0


def test_what_is_there_is_not_encoded_again(world: World, encoder: Encoder) -> None:
    """A second worker reads what the first one wrote: the same texts, asked again, write nothing; `again` does."""
    texts = sorted(set(tiny.texts(60)))
    first = world.start()
    world.ask(texts)
    world.wait_answered()
    first.stop()
    second = world.start()
    world.ask(texts)
    world.wait_answered()
    assert metric(second, 'clickloop_encoder_requests_total{outcome="cached"}') == len(texts)
    check(world, encoder, texts, most=1)
    world.ask(texts[:3], again=True)
    world.wait_answered()
    assert sorted(map(len, world.vectors().values()))[-4:] == [1, 2, 2, 2]


def test_a_killed_worker_loses_nothing(
    shared_apache_kafka: str, prefix: str, folder: Path, encoder: Encoder, tmp_path: Path
) -> None:
    """SIGKILL in the middle of the work, twice: in the compacted view every text has one vector, and none is missing."""
    small = {"budget_tokens": 64, "window_tokens": 256}  # many batches, so that death comes between some
    world = World(shared_apache_kafka, prefix, folder, tmp_path, **small)  # the local broker never expels a dead member
    rng = random.Random(0)
    some, numbers = tiny.texts(1_000, seed=3), itertools.count()
    texts: list[str] = []
    written = 0

    def ask() -> None:
        fresh = [f"{text} {next(numbers)}" for text in some]
        world.ask(fresh)
        assert world.producer.flush(60) == 0
        texts.extend(fresh)

    try:
        for _ in range(2):
            ask()  # each worker has something to write, however much the one before it got done
            worker = world.start(ready=False)
            while world.written() < written + 2:  # more than the announcement
                worker.check()
                time.sleep(0.01)
            time.sleep(rng.random() / 4)
            worker._process.send_signal(signal.SIGSTOP)
            while not world.uncommitted():  # it had done them all: on with more, and look again
                ask()
                worker._process.send_signal(signal.SIGCONT)
                time.sleep(rng.random() / 4)
                worker._process.send_signal(signal.SIGSTOP)
            worker._process.kill()
            worker._process.wait()
            written = world.written()
        ask()
        world.start(ready=False)
        world.wait_answered()
        check(world, encoder, texts, most=3)
    finally:
        world.close()


def test_two_workers_share_the_partitions(world: World, encoder: Encoder) -> None:
    """One joins, one leaves in order while requests flow: all are answered, by one vector in the compacted view."""
    texts = tiny.texts(900, seed=4)
    first = world.start()
    world.ask(texts[:300])
    second = world.start()
    world.ask(texts[300:600])
    world.wait_answered()
    first.stop()
    world.ask(texts[600:])
    world.wait_answered()
    assert second._process.poll() is None
    check(world, encoder, texts, most=3)


@pytest.mark.whole
def test_brokers_that_go_away_are_waited_for(
    apache_kafka: ApacheKafka, prefix: str, folder: Path, encoder: Encoder, tmp_path: Path
) -> None:
    """Twenty seconds without a broker, in the middle of the work: the worker lives on and answers everything afterwards."""
    world = World(apache_kafka.bootstrap, prefix, folder, tmp_path)
    texts = tiny.texts(2_000, seed=5)
    try:
        worker = world.start()
        world.ask(texts[:1_000])
        world.producer.flush(10)
        apache_kafka.kill()
        world.ask(texts[1_000:])
        time.sleep(20)
        worker.check()
        apache_kafka.start()
        world.wait_answered()
        worker.check()
        check(world, encoder, texts, most=2)
    finally:
        world.close()


def test_a_flood_waits_in_kafka(bootstrap: str, prefix: str, folder: Path, encoder: Encoder, tmp_path: Path) -> None:
    """Far more requests than there is memory for: what the worker holds stays within its bound, and all are answered."""
    world = World(bootstrap, prefix, folder, tmp_path, queue_mb=0.5)
    long = " and no more of this" * 200
    texts = [f"{text} {number}{long}" for number, text in enumerate(tiny.texts(1_500, seed=6))]
    try:
        world.ask(texts)
        worker = world.start(ready=False)
        most = 0.0
        while world.uncommitted():
            worker.check()
            with contextlib.suppress(URLError):  # it does not serve yet
                most = max(most, metric(worker, "clickloop_encoder_queue_bytes "))
        assert 0 < most < 0.5e6 + 500 * (2 * 4_500 + 2_000)  # the bound and what is taken at a time
        check(world, encoder, texts, most=1)
    finally:
        world.close()


def test_a_program_asks_and_waits(world: World, encoder: Encoder) -> None:
    """The client has vectors in the order of the texts, equal ones included; poison is an error with its reason, at once."""
    world.start()
    texts = [*tiny.texts(80), "red", "red"]
    with EmbeddingClient(world.settings) as client:
        found = client.embed(texts, timeout_s=ANSWERED_S)
        assert np.abs(found - encoder.encode(texts)).max() < 1e-5
        assert client.encoder is not None
        assert client.encoder.fingerprint == encoder.fingerprint
        here = client.get("red")
        assert here is not None
        assert np.array_equal(here, found[-1])
        assert client.get("nobody asked") is None
        began = time.monotonic()
        with pytest.raises(NotEncoded, match=f"'{tiny.POISON}': the text cannot be encoded: its vector") as caught:
            client.embed(["red", tiny.POISON], timeout_s=ANSWERED_S)
        assert not caught.value.retriable
        assert time.monotonic() - began < ANSWERED_S / 2
        assert client.embed([]).shape == (0, tiny.DIMENSION)
    with EmbeddingClient(world.settings, cache_mb=0.002) as small:  # room for five vectors
        again = small.embed(texts, timeout_s=ANSWERED_S)
    assert np.abs(again - found).max() < 1e-5


def test_without_an_encoder_the_client_says_so(world: World) -> None:
    """Nobody has announced an encoder: told after the time that was given, and worth another try."""
    with EmbeddingClient(world.settings) as client:
        wait_for(lambda: not client._behind)  # the topics are read to their ends
        with pytest.raises(NotEncoded, match="no encoder has announced") as caught:
            client.embed(["red"], timeout_s=0.5)
    assert caught.value.retriable
