"""Thompson sampling over Beta posteriors by quadrature against closed forms and simulation."""

from __future__ import annotations

import numpy as np
import pytest

from policies.beta_thompson import beta_moments, thompson_beta


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((1.0, 2.0, 3.0), (1.0, 1.0, 9.0)),
        ((40.0, 45.0, 2.0, 1.0), (900.0, 950.0, 60.0, 30.0)),
        ((0.3, 0.5), (0.4, 2.0)),
    ],
    ids=["few", "clicks", "steep"],
)
def test_probabilities_match_simulation(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    """The quadrature agrees with 400,000 draws within five standard errors and sums to one."""
    p = thompson_beta(np.array(a), np.array(b))
    draws = np.random.default_rng(1).beta(a, b, (400_000, len(a))).argmax(axis=1)
    share = np.bincount(draws, minlength=len(a)) / len(draws)
    assert p.sum() == pytest.approx(1.0, abs=1e-12)
    assert (np.abs(share - p) <= 5 * np.sqrt(p * (1 - p) / len(draws)) + 1e-5).all()


def test_two_uniforms_and_their_like_are_the_closed_form() -> None:
    """Beta(1, 1) against Beta(m, 1): the second wins with m/(m + 1)."""
    for m in (1.0, 2.0, 50.0):
        assert thompson_beta(np.array([1.0, m]), np.ones(2))[1] == pytest.approx(m / (m + 1), abs=1e-6)


def test_a_wider_exploration_is_nearer_to_uniform() -> None:
    """Its square divides the counts."""
    a, b = np.array([40.0, 50.0]), np.array([900.0, 900.0])
    assert thompson_beta(a, b, alpha=2.0) == pytest.approx(thompson_beta(a / 4, b / 4), abs=1e-12)
    assert thompson_beta(a, b, alpha=3.0)[0] > thompson_beta(a, b)[0]


def test_moments_are_the_textbooks() -> None:
    """a/(a + b) and sqrt(ab/(a + b)^2/(a + b + 1))."""
    mean, sd = beta_moments(np.array([2.0]), np.array([6.0]))
    assert mean[0] == 0.25
    assert sd[0] == pytest.approx((12 / 64 / 9) ** 0.5, rel=1e-15)
