"""Limits for each unit: of one user the first impressions learn, in the order of the log, however it is read and whatever dies."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any

import numpy as np
import pytest

from streams import decode
from streams.columns import encode_impressions
from streams.decoded import LIMITED, Impressions
from streams.events import Impression, Outcome, encode
from streams.join import Join, Window
from streams.reading import SimpleRecord
from streams.recovery import rebuild, restore
from streams.rules import rules
from streams.settings import PolicySettings, Settings, SettingsError, load
from streams.state import SIDES, Fetched, PartitionState
from streams.topic_specs import least_retention_s
from streams.units import FULLEST, Limit, Units

NOW = 1_700_000_000_000
LIMITS = {"front": (2, 3_000), "side": (1, 2_000), "free": (0, 1_000)}  # impressions of a unit, in ms
TINY = 2.0**-150
"""No float32: rows that hold it are of another type than the rows around them."""


# -- counting alone


def batch(units: list[int], *, ts: list[int], offset: int = 0) -> Impressions:
    """Impressions of policy "p" at offsets from one on."""
    n = len(units)
    return Impressions(
        policy="p",
        key=np.arange(offset, offset + n).astype(np.uint64) << np.uint64(24),
        slot=np.zeros(n, np.int32),
        arm=np.zeros(n, np.int32),
        ts=np.array(ts, np.int64),
        offset=offset + np.arange(n),
        row=np.zeros(n, np.int32),
        snapshot=np.ones(n, np.int32),
        propensity=np.full(n, 0.5),
        x=np.zeros((n, 0), np.float32),
        flags=np.zeros(n, np.uint8),
        unit=np.array(units, np.uint64) * np.uint64(0x9E3779B97F4A7C15),
    )


@pytest.mark.parametrize("limit", [1, 2, 5])
@pytest.mark.parametrize("crowd", [1, 30, 5000])
def test_a_batch_counts_like_a_counter(limit: int, crowd: int) -> None:
    """Batches of any size, units that come once or a thousand times, buckets side by side, rows without a unit."""
    rng = np.random.default_rng(limit * crowd)
    units, counts = Units({"p": Limit(rows=limit, width_ms=1000, hold_ms=10**9)}), Counter[tuple[int, int]]()
    offset = 0
    for size in [1, 5, 40, 3000, 3000]:
        who, when = rng.integers(0, crowd + 1, size).tolist(), rng.integers(0, 3000, size).tolist()
        rows = batch(who, ts=when, offset=offset)
        assert rows.unit is not None
        over = units.over(rows, rows.unit, np.arange(size), None, watermark=None, counted=True)
        truth = []
        for unit, ts in zip(who, when, strict=True):
            counts[unit, ts // 1000] += 1
            truth.append(unit > 0 and counts[unit, ts // 1000] > limit)
        assert over.tolist() == truth
        offset += size
    assert units.oldest() == 0


def test_a_closed_bucket_takes_no_memory_and_needs_no_rereading() -> None:
    """Its end and the hold reach the watermark: from then on the next bucket's first row is the oldest."""
    units = Units({"p": Limit(rows=1, width_ms=1000, hold_ms=500)})
    rows = batch([1, 1, 1], ts=[0, 999, 1000], offset=7)
    assert rows.unit is not None
    units.over(rows, rows.unit, np.arange(3), None, watermark=None, counted=True)
    found = []
    for watermark in (0, 1498, 1499, 2498, 2499):
        units.leave(watermark)
        found.append(units.oldest())
    assert found == [7, 7, 9, 9, None]
    assert units.nbytes == 0


def test_a_unit_takes_16_to_32_bytes() -> None:
    """Whatever their number, once that is large beside a batch."""
    units = Units({"p": Limit(rows=3, width_ms=1000, hold_ms=0)})
    for first in range(0, 100_000, 5000):
        rows = batch(list(range(first + 1, first + 5001)), ts=[5] * 5000, offset=first)
        assert rows.unit is not None
        units.over(rows, rows.unit, np.arange(5000), None, watermark=None, counted=True)
        if first >= 45_000:
            assert 12 / FULLEST <= units.nbytes / (first + 5000) <= 2 * 12 / FULLEST


