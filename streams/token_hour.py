"""Outcomes of one hour of decisions, remembered by hash: rows in the order in which they came, found by decision.

A row takes 28 bytes and its decision's share of a `KeyTable`: the hash of (decision, slot), that of (decision, slot, outcome id), the
reward, and the row of the same decision before it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streams.keytable import PROVISIONAL, KeyTable

FULLEST = 0.75
_GROWTH = 1.25

Hashes = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]


class TokenHour:
    """Rows 0 to n - 1: ``decision``, ``outcome`` (n,) uint64, ``reward`` (n,). A row is found once it is indexed.

    >>> hour = TokenHour()
    >>> rows = hour.append(np.array([7, 7], np.uint64), np.array([2, 4], np.uint64), np.array([0.5, 1.0]))
    >>> hour.index(rows)
    >>> hour.of(7), hour.of(8)
    ([(4, 1.0), (2, 0.5)], [])
    """

    def __init__(self) -> None:
        self.n = 0
        self._decision: Hashes = np.zeros(0, np.uint64)
        self._outcome: Hashes = np.zeros(0, np.uint64)
        self._reward: Floats = np.zeros(0)
        self._previous: npt.NDArray[np.int32] = np.zeros(0, np.int32)
        self._heads = KeyTable(bits=4, fullest=FULLEST)

    @property
    def nbytes(self) -> int:
        """Bytes of the columns and the table."""
        columns = (self._decision, self._outcome, self._reward, self._previous)
        return self._heads.nbytes + sum(column.nbytes for column in columns)

    def append(self, decision: Hashes, outcome: Hashes, reward: Floats) -> npt.NDArray[np.int64]:
        """Store k rows, not to be found yet. Returns their numbers (k,)."""
        start, end = self.n, self.n + len(decision)
        if end > len(self._decision):
            size = max(16, end, int(len(self._decision) * _GROWTH))
            for name in ("_decision", "_outcome", "_reward", "_previous"):
                column = getattr(self, name)
                grown = np.zeros(size, column.dtype)
                grown[:start] = column[:start]
                setattr(self, name, grown)
        self._decision[start:end], self._outcome[start:end], self._reward[start:end] = decision, outcome, reward
        self.n = end
        return np.arange(start, end)

    def index(self, rows: npt.NDArray[np.int64]) -> None:
        """Let rows (k,) be found, each given once; k > 0."""
        found, place = self._heads.add(self._decision[rows])
        order = np.argsort(place, kind="stable")
        at, sorted_rows = place[order], rows[order]
        first = np.diff(at, prepend=-1) != 0
        head = np.where(found >= PROVISIONAL, -1, found)[order]
        self._previous[sorted_rows] = np.where(first, head, np.roll(sorted_rows, 1))
        last = np.append(first[1:], True)
        self._heads.assign(at[last], sorted_rows[last].astype(np.int32))

    def of(self, decision: int) -> list[tuple[int, float]]:
        """(outcome, reward) of the indexed rows of a decision, the last first."""
        row = self._heads.find_one(decision)
        rows = []
        while row >= 0:
            rows.append((self._outcome.item(row), self._reward.item(row)))
            row = self._previous.item(row)
        return rows

    def columns(self, start: int, end: int) -> tuple[Hashes, Hashes, Floats]:
        """Decision, outcome and reward of the rows [start, end)."""
        return self._decision[start:end], self._outcome[start:end], self._reward[start:end]
