"""Vectors that were read, as many as there is memory for, and calls that wait for some of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable

ENTRY_BYTES = 250
"""What a vector takes besides its numbers: key, value object, place in the table."""


MOST_TAKEN_BACK = 100_000
"""Keys taken back that are kept."""


class Call:
    """Somebody who waits for keys: what has come for them, and why one never will."""

    def __init__(self, keys: Iterable[bytes]) -> None:
        self.wanted = set(keys)
        self.found: dict[bytes, bytes] = {}
        self.failed: dict[bytes, str] = {}

    @property
    def done(self) -> bool:
        """Whether there is something for every key."""
        return not self.wanted


class Vectors:
    """Vectors by key; the first that came for a key stays, the one that was least asked for leaves. Safe from several threads.

    Args:
        most_bytes: memory that they take, about.

    >>> vectors = Vectors(most_bytes=600)
    >>> for key in (b"a", b"b", b"a", b"c"):
    ...     vectors.put(key, key * 4)
    >>> vectors.get(b"a"), vectors.get(b"b"), vectors.evicted
    (None, b'bbbb', True)
    """

    def __init__(self, *, most_bytes: int) -> None:
        self._most = most_bytes
        self._held: OrderedDict[bytes, bytes] = OrderedDict()
        self._octets = 0
        self._calls: list[Call] = []
        self._taken_back: set[bytes] = set()
        self.changed = threading.Condition()
        self.evicted = (
            False  # whether one that came is not held any more, or one was taken back and is not known any more
        )

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: bytes) -> bytes | None:
        """The vector of a key, if it is held."""
        with self.changed:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def put(self, key: bytes, value: bytes | None) -> None:
        """A record came; None takes the vector back."""
        with self.changed:
            if value is None:
                self._drop(key)
                self._taken_back.add(key)
                if len(self._taken_back) > MOST_TAKEN_BACK:
                    self._taken_back.clear()
                    self.evicted = True
                return
            self._taken_back.discard(key)
            value = self._held.get(key, value)
            if key not in self._held:
                self._held[key] = value
                self._octets += len(value) + ENTRY_BYTES
            while self._octets > self._most and len(self._held) > 1:
                self._drop(next(iter(self._held)))
                self.evicted = True
            for call in self._calls:
                if key in call.wanted:
                    call.wanted.discard(key)
                    call.found[key] = value
            self.changed.notify_all()

    def taken_back(self, key: bytes) -> bool:
        """Whether the last record of a key took its vector back."""
        with self.changed:
            return key in self._taken_back

    def fail(self, key: bytes, why: str) -> None:
        """A key's text is a dead letter."""
        with self.changed:
            for call in self._calls:
                if key in call.wanted:
                    call.wanted.discard(key)
                    call.failed[key] = why
            self.changed.notify_all()

    def open(self, keys: Iterable[bytes]) -> Call:
        """Wait for keys from now on; what is held is there at once. Close it afterwards."""
        call = Call(keys)
        with self.changed:
            for key in list(call.wanted):
                if key in self._held:
                    self._held.move_to_end(key)
                    call.wanted.discard(key)
                    call.found[key] = self._held[key]
            self._calls.append(call)
        return call

    def close(self, call: Call) -> None:
        """Wait no longer."""
        with self.changed:
            self._calls.remove(call)

    def _drop(self, key: bytes) -> None:
        gone = self._held.pop(key, None)
        if gone is not None:
            self._octets -= len(gone) + ENTRY_BYTES
