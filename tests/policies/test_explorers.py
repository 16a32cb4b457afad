"""Explorers as probability vectors: their closed forms, and the laws that all of them obey."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.explorers import EXPLORERS, probabilities

MEAN, SD = np.array([1.0, 1.0, 0.0]), np.array([0.1, 0.1, 2.0])


@pytest.mark.parametrize(
    ("explorer", "alpha", "epsilon", "expected"),
    [
        ("epsilon-greedy", 1.0, 0.3, [0.45, 0.45, 0.1]),
        ("epsilon-greedy", 0.0, 0.0, [0.5, 0.5, 0.0]),
        ("ucb", 1.0, 0.0, [0.0, 0.0, 1.0]),
        ("ucb", 0.1, 0.0, [0.5, 0.5, 0.0]),
        ("ucb", 1.0, 0.06, [0.02, 0.02, 0.96]),
        ("thompson", 0.0, 0.0, [0.5, 0.5, 0.0]),
        ("thompson", 0.0, 1.0, [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_explorers_are_their_closed_forms(explorer: str, alpha: float, epsilon: float, expected: list[float]) -> None:
    """Greedy splits ties, UCB takes the largest bound, width 0 is greedy, the floor mixes the uniform law in."""
    assert probabilities(MEAN, SD, explorer=explorer, alpha=alpha, epsilon=epsilon).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("explorer", EXPLORERS)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    arms=st.integers(1, 12),
    alpha=st.sampled_from([0.0, 0.3, 1.0, 4.0]),
    epsilon=st.sampled_from([0.0, 0.01, 0.5]),
    spread=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_every_law_is_a_distribution_with_its_floor(
    explorer: str, seed: int, arms: int, alpha: float, epsilon: float, spread: float
) -> None:
    """Sums to one, keeps the floor, does not depend on the arms' order nor on the reward's unit."""
    rng = np.random.default_rng(seed)
    mean, sd = spread * rng.normal(size=arms), spread * rng.uniform(0.0, 2.0, arms)
    p = probabilities(mean, sd, explorer=explorer, alpha=alpha, epsilon=epsilon)
    assert p.sum() == pytest.approx(1.0, abs=1e-12)
    assert p.min() >= epsilon / arms * (1 - 1e-12)
    order = rng.permutation(arms)
    assert probabilities(mean[order], sd[order], explorer=explorer, alpha=alpha, epsilon=epsilon) == pytest.approx(
        p[order], abs=2e-6
    )
    assert probabilities(1024 * mean, 1024 * sd, explorer=explorer, alpha=alpha, epsilon=epsilon) == pytest.approx(
        p, abs=2e-6
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"explorer": "softmax"}, "no explorer 'softmax'; choose one of thompson"),
        ({"alpha": -0.1}, "alpha = -0.1"),
        ({"alpha": np.inf}, "alpha = inf"),
        ({"epsilon": 1.1}, "epsilon = 1.1"),
        ({"epsilon": np.nan}, "epsilon = nan"),
        ({"mean": np.array([])}, "at least one arm"),
        ({"mean": np.array([1.0])}, "both must be"),
        ({"mean": np.array([1.0, np.nan, 0.0])}, "means must be finite"),
        ({"sd": np.array([1.0, -1.0, 0.0])}, "not negative"),
    ],
)
def test_impossible_arguments_are_refused_with_their_value(change: dict[str, object], reason: str) -> None:
    """The message names the value and what is allowed."""
    arguments: dict[str, object] = {"mean": MEAN, "sd": SD, "explorer": "thompson"} | change
    with pytest.raises(ValueError, match=reason):
        probabilities(**arguments)  # type: ignore[arg-type]
