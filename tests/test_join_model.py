"""The join against a plain model, on random logs with restarts: duplicates, reordering, silence, lateness, eviction.

A run reads two logs in random steps and cuts checkpoints in between; at random moments it dies and is rebuilt, as the learner
does it, from the offsets and the watermark of the last checkpoint. What must hold: a rebuild from the oldest needed offset ends in
the state of a rebuild from zero and of the join that never died; rewards by decision equal the model's; conservation.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from streams import join
from streams.decoded import Click, Impressions
from streams.join import Join, Window
from streams.outcomes import RETRACTS, Seen, counting
from streams.units import Units

WINDOWS = {
    "short": Window(
        window_ms=20_000,
        early_ms=3_000,
        grace_ms=5_000,
        outcomes={"click": 1.0, "buy": 4.0},
        unit_limit=2,
        unit_window_ms=60_000,
        retraction_ms=40_000,
    ),
    "long": Window(
        window_ms=50_000,
        early_ms=0,
        grace_ms=5_000,
        outcomes={"click": 1.0},
        aggregate="max",
        unit_limit=1,
        unit_window_ms=7_000,
    ),
    "seen": Window(
        window_ms=20_000,
        early_ms=1_000,
        grace_ms=5_000,
        outcomes={"click": 1.0},
        aggregate="count",
        viewable="viewable",
        retraction_ms=30_000,
    ),
}


@dataclass
class Log:
    """Two topics: impressions (decision, policy, ts) and clicks (decision, outcome id, kind, value, ts, of), offset = position."""

    impressions: list[tuple[int, str, int]] = field(default_factory=list)
    clicks: list[tuple[int, str, str, float, int, str | None]] = field(default_factory=list)


def make_log(rng: random.Random) -> Log:
    """A random log: about ten windows long, a half of the decisions with outcomes, some twice, some of nobody's."""
    log = Log()
    clock = 0
    for decision in range(rng.randint(5, 120)):
        clock += rng.choice([0, 100, 800, 4_000, 9_000])
        policy = rng.choice(["short", "long", "seen"])
        late = rng.choice([24_000, 40_000, 70_000]) if rng.random() < 0.05 else rng.choice([0, 0, 0, 2_000])
        row = (decision, policy, max(0, clock - late))
        log.impressions.append(row)
        if rng.random() < 0.15:
            log.impressions.append(rng.choice(log.impressions[-rng.choice([4, 40]) :]))
        for number in range(rng.choice([0, 0, 1, 2, 4])):
            kind = rng.choice(["click", "click", "buy", "viewable", "retraction", "refund", "invalid"])
            delay = rng.choice([-5_000, -2_000, 0, 3_000, 15_000, 19_999, 20_000, 40_000, 70_000])
            of = f"o{(number + rng.randint(1, 3)) % 4}" if kind in ("retraction", "refund") else None
            click = (
                decision if rng.random() < 0.9 else -decision,
                f"o{number}",
                kind,
                float(rng.randint(0, 4)),
                max(0, row[2] + delay),
                of,
            )
            log.clicks.append(click)
            if rng.random() < 0.2:
                log.clicks.append(click)
    log.clicks.sort(key=lambda row: (row[4] + rng.choice([0, 0, 1_500]), row[0]))
    return log


def impressions(log: Log, start: int, end: int) -> list[Impressions]:
    """Impressions at offsets [start, end), by policy, each in log order."""
    groups = []
    for policy in WINDOWS:
        rows = [
            (offset, *log.impressions[offset]) for offset in range(start, end) if log.impressions[offset][1] == policy
        ]
        if rows:
            n = len(rows)
            groups.append(
                Impressions(
                    policy=policy,
                    key=mixed([row[1] for row in rows]),
                    slot=np.zeros(n, np.int32),
                    arm=np.array([row[1] % 3 for row in rows], np.int32),
                    ts=np.array([row[3] for row in rows], np.int64),
                    offset=np.array([row[0] for row in rows], np.int64),
                    row=np.zeros(n, np.int32),
                    snapshot=np.full(n, -1, np.int32),
                    propensity=np.array([1.0 if falls_back(row[1]) else 0.5 for row in rows]),
                    x=np.array([[row[1]] for row in rows], np.float32),
                    flags=np.zeros(n, np.uint8),
                    unit=mixed([unit(row[1]) for row in rows]),
                )
            )
    return groups


def unit(decision: int) -> int:
    """Who made a decision necessary: one of three, or nobody known (0)."""
    return decision * 7 // 5 % 4


def falls_back(decision: int) -> bool:
    """Whether nothing was chosen in a decision."""
    return decision % 6 == 5


