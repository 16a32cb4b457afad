"""Outcomes that counted, remembered until their tokens have died, so that none counts twice: hourly blocks that survive restarts.

What is remembered of an outcome: hashes of (decision, slot) and of (decision, slot, outcome id), 64 bits each and the same in every
process, and its reward, because several outcomes of one decision are bounded and squared together. The last bit of the second hash says
whether a token brought it.

A recovery takes input again, cut by cut, for those sums that lack it (streams/cuts.py). What was remembered at a later cut than the base is
known then and must not make these outcomes duplicates: it is *to come*, and is found when the replay has counted it once more.

Hours are let go as the watermark passes their life. Their records are kept until the base of a recovery has passed it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from streams.messages import Message
from streams.token_hour import TokenHour
from streams.token_parts import (
    Offsets,
    Part,
    Piece,
    decode_rows,
    encode_rows,
    mergeable,
    reached,
    read_seen_key,
    seen_key,
    split,
)

HOUR_MS = 3_600_000
BY_TOKEN = 1
"""Last bit of an outcome's hash."""


def hashes(decision_id: str, slot: str, outcome_id: str) -> tuple[int, int]:
    """64-bit hashes of (decision, slot) and of (decision, slot, outcome id), the last bit of the second clear.

    >>> one, other = hashes("d1", "top", "o1"), hashes("d1", "top", "o2")
    >>> one[0] == other[0], one[1] == other[1], one[1] % 2
    (True, False, 0)
    """
    base = blake2b(b"%d %s%s" % (len(decision_id), decision_id.encode(), slot.encode()), digest_size=16)
    digest = base.digest()
    decision = int.from_bytes(digest[:8], "little")
    outcome = int.from_bytes(blake2b(digest + outcome_id.encode(), digest_size=8).digest(), "little")
    return decision, outcome & ~BY_TOKEN


