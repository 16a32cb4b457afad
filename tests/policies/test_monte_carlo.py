"""Thompson sampling over many arms: the estimate of the chosen arm's probability is unbiased, and is said to be one."""

from __future__ import annotations

import numpy as np
import pytest

from policies.decide import MANY, decide, law
from policies.model import make_model
from policies.monte_carlo import draw_estimated, estimate
from policies.prior import Prior
from policies.snapshot import Snapshot, build
from policies.thompson import thompson

X = np.array([1.0, -0.5])
K = 150


def snapshot(arms: int = K, explorer: str = "thompson", tau2: float = 1.0) -> Snapshot:
    """Arms that nobody has seen: alike, so that pruning leaves all of them."""
    model = make_model("linear", dimension=2)
    prior = Prior(mean=np.array([0.2, 0.1]), tau2=np.full(2, tau2), s2=0.25)
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


@pytest.mark.parametrize("arm", [0, 7, 119])
def test_the_estimate_is_unbiased(arm: int) -> None:
    """The mean of 400 estimates is the exact probability within five standard errors, for likely and unlikely arms."""
    rng = np.random.default_rng(arm)
    mean, sd = np.sort(rng.normal(0, 0.3, 120)), rng.uniform(0.2, 0.6, 120)
    found = np.array([estimate(mean, sd, arm, rng=rng, draws=16) for _ in range(400)])
    assert abs(found.mean() - thompson(mean, sd)[arm]) <= 5 * found.std() / 20 + 1e-6


def test_the_bound_would_notice_a_biased_estimate() -> None:
    """With the arm among its own rivals it is off by more."""
    rng = np.random.default_rng(1)
    mean, sd = np.zeros(120), np.ones(120)
    found = np.array([estimate(np.append(mean, 0.0), np.append(sd, 1.0), 7, rng=rng, draws=1024) for _ in range(400)])
    assert abs(found.mean() - thompson(mean, sd)[7]) > 5 * found.std() / 20 + 1e-6


def test_less_variance_than_counting() -> None:
    """One estimate of J draws errs less than the share of J draws that the arm wins."""
    rng = np.random.default_rng(2)
    found = np.array([estimate(np.zeros(120), np.ones(120), 3, rng=rng, draws=64) for _ in range(200)])
    assert found.std() < 0.5 * np.sqrt(1 / 120 * (1 - 1 / 120) / 64)


def test_arms_are_drawn_by_the_law_and_its_floor() -> None:
    """Shares of 20,000 draws, and the mean of the estimates of those drawn, are those of the exact law."""
    rng = np.random.default_rng(3)
    mean, sd = rng.normal(0, 0.4, 110), rng.uniform(0.3, 0.6, 110)
    p = 0.9 * thompson(mean, sd) + 0.1 / 110
    drawn = [draw_estimated(mean, sd, rng=rng, epsilon=0.1, draws=8) for _ in range(20_000)]
    share = np.bincount([arm for arm, _ in drawn], minlength=110) / len(drawn)
    assert (np.abs(share - p) <= 5 * np.sqrt(p * (1 - p) / len(drawn))).all()
    logged = np.array([propensity for _, propensity in drawn])
    assert logged.mean() == pytest.approx((p**2).sum(), rel=0.05)


def test_arms_known_exactly_have_estimates_too() -> None:
    """A point mass wins when no rival lies above it."""
    mean, sd = np.zeros(3), np.array([0.0, 1.0, 1.0])
    found = estimate(mean, sd, 0, rng=np.random.default_rng(4), draws=40_000)
    assert found == pytest.approx(0.25, abs=0.01)


def test_decisions_say_that_their_propensity_is_an_estimate() -> None:
    """Above 100 arms that may win; there is no law beside it, and `law` gives the exact one."""
    decision = decide(snapshot(), X, rng=np.random.default_rng(5))
    assert (decision.propensity_kind, decision.probabilities) == ("estimate", None)
    assert decision.propensity == pytest.approx(law(snapshot(), X)[0], rel=0.6)
    again = decide(snapshot(), X, rng=np.random.default_rng(5))
    assert (again.arm, again.propensity) == (decision.arm, decision.propensity)


@pytest.mark.parametrize(
    ("front", "candidates"),
    [
        (snapshot(MANY), None),
        (snapshot(), tuple(f"arm-{i}" for i in range(MANY))),
        (snapshot(explorer="ucb"), None),
        (snapshot(explorer="softmax"), None),
    ],
    ids=["few arms", "few candidates", "ucb", "softmax"],
)
def test_other_decisions_are_exact(front: Snapshot, candidates: tuple[str, ...] | None) -> None:
    """With the law that they were drawn from."""
    decision = decide(front, X, candidates, rng=np.random.default_rng(6))
    assert decision.propensity_kind == "exact"
    assert decision.probabilities is not None
    assert decision.propensity == decision.probabilities[decision.candidates.index(decision.arm)]
