"""The feedback topic: what was joined and what matured, as columns, for evaluation, replay and audit.

Layout: ``CLC1``, then one MessagePack map with ``v`` 1, ``type``, ``partition`` (of the input topics), ``policy``, ``n``, and columns of n
little-endian values, one record for at most 4,096 rows. Index columns are uint32 positions in the list of names beside them.

both        ``arms``/``arm`` u4, ``slots``/``slot`` u4, ``snapshot`` i8 (-1: none), ``propensity`` f8, ``impression_ts`` i8 (ms),
            ``impression_offset`` i8, ``impression_row`` u4 (within a columnar record), ``dimension``, ``dtype``, ``context`` n*dimension values,
            ``propensity_kind`` u1 (0 exact, 1 an estimate; records from before it have none, and read as 0),
            ``group`` u1 (0 none, 1 incumbent, 2 canary, 3 random, 4 rest: who decided; left out where no row has one)
``joined``  one row for each outcome that counted, as it is counted: ``decision_id``, ``outcome_id``, ``kind`` [n strings], ``value`` f8,
            ``reward`` f8 (weight * value, 0 for what takes something back), ``change`` f8 (of the impression's reward, negative where an
            outcome is taken back), ``ts`` i8, ``offset`` i8 (of the outcome); ``of`` [n strings or null], if any row has one
``matured`` one row for each impression whose window closed: ``reward`` f8 (final), ``outcomes`` u4, ``age_ms`` i8 (from the impression to
            its earliest outcome that counted, 0 if that came before it, -1 if none counted; records from before it have none);
            ``counts`` u1, only where a row has 0: that impression never became viewable or was taken back, so it is in no sum and was not
            shown without a click; its reward is 0;
            ``unit`` u8, the unit's number (streams/unit_numbers.py, 0 for none), only of policies with ``sticky_canaries``;
            ``share`` says which part of them is written (a setting), chosen by offset and row
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from streams.columns import column
from streams.decode_rows import UNREADABLE
from streams.decoded import ESTIMATE, GROUP_BITS, GROUP_SHIFT, Names
from streams.events import COLUMNS_MAGIC, VERSION, EventError
from streams.join import Joined, Matured
from streams.pending import Chunk
from streams.validation import version_reason

_ENCODER = msgspec.msgpack.Encoder()
ROWS = 4096
ROW_BYTES = 100
"""What a row takes without its context and its ids, at most."""
RECORD_BYTES = 900_000
"""What a record should take at most, so that it fits topics with Kafka's default limit; a single row may take more."""


def encode_joined(
    joined: Sequence[Joined], *, partition: int, arms: Mapping[str, Names], slots: Names
) -> Iterator[bytes]:
    """Records for the outcomes that counted, grouped by policy."""
    by_policy: dict[str, list[Joined]] = {}
    for row in joined:
        by_policy.setdefault(row.policy, []).append(row)
    for policy, rows in by_policy.items():
        sizes = [
            ROW_BYTES
            + row.x.nbytes
            + 4
            * (len(row.click.decision_id) + len(row.click.outcome_id) + len(row.click.kind) + len(row.click.of or ""))
            for row in rows
        ]
        for start, end in runs(sizes):
            part = rows[start:end]
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
                impression_row=np.array([row.impression_row for row in part]),
                flags=np.array([row.flags for row in part]),
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
                    **({"of": of} if any(of := [row.click.of for row in part]) else {}),
                },
            )


