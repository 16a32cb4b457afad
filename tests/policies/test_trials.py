"""What a policy tries: words and verdicts as a state machine, its record, guardrails, and laws that are shared out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from policies.canary import CODES, Canary, group_of
from policies.decide import law
from policies.decide_split import laws, split_law
from policies.guardrails import Logged, change_of_chances, unsound, violations
from policies.meta_records import read_key
from policies.meta_state import Rows
from policies.promotion import Trial, evidence
from policies.snapshot import Snapshot, assemble, decode_head, encode_head, exploring, records, republish
from policies.snapshot_records import LinearArm
from policies.sums import RecordError
from policies.trial_records import decode_trials, encode_trials, trials_key
from policies.trials import NEVER, Exploring, Trials, Word, concluded, judged_rows, said, shared_out
from tests.policies.snapshots import two

BASE = Exploring(explorer="thompson", rates={"alpha": 0.3, "epsilon": 0.005})
CANARY = Canary(number=1, share=0.25, salt="s", explorer="softmax", rates={"tau": 0.5, "epsilon": 0.0}, name="softer")
GOLDEN = (
    "89a17601a6706f6c696379a170a6747279696e67c0aa63616e6469646174657300a761646f7074656490a666726f7a656ec2a5686561726400"
    "a76f66667365747380a5617564697483a461726d7380a673686172657380a4726f777300"
)
"""The record of a policy that has tried nothing."""


def heard(*words: Word, start: Trials | None = None) -> tuple[Trials, list[str]]:
    """The state after words, the version going up with each."""
    state, told = start or Trials(), []
    for i, word in enumerate(words):
        state, what = said(state, word, settings=BASE, salt="s", version=10 + i)
        told.append(what)
    return state, told


def propose(alpha: float = 0.1, **more: Any) -> Word:
    return Word(kind="propose", rates={"alpha": alpha}, **more)


def rows_of(group: list[str], reward: list[float], *, version: int = 10, p: float = 0.5) -> Rows:
    n = len(group)
    return Rows(
        arm=["a"] * n, ts=np.zeros(n, np.int64), x=np.zeros((n, 1)), reward=np.array(reward),
        group=np.array([CODES[one] for one in group]), snapshot=np.full(n, version), propensity=np.full(n, p),
        exact=np.ones(n, np.bool_),
    )  # fmt: skip


def judge(state: Trials, rows: Rows, **given: Any) -> Trials:
    values: dict[str, Any] = {"bounds": (0.0, 1.0), "audit_share": 0.0, "audited": False, "least": None} | given
    return judged_rows(state, rows, **values)[0]


def test_a_candidate_is_tried_promoted_and_taken_back() -> None:
    """Numbers count on, rates that are not named stay, and what was adopted decides until it is rolled back."""
    state, told = heard(propose(0.1, name="narrow", share=0.2))
    assert told == ["candidate 1 (narrow) decides 20% of the decisions"]
    assert state.canary == Canary(
        number=1, share=0.2, salt="s", explorer="thompson", rates={"alpha": 0.1, "epsilon": 0.005}, name="narrow"
    )
    assert state.exploring(BASE) == BASE
    state, _ = heard(Word(kind="promote"), propose(0.2), Word(kind="promote"), start=state)
    assert (state.candidates, state.canary) == (2, None)
    assert state.exploring(BASE).rates["alpha"] == 0.2
    state, told = heard(Word(kind="rollback"), Word(kind="rollback"), Word(kind="rollback"), start=state)
    assert [state.exploring(BASE), *told[:2]] == [
        BASE,
        "rolled back by hand: alpha 0.2 -> 0.1",
        "rolled back by hand: alpha 0.1 -> 0.3",
    ]
    assert told[2].startswith("rollback refused: there is no candidate, and nothing was promoted")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([propose(), propose(0.2)], "candidate 1 is being tried"),
        ([propose(), Word(kind="override", rates={"alpha": 1.0})], "candidate 1 is being tried"),
        ([Word(kind="promote")], "there is no candidate"),
        ([propose(0.3)], "it is what decides already: thompson, alpha = 0.3, epsilon = 0.005"),
        ([propose(share=1.0)], "share = 1.0: must be between 0 and 1"),
        ([Word(kind="propose", rates={"tau": 1.0})], "has no rate 'tau'"),
        ([Word(kind="propose", explorer="luck")], "there is no explorer 'luck'"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(words: list[Word], message: str) -> None:
    """With the reason; a number that is not used is not spent either."""
    before, _ = heard(*words[:-1])
    after, (told,) = heard(words[-1], start=before)
    assert message in told
    assert " refused: " in told
    assert after is before


def test_an_override_needs_the_guardrails_or_force() -> None:
    """What speaks against it is told."""
    word = Word(kind="override", rates={"alpha": 2.0})
    state, told = said(Trials(), word, settings=BASE, salt="", version=1, against=("too far",))
    assert (state, told) == (Trials(), "override refused: too far. Propose it as a candidate, or force it")
    forced = msgspec.structs.replace(word, force=True, reason="now")
    state, told = said(Trials(), forced, settings=BASE, salt="", version=1, against=("too far",))
    assert told == "overridden by hand: alpha 0.3 -> 2: now"
    assert heard(Word(kind="override"), start=state)[0] == Trials()


def test_verdicts_promote_and_roll_back_unless_frozen() -> None:
    """With the evidence in words."""
    state, _ = heard(propose())
    assert state.trying is not None
    for verdict, alpha in (("promote", 0.1), ("roll back", 0.3)):
        done = replace(state, trying=replace(state.trying, test=Trial(number=1, share=0.1, verdict=verdict)))  # type: ignore[arg-type]
        assert concluded(replace(done, frozen=True)) == (replace(done, frozen=True), "")
        after, told = concluded(done)
        assert (after.exploring(BASE).rates["alpha"], after.trying) == (alpha, None)
        assert evidence(done.trying.test) in told  # type: ignore[union-attr]
    assert concluded(state) == (state, "")


def test_only_decisions_that_were_shared_out_count() -> None:
    """Not those at random, of no group, or of a snapshot from before; rewards are scaled by the bounds and cut."""
    state, _ = heard(propose(share=0.5))
    state = judge(state, rows_of(["canary", "random", "rest", "incumbent"], [1.0, 1.0, 1.0, 1.0]))
    state = judge(state, rows_of(["canary", "incumbent"], [1.0, 1.0], version=9))
    assert state.trying is not None
    test = state.trying.test
    assert (test.canary, test.incumbent, test.canary_reward, test.incumbent_reward) == (1, 1, 1.0, 1.0)
    wide = judge(heard(propose(share=0.5))[0], rows_of(["canary", "canary"], [3.0, 99.0]), bounds=(-1.0, 7.0))
    assert wide.trying is not None
    assert wide.trying.test.canary_reward == 0.5 + 1.0
    before = replace(rows_of(["canary"], [1.0]), group=None)
    assert judge(state, before).trying == state.trying


def test_audits_look_at_exact_propensities_and_told_groups() -> None:
    """An estimate's inverse has another mean; a row without a group is of an older ad server."""
    rows = replace(rows_of(["random", "rest"], [0.0, 0.0]), exact=np.array([True, False]))
    state = judge(Trials(), rows, audit_share=0.5, audited=True)
    assert (state.audit.rows, state.audit.shares["the random share"].inside) == (1, 1)
    silent = judge(Trials(), replace(rows, group=np.zeros(2, np.int64)), audit_share=0.5)
    assert silent.audit.shares["the random share"].inside + silent.audit.shares["the random share"].outside == 0
    assert judge(Trials(), replace(rows, propensity=None)) == Trials()


