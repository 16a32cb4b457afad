"""Position effects from feedback are those of the simulation within their standard errors, and counts add up."""

from __future__ import annotations

import numpy as np
import pytest

from policies.batch import FloatArray
from policies.positions import Counts, counts, estimate, swapped, swapped_law

KAPPA = np.array([1.0, 0.6, 0.35, 0.2])
P = np.array([0.3, 0.15, 0.08, 0.04, 0.02])


def simulated(
    n: int,
    seed: int,
    *,
    kappa: FloatArray = KAPPA,
    p: FloatArray = P,
    greedy: float = 0.7,
    predict: float | None = None,
) -> Counts:
    """Rows of a log that prefers good arms in good slots; `predict` scales what the policy had predicted for random contexts."""
    rng = np.random.default_rng(seed)
    slot = rng.integers(0, len(kappa), n)
    group = np.where(rng.random(n) < greedy, np.minimum(slot, len(p) - 1), rng.integers(0, len(p), n))
    truth = p[group]
    if predict is not None:
        truth = np.clip(truth * rng.uniform(0.2, 1.8, n), 0, 1)
    click = (rng.random(n) < kappa[slot] * truth).astype(float)
    predicted = None if predict is None else predict * truth
    return counts(slot, group, click, slots=len(kappa), groups=len(p), predicted=predicted)


@pytest.mark.parametrize("predict", [None, 0.5])
def test_the_truth_is_found_within_the_standard_errors(predict: float | None) -> None:
    """In 40 logs: errors in standard errors have the mean 0 and the variance 1, roughly, for every slot."""
    found = [estimate(simulated(20_000, seed, predict=predict)) for seed in range(40)]
    z = np.array([(one.kappa - KAPPA)[1:] / one.se[1:] for one in found])
    assert (np.abs(z.mean(axis=0)) < 5 / np.sqrt(40)).all()
    assert (z.std(axis=0) < 1.5).all()
    assert (z.std(axis=0) > 0.6).all()
    assert all(one.kappa[0] == 1.0 and one.se[0] == 0.0 for one in found)


def test_click_rates_of_slots_alone_would_be_off() -> None:
    """The log shows good arms in good slots, so the ratio of click rates is not kappa."""
    seen = simulated(200_000, 1)
    rate = seen.clicks.sum(axis=1) / seen.shown.sum(axis=1)
    assert np.abs(rate / rate[0] - KAPPA)[1:].min() > 0.05
    assert np.abs(estimate(seen).kappa - KAPPA).max() < 0.03


def test_a_later_slot_may_be_the_better_one() -> None:
    """Kappa of the first slot is 1, others may be above."""
    found = estimate(simulated(100_000, 2, kappa=np.array([0.4, 1.0])))
    assert found.kappa[1] == pytest.approx(2.5, abs=5 * found.se[1])
    assert found.b == pytest.approx(0.4 * P, rel=0.3)


def test_em_ends_at_the_maximum_of_the_likelihood() -> None:
    """No kappa near by, with the best b for it, has a higher one."""
    seen = simulated(20_000, 3)
    at = estimate(seen)

    def nats(kappa: FloatArray, b: FloatArray) -> float:
        r = np.clip(kappa[:, None] * b, 1e-9, 1 - 1e-9)
        return float((seen.clicks * np.log(r) + (seen.shown - seen.clicks) * np.log1p(-r)).sum())

    best = nats(at.kappa, at.b)
    rng = np.random.default_rng(1)
    for _ in range(200):
        kappa, b = at.kappa * np.exp(rng.normal(0, 0.02, 4)), at.b * np.exp(rng.normal(0, 0.02, 5))
        assert nats(kappa, b) <= best + 1e-6


def test_counts_of_parts_add_up() -> None:
    """Bit for bit; and taking a part back leaves the other."""
    one, two = simulated(1000, 4), simulated(500, 5)
    both = one + two
    assert (both.shown == one.shown + two.shown).all()
    left = both + two * -1.0
    assert (left.clicks == one.clicks).all()
    assert estimate(left).kappa.tolist() == estimate(one).kappa.tolist()


def test_a_slot_that_cannot_be_compared_keeps_its_start() -> None:
    """Its arms were never shown in the first slot: the error is infinite, and the others are found."""
    seen = Counts(
        shown=np.array([[1000.0, 0.0], [1000.0, 0.0], [0.0, 1000.0]]),
        clicks=np.array([[100.0, 0.0], [50.0, 0.0], [0.0, 30.0]]),
        predicted=np.array([[1000.0, 0.0], [1000.0, 0.0], [0.0, 1000.0]]),
    )
    found = estimate(seen, start=np.array([1.0, 0.8, 0.3]))
    assert found.kappa == pytest.approx([1.0, 0.5, 0.3])
    assert np.isinf(found.se[2])
    empty = estimate(seen * 0.0, start=np.array([1.0, 0.8, 0.3]))
    assert empty.kappa == pytest.approx([1.0, 0.8, 0.3])


def test_swaps_have_the_law_they_say() -> None:
    """Shares of 20,000 swapped allocations, within five standard errors."""
    rng, arms, n = np.random.default_rng(6), np.array([3, 1, 2]), 20_000
    p = np.zeros((3, 4))
    p[[0, 1, 2], arms] = 1.0
    shown = np.zeros((3, 4))
    for _ in range(n):
        shown[[0, 1, 2], swapped(arms, share=0.3, rng=rng)] += 1 / n
    law = swapped_law(p, share=0.3)
    assert law.sum(axis=1) == pytest.approx(1.0)
    assert (np.abs(shown - law) <= 5 * np.sqrt(law * (1 - law) / n)).all()


def test_rows_that_cannot_be_are_refused() -> None:
    """A slot that is not there, a reward instead of a click."""
    one = np.array([0])
    with pytest.raises(ValueError, match="slots go from 0 to 0"):
        counts(np.array([1]), one, np.ones(1), slots=1, groups=1)
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        counts(one, one, np.array([2.5]), slots=1, groups=1)
