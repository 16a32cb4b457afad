"""Allocations: no arm twice, logged propensities are those of a million draws, and what may be evaluated with them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.allocation import Allocation, allocate, conditional
from policies.batch import FloatArray
from policies.explorers import EXPLORERS, check
from policies.matching import EMPTY, MODES
from policies.offers import Offer, Terms, offer
from policies.slot_rules import draw_many, rule_of

MANY = 1_000_000
RATES = {"softmax": {"tau": 0.1}, "thompson": {"alpha": 1.0}, "squarecb": {"gamma_scale": 1.0}}


def asked(seed: int = 0, *, slots: int = 3, n: int = 6, features: bool = False, prices: bool = False) -> Offer:
    """An offer of arms that are nearly alike."""
    rng = np.random.default_rng(seed)
    shape = (slots, n) if features else (n,)
    terms = Terms(value=rng.uniform(0.5, 2, n), price=rng.uniform(0, 0.2, n)) if prices else Terms()
    return offer(
        rng.normal(0.4, 0.1, shape),
        rng.uniform(0.05, 0.2, shape),
        kappa=np.array([0.5, 1.0, 0.7, 0.3])[:slots],
        terms=terms,
    )


def call(at: Offer, explorer: str, **settings: object) -> Allocation:
    rates = RATES.get(explorer, {}) | {"epsilon": 0.05}
    return allocate(at, explorer=explorer, rates=rates, count=100.0, **settings)  # type: ignore[arg-type]


def shares(at: Offer, explorer: str, mode: str, n: int = MANY, seed: int = 1) -> FloatArray:
    """(K, N) shares of n allocations drawn the plain way, without the floor."""
    rates = check(explorer, RATES.get(explorer, {}))
    rule, rng = rule_of(at, explorer, rates, count=100.0, noise_sd=1.0), np.random.default_rng(seed)
    slots, arms = at.mean.shape
    total = np.zeros((slots, arms))
    for _ in range(max(n // 50_000, 1)):
        part = draw_many(rule, at, mode=mode, draws=min(n, 50_000), rng=rng, repeat=False)  # type: ignore[arg-type]
        for slot in range(slots):
            total[slot] += np.bincount(part[:, slot], minlength=arms)
    return total / n


def off_by(p: FloatArray, share: FloatArray, n: int) -> float:
    """Largest difference in standard errors, the quadrature's error allowed for."""
    width = np.sqrt(np.maximum(p * (1 - p), 1e-12) / n)
    return float((np.maximum(np.abs(p - share) - 3e-6, 0.0) / width).max())


SUBJECTS = [
    ("thompson", "sequential", False),
    ("thompson", "sequential", True),
    ("softmax", "sequential", True),
    ("uncertainty", "sequential", False),
    ("squarecb", "sequential", True),
]


@pytest.mark.parametrize(("explorer", "mode", "features"), SUBJECTS)
def test_marginal_propensities_match_a_million_draws(explorer: str, mode: str, features: bool) -> None:
    """For every arm in every slot within five standard errors; allocations are drawn another way than the formulas go."""
    at = asked(features=features, prices=features)
    found = call(at, explorer, mode=mode, rng=np.random.default_rng(1), method="marginal")
    base = (found.probabilities - 0.05 / 6) / 0.95
    share = shares(at, explorer, mode)
    assert off_by(base, share, MANY) < 5.0
    assert off_by(np.roll(base, 1, axis=0), share, MANY) > 5.0, "slots mixed up would be noticed"


def test_ranks_match_draws_by_sorting() -> None:
    """Thompson sampling by assignment where one number tells arms apart: one draw for each arm, sorted."""
    at = asked()
    found = call(at, "thompson", rng=np.random.default_rng(1))
    assert found.method == "marginal"
    assert off_by((found.probabilities - 0.05 / 6) / 0.95, shares(at, "thompson", "assignment", n=50_000), 50_000) < 5.0


def test_a_mixture_is_right_on_average() -> None:
    """The mean of what is logged and the share of what is shown agree for every arm and slot; J = 4 is enough for that."""
    at, rng, n = asked(features=True, n=4, slots=2), np.random.default_rng(2), 20_000
    logged, shown = np.zeros((2, 4)), np.zeros((2, 4))
    for _ in range(n):
        found = call(at, "thompson", mode="assignment", rng=rng, draws=4)
        assert found.method == "mixture"
        logged += found.probabilities
        shown[[0, 1], found.arms] += 1
    assert off_by(logged / n, shown / n, n) < 5.0


