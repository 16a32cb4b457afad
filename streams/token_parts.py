"""Remembered outcomes as records of the posteriors topic: what a checkpoint adds, and how many small records become few.

Key: MessagePack ``[null, partition, "seen", hour, number]``; hour is event time of the decisions in hours since the epoch. Value,
MessagePack::

    v, level   1; how often it was merged
    offsets    next offsets of both sides at the last cut whose outcomes it holds
    n, rows    n rows as three columns, little-endian: hash of (decision, slot) u8, of (decision, slot, outcome id) u8, reward f8

A checkpoint writes an hour's new outcomes as parts of level 0. `FAN` parts of one level become one of the next, so that an outcome is
written as often as its hour has levels; a part that is half full is left as it is. Only parts that every sum's record goes up to are
merged, because a recovery takes the later ones cut by cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from streams.events import EventError
from streams.token_hour import Floats, Hashes

SEEN = "seen"
VERSION = 1
ROW_BYTES = 24
RECORD_BYTES = 900_000
MOST_ROWS = RECORD_BYTES // ROW_BYTES
FAN = 16

Offsets = Mapping[Any, int]
Rows = tuple[Hashes, Hashes, Floats]
Piece = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One record: which rows of its hour it holds, as [start, end) pieces, and up to which offsets."""

    hour: int
    number: int
    level: int
    offsets: Offsets
    pieces: tuple[Piece, ...]

    @property
    def n(self) -> int:
        """Rows."""
        return sum(end - start for start, end in self.pieces)


def seen_key(partition: int, hour: int, number: int) -> bytes:
    """Key of a part.

    >>> read_seen_key(seen_key(3, 472_222, 5))
    (472222, 5)
    """
    return msgspec.msgpack.encode([None, partition, SEEN, hour, number])


def read_seen_key(key: bytes) -> tuple[int, int]:
    """Hour and number of a part."""
    _, _, _, hour, number = msgspec.msgpack.decode(key)
    return hour, number


def encode_rows(rows: Rows, *, level: int, offsets: Offsets) -> bytes:
    """The value of a part."""
    decision, outcome, reward = rows
    columns = decision.astype("<u8").tobytes() + outcome.astype("<u8").tobytes() + reward.astype("<f8").tobytes()
    value = {"v": VERSION, "level": level, "offsets": dict(offsets), "n": len(decision), "rows": columns}
    return msgspec.msgpack.encode(value)


def decode_rows(value: bytes) -> tuple[Rows, int, dict[str, int]]:
    """Rows, level and offsets of a part. Raises EventError for a later version.

    >>> some = (np.array([7], np.uint64), np.array([2], np.uint64), np.array([0.5]))
    >>> rows, level, offsets = decode_rows(encode_rows(some, level=1, offsets={"impressions": 3, "clicks": 4}))
    >>> [column.tolist() for column in rows], level, offsets
    ([[7], [2], [0.5]], 1, {'impressions': 3, 'clicks': 4})
    """
    record = msgspec.msgpack.decode(value)
    if record["v"] != VERSION:
        raise EventError(f"remembered outcomes have v {record['v']}; this program reads {VERSION}: update it")
    n, raw = record["n"], record["rows"]
    columns = (
        np.frombuffer(raw, "<u8", n).astype(np.uint64),
        np.frombuffer(raw, "<u8", n, 8 * n).astype(np.uint64),
        np.frombuffer(raw, "<f8", n, 16 * n).astype(np.float64),
    )
    return columns, record["level"], record["offsets"]


def reached(offsets: Offsets, by: Offsets) -> bool:
    """Whether a cut at ``offsets`` is not after that at ``by``: cuts are in one order, and both offsets only grow."""
    return all(offsets[side] <= by[side] for side in by)


def split(pieces: Sequence[Piece]) -> Iterator[tuple[Piece, ...]]:
    """Pieces in groups of at most MOST_ROWS rows; neighbours become one.

    >>> list(split([(0, 2), (2, 5), (9, 10)])), list(split([(0, MOST_ROWS + 1)]))
    ([((0, 5), (9, 10))], [((0, 37500),), ((37500, 37501),)])
    """
    group: list[Piece] = []
    left = MOST_ROWS
    for start, end in pieces:
        while start < end:
            if left == 0:
                yield tuple(group)
                group, left = [], MOST_ROWS
            size = min(left, end - start)
            if group and group[-1][1] == start:
                group[-1] = (group[-1][0], start + size)
            else:
                group.append((start, start + size))
            start, left = start + size, left - size
    if group:
        yield tuple(group)


def mergeable(parts: Sequence[Part], base: Offsets) -> list[Part] | None:
    """The parts of the lowest level that has `FAN` of them to merge, None if none has."""
    levels: dict[int, list[Part]] = {}
    for part in parts:
        if part.n < MOST_ROWS // 2 and reached(part.offsets, base):
            levels.setdefault(part.level, []).append(part)
    full = sorted(level for level, found in levels.items() if len(found) >= FAN)
    return levels[full[0]] if full else None
