"""Byte layout of a ledger: a MessagePack map with the major version `v` first, 1 today; unknown keys are ignored.

::

    v             1
    offsets       {"impressions", "clicks"}: next to read, of what it includes
    accounts      {budget: {"period_s", "anchor_ms", "spent": {number of the period: cost}, "earned": {number: worth},
                  "spent_before", "earned_before"}}
    shown         {arm: impressions}
    impressions   of all arms
    earned        worth of all rewards
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from policies.ledger import Account, Ledger, Period
from policies.sums import RecordError

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = 1


class _Account(msgspec.Struct, frozen=True):
    period_s: float
    anchor_ms: int
    spent: dict[int, float]
    earned: dict[int, float]
    spent_before: float
    earned_before: float


class _Ledger(msgspec.Struct, frozen=True):
    v: int
    offsets: dict[str, int]
    accounts: dict[str, _Account]
    shown: dict[str, int]
    impressions: int
    earned: float


class _Version(msgspec.Struct, frozen=True):
    v: int


def encode_ledger(ledger: Ledger, *, offsets: Mapping[str, int]) -> bytes:
    """Record of a ledger that includes everything below these offsets.

    >>> decode_ledger(encode_ledger(Ledger(shown={"a": 2}, impressions=3), offsets={})).shown
    {'a': 2}
    """
    accounts = {
        budget: _Account(
            period_s=one.period.period_s,
            anchor_ms=one.period.anchor_ms,
            spent=dict(one.spent),
            earned=dict(one.earned),
            spent_before=one.spent_before,
            earned_before=one.earned_before,
        )
        for budget, one in sorted(ledger.accounts.items())
    }
    return msgspec.msgpack.encode(
        _Ledger(VERSION, dict(offsets), accounts, dict(ledger.shown), ledger.impressions, ledger.earned)
    )


def decode_ledger(data: bytes) -> Ledger:
    """Ledger from its record.

    Raises:
        RecordError: a later version, or damaged.
    """
    try:
        version = msgspec.msgpack.decode(data, type=_Version).v
        if not 1 <= version <= VERSION:
            raise RecordError(f"a ledger has version {version}, this reader knows 1 to {VERSION}; upgrade it")
        found = msgspec.msgpack.decode(data, type=_Ledger)
    except msgspec.DecodeError as error:
        raise RecordError(f"a ledger cannot be read: {error}; its first bytes are {data[:16].hex(' ')}") from error
    ledger = Ledger(
        accounts={
            budget: Account(
                period=Period(one.period_s, one.anchor_ms),
                spent=one.spent,
                earned=one.earned,
                spent_before=one.spent_before,
                earned_before=one.earned_before,
            )
            for budget, one in found.accounts.items()
        },
        shown=found.shown,
        impressions=found.impressions,
        earned=found.earned,
    )
    for budget, one in ledger.accounts.items():
        if not (math.isfinite(one.total) and one.period.period_s > 0):
            raise RecordError(
                f"a ledger is damaged: {budget!r} has spent {one.total} in periods of {one.period.period_s} s"
            )
    return ledger
