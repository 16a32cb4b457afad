"""Records of sums: their bytes, what a later version may add, and what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from policies.model import MODELS, Model, make_model
from policies.sums import RecordError, Sums
from tests.policies.batches import bits, dyadic, shown

HEADS = {
    "linear": "8e a176 01 a56d6f64656c a66c696e656172 a164 02",
    "beta": "8c a176 01 a56d6f64656c a462657461 a164 00",
    "logistic": "8f a176 01 a56d6f64656c a86c6f676973746963 a164 02",
}
SCALARS = """
    ab68616c665f6c6966655f73 cb3ff0000000000000  a864656c6179735f73 91 cb4000000000000000
    ab6c616e646d61726b5f6d73 00  a96e65776573745f6d73 00
    a16e cb4000000000000000  a5636f756e74 cb4000000000000000
    a6726577617264 cb0000000000000000  a6737175617265 cb0000000000000000
"""
ARRAYS = "a162 c410 00000000000000000000000000000000  a141 c418 000000000000f03f 000000000000e03f 0000000000001140"
LOGISTIC_A = """a141 c430
    000000000000d03f 000000000000c03f 000000000000e0bf 000000000000f13f 000000000000f4bf 0000000000000040"""
"""H = X^T X / 4 with u = -(0.5, 1.25), minus half the contexts, as the last column."""
WAITS = {
    "linear": """a770656e64696e67 91 83 ab6c616e646d61726b5f6d73 00 a16e cb4000000000000000
        a141 c418 000000000000f03f 000000000000e03f 0000000000001140""",
    "logistic": "a770656e64696e67 91 83 ab6c616e646d61726b5f6d73 00 a16e cb4000000000000000" + LOGISTIC_A,
    "beta": "a770656e64696e67 91 82 ab6c616e646d61726b5f6d73 00 a16e cb4000000000000000",
}
GOLDEN = {
    "linear": bytes.fromhex(HEADS["linear"] + SCALARS + ARRAYS + WAITS["linear"]),
    "logistic": bytes.fromhex(
        HEADS["logistic"]
        + SCALARS
        + "a162 c418"
        + 24 * "00"
        + LOGISTIC_A
        + WAITS["logistic"]
        + "a5706f696e74 c410"
        + 16 * "00"
    ),
    "beta": bytes.fromhex(HEADS["beta"] + SCALARS + WAITS["beta"]),
}
"""Records of two impressions at time 0 with the contexts (1, 0.5) and (0, 2), a half-life of 1 s and a delay of 2 s."""


def of_golden(name: str) -> tuple[Model, Sums]:
    """The sums behind the golden bytes, made from rows."""
    model = make_model(name, dimension=2, half_life_s=1.0, delays_s=(2.0,))
    return model, model.update({}, shown("a", [0, 0], [[1.0, 0.5], [0.0, 2.0]]))["a"]


def one_arm(name: str) -> tuple[Model, Sums]:
    """A model with all that records can hold, and sums of an arm."""
    model = make_model(name, dimension=3, half_life_s=60.0, delays_s=(2.0, 9.0))
    return model, model.update({}, dyadic(1, 80))["b"]


@pytest.mark.parametrize("name", GOLDEN)
def test_the_bytes_of_version_1_stay_as_they_are(name: str) -> None:
    """What is written is the golden record to the byte, and the golden record reads as these sums."""
    model, sums = of_golden(name)
    assert msgspec.msgpack.encode(model.encode(sums)) == GOLDEN[name]
    back = model.decode(msgspec.msgpack.decode(GOLDEN[name]))
    assert bits(model.at(back, now_ms=5_000)) == bits(model.at(sums, now_ms=5_000))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"v": 2}, "version 2, this reader knows up to 1; upgrade"),
        ({"v": 0}, "version 0; allowed: 1 to 1"),
        ({"v": "1"}, "version '1'"),
        ({"model": "probit"}, "model = 'probit'"),
        ({"d": 17}, "d = 17"),
        ({"half_life_s": 61.0}, "half_life_s = 61.0, the policy has half_life_s = 60.0"),
        ({"delays_s": (2.0,)}, r"delays_s = \(2.0,\)"),
        ({"n": "many"}, "damaged"),
        ({"landmark_ms": 0.5}, "damaged"),
        ({"pending": ()}, "0 pending accumulators for 2 delays"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(name: str, change: dict[str, Any], reason: str) -> None:
    """Another version, another model, other settings, damage: never read as something else."""
    model, sums = one_arm(name)
    with pytest.raises(RecordError, match=reason):
        model.decode({**model.encode(sums), **change})


def test_models_of_one_family_read_each_others_records() -> None:
    """A policy may change from linear to hybrid without learning anew: the sums are the same."""
    linear, sums = of_golden("linear")
    hybrid, same = of_golden("hybrid")
    assert linear.family == hybrid.family == "linear"
    assert hybrid.encode(same) == linear.encode(sums)
    assert hybrid.encode(hybrid.decode(linear.encode(sums))) == linear.encode(sums)


@pytest.mark.parametrize("missing", ["model", "n", "count", "reward", "square", "landmark_ms", "newest_ms"])
def test_a_field_that_is_missing_is_no_zero(missing: str) -> None:
    """A record that lost a field is damaged."""
    model, sums = one_arm("beta")
    record = model.encode(sums)
    del record[missing]
    with pytest.raises(RecordError, match=missing):
        model.decode(record)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"b": b""}, r"b has 0 bytes; 3 numbers of type <f8 have 24"),
        ({"A": bytes(40)}, r"A has 40 bytes; 6 numbers of type <f8 have 48"),
        ({"b": bytes(16) + b"\x00\x00\x00\x00\x00\x00\xf8\x7f"}, "b holds numbers that are not finite"),
        ({"pending": ({"landmark_ms": 0, "n": 0.0, "A": b"\x00"},) * 2}, "pending A has 1 bytes"),
    ],
)
def test_arrays_of_another_length_or_with_nan_are_refused(change: dict[str, Any], reason: str) -> None:
    """One NaN that got in would stay in an arm's sums for ever."""
    model, sums = one_arm("linear")
    with pytest.raises(RecordError, match=reason):
        model.decode({**model.encode(sums), **change})