def test_a_row_beyond_the_limit_is_pending_like_any_other() -> None:
    """It is new and flagged; an outcome of it counts and does not learn. Without a limit nothing is flagged."""
    rules = {"window_ms": 1000, "early_ms": 0, "grace_ms": 0, "outcomes": {"click": 1.0}}
    for limit, flags, learning in ((1, [0, LIMITED], [0]), (0, [0, 0], [0, 1])):
        join = Join({"p": Window(**rules, unit_limit=limit, unit_window_ms=100)})  # type: ignore[arg-type]
        changes = join.add_impressions(batch([1, 1], ts=[50, 99]))
        assert changes.fresh is not None
        assert changes.learning is not None
        assert (changes.fresh.tolist(), changes.learning.tolist(), changes.limited) == (
            [0, 1],
            learning,
            2 - len(learning),
        )
        (chunk,) = join.pending.chunks()
        assert chunk.flags[: chunk.n].tolist() == flags


# -- a partition, from records to sums


@dataclass
class Log:
    """Records of both topics, and the impressions in their order."""

    impressions: list[SimpleRecord]
    clicks: list[SimpleRecord]
    shown: list[Impression]
    followed: list[Outcome]


def make_log(seed: int, n: int = 600) -> Log:
    """Three policies, JSON, MessagePack and columnar by turns, a tenth twice, contexts of both types, units of which one is a bot."""
    rng = random.Random(seed)
    shown: list[Impression] = []
    for i in range(n):
        shown.append(
            Impression(
                decision_id=f"d{i}",
                slot="s",
                policy=rng.choice(["front", "front", "side", "free"]),
                snapshot=rng.choice([1, 1, 1, None]),
                arm=rng.choice("ab"),
                propensity=rng.choice([0.5, 1.0]),
                context=[rng.randrange(1, 9) / 8, rng.choice([0.5, TINY])],
                ts=NOW + 100 * i - rng.randrange(3000),
                unit=rng.choice(["bot", "bot", "u1", "u2", "u3", "", None]),
            )
        )
        if rng.random() < 0.1:
            shown.append(rng.choice(shown[-60:]))
    followed = [
        Outcome(decision_id=one.decision_id, slot="s", outcome_id="o", ts=one.ts + rng.randrange(9000))
        for one in shown
        if rng.random() < 0.5
    ]
    impressions: list[SimpleRecord] = []
    row, codec = 0, "columns"
    while row < len(shown):
        codec = rng.choice(["json", "msgpack", "columns", *[codec] * 20])
        same = takewhile(lambda one: one.policy == shown[row].policy, shown[row:])  # noqa: B023 - used at once
        rows = list(islice(same, rng.randint(1, 3) if codec == "columns" else 1))
        value = encode_impressions(rows) if codec == "columns" else encode(rows[0], codec)  # type: ignore[arg-type]
        impressions.append(SimpleRecord(len(impressions), NOW + 10**6, None, value, []))
        row += len(rows)
    followed.sort(key=lambda one: one.ts)
    clicks = [SimpleRecord(i, NOW + 10**6, None, encode(one), []) for i, one in enumerate(followed)]
    return Log(impressions, clicks, shown, followed)


def rules_of() -> Any:
    """Rules of the three policies."""
    policies = {
        name: PolicySettings(dimension=2, window_s=10, grace_s=6, unit_limit=limit, unit_window_s=max(1, width / 1000))
        for name, (limit, width) in LIMITS.items()
    }
    return rules(Settings(policies=policies))


Sums = dict[tuple[str, str], tuple[float, float, list[float], list[float]]]


