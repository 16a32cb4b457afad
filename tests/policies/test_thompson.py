"""Thompson sampling's probabilities by quadrature against closed forms and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from policies.thompson import NEGLIGIBLE, raw_thompson, thompson


@pytest.mark.parametrize("arms", [1, 2, 8, 30])
def test_probabilities_match_simulation(arms: int) -> None:
    """The quadrature agrees with 400,000 draws within five standard errors and sums to one."""
    rng = np.random.default_rng(arms)
    mean, sd = rng.normal(0, 1, arms), rng.uniform(0.05, 1.5, arms)
    p = thompson(mean, sd)
    draws = rng.normal(mean, sd, (400_000, arms)).argmax(axis=1)
    share = np.bincount(draws, minlength=arms) / len(draws)
    error = np.sqrt(np.maximum(p * (1 - p), 1e-6) / len(draws))
    assert p.sum() == pytest.approx(1.0, abs=1e-12)
    assert (np.abs(share - p) <= 5 * error + 1e-5).all()


def test_simulation_would_notice_a_wrong_law() -> None:
    """The same bound refuses widths that are 3% off."""
    rng = np.random.default_rng(8)
    mean, sd = rng.normal(0, 1, 8), rng.uniform(0.05, 1.5, 8)
    p = thompson(mean, 1.03 * sd)
    share = np.bincount(rng.normal(mean, sd, (400_000, 8)).argmax(axis=1), minlength=8) / 400_000
    assert (np.abs(share - p) > 5 * np.sqrt(np.maximum(p * (1 - p), 1e-6) / 400_000) + 1e-5).any()


@pytest.mark.parametrize(
    ("mean", "sd"), [((0.0, 1.0), (1.0, 1.0)), ((0.0, 0.01), (1e-3, 2.0)), ((5.0, 4.0), (0.2, 0.9))]
)
def test_two_arms_are_the_closed_form(mean: tuple[float, float], sd: tuple[float, float]) -> None:
    """P(first wins) = Phi((m1 - m2)/hypot(s1, s2)), also where one is a thousand times wider."""
    p = thompson(np.array(mean), np.array(sd))
    assert p[0] == pytest.approx(norm.cdf((mean[0] - mean[1]) / np.hypot(*sd)), abs=1e-6)


@pytest.mark.parametrize("arms", [2, 5, 50, 400])
def test_arms_that_are_alike_share_equally(arms: int) -> None:
    """1/K each, and the quadrature itself, before it is made to sum to one, is off by less than half a percent."""
    mean, sd = np.full(arms, 0.3), np.full(arms, 0.01)
    assert thompson(mean, sd) == pytest.approx(np.full(arms, 1 / arms), rel=1e-9)
    assert raw_thompson(mean, sd).sum() == pytest.approx(1.0, abs=5e-3)


def test_an_arm_that_can_hardly_win_gets_exactly_zero() -> None:
    """Below 1e-6, so that nothing is logged with a propensity that no quadrature can vouch for."""
    p = thompson(np.array([0.0, -7.0, 0.1]), np.ones(3))
    assert p[1] == 0.0
    assert p[p > 0].min() >= NEGLIGIBLE


def test_a_point_mass_is_beaten_by_whoever_draws_above_it() -> None:
    """One arm known exactly against one that is not: p = P(draw > point)."""
    p = thompson(np.array([0.5, 0.0]), np.array([0.0, 1.0]))
    assert p.tolist() == pytest.approx([norm.cdf(0.5), norm.sf(0.5)], abs=1e-6)
