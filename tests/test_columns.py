"""Columnar batches as bytes: golden records, what may be added later, and what cannot be put into one batch."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import numpy as np
import pytest

from streams.columns import column, encode_impressions, encode_outcomes, names
from streams.decode import Decoder
from streams.decoded import Impressions
from streams.events import COLUMNS_MAGIC, Codec, EventError, Impression, Outcome, encode
from streams.reading import SimpleRecord
from streams.settings import PolicySettings

TS = 1_700_000_000_000


def impression(i: int, *, context: Any = (0.5, -1.0), **more: Any) -> Impression:
    """An impression of decision d<i>."""
    fields: dict[str, Any] = {"slot": "top", "policy": "front", "snapshot": 17, "arm": "ad-3", "propensity": 0.25}
    packed = context if isinstance(context, bytes) else list(context)
    return Impression(decision_id=f"d{i}", context=packed, ts=TS + i, **fields | more)


IMPRESSIONS = [impression(1), impression(2, arm="ad-4", snapshot=None), impression(3, slot="side", propensity=1.0)]
OUTCOMES = [
    Outcome(decision_id="d1", slot="top", outcome_id="o1", ts=TS),
    Outcome(decision_id="d2", slot="top", outcome_id="o2", kind="buy", value=2.5, ts=-1),
]

GOLDEN_IMPRESSIONS = b"CLC1" + bytes.fromhex(
    """8f a176 01 a474797065 aa696d7072657373696f6e a16e 03
    ab6465636973696f6e5f6964 93 a26431 a26432 a26433
    a5736c6f7473 92 a3746f70 a473696465  a4736c6f74 c40c 00000000 00000000 01000000
    a6706f6c696379 a566726f6e74  a461726d73 92 a461642d33 a461642d34  a361726d c40c 00000000 01000000 00000000
    aa70726f70656e73697479 c418 000000000000d03f 000000000000d03f 000000000000f03f
    a8736e617073686f74 c418 1100000000000000 ffffffffffffffff 1100000000000000
    a27473 c418 0168e5cf8b010000 0268e5cf8b010000 0368e5cf8b010000
    a964696d656e73696f6e 02  a56474797065 a33c6634
    a7636f6e74657874 c418 0000003f 000080bf 0000003f 000080bf 0000003f 000080bf"""
)
GOLDEN_OUTCOMES = b"CLC1" + bytes.fromhex(
    """8b a176 01 a474797065 a76f7574636f6d65 a16e 02 ab6465636973696f6e5f6964 92 a26431 a26432
    a5736c6f7473 91 a3746f70  a4736c6f74 c408 00000000 00000000  aa6f7574636f6d655f6964 92 a26f31 a26f32
    a56b696e6473 92 a5636c69636b a3627579  a46b696e64 c408 00000000 01000000
    a576616c7565 c410 000000000000f03f 0000000000000440  a27473 c410 0068e5cf8b010000 ffffffffffffffff"""
)


def decoded(value: bytes) -> tuple[Impressions, Decoder]:
    """The one group of rows that the learner reads from a record, and the decoder that knows the names."""
    decoder = Decoder({"front": PolicySettings(dimension=2)}, kinds=("click", "buy"))
    groups, dead = decoder.impressions([SimpleRecord(4, TS, None, value, [])])
    assert dead == []
    (group,) = groups
    return group, decoder


def as_map(value: bytes) -> dict[str, Any]:
    """The map behind the magic."""
    assert value[:4] == COLUMNS_MAGIC
    fields: dict[str, Any] = msgspec.msgpack.decode(value[4:])
    return fields


def test_the_bytes_of_version_1_stay_as_they_are() -> None:
    """Impressions and outcomes, to the byte."""
    assert encode_impressions(IMPRESSIONS) == GOLDEN_IMPRESSIONS
    assert encode_outcomes(OUTCOMES) == GOLDEN_OUTCOMES


def test_the_golden_impressions_read_as_themselves() -> None:
    """Every column in row order, names for positions, -1 for no snapshot, float32 kept."""
    group, decoder = decoded(GOLDEN_IMPRESSIONS)
    assert [decoder.arms["front"].list[code] for code in group.arm] == ["ad-3", "ad-4", "ad-3"]
    assert [decoder.slots.list[code] for code in group.slot] == ["top", "top", "side"]
    assert group.snapshot.tolist() == [17, -1, 17]
    assert group.propensity.tolist() == [0.25, 0.25, 1.0]
    assert group.ts.tolist() == [TS + 1, TS + 2, TS + 3]
    assert group.x.tolist() == [[0.5, -1.0]] * 3
    assert group.x.dtype == np.float32
    assert group.offset.tolist() == [4, 4, 4]


def test_the_golden_outcomes_read_as_themselves() -> None:
    """One row is good, the other has a time before 1970 and is dead by its number."""
    decoder = Decoder({"front": PolicySettings(dimension=2)}, kinds=("click", "buy"))
    (click,), (dead,) = decoder.clicks([SimpleRecord(4, TS, None, GOLDEN_OUTCOMES, [])])
    assert (click.decision_id, click.slot, click.outcome_id, click.kind) == ("d1", "top", "o1", "click")
    assert (click.value, click.ts, click.offset, click.row) == (1.0, TS, 4, 0)
    assert dead.row == 1
    assert dead.reason.startswith("ts is -1; allowed")


def test_a_row_of_a_batch_is_the_same_event_alone() -> None:
    """Codec makes no difference to anything but bytes: the same key, so that copies in two codecs are one."""
    decoder = Decoder({"front": PolicySettings(dimension=2)}, kinds=())
    records = [SimpleRecord(0, TS, None, encode_impressions(IMPRESSIONS), [])]
    codecs: tuple[Codec, ...] = ("json", "msgpack", "json")
    for i, (event, codec) in enumerate(zip(IMPRESSIONS, codecs, strict=True)):
        records.append(SimpleRecord(1 + i, TS, None, encode(event, codec), []))
    (group,), dead = decoder.impressions(records)
    assert dead == []
    assert group.key[:3].tolist() == group.key[3:].tolist()
    for name in ("arm", "slot", "snapshot", "propensity", "ts", "x"):
        values = getattr(group, name)
        assert np.array_equal(values[:3], values[3:]), name


@pytest.mark.parametrize(
    ("contexts", "dtype"),
    [
        ([(0.5, 1.0), (2.0, -3.0)], "<f4"),
        ([(0.5, 0.1), (2.0, -3.0)], "<f8"),
        ([(1e30, 0.0)], "<f8"),
        ([(-0.0, 1e-45)], "<f8"),
    ],
    ids=["exact", "one is not", "large", "too small"],
)
def test_contexts_are_narrow_only_where_nothing_is_lost(contexts: list[Any], dtype: str) -> None:
    """float32 if every value is one, else float64: to the last bit either way."""
    value = encode_impressions([impression(i, context=context) for i, context in enumerate(contexts)])
    assert as_map(value)["dtype"] == dtype
    assert decoded(value)[0].x.astype(np.float64).tolist() == [list(context) for context in contexts]


def test_packed_contexts_and_lists_may_share_a_batch() -> None:
    """A client's packed context is the same row as the list of its numbers."""
    packed = struct.pack("<2f", 0.5, -1.0)
    assert encode_impressions([impression(1, context=packed), impression(2)]) == encode_impressions(
        [impression(1), impression(2)]
    )


