"""Events as bytes: golden records of both codecs, what may be added later, and how a codec is told."""

from __future__ import annotations

import inspect
import struct
from typing import Any

import msgspec
import pytest

from streams import events
from streams.decode import Decoder
from streams.events import CONTENT_TYPES, Codec, EventError, Impression, Outcome, codec_of, encode, unpacked
from streams.reading import SimpleRecord
from streams.settings import PolicySettings

TS = 1_700_000_000_000
IMPRESSION = Impression(
    decision_id="d1",
    slot="top",
    policy="front",
    snapshot=17,
    arm="ad-3",
    propensity=0.25,
    context=[0.5, -1.0],
    ts=TS,
)
PACKED = msgspec.structs.replace(IMPRESSION, context=struct.pack("<2f", 0.5, -1.0))
WHOLE = msgspec.structs.replace(PACKED, snapshot=None, candidates=["ad-3", "ad-4"], unit="u1", explore={"rate": 0.5})
OUTCOME = Outcome(decision_id="d1", slot="top", outcome_id="o1", kind="click", value=1.0, ts=TS + 3_000)

COMMON = "a176 01 ab6465636973696f6e5f6964 a26431 a4736c6f74 a3746f70"
POLICY = "a6706f6c696379 a566726f6e74"
ARM = "a361726d a461642d33 aa70726f70656e73697479 cb3fd0000000000000"
PACKED_CONTEXT = "a7636f6e74657874 c408 0000003f 000080bf"
AT = "a27473 cf0000018bcfe56800"
GOLDEN: dict[str, tuple[Impression | Outcome, Codec, bytes]] = {
    "impression as JSON": (
        IMPRESSION,
        "json",
        (
            b'{"v":1,"decision_id":"d1","slot":"top","policy":"front","snapshot":17,"arm":"ad-3","propensity":0.25,'
            b'"context":[0.5,-1.0],"ts":1700000000000}'
        ),
    ),
    "packed impression as JSON": (
        PACKED,
        "json",
        (
            b'{"v":1,"decision_id":"d1","slot":"top","policy":"front","snapshot":17,"arm":"ad-3","propensity":0.25,'
            b'"context":[0.5,-1.0],"ts":1700000000000}'
        ),
    ),
    "impression with all fields as JSON": (
        WHOLE,
        "json",
        (
            b'{"v":1,"decision_id":"d1","slot":"top","policy":"front","snapshot":null,"arm":"ad-3","propensity":0.25,'
            b'"context":[0.5,-1.0],"ts":1700000000000,"candidates":["ad-3","ad-4"],"unit":"u1","explore":{"rate":0.5}}'
        ),
    ),
    "impression as MessagePack": (
        IMPRESSION,
        "msgpack",
        bytes.fromhex(
            f"89 {COMMON} {POLICY} a8736e617073686f74 11 {ARM}"
            f"a7636f6e74657874 92 cb3fe0000000000000 cbbff0000000000000 {AT}"
        ),
    ),
    "packed impression as MessagePack": (
        PACKED,
        "msgpack",
        bytes.fromhex(f"89 {COMMON} {POLICY} a8736e617073686f74 11 {ARM} {PACKED_CONTEXT} {AT}"),
    ),
    "impression with all fields as MessagePack": (
        WHOLE,
        "msgpack",
        bytes.fromhex(
            f"8c {COMMON} {POLICY} a8736e617073686f74 c0 {ARM} {PACKED_CONTEXT} {AT}"
            "aa63616e64696461746573 92 a461642d33 a461642d34 a4756e6974 a27531"
            "a76578706c6f7265 81 a472617465 cb3fe0000000000000"
        ),
    ),
    "outcome as JSON": (
        OUTCOME,
        "json",
        b'{"v":1,"decision_id":"d1","slot":"top","outcome_id":"o1","kind":"click","value":1.0,"ts":1700000003000}',
    ),
    "outcome as MessagePack": (
        OUTCOME,
        "msgpack",
        bytes.fromhex(
            f"87 {COMMON} aa6f7574636f6d655f6964 a26f31 a46b696e64 a5636c69636b"
            "a576616c7565 cb3ff0000000000000 a27473 cf0000018bcfe573b8"
        ),
    ),
}