def mixed(decisions: list[int]) -> Any:
    """Distinct well-spread keys."""
    return np.array(decisions, np.int64).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def clicks(log: Log, start: int, end: int) -> list[Click]:
    """Outcomes at offsets [start, end)."""
    rows = []
    for offset in range(start, end):
        decision, outcome_id, kind, value, ts, of = log.clicks[offset]
        key, record = int(mixed([decision])[0]), SimpleNamespace(offset=offset)
        rows.append(Click(key, str(decision), "s", outcome_id, kind, value, ts, offset, record, of=of))
    return rows


def contents(join: Join) -> Any:
    """What a join knows: live rows with their outcomes, and what waits."""
    rows = []
    for chunk in join.pending.chunks():
        for position in chunk.staying().tolist():
            seen = [
                (s.outcome_id, s.ts, s.reward, s.does, s.value, s.worth, s.of)
                for s in chunk.seen.get(position, [])
                if s.reward is not None or join.watermark is None or s.leaves > join.watermark
            ]
            rows.append(
                (
                    chunk.policy,
                    int(chunk.key[position]),
                    int(chunk.offset[position]),
                    int(chunk.ts[position]),
                    int(chunk.flags[position]),
                    sorted(seen, key=itemgetter(0)),
                )
            )
            assert join.keys.find(chunk.key[position : position + 1])[0] >= 0
    waiting = sorted((click.key, click.outcome_id, click.offset) for click in join.waiting)
    assert len(rows) == join.pending.rows == len(join.keys)
    assert join.counts["waiting"] == len(waiting)
    return sorted(rows), waiting, units(join)


def units(join: Join) -> Any:
    """What a join knows of units: how many rows of each learn in the open buckets, and which rows came late."""
    counts = {
        (*name, number): int(found)
        for name, bucket in join.units._buckets.items()
        for number, found in zip(range(4), bucket.table.find(mixed([*range(4)])), strict=True)
        if found >= 0
    }
    return counts, join.units.oldest(), join.units.expired().tolist()


@dataclass
class Cut:
    """A checkpoint of the join alone."""

    positions: tuple[int, int] = (0, 0)
    watermark: int | None = None
    counts: dict[str, int] = field(default_factory=dict)
    oldest: tuple[int, int] = (0, 0)
    waiting: list[int] = field(default_factory=list)
    expired: list[int] = field(default_factory=list)
    learned: dict[int, bool] = field(default_factory=dict)
    rewards: dict[int, float] = field(default_factory=dict)
    entered: dict[int, int] = field(default_factory=dict)
    matured: list[tuple[int, float, bool]] = field(default_factory=list)


def rebuild(log: Log, cut: Cut, oldest: tuple[int, int]) -> Join:
    """The join as the learner rebuilds it."""
    join = Join(WINDOWS, watermark=cut.watermark)
    join.units.restore(np.array(cut.expired, np.int64))
    for group in impressions(log, oldest[0], cut.positions[0]):
        join.add_impressions(group, counted=False)
    join.add_clicks(clicks(log, oldest[1], cut.positions[1]), rebuild=set(cut.waiting))
    return join


