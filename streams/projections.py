"""Projections in the topic of vectors: fitted on the vectors that are there, written once, read by whoever decides.

A record of the compacted topic `embeddings`; a projection never changes, so there is one record of each::

    key      "projection:" and the name, as in "projection:pca16:0f3c..."
    value    MessagePack map: v (1), encoder, mean bytes <f4 (D,), matrix bytes <f4 (r, D) row by row, spread, texts, share

Readers check that the numbers have the name. Readers of vectors pass the key over: theirs have 16 bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
from confluent_kafka import Producer

from encoders.keys import KEY_BYTES
from policies.projection import Moments, Projection, added, merged, no_moments, principal
from policies.records import from_bytes, to_bytes
from streams import security
from streams.embedding_events import ANNOUNCEMENT_KEY, decode_announcement, unpack_vector
from streams.events import VERSION, EventError
from streams.reading import QUIET, ReadError, bounds, partition_count, read, reader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from policies.projection import Float32Array
    from streams.reading import SimpleRecord
    from streams.settings import Settings

PREFIX = b"projection:"
MOST_BYTES = 900_000
"""A record may take 1 MiB, headers and batch included."""
TIMEOUT_S = 10.0
BATCH = 1_000
"""Vectors that are added up at a time."""


class ProjectionError(ValueError):
    """There is nothing to make a projection of, or a record is none."""

    retriable = False


class _Record(msgspec.Struct):
    v: int
    encoder: str
    mean: bytes
    matrix: bytes
    spread: float
    texts: float
    share: float


def key_of(name: str) -> bytes:
    """Kafka key of a projection's record.

    >>> key_of("pca1:00")
    b'projection:pca1:00'
    """
    return PREFIX + name.encode()


def encode_projection(projection: Projection) -> bytes:
    """Record of a projection. Raises ProjectionError if it would not go into the topic."""
    value = msgspec.msgpack.encode(
        {
            "v": VERSION,
            "encoder": projection.encoder,
            "mean": to_bytes(projection.mean, "<f4"),
            "matrix": to_bytes(projection.matrix, "<f4"),
            "spread": projection.spread,
            "texts": projection.texts,
            "share": projection.share,
        }
    )
    if len(value) > MOST_BYTES:
        raise ProjectionError(
            f"{projection.length} components of {projection.dimension} numbers take {len(value)} bytes; a record may have "
            f"{MOST_BYTES}: ask for at most {MOST_BYTES // (4 * projection.dimension) - 2} components"
        )
    return value


def decode_projection(key: bytes, value: bytes) -> Projection:
    """Projection from its record. Raises ProjectionError if it cannot be used, or has another name than its key."""
    try:
        record = msgspec.msgpack.decode(value, type=_Record)
        if record.v != VERSION:
            raise ValueError(f"v is {record.v}, this version reads {VERSION}")
        dimension = len(record.mean) // 4
        rows = len(record.matrix) // max(4 * dimension, 1)
        found = Projection(
            encoder=record.encoder,
            mean=_narrow(record.mean, dimension, "mean"),
            matrix=_narrow(record.matrix, rows * dimension, "matrix").reshape(rows, dimension),
            spread=record.spread,
            texts=record.texts,
            share=record.share,
        )
    except (ValueError, msgspec.DecodeError, RecursionError) as error:
        raise ProjectionError(f"the record under {key!r} is no projection: {error}") from error
    if key_of(found.name) != key:
        raise ProjectionError(
            f"the record under {key!r} has the numbers of {found.name}; it is damaged, or of another key"
        )
    return found


def _narrow(data: bytes, length: int, what: str) -> Float32Array:
    return from_bytes(data, length, what=what, dtype="<f4").astype(np.float32)


def moments_of(records: Iterable[SimpleRecord], *, encoder: str, seen: set[bytes]) -> Moments | None:
    """Moments of one encoder's vectors, the first of each key; None if there are none. Adds the keys to `seen`."""
    moments: Moments | None = None
    waiting: list[Float32Array] = []
    for record in records:
        key, value = record.key, record.value
        if key is None or value is None or len(key) != KEY_BYTES or key in seen:
            continue
        if dict(record.headers).get("fingerprint") != encoder.encode():
            continue
        seen.add(key)
        waiting.append(unpack_vector(value))
        if len(waiting) == BATCH:
            moments = added(moments or no_moments(len(waiting[0])), waiting)
            waiting = []
    return added(moments or no_moments(len(waiting[0])), waiting) if waiting else moments


def made(settings: Settings, *, length: int, encoder: str | None = None) -> Projection:
    """A projection of the vectors in the topic, of each text once; not published yet.

    Args:
        settings: brokers, prefix.
        length: number of components.
        encoder: fingerprint; None is the encoder that announced itself last.

    Raises:
        ProjectionError: no encoder has announced itself, or its texts do not give so many components.
        ReadError: the topic cannot be read.
    """
    mark = _announced(settings) if encoder is None else encoder
    if mark is None:
        raise ProjectionError(
            f"no encoder has announced itself in {settings.topics.embeddings}; run clickloop worker encoder, or name one by --encoder"
        )
    whole: Moments | None = None
    seen: set[bytes] = set()
    try:
        for records in _partitions(settings):
            part = moments_of(records, encoder=mark, seen=seen)
            if part is not None:
                whole = part if whole is None else merged(whole, part)
        if whole is None:
            raise ProjectionError(
                f"{settings.topics.embeddings} has no vectors of encoder {mark}; ask for some (docs/encoder.md), or name another encoder"
            )
        return principal(whole, length=length, encoder=mark)
    except ValueError as error:
        raise error if isinstance(error, ProjectionError) else ProjectionError(str(error)) from error


def published(settings: Settings, projection: Projection) -> None:
    """Write a projection, acknowledged by all brokers. Raises ReadError if they do not take it."""
    failed: list[str] = []
    producer = Producer(
        security.librdkafka(settings)
        | {
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "message.timeout.ms": int(TIMEOUT_S * 1000),
            "log_level": QUIET,
        }
    )
    producer.produce(
        settings.topics.embeddings,
        value=encode_projection(projection),
        key=key_of(projection.name),
        on_delivery=lambda error, _: None if error is None else failed.append(error.str()),
    )
    if producer.flush(TIMEOUT_S + 5.0) or failed:
        why = failed[0] if failed else "no broker answers"
        raise ReadError(f"{settings.topics.embeddings} did not take the projection: {why}; try again")


def _announced(settings: Settings) -> str | None:
    found: str | None = None
    for records in _partitions(settings):
        for record in records:
            if record.key == ANNOUNCEMENT_KEY and record.value is not None:
                try:
                    found = decode_announcement(record.value).fingerprint
                except EventError as error:
                    raise ProjectionError(f"{error}; name the encoder by --encoder") from error
    return found


def _partitions(settings: Settings) -> Iterator[Iterator[SimpleRecord]]:
    topic, client = settings.topics.embeddings, settings.librdkafka()
    with reader(client) as consumer:
        for partition in range(partition_count(client, topic)):
            low, high = bounds(consumer, topic, partition, timeout_s=TIMEOUT_S)
            if high > low:
                batches = read(consumer, topic, partition, low, None, timeout_s=TIMEOUT_S)
                yield (record for batch in batches for record in batch)
