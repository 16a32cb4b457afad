"""The bytes of snapshots: golden, open to later fields, closed to later versions, and sealed by a checksum."""

from __future__ import annotations

import zlib
from dataclasses import fields, replace
from typing import Any

import msgspec
import numpy as np
import pytest

from policies.prior import AnyPrior, BetaPrior, HybridPrior, Prior, StudentPrior
from policies.snapshot_records import (
    LATER,
    BetaArm,
    Head,
    LinearArm,
    checksum,
    decode_arm,
    decode_head,
    encode_arm,
    encode_head_record,
    pack_lower,
    unpack_lower,
)
from policies.sums import RecordError

LINEAR = LinearArm(version=7, count=3.0, mean=np.array([1.0], np.float32), factor=np.array([0.5], np.float32))
BETA = BetaArm(version=7, count=3.0, a=1.0, b=2.0, alarm=True)
HEAD = Head(
    policy="p",
    version=7,
    parent=6,
    time_ms=5,
    model="linear",
    dimension=1,
    explorer="ucb",
    rates={"alpha": 1.0, "epsilon": 0.0},
    reasons=("r",),
    prior=Prior(mean=np.array([0.0]), tau2=np.array([1.0]), s2=0.5),
    encoder=None,
    watermark_ms={0: 9},
    offsets={0: {"clicks": 4}},
    clicks_ts=None,
    arms={"a": 7},
    checksum=1,
)

ARM_HEAD = "a176 01 a6706f6c696379 a170 a361726d a161 a776657273696f6e 07 a5636f756e74 cb4008000000000000"
GOLDEN_LINEAR = f"88 {ARM_HEAD} a5616c61726d c2 a46d65616e c404 0000803f a6666163746f72 c404 0000003f"
GOLDEN_BETA = f"88 {ARM_HEAD} a5616c61726d c3 a161 cb3ff0000000000000 a162 cb4000000000000000"
GOLDEN_HEAD = """de0011 a176 01 a6706f6c696379 a170 a776657273696f6e 07 a6706172656e74 06 a774696d655f6d73 05
    a56d6f64656c a66c696e656172 a964696d656e73696f6e 01 a86578706c6f726572 a3756362
    a57261746573 82 a5616c706861 cb3ff0000000000000 a7657073696c6f6e cb0000000000000000
    a7726561736f6e73 91 a172
    a57072696f72 83 a46d65616e c408 0000000000000000 a474617532 c408 000000000000f03f a27332 cb3fe0000000000000
    a7656e636f646572 c0 ac77617465726d61726b5f6d73 81 00 09 a76f666673657473 81 00 81 a6636c69636b73 04
    a9636c69636b735f7473 c0 a461726d73 81 a161 07 a8636865636b73756d 01"""


def test_the_bytes_of_version_1_stay_as_they_are() -> None:
    """Arms of both kinds and a head are the golden records, and read back from them."""
    assert encode_arm("p", "a", LINEAR) == bytes.fromhex(GOLDEN_LINEAR)
    assert encode_arm("p", "a", BETA) == bytes.fromhex(GOLDEN_BETA)
    assert encode_head_record(HEAD) == bytes.fromhex(GOLDEN_HEAD)
    linear, beta = decode_arm(bytes.fromhex(GOLDEN_LINEAR)), decode_arm(bytes.fromhex(GOLDEN_BETA))
    assert linear.same(LINEAR)
    assert (linear.version, beta) == (7, BETA)
    assert decode_head(bytes.fromhex(GOLDEN_HEAD)) == HEAD


DOF = "a3646f66 cb4020000000000000"
GOLDEN_STUDENT = "89" + GOLDEN_LINEAR[2:] + DOF
NOISE = "a27332 cb3fe0000000000000"
PRIORS: dict[str, tuple[AnyPrior, str, str]] = {
    "hybrid": (
        HybridPrior(mean=np.array([0.0]), factor=np.array([[0.5]]), tau2=np.array([1.0]), s2=0.5),
        "a6687962726964",
        "a6666163746f72 c408 000000000000e03f",
    ),
    "student": (StudentPrior(mean=np.array([0.0]), tau2=np.array([1.0]), s2=0.5, dof=8.0), "a773747564656e74", DOF),
    "logistic": (HEAD.prior, "a86c6f676973746963", ""),
}
"""Of each model: a prior, the model's name, and what its prior has more than the linear model's."""


@pytest.mark.parametrize("model", PRIORS)
def test_priors_of_other_models_are_the_linear_models_and_more(model: str) -> None:
    """Golden bytes of heads, in both directions."""
    prior, name, more = PRIORS[model]
    golden = GOLDEN_HEAD.replace("a66c696e656172", name)
    if more:
        golden = golden.replace("a57072696f72 83", "a57072696f72 84").replace(NOISE, f"{NOISE} {more}")
    head = replace(HEAD, model=model, prior=prior)
    assert encode_head_record(head) == bytes.fromhex(golden)
    assert decode_head(bytes.fromhex(golden)) == head


def test_student_arms_have_their_degrees_of_freedom() -> None:
    """After the factor, and in the checksum."""
    student = replace(LINEAR, dof=8.0)
    assert encode_arm("p", "a", student) == bytes.fromhex(GOLDEN_STUDENT)
    assert decode_arm(bytes.fromhex(GOLDEN_STUDENT)).same(student)
    assert checksum(HEAD, {"a": student}) != checksum(HEAD, {"a": LINEAR})


def added(record: bytes, **more: Any) -> bytes:
    """A record with other or more fields."""
    return msgspec.msgpack.encode(msgspec.msgpack.decode(record) | more)


