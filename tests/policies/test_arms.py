"""Arms that come and go: which sums a snapshot is made of, and that what is hidden is never chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from policies.arms import Control, Roster, reasons, renames, roster
from policies.decide import decide, law
from policies.decide_batch import decide_batch, law_batch
from policies.draw import draw, draw_batch
from policies.model import make_model
from policies.prior import BetaPrior
from policies.snapshot import Snapshot, assemble, build, decode_head, encode_arm, encode_head
from tests.policies.batches import dyadic
from tests.policies.snapshots import PRIOR, two_sums

LINEAR = make_model("linear", dimension=3)
X = np.array([0.5, 1.0, 0.25])


def hidden(model: str = "linear", **rates: float) -> Snapshot:
    """Arms a to d, of which b is paused, and gone is z."""
    kind = make_model(model, dimension=3)
    prior = PRIOR if model == "linear" else BetaPrior(a=1.0, b=9.0)
    given = {"sums": kind.update({}, dyadic(11, 90)), "prior": prior, "previous": None, "time_ms": 5, "now_ms": 0}
    return build("front", model=kind, version=1, paused=("b",), gone=("z",), rates=rates, **given)  # type: ignore[arg-type]


def test_renamed_sums_add_up_over_chains_bit_for_bit() -> None:
    """A -> b -> c: c has the rows of all three, exactly those that one arm would have had."""
    merged, _ = two_sums(LINEAR)
    made = roster(LINEAR, merged, {"a": Control(renamed_to="b"), "b": Control(renamed_to="c")}, arms=())
    whole = LINEAR.merge(LINEAR.merge(merged["a"], merged["b"]), merged["c"])
    assert list(made.sums) == ["c", "d"]
    assert LINEAR.encode(made.sums["c"]) == LINEAR.encode(whole)
    assert made.gone == ("a", "b")
    lost = {name: one for name, one in merged.items() if name not in made.gone}  # the broken rename
    assert LINEAR.encode(lost["c"]) != LINEAR.encode(whole)


def test_removed_paused_and_added_arms() -> None:
    """A removed arm is left out, a paused one stays with its sums, one that was added begins with none."""
    merged, _ = two_sums(LINEAR)
    controls = {"a": Control(state="removed"), "b": Control(state="paused", changed_ms=7), "new": Control()}
    made = roster(LINEAR, merged, controls, arms=("a", "d", "e"))
    assert set(made.sums) == {"b", "c", "d", "e", "new"}
    assert made.sums["b"] is merged["b"]
    assert made.sums["new"].count == 0.0
    assert (made.paused, made.gone, made.announced) == (("b",), ("a",), {"b": 7})


def test_an_arm_renamed_to_a_removed_one_is_gone_with_it() -> None:
    """Its sums count for a name that is left out."""
    merged, _ = two_sums(LINEAR)
    made = roster(LINEAR, merged, {"a": Control(renamed_to="b"), "b": Control(state="removed")}, arms=())
    assert (list(made.sums), made.gone) == (["c", "d"], ("a", "b"))


def test_renames_in_a_circle_stand_as_they_were() -> None:
    """Nobody loses sums to a circle, and it is named."""
    circle = {"a": Control(renamed_to="b"), "b": Control(renamed_to="a"), "c": Control(renamed_to="a")}
    assert renames(circle) == ({}, ("a", "b", "c"))
    merged, _ = two_sums(LINEAR)
    made = roster(LINEAR, merged, circle, arms=())
    assert (made.sums, made.gone) == (merged, ())


def test_reasons_are_told_once_and_by_every_leader() -> None:
    """They follow from the snapshot before, not from what a process remembers."""
    said = {"a": Control(state="paused", reason="budget spent"), "d": Control(renamed_to="e"), "f": Control()}
    merged, _ = two_sums(LINEAR)
    made = roster(LINEAR, merged, said, arms=())
    plain = build("front", model=LINEAR, sums=merged, prior=PRIOR, version=1, previous=None, time_ms=5, now_ms=0)
    assert reasons(said, plain, made) == (
        "arm 'a' paused: budget spent",
        "arm 'd' renamed to 'e'",
        "arm 'f' added",
    )
    after = build(
        "front", model=LINEAR, sums=made.sums, prior=PRIOR, version=2, previous=plain, time_ms=6, now_ms=0,
        paused=made.paused, gone=made.gone,
    )  # fmt: skip
    assert reasons(said, after, made) == ()
    assert reasons({}, after, Roster(sums=merged)) == ("arm 'a' resumed", "arm 'd' is an arm again")


def test_hidden_arms_are_in_the_head_but_not_in_the_checksum() -> None:
    """A reader that does not know them agrees; without hidden arms the head's bytes are those of before."""
    snapshot = hidden()
    plain = replace(snapshot, paused=(), gone=())
    head = decode_head(encode_head(snapshot))
    assert (head.paused, head.gone, head.checksum) == (("b",), ("z",), plain.checksum)
    assert b"paused" not in encode_head(plain)
    read = assemble(head, {name: encode_arm("front", name, arm) for name, arm in snapshot.arms.items()})
    assert read is not None
    assert (read.paused, read.gone) == (("b",), ("z",))


@pytest.mark.parametrize("model", ["linear", "beta"])
@pytest.mark.parametrize("candidates", [None, ("d", "b", "a", "z", "new")])
def test_hidden_arms_have_no_chance_and_take_none(model: str, candidates: tuple[str, ...] | None) -> None:
    """The law over the others is that of a decision among the others, bit for bit; the hidden ones have exactly 0."""
    snapshot = hidden(model, epsilon=0.1)
    names = snapshot.names if candidates is None else candidates
    left = tuple(name for name in names if name not in ("b", "z"))
    bare = replace(snapshot, paused=(), gone=())
    p, among = law(snapshot, X, candidates), law(bare, X, left)
    assert {name: float(one) for name, one in zip(names, p, strict=True)} == {
        **dict.fromkeys(names, 0.0),
        **dict(zip(left, among.tolist(), strict=True)),
    }
    assert law_batch(snapshot, np.stack([X, X]), candidates)[1, names.index("b")] == 0.0
    assert abs(float(p.sum()) - 1.0) < 1e-12
    assert float(law(bare, X, candidates)[names.index("b")]) > 0.0  # the broken filter
    decision = decide(snapshot, X, candidates, rng=np.random.default_rng(1))
    assert decision.candidates == left
    assert decision.propensity == among[left.index(decision.arm)]
    assert decide_batch(snapshot, np.stack([X, X]), candidates, rng=np.random.default_rng(1)).candidates == left
    rng = np.random.default_rng(2)
    drawn = {names[i] for i in draw_batch(snapshot, np.tile(X, (500, 1)), candidates, rng=rng)}
    assert drawn <= set(left)
    assert {draw(snapshot, X, candidates, rng=rng) for _ in range(100)} <= set(left)


def test_only_hidden_candidates_are_no_candidates() -> None:
    """The pure function says so; the client falls back."""
    with pytest.raises(ValueError, match="no arm to choose that is not paused or gone"):
        decide(hidden(), X, ("b", "z"), rng=np.random.default_rng(1))