@pytest.mark.parametrize(("before", "share"), [(0.01, 0.05), (0.0, 0.05), (0.2, 0.05)])
def test_another_random_share_is_tested_on_decisions_of_its_snapshots(before: float, share: float) -> None:
    """Those of the share before mature still, among the others; lost ones raise the alarm as ever."""
    state = shared_out(Trials(), share=share, published=before, version=8)
    assert state.random_since == 8
    rng = np.random.default_rng(5)
    for _ in range(40):
        for version, drawn in ((7, before), (8, share)):
            groups = ["random" if one else "rest" for one in rng.random(100) < drawn]
            state = judge(state, rows_of(groups, [0.0] * 100, version=version), audit_share=share)
    tested = state.audit.shares["the random share"]
    assert (state.audit.alarms, tested.inside + tested.outside) == (0, 4000)
    assert judge(state, rows_of(["rest"] * 2000, [0.0] * 2000, version=8), audit_share=share).audit.alarms >= 1
    assert decode_trials(encode_trials("p", state)) == state


def test_no_decision_is_tested_before_the_share_is_published() -> None:
    """A leader that took over judges first; the version that comes next is known when it is made."""
    waits = shared_out(Trials(), share=0.05, published=0.01, version=NEVER)
    rows = rows_of(["rest"] * 2000, [0.0] * 2000, version=8)
    assert judge(waits, rows, audit_share=0.05).audit.alarms == 0
    assert decode_trials(encode_trials("p", waits)) == waits
    assert shared_out(waits, share=0.05, published=0.01, version=9).random_since == 9
    assert shared_out(Trials(), share=0.05, published=None, version=1) == Trials()