def test_what_is_logged_for_audit_travels_in_columns_of_its_own() -> None:
    """Candidates, unit, explore and the kind of propensity are there if any row has one, with null where a row has none."""
    events = [
        impression(1, candidates=["ad-3", "ad-4"], unit="u1"),
        impression(2, propensity_kind="estimate", group="canary"),
    ]
    fields = as_map(encode_impressions(events))
    assert fields["candidates"] == [["ad-3", "ad-4"], None]
    assert fields["unit"] == ["u1", None]
    assert fields["propensity_kind"] == [None, "estimate"]
    assert fields["group"] == [None, "canary"]
    assert "explore" not in fields
    assert decoded(encode_impressions(events))[0].ts.tolist() == [TS + 1, TS + 2]


def test_what_outcomes_take_back_is_a_column_only_where_one_does() -> None:
    """Null where a row takes nothing back; older writers have no such column, and a column of another length is refused."""
    back = Outcome(decision_id="d1", slot="top", outcome_id="t1", kind="retraction", of="o1", ts=TS)
    value = encode_outcomes([OUTCOMES[0], back])
    assert as_map(value)["of"] == [None, "o1"]
    decoder = Decoder({"front": PolicySettings(dimension=2)}, kinds=("click", "buy"))
    clicks, dead = decoder.clicks([SimpleRecord(4, TS, None, value, [])])
    assert ([click.of for click in clicks], dead) == ([None, "o1"], [])
    short = COLUMNS_MAGIC + msgspec.msgpack.encode(as_map(value) | {"of": ["o1"]})
    (unusable,) = decoder.clicks([SimpleRecord(4, TS, None, short, [])])[1]
    assert (unusable.reason, unusable.rows) == ("column 'of' has 1 values, n is 2", 2)


@pytest.mark.parametrize("golden", [GOLDEN_IMPRESSIONS, GOLDEN_OUTCOMES], ids=["impressions", "outcomes"])
def test_columns_that_a_later_writer_adds_are_ignored(golden: bytes) -> None:
    """Whatever their type."""
    later = COLUMNS_MAGIC + msgspec.msgpack.encode({"aa": [1]} | as_map(golden) | {"zz": {"more": b"\x00"}})
    decoder = Decoder({"front": PolicySettings(dimension=2)}, kinds=("click", "buy"))
    read = decoder.impressions if golden is GOLDEN_IMPRESSIONS else decoder.clicks
    plain, extended = (read([SimpleRecord(4, TS, None, value, [])]) for value in (golden, later))
    assert [len(part) for part in extended] == [len(part) for part in plain]


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([impression(1), impression(2, policy="side")], r"one policy, not \['front', 'side'\]"),
        ([impression(1), impression(2, context=(1.0,))], r"different dimensions \[1, 2\]"),
        ([], "one policy"),
    ],
)
def test_what_cannot_share_a_batch_is_refused(events: list[Impression], reason: str) -> None:
    """With what differs."""
    with pytest.raises(ValueError, match=reason):
        encode_impressions(events)


def test_names_are_numbered_in_order_of_appearance() -> None:
    """Positions are little-endian uint32."""
    assert names(["b", "a", "b"]) == (["b", "a"], bytes.fromhex("00000000 01000000 00000000"))


@pytest.mark.parametrize(("n", "size"), [(2, 15), (2, 17), (-1, 8), (2**62, 8)])
def test_a_column_of_another_length_is_refused(n: int, size: int) -> None:
    """With both lengths; a negative or enormous n is one, too."""
    with pytest.raises(EventError, match=f"column 'ts' has {size} bytes; {n} values of <i8 take {8 * n}"):
        column(bytes(size), "<i8", n, "ts")
