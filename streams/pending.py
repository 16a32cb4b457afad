"""Impressions whose window is still open, in arrays bucketed by the time they leave.

A row takes 49 bytes, 8 more where conversions are attributed (the unit's number), its context (4 bytes a value where float32 is exact,
else 8) and its share of the key table. Rows live
in chunks of 1,024; a chunk belongs to one policy and one time bucket, so that leaving drops whole chunks. A chunk's columns are
one block of bytes: past the memory ceiling, those that have been full the longest move to a file (streams/blocks.py), where they are
read and written as before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from streams.blocks import Block, Blocks
from streams.decoded import Impressions
from streams.outcomes import Seen

CHUNK_BITS = 10
CHUNK_ROWS = 1 << CHUNK_BITS
FIXED: dict[str, str] = {
    "key": "u8",
    "ts": "i8",
    "offset": "i8",
    "propensity": "f8",
    "row": "i4",
    "arm": "i4",
    "slot": "i4",
    "snapshot": "i4",
    "flags": "u1",
}
"""Types of all columns but the context."""
FIXED_BYTES = sum(np.dtype(kind).itemsize for kind in FIXED.values())
PERSON_BYTES = 8


@dataclass(slots=True)
class Chunk:
    """Up to 1,024 rows of one policy that leave in one time bucket."""

    policy: str
    key: npt.NDArray[np.uint64]
    ts: npt.NDArray[np.int64]
    offset: npt.NDArray[np.int64]
    row: npt.NDArray[np.int32]
    arm: npt.NDArray[np.int32]
    slot: npt.NDArray[np.int32]
    snapshot: npt.NDArray[np.int32]
    propensity: npt.NDArray[np.float64]
    flags: npt.NDArray[np.uint8]
    x: npt.NDArray[np.floating[Any]]
    block: Block
    in_file: bool = False
    n: int = 0
    gone: npt.NDArray[np.bool_] | None = None
    seen: dict[int, list[Seen]] = field(default_factory=dict)
    oldest_click: int | None = None
    person: npt.NDArray[np.uint64] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        person = 0 if self.person is None else self.person.nbytes
        return FIXED_BYTES * CHUNK_ROWS + self.x.nbytes + person

    @property
    def oldest(self) -> int | None:
        """The smallest offset of a row that has not left; rows stand in the order of the log."""
        first = 0 if self.gone is None else int(np.argmin(self.gone))
        return int(self.offset[first]) if first < self.n and (self.gone is None or not self.gone[first]) else None

    def staying(self) -> npt.NDArray[np.int64]:
        """Positions of the rows that have not left."""
        return np.arange(self.n) if self.gone is None else np.flatnonzero(~self.gone[: self.n])


def _columns(block: Block, dtype: np.dtype[Any], width: int, *, person: bool = False) -> dict[str, Any]:
    """The columns that lie in a block, the context first: 8 bytes or 4, then those of 8 bytes, then those of 4; the unit's last."""
    at = CHUNK_ROWS * width * dtype.itemsize
    columns: dict[str, Any] = {"x": block[:at].view(dtype).reshape(CHUNK_ROWS, width)}
    for name, kind in FIXED.items():
        size = CHUNK_ROWS * np.dtype(kind).itemsize
        columns[name] = block[at : at + size].view(kind)
        at += size
    if person:
        columns["person"] = block[at:].view("u8")
    return columns


