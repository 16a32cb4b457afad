"""The decoder: every rule of validation with its reason, columns with bad rows, any mixture of codecs, and any bytes at all."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams import decode
from streams.columns import encode_impressions, encode_outcomes
from streams.decode import Decoder
from streams.decoded import ESTIMATE
from streams.events import COLUMNS_MAGIC, Codec, Impression, Outcome, encode
from streams.reading import SimpleRecord
from streams.settings import PolicySettings
from streams.validation import AHEAD_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streams.decoded import Click, Dead

TS = 1_700_000_000_000
POLICIES = {
    "front": PolicySettings(dimension=2),
    "side": PolicySettings(dimension=3),
    "rate": PolicySettings(model="beta"),
}
IMPRESSION: dict[str, Any] = {
    "v": 1,
    "decision_id": "d1",
    "slot": "top",
    "policy": "front",
    "snapshot": 17,
    "arm": "ad-3",
    "propensity": 0.25,
    "context": [0.5, -1.0],
    "ts": TS,
}
OUTCOME: dict[str, Any] = {
    "v": 1,
    "decision_id": "d1",
    "slot": "top",
    "outcome_id": "o1",
    "kind": "click",
    "value": 1.0,
    "ts": TS,
}
MISSING = object()
WRITERS: dict[str, Callable[[Any], bytes]] = {
    "json": lambda event: json.dumps(event).encode(),
    "msgpack": msgspec.msgpack.encode,
}


def decoder() -> Decoder:
    return Decoder(POLICIES, kinds=("click", "buy"))


def record(value: bytes | None, *, offset: int = 4, timestamp: int = TS, headers: Any = ()) -> SimpleRecord:
    return SimpleRecord(offset, timestamp, b"d1", value, list(headers))


def changed(event: dict[str, Any], **change: Any) -> dict[str, Any]:
    return {name: value for name, value in (event | change).items() if value is not MISSING}


def fate(value: bytes | None, side: str = "impressions", **more: Any) -> str:
    """The reason why a record is dead, or "good"."""
    one = record(value, **more)
    rows, dead = getattr(decoder(), side)([one])
    if rows:
        assert dead == []
        return "good"
    (letter,) = dead
    assert (letter.record, letter.row, letter.rows) == (one, None, 1)
    return str(letter.reason)


# -- single records

TIME = f"allowed: ms UTC from 0 to {TS + AHEAD_MS} (5 minutes after the record's timestamp)"
IMPRESSION_RULES: list[tuple[dict[str, Any], str]] = [
    ({"propensity": 1.0}, "good"),
    ({"propensity": 5e-324}, "good"),
    ({"propensity": 1}, "good"),
    ({"propensity": 0.0}, "propensity is 0.0; allowed: above 0, at most 1"),
    ({"propensity": -0.0}, "propensity is -0.0; allowed: above 0, at most 1"),
    ({"propensity": 1.0000000000000002}, "propensity is 1.0000000000000002; allowed: above 0, at most 1"),
    ({"propensity": "0.5"}, "cannot be decoded … `$.propensity`"),
    ({"propensity": None}, "cannot be decoded … `$.propensity`"),
    ({"propensity": MISSING}, "cannot be decoded … `propensity`"),
    ({"ts": 0}, "good"),
    ({"ts": TS + AHEAD_MS}, "good"),
    ({"ts": TS + AHEAD_MS + 1}, f"ts is {TS + AHEAD_MS + 1}; {TIME}"),
    ({"ts": -1}, f"ts is -1; {TIME}"),
    ({"ts": TS + 0.5}, "cannot be decoded … `$.ts`"),
    ({"ts": MISSING}, "cannot be decoded … `ts`"),
    ({"decision_id": ""}, "decision_id is empty"),
    ({"decision_id": 7}, "cannot be decoded … `$.decision_id`"),
    ({"decision_id": MISSING}, "cannot be decoded … `decision_id`"),
    ({"slot": ""}, "slot is empty"),
    ({"slot": MISSING}, "cannot be decoded … `slot`"),
    ({"arm": ""}, "arm is empty"),
    ({"arm": "0"}, "good"),
    ({"arm": MISSING}, "cannot be decoded … `arm`"),
    ({"policy": "nobody"}, "policy is 'nobody', which the settings do not have; known: front, rate, side"),
    ({"policy": ""}, "policy is '', which the settings do not have; known: front, rate, side"),
    ({"snapshot": 0}, "good"),
    ({"snapshot": None}, "good"),
    ({"snapshot": MISSING}, "good"),
    ({"snapshot": 2**31 - 1}, "good"),
    ({"snapshot": 2**31}, "snapshot is 2147483648; allowed: null or 0 to 2147483647"),
    ({"snapshot": -2}, "snapshot is -2; allowed: null or 0 to 2147483647"),
    ({"context": [0.5]}, "context has 1 values; policy 'front' has dimension 2"),
    ({"context": [0, 1, 2]}, "context has 3 values; policy 'front' has dimension 2"),
    ({"context": MISSING}, "context has 0 values; policy 'front' has dimension 2"),
    ({"context": [0, -3]}, "good"),
    ({"context": [0.5, None]}, "cannot be decoded … `$.context[1]`"),
    ({"context": "text"}, "cannot be decoded … `$.context`"),
    ({"policy": "rate", "context": MISSING}, "good"),
    ({"policy": "rate", "context": [1, 2, 3]}, "good"),
    ({"v": 2}, "v is 2; this program reads version 1: update it, or produce version 1"),
    ({"v": 0}, "v is 0; this program reads version 1: update it, or produce version 1"),
    ({"v": MISSING}, "good"),
]
OUTCOME_RULES: list[tuple[dict[str, Any], str]] = [
    ({"value": 0}, "good"),
    ({"value": -2.5}, "good"),
    ({"value": MISSING}, "good"),
    ({"value": None}, "cannot be decoded … `$.value`"),
    ({"kind": "buy"}, "good"),
    ({"kind": MISSING}, "good"),
    ({"kind": "view"}, "kind is 'view', which no policy lists in its outcomes; listed: buy, click"),
    ({"kind": ""}, "kind is '', which no policy lists in its outcomes; listed: buy, click"),
    ({"ts": TS + AHEAD_MS}, "good"),
    ({"ts": TS + AHEAD_MS + 1}, f"ts is {TS + AHEAD_MS + 1}; {TIME}"),
    ({"ts": -1}, f"ts is -1; {TIME}"),
    ({"ts": 10**30}, "cannot be decoded … `$.ts`"),
    ({"decision_id": ""}, "decision_id is empty"),
    ({"slot": ""}, "slot is empty"),
    ({"outcome_id": ""}, "outcome_id is empty"),
    ({"outcome_id": MISSING}, "cannot be decoded … `outcome_id`"),
    ({"v": 2}, "v is 2; this program reads version 1: update it, or produce version 1"),
]


def rules(table: list[tuple[dict[str, Any], str]]) -> list[Any]:
    """The table as parameters, each under a name that says what is changed."""
    return [
        pytest.param(change, reason, id=f"{change}"[1:-1].replace(repr(MISSING), "missing")) for change, reason in table
    ]


def says(found: str, wanted: str) -> bool:
    """Whether a reason is the one wanted; … stands for what the parser's own words are."""
    begin, gap, end = wanted.partition(" … ")
    return found == wanted if not gap else found.startswith(begin) and end in found


