"""Explorers as probability vectors: their closed forms. The laws that all of them obey: test_conformance.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.closed_forms import uncertainty
from policies.explorers import EXPLORERS, probabilities

MEAN, SD = np.array([1.0, 1.0, 0.0]), np.array([0.1, 0.1, 2.0])


@pytest.mark.parametrize(
    ("explorer", "rates", "expected"),
    [
        ("epsilon-greedy", {"epsilon": 0.3}, [0.45, 0.45, 0.1]),
        ("epsilon-greedy", {}, [0.5, 0.5, 0.0]),
        ("ucb", {}, [0.0, 0.0, 1.0]),
        ("ucb", {"alpha": 0.1}, [0.5, 0.5, 0.0]),
        ("ucb", {"epsilon": 0.06}, [0.02, 0.02, 0.96]),
        ("thompson", {"alpha": 0.0}, [0.5, 0.5, 0.0]),
        ("thompson", {"alpha": 0.0, "epsilon": 1.0}, [1 / 3, 1 / 3, 1 / 3]),
        ("softmax", {"tau": 1 / np.log(2)}, [0.4, 0.4, 0.2]),
        ("squarecb", {"gamma_scale": 1.0}, [5 / 12, 5 / 12, 1 / 6]),  # gamma = sqrt(9)/1
        ("squarecb", {"gamma_scale": 1.0, "epsilon": 0.5}, [3 / 8, 3 / 8, 1 / 4]),
        ("explore-first", {"first": 10.0}, [1 / 3, 1 / 3, 1 / 3]),
        ("explore-first", {"first": 9.0}, [0.5, 0.5, 0.0]),
        ("uncertainty", {}, [1 / 22, 1 / 22, 10 / 11]),
        ("uncertainty", {"power": 2.0}, [1 / 402, 1 / 402, 200 / 201]),
    ],
)
def test_explorers_are_their_closed_forms(explorer: str, rates: dict[str, float], expected: list[float]) -> None:
    """After 9 impressions, with a noise of 1. The floor mixes the uniform law in."""
    found = probabilities(MEAN, SD, explorer=explorer, rates=rates, count=9.0)
    assert found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("explorer", EXPLORERS)
@settings(max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    arms=st.integers(1, 12),
    rate=st.sampled_from([1e-3, 0.3, 1.0, 4.0, 1e30]),
    epsilon=st.sampled_from([0.0, 0.01, 0.5]),
    spread=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_every_law_is_a_distribution_with_its_floor(
    explorer: str, seed: int, arms: int, rate: float, epsilon: float, spread: float
) -> None:
    """Sums to one and keeps the floor, whatever the numbers."""
    rng = np.random.default_rng(seed)
    mean, sd = spread * rng.normal(size=arms), spread * rng.uniform(0.0, 2.0, arms)
    rates = {"epsilon": epsilon} | ({} if explorer == "epsilon-greedy" else {EXPLORERS[explorer].rate: rate})
    p = probabilities(mean, sd, explorer=explorer, rates=rates, count=1e9)
    assert p.sum() == pytest.approx(1.0, abs=1e-12)
    assert p.min() >= epsilon / arms * (1 - 1e-12)


def test_arms_that_are_known_exactly_leave_nothing_to_learn() -> None:
    """Uncertainty sampling is uniform where every width is zero."""
    assert uncertainty(np.zeros(4), 2.0).tolist() == [0.25] * 4


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"explorer": "greedy"}, "no explorer 'greedy'; choose one of thompson"),
        ({"rates": {"tau": 1.0}}, "explorer 'thompson' has no rate 'tau'; it has alpha, epsilon"),
        ({"rates": {"alpha": -0.1}}, "alpha = -0.1: must be not negative"),
        ({"rates": {"alpha": np.inf}}, "alpha = inf"),
        ({"explorer": "softmax", "rates": {"tau": 0.0}}, "tau = 0.0: must be above zero"),
        ({"rates": {"epsilon": 1.1}}, "epsilon = 1.1"),
        ({"rates": {"epsilon": np.nan}}, "epsilon = nan"),
        ({"mean": np.array([])}, "at least one arm"),
        ({"mean": np.array([1.0])}, "both must be"),
        ({"mean": np.array([1.0, np.nan, 0.0])}, "means must be finite"),
        ({"sd": np.array([1.0, -1.0, 0.0])}, "not negative"),
        ({"count": -1.0}, "count = -1.0"),
        ({"noise_sd": 0.0}, "noise_sd = 0.0"),
    ],
)
def test_impossible_arguments_are_refused_with_their_value(change: dict[str, object], reason: str) -> None:
    """The message names the value and what is allowed."""
    arguments: dict[str, object] = {"mean": MEAN, "sd": SD, "explorer": "thompson"} | change
    with pytest.raises(ValueError, match=reason):
        probabilities(**arguments)  # type: ignore[arg-type]