def full() -> Trials:
    """A state that has something in every field."""
    state, _ = heard(Word(kind="override", rates={"alpha": 0.5}), propose(share=0.5), Word(kind="freeze"))
    groups = ["canary", "incumbent", "incumbent", "canary", "incumbent"] * 9
    state = judge(state, rows_of(groups, [1.0, 0.0, 1.0, 0.3, 0.0] * 9, version=12), audited=True, least=0.1)
    return replace(state, heard=7, offsets={1: 5, 0: 9}, random_since=11)


def test_the_record_holds_all_of_it() -> None:
    """Bit for bit: what goes on from the record is what goes on from the state. Readers of snapshots pass over it."""
    state = full()
    again = decode_trials(encode_trials("p", state))
    assert again == state
    more = rows_of(["canary", "incumbent"] * 50, [0.7, 0.1] * 50, version=12)
    assert judge(again, more, audited=True) == judge(state, more, audited=True)
    assert read_key(trials_key("p")) == ("p", None, "trials")
    assert encode_trials("p", Trials()).hex() == GOLDEN
    later = msgspec.msgpack.decode(encode_trials("p", state)) | {"later": 1}
    assert decode_trials(msgspec.msgpack.encode(later)) == state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v": 2}, "has version 2"),
        ({"candidates": "one"}, "cannot be read"),
        ({"adopted": [{"explorer": "luck", "rates": {}}]}, "there is no explorer 'luck'"),
    ],
)
def test_a_record_that_cannot_be_used_is_refused(change: dict[str, Any], message: str) -> None:
    """With the reason."""
    record = msgspec.msgpack.decode(encode_trials("p", full())) | change
    with pytest.raises(RecordError, match=message):
        decode_trials(msgspec.msgpack.encode(record))


def test_a_head_carries_the_canary_and_readers_of_before_pass_over_it() -> None:
    """The checksum is that of a head without; one without a canary has the bytes that it had."""
    front, _ = two()
    shared = replace(front, canary=CANARY, audit_share=0.05)
    plain, told = (msgspec.msgpack.decode(encode_head(one)) for one in (front, shared))
    assert told.keys() - plain.keys() == {"canary", "audit_share"}
    assert {name: told[name] for name in plain} == plain
    whole = assemble(decode_head(encode_head(shared)), dict(arms_of(shared)))
    assert whole is not None
    assert (whole.canary, whole.audit_share) == (CANARY, 0.05)
    held = republish(shared, version=3, parent=2, time_ms=1, reasons=(), paused=(), gone=())
    assert (held.canary, held.audit_share) == (None, 0.05)
    with pytest.raises(RecordError, match="explorer 'luck'"):
        decode_head(encode_head(replace(shared, canary=replace(CANARY, explorer="luck"))))


