"""How many impressions of each unit (a user, most likely) have learned: what keeps one of them, bot or not, from moving a posterior.

Event time is cut into buckets of a policy's ``unit_window_s`` (ts // width). Of one unit, at most ``unit_limit`` impressions of the policy and
bucket learn, the first in the log of their partition. A bucket is open until no row of it can come in time any more: its end + hold
<= watermark.

Counts are not written into checkpoints. A rebuild counts again, from the first row of every open bucket (`oldest`), and has to find
what was counted at first: every impression that came in time, once, though its row may have left meanwhile. Which copies of it came
later is told by their keys, kept while the rebuild goes on. Which impressions came too late cannot be told from the log once
the watermark has moved on, so a checkpoint stores their places (`expired`): few, unless an old log is sent again.

Memory: 12 bytes for each place of a hash table that is 3/8 to 3/4 full, so 16 to 32 bytes a unit and open bucket.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from streams.decoded import Impressions
from streams.keytable import PROVISIONAL, KeyTable
from streams.waiting import ROW_BITS, Places

FULLEST = 0.75

Bits = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """At most ``rows`` of a unit learn in a bucket of ``width_ms``; impressions come in time for ``hold_ms`` after their own."""

    rows: int
    width_ms: int
    hold_ms: int


@dataclass(slots=True)
class Bucket:
    """One policy's rows of one stretch of event time. ``first``: the smallest offset of those that came in time."""

    first: int | None = None
    table: KeyTable = field(default_factory=lambda: KeyTable(fullest=FULLEST))
    expired: list[Places] = field(default_factory=list)


class Units:
    """Open buckets of one partition. ``limits`` by policy; a policy without one is not in it."""

    def __init__(self, limits: Mapping[str, Limit]) -> None:
        self.limits = limits
        self._buckets: dict[tuple[str, int], Bucket] = {}
        self._missed: Places = np.zeros(0, np.int64)
        self._gone: KeyTable | None = None  # impressions that came in time and have left; in a rebuild only

    @property
    def nbytes(self) -> int:
        """Bytes of all tables, and of the places of what came late."""
        expired = sum(places.nbytes for bucket in self._buckets.values() for places in bucket.expired)
        return expired + sum(bucket.table.nbytes for bucket in self._buckets.values())

    def restore(self, missed: Places) -> None:
        """Before a rebuild: the places of impressions that came late, from the checkpoint, in any order (k,)."""
        self._missed = missed

    def over(
        self,
        batch: Impressions,
        unit: npt.NDArray[np.uint64],
        fresh: Numbers,
        expired: Numbers | None,
        *,
        watermark: int | None,
        counted: bool,
    ) -> Bits:
        """Count the rows of a batch of a limited policy, and tell which are beyond their unit's limit (n,).

        Args:
            batch: n rows in the order of the log, which follow those of the batches before.
            unit: (n,) the hash of each row's unit; 0 for rows that have none or would not learn anyway.
            fresh: rows that are new in the join.
            expired: rows that would have left at this watermark.
            watermark: ms of event time.
            counted: False in a rebuild, where rows that would have left by now are such that came in time, save those restored.
        """
        limit, rows = self.limits[batch.policy], fresh
        if expired is not None and watermark is not None:
            end = (batch.ts[expired] // limit.width_ms + 1) * limit.width_ms - 1
            still = expired[end + limit.hold_ms > watermark]
            late = np.ones(len(still), np.bool_) if counted else np.isin(_places(batch, still), self._missed)
            self._came_late(batch, still[late])
            if not late.all():
                rows = np.sort(np.concatenate([fresh, self._first_copies(batch, still[~late])]))
        over = np.zeros(len(batch.ts), np.bool_)
        for bucket, chosen in self._by_bucket(batch, rows):
            if bucket.first is None:
                bucket.first = int(batch.offset[chosen[0]])
            counting = chosen[unit[chosen] > 0]
            if len(counting):
                over[counting] = _beyond(bucket.table, unit[counting], limit.rows)
        return over

    def leave(self, watermark: int) -> None:
        """Let go of the buckets that are closed at this watermark, and of what only a rebuild needs: it is over."""
        self._missed, self._gone = self._missed[:0], None
        for policy, number in list(self._buckets):
            limit = self.limits[policy]
            if (number + 1) * limit.width_ms - 1 + limit.hold_ms <= watermark:
                del self._buckets[policy, number]

    def oldest(self) -> int | None:
        """The smallest offset that a rebuild needs; None if no bucket is open."""
        return min((bucket.first for bucket in self._buckets.values() if bucket.first is not None), default=None)

    def expired(self) -> Places:
        """Where the impressions of open buckets stand that came too late, ascending (k,)."""
        places = [one for bucket in self._buckets.values() for one in bucket.expired]
        return np.sort(np.concatenate(places)) if places else np.zeros(0, np.int64)

    def _by_bucket(self, batch: Impressions, rows: Numbers) -> list[tuple[Bucket, Numbers]]:
        """Rows by the bucket that they belong to, which is opened if it is not."""
        numbers = batch.ts[rows] // self.limits[batch.policy].width_ms
        found = []
        for number in np.unique(numbers).tolist():
            bucket = self._buckets.get((batch.policy, number))
            if bucket is None:
                bucket = self._buckets[batch.policy, number] = Bucket()
            found.append((bucket, rows[numbers == number]))
        return found

    def _came_late(self, batch: Impressions, rows: Numbers) -> None:
        for bucket, chosen in self._by_bucket(batch, rows):
            bucket.expired.append(_places(batch, chosen))

    def _first_copies(self, batch: Impressions, rows: Numbers) -> Numbers:
        """Those of a rebuild's rows that came in time and whose decision was not among the rows before."""
        if self._gone is None:
            self._gone = KeyTable()
        found, place = self._gone.add(batch.key[rows])
        new = found == PROVISIONAL + np.arange(len(rows))
        self._gone.assign(place[new], np.zeros(int(new.sum()), np.int32))
        first: Numbers = rows[new]
        return first


def _places(batch: Impressions, rows: Numbers) -> Places:
    """Where rows stand in the log (k,)."""
    places: Places = batch.offset[rows] << ROW_BITS | batch.row[rows]
    return places


def _beyond(table: KeyTable, unit: npt.NDArray[np.uint64], limit: int) -> Bits:
    """Which of k rows in order, k > 0, are beyond the limit; ``table`` holds how often each unit came, up to the limit.

    >>> table = KeyTable()
    >>> _beyond(table, np.array([5, 7, 5, 5], np.uint64), 2).tolist()
    [False, False, False, True]
    >>> _beyond(table, np.array([7, 7, 5, 9], np.uint64), 2).tolist()
    [False, True, True, False]
    """
    found, place = table.add(unit)
    order = np.argsort(place, kind="stable")
    at = place[order]
    start = np.flatnonzero(np.diff(at, prepend=-1))
    size = np.diff(start, append=len(at))
    before = np.where(found >= PROVISIONAL, 0, found)[order]
    rank = before + np.arange(len(at)) - np.repeat(start, size)
    table.assign(at[start], np.minimum(before[start] + size, limit).astype(np.int32))
    over = np.empty(len(at), np.bool_)
    over[order] = rank >= limit
    return over