class Pending:
    """The chunks of one partition, in ``blocks``. A row's number is chunk number * 1,024 + position."""

    def __init__(self, blocks: Blocks | None = None) -> None:
        self._blocks = Blocks() if blocks is None else blocks
        self._filled: deque[int] = (
            deque()
        )  # numbers of full chunks in memory, those that have been full the longest first
        self._chunks: dict[int, Chunk] = {}
        self._free: list[int] = []
        self._buckets: dict[tuple[str, int], list[int]] = {}
        self._left: list[Chunk] = []  # in the last call of `leave`, whose caller still reads them
        self._spare: list[Chunk] = []  # their memory is used again: new pages cost more than the rows that go into them
        self.rows = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all chunks in memory."""
        return sum(chunk.nbytes for chunk in self._chunks.values() if not chunk.in_file)

    @property
    def file_bytes(self) -> int:
        """Bytes of all chunks in files."""
        return sum(chunk.nbytes for chunk in self._chunks.values() if chunk.in_file)

    def chunks(self) -> Iterator[Chunk]:
        """Every chunk."""
        return iter(self._chunks.values())

    def row(self, number: int) -> tuple[Chunk, int]:
        """The chunk and position of a row."""
        return self._chunks[number >> CHUNK_BITS], number & (CHUNK_ROWS - 1)

    def append(
        self, batch: Impressions, rows: npt.NDArray[np.int64], bucket: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int32]:
        """Store the rows of a batch; bucket (len(rows),) says when each leaves. Returns their numbers, (len(rows),)."""
        numbers = np.empty(len(rows), np.int32)
        first = int(bucket[0])
        if (bucket == first).all():
            self._append_one(batch, rows, (batch.policy, first), numbers, np.arange(len(rows)))
        else:
            for b in np.unique(bucket).tolist():
                chosen = np.flatnonzero(bucket == b)
                self._append_one(batch, rows[chosen], (batch.policy, b), numbers, chosen)
        self.rows += len(rows)
        return numbers

    def _append_one(
        self,
        batch: Impressions,
        rows: npt.NDArray[np.int64],
        bucket: tuple[str, int],
        numbers: npt.NDArray[np.int32],
        into: npt.NDArray[np.int64],
    ) -> None:
        done = 0
        while done < len(rows):
            number, chunk = self._open(bucket, batch.x, person=batch.person is not None)
            size = min(CHUNK_ROWS - chunk.n, len(rows) - done)
            source, target = rows[done : done + size], slice(chunk.n, chunk.n + size)
            chunk.key[target] = batch.key[source]
            chunk.ts[target] = batch.ts[source]
            chunk.offset[target] = batch.offset[source]
            chunk.row[target] = batch.row[source]
            chunk.arm[target] = batch.arm[source]
            chunk.slot[target] = batch.slot[source]
            chunk.snapshot[target] = batch.snapshot[source]
            chunk.propensity[target] = batch.propensity[source]
            chunk.flags[target] = batch.flags[source]
            chunk.x[target] = batch.x[source]
            if chunk.person is not None and batch.person is not None:
                chunk.person[target] = batch.person[source]
            numbers[into[done : done + size]] = (number << CHUNK_BITS) + np.arange(chunk.n, chunk.n + size)
            chunk.n += size
            done += size
            if chunk.n == CHUNK_ROWS:
                self._full(number)

    def _open(self, bucket: tuple[str, int], x: npt.NDArray[np.floating[Any]], *, person: bool) -> tuple[int, Chunk]:
        """The bucket's chunk that still has room for rows of this type, made if there is none."""
        numbers = self._buckets.setdefault(bucket, [])
        for number in numbers[-2:]:
            chunk = self._chunks[number]
            if chunk.n < CHUNK_ROWS and chunk.x.dtype == x.dtype:
                return number, chunk
        number = self._free.pop() if self._free else len(self._chunks)
        self._chunks[number] = self._reused(bucket[0], x, person=person) or self._new(bucket[0], x, person=person)
        numbers.append(number)
        return number, self._chunks[number]

    def _new(self, policy: str, x: npt.NDArray[np.floating[Any]], *, person: bool) -> Chunk:
        block = self._blocks.new(CHUNK_ROWS * (FIXED_BYTES + person * PERSON_BYTES + x.itemsize * x.shape[1]))
        return Chunk(policy=policy, block=block, **_columns(block, x.dtype, x.shape[1], person=person))

    def _full(self, number: int) -> None:
        """A chunk is full: it may move to a file when its turn comes."""
        self._filled.append(number)
        while self._blocks.full and self._filled:
            chunk = self._chunks.get(self._filled.popleft())
            if chunk is not None and not chunk.in_file and chunk.n == CHUNK_ROWS:
                chunk.block, chunk.in_file = self._blocks.move(chunk.block), True
                person = chunk.person is not None
                for name, column in _columns(chunk.block, chunk.x.dtype, chunk.x.shape[1], person=person).items():
                    setattr(chunk, name, column)

    def _reused(self, policy: str, x: npt.NDArray[np.floating[Any]], *, person: bool) -> Chunk | None:
        for i, chunk in enumerate(self._spare):
            alike = chunk.x.dtype == x.dtype and chunk.x.shape[1] == x.shape[1]
            if alike and (chunk.person is not None) == person:
                del self._spare[i]
                return replace(chunk, policy=policy, n=0, gone=None, seen={}, oldest_click=None)
        return None

    def leave(
        self, watermark: int, *, hold_ms: dict[str, int], bucket_ms: dict[str, int]
    ) -> Iterator[tuple[Chunk, npt.NDArray[np.int64]]]:
        """Take out the rows with ts + hold_ms <= watermark: yields (chunk, positions) for each chunk that loses some.

        What it yields may be read until the next call.
        """
        self._spare = [chunk for chunk in (*self._spare, *self._left) if not (chunk.in_file or self._blocks.full)]
        del self._spare[len(self._chunks) // 8 + 1 :]
        self._left = []
        for (policy, bucket), numbers in list(self._buckets.items()):
            width = bucket_ms[policy]
            if bucket * width > watermark:
                continue
            whole = (bucket + 1) * width - 1 <= watermark
            for number in numbers:
                chunk = self._chunks[number]
                staying = chunk.staying()
                leaving = staying if whole else staying[chunk.ts[staying] + hold_ms[policy] <= watermark]
                if len(leaving):
                    self.rows -= len(leaving)
                    yield chunk, leaving
                    if not whole:
                        _mark(chunk, leaving)
            if whole:
                del self._buckets[(policy, bucket)]
                for number in numbers:
                    self._left.append(self._chunks.pop(number))
                    self._free.append(number)


def _mark(chunk: Chunk, leaving: npt.NDArray[np.int64]) -> None:
    if chunk.gone is None:
        chunk.gone = np.zeros(CHUNK_ROWS, np.bool_)
    chunk.gone[leaving] = True
    if chunk.seen:
        for position in leaving.tolist():
            chunk.seen.pop(position, None)
