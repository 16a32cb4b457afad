"""Byte layout of the terms' state: a record of the compacted `policies` topic, committed with the snapshot that it led to.

Key: ``[policy, null, "budgets"]``. Readers of snapshots pass over keys of more than two elements. Value: a MessagePack map with the major
version ``v`` first, 1 today; unknown keys are ignored::

    v, policy
    budgets      {name: {"amount", "period_s", "anchor_ms", "paused", "period", "spent", "stepped_ms", "recent", "price", "late",
                 "unit", "earlier", "overspent", "closed"}}, see policies/budgets.py and policies/terms.py
    queues       {arm: [impressions that it lacks, that it had too many, that the ledgers said it had]}
    impressions  of all arms, that the queues have seen; null before the first
    pbar         mean value of a shown slot
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from policies.budgets import Budget
from policies.sums import RecordError
from policies.terms import Paced, Queue, TermsState

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = 1
KIND = "budgets"


class _Budget(msgspec.Struct, frozen=True):
    amount: float
    period_s: float
    anchor_ms: int
    paused: bool
    period: int
    spent: float
    stepped_ms: int
    recent: float
    price: float
    late: float
    unit: float
    earlier: float | None
    overspent: float
    closed: bool


class _Terms(msgspec.Struct, frozen=True):
    v: int
    policy: str
    budgets: dict[str, _Budget]
    queues: dict[str, tuple[float, float, int]]
    impressions: int | None
    pbar: float


class _Version(msgspec.Struct, frozen=True):
    v: int


def terms_key(policy: str) -> bytes:
    """Kafka key of a policy's terms.

    >>> terms_key("p").hex()
    '93a170c0a762756467657473'
    """
    return msgspec.msgpack.encode([policy, None, KIND])


def encode_terms(policy: str, state: TermsState) -> bytes:
    """Record of a policy's terms.

    >>> decode_terms(encode_terms("p", TermsState(impressions=7))).impressions
    7
    """
    budgets = {name: _record(one) for name, one in sorted(state.budgets.items())}
    queues = {arm: (one.low, one.high, one.shown) for arm, one in sorted(state.queues.items())}
    return msgspec.msgpack.encode(_Terms(VERSION, policy, budgets, queues, state.impressions, state.pbar))


def _record(one: Paced) -> _Budget:
    budget = one.budget
    return _Budget(
        amount=budget.amount,
        period_s=budget.period_s,
        anchor_ms=budget.anchor_ms,
        paused=budget.paused,
        period=budget.period,
        spent=budget.spent,
        stepped_ms=budget.stepped_ms,
        recent=budget.recent,
        price=budget.price,
        late=budget.late,
        unit=one.unit,
        earlier=one.earlier,
        overspent=one.overspent,
        closed=one.is_closed,
    )


def decode_terms(data: bytes) -> TermsState:
    """State from its record.

    Raises:
        RecordError: a later version, or damaged.
    """
    try:
        version = msgspec.msgpack.decode(data, type=_Version).v
        if not 1 <= version <= VERSION:
            raise RecordError(
                f"a record of budgets has version {version}, this reader knows 1 to {VERSION}; upgrade it"
            )
        found = msgspec.msgpack.decode(data, type=_Terms)
    except msgspec.DecodeError as error:
        raise RecordError(
            f"a record of budgets cannot be read: {error}; its first bytes are {data[:16].hex(' ')}"
        ) from error
    if not all(map(math.isfinite, _numbers(found))):
        raise RecordError("a record of budgets is damaged: it holds numbers that are not finite")
    return TermsState(
        budgets={name: _paced(one) for name, one in found.budgets.items()},
        queues={arm: Queue(low=low, high=high, shown=shown) for arm, (low, high, shown) in found.queues.items()},
        impressions=found.impressions,
        pbar=found.pbar,
    )


def _paced(one: _Budget) -> Paced:
    return Paced(
        budget=Budget(
            amount=one.amount,
            period_s=one.period_s,
            anchor_ms=one.anchor_ms,
            paused=one.paused,
            period=one.period,
            spent=one.spent,
            stepped_ms=one.stepped_ms,
            recent=one.recent,
            price=one.price,
            late=one.late,
        ),
        unit=one.unit,
        earlier=one.earlier,
        overspent=one.overspent,
        is_closed=one.closed,
    )


def _numbers(found: _Terms) -> Iterator[float]:
    yield found.pbar
    for one in found.budgets.values():
        yield from (one.amount, one.period_s, one.spent, one.recent, one.price, one.late, one.unit, one.overspent)
        yield 0.0 if one.earlier is None else one.earlier
    for low, high, _ in found.queues.values():
        yield from (low, high)
