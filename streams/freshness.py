"""From a click to the first snapshot that knows it, measured by offsets.

A snapshot names for every partition the offset of `clicks` up to which it includes everything. A click at offset o of
partition p is known to the first snapshot that names more than o for p.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Mapping

FloatArray = npt.NDArray[np.float64]


class Freshness:
    """Collects clicks and snapshots as they are seen, from any thread; all times in seconds of one clock.

    >>> fresh = Freshness()
    >>> fresh.click(partition=0, offset=7, sent_s=10.0)
    >>> fresh.snapshot({0: 7}, seen_s=10.5); fresh.snapshot({0: 8}, seen_s=11.0)
    >>> fresh.delays_s()
    array([1.])
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clicks: dict[int, list[tuple[int, float]]] = {}
        self._snapshots: dict[int, list[tuple[int, float]]] = {}

    def click(self, *, partition: int, offset: int, sent_s: float) -> None:
        """A click was delivered to this offset; it had been sent at `sent_s`."""
        with self._lock:
            self._clicks.setdefault(partition, []).append((offset, sent_s))

    def snapshot(self, included: Mapping[int, int], *, seen_s: float) -> None:
        """A snapshot came into use that includes, of each partition, the clicks below this offset."""
        with self._lock:
            for partition, offset in included.items():
                self._snapshots.setdefault(partition, []).append((offset, seen_s))

    def delays_s(self, *, sent_after_s: float = float("-inf")) -> FloatArray:
        """Seconds from sending to use, for each click that some snapshot knows and that was sent after a time."""
        known = self._matched(sent_after_s)
        return known[np.isfinite(known)]

    def unknown(self) -> int:
        """Number of clicks that no snapshot knows yet."""
        return int(np.isinf(self._matched(float("-inf"))).sum())

    def _matched(self, sent_after_s: float) -> FloatArray:
        with self._lock:
            clicks = {p: np.array(rows, np.float64) for p, rows in self._clicks.items()}
            snapshots = {p: np.array(rows, np.float64) for p, rows in self._snapshots.items()}
        parts = [_first_use(rows, snapshots.get(p), sent_after_s) for p, rows in clicks.items()]
        return np.concatenate(parts) if parts else np.zeros(0)


def _first_use(clicks: FloatArray, snapshots: FloatArray | None, sent_after_s: float) -> FloatArray:
    """Delay of each click of one partition; infinite where no snapshot includes it. Rows are (offset, time)."""
    clicks = clicks[clicks[:, 1] > sent_after_s]
    if snapshots is None:
        return np.full(len(clicks), np.inf)
    reached = np.maximum.accumulate(snapshots[:, 0])
    first = np.searchsorted(reached, clicks[:, 0], side="right")
    seen_s = np.append(snapshots[:, 1], np.inf)
    return seen_s[first] - clicks[:, 1]
