"""Priors fitted to all arms together: they recover what the arms were drawn from, and start somewhere sensible."""

from __future__ import annotations

import numpy as np
import pytest

from policies.empirical_bayes import fit, fit_beta, fit_linear, start_linear
from policies.prior import BetaPrior, Prior
from policies.sums import Effective
from tests.policies.batches import regression


def drawn_arms(arms: int, rows: int, s2: float) -> dict[str, Effective]:
    """Arms whose weights are drawn from N((0.3, 0, 0.1), diag(0.12, 0.08, 0.08)^2)."""
    rng = np.random.default_rng(9)
    thetas = np.array([0.3, 0.0, 0.1]) + rng.normal(0, [0.12, 0.08, 0.08], (arms, 3))
    return {str(i): regression(theta, rows, s2, rng) for i, theta in enumerate(thetas)}


def rate(n: float, reward: float) -> Effective:
    """An arm with rewards of 0 and 1."""
    return Effective(n_eff=n, count=n, reward=reward, square=reward)


def nothing(d: int) -> Effective:
    """An arm that was never shown."""
    return Effective(n_eff=0.0, count=0.0, reward=0.0, square=0.0, b=np.zeros(d), A=np.zeros((d, d)))


def test_the_prior_and_the_noise_are_recovered() -> None:
    """From 200 arms of 400 rows: the mean within 0.02, the spread within a third, the noise within 3%."""
    prior = fit_linear(drawn_arms(200, 400, 0.25), dimension=3, intercept=0)
    assert np.allclose(prior.mean, [0.3, 0.0, 0.1], atol=0.02)
    assert np.sqrt(prior.tau2) == pytest.approx([0.12, 0.08, 0.08], rel=0.34)
    assert prior.s2 == pytest.approx(0.25, rel=0.03)


def test_the_noise_is_not_the_variance_of_the_rewards() -> None:
    """Where contexts explain most of the rewards, what is left is far below c/n - (r/n)^2."""
    rng = np.random.default_rng(3)
    arms = {str(i): regression(np.array([0.0, 2.0, -2.0]), 500, 0.01, rng) for i in range(20)}
    one = arms["0"]
    assert one.square / one.n_eff - (one.reward / one.n_eff) ** 2 > 4.0
    assert fit_linear(arms, dimension=3, intercept=0).s2 < 0.1


def test_arms_that_tell_nothing_change_nothing() -> None:
    """Never shown, or with sums that are not finite: the fit is the one without them."""
    arms = drawn_arms(20, 50, 0.25)
    bad = Effective(n_eff=5.0, count=5.0, reward=np.nan, square=1.0, b=np.full(3, np.nan), A=np.eye(3))
    assert fit_linear(arms | {"new": nothing(3), "bad": bad}, dimension=3) == fit_linear(arms, dimension=3)


def test_without_data_the_prior_is_its_start() -> None:
    """No rows teach nothing; a start that is given stays."""
    none = {"a": nothing(3)}
    assert fit_linear(none, dimension=3) == start_linear(none, dimension=3)
    start = Prior(mean=np.ones(3), tau2=np.ones(3), s2=2.0)
    assert fit_linear(none, start, dimension=3) == start
    assert fit_beta({}) == BetaPrior(a=1.0, b=1.0)
    assert fit_beta({"a": rate(0.0, 0.0)}, BetaPrior(a=2.0, b=5.0)) == BetaPrior(a=2.0, b=5.0)


def test_rates_without_a_reward_are_not_zero() -> None:
    """A thousand impressions without a click leave a prior with a small rate and a positive spread."""
    arms = {
        str(i): Effective(n_eff=500.0, count=500.0, reward=0.0, square=0.0, b=np.zeros(2), A=500 * np.eye(2))
        for i in range(2)
    }
    prior = fit_linear(arms, dimension=2, intercept=0)
    assert 0.0 < prior.mean[0] < 0.01
    assert (prior.tau2 > 0.0).all()
    beta = fit_beta(arms)
    assert 0.0 < beta.a / (beta.a + beta.b) < 0.01


def test_beta_moments_are_the_closed_form() -> None:
    """The mean is the pooled rate; the spread is the arms' own, shrunk to the start with the weight of 4 arms."""
    prior = fit_beta({str(i): rate(1e4, r) for i, r in enumerate((300.0, 400.0, 500.0))})
    p, n = 0.04, 1e4
    tau2 = (2 * n * 0.01**2 - p * (1 - p) * 2) / (3 * n - n - 2)
    pooled = (3 * tau2 + 4 * (0.5 * p) ** 2) / 7
    assert prior.a / (prior.a + prior.b) == pytest.approx(p, rel=1e-12)
    assert prior.a + prior.b == pytest.approx(p * (1 - p) / pooled - 1, rel=1e-12)


def test_arms_that_are_alike_give_a_narrower_prior_than_arms_that_differ() -> None:
    """With hundreds of arms the start's weight is gone."""
    alike = fit_beta({str(i): rate(1e4, 400.0) for i in range(300)})
    apart = fit_beta({str(i): rate(1e4, 100.0 + 600.0 * (i % 2)) for i in range(300)})
    assert alike.a + alike.b > 20 * (apart.a + apart.b)


@pytest.mark.parametrize("intercept", [-1, 3])
def test_an_intercept_outside_the_context_is_refused(intercept: int) -> None:
    """With the value and what is allowed."""
    with pytest.raises(ValueError, match=f"intercept = {intercept}: must be the index of a component, 0 to 2"):
        fit_linear({}, dimension=3, intercept=intercept)


def test_a_start_of_another_kind_is_refused() -> None:
    """A prior of another model or length is not silently taken as a start."""
    linear = Prior(mean=np.zeros(2), tau2=np.ones(2), s2=1.0)
    with pytest.raises(ValueError, match="start of type Prior"):
        fit({}, linear, model="beta", dimension=2)
    with pytest.raises(ValueError, match="start of type BetaPrior"):
        fit({}, BetaPrior(a=1.0, b=1.0), model="linear", dimension=2)
    with pytest.raises(ValueError, match="start has 2 components"):
        fit({}, linear, model="linear", dimension=3)
