"""Snapshots: only what changed is written, and a reader has all of a version or none of it."""

from __future__ import annotations

import numpy as np
import pytest

from policies.decide import law
from policies.model import make_model
from policies.prior import BetaPrior, Prior
from policies.snapshot import (
    BetaArm,
    assemble,
    build,
    decode_arm,
    decode_head,
    encode_arm,
    encode_head,
    records,
    republish,
)
from policies.snapshot_records import arm_key, head_key
from policies.sums import RecordError
from tests.policies.snapshots import PRIOR, two, two_sums

X = np.array([0.5, 1.0, 0.25])


def test_only_changed_arms_are_written() -> None:
    """The second version writes arm a and the head, in this order; a full one writes every arm."""
    one, second = two()
    assert {name: arm.version for name, arm in second.arms.items()} == {"a": 2, "b": 1, "c": 1, "d": 1}
    assert [key for key, _ in records(second)] == [arm_key("front", "a"), head_key("front")]
    assert [key for key, _ in records(second, every_arm=True)] == [
        *(arm_key("front", name) for name in "abcd"),
        head_key("front"),
    ]
    assert [key for key, _ in records(one)] == [key for key, _ in records(second, every_arm=True)]


def test_without_being_told_what_changed_the_numbers_are_compared() -> None:
    """`changed=None` computes every arm, and those that came out the same keep their records."""
    model = make_model("linear", dimension=3)
    _, after = two_sums(model)
    one, second = two()
    again = build("front", model=model, sums=after, prior=PRIOR, version=2, previous=one, time_ms=6, now_ms=0)
    assert again.arms["b"] is one.arms["b"]
    assert again.checksum == second.checksum


def test_another_prior_changes_every_arm() -> None:
    """Whatever is said to have changed: every posterior rests on the prior."""
    model = make_model("linear", dimension=3)
    before, _ = two_sums(model)
    one, _ = two()
    prior = Prior(mean=PRIOR.mean, tau2=PRIOR.tau2, s2=0.5)
    other = build(
        "front", model=model, sums=before, prior=prior, version=2, previous=one, time_ms=6, now_ms=0, changed=set()
    )
    assert {arm.version for arm in other.arms.values()} == {2}


def test_a_snapshot_is_assembled_from_its_parts_or_not_at_all() -> None:
    """Through bytes; not while an arm is missing or of another version than the head names."""
    one, second = two()
    head = decode_head(encode_head(second))
    arms = {name: decode_arm(encode_arm("front", name, arm)) for name, arm in second.arms.items()}
    assert assemble(head, {name: arm for name, arm in arms.items() if name != "b"}) is None
    assert assemble(head, arms | {"a": one.arms["a"]}) is None
    whole = assemble(head, arms | {"unnamed": arms["a"]})
    assert whole is not None
    assert whole.names == second.names
    assert np.array_equal(law(whole, X), law(second, X))


@pytest.mark.parametrize("name", ["a", "b"])
def test_an_arm_that_is_not_the_heads_fails_the_checksum(name: str) -> None:
    """The right version with other numbers, as two writers that do not know of each other would leave."""
    _, second = two()
    other = second.arms["c" if name == "b" else "d"].at_version(second.arms[name].version)
    with pytest.raises(RecordError, match="checksum"):
        assemble(decode_head(encode_head(second)), second.arms | {name: other})


def test_an_arm_of_another_model_is_refused() -> None:
    """By its kind, before it is counted in."""
    _, second = two()
    with pytest.raises(RecordError, match="'c' of policy 'front' is no arm of model 'linear' with d = 3"):
        assemble(decode_head(encode_head(second)), second.arms | {"c": BetaArm(version=1, count=1.0, a=1.0, b=1.0)})


def test_republishing_is_the_old_policy_under_a_new_version() -> None:
    """Every arm is written anew, since compaction may have dropped the old records."""
    one, second = two()
    back = republish(one, version=3, parent=2, time_ms=7, reasons=("rollback",), paused=(), gone=())
    assert np.array_equal(law(back, X), law(one, X))
    assert not np.array_equal(law(back, X), law(second, X))
    assert (back.version, back.parent, back.reasons) == (3, 2, ("rollback",))
    assert {arm.version for arm in back.arms.values()} == {3}
    assert assemble(decode_head(encode_head(back)), back.arms) is not None


@pytest.mark.parametrize(("version", "parent"), [(2, 2), (1, None), (1, 0)])
def test_a_version_never_comes_twice(version: int, parent: int | None) -> None:
    """Neither in building nor in rolling back."""
    one, _ = two()
    with pytest.raises(ValueError, match=f"version = {version}"):
        republish(one, version=version, parent=parent, time_ms=7, reasons=("rollback",), paused=(), gone=())
    model = make_model("linear", dimension=3)
    with pytest.raises(ValueError, match="version = 1: must be above"):
        build("front", model=model, sums={}, prior=PRIOR, version=1, previous=one, time_ms=0, now_ms=0)


def test_a_prior_of_another_model_is_refused() -> None:
    """With both kinds."""
    with pytest.raises(ValueError, match="prior is a BetaPrior, the model is 'linear'"):
        build(
            "front",
            model=make_model("linear", dimension=3),
            sums={},
            prior=BetaPrior(a=1.0, b=1.0),
            version=1,
            previous=None,
            time_ms=0,
            now_ms=0,
        )