class Run:
    """A reader of the two logs that can die."""

    def __init__(self, log: Log, rng: random.Random) -> None:
        self.log, self.rng = log, rng
        self.cut = Cut()
        self.start()

    def start(self) -> None:
        """Begin, or begin again, from the last checkpoint; check that both rebuilds agree."""
        self.join = rebuild(self.log, self.cut, self.cut.oldest)
        assert contents(self.join) == contents(rebuild(self.log, self.cut, (0, 0)))
        waiting = self.join.counts["waiting"]
        self.join.counts.update(self.cut.counts)
        assert self.join.counts["waiting"] == waiting
        self.positions = list(self.cut.positions)
        self.rewards = dict(self.cut.rewards)
        self.learned = dict(self.cut.learned)
        self.entered = dict(self.cut.entered)
        self.matured = list(self.cut.matured)

    def step(self) -> None:
        """Read a few records of one side."""
        side = self.rng.randrange(2)
        size = len(self.log.impressions) if side == 0 else len(self.log.clicks)
        start = self.positions[side]
        end = min(size, start + self.rng.randint(1, 12))
        if side == 0:
            for group in impressions(self.log, start, end):
                changes = self.join.add_impressions(group)
                if WINDOWS[group.policy].viewable is not None:
                    assert changes.learning is not None
                    assert not len(changes.learning)
                    self.settle(changes)
                    continue
                learning = set(group.offset[changes.learning].tolist())
                self.learned |= {offset: offset in learning for offset in group.offset[changes.fresh].tolist()}
                assert changes.limited == sum(
                    not falls_back(self.log.impressions[offset][0]) and offset not in learning
                    for offset in group.offset[changes.fresh].tolist()
                )
                self.settle(changes)
        else:
            self.settle(self.join.add_clicks(clicks(self.log, start, end)))
        self.positions[side] = end

    def settle(self, changes: Any) -> None:
        """Add what was joined to the rewards."""
        for row in changes.joined:
            assert row.learns is self.learned.get(row.impression_offset, not falls_back(int(row.click.decision_id)))
            assert row.counts or (row.change, row.square, row.enters) == (0.0, 0.0, 0)
            decision = int(row.click.decision_id)
            self.entered[decision] = self.entered.get(decision, 0) + row.enters
            self.rewards[decision] = self.rewards.get(decision, 0.0) + row.change

    def checkpoint(self) -> None:
        """Advance the watermark to the smaller of both sides' largest times, and cut."""
        i, c = self.positions
        if i and c:
            ahead = max(row[2] for row in self.log.impressions[:i])
            behind = max(row[4] for row in self.log.clicks[:c])
            done = i == len(self.log.impressions), c == len(self.log.clicks)
            watermark = min(ahead, behind) if not any(done) else (behind if done[0] else ahead)
            for group in self.join.advance(max(watermark, self.cut.watermark or 0)):
                offsets = group.chunk.offset[group.rows].tolist()
                assert group.counts is not None
                self.matured.extend(zip(offsets, group.reward.tolist(), group.counts.tolist(), strict=True))
        oldest = self.join.oldest()
        self.cut = Cut(
            positions=(i, c),
            watermark=self.join.watermark,
            counts=dict(self.join.counts),
            oldest=(i if oldest[0] is None else oldest[0], c if oldest[1] is None else oldest[1]),
            waiting=self.join.waiting.places().tolist(),
            expired=self.join.units.expired().tolist(),
            learned=dict(self.learned),
            rewards=dict(self.rewards),
            entered=dict(self.entered),
            matured=list(self.matured),
        )
        assert contents(self.join) == contents(rebuild(self.log, self.cut, self.cut.oldest))

    def finished(self) -> bool:
        """Whether both logs are read."""
        return self.positions == [len(self.log.impressions), len(self.log.clicks)]


def run(seed: int) -> tuple[Run, Log]:
    """One random log, read to its end with up to six deaths."""
    rng = random.Random(seed)
    log = make_log(rng)
    reader = Run(log, rng)
    deaths = 0
    while not reader.finished():
        what = rng.random()
        if what < 0.2:
            reader.checkpoint()
        elif what < 0.27 and deaths < 6:
            deaths += 1
            reader.start()
        else:
            reader.step()
    reader.checkpoint()
    return reader, log


@pytest.mark.parametrize("block", range(8))
def test_a_run_with_deaths_keeps_its_books(block: int) -> None:
    """Every outcome is exactly one of joined, duplicate, late, unmatched, waiting and dead, whatever died in between."""
    for seed in range(block * 60, block * 60 + 60):
        reader, log = run(seed)
        assert sum(reader.join.counts.values()) == len(log.clicks), seed


@pytest.mark.parametrize("block", range(4))
def test_each_impression_matures_once(block: int) -> None:
    """An impression leaves once, with the reward that was added for it and the word whether it is in the sums."""
    for seed in range(block * 60, block * 60 + 60):
        reader, log = run(seed)
        offsets = [offset for offset, *_ in reader.matured]
        assert len(offsets) == len(set(offsets)), seed
        for offset, reward, counts in reader.matured:
            decision, policy, _ = log.impressions[offset]
            assert reader.rewards.get(decision, 0.0) == reward, seed
            at_once = WINDOWS[policy].viewable is None
            assert at_once + reader.entered.get(decision, 0) == counts, seed


