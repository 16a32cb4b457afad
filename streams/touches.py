"""Touches: clicks (or whatever a policy lets count as one) of impressions that have a unit, so that conversions of it find them.

A touch as a record of the topic `touches` (key: the unit's number, 16 hexadecimal digits)::

    {"policy":"front","decision_id":"d1","slot":"top","ts":1700000003000,"until":1700000600000,
     "v":1,"unit":"424f9f762c6cf2f0","source":3}

``source`` is the learner's partition; ``until`` is the time (excluded) up to which an outcome still counts for the decision: its impression's time and the
window, or for a click that came with the decision's ``token``, which is handed on, the token's life.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from sys import intern
from typing import TYPE_CHECKING

import msgspec

from streams.events import VERSION, EventError
from streams.messages import Message
from streams.unit_numbers import partition_of

if TYPE_CHECKING:
    from streams.join import Joined, Window


class Touch(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One decision that a unit has touched. ``ts`` of the touch, ms UTC. ``token``: handed on with what is attributed."""

    policy: str
    decision_id: str
    slot: str
    ts: int
    until: int
    token: str | None = None


class _Record(Touch, frozen=True, kw_only=True, gc=False):
    v: int
    unit: str
    source: int


_DECODE = msgspec.json.Decoder(_Record).decode


def touches(
    joined: Iterable[Joined],
    *,
    kinds: Mapping[str, frozenset[str]],
    windows: Mapping[str, Window],
    partitions: int,
    source: int,
) -> Iterator[Message]:
    """A record for each outcome that counted and touches a unit. ``kinds`` by policy, for those that attribute; ``source``: the learner's."""
    for row in joined:
        if row.unit and row.click.kind in kinds.get(row.policy, ()):
            brought, window = row.click.brought, windows[row.policy]
            touch = _Record(
                v=VERSION,
                unit=f"{row.unit:016x}",
                source=source,
                policy=row.policy,
                decision_id=row.click.decision_id,
                slot=row.click.slot,
                ts=row.click.ts,
                until=row.impression_ts + (window.window_ms if brought is None else window.token_ms),
                token=None if brought is None else brought.token,
            )
            yield Message(
                "touches", touch.unit.encode(), msgspec.json.encode(touch), partition=partition_of(row.unit, partitions)
            )


def read_touch(value: bytes | None) -> tuple[int, int, Touch]:
    """A unit's number, the learner's partition and a touch, from a record. Raises EventError if it is none."""
    try:
        record = _DECODE(value or b"")
        unit = int(record.unit, 16)
    except (msgspec.MsgspecError, ValueError) as error:
        raise EventError(f"no touch: {error}") from error
    touch = Touch(
        policy=intern(record.policy),  # kept once, not once a touch
        decision_id=record.decision_id,
        slot=intern(record.slot),
        ts=record.ts,
        until=record.until,
        token=record.token,
    )
    return unit, record.source, touch
