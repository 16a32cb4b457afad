"""Requests, vectors and announcements: golden bytes, both codecs, and every unusable request with its reason."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from streams.embedding_events import (
    Announcement,
    EmbeddingRequest,
    decode_announcement,
    decode_request,
    encode_announcement,
    encode_request,
    pack_vector,
    unpack_vector,
    vector_headers,
)
from streams.events import EventError


@pytest.mark.parametrize(
    ("request_", "golden"),
    [
        (EmbeddingRequest(text="two red shoes"), b'{"v":1,"text":"two red shoes"}'),
        (EmbeddingRequest(text="é", again=True, ts=3), '{"v":1,"text":"é","again":true,"ts":3}'.encode()),
        (EmbeddingRequest(text="", ts=0), b'{"v":1,"text":"","ts":0}'),
    ],
)
def test_a_request_reads_as_it_was_written(request_: EmbeddingRequest, golden: bytes) -> None:
    """The JSON is the documented one, and both codecs bring the same back; a time of zero is a time."""
    assert encode_request(request_) == golden
    for codec in ("json", "msgpack"):
        written = encode_request(request_, codec)
        assert decode_request(written, [], most_bytes=100) == request_
        assert decode_request(written, [("content-type", f"application/{codec}".encode())], most_bytes=100) == request_


def test_names_that_are_not_known_are_passed_over() -> None:
    """A sender may add its own."""
    assert decode_request(b'{"v":1,"text":"a","shop":{"x":[1]}}', [], most_bytes=9) == EmbeddingRequest(text="a")


UNUSABLE: dict[str, tuple[bytes | None, str]] = {
    "nothing": (None, "the value is missing"),
    "empty": (b"", "the value is empty"),
    "no codec": (b"two red shoes", "first byte is 0x74"),
    "no text": (b'{"v":1}', "missing required field `text`"),
    "a number for a text": (b'{"text":7}', "Expected `str`, got `int`"),
    "broken JSON": (b'{"text":"a"', "the value is no request"),
    "half a character": (rb'{"text":"\ud800"}', "the value is no request"),
    "not UTF-8": (b'{"text":"\xff"}', "the value is no request"),
    "a later version": (b'{"v":2,"text":"a"}', "v is 2; this version reads 1"),
    "a columnar batch": (b"CLC1\x80", "a request is no columnar batch"),
    "too long": ('{"text":"ééé"}'.encode(), "text has 6 bytes in UTF-8; at most 5"),
    "deep": (b'{"text":"a","x":' + b"[" * 100_000, "the value is no request"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_unusable_request_says_why(name: str) -> None:
    """It goes to the dead letters with these words."""
    value, told = UNUSABLE[name]
    with pytest.raises(EventError, match=told):
        decode_request(value, [], most_bytes=5)


def test_a_vector_is_its_numbers_and_nothing_else() -> None:
    """Little-endian float32, golden; what is not whole numbers is refused."""
    vector = np.array([1.0, -2.5, 3e-40], np.float32)
    assert pack_vector(vector) == bytes.fromhex("0000803f000020c0") + vector[2:].tobytes()
    assert np.array_equal(unpack_vector(pack_vector(vector)), vector)
    assert pack_vector(vector.astype(">f4").astype(np.float32)) == pack_vector(vector)
    assert dict(vector_headers("f0", 3)) == {"fingerprint": b"f0", "dtype": b"<f4", "dim": b"3"}
    for cut in (b"", b"\x00" * 7):
        with pytest.raises(EventError, match="float32 numbers take 4 each"):
            unpack_vector(cut)


def test_an_announcement_reads_as_it_was_written() -> None:
    """Golden JSON; a later version and other records under its key are refused: not JSON, not UTF-8, nested too deeply."""
    given = Announcement(fingerprint="f0", dimension=8, precision="bf16", max_length=256, model="minilm")
    fields: dict[str, Any] = msgspec.json.decode(encode_announcement(given))
    assert fields == {
        "v": 1, "fingerprint": "f0", "dimension": 8, "precision": "bf16", "max_length": 256, "model": "minilm",
    }  # fmt: skip
    assert decode_announcement(encode_announcement(given)) == given
    with pytest.raises(EventError, match="v = 2"):
        decode_announcement(msgspec.json.encode(fields | {"v": 2}))
    for wrong in (b"\x00", b'{"v":1,"fingerprint":"\xff"}', b'{"v":1,"x":' + b"[" * 100_000):
        with pytest.raises(EventError, match="is no announcement"):
            decode_announcement(wrong)