@pytest.mark.parametrize(("change", "reason"), rules(IMPRESSION_RULES))
def test_every_rule_of_an_impression_has_its_reason(change: dict[str, Any], reason: str) -> None:
    """In JSON and in MessagePack alike: what is wrong, the value, what is allowed."""
    event = changed(IMPRESSION, **change)
    for codec, write in WRITERS.items():
        assert says(fate(write(event)), reason), codec


@pytest.mark.parametrize(("change", "reason"), rules(OUTCOME_RULES))
def test_every_rule_of_an_outcome_has_its_reason(change: dict[str, Any], reason: str) -> None:
    """In JSON and in MessagePack alike."""
    event = changed(OUTCOME, **change)
    for codec, write in WRITERS.items():
        if codec == "json" or change.get("ts") != 10**30:
            assert says(fate(write(event), "clicks"), reason), codec


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"propensity": math.nan}, "propensity is nan; allowed: above 0, at most 1"),
        ({"context": [math.nan, 1.0]}, "context[0] is nan; allowed: finite numbers of at most 1e+30 in size"),
        ({"context": [0.0, -math.inf]}, "context[1] is -inf; allowed: finite numbers of at most 1e+30 in size"),
        (
            {"context": b"\x00\x00\x00\x3f\x00\x00\x80\x7f"},
            "context[1] is inf; allowed: finite numbers of at most 1e+30 in size",
        ),
        ({"context": bytes(7)}, "context has 7 bytes; float32 values take 4 each"),
        ({"context": bytes(12)}, "context has 3 values; policy 'front' has dimension 2"),
        ({"context": b""}, "context has 0 values; policy 'front' has dimension 2"),
        ({"context": bytes(8)}, "good"),
    ],
)
def test_what_only_messagepack_can_say_is_checked_too(change: dict[str, Any], reason: str) -> None:
    """Numbers that are not finite, and packed contexts."""
    assert fate(msgspec.msgpack.encode(changed(IMPRESSION, **change))) == reason


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_outcome_is_worth_a_finite_number(value: float) -> None:
    """One infinite reward would stay in an arm's sums for ever."""
    assert (
        fate(msgspec.msgpack.encode(changed(OUTCOME, value=value)), "clicks")
        == f"value is {value}; allowed: a finite number of at most 1e+30 in size"
    )


