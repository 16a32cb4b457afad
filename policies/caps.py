"""Frequency caps: how often a unit has been shown an arm or a campaign lately.

Impressions are counted in buckets of event time, exactly, by the unit's 64-bit hash and the cap's key. A count is the sum
over the buckets of the last `window_s` seconds, the oldest of which is counted whole: an impression is remembered for at
least window_s and less than window_s + bucket_s, so no window of window_s ever holds more than the cap. Expiry drops whole
buckets.

Memory is bounded: a bucket that holds `most` pairs of unit and key counts what further pairs do in a row of `most` counters by
their hash (a count-min sketch of one row: Cormode & Muthukrishnan 2005). It never counts too little, so that caps hold in any
case; a count of a pair that came late is too high by at most its bucket's late impressions, on average by their number / most.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

MOST = 1_000_000_000
"""The largest limit; one that is never reached."""


def hashed(unit: str) -> int:
    """64-bit hash of a unit's id; what is kept does not name anybody.

    >>> hashed("u1") == hashed("u1") != hashed("u2")
    True
    """
    return int.from_bytes(blake2b(unit.encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """At most `limit` impressions of what `keys` hold together, in any `window_s`; see `Caps`."""

    limit: int
    window_s: float


@dataclass(slots=True)
class _Bucket:
    exact: dict[int, dict[str, int]] = field(default_factory=dict)
    pairs: int = 0
    late: npt.NDArray[np.uint32] | None = None


class Caps:
    """Counts of impressions by unit and key. A key is an arm's or a campaign's name.

    >>> caps = Caps(Cap(limit=2, window_s=60.0))
    >>> for ts in (0, 1_000):
    ...     caps.shown(hashed("u1"), "shoes", ts=ts)
    >>> caps.allowed(hashed("u1"), ("shoes", "hats"), now_ms=59_000).tolist()
    [False, True]
    >>> caps.allowed(hashed("u1"), ("shoes", "hats"), now_ms=120_000).tolist()
    [True, True]
    """

    def __init__(
        self,
        default: Cap,
        *,
        limits: Mapping[str, int] | None = None,
        buckets: int = 12,
        most: int = 100_000,
    ) -> None:
        """Nothing has been shown.

        Args:
            default: the window, and the limit of keys that have none of their own.
            limits: limits of some keys.
            buckets: B; bucket_s = window_s / B.
            most: pairs that a bucket counts exactly; there are at most B + 2 buckets.

        Raises:
            ValueError: a limit below 0 or beyond MOST, a window or a number that is not above zero.
        """
        self.limits = dict(limits or {})
        for limit in (default.limit, *self.limits.values()):
            if not 0 <= limit <= MOST:
                raise ValueError(f"a cap's limit is {limit}; it must be from 0 (never) to {MOST}")
        if not (default.window_s > 0.0 and buckets >= 1 and most >= 1):
            raise ValueError(
                f"window_s = {default.window_s}, buckets = {buckets}, most = {most}: all must be above zero"
            )
        self.default, self.most, self.count = default, most, buckets
        self.bucket_ms = max(int(np.ceil(default.window_s * 1000 / buckets)), 1)
        self._buckets: defaultdict[int, _Bucket] = defaultdict(_Bucket)
        self._newest = -(2**62)

    def shown(self, unit: int, key: str, *, ts: int) -> None:
        """Count an impression at `ts` (ms UTC), in any order; what has expired by the newest one is not kept."""
        place = ts // self.bucket_ms
        if place > self._newest:
            self._newest = place
            for old in [one for one in self._buckets if one < place - self.count]:
                del self._buckets[old]
        if place < self._newest - self.count:
            return
        bucket = self._buckets[place]
        counts = bucket.exact.get(unit)
        if counts is not None and key in counts:
            counts[key] += 1
        elif bucket.pairs < self.most:
            bucket.exact.setdefault(unit, {})[key] = 1
            bucket.pairs += 1
        else:
            if bucket.late is None:
                bucket.late = np.zeros(self.most, np.uint32)
            bucket.late[self._place(unit, key)] += 1

    def counts(self, unit: int, keys: Sequence[str], *, now_ms: int) -> npt.NDArray[np.int64]:
        """(C,) impressions of each key that the unit has seen within the window, as counted (see the module)."""
        total = dict.fromkeys(keys, 0)
        now = now_ms // self.bucket_ms
        for place, bucket in self._buckets.items():
            if not now - self.count <= place <= now:
                continue
            for key, n in bucket.exact.get(unit, {}).items():
                if key in total:
                    total[key] += n
            if bucket.late is not None:
                for key in total:
                    total[key] += int(bucket.late[self._place(unit, key)])
        return np.array([total[key] for key in keys], np.int64)

    def allowed(self, unit: int, keys: Sequence[str], *, now_ms: int) -> npt.NDArray[np.bool_]:
        """(C,) whether one more impression of each key keeps within its cap."""
        default = self.default.limit
        limits = np.array([self.limits.get(key, default) for key in keys], np.int64)
        return np.asarray(self.counts(unit, keys, now_ms=now_ms) < limits)

    def __len__(self) -> int:
        """Pairs of unit and key that are held exactly."""
        return sum(bucket.pairs for bucket in self._buckets.values())

    def _place(self, unit: int, key: str) -> int:
        mixed = unit ^ hashed(key)
        return (mixed * 0x9E3779B97F4A7C15 & (2**64 - 1)) * self.most >> 64
