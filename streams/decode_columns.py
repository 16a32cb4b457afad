"""Columnar records to columns: the records of a fetch that go together become one set of arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from streams.columns import ImpressionColumns, OutcomeColumns, column
from streams.decode_rows import UNREADABLE, OutcomeRow, PolicyRules, with_units
from streams.decoded import Dead, Names, Record, estimate_flags, group_flags
from streams.events import COLUMNS_MAGIC, VERSION, EventError
from streams.validation import Raw, dimension_reason, version_reason


class _Columns(ImpressionColumns, frozen=True, kw_only=True):
    propensity_kind: list[Any] | None = None
    cost: bytes | None = None
    group: list[Any] | None = None


class _UnitColumns(_Columns, frozen=True, kw_only=True):
    unit: list[str | None] | None = None


class _OutcomeColumns(OutcomeColumns, frozen=True, kw_only=True):
    cost: bytes | None = None
    of: list[str | None] | None = None
    token: list[str | None] | None = None


_IMPRESSIONS: dict[bool, msgspec.msgpack.Decoder[Any]] = {  # by whether units are read
    False: msgspec.msgpack.Decoder(_Columns),
    True: msgspec.msgpack.Decoder(_UnitColumns),
}
_OUTCOMES = msgspec.msgpack.Decoder(_OutcomeColumns)


class _Part(NamedTuple):
    """One record whose columns have the right lengths."""

    record: Record
    batch: Any  # _Columns, or _UnitColumns
    slot: npt.NDArray[np.int32]
    arm: npt.NDArray[np.int32]


def impressions(
    records: Sequence[Record], *, policies: PolicyRules, arms: dict[str, Names], slots: Names, dead: list[Dead]
) -> Iterable[Raw]:
    """The impressions of columnar records, by policy and type of number."""
    together: dict[tuple[str, str], list[_Part]] = {}
    for record in records:
        try:
            part = _part(record, policies, arms, slots)
        except UNREADABLE as error:
            dead.append(_unusable(record, error))
            continue
        if part.batch.n:
            together.setdefault((part.batch.policy, part.batch.dtype), []).append(part)
    for (policy, dtype), parts in together.items():
        units = _named(parts, "unit") if policy in policies.with_units else None
        yield with_units(_joined(policy, dtype, parts, policies.dimension(policy)), policies, units)


def outcomes(records: Sequence[Record], *, dead: list[Dead]) -> tuple[list[OutcomeRow], list[Record], list[int]]:
    """The outcomes of columnar records in order, with the record of each and its row there."""
    rows: list[OutcomeRow] = []
    of: list[Record] = []
    numbers: list[int] = []
    for record in records:
        try:
            found = _outcome_rows(_decoded(record, _OUTCOMES, "outcome"))
        except UNREADABLE as error:
            dead.append(_unusable(record, error))
            continue
        rows += found
        of += [record] * len(found)
        numbers += range(len(found))
    return rows, of, numbers


def _part(record: Record, policies: PolicyRules, arms: dict[str, Names], slots: Names) -> _Part:
    batch = _decoded(record, _IMPRESSIONS[bool(policies.with_units)], "impression")
    policies.check(batch.policy)
    dimension, n = policies.dimension(batch.policy), batch.n
    if dimension and batch.dimension != dimension:
        raise EventError(dimension_reason(batch.dimension, dimension, batch.policy))
    if batch.dtype not in ("<f4", "<f8"):
        raise EventError(f"dtype is {batch.dtype!r}; allowed: '<f4', '<f8'")
    column(batch.context, batch.dtype, n * batch.dimension, "context")
    for name, dtype in (("ts", "<i8"), ("snapshot", "<i8"), ("propensity", "<f8")):
        column(getattr(batch, name), dtype, n, name)
    if batch.cost is not None:
        column(batch.cost, "<f8", n, "cost")
    for name in ("propensity_kind", "group", "unit"):
        values = getattr(batch, name, None)
        if values is not None and len(values) != n:
            raise EventError(f"column {name!r} has {len(values)} values, n is {n}")
    slot = _positions(batch.slot, batch.slots, n, "slot")
    arm = _positions(batch.arm, batch.arms, n, "arm")
    return _Part(record, batch, slots.codes(batch.slots)[slot], arms[batch.policy].codes(batch.arms)[arm])


def _named(parts: list[_Part], name: str) -> list[Any]:
    """An optional column over all parts, None where a part does not have it."""
    return [value for part in parts for value in getattr(part.batch, name) or [None] * part.batch.n]


def _joined(policy: str, dtype: str, parts: list[_Part], dimension: int) -> Raw:
    sizes = np.array([part.batch.n for part in parts])
    n, source = int(sizes.sum()), np.repeat(np.arange(len(parts)), sizes)
    estimated = any(part.batch.propensity_kind for part in parts)
    shared = any(part.batch.group for part in parts)

    def whole(name: str, of: str) -> Any:
        return np.frombuffer(b"".join([getattr(part.batch, name) for part in parts]), of)

    return Raw(
        policy=policy,
        records=[part.record for part in parts],
        source=source,
        row=np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes),
        decision_id=[name for part in parts for name in part.batch.decision_id],
        slot=np.concatenate([part.slot for part in parts]),
        arm=np.concatenate([part.arm for part in parts]),
        ts=whole("ts", "<i8"),
        snapshot=whole("snapshot", "<i8"),
        propensity=whole("propensity", "<f8"),
        version=np.full(n, VERSION),
        x=whole("context", dtype).reshape(n, dimension) if dimension else np.zeros((n, 0), np.float32),
        flags=(estimate_flags(_named(parts, "propensity_kind")) if estimated else np.zeros(n, np.uint8))
        | (group_flags(_named(parts, "group")) if shared else np.uint8(0)),
        unit=None,
        cost=np.concatenate([_costs(part.batch) for part in parts]) if any(part.batch.cost for part in parts) else None,
    )


def _costs(batch: Any) -> npt.NDArray[Any]:
    """(n,) NaN where there is none."""
    return np.full(batch.n, np.nan) if batch.cost is None else column(batch.cost, "<f8", batch.n, "cost")


def _outcome_rows(batch: _OutcomeColumns) -> list[OutcomeRow]:
    of = [None] * batch.n if batch.of is None else batch.of
    tokens = [None] * batch.n if batch.token is None else batch.token
    for name, values in (("outcome_id", batch.outcome_id), ("of", of), ("token", tokens)):
        if len(values) != batch.n:
            raise EventError(f"column {name!r} has {len(values)} values, n is {batch.n}")
    slots = [batch.slots[code] for code in _positions(batch.slot, batch.slots, batch.n, "slot").tolist()]
    kinds = [batch.kinds[code] for code in _positions(batch.kind, batch.kinds, batch.n, "kind").tolist()]
    value = column(batch.value, "<f8", batch.n, "value").tolist()
    ts = column(batch.ts, "<i8", batch.n, "ts").tolist()
    costs: list[float | None] = [None] * batch.n
    if batch.cost is not None:
        costs = [None if cost != cost else cost for cost in _costs(batch).tolist()]
    columns = zip(batch.decision_id, slots, batch.outcome_id, ts, kinds, value, costs, of, tokens, strict=True)
    return [OutcomeRow(d, s, o, t, k, v, batch.v, *more) for d, s, o, t, k, v, *more in columns]


def _decoded(record: Record, decoder: msgspec.msgpack.Decoder[Any], kind: str) -> Any:
    value = memoryview(record.value or b"")
    if value[:4] != COLUMNS_MAGIC:
        raise EventError(f"a columnar batch begins with CLC1, this one with {bytes(value[:4])!r}")
    batch = decoder.decode(value[4:])
    if batch.type != kind:
        raise EventError(f"type is {batch.type!r}; this topic takes {kind!r} batches")
    if batch.v != VERSION:
        raise EventError(version_reason(batch.v))
    if batch.n < 0 or len(batch.decision_id) != batch.n:
        raise EventError(f"column 'decision_id' has {len(batch.decision_id)} values, n is {batch.n}")
    return batch


def _unusable(record: Record, error: Exception) -> Dead:
    """A whole columnar record, for as many events as it has decision ids; for one if even that cannot be read."""
    reason = str(error) if isinstance(error, EventError) else f"cannot be decoded: {error}"
    try:
        rows = max(1, len(msgspec.msgpack.decode((record.value or b"")[4:])["decision_id"]))
    except (*UNREADABLE, TypeError, KeyError):
        rows = 1
    return Dead(record, reason, rows=rows)


def _positions(buffer: bytes, names: list[str], n: int, name: str) -> npt.NDArray[np.uint32]:
    codes = column(buffer, "<u4", n, name)
    if n and int(codes.max()) >= len(names):
        raise EventError(f"column {name!r} points at name {int(codes.max())} of {len(names)}")
    return codes  # type: ignore[return-value]