NUMBERS = [
    (name, value) for name in ("ts", "snapshot", "v") for value in (2**63, 2**64 - 1, -(2**63), 10**30, -(10**30))
]


@pytest.mark.parametrize(("name", "value"), NUMBERS)
def test_numbers_beyond_64_bits_are_dead_like_any_other_number_out_of_range(name: str, value: int) -> None:
    """Alone and beside good records, which stay good."""
    for codec, write in WRITERS.items():
        if codec == "msgpack" and not -(2**63) <= value < 2**64:
            continue
        bad, good = write(changed(IMPRESSION, **{name: value})), write(IMPRESSION)
        groups, dead = decoder().impressions([record(good, offset=1), record(bad, offset=2), record(good, offset=3)])
        assert [offset for group in groups for offset in group.offset.tolist()] == [1, 3]
        assert [letter.record.offset for letter in dead] == [2]
        assert name in dead[0].reason


@pytest.mark.parametrize("side", ["impressions", "clicks"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "the value is null (a tombstone); an event needs a value"),
        (b"", "the value is empty"),
        (b"hello", "first byte is 0x68 and there is no content-type header"),
        (b"\x00\x00\x00\x00\x01{}", "first byte is 0x00"),
        (b"{", "cannot be decoded: Input data was truncated"),
        (b'{"decision_id":"\xff"}', "cannot be decoded: 'utf-8' codec can't decode byte 0xff"),
        (b'{"decision_id":"\\ud800"}', "cannot be decoded"),
        (b"{}{}", "cannot be decoded"),
        (b"\x80", "`decision_id`"),
        (b"\x81\xabdecision_id\xa1\xff", "cannot be decoded: 'utf-8' codec can't decode byte 0xff"),
        (b"\x81\xabdecision_id", "cannot be decoded: Input data was truncated"),
        (b"\x80\x00", "cannot be decoded"),
        (b"CLC1", "Input data was truncated"),
        (b"C", "CLC1"),
        (b"CLC1\x93\x01\x02\x03", "Expected `object`, got `array`"),
        (b"CLC1\x81\xabdecision_id\x91\xa1\xff", "'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_bytes_that_are_no_event_are_dead(side: str, value: bytes | None, reason: str) -> None:
    """With what the parser says about them."""
    assert reason in fate(value, side)


@pytest.mark.parametrize("side", ["impressions", "clicks"])
@pytest.mark.parametrize(
    "value",
    [
        b'{"zz":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"\x81\xa2zz" + b"\x91" * 100_000 + b"\xc0",
        b"CLC1\x81\xa2zz" + b"\x91" * 100_000 + b"\xc0",
    ],
    ids=["json", "msgpack", "columns"],
)
def test_nesting_without_end_is_dead(side: str, value: bytes) -> None:
    """A parser's recursion limit is a reason like any other."""
    assert "recursion" in fate(value, side)


@pytest.mark.parametrize("side", ["impressions", "clicks"])
def test_the_header_is_believed(side: str) -> None:
    """JSON under a MessagePack header is dead, under an unknown one too; a header without a value tells nothing."""
    value = json.dumps(IMPRESSION if side == "impressions" else OUTCOME).encode()
    assert fate(value, side, headers=[("content-type", b"application/json")]) == "good"
    assert fate(value, side, headers=[("other", b"text/plain")]) == "good"
    assert fate(value, side, headers=[("content-type", None)]) == "good"
    assert fate(value, side, headers=[("content-type", b"text/plain")]).startswith("content-type is b'text/plain'")
    assert fate(value, side, headers=[("content-type", b"application/msgpack")]).startswith("cannot be decoded")


def test_a_columnar_batch_begins_with_its_magic() -> None:
    """Whoever says that it is one, first byte or header: other bytes before the map are another format."""
    whole = encode_impressions([Impression(**IMPRESSION)])
    assert fate(whole, headers=[("content-type", b"application/vnd.clickloop.columns")]) == "good"
    assert "CLC1" in fate(b"CLC2" + whole[4:])
    assert "CLC1" in fate(b"XXXX" + whole[4:], headers=[("content-type", b"application/vnd.clickloop.columns")])


# -- columnar batches


def batch(kind: type[Any] = Impression, /, rows: int = 3, **change: Any) -> bytes:
    """A batch of so many rows with columns changed."""
    if kind is Impression:
        whole = encode_impressions([Impression(**changed(IMPRESSION, decision_id=f"d{i}")) for i in range(rows)])
    else:
        whole = encode_outcomes([Outcome(**changed(OUTCOME, outcome_id=f"o{i}")) for i in range(rows)])
    return COLUMNS_MAGIC + msgspec.msgpack.encode(changed(msgspec.msgpack.decode(whole[4:]), **change))


def floats(*values: float) -> bytes:
    return np.array(values, "<f8").tobytes()


def longs(*values: int) -> bytes:
    return np.array(values, "<i8").tobytes()


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        (Impression, {"v": 2}, "v is 2; this program reads version 1: update it, or produce version 1"),
        (Impression, {"type": "outcome"}, "type is 'outcome'; this topic takes 'impression' batches"),
        (Outcome, {"type": "impression"}, "type is 'impression'; this topic takes 'outcome' batches"),
        (
            Impression,
            {"policy": "nobody"},
            "policy is 'nobody', which the settings do not have; known: front, rate, side",
        ),
        (Impression, {"policy": "side"}, "context has 2 values; policy 'side' has dimension 3"),
        (Impression, {"dimension": -2}, "context has -2 values; policy 'front' has dimension 2"),
        (Impression, {"dtype": "O"}, "dtype is 'O'; allowed: '<f4', '<f8'"),
        (Impression, {"dtype": ">f4"}, "dtype is '>f4'; allowed: '<f4', '<f8'"),
        (Impression, {"dtype": "<f8"}, "column 'context' has 24 bytes; 6 values of <f8 take 48"),
        (Impression, {"decision_id": ["d1"]}, "column 'decision_id' has 1 values, n is 3"),
        (Impression, {"ts": b""}, "column 'ts' has 0 bytes; 3 values of <i8 take 24"),
        (Impression, {"snapshot": bytes(25)}, "column 'snapshot' has 25 bytes; 3 values of <i8 take 24"),
        (Impression, {"propensity": bytes(12)}, "column 'propensity' has 12 bytes; 3 values of <f8 take 24"),
        (Impression, {"propensity_kind": [None]}, "column 'propensity_kind' has 1 values, n is 3"),
        (Impression, {"propensity_kind": "estimate"}, "`$.propensity_kind`"),
        (Impression, {"arms": []}, "column 'arm' points at name 0 of 0"),
        (
            Impression,
            {"slot": b"\x00\x00\x00\x00\xff\xff\xff\xff\x00\x00\x00\x00"},
            "column 'slot' points at name 4294967295 of 1",
        ),
        (Outcome, {"outcome_id": ["o1"]}, "column 'outcome_id' has 1 values, n is 3"),
        (Outcome, {"kinds": []}, "column 'kind' points at name 0 of 0"),
        (Outcome, {"value": b""}, "column 'value' has 0 bytes; 3 values of <f8 take 24"),
        (Outcome, {"ts": MISSING}, "Object missing required field `ts`"),
    ],
)
def test_a_batch_that_does_not_fit_together_is_dead_as_a_whole(
    kind: type[Any], change: dict[str, Any], reason: str
) -> None:
    """One letter that stands for its three events."""
    one = record(batch(kind, **change))
    read = decoder().impressions if kind is Impression else decoder().clicks
    rows, dead = read([one])
    assert rows == []
    (letter,) = dead
    assert (letter.record, letter.row, letter.rows) == (one, None, len(change.get("decision_id", "123")))
    assert reason in letter.reason