def read(value: bytes, kind: type[Any], **headers: bytes) -> Any:
    """What the learner's decoder makes of one record: its row as a map of the event's own names, or the reason."""
    decoder = Decoder({"front": PolicySettings(dimension=2)}, kinds=("click",))
    record = SimpleRecord(4, TS + 3_000, b"d1", value, [(k.replace("_", "-"), v) for k, v in headers.items()])
    if kind is Outcome:
        clicks, dead = decoder.clicks([record])
        return (
            {n: getattr(clicks[0], n) for n in ("decision_id", "slot", "outcome_id", "kind", "value", "ts")}
            if clicks
            else dead[0].reason
        )
    groups, dead = decoder.impressions([record])
    if not groups:
        return dead[0].reason
    (group,) = groups
    return {
        "policy": group.policy,
        "slot": decoder.slots.list[group.slot[0]],
        "arm": decoder.arms["front"].list[group.arm[0]],
        "snapshot": int(group.snapshot[0]),
        "propensity": float(group.propensity[0]),
        "context": group.x[0].tolist(),
        "ts": int(group.ts[0]),
    }


def expected(event: Impression | Outcome) -> dict[str, Any]:
    """The same map, from the event."""
    if isinstance(event, Outcome):
        return {n: getattr(event, n) for n in ("decision_id", "slot", "outcome_id", "kind", "value", "ts")}
    return {
        "policy": event.policy,
        "slot": event.slot,
        "arm": event.arm,
        "snapshot": -1 if event.snapshot is None else event.snapshot,
        "propensity": event.propensity,
        "context": unpacked(event.context) if isinstance(event.context, bytes) else event.context,
        "ts": event.ts,
    }


@pytest.mark.parametrize("name", GOLDEN)
def test_the_bytes_of_version_1_stay_as_they_are(name: str) -> None:
    """Every event is written as its golden record, told by its first byte, and read by the learner as itself."""
    event, codec, golden = GOLDEN[name]
    assert encode(event, codec) == golden
    assert codec_of(golden) == codec
    assert read(golden, type(event)) == expected(event)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_optional_fields_survive(name: str) -> None:
    """Who reads the topic for audit gets every field back, with None where the record has none."""
    event, codec, golden = GOLDEN[name]
    module = msgspec.json if codec == "json" else msgspec.msgpack
    back = module.decode(golden, type=type(event))
    if isinstance(event, Impression) and codec == "json" and isinstance(event.context, bytes):
        event = msgspec.structs.replace(event, context=unpacked(event.context))
    assert back == event


@pytest.mark.parametrize("name", GOLDEN)
def test_fields_that_a_later_writer_adds_are_ignored(name: str) -> None:
    """Unknown names, of whatever type, in either codec."""
    event, codec, golden = GOLDEN[name]
    module = msgspec.json if codec == "json" else msgspec.msgpack
    later = {"aa": {"deep": [1, {"er": None}]}} | module.decode(golden) | {"zz": "later", "candidate": 5}
    assert read(module.encode(later), type(event)) == expected(event)


@pytest.mark.parametrize("optional", ["candidates", "unit", "explore", "propensity_kind", "group"])
@pytest.mark.parametrize("value", [None, 7, "text", [1, "two"], {"any": True}])
def test_optional_fields_of_any_type_do_not_cost_the_event(optional: str, value: object) -> None:
    """The learner does not use them, so it does not judge them."""
    for module in (msgspec.json, msgspec.msgpack):
        record = module.encode(msgspec.structs.asdict(IMPRESSION) | {optional: value})
        assert read(record, Impression) == expected(IMPRESSION)


