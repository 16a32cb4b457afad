"""Thompson sampling over many arms: the estimate of the chosen arm's probability is unbiased, and is said to be one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from policies.arm_laws import ArmLaws, BetaLaws, NormalLaws, StudentLaws
from policies.batch import FloatArray
from policies.beta_thompson import thompson_beta
from policies.decide import MANY, MANY_KEPT, decide, law
from policies.decide_batch import decide_batch
from policies.model import MODELS, make_model
from policies.monte_carlo import draw_estimated, estimate, largest
from policies.prior import AnyPrior, BetaPrior, HybridPrior, Prior, StudentPrior
from policies.snapshot import Snapshot, build
from policies.thompson import thompson
from policies.thompson_student import scale_of, thompson_student

X = np.array([1.0, -0.5])
K = 150
KINDS = ("normal", "student", "beta")


def prior_of(model: str) -> AnyPrior:
    """What is believed of all arms."""
    mean, tau2 = np.array([0.2, 0.1]), np.ones(2)
    if model == "beta":
        return BetaPrior(a=2.0, b=30.0)
    if model == "student":
        return StudentPrior(mean=mean, tau2=tau2, s2=0.25, dof=6.0)
    if model == "hybrid":
        return HybridPrior(mean=mean, factor=0.1 * np.eye(2), tau2=tau2, s2=0.25)
    return Prior(mean=mean, tau2=tau2, s2=0.25)


def snapshot(arms: int = K, explorer: str = "thompson", name: str = "linear") -> Snapshot:
    """Arms that nobody has seen: alike, so that pruning leaves all of them."""
    model, prior = make_model(name, dimension=2), prior_of(name)
    return build(
        "front",
        model=model,
        sums={f"arm-{i}": model.zero() for i in range(arms)},
        prior=prior,
        version=1,
        previous=None,
        time_ms=0,
        now_ms=0,
        explorer=explorer,
        rates={"epsilon": 0.02},
    )


def laws(kind: str, arms: int = 120) -> tuple[ArmLaws, FloatArray]:
    """Arms of that kind, and the exact probability of each to be the largest."""
    rng = np.random.default_rng(1)
    mean, spread = np.sort(rng.normal(0, 0.3, arms)), rng.uniform(0.2, 0.6, arms)
    if kind == "normal":
        return NormalLaws(mean=mean, sd=spread), thompson(mean, spread)
    if kind == "student":
        dof = rng.uniform(3.0, 30.0, arms)
        return StudentLaws(mean=mean, scale=scale_of(spread, dof), dof=dof), thompson_student(mean, spread, dof)
    a, b = 20.0 * (1.0 + mean - mean.min()), rng.uniform(100.0, 300.0, arms)
    return BetaLaws(a=a, b=b), thompson_beta(a, b)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [0, 60, 119])
def test_the_estimate_is_unbiased(kind: str, rank: int) -> None:
    """The mean of 400 estimates is the exact probability within five standard errors, for likely and unlikely arms."""
    (arms, exact), rng = laws(kind), np.random.default_rng(rank)
    arm = int(exact.argsort()[rank])
    found = np.array([estimate(arms, arm, rng=rng, draws=16) for _ in range(400)])
    assert abs(found.mean() - exact[arm]) <= 5 * found.std() / 20 + 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_draw_has_the_product_of_the_distribution_functions(kind: str) -> None:
    """The chance of 20,000 draws under their law is uniform (Kolmogorov & Smirnov); without an arm's points it is not."""
    arms, _ = laws(kind)
    found = largest(arms, np.random.default_rng(2), 20_000)
    rows = np.arange(len(arms))
    under = np.array([1.0 - arms.above(np.full(len(arms), level), rows) for level in found[:2000]])
    assert stats.kstest(under.prod(axis=1), "uniform").pvalue > 1e-3
    assert stats.kstest(under[:, : len(arms) // 2].prod(axis=1), "uniform").pvalue < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_levels_are_exceeded_with_their_chance(kind: str) -> None:
    """Far out in the tail too."""
    arms, _ = laws(kind)
    rows, chance = np.array([3, 40, 90, 110]), np.array([0.9, 0.1, 1e-3, 1e-6])
    assert arms.above(arms.exceeded(chance, rows), rows) == pytest.approx(chance, rel=3e-3)


def test_the_bound_would_notice_a_biased_estimate() -> None:
    """With the arm among its own rivals it is off by more."""
    rng = np.random.default_rng(1)
    mean, sd = np.zeros(120), np.ones(120)
    with_itself = NormalLaws(mean=np.append(mean, 0.0), sd=np.append(sd, 1.0))
    found = np.array([estimate(with_itself, 7, rng=rng, draws=1024) for _ in range(400)])
    assert abs(found.mean() - thompson(mean, sd)[7]) > 5 * found.std() / 20 + 1e-6


def test_less_variance_than_counting() -> None:
    """One estimate of J draws errs less than the share of J draws that the arm wins."""
    rng = np.random.default_rng(2)
    alike = NormalLaws(mean=np.zeros(120), sd=np.ones(120))
    found = np.array([estimate(alike, 3, rng=rng, draws=64) for _ in range(200)])
    assert found.std() < 0.5 * np.sqrt(1 / 120 * (1 - 1 / 120) / 64)


def test_arms_are_drawn_by_the_law_and_its_floor() -> None:
    """Shares of 20,000 draws, and the mean of the estimates of those drawn, are those of the exact law."""
    rng = np.random.default_rng(3)
    mean, sd = rng.normal(0, 0.4, 110), rng.uniform(0.3, 0.6, 110)
    p = 0.9 * thompson(mean, sd) + 0.1 / 110
    drawn = [draw_estimated(NormalLaws(mean=mean, sd=sd), rng=rng, epsilon=0.1, draws=8) for _ in range(20_000)]
    share = np.bincount([arm for arm, _ in drawn], minlength=110) / len(drawn)
    assert (np.abs(share - p) <= 5 * np.sqrt(p * (1 - p) / len(drawn))).all()
    logged = np.array([propensity for _, propensity in drawn])
    assert logged.mean() == pytest.approx((p**2).sum(), rel=0.05)


def test_arms_known_exactly_have_estimates_too() -> None:
    """A point mass wins when no rival lies above it."""
    mean, sd = np.zeros(3), np.array([0.0, 1.0, 1.0])
    found = estimate(NormalLaws(mean=mean, sd=sd), 0, rng=np.random.default_rng(4), draws=40_000)
    assert found == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("name", MODELS)
def test_decisions_say_that_their_propensity_is_an_estimate(name: str) -> None:
    """Where more arms may win than are computed; there is no law beside it, and `law` gives the exact one."""
    arms = MANY_KEPT + 1 if name == "beta" else K
    front = snapshot(arms, name=name)
    decision = decide(front, X, rng=np.random.default_rng(5))
    assert (decision.propensity_kind, decision.probabilities) == ("estimate", None)
    many = [decide(front, X, rng=np.random.default_rng(seed)).propensity for seed in range(40)]
    assert np.mean(many) == pytest.approx(law(front, X)[0], abs=5 * np.std(many) / np.sqrt(40) + 1e-6)
    again = decide(front, X, rng=np.random.default_rng(5))
    assert (again.arm, again.propensity) == (decision.arm, decision.propensity)


@pytest.mark.parametrize("name", MODELS)
def test_batches_are_estimated_where_single_decisions_are(name: str) -> None:
    """Except for Beta arms, whose one law is computed for all contexts together."""
    arms = MANY_KEPT + 1 if name == "beta" else K
    decided = decide_batch(snapshot(arms, name=name), np.tile(X, (30, 1)), rng=np.random.default_rng(7))
    assert decided.estimated.all() == (name != "beta")
    assert decided.propensity.mean() == pytest.approx(1 / arms, rel=0.25)


@pytest.mark.parametrize(
    ("front", "candidates"),
    [
        (snapshot(MANY), None),
        (snapshot(), tuple(f"arm-{i}" for i in range(MANY))),
        (snapshot(explorer="ucb"), None),
        (snapshot(explorer="softmax"), None),
        (snapshot(MANY, name="student"), None),
        (snapshot(name="beta"), None),
    ],
    ids=["few arms", "few candidates", "ucb", "softmax", "few student arms", "beta"],
)
def test_other_decisions_are_exact(front: Snapshot, candidates: tuple[str, ...] | None) -> None:
    """With the law that they were drawn from."""
    decision = decide(front, X, candidates, rng=np.random.default_rng(6))
    assert decision.propensity_kind == "exact"
    assert decision.probabilities is not None
    assert decision.propensity == decision.probabilities[decision.candidates.index(decision.arm)]