@pytest.mark.parametrize("block", range(4))
def test_of_each_unit_the_first_rows_learn(block: int) -> None:
    """Whatever died in between: of what was accepted, in the order of the log, up to the limit of the policy in each bucket."""
    limited = 0
    for seed in range(block * 60, block * 60 + 60):
        reader, log = run(seed)
        counts: Counter[tuple[str, int, int]] = Counter()
        truth = {}
        for offset in sorted(reader.learned):
            decision, policy, ts = log.impressions[offset]
            truth[offset] = not falls_back(decision)
            if truth[offset] and unit(decision):
                name = (policy, unit(decision), ts // WINDOWS[policy].unit_window_ms)
                counts[name] += 1
                truth[offset] = counts[name] <= WINDOWS[policy].unit_limit
                limited += not truth[offset]
        assert reader.learned == truth, seed
    assert limited > 100


def not_rebuilt(broken: pytest.MonkeyPatch) -> None:
    """A rebuild takes only what is pending for granted."""
    broken.setattr(Units, "oldest", lambda self: None)


def late_ones_count(broken: pytest.MonkeyPatch) -> None:
    """A rebuild does not know what had come too late."""
    broken.setattr(Units, "restore", lambda self, missed: None)


def copies_count(broken: pytest.MonkeyPatch) -> None:
    """A rebuild counts the copies of what has left."""
    broken.setattr(Units, "_first_copies", lambda self, batch, rows: rows)


def gone_ones_do_not_count(broken: pytest.MonkeyPatch) -> None:
    """A rebuild counts what is pending alone."""
    broken.setattr(Units, "_first_copies", lambda self, batch, rows: rows[:0])


def closed_at_the_end(broken: pytest.MonkeyPatch) -> None:
    """Buckets are let go while rows of them may still come."""
    leave = Units.leave
    broken.setattr(Units, "leave", lambda self, watermark: leave(self, watermark + 20_000))


@pytest.mark.parametrize(
    "mutant", [not_rebuilt, late_ones_count, copies_count, gone_ones_do_not_count, closed_at_the_end]
)
def test_counts_of_units_that_break_a_rule_are_found(
    monkeypatch: pytest.MonkeyPatch, mutant: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """Each by the comparison of the rebuilds, or by the rows that learned."""
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        test_of_each_unit_the_first_rows_learn(0)


def in_order(log: Log) -> dict[int, tuple[bool, float]]:
    """Whether each decision counts, and its reward, when nothing ever leaves: the model that eviction may only take from."""
    first: dict[int, tuple[str, int]] = {}
    for decision, policy, ts in log.impressions:
        first.setdefault(decision, (policy, ts))
    followed: dict[int, dict[str, tuple[str, float, str | None]]] = {decision: {} for decision in first}
    seen = set()
    for decision, outcome_id, kind, value, ts, of in log.clicks:
        if decision not in first or (decision, outcome_id) in seen:
            continue
        policy, shown = first[decision]
        window = WINDOWS[policy]
        taking = kind in ("retraction", "refund", "invalid")
        if not taking and kind not in window.outcomes and kind != window.viewable:
            continue
        seen.add((decision, outcome_id))
        if -window.early_ms <= ts - shown < max(window.window_ms, window.retraction_ms if taking else 0):
            followed[decision][outcome_id] = (kind, value, of)
    return {decision: standing(followed[decision], WINDOWS[policy]) for decision, (policy, _) in first.items()}


def standing(outcomes: dict[str, tuple[str, float, str | None]], window: Window) -> tuple[bool, float]:
    """Whether an impression with these outcomes counts, and its reward."""
    retracted = {of for kind, _, of in outcomes.values() if kind == "retraction"}
    left = {name: one for name, one in outcomes.items() if one[0] == "retraction" or name not in retracted}
    kinds = {kind for kind, _, _ in left.values()}
    if "invalid" in kinds or (window.viewable is not None and window.viewable not in kinds):
        return False, 0.0
    rewards = []
    for name, (kind, value, _) in left.items():
        refunds = [other for of_kind, other, of in left.values() if of_kind == "refund" and of == name]
        if kind in window.outcomes:
            rewards.append(window.outcomes[kind] * max(value - sum(refunds), 0.0))
    if window.aggregate == "sum":
        return True, sum(rewards)
    return True, float(len(rewards)) if window.aggregate == "count" else max(rewards, default=0.0)


@pytest.mark.parametrize("block", range(4))
def test_without_eviction_the_rewards_are_the_models(block: int) -> None:
    """Read in any interleaving, with deaths, but without moving the watermark, the sums are those of the complete logs."""
    for seed in range(1000 + block * 60, 1060 + block * 60):
        rng = random.Random(seed)
        log = make_log(rng)
        reader = Run(log, rng)
        reader.join.advance = lambda watermark: []  # type: ignore[method-assign]
        while not reader.finished():
            reader.step()
        for decision, truth in in_order(log).items():
            at_once = WINDOWS[next(row[1] for row in log.impressions if row[0] == decision)].viewable is None
            counts = at_once + reader.entered.get(decision, 0)
            assert (counts, reader.rewards.get(decision, 0.0)) == truth, seed


def first_come(seen: Sequence[Seen], *, viewable: bool) -> Sequence[Seen] | None:
    """A retraction takes back only what had come before it."""
    kept: list[Seen] = []
    for one in seen:
        kept = [other for other in kept if one.does != RETRACTS or other.outcome_id != one.of]
        kept += [] if one.does == RETRACTS else [one]
    return counting(kept, viewable=viewable)


def test_a_join_that_goes_by_the_order_of_arrival_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retractions often come first in these logs."""
    monkeypatch.setattr(join, "counting", first_come)
    with pytest.raises(AssertionError):
        test_without_eviction_the_rewards_are_the_models(0)
