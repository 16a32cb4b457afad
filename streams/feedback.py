"""The feedback topic: what was joined and what matured, as columns, for evaluation, replay and audit.

Layout: ``CLC1``, then one MessagePack map with ``v`` 1, ``type``, ``partition`` (of the input topics), ``policy``, ``n``, and columns of n
little-endian values, one record for at most 4,096 rows. Index columns are uint32 positions in the list of names beside them.

both        ``arms``/``arm`` u4, ``slots``/``slot`` u4, ``snapshot`` i8 (-1: none), ``propensity`` f8, ``impression_ts`` i8 (ms),
            ``impression_offset`` i8, ``dimension``, ``dtype``, ``context`` n*dimension values
``joined``  one row for each outcome that counted, as it is counted: ``decision_id``, ``outcome_id``, ``kind`` [n strings], ``value`` f8,
            ``reward`` f8 (weight * value), ``change`` f8 (of the impression's reward), ``ts`` i8, ``offset`` i8 (of the outcome)
``matured`` one row for each impression whose window closed: ``reward`` f8 (final), ``outcomes`` u4; ``share`` says which part of
            them is written (a setting), chosen by offset
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from streams.decoded import Names
from streams.events import COLUMNS_MAGIC, EventError
from streams.join import Joined, Matured

ROWS = 4096


def encode_joined(
    joined: Sequence[Joined], *, partition: int, arms: Mapping[str, Names], slots: Names
) -> Iterator[bytes]:
    """Records for the outcomes that counted, grouped by policy."""
    by_policy: dict[str, list[Joined]] = {}
    for row in joined:
        by_policy.setdefault(row.policy, []).append(row)
    for policy, rows in by_policy.items():
        for start in range(0, len(rows), ROWS):
            part = rows[start : start + ROWS]
            yield _record(
                "joined",
                partition,
                policy,
                arms[policy],
                slots,
                arm=np.array([row.arm for row in part]),
                slot=np.array([row.slot for row in part]),
                snapshot=np.array([row.snapshot for row in part]),
                propensity=np.array([row.propensity for row in part]),
                impression_ts=np.array([row.impression_ts for row in part]),
                impression_offset=np.array([row.impression_offset for row in part]),
                x=np.array([row.x for row in part]),
                more={
                    "decision_id": [row.click.decision_id for row in part],
                    "outcome_id": [row.click.outcome_id for row in part],
                    "kind": [row.click.kind for row in part],
                    "value": np.array([row.click.value for row in part], "<f8").tobytes(),
                    "reward": np.array([row.reward for row in part], "<f8").tobytes(),
                    "change": np.array([row.change for row in part], "<f8").tobytes(),
                    "ts": np.array([row.click.ts for row in part], "<i8").tobytes(),
                    "offset": np.array([row.click.offset for row in part], "<i8").tobytes(),
                },
            )


def encode_matured(
    matured: Sequence[Matured], *, partition: int, arms: Mapping[str, Names], slots: Names, share: Mapping[str, float]
) -> Iterator[bytes]:
    """Records for impressions whose window has closed, grouped by policy; of each policy its ``share`` (0 to 1)."""
    by_policy: dict[tuple[str, str], list[tuple[Matured, npt.NDArray[np.int64]]]] = {}
    for group in matured:
        kept = np.flatnonzero(sampled(group.chunk.offset[group.rows], share[group.chunk.policy]))
        if len(kept):
            by_policy.setdefault((group.chunk.policy, group.chunk.x.dtype.str), []).append((group, kept))
    for (policy, _), groups in by_policy.items():
        columns = {
            name: np.concatenate([getattr(group.chunk, name)[group.rows[kept]] for group, kept in groups])
            for name in ("arm", "slot", "snapshot", "propensity", "ts", "offset", "x")
        }
        reward = np.concatenate([group.reward[kept] for group, kept in groups])
        outcomes = np.concatenate([group.outcomes[kept] for group, kept in groups])
        for start in range(0, len(reward), ROWS):
            part = slice(start, start + ROWS)
            yield _record(
                "matured",
                partition,
                policy,
                arms[policy],
                slots,
                arm=columns["arm"][part],
                slot=columns["slot"][part],
                snapshot=columns["snapshot"][part],
                propensity=columns["propensity"][part],
                impression_ts=columns["ts"][part],
                impression_offset=columns["offset"][part],
                x=columns["x"][part],
                more={
                    "reward": reward[part].astype("<f8").tobytes(),
                    "outcomes": outcomes[part].astype("<u4").tobytes(),
                    "share": share[policy],
                },
            )


def sampled(offset: npt.NDArray[np.int64], share: float) -> npt.NDArray[np.bool_]:
    """Which impressions of a share are written: a fixed function of the offset, so that a repeated run writes the same.

    >>> sampled(np.arange(1000), 0.25).mean().round(2)
    np.float64(0.25)
    """
    if share >= 1.0:
        return np.ones(len(offset), np.bool_)
    mixed = offset.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53 < share


def decode(value: bytes) -> dict[str, Any]:
    """A feedback record with its columns as arrays and names in place of positions; ``context`` is (n, dimension).

    Raises EventError if it is not one.
    """
    if value[:4] != COLUMNS_MAGIC:
        raise EventError(f"a feedback record begins with CLC1, this one with {value[:4]!r}")
    record: dict[str, Any] = msgspec.msgpack.decode(memoryview(value)[4:])
    n = record["n"]
    types = {
        "snapshot": "<i8",
        "propensity": "<f8",
        "impression_ts": "<i8",
        "impression_offset": "<i8",
        "outcomes": "<u4",
    }
    types |= {"value": "<f8", "reward": "<f8", "change": "<f8", "ts": "<i8", "offset": "<i8"}
    for name, dtype in types.items():
        if name in record:
            record[name] = np.frombuffer(record[name], dtype)
    record["context"] = np.frombuffer(record["context"], record["dtype"]).reshape(n, record["dimension"])
    for name in ("arm", "slot"):
        names = record.pop(name + "s")
        record[name] = [names[code] for code in np.frombuffer(record[name], "<u4").tolist()]
    return record


def _record(
    kind: str,
    partition: int,
    policy: str,
    arms: Names,
    slots: Names,
    *,
    arm: Any,
    slot: Any,
    snapshot: Any,
    propensity: Any,
    impression_ts: Any,
    impression_offset: Any,
    x: npt.NDArray[np.floating[Any]],
    more: dict[str, Any],
) -> bytes:
    arm_names, arm_codes = _renumbered(arm, arms)
    slot_names, slot_codes = _renumbered(slot, slots)
    fields = {
        "v": 1,
        "type": kind,
        "partition": partition,
        "policy": policy,
        "n": len(arm),
        "arms": arm_names,
        "arm": arm_codes,
        "slots": slot_names,
        "slot": slot_codes,
        "snapshot": snapshot.astype("<i8").tobytes(),
        "propensity": propensity.astype("<f8").tobytes(),
        "impression_ts": impression_ts.astype("<i8").tobytes(),
        "impression_offset": impression_offset.astype("<i8").tobytes(),
        "dimension": x.shape[1],
        "dtype": "<f4" if x.dtype == np.float32 else "<f8",
        "context": x.tobytes(),
    }
    return COLUMNS_MAGIC + msgspec.msgpack.encode(fields | more)


def _renumbered(codes: npt.NDArray[np.integer[Any]], names: Names) -> tuple[list[str], bytes]:
    """Only the names that occur, and the codes as positions among them."""
    used = np.flatnonzero(np.bincount(codes))
    position = np.zeros(int(used[-1]) + 1, "<u4")
    position[used] = np.arange(len(used))
    return [names.list[code] for code in used.tolist()], position[codes].tobytes()
