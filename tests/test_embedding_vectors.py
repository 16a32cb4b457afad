"""Vectors that a client holds: the first stays, memory is bounded, and a call gets all it waits for."""

from __future__ import annotations

import os

import pytest

from streams import embedding_vectors
from streams.embedding_vectors import ENTRY_BYTES, Vectors


def test_the_first_vector_stays() -> None:
    """A second one for the same key, different in its last bits, changes nothing."""
    vectors = Vectors(most_bytes=10_000)
    vectors.put(b"k", b"first")
    vectors.put(b"k", b"other")
    assert vectors.get(b"k") == b"first"
    vectors.put(b"k", None)
    assert vectors.get(b"k") is None


def test_memory_is_bounded() -> None:
    """Of ten thousand vectors those are held that there is room for, the newest, and that one has gone is known."""
    vectors = Vectors(most_bytes=100 * (ENTRY_BYTES + 64))
    keys = [os.urandom(16) for _ in range(10_000)]
    for key in keys[:100]:
        vectors.put(key, b"x" * 64)
    assert not vectors.evicted
    for key in keys[100:]:
        vectors.put(key, b"x" * 64)
    assert (len(vectors), vectors.evicted) == (100, True)
    assert all(vectors.get(key) for key in keys[-100:])


def test_what_is_asked_for_stays_longest() -> None:
    """The one that nobody asked for leaves."""
    vectors = Vectors(most_bytes=2 * (ENTRY_BYTES + 1))
    vectors.put(b"a", b"x")
    vectors.put(b"b", b"x")
    vectors.get(b"a")
    vectors.put(b"c", b"x")
    assert [vectors.get(key) for key in (b"a", b"b", b"c")] == [b"x", None, b"x"]


def test_a_call_gets_more_than_is_held() -> None:
    """With room for one vector a call for five still gets all of them, as they come."""
    vectors = Vectors(most_bytes=1)
    keys = [bytes([i]) * 16 for i in range(5)]
    vectors.put(keys[0], b"0")
    call = vectors.open(keys)
    assert call.wanted == set(keys[1:])
    for number, key in enumerate(keys[1:4], 1):
        vectors.put(key, b"%d" % number)
    vectors.fail(keys[4], "why")
    assert call.done
    assert [call.found[key] for key in keys[:4]] == [b"0", b"1", b"2", b"3"]
    assert call.failed == {keys[4]: "why"}
    vectors.close(call)
    vectors.put(keys[4], b"late")
    assert keys[4] not in call.found


def test_what_was_taken_back_is_known_until_it_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held or not; with too many of them any may have been."""
    monkeypatch.setattr(embedding_vectors, "MOST_TAKEN_BACK", 2)
    vectors = Vectors(most_bytes=10_000)
    for key in (b"a", b"b"):
        vectors.put(key, None)
    assert [vectors.taken_back(key) for key in (b"a", b"b", b"c")] == [True, True, False]
    vectors.put(b"a", b"x")
    assert not vectors.taken_back(b"a")
    assert not vectors.evicted
    for key in (b"c", b"d"):
        vectors.put(key, None)
    assert vectors.evicted
