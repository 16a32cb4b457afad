"""Which keys have been answered: a set of 16-byte keys in memory of a fixed size, the oldest of a place leaving first.

Set-associative like a processor's cache: a key belongs to one place of `WAYS` keys and pushes out the one that came there
first. What is pushed out is forgotten, so the set may say "no" to a key that it was given, and never "yes" to one that it was
not: an answer of "no" costs one text encoded twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from encoders.keys import KEY_BYTES

WAYS = 8
WORDS = KEY_BYTES // 8
PLACE_BYTES = WAYS * KEY_BYTES + 1

Keys = Sequence[bytes]


class Seen:
    """Keys that were added, as far as there is room. Not safe from several threads.

    Args:
        most_bytes: memory that it takes, all of it from the start.

    >>> seen = Seen(most_bytes=10_000)
    >>> seen.add([b"0123456789abcdef"])
    >>> seen.has([b"0123456789abcdef", b"fedcba9876543210"]).tolist()
    [True, False]
    """

    def __init__(self, *, most_bytes: int) -> None:
        places = most_bytes // PLACE_BYTES
        if places < 1:
            raise ValueError(f"most_bytes is {most_bytes}; at least {PLACE_BYTES}, which is {WAYS} keys")
        self._keys = np.zeros((places, WAYS, WORDS), np.uint64)
        self._next = np.zeros(places, np.uint8)

    @property
    def capacity(self) -> int:
        """How many keys there is room for."""
        return len(self._next) * WAYS

    @property
    def nbytes(self) -> int:
        """Bytes of both arrays."""
        return self._keys.nbytes + self._next.nbytes

    def has(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Whether each of the keys is known (n,)."""
        words, places = self._placed(keys)
        known: npt.NDArray[np.bool_] = (self._keys[places] == words[:, None, :]).all(axis=2).any(axis=1)
        return known

    def add(self, keys: Keys) -> None:
        """Remember keys; those that are known stay where they are."""
        unknown = list(dict.fromkeys(key for key, known in zip(keys, self.has(keys), strict=True) if not known))
        words, places = self._placed(unknown)
        order = np.argsort(places, kind="stable")
        words, places = words[order], places[order]
        here, first, count = np.unique(places, return_index=True, return_counts=True)
        rank = np.arange(len(places)) - np.repeat(first, count)
        self._keys[places, (self._next[places] + rank) % WAYS] = words
        self._next[here] = (self._next[here] + count) % WAYS

    def discard(self, keys: Keys) -> None:
        """Forget keys."""
        words, places = self._placed(keys)
        for word, place in zip(words, places, strict=True):
            here = self._keys[place]
            here[(here == word).all(axis=1)] = 0

    def _placed(self, keys: Keys) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        words = np.frombuffer(b"".join(keys), "<u8").reshape(len(keys), WORDS)
        return words, (words[:, 0] % np.uint64(len(self._next))).astype(np.int64)