@pytest.mark.parametrize("n", [2**62, -3, 0, math.inf, math.nan, 1e300, "7", None, True, [3], MISSING])
def test_a_batch_that_lies_about_its_length_counts_for_what_it_can_hold(n: Any) -> None:
    """Counts add up over partitions and years: no record may stand for more events than it has bytes."""
    for kind in (Impression, Outcome):
        read = decoder().impressions if kind is Impression else decoder().clicks
        rows, dead = read([record(batch(kind, n=n))])
        assert rows == []
        assert [letter.row for letter in dead] == [None]
        assert 1 <= dead[0].rows <= len(batch(kind))


@pytest.mark.parametrize(
    ("change", "bad"),
    [
        (
            {"propensity": floats(0.0, 0.5, math.nan)},
            {0: "propensity is 0.0; allowed", 2: "propensity is nan; allowed"},
        ),
        ({"ts": longs(-1, TS, TS + AHEAD_MS + 1)}, {0: "ts is -1; allowed", 2: f"ts is {TS + AHEAD_MS + 1}; allowed"}),
        ({"ts": longs(TS, 2**63 - 1, -(2**63))}, {1: f"ts is {2**63 - 1}; allowed", 2: f"ts is {-(2**63)}; allowed"}),
        ({"snapshot": longs(-1, -2, 2**31)}, {1: "snapshot is -2; allowed", 2: "snapshot is 2147483648; allowed"}),
        ({"decision_id": ["d0", "", "d2"]}, {1: "decision_id is empty"}),
        ({"arms": [""]}, {0: "arm is empty", 1: "arm is empty", 2: "arm is empty"}),
        ({"slots": [""]}, {0: "slot is empty", 1: "slot is empty", 2: "slot is empty"}),
        (
            {"dtype": "<f8", "context": floats(0, 1, 2, math.inf, math.nan, 0)},
            {1: "context[1] is inf; allowed", 2: "context[0] is nan; allowed"},
        ),
    ],
)
def test_bad_rows_of_impressions_are_dead_alone(change: dict[str, Any], bad: dict[int, str]) -> None:
    """By their number, with the whole record; the other rows are used."""
    one = record(batch(**change))
    groups, dead = decoder().impressions([one])
    assert [(letter.record, letter.row, letter.rows) for letter in dead] == [(one, row, 1) for row in bad]
    assert all(letter.reason.startswith(reason) for letter, reason in zip(dead, bad.values(), strict=True))
    assert sum(len(group.ts) for group in groups) == 3 - len(bad)