def test_fields_that_a_later_writer_adds_are_ignored() -> None:
    """In head, prior and arms."""
    assert decode_arm(added(encode_arm("p", "a", BETA), later=[1])) == BETA
    prior = msgspec.msgpack.decode(encode_head_record(HEAD))["prior"] | {"tau3": b""}
    assert decode_head(added(encode_head_record(HEAD), later=[1], prior=prior)) == HEAD


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"v": 2}, "version 2, this reader knows 1 to 1; upgrade"),
        ({"v": 0}, "version 0"),
        ({"mean": b"\x00"}, "mean of arm 'a' has 1 bytes"),
        ({"factor": bytes(8)}, "factor of arm 'a' has 8 bytes; 1 numbers"),
        ({"mean": b"\x00\x00\xc0\x7f"}, "mean of arm 'a' holds numbers that are not finite"),
        ({"mean": None}, "neither mean and factor nor a and b"),
        ({"count": "x"}, "cannot be read"),
        ({"a": 0.0, "b": 1.0}, "a = 0.0, b = 1.0; both must be finite and above zero"),
    ],
)
def test_arms_that_cannot_be_used_are_refused(change: dict[str, Any], reason: str) -> None:
    """With the arm's name and what is wrong."""
    with pytest.raises(RecordError, match=reason):
        decode_arm(added(encode_arm("p", "a", LINEAR), **change))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"v": 2}, "version 2"),
        ({"model": "probit"}, "cannot be read"),
        ({"prior": {}}, "neither mean, tau2 and s2 nor a and b"),
        ({"prior": {"a": -1.0, "b": 1.0}}, "impossible prior"),
        ({"dimension": 2}, "prior's mean has 8 bytes"),
        ({"arms": ["a"]}, "cannot be read"),
    ],
)
def test_heads_that_cannot_be_used_are_refused(change: dict[str, Any], reason: str) -> None:
    """A version from the future above all."""
    with pytest.raises(RecordError, match=reason):
        decode_head(added(encode_head_record(HEAD), **change))


@pytest.mark.parametrize("data", [b"", b"\xc0", b"{}", b"\x80", bytes(40)])
def test_bytes_that_are_no_record_are_refused(data: bytes) -> None:
    """As a RecordError, whatever they are."""
    for decode in (decode_arm, decode_head):
        with pytest.raises(RecordError):
            decode(data)


def test_the_checksum_is_the_documented_one() -> None:
    """Computed here from the module's words alone, so that a reader in another language can do the same."""
    arm = zlib.crc32(msgspec.msgpack.encode([7, 3.0, False, b"\x00\x00\x80\x3f", b"\x00\x00\x00\x3f"]))
    prior = [["mean", bytes(8)], ["s2", 0.5], ["tau2", np.array([1.0]).tobytes()]]
    rates = [["alpha", 1.0], ["epsilon", 0.0]]
    head = ["p", 7, 6, 5, "linear", 1, "ucb", rates, ["r"], prior, None, [[0, 9]], [[0, [["clicks", 4]]]], None]
    assert checksum(HEAD, {"a": LINEAR}) == zlib.crc32(msgspec.msgpack.encode([head, [["a", 7, arm]]]))


OTHERS: dict[str, Any] = {
    "policy": "q",
    "version": 8,
    "parent": 5,
    "time_ms": 6,
    "model": "beta",
    "dimension": 2,
    "explorer": "thompson",
    "rates": {"alpha": 2.0, "epsilon": 0.0},
    "reasons": (),
    "prior": BetaPrior(a=1.0, b=1.0),
    "encoder": "e",
    "watermark_ms": {0: 10},
    "offsets": {0: {"clicks": 5}},
    "clicks_ts": 1,
}


@pytest.mark.parametrize(
    ("explorer", "rates", "reason"),
    [
        ("later", {"epsilon": 0.0}, "no explorer 'later'.*upgrade this reader"),
        ("ucb", {"epsilon": 0.0}, "needs alpha and epsilon"),
        ("ucb", {"alpha": -1.0, "epsilon": 0.0}, "alpha = -1.0"),
    ],
)
def test_a_head_that_nobody_can_decide_from_is_refused(explorer: str, rates: dict[str, float], reason: str) -> None:
    """When it is read, not at the first decision."""
    with pytest.raises(RecordError, match=reason):
        decode_head(encode_head_record(replace(HEAD, explorer=explorer, rates=rates)))


def test_rates_that_a_later_writer_adds_are_passed_over() -> None:
    """They are kept, and the explorer's own decide."""
    rates = {"alpha": 1.0, "epsilon": 0.0, "later": 7.0}
    assert decode_head(encode_head_record(replace(HEAD, rates=rates))).rates == rates


def test_the_checksum_covers_every_field() -> None:
    """Each field of head and arm changes it, and a field without an example here fails."""
    whole = checksum(HEAD, {"a": LINEAR})
    assert {field.name for field in fields(Head)} - set(OTHERS) == {"arms", "checksum", *LATER}
    for name, value in OTHERS.items():
        assert checksum(replace(HEAD, **{name: value}), {"a": LINEAR}) != whole, name
    halves = np.array([0.25], np.float32)
    for change in ({"version": 6}, {"count": 4.0}, {"alarm": True}, {"mean": halves}, {"factor": halves}):
        assert checksum(HEAD, {"a": replace(LINEAR, **change)}) != whole, change


def test_triangles_are_packed_row_by_row() -> None:
    """Unpacking is the inverse, with zeros above the diagonal."""
    matrix = np.tril(np.arange(1.0, 17.0).reshape(4, 4))
    assert pack_lower(matrix).tolist() == [1, 5, 6, 9, 10, 11, 13, 14, 15, 16]
    assert np.array_equal(unpack_lower(pack_lower(matrix), 4), matrix)
