"""Posteriors are the textbook's, and sums that cannot be used give the prior with an alarm."""

from __future__ import annotations

import numpy as np
import pytest

from policies.posterior import BetaPosterior, beta_posterior, linear_posterior, posterior
from policies.prior import BetaPrior, Prior
from policies.sums import Effective
from tests.policies.batches import regression

PRIOR = Prior(mean=np.array([0.1, 0.0, 0.0]), tau2=np.array([0.5, 0.2, 0.1]), s2=0.1)


def test_the_linear_posterior_is_the_textbooks() -> None:
    """Precision diag(1/tau2) + A/s2, mean its solve, and ||W x||^2 = x' V x with W lower triangular."""
    rng = np.random.default_rng(10)
    arm = regression(np.array([0.2, 0.1, -0.1]), 50, 0.1, rng)
    found = linear_posterior(PRIOR, arm)
    precision = np.diag(1 / PRIOR.tau2) + arm.A / PRIOR.s2
    assert np.allclose(found.mean, np.linalg.solve(precision, PRIOR.mean / PRIOR.tau2 + arm.b / PRIOR.s2))
    x = rng.normal(size=3)
    assert ((found.factor @ x) ** 2).sum() == pytest.approx(x @ np.linalg.inv(precision) @ x)
    assert np.array_equal(found.factor, np.tril(found.factor))
    assert not found.alarm


def test_without_rows_the_posterior_is_the_prior() -> None:
    """Mean and width, and no alarm: an arm without rows is no error."""
    found = linear_posterior(
        PRIOR, Effective(n_eff=0.0, count=0.0, reward=0.0, square=0.0, b=np.zeros(3), A=np.zeros((3, 3)))
    )
    assert np.allclose(found.mean, PRIOR.mean)
    assert np.allclose(found.factor, np.diag(np.sqrt(PRIOR.tau2)))
    assert not found.alarm


@pytest.mark.parametrize(
    ("n_eff", "reward", "a", "b"),
    [(10.0, 3.0, 4.0, 16.0), (0.0, 0.0, 1.0, 9.0), (2.0, 5.0, 6.0, 9.0), (10.0, -0.5, 0.5, 19.5)],
    ids=["usual", "nothing", "more reward than shown", "negative change"],
)
def test_the_beta_posterior_counts_rewards_and_the_rest(n_eff: float, reward: float, a: float, b: float) -> None:
    """a0 + r and b0 + max(n - r, 0)."""
    arm = Effective(n_eff=n_eff, count=n_eff, reward=reward, square=reward)
    assert beta_posterior(BetaPrior(a=1.0, b=9.0), arm) == BetaPosterior(a=a, b=b)


@pytest.mark.parametrize("reward", [np.nan, np.inf, -2.0])
def test_beta_sums_that_cannot_be_used_are_the_prior_with_an_alarm(reward: float) -> None:
    """Not finite, or so negative that a would be."""
    arm = Effective(n_eff=5.0, count=5.0, reward=reward, square=1.0)
    assert beta_posterior(BetaPrior(a=1.0, b=9.0), arm) == BetaPosterior(a=1.0, b=9.0, alarm=True)


@pytest.mark.parametrize(
    ("A", "b"),
    [
        (np.full((3, 3), np.nan), np.zeros(3)),
        (-100.0 * np.eye(3), np.zeros(3)),
        (np.eye(3), np.array([0.0, np.inf, 0.0])),
    ],
    ids=["nan", "indefinite", "infinite"],
)
def test_linear_sums_that_cannot_be_used_are_the_prior_with_an_alarm(A: np.ndarray, b: np.ndarray) -> None:
    """One damaged arm does not end the publisher, and is told."""
    found = linear_posterior(PRIOR, Effective(n_eff=5.0, count=5.0, reward=1.0, square=1.0, b=b, A=A))
    assert found.alarm
    assert np.array_equal(found.mean, PRIOR.mean)
    assert np.allclose(found.factor, np.diag(np.sqrt(PRIOR.tau2)))


def test_a_matrix_that_rounding_made_singular_still_gives_a_factor() -> None:
    """The pending share is subtracted, which may leave an eigenvalue a little below zero: jitter, not the prior."""
    x = np.array([1.0, 1.0, 0.0])
    A = 1e9 * np.outer(x, x) - 1e-3 * np.eye(3)
    wide = Prior(mean=np.zeros(3), tau2=np.full(3, 1e6), s2=1.0)
    found = linear_posterior(wide, Effective(n_eff=1e9, count=1e9, reward=0.0, square=0.0, b=np.zeros(3), A=A))
    assert not found.alarm
    assert np.isfinite(found.factor).all()


def test_sums_of_another_dimension_are_refused() -> None:
    """With all the shapes."""
    arm = Effective(n_eff=0.0, count=0.0, reward=0.0, square=0.0, b=np.zeros(2), A=np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"the prior has 3 components, b \(2,\) and A \(2, 2\)"):
        posterior(PRIOR, arm)