def encode_matured(
    matured: Sequence[Matured],
    *,
    partition: int,
    arms: Mapping[str, Names],
    slots: Names,
    share: Mapping[str, float],
    units: Collection[str] = (),
) -> Iterator[bytes]:
    """Records for impressions whose window has closed, grouped by policy; of each policy its ``share`` (0 to 1).

    ``units``: the policies whose rows tell the unit.
    """
    by_policy: dict[tuple[str, str], list[tuple[Matured, npt.NDArray[np.int64]]]] = {}
    for group in matured:
        kept = np.flatnonzero(
            sampled(group.chunk.offset[group.rows], group.chunk.row[group.rows], share[group.chunk.policy])
        )
        if len(kept):
            by_policy.setdefault((group.chunk.policy, group.chunk.x.dtype.str), []).append((group, kept))
    for (policy, _), groups in by_policy.items():
        taken = [(group.chunk, _rows(group, kept)) for group, kept in groups]
        columns = {
            name: np.concatenate([getattr(chunk, name)[rows] for chunk, rows in taken])
            for name in ("arm", "slot", "snapshot", "propensity", "flags", "ts", "offset", "row", "x")
        }
        reward = np.concatenate([group.reward[kept] for group, kept in groups])
        outcomes = np.concatenate([group.outcomes[kept] for group, kept in groups])
        age_ms = np.concatenate([group.age_ms[kept] for group, kept in groups])
        counted = np.concatenate(
            [np.ones(len(kept), np.bool_) if group.counts is None else group.counts[kept] for group, kept in groups]
        )
        unit = _units(taken) if policy in units else None
        row_bytes = ROW_BYTES + columns["x"].itemsize * columns["x"].shape[1]
        step = max(1, min(ROWS, RECORD_BYTES // row_bytes))
        for start in range(0, len(reward), step):
            part = slice(start, start + step)
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
                impression_row=columns["row"][part],
                flags=columns["flags"][part],
                x=columns["x"][part],
                more={
                    "reward": reward[part].astype("<f8").tobytes(),
                    "outcomes": outcomes[part].astype("<u4").tobytes(),
                    "age_ms": age_ms[part].astype("<i8").tobytes(),
                    "share": share[policy],
                    **({} if counted[part].all() else {"counts": counted[part].astype("|u1").tobytes()}),
                    **({} if unit is None else {"unit": unit[part].astype("<u8").tobytes()}),
                },
            )


def _rows(group: Matured, kept: npt.NDArray[np.int64]) -> slice | npt.NDArray[np.int64]:
    """Positions in the group's chunk; a slice, which copies nothing, where they are all of it."""
    return slice(group.chunk.n) if len(kept) == group.chunk.n else group.rows[kept]


def _units(taken: Sequence[tuple[Chunk, slice | npt.NDArray[np.int64]]]) -> npt.NDArray[np.uint64]:
    """Numbers of the units of rows, 0 where a chunk does not keep them."""
    return np.concatenate(
        [
            np.zeros(len(chunk.key[rows]), np.uint64) if chunk.person is None else chunk.person[rows]
            for chunk, rows in taken
        ]
    )


def runs(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Start and end of runs of rows of these sizes (n,), each of at most ROWS rows and RECORD_BYTES bytes, at least one row.

    >>> list(runs([400_000, 400_000, 400_000, 2_000_000, 1]))
    [(0, 2), (2, 3), (3, 4), (4, 5)]
    """
    start = taken = 0
    for i, size in enumerate(sizes):
        if i > start and (taken + size > RECORD_BYTES or i - start == ROWS):
            yield start, i
            start, taken = i, 0
        taken += size
    if sizes:
        yield start, len(sizes)


def sampled(offset: npt.NDArray[np.int64], row: npt.NDArray[np.int32], share: float) -> npt.NDArray[np.bool_]:
    """Which impressions of a share are written: a fixed function of their place, so that a repeated run writes the same.

    >>> sampled(np.arange(1000), np.zeros(1000, np.int32), 0.25).mean().round(2)
    np.float64(0.26)
    """
    if share >= 1.0:
        return np.ones(len(offset), np.bool_)
    mixed = (offset.astype(np.uint64) + (row.astype(np.uint64) << np.uint64(44))) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53 < share


NUMBERS = {
    "snapshot": "<i8",
    "propensity": "<f8",
    "propensity_kind": "|u1",
    "group": "|u1",
    "impression_ts": "<i8",
    "impression_offset": "<i8",
    "impression_row": "<u4",
    "outcomes": "<u4",
    "age_ms": "<i8",
    "counts": "|u1",
    "unit": "<u8",
    "value": "<f8",
    "reward": "<f8",
    "change": "<f8",
    "ts": "<i8",
    "offset": "<i8",
}


def decode(value: bytes) -> dict[str, Any]:
    """A feedback record with its columns as arrays and names in place of positions; ``context`` is (n, dimension).

    ``propensity_kind`` (n,) is there whatever the record's age, ``age_ms`` only if its writer knew it; `counts` reads that column.

    Raises EventError if it is not one, or of a later version.
    """
    if value[:4] != COLUMNS_MAGIC:
        raise EventError(f"a feedback record begins with CLC1, this one with {value[:4]!r}")
    try:
        record: dict[str, Any] = msgspec.msgpack.decode(memoryview(value)[4:], type=dict[str, Any])
        if record["v"] != VERSION:
            raise EventError(version_reason(record["v"]))
        n, dimension = record["n"], record["dimension"]
        record.setdefault("propensity_kind", bytes(n))
        for name, dtype in NUMBERS.items():
            if name in record:
                record[name] = column(record[name], dtype, n, name)
        record["context"] = column(record["context"], record["dtype"], n * dimension, "context").reshape(n, dimension)
        for name in ("arm", "slot"):
            names = record.pop(name + "s")
            record[name] = [names[code] for code in column(record[name], "<u4", n, name).tolist()]
    except EventError:
        raise
    except (*UNREADABLE, KeyError, TypeError, IndexError) as error:
        raise EventError(f"not a feedback record: {error!r}") from error
    return record


def counts(columns: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """Which rows (n,) of a decoded matured record count: not those that never became viewable or were taken back.

    >>> counts({"propensity": np.ones(2)}).tolist(), counts({"propensity": np.ones(2), "counts": np.array([1, 0])}).tolist()
    ([True, True], [True, False])
    """
    found = columns.get("counts")
    return np.ones(len(columns["propensity"]), np.bool_) if found is None else np.asarray(found) > 0


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
    impression_row: Any,
    flags: Any,
    x: npt.NDArray[np.floating[Any]],
    more: dict[str, Any],
) -> bytes:
    arm_names, arm_codes = _renumbered(arm, arms)
    slot_names, slot_codes = _renumbered(slot, slots)
    fields = {
        "v": VERSION,
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
        "impression_row": impression_row.astype("<u4").tobytes(),
        "dimension": x.shape[1],
        "dtype": "<f4" if x.dtype == np.float32 else "<f8",
        "context": np.ascontiguousarray(x).data.cast("B") if x.size else b"",
        "propensity_kind": (flags & ESTIMATE).astype("|u1").tobytes(),
    }
    group = (flags & GROUP_BITS) >> GROUP_SHIFT
    if group.any():
        fields["group"] = group.astype("|u1").tobytes()
    record = bytearray(COLUMNS_MAGIC)
    _ENCODER.encode_into(fields | more, record, len(COLUMNS_MAGIC))
    return bytes(record)


def _renumbered(codes: npt.NDArray[np.integer[Any]], names: Names) -> tuple[list[str], bytes]:
    """Only the names that occur, and the codes as positions among them."""
    used = np.flatnonzero(np.bincount(codes))
    position = np.zeros(int(used[-1]) + 1, "<u4")
    position[used] = np.arange(len(used))
    return [names.list[code] for code in used.tolist()], position[codes].tobytes()
