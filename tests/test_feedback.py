"""Feedback records as bytes: golden joined and matured rows, names for positions, shares that repeat, and who may read them."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from streams.decoded import ESTIMATE, LIMITED, Click, Impressions, Names
from streams.events import COLUMNS_MAGIC, EventError
from streams.feedback import ROWS, decode, encode_joined, encode_matured, sampled
from streams.join import Joined, Matured
from streams.pending import Pending

TS = 1_700_000_000_000


def names(*values: str) -> Names:
    """Names numbered in this order."""
    made = Names()
    for value in values:
        made[value]
    return made


ARMS, SLOTS = {"front": names("a0", "a1", "a2"), "side": names("s0")}, names("top", "side")


def joined(i: int, *, policy: str = "front", arm: int = 2, x: Any = (0.5, -1.0), dtype: Any = np.float32) -> Joined:
    """Outcome i of decision d<i>, which came three seconds after its impression; the propensity is an estimate."""
    click = Click(99, f"d{i}", "side", f"o{i}", "click", 2.0, TS + 3000 + i, 40 + i, None)
    return Joined(
        click, policy, arm, 1, 17, 0.25, TS + i, 7 + i, 5, np.array(x, dtype), 1.0, 0.5, 0.75, ESTIMATE | LIMITED
    )


def matured(n: int, *, policy: str = "front", dtype: Any = np.float32) -> list[Matured]:
    """The rows of n impressions, all gone at once; row i has offset i, reward i/2 and age i-1."""
    batch = Impressions(
        policy=policy,
        key=np.arange(n, dtype=np.uint64),
        slot=np.zeros(n, np.int32),
        arm=np.zeros(n, np.int32),
        ts=TS + np.arange(n),
        offset=np.arange(n),
        row=np.arange(n, dtype=np.int32),
        snapshot=np.full(n, -1, np.int32),
        propensity=np.full(n, 0.5),
        flags=np.full(n, ESTIMATE | LIMITED, np.uint8),
        x=np.tile(np.array([[1.0, 0.25]], dtype), (n, 1)),
    )
    pending = Pending()
    pending.append(batch, np.arange(n), np.zeros(n, np.int64))
    left = pending.leave(2 * TS, hold_ms={policy: 0}, bucket_ms={policy: 1})
    return [
        Matured(chunk, rows, chunk.offset[rows] / 2, np.ones(len(rows), np.int32), chunk.offset[rows] - 1)
        for chunk, rows in left
    ]


BEFORE = """a16e 01 a461726d73 91 {arm} a361726d c404 00000000 a5736c6f7473 91 {slot} a4736c6f74 c404 00000000
    a8736e617073686f74 c408 {snapshot} aa70726f70656e73697479 c408 {propensity}
    ad696d7072657373696f6e5f7473 c408 {ts} b1696d7072657373696f6e5f6f6666736574 c408 {offset}
    ae696d7072657373696f6e5f726f77 c404 {row}
    a964696d656e73696f6e 02 a56474797065 a33c6634 a7636f6e74657874 c408 {context}"""
KIND = " af70726f70656e736974795f6b696e64 c401 01 "


def golden_joined(common: str, fields: str) -> bytes:
    """The joined row 0, with these columns of both types, and how many fields there are."""
    return b"CLC1" + bytes.fromhex(
        fields
        + " a176 01 a474797065 a66a6f696e6564 a9706172746974696f6e 03 a6706f6c696379 a566726f6e74"
        + common.format(
            arm="a26132",
            slot="a473696465",
            snapshot="1100000000000000",
            propensity="000000000000d03f",
            ts="0068e5cf8b010000",
            offset="0700000000000000",
            row="05000000",
            context="0000003f 000080bf",
        )
        + """ab6465636973696f6e5f6964 91 a26430 aa6f7574636f6d655f6964 91 a26f30 a46b696e64 91 a5636c69636b
    a576616c7565 c408 0000000000000040 a6726577617264 c408 000000000000f03f a66368616e6765 c408 000000000000e03f
    a27473 c408 b873e5cf8b010000 a66f6666736574 c408 2800000000000000"""
    )


def golden_matured(common: str, age: str, fields: str) -> bytes:
    """The matured row 0, with these columns of both types, its age, and how many fields there are."""
    return b"CLC1" + bytes.fromhex(
        fields
        + " a176 01 a474797065 a76d617475726564 a9706172746974696f6e 03 a6706f6c696379 a566726f6e74"
        + common.format(
            arm="a26130",
            slot="a3746f70",
            snapshot="ffffffffffffffff",
            propensity="000000000000e03f",
            ts="0068e5cf8b010000",
            offset="0000000000000000",
            row="00000000",
            context="0000803f 0000803e",
        )
        + f"a6726577617264 c408 0000000000000000 a86f7574636f6d6573 c404 01000000 {age} a57368617265 cb3ff0000000000000"
    )


GOLDEN_JOINED = golden_joined(BEFORE + KIND, "de001a")
GOLDEN_MATURED = golden_matured(BEFORE + KIND, "a66167655f6d73 c408 ffffffffffffffff", "de0016")


def test_the_bytes_of_version_1_stay_as_they_are() -> None:
    """A joined and a matured row, to the byte."""
    assert list(encode_joined([joined(0)], partition=3, arms=ARMS, slots=SLOTS)) == [GOLDEN_JOINED]
    rows = matured(1)
    assert list(encode_matured(rows, partition=3, arms=ARMS, slots=SLOTS, share={"front": 1.0})) == [GOLDEN_MATURED]


def test_golden_records_read_as_themselves() -> None:
    """Columns as arrays, names in place of positions, contexts as rows."""
    one = decode(GOLDEN_JOINED)
    plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in one.items()}
    assert plain == {
        "v": 1,
        "type": "joined",
        "partition": 3,
        "policy": "front",
        "n": 1,
        "arm": ["a2"],
        "slot": ["side"],
        "snapshot": [17],
        "propensity": [0.25],
        "propensity_kind": [1],
        "impression_ts": [TS],
        "impression_offset": [7],
        "impression_row": [5],
        "dimension": 2,
        "dtype": "<f4",
        "context": [[0.5, -1.0]],
        "decision_id": ["d0"],
        "outcome_id": ["o0"],
        "kind": ["click"],
        "value": [2.0],
        "reward": [1.0],
        "change": [0.5],
        "ts": [TS + 3000],
        "offset": [40],
    }
    two = decode(GOLDEN_MATURED)
    assert (two["type"], two["share"], two["reward"].tolist(), two["outcomes"].tolist()) == ("matured", 1.0, [0.0], [1])
    assert (two["propensity_kind"].tolist(), two["age_ms"].tolist()) == ([1], [-1])


@pytest.mark.parametrize(
    ("golden", "now"),
    [
        (golden_joined(BEFORE, "de0019"), GOLDEN_JOINED),
        (golden_matured(BEFORE, "", "de0014"), GOLDEN_MATURED),
    ],
    ids=["joined", "matured"],
)
def test_records_from_before_the_kind_and_the_age_still_read(golden: bytes, now: bytes) -> None:
    """Their propensities pass for exact; no age is made up for them."""
    before, after = decode(golden), decode(now)
    assert before["propensity_kind"].tolist() == [0]
    assert before["propensity_kind"].dtype == after["propensity_kind"].dtype == np.uint8
    assert after.keys() - before.keys() <= {"age_ms"}


@pytest.mark.parametrize("golden", [GOLDEN_JOINED, GOLDEN_MATURED], ids=["joined", "matured"])
def test_columns_that_a_later_writer_adds_are_passed_on(golden: bytes) -> None:
    """What is not known stays as it is, and what is known reads as before."""
    later = COLUMNS_MAGIC + msgspec.msgpack.encode(msgspec.msgpack.decode(golden[4:]) | {"zz": b"\x01"})
    found = decode(later)
    assert found.pop("zz") == b"\x01"
    assert found.keys() == decode(golden).keys()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{}",
        b"CLC2" + GOLDEN_JOINED[4:],
        b"CLC1",
        b"CLC1\x80",
        b"CLC1\x93\x01\x02\x03",
        GOLDEN_JOINED[:-1],
        GOLDEN_JOINED.replace(b"\xa1v\x01", b"\xa1v\x02"),
        GOLDEN_JOINED.replace(b"\xa1n\x01", b"\xa1n\x02"),
    ],
)
def test_what_is_no_feedback_of_this_version_is_refused(value: bytes) -> None:
    """As an EventError, whatever is wrong with it."""
    with pytest.raises(EventError):
        decode(value)


def test_rows_are_grouped_by_policy_and_cut_at_the_limit() -> None:
    """A record holds one policy and at most 4,096 rows, in the order in which they were counted."""
    rows = [joined(i, policy="side" if i % 5 == 0 else "front", arm=0) for i in range(ROWS + 2000)]
    found = [decode(value) for value in encode_joined(rows, partition=0, arms=ARMS, slots=SLOTS)]
    sides = len(range(0, len(rows), 5))
    assert [(one["policy"], one["n"]) for one in found] == [("side", sides), ("front", ROWS), ("front", 2000 - sides)]
    front = [name for one in found[1:] for name in one["decision_id"]]
    assert front == [f"d{i}" for i in range(len(rows)) if i % 5]


def test_only_the_names_that_occur_are_written() -> None:
    """Whoever reads a record needs nothing but the record, and an arm that nobody chose is not in it."""
    rows = [joined(i, arm=arm) for i, arm in enumerate((2, 0, 2))]
    (value,) = encode_joined(rows, partition=0, arms=ARMS, slots=SLOTS)
    assert msgspec.msgpack.decode(value[4:])["arms"] == ["a0", "a2"]
    assert decode(value)["arm"] == ["a2", "a0", "a2"]


def test_contexts_keep_every_bit() -> None:
    """float32 where all are, float64 where one is not, nothing where the model uses none."""
    wide = joined(1, x=(0.1, 0.2), dtype=np.float64)
    for rows, dtype, context in (
        ([joined(0)], "<f4", [[0.5, -1.0]]),
        ([joined(0), wide], "<f8", [[0.5, -1.0], [0.1, 0.2]]),
        ([joined(0, x=()), joined(1, x=())], "<f4", [[], []]),
    ):
        (value,) = encode_joined(rows, partition=0, arms=ARMS, slots=SLOTS)
        assert msgspec.msgpack.decode(value[4:])["dtype"] == dtype
        assert decode(value)["context"].tolist() == context


def test_a_share_of_the_matured_rows_is_the_same_at_every_run() -> None:
    """Chosen by offset: the share is met and written beside the rows, whatever batches they leave in."""
    whole = [row for one in written(matured(3000), 0.25) for row in one["impression_offset"].tolist()]
    again = [
        row for group in matured(3000) for one in written([group], 0.25) for row in one["impression_offset"].tolist()
    ]
    assert sorted(whole) == sorted(again)
    assert 600 < len(whole) < 900
    assert {one["share"] for one in written(matured(3000), 0.25)} == {0.25}
    assert written(matured(3000), 0.0) == []
    assert sum(one["n"] for one in written(matured(5000), 1.0)) == 5000


def written(rows: list[Matured], share: float) -> list[dict[str, Any]]:
    """Matured rows as read back."""
    return [
        decode(value) for value in encode_matured(rows, partition=0, arms=ARMS, slots=SLOTS, share={"front": share})
    ]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
def test_sampling_has_no_rhythm(share: float) -> None:
    """Every stretch and step through offsets, or the rows of records, has about its share: five standard errors of independent draws."""
    offsets = np.arange(2**40, 2**40 + 20_000)
    single = np.zeros(20_000, np.int32)
    columnar = (np.repeat(offsets[:40], 500), np.tile(np.arange(500, dtype=np.int32), 40))
    for places in ((offsets, single), (offsets[::7], single[::7]), (offsets[::64], single[::64]), columnar):
        n = len(places[0])
        assert abs(sampled(*places, share).sum() - share * n) <= 5 * (n * share * (1 - share)) ** 0.5


def test_a_smaller_share_is_part_of_a_larger_one() -> None:
    """Raising the share adds rows and takes none away."""
    offsets, rows = np.arange(5000), np.zeros(5000, np.int32)
    assert (sampled(offsets, rows, 0.3) <= sampled(offsets, rows, 0.6)).all()
    assert sampled(offsets, rows, 1.0).all()
