r"""What flows to and from the encoder: requests, vectors, and the encoder's own announcement.

A request is a record of the topic `embedding-requests`, JSON or MessagePack (told apart as in `streams/events.py`)::

    {"v":1,"text":"two red shoes"}
    {"v":1,"text":"two red shoes","again":true,"ts":1700000000000}

`again` asks for the vector even where it is in the topic already: for a reader that does not keep what it read. `ts` is when it was
asked, ms UTC. Names that are not known are passed over, so a sender may add its own; a dead letter has them. The record's key is
free; with the embedding's own (`encoders.keys.key_of`) texts that are equal meet in one worker, and are encoded once.

An answer is a record of the compacted topic `embeddings`::

    key      16 bytes: sha256(fingerprint + "\n" + text)[:16]
    value    the vector: `dim` float32 numbers, little-endian, nothing else
    headers  fingerprint, dtype ("<f4"), dim

The first vector that a reader saw for a key is the one to keep. A key without a value (a tombstone) takes a vector back.

Under the key ``encoder`` the same topic says which encoder is at work, so that a reader can compute keys without having the model::

    {"v":1,"fingerprint":"6c7b...","dimension":384,"precision":"fp32","max_length":256,"model":"minilm"}

An encoder that works beside it (`encoder.name`) announces itself under ``encoder:FINGERPRINT``. Projections are there, too
(streams/projections.py).

Evolution is as in `streams/events.py`: a larger `v` is refused, names are only added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from streams.events import CONTENT_TYPE, VERSION, EventError, codec_of

ANNOUNCEMENT_KEY = b"encoder"
DTYPE = "<f4"
ENCODER_HEADER = "__clickloop.errors.encoder"
"""Of a dead letter: the fingerprint of the encoder that could not encode."""

Headers = list[tuple[str, bytes]]
FloatArray = npt.NDArray[np.float32]


class EmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A text that somebody wants the vector of."""

    v: int = VERSION
    text: str
    again: bool = False
    ts: int | None = None


class Announcement(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The encoder at work."""

    v: int = VERSION
    fingerprint: str
    dimension: int
    precision: str
    max_length: int
    model: str


_JSON, _MSGPACK = msgspec.json.Decoder(EmbeddingRequest), msgspec.msgpack.Decoder(EmbeddingRequest)


def encode_request(request: EmbeddingRequest, codec: Literal["json", "msgpack"] = "json") -> bytes:
    """A request as a record's value.

    >>> encode_request(EmbeddingRequest(text="two red shoes"))
    b'{"v":1,"text":"two red shoes"}'
    """
    fields = {"v": request.v, "text": request.text}
    fields |= {"again": True} if request.again else {}
    fields |= {} if request.ts is None else {"ts": request.ts}
    return msgspec.json.encode(fields) if codec == "json" else msgspec.msgpack.encode(fields)


def decode_request(value: bytes | None, headers: Sequence[tuple[str, bytes]], *, most_bytes: int) -> EmbeddingRequest:
    """The request in a record's value. Raises EventError, for the dead letter, if there is none or its text is too long.

    >>> decode_request(b'{"text":"two red shoes","shop":7}', [], most_bytes=100).text
    'two red shoes'
    """
    if value is None:
        raise EventError("the value is missing; a request has a text")
    codec = codec_of(value, dict(headers).get(CONTENT_TYPE))
    if codec == "columns":
        raise EventError("a request is no columnar batch; send JSON or MessagePack, one text a record")
    try:
        request = (_JSON if codec == "json" else _MSGPACK).decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EventError(f"the value is no request: {error}") from error
    if request.v != VERSION:
        raise EventError(f"v is {request.v}; this version reads {VERSION}")
    size = len(request.text.encode())
    if size > most_bytes:
        raise EventError(
            f"text has {size} bytes in UTF-8; at most {most_bytes} (max_text_bytes): shorten it or split it"
        )
    return request


def vector_headers(fingerprint: str, dimension: int) -> Headers:
    """The headers of an answer."""
    return [("fingerprint", fingerprint.encode()), ("dtype", DTYPE.encode()), ("dim", str(dimension).encode())]


def pack_vector(vector: FloatArray) -> bytes:
    r"""A vector (d,) as an answer's value.

    >>> pack_vector(np.array([1.0, -2.0], np.float32))
    b'\x00\x00\x80?\x00\x00\x00\xc0'
    """
    return vector.astype(DTYPE, copy=False).tobytes()


def unpack_vector(value: bytes) -> FloatArray:
    r"""The vector (d,) in an answer's value; it cannot be written to. Raises EventError if a number is cut.

    >>> unpack_vector(b"\x00\x00\x80?\x00\x00\x00\xc0").tolist()
    [1.0, -2.0]
    """
    if len(value) % 4 or not value:
        raise EventError(f"a vector has {len(value)} bytes; float32 numbers take 4 each")
    return np.frombuffer(value, DTYPE)


def announcement_key(fingerprint: str, *, beside: bool) -> bytes:
    """Key of an encoder's announcement.

    >>> announcement_key("6c7b", beside=False), announcement_key("6c7b", beside=True)
    (b'encoder', b'encoder:6c7b')
    """
    return ANNOUNCEMENT_KEY + (b":" + fingerprint.encode() if beside else b"")


def encode_announcement(announcement: Announcement) -> bytes:
    """An announcement as a record's value."""
    return msgspec.json.encode(announcement)


def decode_announcement(value: bytes) -> Announcement:
    """The announcement in a record's value. Raises EventError if there is none, or of a later version."""
    try:
        found = msgspec.json.decode(value, type=Announcement)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EventError(f"the record under {ANNOUNCEMENT_KEY!r} is no announcement of an encoder: {error}") from error
    if found.v != VERSION:
        raise EventError(f"an encoder announces itself with v = {found.v}; this version reads {VERSION}")
    return found