@pytest.mark.parametrize(
    ("change", "bad"),
    [
        ({"value": floats(1.0, math.nan, math.inf)}, {1: "value is nan; allowed", 2: "value is inf; allowed"}),
        ({"ts": longs(TS + AHEAD_MS + 1, TS, -1)}, {0: f"ts is {TS + AHEAD_MS + 1}", 2: "ts is -1"}),
        ({"kinds": ["view"]}, dict.fromkeys(range(3), "kind is 'view', which no policy lists")),
        ({"outcome_id": ["", "o1", "o2"]}, {0: "outcome_id is empty"}),
        ({"decision_id": ["d1", "d1", ""]}, {2: "decision_id is empty"}),
        ({"slots": [""]}, dict.fromkeys(range(3), "slot is empty")),
    ],
)
def test_bad_rows_of_outcomes_are_dead_alone(change: dict[str, Any], bad: dict[int, str]) -> None:
    """By their number, and the good ones keep theirs."""
    one = record(batch(Outcome, **change))
    clicks, dead = decoder().clicks([one])
    assert [(letter.record, letter.row, letter.rows) for letter in dead] == [(one, row, 1) for row in bad]
    assert all(letter.reason.startswith(reason) for letter, reason in zip(dead, bad.values(), strict=True))
    assert [click.row for click in clicks] == [row for row in range(3) if row not in bad]


def test_names_that_nobody_points_at_are_not_judged() -> None:
    """An empty name in the list is no row's."""
    groups, dead = decoder().impressions([record(batch(arms=["ad-3", ""], slots=["top", ""]))])
    assert dead == []
    assert len(groups[0].ts) == 3


