"""What flows through the topics: impressions and outcomes as single records, in JSON or MessagePack.

An impression and an outcome as JSON::

    {"v":1,"decision_id":"d1","slot":"top","policy":"front","snapshot":17,"arm":"ad-3","propensity":0.25,
     "context":[0.5,-1.0],"ts":1700000000000}
    {"v":1,"decision_id":"d1","slot":"top","outcome_id":"o1","kind":"click","value":1.0,"ts":1700000003000}

MessagePack carries the same names; ``context`` may be little-endian float32 bytes. Many events of one partition in one
record are the third codec (``streams/columns.py``). The Kafka key is the decision id in UTF-8, the partitioner murmur2.

Which codec a record has is told by its ``content-type`` header, or, without one, by its first byte: ``{`` JSON, a
MessagePack map byte (0x80-0x8f, 0xde, 0xdf), ``CLC1`` a columnar batch. 0x00 is kept free for schema-registry framing.

Evolution
    1. ``v`` is the major version, 1 today. A reader refuses a larger one (dead letter): it cannot know what changed.
    2. Within a version fields are only added, and only with a default: old readers ignore them, new readers fill them in.
    3. A field is never renamed, retyped or given another meaning.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from policies.batch import FloatArray

VERSION = 1
LARGEST = 1e30
"""Size above which a number counts as unusable: squares, and sums of them weighted by up to 2^256, stay finite."""
LARGEST_RECORD = 1_000_000
"""Bytes that a record may take: what Kafka's producers and topics allow unless they are told otherwise."""
CONTENT_TYPE = "content-type"
JSON = b"application/json"
MSGPACK = b"application/msgpack"
COLUMNS = b"application/vnd.clickloop.columns"
COLUMNS_MAGIC = b"CLC1"

Codec = Literal["json", "msgpack", "columns"]
CONTENT_TYPES: dict[Codec, bytes] = {"json": JSON, "msgpack": MSGPACK, "columns": COLUMNS}
_BY_CONTENT_TYPE: dict[bytes, Codec] = {value: name for name, value in CONTENT_TYPES.items()}
_BY_CONTENT_TYPE[b"application/x-msgpack"] = "msgpack"
_BY_FIRST_BYTE: dict[int, Codec] = {0x7B: "json", 0x43: "columns", 0xDE: "msgpack", 0xDF: "msgpack"}
_BY_FIRST_BYTE.update(dict.fromkeys(range(128, 144), "msgpack"))
_BY_FIRST_BYTE.update(dict.fromkeys(b" \t\r\n", "json"))


class EventError(ValueError):
    """A record that cannot be used. It goes to the dead-letter topic with this reason."""

    retriable = False


class Impression(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One decision that was shown. ``ts`` is event time, ms UTC; ``context`` has the policy's dimension, in any real unit.

    ``propensity_kind`` is ``"estimate"`` where the propensity is a Monte Carlo estimate, absent where it is exact. ``cost`` is
    what showing it cost, 0 to 1e30 in the unit of the budgets; without it the settings' own counts (streams/ledgers.py).
    """

    v: int = VERSION
    decision_id: str
    slot: str
    policy: str
    snapshot: int | None = None
    arm: str
    propensity: float
    context: list[float] | bytes = []  # msgspec copies an empty list for each instance
    ts: int
    candidates: list[str] | None = None
    unit: str | None = None
    explore: Any = None
    propensity_kind: Literal["estimate"] | None = None
    cost: float | None = None
    group: Literal["incumbent", "canary", "random", "rest"] | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Something that followed a decision. Its reward is ``outcomes[kind] * value`` of the policy's settings.

    ``cost`` is what it cost, if it counts, 0 to 1e30; without it the settings' own counts (streams/ledgers.py).
    ``of``: the ``outcome_id`` of the outcome that a retraction or a refund takes back (streams/outcomes.py).
    ``token`` is the decision's, if it came with one: it brings the impression along (``docs/tokens.md``).
    """

    v: int = VERSION
    decision_id: str
    slot: str
    outcome_id: str
    kind: str = "click"
    value: float = 1.0
    ts: int
    cost: float | None = None
    of: str | None = None
    token: str | None = None


def encode(event: Impression | Outcome, codec: Codec = "json") -> bytes:
    """One event as one record's value. Packed contexts stay packed in MessagePack and become numbers in JSON.

    Raises ValueError for another codec, or a packed context that is not whole float32 values.

    >>> o = Outcome(decision_id="d1", slot="top", outcome_id="o1", ts=3)
    >>> encode(o)
    b'{"v":1,"decision_id":"d1","slot":"top","outcome_id":"o1","kind":"click","value":1.0,"ts":3}'
    """
    fields = {name: value for name, value in msgspec.structs.asdict(event).items() if _is_kept(name, value)}
    if codec == "json":
        if isinstance(fields.get("context"), bytes):
            fields["context"] = unpacked(fields["context"])
        return msgspec.json.encode(fields)
    if codec == "msgpack":
        return msgspec.msgpack.encode(fields)
    raise ValueError(
        f"codec is {codec!r} for a single event; allowed: json, msgpack (columns: streams.columns.encode_*)"
    )


def packed(context: FloatArray, codec: Codec) -> list[float] | bytes:
    """The context (d,) as it goes into an impression: float32 bytes where the codec has them and nothing is lost."""
    if codec != "json":
        narrow = context.astype("<f4")
        if (narrow == context).all():
            return narrow.tobytes()
    values: list[float] = context.tolist()
    return values


def unpacked(context: bytes) -> list[float]:
    r"""Little-endian float32 values as numbers. Raises ValueError if a value is cut.

    >>> unpacked(b"\x00\x00\x00\x3f\x00\x00\x80\xbf")
    [0.5, -1.0]
    """
    if len(context) % 4:
        raise ValueError(f"context has {len(context)} bytes; float32 values take 4 each")
    return list(struct.unpack(f"<{len(context) // 4}f", context))


def _is_kept(name: str, value: object) -> bool:
    return value is not None or name == "snapshot"


def codec_of(value: bytes, content_type: bytes | None = None) -> Codec:
    r"""The codec of a record, from its ``content-type`` header if it has one, else from its first byte.

    Raises EventError if neither tells.

    >>> codec_of(b'{"v":1}'), codec_of(b"CLC1..."), codec_of(b"\x8a", None)
    ('json', 'columns', 'msgpack')
    """
    if content_type is not None:
        named = _BY_CONTENT_TYPE.get(content_type.split(b";")[0].strip().lower())
        if named is None:
            raise EventError(
                f"content-type is {content_type!r}; allowed: {', '.join(sorted(t.decode() for t in _BY_CONTENT_TYPE))}"
            )
        return named
    if not value:
        raise EventError("the value is empty")
    named = _BY_FIRST_BYTE.get(value[0])
    if named is None:
        known = "'{' (JSON), a MessagePack map, 'CLC1' (columnar batch)"
        if value[0] == 0:
            known += "; schema-registry framing (0x00) is not read: use a plain JSON serializer"
        raise EventError(
            f"first byte is 0x{value[0]:02x} and there is no content-type header; known beginnings: {known}"
        )
    return named