def oracle(log: Log) -> tuple[Sums, int]:
    """Sums by policy and arm over the first impressions of each unit, and how many were beyond the limit: one pass over sets."""
    first = {one.decision_id: one for one in reversed(log.shown)}
    learned: dict[str, Impression] = {}
    counts: Counter[tuple[str, str, int]] = Counter()
    limited = 0
    for one in dict.fromkeys(one.decision_id for one in log.shown):
        event = first[one]
        limit, width = LIMITS[event.policy]
        if event.snapshot is None and event.propensity == 1.0:
            continue
        if event.unit and limit:
            counts[event.policy, event.unit, event.ts // width] += 1
            if counts[event.policy, event.unit, event.ts // width] > limit:
                limited += 1
                continue
        learned[one] = event
    clicked = {one.decision_id for one in log.followed}
    sums: Sums = {}
    for name in sorted({(one.policy, one.arm) for one in learned.values()}):
        rows = [one for one in learned.values() if (one.policy, one.arm) == name]
        x = np.array([one.context for one in rows])
        reward = np.array([one.decision_id in clicked for one in rows], np.float64)
        sums[name] = (len(rows), float(reward.sum()), (reward @ x).tolist(), (x.T @ x)[np.triu_indices(2)].tolist())
    return sums, limited


def read(log: Log, seed: int, *, deaths: float) -> tuple[PartitionState, Sums]:
    """The log in random fetches with checkpoints between; after one, the reader dies with this chance and is rebuilt from it."""
    rng = random.Random(seed)
    state = PartitionState(0, rules=rules_of())
    stored: dict[bytes, bytes] = {}
    both = {"impressions": log.impressions, "clicks": log.clicks}
    while any(state.positions[side] < len(both[side]) for side in SIDES):
        ahead = max(SIDES, key=lambda side: len(both[side]) - state.positions[side] + rng.randrange(20))
        start = state.positions[ahead]
        end = min(len(both[ahead]), start + rng.randint(1, 30))
        if end > start:
            state.take(Fetched(ahead, 0, start, end, both[ahead][start:end]))
        if rng.random() < 0.3:
            state = checkpoint(state, log, stored, dies=rng.random() < deaths)
    state.freeze(None)
    found = {
        (policy, arm): (one.count, one.reward, one.b.tolist(), one.A.tolist())  # type: ignore[attr-defined]
        for policy, arms in state.sums.items()
        for arm, one in sorted(arms.items())
    }
    return state, found


def checkpoint(state: PartitionState, log: Log, stored: dict[bytes, bytes], *, dies: bool) -> PartitionState:
    """Cut one; what a learner that recovers from it knows, or the same state if it lives on."""
    times = list(state.largest_ts.values())
    watermark = None if None in times else min(time for time in times if time is not None)
    for message in state.freeze(watermark):
        if message.topic == "posteriors":
            stored[message.key or b""] = message.value or b""
    if not dies or not stored:
        return state
    both = {"impressions": log.impressions, "clicks": log.clicks}
    restored = restore(0, stored, rules_of())
    again = rebuild(
        restored, lambda side, start, end: iter([both[side][start:end]] if start < end else []), lambda: None
    )
    assert again.join.units.oldest() == state.join.units.oldest()
    return again


@pytest.mark.parametrize("deaths", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_first_impressions_of_a_unit_learn_and_no_more(seed: int, deaths: float) -> None:
    """The sums are the oracle's to the last bit, however the log is cut, with a rebuild at none, some or all of the checkpoints."""
    log = make_log(seed)
    truth, limited = oracle(log)
    state, found = read(log, seed, deaths=deaths)
    assert found == truth
    assert state.impressions["limited"] == limited > 20
    assert state.impressions["accepted"] == len({one.decision_id for one in log.shown})
    assert state.counts["joined"] == len({one.decision_id for one in log.followed})


def test_rows_of_two_types_out_of_order_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded in groups by type and left so, the rows that learn would depend on the fetches: the law above rejects it."""
    monkeypatch.setattr(decode, "_in_order", lambda whole: whole)
    with pytest.raises(AssertionError):
        for seed in range(4):
            test_the_first_impressions_of_a_unit_learn_and_no_more(seed, 0.0)


def test_an_outcome_that_learned_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clicks beyond the limit would make a reward without an impression: the law above rejects it."""
    monkeypatch.setattr("streams.join.LIMITED", 0)
    with pytest.raises(AssertionError):
        test_the_first_impressions_of_a_unit_learn_and_no_more(0, 0.0)


# -- settings


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"unit_limit": -1}, "unit_limit = -1"),
        ({"unit_limit": 2.5}, "unit_limit = 2.5"),
        ({"unit_limit": 5, "unit_window_s": 0}, "unit_window_s = 0"),
    ],
)
def test_limits_that_make_no_sense_are_refused(policy: dict[str, Any], message: str) -> None:
    """When the program starts."""
    with pytest.raises(SettingsError) as caught:
        load(overrides={"policies": {"front": {"dimension": 2, **policy}}})
    assert message in str(caught.value)


def test_input_is_kept_for_as_long_as_units_are_counted() -> None:
    """A rebuild reads from the first row of an open bucket: its width, the window and the grace before; twice that is kept."""
    limited = {"dimension": 2, "window_s": 600, "grace_s": 60, "unit_window_s": 86_400}
    for limit, least in ((0, 1320.0), (5, 2 * 87_060.0)):
        settings = Settings(policies={"p": PolicySettings.model_validate(limited | {"unit_limit": limit})})
        assert least_retention_s(settings) == least
    with pytest.raises(SettingsError, match=r"twice window_s \+ grace_s \+ unit_window_s of policy 'p', 174120"):
        load(overrides={"retention_s": 170_000, "policies": {"p": limited | {"unit_limit": 5}}})