def inverse_weights(method: str | None, n: int, *, draws: int = 8) -> tuple[FloatArray, FloatArray]:
    """(K, N) mean and standard error of 1{a in l}/p, which is 1 if evaluation with p is unbiased."""
    at, rng = asked(features=True, n=4, slots=2, seed=4), np.random.default_rng(3)
    sums, squares = np.zeros((2, 4)), np.zeros((2, 4))
    for _ in range(n):
        kind = None if method == "conditional" else method
        found = call(at, "thompson", mode="sequential", rng=rng, method=kind, draws=draws)
        p = found.propensity
        if method == "conditional":
            p = conditional(at, found.arms, explorer="thompson", rates={"alpha": 1.0, "epsilon": 0.05})
        sums[[0, 1], found.arms] += 1 / p
        squares[[0, 1], found.arms] += 1 / p**2
    mean = sums / n
    return mean, np.sqrt((squares / n - mean**2) / n)


@pytest.mark.parametrize("method", ["marginal", "mixture"])
def test_evaluation_with_exact_propensities_is_unbiased(method: str) -> None:
    """Inverse weights have the mean 1 within five standard errors, for every arm and slot."""
    mean, se = inverse_weights(method, 10_000)
    assert (np.abs(mean - 1.0) <= 5 * se).all()


@pytest.mark.parametrize("method", ["estimate", "conditional"])
def test_evaluation_with_the_others_is_not(method: str) -> None:
    """Estimates are too small where it matters; the conditional probability answers another question."""
    mean, se = inverse_weights(method, 10_000)
    assert (np.abs(mean - 1.0) > 5 * se).any()


def test_conditional_probabilities_multiply_to_the_joint_one() -> None:
    """Summed over all pairs of arms they give one, the floor included."""
    at = asked(slots=2, n=4)
    pairs = [(a, b) for a in range(4) for b in range(4) if a != b]
    for explorer in ("thompson", "softmax", "squarecb", "epsilon-greedy"):
        rates = RATES.get(explorer, {}) | {"epsilon": 0.1}
        joint = [conditional(at, np.array(pair), explorer=explorer, rates=rates, count=9.0).prod() for pair in pairs]
        assert sum(joint) == pytest.approx(1.0, abs=1e-6)


@settings(max_examples=150)
@given(
    st.integers(0, 10**6),
    st.integers(1, 4),
    st.integers(1, 6),
    st.sampled_from(sorted(EXPLORERS)),
    st.sampled_from(MODES),
    st.booleans(),
    st.booleans(),
)
def test_every_allocation_obeys_the_laws(
    seed: int, slots: int, n: int, explorer: str, mode: str, features: bool, limited: bool
) -> None:
    """No arm twice, eligible arms only, propensities in (0, 1] and equal to the law's, rows that sum to one unless a slot may stay empty."""
    rng = np.random.default_rng(seed)
    shape = (slots, n) if features else (n,)
    eligible = rng.random((slots, n)) < 0.6 if limited else None
    at = offer(rng.normal(0, 1, shape), rng.uniform(0, 1, shape), kappa=rng.uniform(0.1, 1, slots), eligible=eligible)
    found = call(at, explorer, mode=mode, rng=rng, draws=8)
    shown = found.arms[found.arms != EMPTY]
    assert len(set(shown.tolist())) == len(shown)
    p = found.probabilities
    assert (p >= 0.0).all()
    assert (p[~at.eligible] == 0.0).all()
    assert (p.sum(axis=1) <= 1.0 + 1e-9).all()
    if at.eligible.sum(axis=1).min() >= slots:
        assert p.sum(axis=1) == pytest.approx(1.0)
        assert p[at.eligible].min() >= 0.05 / n / slots, "the floor reaches every arm"
    for slot, arm in enumerate(found.arms):
        assert 0.0 < found.propensity[slot] <= 1.0 + 1e-9
        if arm != EMPTY:
            assert at.eligible[slot, arm]
            assert found.propensity[slot] == p[slot, arm]