def test_an_empty_batch_is_neither_a_row_nor_dead() -> None:
    """Its producer had nothing to say."""
    nothing: dict[str, Any] = {"n": 0, "decision_id": [], "slot": b"", "ts": b""}
    ours = batch(**nothing, arm=b"", propensity=b"", snapshot=b"", context=b"")
    theirs = batch(Outcome, **nothing, outcome_id=[], kind=b"", value=b"")
    assert decoder().impressions([record(ours)]) == ([], [])
    assert decoder().clicks([record(theirs)]) == ([], [])


def test_a_policy_without_contexts_takes_batches_of_any_dimension() -> None:
    """But not of an impossible one."""
    for dimension in (0, 2):
        context = bytes(12 * dimension)
        groups, dead = decoder().impressions([record(batch(policy="rate", dimension=dimension, context=context))])
        assert (dead, groups[0].x.shape) == ([], (3, 0))
    rows, dead = decoder().impressions([record(batch(policy="rate", dimension=-1, context=b""))])
    assert (rows, len(dead)) == ([], 1)


# -- many records at once


def rows_of(groups: Any, made: Decoder) -> list[tuple[Any, ...]]:
    """Rows of impressions as comparable values: names instead of numbers, contexts in float64."""
    return [
        (
            group.policy,
            group.offset[i],
            made.slots.list[group.slot[i]],
            made.arms[group.policy].list[group.arm[i]],
            group.ts[i],
            group.snapshot[i],
            group.propensity[i],
            tuple(group.x[i].astype(np.float64).tolist()),
            int(group.key[i]),
        )
        for group in groups
        for i in range(len(group.ts))
    ]


def clicks_of(clicks: Sequence[Click]) -> list[tuple[Any, ...]]:
    return [
        (c.offset, c.row, c.key, c.decision_id, c.slot, c.outcome_id, c.kind, c.value, c.ts, c.record.offset)
        for c in clicks
    ]


def check(side: str, records: list[SimpleRecord]) -> None:
    """Decoded together, records are what each is alone, in order; each is rows or dead, and dead ones are untouched."""
    together, apart = decoder(), decoder()
    rows, dead = getattr(together, side)(records)
    alone: list[tuple[Any, ...]] = []
    letters: list[Dead] = []
    for one in records:
        some, lost = getattr(apart, side)([one])
        alone += rows_of(some, apart) if side == "impressions" else clicks_of(some)
        letters += lost
        if one.value is None or one.value[:4] != COLUMNS_MAGIC:
            assert (sum(len(part.ts) for part in some) if side == "impressions" else len(some)) + len(lost) == 1
        for letter in lost:
            assert letter.record is one
            assert letter.reason
            assert 1 <= letter.rows <= max(1, len(one.value or b""))
    if side == "impressions":
        assert Counter(rows_of(rows, together)) == Counter(alone)
        copies: dict[int, int] = {}
        for group in rows:
            assert (np.diff(group.offset) >= 0).all()
            assert np.isfinite(group.x).all()
            for key, offset in zip(group.key.tolist(), group.offset.tolist(), strict=True):
                assert copies.setdefault(key, offset) <= offset
    else:
        assert clicks_of(rows) == alone
    assert Counter((id(letter.record), letter.reason, letter.row, letter.rows) for letter in dead) == Counter(
        (id(letter.record), letter.reason, letter.row, letter.rows) for letter in letters
    )


def mixture(side: str, seed: int, n: int) -> list[bytes | None]:
    """Values of records in all codecs and policies, a fifth of them bad in one way or another."""
    rng = np.random.default_rng(seed)
    table = IMPRESSION_RULES if side == "impressions" else OUTCOME_RULES
    kind, base = (Impression, IMPRESSION) if side == "impressions" else (Outcome, OUTCOME)
    values: list[bytes | None] = []
    for i in range(n):
        choice = rng.integers(10)
        if choice == 0:
            values.append([None, b"", b"hello", b"CLC1", b"\x81"][rng.integers(5)])
            continue
        change = dict(table[rng.integers(len(table))][0]) if choice == 1 else {}
        change = {"decision_id": f"d{i}"} | change
        if side == "impressions" and "policy" not in change and rng.random() < 0.3:
            change |= {"policy": "side", "context": [0.1, 2.0, 3.0]} if rng.random() < 0.5 else {"policy": "rate"}
        if choice == 2:
            values.append(batch(kind, int(rng.integers(1, 5))))
            continue
        codec = list(WRITERS)[rng.integers(2)]
        try:
            values.append(WRITERS[codec](changed(base, **change)))
        except OverflowError:
            values.append(WRITERS["json"](changed(base, **change)))
    return values


