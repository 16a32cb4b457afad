"""Records of one event each, JSON or MessagePack, to columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Annotated, Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from streams.decoded import Dead, Names, Record, estimate_flags, group_flags
from streams.events import VERSION, Codec, EventError
from streams.validation import Raw, dimension_reason

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
"""What bytes that are no event raise: UnicodeDecodeError is a ValueError."""


class Rules(Protocol):
    """What decoding asks of a policy's settings."""

    @property
    def model(self) -> str: ...  # noqa: D102
    @property
    def dimension(self) -> int: ...  # noqa: D102
    @property
    def unit_limit(self) -> int: ...  # noqa: D102


class PolicyRules:
    """The policies by name, what their contexts have to be, whose units are limited, and which attribute conversions.

    ``with_units``: of whom units are read at all.
    """

    def __init__(self, policies: Mapping[str, Rules], attributing: Iterable[str] = ()) -> None:
        self.limited = frozenset(name for name, rules in policies.items() if rules.unit_limit)
        self.attributing = frozenset(attributing)
        self.with_units = self.limited | self.attributing
        self._dimension = {name: 0 if rules.model == "beta" else rules.dimension for name, rules in policies.items()}

    def check(self, policy: str) -> None:
        """Raise EventError if the settings have no such policy."""
        if policy not in self._dimension:
            known = ", ".join(sorted(self._dimension)) or "none"
            raise EventError(f"policy is {policy!r}, which the settings do not have; known: {known}")

    def dimension(self, policy: str) -> int:
        """Length that the policy's contexts must have; 0 if it uses none, whatever they hold."""
        return self._dimension[policy]


class _PackedImpressionRow(msgspec.Struct, gc=False):
    decision_id: str
    slot: str
    policy: str
    arm: str
    propensity: float
    ts: Int64
    context: bytes | list[float] = b""
    snapshot: Int64 | None = None
    propensity_kind: Any = None
    group: Any = None
    v: Int64 = VERSION
    cost: float | None = None


class _ImpressionRow(_PackedImpressionRow, gc=False):
    context: list[float] = []


class _PackedUnitRow(_PackedImpressionRow, gc=False):
    unit: str | None = None


class _UnitRow(_ImpressionRow, gc=False):
    unit: str | None = None


class OutcomeRow(msgspec.Struct, gc=False):
    """An outcome as read; what it holds is checked later."""

    decision_id: str
    slot: str
    outcome_id: str
    ts: Int64
    kind: str = "click"
    value: float = 1.0
    v: Int64 = VERSION
    cost: float | None = None
    of: str | None = None
    token: str | None = None


_IMPRESSION: dict[tuple[Codec, bool], Callable[[bytes], Any]] = {  # by codec, and whether units are read
    ("json", False): msgspec.json.Decoder(_ImpressionRow).decode,
    ("json", True): msgspec.json.Decoder(_UnitRow).decode,
    ("msgpack", False): msgspec.msgpack.Decoder(_PackedImpressionRow).decode,
    ("msgpack", True): msgspec.msgpack.Decoder(_PackedUnitRow).decode,
}
_OUTCOME: dict[Codec, Callable[[bytes], Any]] = {
    "json": msgspec.json.Decoder(OutcomeRow).decode,
    "msgpack": msgspec.msgpack.Decoder(OutcomeRow).decode,
}


def impressions(
    records: Sequence[Record],
    codec: Codec,
    *,
    policies: PolicyRules,
    arms: dict[str, Names],
    slots: Names,
    dead: list[Dead],
) -> Iterable[Raw]:
    """The impressions of records of one codec, by policy."""
    rows, kept = _each(records, _IMPRESSION[codec, bool(policies.with_units)], dead)
    for policy, rows_of, records_of in _by_policy(rows, kept):
        try:
            policies.check(policy)
        except EventError as error:
            dead.extend(Dead(record, str(error)) for record in records_of)
            continue
        dimension = policies.dimension(policy)
        good, good_records = rows_of, records_of
        if dimension and not _all_of_dimension([row.context for row in rows_of], dimension):
            good, good_records = _of_dimension(rows_of, records_of, dimension, policy, dead)
        if good:
            units = [row.unit for row in good] if policy in policies.with_units else None
            yield with_units(_raw(policy, good, good_records, arms[policy], slots, dimension), policies, units)


def outcomes(records: Sequence[Record], codec: Codec, *, dead: list[Dead]) -> tuple[list[OutcomeRow], list[Record]]:
    """The outcomes of records of one codec in order, with their records."""
    return _each(records, _OUTCOME[codec], dead)


