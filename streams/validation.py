"""What an event must satisfy beyond its types, and why it does not, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streams.decoded import Dead, Floats, Impressions, Ints, Names, Record, row_keys, unit_keys
from streams.events import LARGEST, VERSION
from streams.outcomes import TAKING_BACK, back_reason
from streams.unit_numbers import unit_numbers

AHEAD_MS = 5 * 60 * 1000  # event time may lead the record's timestamp by this much (semantics: events and time)
LARGEST_SNAPSHOT = 2**31 - 1
UNLIMITED_MS = 2**53


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """Decoded impressions of one policy, n rows in the order of the log; types and lengths are right, values may not be."""

    policy: str
    records: Sequence[Record]
    source: Ints  # (n,) position in `records`
    row: Ints | None  # (n,) row within its record; None if every record is one event
    decision_id: list[str]  # n
    slot: npt.NDArray[np.int32]  # (n,)
    arm: npt.NDArray[np.int32]  # (n,)
    ts: Ints  # (n,)
    snapshot: Ints  # (n,)
    propensity: Floats  # (n,)
    version: Ints  # (n,)
    x: npt.NDArray[np.floating[Any]]  # (n, d)
    flags: npt.NDArray[np.uint8]  # (n,)
    unit: list[str | None] | None  # n, None where the policy has no limit
    cost: Floats | None = None  # (n,) NaN where there is none, None where no row has one
    person: list[str | None] | None = None  # n, the unit again where the policy attributes conversions


def valid(raw: Raw, *, arms: Names, slots: Names, dead: list[Dead]) -> Impressions | None:
    """The rows that can be used, None if there are none; the others are added to ``dead`` with their reasons."""
    offset = np.array([record.offset for record in raw.records], np.int64)[raw.source]
    latest = np.array([latest_ms(record) for record in raw.records], np.int64)[raw.source]
    good = (raw.propensity > 0) & (raw.propensity <= 1) & (raw.ts >= 0) & (raw.ts <= latest)
    good &= (raw.snapshot >= -1) & (raw.snapshot <= LARGEST_SNAPSHOT) & (raw.version == VERSION)
    if raw.cost is not None:
        good &= np.isnan(raw.cost) | ((raw.cost >= 0) & (raw.cost <= LARGEST))
    if raw.x.size and not (raw.x.max() <= LARGEST and raw.x.min() >= -LARGEST):  # NaN fails both
        good &= (np.abs(raw.x) <= LARGEST).all(axis=1)
    if "" in arms or "" in slots or not all(raw.decision_id):
        good &= np.array([bool(name) for name in raw.decision_id])
        good &= (raw.arm != arms.get("", -1)) & (raw.slot != slots.get("", -1))
    kept: Any = slice(None)
    decision_id, unit, person = raw.decision_id, raw.unit, raw.person
    if not good.all():
        for i in np.flatnonzero(~good).tolist():
            row = None if raw.row is None else int(raw.row[i])
            reason = _impression_reason(raw, i, arms, slots, int(latest[i]))
            dead.append(Dead(raw.records[raw.source[i]], reason, row))
        kept = good
        decision_id = [decision_id[i] for i in np.flatnonzero(good).tolist()]
        unit = None if unit is None else [unit[i] for i in np.flatnonzero(good).tolist()]
        person = None if person is None else [person[i] for i in np.flatnonzero(good).tolist()]
        if not decision_id:
            return None
    slot = raw.slot[kept]
    return Impressions(
        policy=raw.policy,
        key=row_keys(decision_id, slot, slots.hashes()),
        slot=slot,
        arm=raw.arm[kept],
        ts=raw.ts[kept],
        offset=offset[kept],
        row=(np.zeros(len(offset), np.int64) if raw.row is None else raw.row)[kept].astype(np.int32),
        snapshot=raw.snapshot[kept].astype(np.int32),
        propensity=raw.propensity[kept],
        x=_narrow(raw.x[kept]),
        flags=raw.flags[kept],
        unit=None if unit is None else unit_keys(unit),
        cost=None if raw.cost is None else raw.cost[kept],
        person=None if person is None else unit_numbers(person),
    )


def latest_ms(record: Record) -> int:
    """The largest event time that a record may carry; a record without a time of its own sets no limit."""
    stamp: int | None = record.timestamp  # None in logs from before Kafka 0.10
    return UNLIMITED_MS if stamp is None or stamp < 0 else stamp + AHEAD_MS


def _narrow(x: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    """float32 where every value is one, so that a pending row takes half the memory; else unchanged."""
    if x.dtype == np.float32:
        return x
    with np.errstate(over="ignore"):
        narrow = x.astype(np.float32)
    return narrow if np.array_equal(narrow, x) else x


def _impression_reason(raw: Raw, i: int, arms: Names, slots: Names, latest: int) -> str:
    if raw.version[i] != VERSION:
        return version_reason(int(raw.version[i]))
    names = {"decision_id": raw.decision_id[i], "arm": arms.list[raw.arm[i]], "slot": slots.list[raw.slot[i]]}
    for name, value in names.items():
        if not value:
            return f"{name} is empty"
    if not 0 < raw.propensity[i] <= 1:
        return f"propensity is {float(raw.propensity[i])}; allowed: above 0, at most 1"
    late = time_reason(int(raw.ts[i]), latest)
    if late is not None:
        return late
    bad = np.flatnonzero(~(np.abs(raw.x[i]) <= LARGEST))
    if len(bad):
        return f"context[{bad[0]}] is {raw.x[i][bad[0]]}; allowed: finite numbers of at most {LARGEST:g} in size"
    if raw.cost is not None and not (np.isnan(raw.cost[i]) or 0 <= raw.cost[i] <= LARGEST):
        return cost_reason(float(raw.cost[i]))
    return f"snapshot is {int(raw.snapshot[i])}; allowed: null or 0 to {LARGEST_SNAPSHOT}"


def outcome_reason(row: Any, *, kinds: frozenset[str], latest: int) -> str | None:
    """Why an outcome (decision_id, slot, outcome_id, kind, value, ts, v, of) cannot be used, None if it can."""
    if row.v != VERSION:
        return version_reason(row.v)
    for name in ("decision_id", "slot", "outcome_id"):
        if not getattr(row, name):
            return f"{name} is empty"
    if row.kind in TAKING_BACK:
        wrong = back_reason(row.kind, row.outcome_id, row.of, row.value)
        if wrong is not None:
            return wrong
    elif row.kind not in kinds:
        return f"kind is {row.kind!r}, which no policy lists in its outcomes; listed: {', '.join(sorted(kinds))}"
    if not -LARGEST <= row.value <= LARGEST:
        return f"value is {row.value}; allowed: a finite number of at most {LARGEST:g} in size"
    if row.cost is not None and not 0 <= row.cost <= LARGEST:
        return cost_reason(row.cost)
    return time_reason(row.ts, latest)


def dimension_reason(size: int, dimension: int, policy: str) -> str:
    """A context of another length than the policy's."""
    return f"context has {size} values; policy {policy!r} has dimension {dimension}"


def cost_reason(cost: float) -> str:
    """A cost that cannot be charged."""
    return f"cost is {cost}; allowed: a number from 0 to {LARGEST:g}, or none"


def version_reason(version: int) -> str:
    """A version that this program does not read."""
    return f"v is {version}; this program reads version {VERSION}: update it, or produce version {VERSION}"


def time_reason(ts: int, latest: int) -> str | None:
    """A time that is out of range; None if it is in."""
    if 0 <= ts <= latest:
        return None
    return f"ts is {ts}; allowed: ms UTC from 0 to {latest} (5 minutes after the record's timestamp)"
