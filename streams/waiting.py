"""Outcomes whose impression has not been seen, and where in the log they stand.

A rebuild reads the log again and has to know which outcomes waited: without a row an outcome may as well have counted for an
impression that has left. So a checkpoint stores their places: ``offset << 20 | row``, row being that within a columnar record.
"""

from __future__ import annotations

import zlib
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streams.decoded import Click

ROW_BITS = 20
FILTER_SIZE = 1 << 16
FORGET_AFTER = FILTER_SIZE // 4  # outcomes gone before the filter is made anew

Places = npt.NDArray[np.int64]


class Waiting:
    """Waiting outcomes of one partition, added in the order of the log.

    A filter of one byte for each of 65,536 groups of keys tells most keys of a batch that nothing waits for them, in 10 ns a key.
    """

    def __init__(self) -> None:
        self._by_key: dict[int, list[Click]] = {}
        self._places: dict[int, None] = {}
        self._filter = bytearray(FILTER_SIZE)
        self._marks = np.frombuffer(self._filter, np.uint8)
        self._gone = 0
        self._first_leaves: int | None = None  # a lower bound of the time at which the first one leaves

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Click]:
        return chain.from_iterable(self._by_key.values())

    def add(self, click: Click, *, leaves: int) -> None:
        """Let an outcome wait; it leaves at that watermark."""
        self._by_key.setdefault(click.key, []).append(click)
        self._places[place(click)] = None
        self._filter[click.key & (FILTER_SIZE - 1)] = 1
        self._first_leaves = leaves if self._first_leaves is None else min(self._first_leaves, leaves)

    def of(self, key: int) -> list[Click]:
        """What waits for a key, in the order of the log."""
        return self._by_key.get(key, [])

    def pop(self, key: int) -> list[Click]:
        """What waited for a key; it waits no longer."""
        clicks = self._by_key.pop(key, [])
        for click in clicks:
            del self._places[place(click)]
        self._forget(len(clicks))
        return clicks

    def among(self, keys: npt.NDArray[np.uint64]) -> list[tuple[int, int]]:
        """(position, key) of those keys (n,) that something waits for."""
        if not self._by_key:
            return []
        maybe = np.flatnonzero(self._marks[keys.view(np.int64) & (FILTER_SIZE - 1)])
        return [(i, key) for i, key in zip(maybe.tolist(), keys[maybe].tolist(), strict=True) if key in self._by_key]

    def leave(self, watermark: int, *, wait_ms: int) -> int:
        """Let go of the outcomes with ts + wait_ms <= watermark. Returns how many there were."""
        if self._first_leaves is None or watermark < self._first_leaves:
            return 0
        before = len(self._places)
        times: list[int] = []
        for key, clicks in list(self._by_key.items()):
            staying = [click for click in clicks if click.ts + wait_ms > watermark]
            times.extend(click.ts for click in staying)
            if len(staying) == len(clicks):
                continue
            for click in clicks:
                if click.ts + wait_ms <= watermark:
                    del self._places[place(click)]
            if staying:
                self._by_key[key] = staying
            else:
                del self._by_key[key]
        self._first_leaves = min(times) + wait_ms if times else None
        self._forget(before - len(self._places))
        return before - len(self._places)

    def places(self) -> Places:
        """Where the waiting outcomes stand, ascending (k,)."""
        return np.sort(np.fromiter(self._places, np.int64, len(self._places)), kind="stable")

    def oldest(self) -> int | None:
        """The smallest offset among them."""
        first = next(iter(self._places), None)
        return None if first is None else first >> ROW_BITS

    def _forget(self, gone: int) -> None:
        """Make the filter anew when many of its marks are stale."""
        self._gone += gone
        if self._gone >= FORGET_AFTER or not self._by_key:
            self._gone = 0
            self._marks[:] = 0
            keys = np.fromiter(self._by_key, np.uint64, len(self._by_key))
            self._marks[keys.view(np.int64) & (FILTER_SIZE - 1)] = 1


def place(click: Click) -> int:
    """Where an outcome stands in the log."""
    return click.offset << ROW_BITS | click.row


def pack_places(places: Places) -> bytes:
    """Ascending places (k,) as compressed little-endian int64 differences.

    >>> unpack_places(pack_places(np.array([7 << 20, 9 << 20 | 1, 9 << 20 | 3]))) == {7 << 20, 9 << 20 | 1, 9 << 20 | 3}
    True
    """
    return zlib.compress(np.diff(places, prepend=0).astype("<i8").tobytes(), 1)


def unpack_places(packed: bytes) -> set[int]:
    """The places that `pack_places` packed."""
    return set(np.cumsum(np.frombuffer(zlib.decompress(packed), "<i8")).tolist())