def arms_of(snapshot: Snapshot) -> list[tuple[str, bytes]]:
    """Records of all arms by name."""
    written = records(snapshot, every_arm=True)[:-1]
    return [(msgspec.msgpack.decode(key)[1], value) for key, value in written]


@pytest.mark.parametrize("hidden", [(), ("b",)])
def test_the_marginal_law_is_the_mixture(hidden: tuple[str, ...]) -> None:
    """Over random share, canary and incumbent; it sums to one, and what is hidden has none of it."""
    front, _ = two()
    front = replace(front, canary=CANARY, audit_share=0.2, paused=hidden)
    x, shown = np.array([1.0, 0.5, -0.5]), [arm for arm in front.names if arm not in hidden]
    canary = law(exploring(front, CANARY.explorer, CANARY.rates), x, shown)
    expected = 0.2 / len(shown) + 0.8 * (0.75 * law(replace(front, canary=None), x, shown) + 0.25 * canary)
    p = split_law(front, x)
    assert p[[front.names.index(arm) for arm in shown]] == pytest.approx(expected, abs=1e-15)
    assert p.sum() == pytest.approx(1.0, abs=1e-12)
    assert laws(front, x, shown).of("random") == pytest.approx(1 / len(shown))
    assert split_law(replace(front, canary=None, audit_share=0.0), x) == pytest.approx(law(front, x))


def test_groups_of_one_salt_tell_nothing_of_those_of_another() -> None:
    """The next candidate's decisions are drawn anew."""
    other = replace(CANARY, salt="t")
    keys = [f"d{i}" for i in range(20_000)]
    both = np.array([[group_of(key, one, 0.0) == "canary" for key in keys] for one in (CANARY, other)])
    assert both.mean(axis=1) == pytest.approx([0.25, 0.25], abs=0.01)
    assert both.all(axis=0).mean() == pytest.approx(0.25**2, abs=0.007)


def logged(front: Snapshot, n: int = 64) -> Logged:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(n, front.dimension))
    arm = [front.names[i] for i in rng.integers(0, len(front.names), n)]
    return Logged(arm=arm, x=x, propensity=np.full(n, 1 / len(front.names)))


def test_guardrails_hold_back_what_changes_too_much() -> None:
    """The change of a law against itself is 0, against a far one more than the limit; the limit is the caller's."""
    front, _ = two()
    rows = logged(front)
    near = exploring(front, "thompson", front.rates | {"alpha": 0.31})
    far = exploring(front, "softmax", {"tau": 100.0, "epsilon": 0.0})
    assert change_of_chances(front, front, rows.x) == 0.0
    assert violations(front, near, rows) == ()
    assert change_of_chances(front, far, rows.x) > 0.2
    (why,) = violations(front, far, rows)
    assert why.startswith("the arms' chances would change by ")
    assert violations(front, far, rows, change=1.0) == ()
    assert violations(front, near, logged(front, 5)) == (
        "5 matured decisions are known here, 32 are needed to tell what changes",
    )
    chances = [law(near, x)[front.names.index(arm)] for arm, x in zip(rows.arm, rows.x, strict=True)]
    strange = replace(rows, propensity=np.where(np.arange(64) == np.argmax(chances), 1e-6, rows.propensity))
    assert any("tell of it (ESS/n)" in why for why in violations(front, near, strange))


def broken(change: Callable[[LinearArm], LinearArm]) -> Snapshot:
    front, _ = two()
    arm = front.arms["a"]
    assert isinstance(arm, LinearArm)
    return replace(front, arms={**front.arms, "a": change(arm)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arm: replace(arm, mean=np.full(3, np.nan, np.float32)), "arm 'a' has numbers that are not finite"),
        (lambda arm: replace(arm, factor=np.zeros_like(arm.factor)), "covariance of arm 'a' is not positive definite"),
    ],
)
def test_unsound_numbers_are_told(change: Callable[[LinearArm], LinearArm], message: str) -> None:
    """By arm; a snapshot that was built is sound."""
    assert message in unsound(broken(change))[0]
    assert unsound(two()[0]) == ()
    assert violations(two()[0], broken(change), logged(two()[0])) == unsound(broken(change))