def _raw(
    policy: str,
    rows: list[Any],
    records: list[Record],
    arms: Names,
    slots: Names,
    dimension: int,
) -> Raw:
    return Raw(
        policy=policy,
        records=records,
        source=np.arange(len(rows)),
        row=None,
        decision_id=[row.decision_id for row in rows],
        slot=slots.codes([row.slot for row in rows]),
        arm=arms.codes([row.arm for row in rows]),
        ts=np.array([row.ts for row in rows], np.int64),
        snapshot=np.array([-1 if row.snapshot is None else row.snapshot for row in rows], np.int64),
        propensity=np.array([row.propensity for row in rows], np.float64),
        version=np.array([row.v for row in rows], np.int64),
        x=_matrix([row.context for row in rows], dimension),
        flags=estimate_flags([row.propensity_kind for row in rows]) | group_flags([row.group for row in rows]),
        unit=None,
        cost=_costs([row.cost for row in rows]),
    )


def with_units(raw: Raw, policies: PolicyRules, units: list[str | None] | None) -> Raw:
    """The rows with their units, where the policy has a use for them."""
    if units is None:
        return raw
    return replace(
        raw,
        unit=units if raw.policy in policies.limited else None,
        person=units if raw.policy in policies.attributing else None,
    )


def _costs(costs: list[float | None]) -> npt.NDArray[np.float64] | None:
    """(n,) NaN where there is none, None where no row has one; what is given as NaN becomes one that is refused."""
    if not any(cost is not None for cost in costs):
        return None
    return np.array([np.nan if cost is None else cost if cost == cost else -np.inf for cost in costs])


def _by_policy(rows: list[Any], records: list[Record]) -> Iterable[tuple[str, list[Any], list[Record]]]:
    policies = [row.policy for row in rows]
    if len(set(policies)) == 1:
        yield policies[0], rows, records
        return
    chosen: dict[str, list[int]] = {}
    for i, policy in enumerate(policies):
        chosen.setdefault(policy, []).append(i)
    for policy, numbers in chosen.items():
        yield policy, [rows[i] for i in numbers], [records[i] for i in numbers]


def _each(
    records: Sequence[Record], decode: Callable[[bytes], Any], dead: list[Dead]
) -> tuple[list[Any], list[Record]]:
    """Decoded rows and their records. One pass; record by record only if that fails."""
    try:
        return [decode(record.value) for record in records], list(records)  # type: ignore[arg-type]
    except UNREADABLE:
        rows, kept = [], []
    for record in records:
        try:
            rows.append(decode(record.value))  # type: ignore[arg-type]
            kept.append(record)
        except UNREADABLE as error:
            dead.append(Dead(record, f"cannot be decoded: {error}"))
    return rows, kept


def _all_of_dimension(contexts: list[Any], dimension: int) -> bool:
    """Whether every context has this many values, all of one encoding (the usual case)."""
    kinds = set(map(type, contexts))
    if kinds == {bytes}:
        return set(map(len, contexts)) == {4 * dimension}
    return kinds == {list} and set(map(len, contexts)) == {dimension}


def _of_dimension(
    rows: list[Any], records: list[Record], dimension: int, policy: str, dead: list[Dead]
) -> tuple[list[Any], list[Record]]:
    kept = []
    for row, record in zip(rows, records, strict=True):
        if isinstance(row.context, bytes) and len(row.context) % 4:
            dead.append(Dead(record, f"context has {len(row.context)} bytes; float32 values take 4 each"))
            continue
        size = len(row.context) // 4 if isinstance(row.context, bytes) else len(row.context)
        if size == dimension:
            kept.append((row, record))
        else:
            dead.append(Dead(record, dimension_reason(size, dimension, policy)))
    return [row for row, _ in kept], [record for _, record in kept]


def _matrix(contexts: list[Any], dimension: int) -> npt.NDArray[np.floating[Any]]:
    """Contexts of one dimension d as (n, d)."""
    n = len(contexts)
    if dimension == 0:
        return np.zeros((n, 0), np.float32)
    kinds = set(map(type, contexts))
    if kinds == {bytes}:
        return np.frombuffer(b"".join(contexts), "<f4").reshape(n, dimension)
    if kinds == {list}:
        return np.fromiter(chain.from_iterable(contexts), np.float64, n * dimension).reshape(n, dimension)
    rows = np.empty((n, dimension))
    for i, context in enumerate(contexts):
        rows[i] = np.frombuffer(context, "<f4") if isinstance(context, bytes) else context
    return rows
