"""Keys name one text by one model; the set of known keys forgets, and never invents."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest

from encoders.keys import KEY_BYTES, key_of
from encoders.seen import WAYS, Seen


def keys(n: int) -> list[bytes]:
    return [hashlib.sha256(str(i).encode()).digest()[:KEY_BYTES] for i in range(n)]


def test_a_key_is_what_the_documentation_says() -> None:
    """Golden bytes, and the same by hand: keys are in topics for years."""
    assert key_of("f0", "two red shoes").hex() == "06437505f8045c753133411a113c0a7c"
    assert key_of("f0", "Schuhe ü") == hashlib.sha256("f0\nSchuhe ü".encode()).digest()[:16]
    assert len({key_of(mark, text) for mark in ("a", "b") for text in ("", "x", "x ")}) == 6


def test_seen_has_what_was_added_and_nothing_else() -> None:
    """With room for all, every key that was added is known and no other."""
    seen = Seen(most_bytes=1_000_000)
    given = keys(2_000)
    seen.add(given[:1_000])
    known = seen.has(given)
    assert known[:1_000].all()
    assert not known[1_000:].any()
    seen.discard(given[:10])
    assert seen.has(given[:20]).tolist() == [False] * 10 + [True] * 10


def test_seen_is_of_a_fixed_size_and_keeps_the_newest() -> None:
    """A hundred times as many keys as there is room for: no byte more, the newest are known, the oldest not."""
    seen = Seen(most_bytes=100_000)
    size, given = seen.nbytes, keys(100 * seen.capacity)
    assert size <= 100_000
    for start in range(0, len(given), 5_000):
        seen.add(given[start : start + 5_000])
    assert seen.nbytes == size
    newest = seen.has(given[-seen.capacity // 4 :])
    assert newest.mean() > 0.95
    assert not seen.has(given[: seen.capacity]).any()


def test_a_place_pushes_out_what_came_first() -> None:
    """Of WAYS + 1 keys of one place the first is forgotten; adding one twice pushes nothing out."""
    seen = Seen(most_bytes=150)  # one place
    given = [os.urandom(KEY_BYTES) for _ in range(WAYS + 1)]
    seen.add(given[:WAYS])
    seen.add(given[:WAYS])
    assert seen.has(given).tolist() == [True] * WAYS + [False]
    seen.add([given[WAYS]])
    assert seen.has(given).tolist() == [False] + [True] * WAYS


def test_no_keys_are_no_trouble() -> None:
    """Empty calls do nothing, and too little memory is refused."""
    seen = Seen(most_bytes=1_000)
    seen.add([])
    assert np.array_equal(seen.has([]), np.zeros(0, bool))
    with pytest.raises(ValueError, match="most_bytes is 10; at least"):
        Seen(most_bytes=10)
