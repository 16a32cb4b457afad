"""Contexts that differ between arms: scored one by one, drawn and explained by the same numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from policies.arm_contexts import ArmContexts, context_of
from policies.batch import Batch, FloatArray
from policies.decide import decide, law
from policies.empirical_bayes import fit
from policies.explain import explain
from policies.explorers import Scores, explore
from policies.model import make_model
from policies.prior import BetaPrior, Prior, StudentPrior
from policies.snapshot import Snapshot, build, decode_head, encode_head
from policies.stack import BetaStack, dof_of
from streams.filling import Filler, Place
from tests.policies.snapshots import two_sums

CONTEXTS = ArmContexts(x=np.array([1.0, 0.5, 0.0]), column=2, by_arm={"a": 2.0, "b": -1.0, "new": 1.0})


def snapshot(model: str = "linear") -> Snapshot:
    """A policy that has learned of some arms."""
    made = make_model(model, dimension=3)
    prior: Prior | StudentPrior = Prior(mean=np.array([0.1, 0.0, 0.0]), tau2=np.array([1.0, 0.5, 0.5]), s2=25.0)
    if model == "student":
        prior = StudentPrior(mean=prior.mean, tau2=prior.tau2, s2=prior.s2, dof=5.0)
    return build(
        "front", model=made, sums=two_sums(made)[0], prior=prior, version=1, previous=None, time_ms=0, now_ms=0
    )


def one_by_one(known: Snapshot, names: tuple[str, ...], contexts: ArmContexts) -> npt.NDArray[np.float64]:
    """The law by another way: each arm scored in its own context by the ordinary path."""
    stack = known.stack
    assert not isinstance(stack, BetaStack)
    rows = np.array([stack.row.get(name, len(stack.row)) for name in names])
    pairs = [stack.scores(contexts.of(name), rows[i : i + 1]) for i, name in enumerate(names)]
    mean, sd = (np.array([float(pair[k][0]) for pair in pairs]) for k in (0, 1))
    scores = Scores(mean=mean, sd=sd, count=known.count, noise_sd=known.noise_sd, dof=dof_of(stack, rows))
    return explore(scores, known.explorer, known.rates)


@pytest.mark.parametrize("model", ["linear", "student"])
def test_each_arm_is_scored_in_its_own_context(model: str) -> None:
    """Arms of the snapshot, and one that nobody has seen, from the prior."""
    known = snapshot(model)
    for names in (known.names, ("new", "b", "a")):
        p = law(known, CONTEXTS, names)
        assert np.abs(p - one_by_one(known, names, CONTEXTS)).max() < 1e-12
        same_for_all = replace(CONTEXTS, by_arm={})  # a broken variant: the match left out
        assert np.abs(p - one_by_one(known, names, same_for_all)).max() > 1e-3


def test_one_context_for_all_decides_as_it_always_did() -> None:
    """Where no arm has a number of its own."""
    known = snapshot()
    shared = replace(CONTEXTS, by_arm={})
    assert np.abs(law(known, shared) - law(known, shared.x)).max() < 1e-12
    page = Place(slots=("top", "side"))
    for seed in range(5):
        rngs = [np.random.default_rng(seed), np.random.default_rng(seed)]
        ours = Filler({}).fill("front", known, shared, page, rng=rngs[0])
        theirs = Filler({}).fill("front", known, shared.x, page, rng=rngs[1])
        assert ours.arms == theirs.arms
        assert np.allclose(ours.propensity, theirs.propensity, rtol=0, atol=1e-12)


def test_arms_are_drawn_from_that_law() -> None:
    """With its propensity, also where an arm is paused: the others keep their own contexts."""
    known = snapshot()
    hidden = replace(known, paused=(known.names[0],))
    p = law(hidden, CONTEXTS)
    assert p[0] == 0.0
    assert np.abs(p[1:] - one_by_one(known, known.names[1:], CONTEXTS)).max() < 1e-12
    rng = np.random.default_rng(0)
    for _ in range(20):
        drawn = decide(hidden, CONTEXTS, rng=rng)
        assert drawn.propensity == pytest.approx(p[hidden.names.index(drawn.arm)], abs=1e-12)
    filler, top = Filler({}), Place(slots=("top",))
    for _ in range(20):
        one = filler.fill("front", hidden, CONTEXTS, top, rng=rng)
        assert one.propensity[0] == pytest.approx(p[hidden.names.index(one.arms[0] or "")], abs=1e-12)
    assert filler.fill("front", replace(known, paused=known.names), CONTEXTS, top, rng=rng).arms == (None,)


def test_explanations_are_of_each_arm_in_its_own_context() -> None:
    """As the explanation of that context alone, but for the chances, which are of all together."""
    known = snapshot()
    p = law(known, CONTEXTS)
    for i, arm in enumerate(explain(known, CONTEXTS)):
        alone = explain(known, CONTEXTS.of(arm.arm))[i]
        assert arm.propensity == p[i]
        assert np.array_equal(arm.contributions, alone.contributions)
        assert np.array_equal(arm.prior, alone.prior)
        assert arm.sd == pytest.approx(alone.sd, rel=1e-12)
        assert arm.unknown == pytest.approx(alone.unknown, rel=1e-12)


def test_what_an_arm_was_scored_by_is_what_its_impression_carries() -> None:
    """Rounded first, where tokens ask for it."""
    rounded = CONTEXTS.mapped(lambda values: np.round(values * 4) / 4)
    assert rounded.of("a").tolist() == [1.0, 0.5, 2.0]
    assert context_of(rounded, "other").tolist() == [1.0, 0.5, 0.0]
    assert context_of(CONTEXTS.x, "a") is CONTEXTS.x


def test_contexts_that_do_not_fit_are_refused() -> None:
    """By length, by number, by model."""
    known = snapshot()
    with pytest.raises(ValueError, match="shape"):
        law(known, replace(CONTEXTS, x=np.zeros(4)))
    with pytest.raises(ValueError, match="not finite"):
        law(known, replace(CONTEXTS, by_arm={known.names[0]: np.inf}))
    beta = make_model("beta", dimension=0)
    rates = build(
        "front", model=beta, sums={"a": beta.zero()}, prior=BetaPrior(a=1.0, b=9.0), version=1, previous=None,
        time_ms=0, now_ms=0,
    )  # fmt: skip
    assert law(rates, CONTEXTS).tolist() == [1.0]


def test_a_snapshot_says_whom_it_succeeds() -> None:
    """And readers of before see a head that they know: the field is left out where there is nobody."""
    known = snapshot()
    head = decode_head(encode_head(replace(known, succeeds="front-1")))
    assert (head.succeeds, head.checksum) == ("front-1", known.checksum)
    assert b"succeeds" not in encode_head(known)
    assert decode_head(encode_head(known)).succeeds is None


def test_pages_are_filled_by_each_arm_in_its_own_context() -> None:
    """Slot by slot frequencies are the logged marginals, which the match moves."""
    known = replace(snapshot(), explorer="softmax", rates={"tau": 0.05, "epsilon": 0.05})
    page, rng = Place(slots=("top", "side")), np.random.default_rng(3)
    filler, draws = Filler({}), 3_000
    shown, expected = np.zeros((2, len(known.names))), np.zeros((2, len(known.names)))
    for _ in range(draws):
        found = filler.fill("front", known, CONTEXTS, page, rng=rng)
        assert found.probabilities is not None
        expected += found.probabilities
        for slot, arm in enumerate(found.arms):
            shown[slot, known.names.index(arm or "")] += 1.0
    assert (np.abs(shown - expected) < 5.0 * np.sqrt(np.maximum(expected, 1.0))).all()
    plain = filler.fill("front", known, CONTEXTS.x, page, rng=rng).probabilities
    assert plain is not None
    assert np.abs(expected / draws - plain).max() > 1e-3  # a broken variant: the match left out


@pytest.mark.parametrize("model", ["linear", "hybrid"])
def test_a_new_arm_starts_with_what_matches_are_worth(model: str) -> None:
    """Arms teach the prior the weight of their match; without the match nothing is known of a new arm but the mean."""
    rng = np.random.default_rng(4)
    n, arms = 4_000, tuple(f"arm-{i}" for i in range(8))
    arm, m = rng.integers(0, len(arms), n), rng.normal(size=n)
    reward = (rng.random(n) < np.clip(0.3 + 0.2 * m, 0, 1)).astype(float)
    ts = np.zeros(n, np.int64)

    def chance_of_the_better_match(match: FloatArray) -> float:
        x = np.stack([np.ones(n), match], axis=1)
        batch = Batch(
            arms=arms, arm=arm, x=x, ts=ts, reward_arm=arm, reward_x=x, reward_ts=ts, reward=reward, square=reward**2
        )
        made = make_model(model, dimension=2)
        sums = made.update({}, batch)
        effective = {name: made.at(one, now_ms=0) for name, one in sums.items()}
        prior = fit(effective, None, model=model, dimension=2, intercept=0)
        known = build("front", model=made, sums=sums, prior=prior, version=1, previous=None, time_ms=0, now_ms=0)
        new = ArmContexts(x=np.array([1.0, 0.0]), column=1, by_arm={"good": 1.0, "bad": -1.0})
        return float(law(known, new, ("good", "bad"))[0])

    assert chance_of_the_better_match(m) > 0.9
    assert chance_of_the_better_match(rng.permutation(m)) < 0.8  # matches that say nothing
