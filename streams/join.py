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

What an impression is worth is a function of the set of its outcomes (`streams.outcomes`): some of them take back others, and a policy
may count impressions only once a viewable event came. So an outcome may change more than its own reward, and let its impression into
the sums or take it out (`Joined.enters`).

Not every impression learns. Fallback decisions do not, nor do those beyond the limit of their unit (`streams.units`): they are joined and
counted like all others, and neither they nor their outcomes enter the sums.

Outcomes that bring their impression along in a token are counted from that (`streams.token_outcomes`).
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import fsum, isnan, nan
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from policies.robust import bounded
from streams.blocks import Blocks
from streams.decoded import LIMITED, Brought, Click, Impressions
from streams.keytable import PROVISIONAL, KeyTable
from streams.outcomes import EARNS, SHOWS, TAKING_BACK, VOIDS, Dues, Seen, counting, dues
from streams.pending import Chunk, Pending
from streams.token_outcomes import TokenOutcomes, Verdict
from streams.units import Limit, Units
from streams.waiting import Waiting, place

Aggregate = Literal["sum", "max", "min", "earliest", "count"]
NOTHING_DUE = Dues()
CLICK_COUNTS = ("joined", "duplicate", "late", "unmatched", "waiting", "dead")


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A policy's attribution rules; times in ms. ``bounds``: least and largest reward of one impression, None for any.

    ``unit_limit``: impressions of a unit that learn in ``unit_window_ms`` of event time, 0 for any number. ``viewable``: the kind of
    outcome without which an impression does not count, None if each counts. ``retraction_ms``: time for what takes something back,
    if that is longer than ``window_ms``. ``charged``: kinds of outcomes that cost what the settings say unless they say it
    themselves, None if nobody adds up what they cost.
    ``unit_limit``: impressions of a unit that learn in ``unit_window_ms`` of event time, 0 for any number. ``token_ms``: how long
    after the decision an outcome counts from its token, 0 for not at all.
    """

    window_ms: int
    early_ms: int
    grace_ms: int
    outcomes: Mapping[str, float]
    aggregate: Aggregate = "sum"
    bounds: tuple[float, float] | None = None
    unit_limit: int = 0
    unit_window_ms: int = 3_600_000
    viewable: str | None = None
    retraction_ms: int = 0
    charged: frozenset[str] | None = None
    token_ms: int = 0

    def reward(self, seen: Sequence[Seen]) -> float:
        """The reward of an impression from the outcomes that count, 0 if it does not count itself."""
        return self.standing(seen)[1]

    def standing(self, seen: Sequence[Seen]) -> tuple[Sequence[Seen] | None, float]:
        """Those of an impression's outcomes that count, None if it does not count itself, and its reward."""
        if not seen:
            return (seen if self.viewable is None else None), 0.0
        left = counting(seen, viewable=self.viewable is not None)
        return left, 0.0 if left is None else bounded(aggregate(left, self.aggregate), self.bounds)

    @property
    def counted(self) -> dict[str, str]:
        """What checkpoints say of the impressions in the sums: nothing where each counts."""
        return {} if self.viewable is None else {"viewable": self.viewable}

    def does(self, kind: str) -> tuple[int, float]:
        """What an outcome of this kind does, 0 if it cannot be used, and its worth."""
        worth = self.outcomes.get(kind)
        if kind == self.viewable:
            return (SHOWS, 0.0) if worth is None else (EARNS | SHOWS, worth)
        return (0 if self.token_ms else TAKING_BACK.get(kind, 0), 0.0) if worth is None else (EARNS, worth)

    def cost(self, does: int, click: Click) -> float | None:
        """What `Seen` says of an outcome's cost."""
        if self.charged is None:
            return None
        own = does == VOIDS or (does & (EARNS | SHOWS) and click.kind in self.charged)
        return click.cost if click.cost is not None or not own else nan

    def due(self, seen: Sequence[Seen], one: Seen) -> Dues:
        """What is due because of one outcome after those that were seen."""
        if self.charged is None:
            return NOTHING_DUE
        viewable = self.viewable is not None
        if not seen and one.does == EARNS and not viewable:  # the usual case
            return NOTHING_DUE if one.cost is None else Dues(clicks=1) if isnan(one.cost) else Dues(one.cost)
        return dues([*seen, one], viewable=viewable).less(dues(seen, viewable=viewable))

    def open_ms(self, does: int) -> int:
        """How long after its impression an outcome that does this is in time."""
        return self.window_ms if does & (EARNS | SHOWS) else max(self.window_ms, self.retraction_ms)

    @property
    def hold_ms(self) -> int:
        """How long after its own time an impression stays."""
        return max(self.window_ms, self.retraction_ms) + self.grace_ms

    @property
    def token_life_ms(self) -> int:
        """How long after its decision a token can be used, 0 if not at all."""
        return self.token_ms + self.grace_ms if self.token_ms else 0

    @property
    def bucket_ms(self) -> int:
        """Width of the buckets that rows are kept in."""
        return max(1000, self.hold_ms // 24)


class Joined(msgspec.Struct, frozen=True, gc=False):
    """One outcome that counted, with the impression it belongs to and what it changed. ``x`` may be read until the next checkpoint."""

    click: Click
    policy: str
    arm: int
    slot: int
    snapshot: int
    propensity: float
    impression_ts: int
    impression_offset: int
    impression_row: int
    x: npt.NDArray[np.floating[Any]]
    reward: float  # of this outcome
    change: float  # of the impression's reward
    square: float  # of the squared reward
    flags: int = 0  # of the impression: ESTIMATE, LIMITED
    before: float = 0.0  # the impression's reward without this outcome
    enters: int = 0  # 1 where the outcome lets its impression into the sums, -1 where it takes it out
    counts: bool = True  # whether the impression is in the sums, before or after
    due: Dues = NOTHING_DUE  # what its arm's budget is charged for it
    unit: int = 0  # number of the impression's unit where conversions are attributed; 0 for none

    @property
    def learns(self) -> bool:
        """False for a fallback decision (no snapshot, no choice) and beyond a unit's limit: these stay out of the sums."""
        return (self.snapshot >= 0 or self.propensity < 1.0) and not self.flags & LIMITED


@dataclass(frozen=True, slots=True)
class Matured:
    """Impressions of one policy whose window has closed: m positions of a chunk, their final rewards and outcome counts (m,).

    ``age_ms`` (m,): from the impression to its earliest outcome that counted, 0 if that came before it, -1 if none counted.
    ``counts`` (m,): False for impressions that never became viewable or were taken back, None where all count.
    """

    chunk: Chunk
    rows: npt.NDArray[np.int64]
    reward: npt.NDArray[np.float64]
    outcomes: npt.NDArray[np.int32]
    age_ms: npt.NDArray[np.int64]
    counts: npt.NDArray[np.bool_] | None = None


@dataclass(slots=True)
class Changes:
    """What a call changed beyond the join's own state."""

    fresh: npt.NDArray[np.int64] | None = None  # rows of the batch that were new
    learning: npt.NDArray[np.int64] | None = None  # those of them that enter the sums at once
    limited: int = 0  # those that do not because of their unit's limit
    duplicates: int = 0
    expired: npt.NDArray[np.int64] | None = None  # rows of the batch that came after they would have left
    joined: list[Joined] = field(default_factory=list)
    dead: list[tuple[Click, str]] = field(default_factory=list)


class Join:
    """Join state of one partition. ``windows``: rules by policy; ``watermark``: event time in ms up to which rows have left.

    ``blocks``: where pending rows are kept, None for memory of its own. ``tokens``: of the partition, None for its own.
    """

    def __init__(
        self,
        windows: Mapping[str, Window],
        *,
        watermark: int | None = None,
        blocks: Blocks | None = None,
        tokens: TokenOutcomes | None = None,
    ) -> None:
        self.windows = windows
        self.watermark = watermark
        self.pending = Pending(blocks)
        self.keys = KeyTable()
        self.waiting = Waiting()
        self.tokens = TokenOutcomes(windows) if tokens is None else tokens
        self.counts = dict.fromkeys(CLICK_COUNTS, 0)
        limits = {
            policy: Limit(rows=window.unit_limit, width_ms=window.unit_window_ms, hold_ms=window.hold_ms)
            for policy, window in windows.items()
            if window.unit_limit
        }
        self.units = Units(limits)
        self._hold = {policy: window.hold_ms for policy, window in windows.items()}
        self._bucket = {policy: window.bucket_ms for policy, window in windows.items()}
        self.wait_ms = max((w.early_ms for w in windows.values()), default=0) + max(self._hold.values(), default=0)

    def add_impressions(self, batch: Impressions, *, counted: bool = True) -> Changes:
        """Add impressions. ``counted`` False rebuilds: outcomes found waiting are remembered, not counted.

        Batches of a policy follow each other in the order of the log.
        """
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
        batch = self._limited(batch, changes, changes.fresh, counted=counted)
        if not len(fresh):
            return changes
        bucket = (batch.ts[changes.fresh] + hold) // self._bucket[batch.policy]
        numbers = self.pending.append(batch, changes.fresh, bucket)
        self.keys.assign(place[fresh], numbers)
        for i, key in self.tokens.unmet.among(keys[fresh]):
            for click in self.tokens.unmet.pop(key):
                self._note(click, int(numbers[i]))
        for i, key in self.waiting.among(keys[fresh]):
            for click in self.waiting.pop(key):
                self.counts["waiting"] -= 1
                self._match(click, int(numbers[i]), changes, counted=counted)
        return changes

    def _limited(
        self, batch: Impressions, changes: Changes, fresh: npt.NDArray[np.int64], *, counted: bool
    ) -> Impressions:
        """Say which of the fresh rows learn. Returns the batch with LIMITED at those beyond their unit's limit."""
        learns = (batch.snapshot >= 0) | (batch.propensity < 1.0)
        if batch.unit is not None and batch.policy in self.units.limits:
            unit = np.where(learns, batch.unit, np.uint64(0))
            over = self.units.over(batch, unit, fresh, changes.expired, watermark=self.watermark, counted=counted)
            changes.limited = int(over[fresh].sum())
            learns &= ~over
            batch = replace(batch, flags=np.where(over, batch.flags | LIMITED, batch.flags))
        changes.learning = fresh if learns.all() else fresh[learns[fresh]]
        if self.windows[batch.policy].viewable is not None:
            changes.learning = fresh[:0]  # they enter when they become viewable
        return batch

    def add_clicks(self, clicks: list[Click], *, rebuild: Container[int] | None = None) -> Changes:
        """Add outcomes. With ``rebuild``, the places of those that waited, nothing is counted but what waits."""
        counted = rebuild is None
        changes = Changes()
        if not clicks:
            return changes
        rows = self.keys.find(np.array([click.key for click in clicks], np.uint64)).tolist()
        misplaced = self.tokens.misplaced(clicks)
        for i, (click, row) in enumerate(zip(clicks, rows, strict=True)):
            left = self._left(self._leaves(click))
            if click.brought is not None:
                self._by_token(click, click.brought, row, changes, misplaced=i in misplaced, counted=counted)
            elif row >= 0:
                if counted or not left:
                    self._match(click, row, changes, counted=counted)
            elif rebuild is not None:
                if place(click) in rebuild:
                    self._wait(click)
            elif left:
                self._count("unmatched", counted)
            elif any(
                other.outcome_id == click.outcome_id and other.slot == click.slot
                for other in self.waiting.of(click.key)
            ):
                self._count("duplicate", counted)
            else:
                self._wait(click)
        return changes

    def _wait(self, click: Click) -> None:
        self.waiting.add(click, leaves=self._leaves(click))
        self.counts["waiting"] += 1

    def advance(self, watermark: int) -> list[Matured]:
        """Move the watermark (never back) and let go of what leaves. Returns the matured impressions."""
        if self.watermark is not None and watermark <= self.watermark:
            return []
        self.watermark = watermark
        matured = []
        for chunk, rows in self.pending.leave(watermark, hold_ms=self._hold, bucket_ms=self._bucket):
            self.keys.remove(chunk.key[rows])
            matured.append(self._mature(chunk, rows))
        self.units.leave(watermark)
        self.tokens.leave(watermark, wait_ms=self.wait_ms)
        unmatched = self.waiting.leave(watermark, wait_ms=self.wait_ms)
        self.counts["waiting"] -= unmatched
        self.counts["unmatched"] += unmatched
        return matured

    def oldest(self) -> tuple[int | None, int | None]:
        """The smallest impression and outcome offsets that something pending, or a unit's count, still needs; None where nothing does."""
        chunks = list(self.pending.chunks())
        impressions = [chunk.oldest for chunk in chunks if chunk.oldest is not None]
        counted = self.units.oldest()
        if counted is not None:
            impressions.append(counted)
        clicks = [chunk.oldest_click for chunk in chunks if chunk.oldest_click is not None]
        waiting = self.waiting.oldest()
        unmet = self.tokens.unmet.oldest()
        clicks += [first for first in (waiting, unmet) if first is not None]
        return min(impressions, default=None), min(clicks, default=None)

    @property
    def nbytes(self) -> int:
        """Bytes in memory of the pending rows, their key table, and the counts of units."""
        return self.pending.nbytes + self.keys.nbytes + self.units.nbytes

    def _leaves(self, click: Click) -> int:
        return click.ts + self.wait_ms

    def _count(self, name: str, counted: bool) -> None:
        if counted:
            self.counts[name] += 1

    def _match(self, click: Click, row: int, changes: Changes, *, counted: bool) -> None:
        """Settle one outcome whose impression is pending."""
        chunk, position = self.pending.row(row)
        window = self.windows[chunk.policy]
        seen: Sequence[Seen] = chunk.seen.get(position, ())
        if seen:
            seen = [other for other in seen if other.reward is not None or not self._left(other.leaves)]
            if any(other.outcome_id == click.outcome_id for other in seen):
                self._count("duplicate", counted)
                return
        does, worth = window.does(click.kind)
        if not does:
            reason = f"kind is {click.kind!r}; policy {chunk.policy!r} lists {', '.join(sorted(window.outcomes))}"
            self._count("dead", counted)
            if counted:
                changes.dead.append((click, reason))
            return
        ts = chunk.ts.item(position)
        inside = -window.early_ms <= click.ts - ts < window.open_ms(does)
        reward = worth * click.value
        told = None
        if inside and window.token_ms:
            told = self.tokens.first(click, ts, window, reward, counted=counted)
            if told is None:
                self._count("duplicate", counted)
                return
        one = Seen(
            click.outcome_id,
            click.ts,
            reward if inside else None,
            self._leaves(click),
            does,
            click.value,
            worth,
            click.of,
            window.cost(does, click),
        )
        after = [*seen, one]
        chunk.seen[position] = after
        if chunk.oldest_click is None or click.offset < chunk.oldest_click:
            chunk.oldest_click = click.offset
        self._count("joined" if inside else "late", counted)
        if inside and counted:
            (left, old), (following, new) = window.standing(seen), window.standing(after)
            enters = (following is not None) - (left is not None)
            old, new = (old, new) if told is None else told
            changes.joined.append(
                Joined(
                    click,
                    chunk.policy,
                    chunk.arm.item(position),
                    chunk.slot.item(position),
                    chunk.snapshot.item(position),
                    chunk.propensity.item(position),
                    ts,
                    chunk.offset.item(position),
                    chunk.row.item(position),
                    chunk.x[position],
                    reward,
                    new - old,
                    new * new - old * old,
                    chunk.flags.item(position),
                    old,
                    enters,
                    enters != 0 or left is not None,
                    window.due(seen, one),
                    unit=0 if chunk.person is None else chunk.person.item(position),
                )
            )

    def _by_token(
        self, click: Click, brought: Brought, row: int, changes: Changes, *, misplaced: bool, counted: bool
    ) -> None:
        """Settle one outcome by what its token says; what is known of its impression is only told of it."""
        noted: Sequence[Seen] = ()
        if row >= 0:
            chunk, position = self.pending.row(row)
            noted = chunk.seen.get(position, ())
        found = self.tokens.judge(
            click, brought, watermark=self.watermark, misplaced=misplaced, noted=noted, counted=counted
        )
        if found.what == "joined":
            if row >= 0:
                self._note(click, row)
            elif not self._left(brought.ts + self._hold[brought.policy]) and not self._left(self._leaves(click)):
                self.tokens.unmet.add(click, leaves=self._leaves(click))
        if not counted:
            return
        self.tokens.counts[found.what] += 1
        self.counts["dead" if found.reason is not None else found.what] += 1
        if found.reason is not None:
            changes.dead.append((click, found.reason))
        elif found.what == "joined":
            window = self.windows[brought.policy]
            one = Seen(click.outcome_id, click.ts, 0.0, 0, cost=window.cost(EARNS, click))
            changes.joined.append(_joined_by_token(click, brought, found, window.due((), one), self._unit(row)))

    def _unit(self, row: int) -> int:
        """Number of a pending impression's unit where conversions are attributed, else 0."""
        if row < 0:
            return 0
        chunk, position = self.pending.row(row)
        return 0 if chunk.person is None else chunk.person.item(position)

    def _note(self, click: Click, row: int) -> None:
        """Tell a pending impression of an outcome that was counted from its token."""
        chunk, position = self.pending.row(row)
        window, brought = self.windows[chunk.policy], click.brought
        if brought is None or brought.policy != chunk.policy:
            return
        inside = -window.early_ms <= click.ts - chunk.ts.item(position) < window.window_ms
        reward = window.outcomes[click.kind] * click.value if inside else None
        seen = Seen(click.outcome_id, click.ts, reward, self._leaves(click))
        chunk.seen[position] = [*chunk.seen.get(position, ()), seen]
        if chunk.oldest_click is None or click.offset < chunk.oldest_click:
            chunk.oldest_click = click.offset

    def _left(self, leaves: int) -> bool:
        return self.watermark is not None and leaves <= self.watermark

    def _mature(self, chunk: Chunk, rows: npt.NDArray[np.int64]) -> Matured:
        reward = np.zeros(len(rows))
        outcomes = np.zeros(len(rows), np.int32)
        age_ms = np.full(len(rows), -1, np.int64)
        window = self.windows[chunk.policy]
        counts = np.full(len(rows), window.viewable is None)
        if chunk.seen:
            positions = np.fromiter(chunk.seen, np.int64, len(chunk.seen))
            at = np.minimum(np.searchsorted(rows, positions), len(rows) - 1)
            leaves = rows[at] == positions
            for i, position in zip(at[leaves].tolist(), positions[leaves].tolist(), strict=True):
                seen = chunk.seen[position]
                left, reward[i] = window.standing(seen)
                counts[i] = left is not None
                times = [other.ts for other in left or () if other.reward is not None]
                outcomes[i] = len(times)
                if times:
                    age_ms[i] = max(0, min(times) - chunk.ts.item(position))
        return Matured(chunk, rows, reward, outcomes, age_ms, counts)


def _joined_by_token(click: Click, brought: Brought, verdict: Verdict, due: Dues, unit: int) -> Joined:
    """What the sums get; the impression's place in the log is not known."""
    return Joined(
        click,
        brought.policy,
        brought.arm,
        brought.slot,
        brought.snapshot,
        brought.propensity,
        brought.ts,
        -1,
        0,
        brought.x,
        verdict.reward,
        verdict.after - verdict.before,
        verdict.after * verdict.after - verdict.before * verdict.before,
        brought.flags,
        verdict.before,
        due=due,
        unit=unit,
    )


def aggregate(seen: Sequence[Seen], how: Aggregate) -> float:
    """The reward of an impression from the outcomes that count, in any order; 0 without one.

    >>> two = [Seen("o1", 20, 2.0, 0), Seen("o2", 10, 0.5, 0), Seen("o3", 5, None, 0)]
    >>> [aggregate(two, how) for how in ("sum", "max", "min", "earliest", "count")]
    [2.5, 2.0, 0.5, 0.5, 2.0]
    """
    if len(seen) == 1 and how != "count":
        return seen[0].reward or 0.0
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
