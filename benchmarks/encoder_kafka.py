"""The real encoder worker over a filled topic of requests, watched from outside until every vector is in its topic."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from benchmarks.cluster import broker, topics_of
from streams.embedding_events import EmbeddingRequest, encode_request
from streams.processes import WorkerProcess
from streams.reading import bounds, reader
from streams.settings import Settings

LOOK_S = 0.05
PATIENCE_S = 120.0


Tell = Callable[[WorkerProcess, int], None]


def through_kafka(texts: Sequence[str], given: argparse.Namespace) -> float:
    """Texts a second from the first vector in the topic to the last, by an encoder as the arguments say."""
    encoder = {
        "model": given.model,
        "revision": given.revision,
        "device": given.device,
        "threads": given.threads,
        "budget_tokens": given.budget,
        "window_tokens": 16 * given.budget,
    }
    return answered(texts, encoder, given.bootstrap)


def answered(texts: Sequence[str], encoder: dict[str, Any], bootstrap: str | None, tell: Tell | None = None) -> float:
    """Texts a second from the first vector in the topic to the last.

    Args:
        texts: different ones; all are in their topic before the worker starts.
        encoder: its settings.
        bootstrap: a Kafka; None starts one.
        tell: called with the worker and the number of vectors that are there, every `LOOK_S`.
    """
    with broker(bootstrap) as (servers, kind):
        print(f"broker: {kind} at {servers}")
        with topics_of(servers, f"bench-{time.time_ns() % 10**9}-", encoder=encoder) as settings:
            _fill(settings, texts)
            with tempfile.TemporaryDirectory(prefix="clickloop-bench-") as folder:
                worker = WorkerProcess(settings, "encoder", folder=Path(folder))
                try:
                    return _watch(worker, settings, len(texts), tell)
                finally:
                    worker.stop()


def _fill(settings: Settings, texts: Sequence[str]) -> None:
    producer = Producer(settings.librdkafka() | {"partitioner": "murmur2_random", "linger.ms": 20})
    for text in texts:
        producer.produce(settings.topics.embedding_requests, value=encode_request(EmbeddingRequest(text=text)))
        producer.poll(0)
    left = producer.flush(60)
    if left:
        raise RuntimeError(f"{left} requests were not delivered")


def _watch(worker: WorkerProcess, settings: Settings, wanted: int, tell: Tell | None) -> float:
    first: tuple[float, int] | None = None
    seen, changed_s = 0, time.monotonic()
    with reader(settings.librdkafka()) as consumer:
        while True:
            worker.check()
            there = sum(
                bounds(consumer, settings.topics.embeddings, partition, timeout_s=10)[1]
                for partition in range(settings.partitions)
            )
            now = time.monotonic()
            vectors = there - 1  # the announcement is the first record
            if vectors > seen:
                seen, changed_s = vectors, now
                first = first or (now, vectors)
            if tell is not None:
                tell(worker, seen)
            if first is not None and seen >= wanted:
                return (seen - first[1]) / (now - first[0])
            if now - changed_s > PATIENCE_S:
                raise RuntimeError(f"stuck at {seen} of {wanted} vectors: {worker.log_end()}")
            time.sleep(LOOK_S)
