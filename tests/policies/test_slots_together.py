"""Slots of many requests at once have the laws of each request by itself."""

from __future__ import annotations

import numpy as np
import pytest

from policies.allocation import allocate
from policies.explorers import check
from policies.matching import Mode
from policies.offers import Terms, offer
from policies.slot_weights import uniform
from policies.slots_together import allocate_together

MEANS = np.random.default_rng(1).normal(0.1, 0.05, (6, 5))
SDS = np.random.default_rng(2).uniform(0.01, 0.1, (6, 5))
KAPPA = np.array([0.5, 1.0, 0.7])
TERMS = Terms(value=np.array([1.0, 2.0, 1.0, 1.0, 0.5]), price=np.array([0.0, 0.1, 0.0, 0.05, 0.0]))


@pytest.mark.parametrize("explorer", ["softmax", "uncertainty", "explore-first", "thompson", "squarecb", "ucb"])
@pytest.mark.parametrize("kappa", [np.ones(3), KAPPA, np.ones(2)], ids=["alike", "falling", "two"])
@pytest.mark.parametrize("terms", [Terms(), TERMS], ids=["plain", "terms"])
def test_each_request_has_its_own_law(explorer: str, kappa: np.ndarray, terms: Terms) -> None:
    """What is said of the arms shown is what `allocate` says of them, whatever was drawn."""
    rates = check(explorer, {"epsilon": 0.1})
    rng = np.random.default_rng(3)
    mode: Mode = "sequential" if explorer == "thompson" else "assignment"
    for _ in range(20):
        found = allocate_together(
            MEANS, SDS, kappa=kappa, explorer=explorer, rates=rates, rngs=[rng] * 6, terms=terms, mode=mode
        )
        for mean, sd, shown in zip(MEANS, SDS, found, strict=True):
            asked = offer(mean, sd, kappa=kappa, terms=terms)
            p = allocate(asked, explorer=explorer, rates=rates, rng=rng, mode=mode).probabilities
            assert shown.propensity == pytest.approx([p[slot, arm] for slot, arm in enumerate(shown.arms)], abs=1e-9)
            assert len(set(shown.arms)) == len(kappa)


@pytest.mark.parametrize("scale", [1.0, 30.0, 3000.0])
def test_draws_have_the_frequencies_that_are_logged(scale: float) -> None:
    """Softmax over three slots, weights alike and weights of which one or two hold nearly all."""
    n = 20_000
    means = np.tile(MEANS[0] * scale, (n, 1))
    rates = check("softmax", {"epsilon": 0.05, "tau": 0.1})
    rngs = [np.random.default_rng(4)] * n
    shown, logged = np.zeros((3, 5)), np.zeros((3, 5))
    for _ in range(5):
        for one in allocate_together(means, 0.0 * means, kappa=KAPPA, explorer="softmax", rates=rates, rngs=rngs):
            shown[(0, 1, 2), one.arms] += 1.0
            logged[(0, 1, 2), one.arms] = one.propensity
    p = shown / (5 * n)
    assert (np.abs(p - logged) < 5.0 * np.sqrt(logged * (1.0 - logged) / (5 * n)) + 1e-9).all()


def test_fewer_arms_than_slots_fill_the_best_slots_with_exact_probabilities() -> None:
    """Two arms and three slots: the slot of the least effect stays empty, and the law is that of two slots."""
    mask = np.array([True, True, False, False, False])
    rates = check("softmax", {"epsilon": 0.0})
    rng = np.random.default_rng(5)
    found = allocate(offer(MEANS[0], SDS[0], kappa=KAPPA, eligible=mask), explorer="softmax", rates=rates, rng=rng)
    two = allocate(offer(MEANS[0, :2], SDS[0, :2], kappa=KAPPA[1:]), explorer="softmax", rates=rates, rng=rng)
    assert found.method == "marginal"
    assert (found.arms[0], found.propensity[0]) == (-1, 1.0)
    assert found.probabilities[1:, :2] == pytest.approx(two.probabilities)
    assert not found.probabilities[0].any()


def test_slots_that_differ_in_too_many_ways_are_refused() -> None:
    """Rather than compute for minutes."""
    with pytest.raises(ValueError, match="ask for fewer slots"):
        uniform(np.random.default_rng(1).random((12, 200)) < 0.5)


def test_numbers_that_are_not_finite_are_refused() -> None:
    """As for one request."""
    with pytest.raises(ValueError, match="not finite"):
        allocate_together(
            np.full((2, 4), np.nan),
            np.zeros((2, 4)),
            kappa=np.ones(2),
            explorer="softmax",
            rates=check("softmax", {}),
            rngs=[np.random.default_rng(1)] * 2,
        )


@pytest.mark.parametrize("spread", [0.3, 1.0, 30.0], ids=["alike", "some", "one holds all"])
@pytest.mark.parametrize("arms", [5, 80])
@pytest.mark.parametrize("slots", [2, 3, 4])
@pytest.mark.parametrize("price", [None, 0.05])
def test_thompson_by_ranks_is_that_of_each_request(spread: float, arms: int, slots: int, price: float | None) -> None:
    """The same generator shows the same arms, with the same probabilities, though only those of the shown are computed."""
    rng = np.random.default_rng(6)
    means, sds = rng.normal(0.1, 0.05 * spread, (40, arms)), rng.uniform(0.02, 0.1, (40, arms))
    kappa = np.ones(slots) if price is not None else np.linspace(0.5, 1.0, slots)
    terms = Terms(price=None if price is None else np.linspace(0.0, price, arms))
    rates = check("thompson", {"epsilon": 0.3})
    rngs = [np.random.default_rng(i) for i in range(40)]
    found = allocate_together(means, sds, kappa=kappa, explorer="thompson", rates=rates, rngs=rngs, terms=terms)
    for i, shown in enumerate(found):
        asked = offer(means[i], sds[i], kappa=kappa, terms=terms)
        one = allocate(asked, explorer="thompson", rates=rates, rng=np.random.default_rng(i))
        assert shown.arms == one.arms.tolist()
        assert shown.propensity == pytest.approx(one.propensity.tolist(), rel=1e-9)