@pytest.mark.parametrize("side", ["impressions", "clicks"])
@pytest.mark.parametrize("seed", range(6))
def test_a_fetch_of_all_codecs_and_policies_is_what_each_record_is(side: str, seed: int) -> None:
    """Whatever lies beside it, a record has the same rows, the same key and the same reason; order is kept."""
    check(side, [record(value, offset=i) for i, value in enumerate(mixture(side, seed, 60))])


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_one_bad_record_costs_no_other(codec: Codec) -> None:
    """A fetch that decodes in one pass until the last record."""
    good = [encode(Impression(**changed(IMPRESSION, decision_id=f"d{i}")), codec) for i in range(50)]
    bad = good[0][:-1]
    groups, dead = decoder().impressions([record(value, offset=i) for i, value in enumerate([*good, bad])])
    assert [letter.record.offset for letter in dead] == [50]
    assert groups[0].offset.tolist() == list(range(50))


def test_keys_tell_decisions_and_slots_apart() -> None:
    """Equal for the impression and the outcome of one decision and slot, different for any other."""
    made = decoder()
    pairs = [("d1", "top"), ("d1", "side"), ("d2", "top"), ("d1t", "op"), ("top", "d1")]
    groups, _ = made.impressions(
        [record(WRITERS["json"](changed(IMPRESSION, decision_id=d, slot=s))) for d, s in pairs]
    )
    clicks, _ = made.clicks(
        [record(WRITERS["msgpack"](changed(OUTCOME, decision_id=d, slot=s))) for d, s in reversed(pairs)]
    )
    keys = groups[0].key.tolist()
    assert len(set(keys)) == len(pairs)
    assert [click.key for click in reversed(clicks)] == keys


KINDS = [None, "estimate", "exact", "estimate", "", "later"]
UNITS = ["u1", None, "u2", "u1", "", "u1"]


@pytest.mark.parametrize("codec", ["json", "msgpack", "columns"])
@pytest.mark.parametrize("limited", [False, True])
def test_the_kind_of_propensity_and_the_unit_come_with_each_row(codec: str, limited: bool) -> None:
    """An estimate is flagged, and a kind that is not known is not taken for exact. Units are read only where one is limited."""
    made = Decoder({"front": PolicySettings(dimension=2, unit_limit=int(limited)), "side": POLICIES["side"]}, kinds=())
    rows = [
        changed(IMPRESSION, decision_id=f"d{i}", propensity_kind=kind, unit=unit)
        for i, (kind, unit) in enumerate(zip(KINDS, UNITS, strict=True))
    ]
    rows[1]["propensity"] = 2.0
    if codec == "columns":
        plain = batch(Impression, 6, propensity_kind=KINDS, unit=UNITS, propensity=floats(0.5, 2.0, 0.5, 0.5, 0.5, 0.5))
        records = [record(plain), record(batch(Impression, 2), offset=5)]
    else:
        rows += [changed(IMPRESSION, decision_id=f"d{i}") for i in range(2)]
        records = [record(WRITERS[codec](row)) for row in rows]
    (group,), dead = made.impressions(records)
    assert [letter.reason for letter in dead] == ["propensity is 2.0; allowed: above 0, at most 1"]
    assert group.flags.tolist() == [0, 0, ESTIMATE, 0, ESTIMATE, 0, 0]
    if not limited:
        assert group.unit is None
        return
    assert group.unit is not None
    keys = group.unit.tolist()
    assert [keys.index(key) if key else None for key in keys] == [0, 1, 0, None, 0, None, None]


@pytest.mark.parametrize("unit", [7, ["u1"], True])
def test_a_unit_is_a_string_where_it_is_read(unit: Any) -> None:
    """Elsewhere nobody looks at it."""
    for limit, reason in ((0, None), (1, "`$.unit`")):
        made = Decoder({"front": PolicySettings(dimension=2, unit_limit=limit)}, kinds=())
        for writer in WRITERS.values():
            groups, dead = made.impressions([record(writer(changed(IMPRESSION, unit=unit)))])
            assert (len(groups), [letter.reason[-len(reason or "") :] for letter in dead]) == (
                (1, []) if reason is None else (0, [reason])
            )