def test_arms_that_are_alike_share_evenly() -> None:
    """New arms under a greedy explorer: each is shown in each slot with the same chance, and it is so drawn."""
    at = offer(np.array([0.1, 0.5, 0.1, 0.1]), np.ones(4), kappa=np.array([1.0, 0.5, 0.2]))
    draw = partial(allocate, at, explorer="epsilon-greedy", rng=np.random.default_rng(1))
    assert draw().probabilities == pytest.approx(
        np.array([[0, 1, 0, 0], [1 / 3, 0, 1 / 3, 1 / 3], [1 / 3, 0, 1 / 3, 1 / 3]])
    )
    shown = np.array([draw().arms for _ in range(3000)])
    assert (np.abs(np.bincount(shown[:, 2], minlength=4)[[0, 2, 3]] - 1000) < 5 * np.sqrt(2000 / 3)).all()
    assert len({tuple(arms) for arms in shown.tolist()}) == 6


def test_worth_is_what_the_formula_says() -> None:
    """Kappa (value - click price) theta - price + bonus, with the sd scaled alike."""
    terms = Terms(
        value=np.array([2.0, 1.0]),
        click_price=np.array([0.5, 0.0]),
        price=np.array([0.1, 0.0]),
        bonus=np.array([0.0, 0.3]),
    )
    at = offer(np.array([0.2, 0.4]), np.array([0.1, 0.1]), kappa=np.array([1.0, 0.5]), terms=terms)
    assert at.mean == pytest.approx(np.array([[0.2, 0.7], [0.05, 0.5]]))
    assert at.sd == pytest.approx(np.array([[0.15, 0.1], [0.075, 0.05]]))
    assert not at.rank_one


def test_a_reserve_leaves_a_slot_empty() -> None:
    """At a price above its value nothing is shown, and the propensity says that this was certain."""
    at = offer(np.array([0.1]), np.zeros(1), kappa=np.ones(1), terms=Terms(price=np.array([0.2])), reserve=0.0)
    found = call(at, "thompson", rng=np.random.default_rng(1))
    assert found.arms.tolist() == [EMPTY]
    assert found.propensity.tolist() == [1.0]


def test_repeat_draws_slots_independently() -> None:
    """With one good arm it stands in both slots."""
    at = offer(np.array([0.9, 0.1]), np.full(2, 1e-3), kappa=np.array([1.0, 0.5]))
    found = call(at, "thompson", rng=np.random.default_rng(1), repeat=True)
    assert found.arms.tolist() == [0, 0]
    assert found.propensity == pytest.approx(0.975)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mode": "random"}, "mode = 'random'"),
        ({"explorer": "exp4"}, "no explorer 'exp4'"),
        ({"method": "marginal"}, "no formula"),
    ],
)
def test_what_cannot_be_done_is_refused(change: dict[str, str], says: str) -> None:
    """With the value and what is allowed."""
    with pytest.raises(ValueError, match=says):
        allocate(asked(features=True), rng=np.random.default_rng(1), **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("explorer", ["thompson", "ucb"])
def test_a_reserve_holds_for_every_explorer(explorer: str) -> None:
    """An arm that is worth something only in the first slot stands there or nowhere, and the second is not filled at a loss."""
    mean = np.array([[1.0, 0.1], [0.2, -1.0]])
    at = offer(mean, np.full((2, 2), 1e-6), kappa=np.ones(2), reserve=0.0)
    found = allocate(at, explorer=explorer, rng=np.random.default_rng(1))
    assert found.arms.tolist() == [0, EMPTY]
    assert found.propensity.tolist() == [1.0, 1.0]


def test_pruning_leaves_no_arm_out_that_is_shown() -> None:
    """With fewer arms than slots in one slot's list, and none in another's."""
    eligible = np.array([[True, False, False], [False, False, False]])
    at = offer(np.zeros((2, 3)), np.ones((2, 3)), kappa=np.ones(2), eligible=eligible)
    assert call(at, "thompson", rng=np.random.default_rng(1)).arms.tolist() == [0, EMPTY]
    none = offer(np.zeros((2, 3)), np.ones((2, 3)), kappa=np.ones(2), eligible=np.zeros((2, 3), bool))
    for explorer in EXPLORERS:
        assert call(none, explorer, rng=np.random.default_rng(1)).arms.tolist() == [EMPTY, EMPTY]
