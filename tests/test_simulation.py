"""The simulated world: its laws, its seed, and what is possible in it."""

from __future__ import annotations

import numpy as np
import pytest

from streams.simulation import make_world, rates, share_of_possible


def test_same_seed_gives_the_same_world_and_another_seed_another() -> None:
    """A world is a function of its arguments."""
    one, same, other = make_world(seed=3), make_world(seed=3), make_world(seed=4)
    assert np.array_equal(one.theta, same.theta)
    assert not np.array_equal(one.theta, other.theta)


def test_contexts_start_with_the_constant_and_are_exact_in_float32() -> None:
    """Contexts are dyadic, so that sums over them are exact."""
    x = make_world(dimension=5).contexts(1000, rng=np.random.default_rng(0))
    assert x.shape == (1000, 5)
    assert np.all(x[:, 0] == 1.0)
    assert np.array_equal(x, x.astype(np.float32))
    assert np.abs(x).max() <= 2.0


def test_click_frequency_matches_the_probability() -> None:
    """Clicks drawn with the probabilities come at their rate, within five standard errors."""
    world, rng = make_world(), np.random.default_rng(1)
    p = world.probabilities(world.contexts(20_000, rng=rng))
    clicks = rng.random(p.shape) < p
    error = np.sqrt((p * (1 - p)).sum()) / p.size
    assert abs(clicks.mean() - p.mean()) < 5 * error


def test_delays_have_the_mean_of_the_truncated_exponential() -> None:
    """The mean of an exponential cut at w is m - w / (e^(w/m) - 1)."""
    world = make_world(mean_delay_s=2.0, window_s=6.0)
    delays = world.delays_s(200_000, rng=np.random.default_rng(2))
    expected = 2.0 - 6.0 / np.expm1(3.0)
    assert delays.max() < 6.0
    assert delays.min() >= 0.0
    assert delays.mean() == pytest.approx(expected, abs=5 * delays.std() / np.sqrt(len(delays)))


@pytest.mark.parametrize("seed", range(8))
def test_context_matters_and_uniform_is_clearly_worse(seed: int) -> None:
    """What the demo claims of its world: best is twice uniform at least, and no single arm comes near."""
    world = make_world(seed=seed)
    possible = rates(world, world.contexts(20_000, rng=np.random.default_rng(0)))
    assert 0.03 < possible.uniform < 0.08
    assert possible.best > 2 * possible.uniform
    assert possible.uniform < possible.best_single < possible.uniform + 0.6 * (possible.best - possible.uniform)


def test_share_is_zero_for_uniform_and_one_for_best() -> None:
    """The scale that the demo reports on; where nothing can be won, nothing is."""
    assert share_of_possible(0.05, uniform=0.05, best=0.15) == 0.0
    assert share_of_possible(0.15, uniform=0.05, best=0.15) == 1.0
    assert share_of_possible(0.05, uniform=0.05, best=0.05) == 0.0


@pytest.mark.parametrize(("arms", "dimension", "base_rate"), [(1, 8, 0.05), (5, 1, 0.05), (5, 8, 0.0), (5, 8, 1.0)])
def test_impossible_worlds_are_refused(arms: int, dimension: int, base_rate: float) -> None:
    """The text says what a world needs."""
    with pytest.raises(ValueError, match=r"world needs|must be above"):
        make_world(arms=arms, dimension=dimension, base_rate=base_rate)
