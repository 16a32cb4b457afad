"""Columnar batches: one Kafka record that carries many events of one partition.

Layout: the four bytes ``CLC1``, then one MessagePack map. Index columns are little-endian uint32 positions in a list of
names; all buffers are little-endian and hold n values in row order.

========================  ==========================================================================================
both                      ``v`` 1, ``type`` "impression" or "outcome", ``n``, ``decision_id`` [n strings],
                          ``slots`` [names], ``slot`` u4, ``ts`` i8 (ms UTC)
impression                ``policy`` (one a batch), ``arms`` [names], ``arm`` u4, ``propensity`` f8,
                          ``snapshot`` i8 (-1: none), ``dimension``, ``dtype`` "<f4" or "<f8", ``context`` n*dimension values
if any row has one        ``propensity_kind`` [n "estimate" or null], ``group`` [n names of groups or null], ``unit`` [n strings or null],
                          which is read where a policy limits its units; ``candidates`` [n lists or null], ``explore`` [n values or null] are kept for audit,
                          the learner passes over them
outcome                   ``outcome_id`` [n strings], ``kinds`` [names], ``kind`` u4, ``value`` f8
both, if any row has one  ``cost`` f8 (NaN: none)
if any row has one        ``of`` [n strings or null], the outcomes that retractions and refunds take back
if any row has one        ``token`` [n strings or null]
========================  ==========================================================================================

The record has no key and goes to an explicit partition: the one that murmur2 of every row's decision id names. New columns
may be added within version 1; readers ignore what they do not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from streams.events import COLUMNS_MAGIC, VERSION, EventError, Impression, Outcome

AUDITED = ("candidates", "unit", "explore", "propensity_kind", "group")
"""Optional columns of impressions."""


class ImpressionColumns(msgspec.Struct, frozen=True, kw_only=True):
    """The map of a columnar batch of impressions, as read."""

    v: int = VERSION
    type: str
    n: int
    decision_id: list[str]
    slots: list[str]
    slot: bytes
    policy: str
    arms: list[str]
    arm: bytes
    propensity: bytes
    snapshot: bytes
    ts: bytes
    dimension: int
    dtype: str = "<f4"
    context: bytes


class OutcomeColumns(msgspec.Struct, frozen=True, kw_only=True):
    """The map of a columnar batch of outcomes, as read."""

    v: int = VERSION
    type: str
    n: int
    decision_id: list[str]
    slots: list[str]
    slot: bytes
    outcome_id: list[str]
    kinds: list[str]
    kind: bytes
    value: bytes
    ts: bytes


def names(values: Sequence[str]) -> tuple[list[str], bytes]:
    """Distinct names in order of appearance, and each value's position among them as uint32 bytes.

    >>> names(["a", "b", "a"])[0]
    ['a', 'b']
    """
    index: dict[str, int] = {}
    codes = [index.setdefault(value, len(index)) for value in values]
    return list(index), np.array(codes, "<u4").tobytes()


def encode_impressions(events: Sequence[Impression]) -> bytes:
    """A columnar batch of impressions of one policy, one dimension and one partition. Raises ValueError if they differ."""
    policies = {event.policy for event in events}
    if len(policies) != 1:
        raise ValueError(f"a columnar batch holds one policy, not {sorted(policies)}: make one batch for each")
    dimension, dtype, context = _contexts([event.context for event in events])
    slots, slot = names([event.slot for event in events])
    arms, arm = names([event.arm for event in events])
    snapshot = [-1 if event.snapshot is None else event.snapshot for event in events]
    batch = ImpressionColumns(
        type="impression",
        n=len(events),
        decision_id=[event.decision_id for event in events],
        slots=slots,
        slot=slot,
        policy=policies.pop(),
        arms=arms,
        arm=arm,
        propensity=np.array([event.propensity for event in events], "<f8").tobytes(),
        snapshot=np.array(snapshot, "<i8").tobytes(),
        ts=np.array([event.ts for event in events], "<i8").tobytes(),
        dimension=dimension,
        dtype=dtype,
        context=context,
    )
    given = _given(events, *AUDITED) | _costs(events)
    return COLUMNS_MAGIC + msgspec.msgpack.encode(msgspec.structs.asdict(batch) | given)


def encode_outcomes(events: Sequence[Outcome]) -> bytes:
    """A columnar batch of outcomes of one partition."""
    slots, slot = names([event.slot for event in events])
    kinds, kind = names([event.kind for event in events])
    batch = OutcomeColumns(
        type="outcome",
        n=len(events),
        decision_id=[event.decision_id for event in events],
        slots=slots,
        slot=slot,
        outcome_id=[event.outcome_id for event in events],
        kinds=kinds,
        kind=kind,
        value=np.array([event.value for event in events], "<f8").tobytes(),
        ts=np.array([event.ts for event in events], "<i8").tobytes(),
    )
    given = _given(events, "of", "token") | _costs(events)
    return COLUMNS_MAGIC + msgspec.msgpack.encode(msgspec.structs.asdict(batch) | given)


def column(buffer: bytes, dtype: str, n: int, name: str) -> npt.NDArray[np.generic]:
    """A buffer as n values. Raises EventError if its length is another."""
    size = np.dtype(dtype).itemsize
    if len(buffer) != n * size:
        raise EventError(f"column {name!r} has {len(buffer)} bytes; {n} values of {dtype} take {n * size}")
    return np.frombuffer(buffer, dtype)


def _given(events: Sequence[Impression | Outcome], *optional: str) -> dict[str, list[Any]]:
    """The optional columns that any row has something in."""
    columns = {name: [getattr(event, name) for event in events] for name in optional}
    return {name: values for name, values in columns.items() if any(value is not None for value in values)}


def _costs(events: Sequence[Impression | Outcome]) -> dict[str, bytes]:
    """The column of costs, if any row has one."""
    costs = [event.cost for event in events]
    if all(cost is None for cost in costs):
        return {}
    return {"cost": np.array([np.nan if cost is None else cost for cost in costs], "<f8").tobytes()}


def _contexts(contexts: Sequence[list[float] | bytes]) -> tuple[int, str, bytes]:
    """Dimension, type and buffer of contexts: float32 where nothing is lost. Raises ValueError if dimensions differ."""
    dimensions = {len(one) // 4 if isinstance(one, bytes) else len(one) for one in contexts}
    if len(dimensions) != 1:
        raise ValueError(f"contexts have different dimensions {sorted(dimensions)} in one batch")
    narrow = [one for one in contexts if isinstance(one, bytes)]
    if len(narrow) == len(contexts):
        return dimensions.pop(), "<f4", b"".join(narrow)
    known = {id(one): one for one in contexts}  # rows of a page share theirs
    arrays = {key: _context(one) for key, one in known.items()}
    x = np.array([arrays[id(one)] for one in contexts], np.float64)
    with np.errstate(over="ignore"):
        dtype = "<f4" if np.all(x.astype(np.float32) == x) else "<f8"
    return dimensions.pop(), dtype, x.astype(dtype).tobytes()


def _context(context: list[float] | bytes) -> npt.NDArray[np.float64]:
    if isinstance(context, bytes):
        return np.frombuffer(context, "<f4").astype(np.float64)
    return np.array(context, np.float64)
