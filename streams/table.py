"""The sums of one partition by policy, half-life and arm, and which of them are not written as they stand.

An *entry* is one arm's sums under one half-life (a *track* of the ladder that forgetting is chosen from). A checkpoint writes
the entries that have waited longest, as many as fit into a budget of bytes; each record says up to which offsets its sums
go, so that a recovery adds to an entry only what lies above its own (streams/cuts.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from policies.batch import Batch
from policies.expiry import admit, expired
from policies.model import Model, Sums
from policies.retraction import without

Tracks = Mapping[float, Model]
"""A policy's model for each half-life in seconds; the first is the one that other programs know the policy by."""


class Entry(NamedTuple):
    """What one record of sums is about."""

    policy: str
    track: float
    arm: str


class Table:
    """Sums of one partition. ``tracks`` by policy; ``sums[policy][track][arm]`` is read by others and changed here only."""

    def __init__(self, tracks: Mapping[str, Tracks], *, expire_ms: Mapping[str, int] | None = None) -> None:
        self.tracks = tracks
        self.expire_ms = expire_ms or {}
        self.floors: dict[Entry, int] = {}
        """Of the arms that came back after they had expired: up to which event time their rows do not count (policies/expiry.py)."""
        self.dropped: set[Entry] = set()
        """Entries whose sums have expired, until their tombstones are written."""
        self.sums: dict[str, dict[float, dict[str, Sums]]] = {
            policy: {track: {} for track in models} for policy, models in tracks.items()
        }
        self.unwritten: dict[Entry, int] = {}
        """Entries whose newest record lacks something, with the number of the cut that it does not lack; longest first."""

    def update(
        self, policy: str, batch: Batch, *, cut: int, only: Mapping[float, Sequence[bool]] | None = None
    ) -> None:
        """Add a batch to every track. ``cut``: number of the last cut; ``only``: by track, which of the batch's arms to add to."""
        for track, model in self.tracks[policy].items():
            part = batch if only is None else of_arms(batch, only[track])
            sums, part = self._admitted(policy, track, part)
            self.sums[policy][track] = model.update(sums, part)
            for arm in touched(part):
                self.unwritten.setdefault(Entry(policy, track, arm), cut)

    def take_out(
        self, policy: str, batch: Batch, *, cut: int, only: Mapping[float, Sequence[bool]] | None = None
    ) -> None:
        """Take a batch that was added before out of every track again; arguments as `update`."""
        for track, model in self.tracks[policy].items():
            part = batch if only is None else of_arms(batch, only[track])
            sums, part = self._admitted(policy, track, part)
            self.sums[policy][track] = without(sums, part, model=model)
            for arm in touched(part):
                self.unwritten.setdefault(Entry(policy, track, arm), cut)

    def _admitted(self, policy: str, track: float, batch: Batch) -> tuple[dict[str, Sums], Batch]:
        """The sums and the rows that count, once arms that came back have lost what they had before."""
        sums, expire_ms = self.sums[policy][track], self.expire_ms.get(policy, 0)
        if expire_ms == 0:
            return sums, batch
        floors = {arm: floor for (of, at, arm), floor in self.floors.items() if (of, at) == (policy, track)}
        left = admit(sums, floors, batch, expire_ms=expire_ms)
        for arm, floor in left.floors.items():
            self.floors[Entry(policy, track, arm)] = floor
        return {arm: one for arm, one in sums.items() if arm not in left.floors}, left.batch

    def expire(self, watermark_ms: int | None, hold_ms: Mapping[str, int]) -> None:
        """Drop the sums that nothing to come can count with. ``hold_ms`` by policy."""
        for policy, expire_ms in self.expire_ms.items():
            for track, sums in self.sums[policy].items():
                late = expired(sums, watermark_ms=watermark_ms, expire_ms=expire_ms, hold_ms=hold_ms[policy])
                for entry in (Entry(policy, track, arm) for arm in late):
                    del sums[entry.arm]
                    self.floors.pop(entry, None)
                    self.unwritten.pop(entry, None)
                    self.dropped.add(entry)

    def buried(self) -> list[Entry]:
        """Entries that a tombstone is to be written for, once each; those that came back meanwhile are among `unwritten`."""
        found, self.dropped = sorted(self.dropped), set()
        return found

    def put(self, entry: Entry, record: Mapping[str, Any]) -> None:
        """Take sums from their record. Raises RecordError if they cannot be used."""
        model = self.tracks[entry.policy][entry.track]
        self.sums[entry.policy][entry.track][entry.arm] = model.decode(record)
        if record.get("floor_ms") is not None:
            self.floors[entry] = record["floor_ms"]

    def write(self, budget_bytes: int, more: Mapping[str, Any]) -> Iterator[tuple[Entry, bytes]]:
        """Records of the entries that have waited longest, at least one, until they fill the budget; with ``more`` in each."""
        left = budget_bytes
        for entry in list(self.unwritten):
            if left <= 0:
                return
            policy, track, arm = entry
            sums = self.sums[policy][track][arm]
            floor = {"floor_ms": self.floors[entry]} if entry in self.floors else {}
            value = msgspec.msgpack.encode({**self.tracks[policy][track].encode(sums), **more, **floor})
            del self.unwritten[entry]
            left -= len(value)
            yield entry, value

    @property
    def base(self) -> int | None:
        """Number of the last cut that every entry's newest record goes up to; None if that is the present one."""
        return min(self.unwritten.values(), default=None)


def touched(batch: Batch) -> list[str]:
    """Names of the arms that a batch changes."""
    rows = np.bincount(batch.arm, minlength=len(batch.arms)) + np.bincount(batch.reward_arm, minlength=len(batch.arms))
    return [batch.arms[code] for code in np.flatnonzero(rows).tolist()]


def of_arms(batch: Batch, wanted: Sequence[bool]) -> Batch:
    """The rows of some arms. ``wanted``: (arms,) which of ``batch.arms``."""
    among = np.asarray(wanted, np.bool_)
    return batch.only(among[batch.arm], among[batch.reward_arm])


def sums_key(policy: str | None, partition: int, arm: str | None, track: float | None = None) -> bytes:
    """Key of a record of the posteriors topic: [policy, partition, arm], with the half-life behind it for all but the first track.

    Both names null: the checkpoint record.

    >>> sums_key("p", 0, "a").hex(), sums_key("p", 0, "a", 60.0).hex()
    ('93a17000a161', '94a17000a161cb404e000000000000')
    """
    names = [policy, partition, arm]
    return msgspec.msgpack.encode(names if track is None else [*names, track])


def read_key(key: bytes) -> tuple[str | None, int, str | None, float | None]:
    """What `sums_key` was made of.

    >>> read_key(sums_key("p", 0, "a"))
    ('p', 0, 'a', None)
    """
    policy, partition, arm, *track = msgspec.msgpack.decode(key)
    return policy, partition, arm, track[0] if track else None