def test_a_column_of_units_has_a_value_for_each_row() -> None:
    """Or the batch is dead, where units are read."""
    for limit, reasons in ((0, []), (1, ["column 'unit' has 4 values, n is 3"])):
        made = Decoder({"front": PolicySettings(dimension=2, unit_limit=limit)}, kinds=())
        _, dead = made.impressions([record(batch(Impression, 3, unit=["u1"] * 4))])
        assert [letter.reason for letter in dead] == reasons


def test_a_limited_policy_s_rows_are_one_group_in_the_order_of_the_log() -> None:
    """Contexts of both types, records of all codecs: where the first rows learn, the order must not depend on the fetch."""
    values = [
        batch(Impression, 2),
        batch(Impression, 1, decision_id=["e0"], dtype="<f8", context=floats(0.1, 0.2)),
        WRITERS["json"](changed(IMPRESSION, decision_id="e1", context=[0.1, 0.2])),
        batch(Impression, 3, decision_id=["f0", "f1", "f2"]),
    ]
    records = [record(value, offset=i) for i, value in enumerate(values)]
    for limit, sizes in ((0, [5, 2]), (1, [7])):
        made = Decoder({"front": PolicySettings(dimension=2, unit_limit=limit)}, kinds=())
        found = decode.merged([group for one in records for group in made.impressions([one])[0]])
        assert [len(group.ts) for group in found] == sizes
    assert [found[0].offset.tolist(), found[0].row.tolist()] == [[0, 0, 1, 2, 3, 3, 3], [0, 1, 0, 0, 0, 1, 2]]


def test_contexts_are_narrow_only_where_nothing_is_lost() -> None:
    """float32 if every value of a fetch is one, else float64: to the last bit either way."""
    for last, dtype in ((0.25, np.float32), (0.1, np.float64), (1e30, np.float64)):
        values = [WRITERS["json"](changed(IMPRESSION, context=[0.5, x])) for x in (1.0, last)]
        groups, _ = decoder().impressions([record(value) for value in values])
        assert groups[0].x.dtype == dtype
        assert groups[0].x.astype(np.float64).tolist() == [[0.5, 1.0], [0.5, last]]


# -- any bytes at all

ANY = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=4),
    st.binary(max_size=16),
    st.lists(st.floats(), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(0, 5), max_size=2),
)


@st.composite
def poisoned(draw: st.DrawFn, side: str) -> SimpleRecord:
    """A record that begins as a good one: fields replaced, bytes changed, cut, repeated, under any header."""
    kind, base = (Impression, IMPRESSION) if side == "impressions" else (Outcome, OUTCOME)
    shape = draw(st.sampled_from(["json", "msgpack", "columns", "bytes"]))
    if shape == "bytes":
        value = draw(st.sampled_from([b"", b"{", b"CLC1", b"\x85", b"\xde\x00\x09"])) + draw(st.binary(max_size=60))
    elif shape == "columns":
        fields = msgspec.msgpack.decode(batch(kind)[4:])
        fields |= draw(st.dictionaries(st.sampled_from(sorted(fields)), ANY, max_size=2))
        value = COLUMNS_MAGIC + msgspec.msgpack.encode(fields)
    else:
        event = base | draw(st.dictionaries(st.sampled_from([*base, "unknown"]), ANY, max_size=2))
        value = (msgspec.json if shape == "json" else msgspec.msgpack).encode(event)
    for place, byte in draw(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=3)):
        if place < len(value):
            value = value[:place] + bytes((byte,)) + value[place + 1 :]
    value = value[: draw(st.sampled_from([len(value)] * 6 + [len(value) // 2, max(0, len(value) - 1)]))]
    headers = draw(
        st.sampled_from(
            [[]] * 8
            + [
                [("content-type", b"application/json")],
                [("content-type", b"application/vnd.clickloop.columns")],
                [("content-type", b"\xff")],
                [("content-type", None)],
            ]
        )
    )
    return record(
        value, offset=draw(st.integers(0, 10**6)), timestamp=draw(st.sampled_from([TS, 0, -1])), headers=headers
    )


@pytest.mark.parametrize("side", ["impressions", "clicks"])
@settings(max_examples=300)
@given(data=st.data())
def test_no_record_stops_the_learner(side: str, data: st.DataObject) -> None:
    """Random bytes and damaged records: never an exception, each is rows or dead, and none changes what others are."""
    some = sorted(data.draw(st.lists(poisoned(side), min_size=1, max_size=6)), key=lambda one: one.offset)
    check(side, some)