class TokenStore:
    """Remembered outcomes of one partition. ``life_ms``: how long after an hour's end they are needed; 0 where tokens are off.

    ``floor``: hours below it were let go, so that what they held is not known any more.
    """

    def __init__(self, *, life_ms: int) -> None:
        self.life_ms = life_ms
        self.floor = 0
        self._hours: dict[int, TokenHour] = {}
        self._parts: dict[int, list[Part]] = {}
        self._next: dict[int, int] = {}
        self._written: dict[int, int] = {}  # rows of an hour that parts hold
        self._new: dict[int, dict[int, list[tuple[int, float]]]] = {}  # since the last checkpoint, by hour and decision
        self._to_come: dict[int, tuple[int, int]] = {}  # hour and row by the outcome's hash
        self._small: set[int] = set()  # hours that may have parts to merge
        self._let_go: list[tuple[int, list[Part]]] = []  # with the watermark at which they were

    @property
    def rows(self) -> int:
        """Outcomes remembered, those since the last checkpoint left out."""
        return sum(hour.n for hour in self._hours.values())

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks."""
        return sum(hour.nbytes for hour in self._hours.values())

    def of(self, ts: int, decision: int) -> list[tuple[int, float]]:
        """(hash of the outcome, reward) of what is remembered of a decision of that time, ms."""
        number = ts // HOUR_MS
        hour = self._hours.get(number)
        found = [] if hour is None else hour.of(decision)
        return found + self._new.get(number, {}).get(decision, [])

    def comes(self, outcome: int) -> bool:
        """In a replay: whether an outcome was counted at a cut that is not reached yet, or at this one and not yet again."""
        return outcome in self._to_come

    def add(self, ts: int, decision: int, outcome: int, reward: float) -> None:
        """Remember an outcome of a decision of that time, ms."""
        known = self._to_come.pop(outcome, None)
        if known is not None:
            self._hours[known[0]].index(np.array([known[1]]))
            return
        self._new.setdefault(ts // HOUR_MS, {}).setdefault(decision, []).append((outcome, reward))

    def leave(self, watermark: int) -> None:
        """Let go of the hours whose life is over at this watermark, ms."""
        for number in [n for n in self._hours.keys() | self._new.keys() if self._ends(n) <= watermark]:
            self._hours.pop(number, None)
            self._new.pop(number, None)
            self._written.pop(number, None)
            self._next.pop(number, None)
            self._small.discard(number)
            self._let_go.append((self._ends(number), self._parts.pop(number, [])))
            self.floor = max(self.floor, number + 1)
            if self._to_come:
                self._to_come = {one: place for one, place in self._to_come.items() if place[0] != number}

    def _ends(self, number: int) -> int:
        return (number + 1) * HOUR_MS - 1 + self.life_ms

    # -- records

    def records(self, partition: int, *, cut: Offsets, base: Offsets, watermark: int | None) -> Iterator[Message]:
        """What a checkpoint's transaction has to hold.

        Args:
            partition: number of the partition.
            cut: offsets of the checkpoint.
            base: offsets of the cut that all sums' records go up to.
            watermark: of that cut.
        """
        self._file()
        for number, hour in self._hours.items():
            start = self._written.get(number, 0)
            if start < hour.n:
                yield from self._write(partition, number, [(start, hour.n)], level=0, offsets=cut)
                self._written[number] = hour.n
        for number in sorted(self._small):
            while (small := mergeable(self._parts[number], base)) is not None:
                yield from self._merge(partition, number, small)
        self._small = {number for number in self._small if not reached(self._parts[number][-1].offsets, base)}
        staying = []
        for ends, parts in self._let_go:
            if watermark is None or ends > watermark:
                staying.append((ends, parts))
            else:
                yield from _tombstones(partition, parts)
        self._let_go = staying

    def _file(self) -> None:
        """Move what is new into its hours."""
        for number, by_decision in self._new.items():
            rows = [(decision, *one) for decision, found in by_decision.items() for one in found]
            hour = self._hours.setdefault(number, TokenHour())
            columns = zip(*rows, strict=True)
            decision, outcome = (np.array(next(columns), np.uint64) for _ in range(2))
            hour.index(hour.append(decision, outcome, np.array(next(columns), np.float64)))
        self._new = {}

    def _write(
        self, partition: int, number: int, pieces: Iterable[Piece], *, level: int, offsets: Offsets
    ) -> Iterator[Message]:
        for group in split(list(pieces)):
            key = self._next.get(number, 0)
            self._next[number] = key + 1
            part = Part(hour=number, number=key, level=level, offsets=dict(offsets), pieces=group)
            self._parts.setdefault(number, []).append(part)
            self._small.add(number)
            found = [self._hours[number].columns(start, end) for start, end in group]
            decision, outcome, reward = (np.concatenate(column) for column in zip(*found, strict=True))
            value = encode_rows((decision, outcome, reward), level=level, offsets=offsets)
            yield Message("posteriors", seen_key(partition, number, key), value)

    def _merge(self, partition: int, number: int, small: list[Part]) -> Iterator[Message]:
        merged = {part.number for part in small}
        self._parts[number] = [part for part in self._parts[number] if part.number not in merged]
        newest = max(small, key=lambda part: tuple(part.offsets[side] for side in sorted(part.offsets)))
        pieces = [piece for part in small for piece in part.pieces]
        yield from self._write(partition, number, pieces, level=small[0].level + 1, offsets=newest.offsets)
        yield from _tombstones(partition, small)

    # -- recovery

    def restore(self, records: Mapping[bytes, bytes], *, base: Offsets, floor: int) -> None:
        """Take what the newest records of the partition hold (by key), before a rebuild at a cut with these offsets."""
        self.floor = floor
        for number, key, value in sorted((*read_seen_key(key), value) for key, value in records.items()):
            rows, level, offsets = decode_rows(value)
            hour = self._hours.setdefault(number, TokenHour())
            numbers = hour.append(*rows)
            part = Part(
                hour=number, number=key, level=level, offsets=offsets, pieces=((hour.n - len(numbers), hour.n),)
            )
            self._parts.setdefault(number, []).append(part)
            self._next[number] = max(self._next.get(number, 0), key + 1)
            self._written[number] = hour.n
            self._small.add(number)
            if reached(offsets, base):
                hour.index(numbers)
            else:
                self._to_come.update(_places(rows[1], number, numbers))

    def settled(self) -> None:
        """End the recovery: what was to come has been counted."""
        by_hour: dict[int, list[int]] = {}
        for number, row in self._to_come.values():
            by_hour.setdefault(number, []).append(row)
        for number, rows in by_hour.items():
            self._hours[number].index(np.array(sorted(rows)))
        self._to_come = {}


def _places(
    outcome: npt.NDArray[np.uint64], number: int, rows: npt.NDArray[np.int64]
) -> Iterator[tuple[int, tuple[int, int]]]:
    for one, row in zip(outcome.tolist(), rows.tolist(), strict=True):
        yield one, (number, row)


def _tombstones(partition: int, parts: Iterable[Part]) -> Iterator[Message]:
    for part in parts:
        yield Message("posteriors", seen_key(partition, part.hour, part.number), None)
