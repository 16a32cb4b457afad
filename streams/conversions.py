"""Conversions: something that a unit (a user, most likely) did, without saying after which decision.

A conversion as JSON; MessagePack carries the same names. The Kafka key is the unit in UTF-8, the partitioner murmur2::

    {"v":1,"unit":"u1","conversion_id":"order-17","kind":"purchase","value":2.0,"ts":1700000005000}

``policy`` may name the only policy whose decisions it is for. The rules of evolution are those of `streams.events`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from streams.decoded import Record
from streams.events import CONTENT_TYPE, LARGEST, VERSION, Codec, EventError, codec_of
from streams.unit_numbers import partition_of
from streams.validation import latest_ms, time_reason, version_reason

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Conversion(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One conversion. Those with the same ``conversion_id`` count once; ``ts`` is event time, ms UTC."""

    v: Int64 = VERSION
    unit: str
    conversion_id: str
    kind: str
    value: float = 1.0
    ts: Int64
    policy: str | None = None


_DECODERS: dict[Codec, Any] = {
    "json": msgspec.json.Decoder(Conversion),
    "msgpack": msgspec.msgpack.Decoder(Conversion),
}


def encode_conversion(event: Conversion, codec: Codec = "json") -> bytes:
    """One conversion as a record's value; MessagePack where the codec is columns, which is for many events of a decision.

    >>> encode_conversion(Conversion(unit="u1", conversion_id="c1", kind="purchase", ts=3))
    b'{"v":1,"unit":"u1","conversion_id":"c1","kind":"purchase","value":1.0,"ts":3}'
    """
    fields = {name: value for name, value in msgspec.structs.asdict(event).items() if value is not None}
    return msgspec.json.encode(fields) if codec == "json" else msgspec.msgpack.encode(fields)


def read_conversion(record: Record, *, kinds: Mapping[str, frozenset[str]]) -> Conversion:
    """The conversion that a record holds. ``kinds``: what each policy attributes.

    Raises EventError with the reason if it cannot be used.
    """
    if record.value is None:
        raise EventError("the value is null (a tombstone); an event needs a value")
    codec = codec_of(record.value, dict(record.headers).get(CONTENT_TYPE) if record.headers else None)
    if codec not in _DECODERS:
        raise EventError(f"the codec is {codec}; a conversion is one record of JSON or MessagePack")
    try:
        event: Conversion = _DECODERS[codec].decode(record.value)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise EventError(f"cannot be decoded: {error}") from error
    reason = _reason(event, kinds, latest_ms(record))
    if reason is not None:
        raise EventError(reason)
    return event


def misplaced_reason(unit: int, *, partition: int, partitions: int) -> str | None:
    """Why a unit's number cannot find its touches in a partition; None if they are there."""
    at = partition_of(unit, partitions)
    if at == partition:
        return None
    return (
        f"lies in partition {partition}, and its unit belongs to {at}: the key must be the unit, the partitioner murmur2 "
        "(partitioner=murmur2_random in producers built on librdkafka); its touches would not be found here"
    )


def _reason(event: Conversion, kinds: Mapping[str, frozenset[str]], latest: int) -> str | None:
    if event.v != VERSION:
        return version_reason(event.v)
    for name in ("unit", "conversion_id"):
        if not getattr(event, name):
            return f"{name} is empty"
    if event.policy is not None and event.policy not in kinds:
        known = ", ".join(sorted(kinds)) or "none"
        return f"policy is {event.policy!r}, which attributes no conversions; those that do: {known}"
    allowed = frozenset().union(*kinds.values()) if event.policy is None else kinds[event.policy]
    if event.kind not in allowed:
        whose = "no policy" if event.policy is None else f"not policy {event.policy!r}"
        return f"kind is {event.kind!r}, which {whose} attributes; allowed: {', '.join(sorted(allowed))}"
    if not -LARGEST <= event.value <= LARGEST:
        return f"value is {event.value}; allowed: a finite number of at most {LARGEST:g} in size"
    return time_reason(event.ts, latest)