@pytest.mark.parametrize(
    ("value", "kind", "default"),
    [
        (
            b'{"decision_id":"d1","slot":"top","policy":"front","arm":"a","propensity":1,"context":[1,2],"ts":5}',
            Impression,
            {"snapshot": -1},
        ),
        (b'{"decision_id":"d1","slot":"top","outcome_id":"o1","ts":5}', Outcome, {"kind": "click", "value": 1.0}),
    ],
    ids=["impression", "outcome"],
)
def test_what_an_old_writer_leaves_out_has_its_default(value: bytes, kind: type[Any], default: dict[str, Any]) -> None:
    """The version too: plain JSON by hand works."""
    row = read(value, kind)
    assert {name: row[name] for name in default} == default


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("version", [0, 2, -1])
def test_another_major_version_is_refused_whatever_else_it_says(name: str, version: int) -> None:
    """Its fields may mean something else, so it is not read half."""
    event, codec, golden = GOLDEN[name]
    module = msgspec.json if codec == "json" else msgspec.msgpack
    record = module.encode(module.decode(golden) | {"v": version})
    assert read(record, type(event)) == (
        f"v is {version}; this program reads version 1: update it, or produce version 1"
    )


def test_the_rules_of_evolution_are_where_people_look() -> None:
    """In the docstring of the module that defines the records."""
    text = inspect.getdoc(events) or ""
    rules = text[text.index("Evolution") :]
    for word in ("major version", "only added", "old readers ignore", "new readers fill", "never renamed"):
        assert word in rules


@pytest.mark.parametrize(
    ("value", "header", "codec"),
    [
        (b'{"v":1}', None, "json"),
        (b'\n\t {"v":1}', None, "json"),
        (b"\x80", None, "msgpack"),
        (b"\x8f", None, "msgpack"),
        (b"\xde\x00\x10", None, "msgpack"),
        (b"\xdf\x00\x00\x00\x10", None, "msgpack"),
        (b"CLC1\x80", None, "columns"),
        (b"{}", b"application/msgpack", "msgpack"),
        (b"\x00", b"application/json", "json"),
        (b"\x8a", b"application/json; charset=utf-8", "json"),
        (b"{}", b" Application/X-MsgPack", "msgpack"),
        (b"{}", b"application/vnd.clickloop.columns", "columns"),
    ],
)
def test_the_header_tells_the_codec_and_without_one_the_first_byte(
    value: bytes, header: bytes | None, codec: str
) -> None:
    """Parameters and case of a media type do not matter."""
    assert codec_of(value, header) == codec


def test_every_codec_has_a_content_type_that_names_it() -> None:
    """What producers here write as a header is what is read."""
    assert {codec_of(b"?", content_type) for content_type in CONTENT_TYPES.values()} == {"json", "msgpack", "columns"}


def test_every_other_first_byte_is_refused() -> None:
    """MessagePack arrays and numbers, JSON arrays, text, and 0x00 above all."""
    known = {*b"{C \t\r\n\xde\xdf", *range(0x80, 0x90)}
    for first in set(range(256)) - known:
        with pytest.raises(EventError, match=f"first byte is 0x{first:02x} and there is no content-type header"):
            codec_of(bytes((first, 0x7B)))


def test_schema_registry_framing_is_named() -> None:
    """0x00 is kept free for it, so that it can be read one day; until then the message says what to do."""
    with pytest.raises(EventError, match="use a plain JSON serializer"):
        codec_of(b"\x00\x00\x00\x00\x07{}")


@pytest.mark.parametrize(
    ("value", "header", "reason"),
    [
        (b"", None, "the value is empty"),
        (b"{}", b"text/plain", "content-type is b'text/plain'; allowed: application/json"),
        (b"{}", b"", "content-type is b''"),
    ],
)
def test_what_tells_no_codec_is_refused(value: bytes, header: bytes | None, reason: str) -> None:
    """A header that names something else is not overruled by the first byte."""
    with pytest.raises(EventError, match=reason):
        codec_of(value, header)


def test_single_events_have_no_columnar_form() -> None:
    """The message names the function that makes batches."""
    with pytest.raises(ValueError, match=r"streams\.columns\.encode_"):
        encode(OUTCOME, "columns")


def test_a_packed_context_that_is_cut_is_refused_when_it_is_written_as_json() -> None:
    """Before it becomes a dead letter."""
    with pytest.raises(ValueError, match="context has 7 bytes; float32 values take 4 each"):
        encode(msgspec.structs.replace(PACKED, context=bytes(7)), "json")
