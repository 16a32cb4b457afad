"""The law of the third slot for what is shown is that of the whole sum, however unequal the weights."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest

from policies.allocation import allocate
from policies.explorers import check
from policies.offers import offer
from policies.slot_weights import laws_by_weights, scaled_rows
from policies.slots_together import allocate_together
from policies.third_slot import law_of_third


@pytest.mark.parametrize("arms", [9, 12, 30, 100, 250])
@pytest.mark.parametrize("scale", [0.01, 1.0, 3.0, 10.0, 200.0])
@pytest.mark.parametrize("alike", [True, False], ids=["alike", "each its own"])
def test_it_is_the_whole_law_of_what_may_be_shown(arms: int, scale: float, alike: bool) -> None:
    """Arms as they are drawn, and the likeliest and one of the others of each request: to 1e-11 of the probability."""
    rng = np.random.default_rng(7)
    logs = [rng.normal(size=(12, arms)) * scale for _ in range(3)]
    weights = scaled_rows([logs[0]] * 3 if alike else logs)
    whole = laws_by_weights(weights)
    shown = [[rng.choice(arms, p=p) for p in whole[2]], whole[2].argmax(axis=1), rng.integers(arms, size=12)]
    for arm in map(np.asarray, shown):
        found = law_of_third(weights, whole[0], arm)
        assert found == pytest.approx(whole[2][np.arange(12), arm], rel=1e-11, abs=1e-290)


def test_it_is_the_sum_over_all_that_may_stand_before() -> None:
    """In whole fractions, over all ordered pairs of the other arms."""
    rng = np.random.default_rng(8)
    weights = [np.exp(rng.normal(size=(1, 20)) * scale) for scale in (1.0, 2.0, 3.0)]
    first = weights[0] / weights[0].sum()
    one, two, three = ([Fraction(w) for w in row[0].tolist()] for row in weights)
    sums = sum(one), sum(two), sum(three)
    for arm in range(20):
        exact = sum(
            one[b] / sums[0] * two[c] / (sums[1] - two[b]) * three[arm] / (sums[2] - three[b] - three[c])
            for b, c in permutations([a for a in range(20) if a != arm], 2)
        )
        assert law_of_third(weights, first, np.array([arm])) == pytest.approx(float(exact), rel=1e-12)


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
@pytest.mark.parametrize("kappa", [np.ones(3), np.array([0.5, 1.0, 0.7])], ids=["alike", "falling"])
def test_pages_of_many_arms_say_what_each_page_would(epsilon: float, kappa: np.ndarray) -> None:
    """Enough requests and arms for the faster way."""
    rng = np.random.default_rng(9)
    means = rng.normal(0.1, 0.07, (30, 60))
    rates = check("softmax", {"tau": 0.02, "epsilon": epsilon})
    found = allocate_together(means, 0.0 * means, kappa=kappa, explorer="softmax", rates=rates, rngs=[rng] * len(means))
    for mean, shown in zip(means, found, strict=True):
        p = allocate(offer(mean, 0.0 * mean, kappa=kappa), explorer="softmax", rates=rates, rng=rng).probabilities
        assert shown.propensity == pytest.approx([p[slot, arm] for slot, arm in enumerate(shown.arms)], rel=1e-10)
        assert len(set(shown.arms)) == 3
