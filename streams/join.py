"""The join of impressions and outcomes of one partition, by event time. Arrays and dicts; no Kafka.

An outcome counts if ``-early <= outcome.ts - impression.ts < window``. What else can become of it: ``late`` (the impression is
known, the time is outside), ``duplicate`` (same decision, slot and outcome id again), ``waiting`` (no impression yet),
``unmatched`` (waited until it left), ``dead`` (could not be used). Every outcome is exactly one of these.

Leaving. Rows leave at ``ts + window + grace`` of watermark, waiting outcomes at ``ts + early + window + grace`` (the longest of all
policies), which is never before a row they could count for. The watermark moves in `advance` only; so what is pending
between two calls is a function of (log, watermark, which outcomes wait), and a rebuild that reads the log again and applies the
stored watermark ends in the same state. Which outcomes wait has to be stored: an outcome without a row may as well have counted
for one that has left. An outcome outside the window is remembered until it would itself have left, for the same reason.

Copies of an impression are expected to carry the same time: the first in the log wins.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from math import fsum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from streams.decode import Click, Impressions
from streams.keytable import PROVISIONAL, KeyTable
from streams.pending import Chunk, Pending, Seen

Aggregate = Literal["sum", "max", "min", "earliest", "count"]
CLICK_COUNTS = ("joined", "duplicate", "late", "unmatched", "waiting", "dead")


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A policy's attribution rules; times in ms."""

    window_ms: int
    early_ms: int
    grace_ms: int
    outcomes: Mapping[str, float]
    aggregate: Aggregate = "sum"

    @property
    def hold_ms(self) -> int:
        """How long after its own time an impression stays."""
        return self.window_ms + self.grace_ms

    @property
    def bucket_ms(self) -> int:
        """Width of the buckets that rows are kept in."""
        return max(1000, self.hold_ms // 24)


@dataclass(frozen=True, slots=True)
class Joined:
    """One outcome that counted, with the impression it belongs to and what it changed."""

    click: Click
    policy: str
    arm: int
    slot: int
    snapshot: int
    propensity: float
    impression_ts: int
    impression_offset: int
    x: npt.NDArray[np.floating[Any]]
    reward: float  # of this outcome
    change: float  # of the impression's reward
    square: float  # of the squared reward

    @property
    def learns(self) -> bool:
        """False for a fallback decision (no snapshot, no choice), which stays out of the sums."""
        return self.snapshot >= 0 or self.propensity < 1.0


@dataclass(frozen=True, slots=True)
class Matured:
    """Impressions of one policy whose window has closed: m positions of a chunk, their final rewards and outcome counts (m,)."""

    chunk: Chunk
    rows: npt.NDArray[np.int64]
    reward: npt.NDArray[np.float64]
    outcomes: npt.NDArray[np.int32]


@dataclass(slots=True)
class Changes:
    """What a call changed beyond the join's own state."""

    fresh: npt.NDArray[np.int64] | None = None  # rows of the batch that were new
    duplicates: int = 0
    expired: npt.NDArray[np.int64] | None = None  # rows of the batch that came after they would have left
    joined: list[Joined] = field(default_factory=list)
    dead: list[tuple[Click, str]] = field(default_factory=list)


class Join:
    """Join state of one partition. ``windows``: rules by policy; ``watermark``: event time in ms up to which rows have left."""

    def __init__(self, windows: Mapping[str, Window], *, watermark: int | None = None) -> None:
        self.windows = windows
        self.watermark = watermark
        self.pending = Pending()
        self.keys = KeyTable()
        self.waiting: dict[int, list[Click]] = {}
        self.counts = dict.fromkeys(CLICK_COUNTS, 0)
        self._places: list[tuple[int, int]] | None = []  # what `waiting_places` returns, None if it has to be made anew
        self._first_leaves: int | None = None  # a lower bound of the time at which the first waiting outcome leaves
        self._hold = {policy: window.hold_ms for policy, window in windows.items()}
        self._bucket = {policy: window.bucket_ms for policy, window in windows.items()}
        self.wait_ms = max((w.early_ms for w in windows.values()), default=0) + max(self._hold.values(), default=0)

    def add_impressions(self, batch: Impressions, *, counted: bool = True) -> Changes:
        """Add impressions. ``counted`` False rebuilds: outcomes found waiting are remembered, not counted."""
        changes = Changes()
        hold = self._hold[batch.policy]
        rows = np.arange(len(batch.ts))
        if self.watermark is not None:
            staying = batch.ts + hold > self.watermark
            if not staying.all():
                changes.expired = np.flatnonzero(~staying)
                rows = np.flatnonzero(staying)
        keys = batch.key[rows]
        found, place = self.keys.add(keys)
        fresh = np.flatnonzero(found == PROVISIONAL + np.arange(len(rows)))
        changes.duplicates = len(rows) - len(fresh)
        changes.fresh = rows[fresh]
        if not len(fresh):
            return changes
        bucket = (batch.ts[changes.fresh] + hold) // self._bucket[batch.policy]
        numbers = self.pending.append(batch, changes.fresh, bucket)
        self.keys.assign(place[fresh], numbers)
        if self.waiting:
            waiting = self.waiting
            for i, key in [(i, key) for i, key in enumerate(keys[fresh].tolist()) if key in waiting]:
                self._places = None
                for click in waiting.pop(key):
                    self.counts["waiting"] -= 1
                    self._match(click, int(numbers[i]), changes, counted=counted)
        return changes

    def add_clicks(self, clicks: list[Click], *, rebuild: Container[tuple[int, int]] | None = None) -> Changes:
        """Add outcomes. With ``rebuild``, the (offset, row) of those that waited, nothing is counted but what waits."""
        counted = rebuild is None
        changes = Changes()
        if not clicks:
            return changes
        rows = self.keys.find(np.array([click.key for click in clicks], np.uint64)).tolist()
        for click, row in zip(clicks, rows, strict=True):
            left = self._leaves(click) <= self.watermark if self.watermark is not None else False
            if row >= 0:
                if counted or not left:
                    self._match(click, row, changes, counted=counted)
            elif rebuild is not None:
                if (click.offset, click.row) in rebuild:
                    self._wait(click)
            elif left:
                self._count("unmatched", counted)
            elif any(
                other.outcome_id == click.outcome_id and other.slot == click.slot
                for other in self.waiting.get(click.key, ())
            ):
                self._count("duplicate", counted)
            else:
                self._wait(click)
        return changes

    def _wait(self, click: Click) -> None:
        self.waiting.setdefault(click.key, []).append(click)
        self.counts["waiting"] += 1
        self._places = None
        leaves = self._leaves(click)
        self._first_leaves = leaves if self._first_leaves is None else min(self._first_leaves, leaves)

    def waiting_places(self) -> list[tuple[int, int]]:
        """(offset, row) of every outcome that waits, in order: what a checkpoint stores and a rebuild is given."""
        if self._places is None:
            self._places = sorted((click.offset, click.row) for clicks in self.waiting.values() for click in clicks)
        return self._places

    def advance(self, watermark: int) -> list[Matured]:
        """Move the watermark (never back) and let go of what leaves. Returns the matured impressions."""
        if self.watermark is not None and watermark <= self.watermark:
            return []
        self.watermark = watermark
        matured = []
        for chunk, rows in self.pending.leave(watermark, hold_ms=self._hold, bucket_ms=self._bucket):
            self.keys.remove(chunk.key[rows])
            matured.append(self._mature(chunk, rows))
        if self._first_leaves is not None and watermark >= self._first_leaves:
            self._let_waiting_go(watermark)
        return matured

    def _let_waiting_go(self, watermark: int) -> None:
        self._places = None
        for key, clicks in list(self.waiting.items()):
            staying = [click for click in clicks if self._leaves(click) > watermark]
            if len(staying) < len(clicks):
                self.counts["waiting"] -= len(clicks) - len(staying)
                self._count("unmatched", True, len(clicks) - len(staying))
                if staying:
                    self.waiting[key] = staying
                else:
                    del self.waiting[key]
        remaining = (self._leaves(click) for clicks in self.waiting.values() for click in clicks)
        self._first_leaves = min(remaining, default=None)

    def oldest(self) -> tuple[int | None, int | None]:
        """The smallest impression and outcome offsets that something pending still needs; None where nothing does."""
        impressions, clicks = [], []
        for chunk in self.pending.chunks():
            staying = chunk.staying()
            if len(staying):
                impressions.append(int(chunk.offset[staying[0]]))
            if chunk.oldest_click is not None:
                clicks.append(chunk.oldest_click)
        clicks.extend(offset for offset, _ in self.waiting_places()[:1])
        return min(impressions, default=None), min(clicks, default=None)

    @property
    def nbytes(self) -> int:
        """Bytes of the pending rows and their key table."""
        return self.pending.nbytes + self.keys.nbytes

    def _leaves(self, click: Click) -> int:
        return click.ts + self.wait_ms

    def _count(self, name: str, counted: bool, n: int = 1) -> None:
        if counted:
            self.counts[name] += n

    def _match(self, click: Click, row: int, changes: Changes, *, counted: bool) -> None:
        """Settle one outcome whose impression is pending."""
        chunk, position = self.pending.row(row)
        window = self.windows[chunk.policy]
        seen = chunk.seen.get(position, [])
        if self.watermark is not None and any(other.reward is None for other in seen):
            seen = [other for other in seen if other.reward is not None or other.leaves > self.watermark]
        weight = window.outcomes.get(click.kind)
        if any(other.outcome_id == click.outcome_id for other in seen):
            self._count("duplicate", counted)
            return
        if weight is None:
            reason = f"kind is {click.kind!r}; policy {chunk.policy!r} lists {', '.join(sorted(window.outcomes))}"
            self._count("dead", counted)
            if counted:
                changes.dead.append((click, reason))
            return
        ts = int(chunk.ts[position])
        inside = -window.early_ms <= click.ts - ts < window.window_ms
        reward = weight * click.value
        after = [*seen, Seen(click.outcome_id, click.ts, reward if inside else None, self._leaves(click))]
        chunk.seen[position] = after
        chunk.oldest_click = click.offset if chunk.oldest_click is None else min(chunk.oldest_click, click.offset)
        self._count("joined" if inside else "late", counted)
        if inside and counted:
            old, new = aggregate(seen, window.aggregate), aggregate(after, window.aggregate)
            changes.joined.append(
                Joined(
                    click,
                    chunk.policy,
                    int(chunk.arm[position]),
                    int(chunk.slot[position]),
                    int(chunk.snapshot[position]),
                    float(chunk.propensity[position]),
                    ts,
                    int(chunk.offset[position]),
                    chunk.x[position],
                    reward,
                    new - old,
                    new * new - old * old,
                )
            )

    def _mature(self, chunk: Chunk, rows: npt.NDArray[np.int64]) -> Matured:
        reward = np.zeros(len(rows))
        outcomes = np.zeros(len(rows), np.int32)
        if chunk.seen:
            how = self.windows[chunk.policy].aggregate
            for i, position in enumerate(rows.tolist()):
                seen = chunk.seen.get(position)
                if seen is not None:
                    reward[i] = aggregate(seen, how)
                    outcomes[i] = sum(other.reward is not None for other in seen)
        return Matured(chunk, rows, reward, outcomes)


def aggregate(seen: Iterable[Seen], how: Aggregate) -> float:
    """The reward of an impression from the outcomes that count, in any order; 0 without one.

    >>> two = [Seen("o1", 20, 2.0, 0), Seen("o2", 10, 0.5, 0), Seen("o3", 5, None, 0)]
    >>> [aggregate(two, how) for how in ("sum", "max", "min", "earliest", "count")]
    [2.5, 2.0, 0.5, 0.5, 2.0]
    """
    rewards = [(other.ts, other.outcome_id, other.reward) for other in seen if other.reward is not None]
    if not rewards:
        return 0.0
    values = [reward for _, _, reward in rewards]
    if how == "sum":
        return fsum(values)
    if how == "max":
        return max(values)
    if how == "min":
        return min(values)
    if how == "count":
        return float(len(values))
    return min(rewards)[2]
