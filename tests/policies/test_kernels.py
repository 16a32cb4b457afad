"""The compiled laws are those of numpy, however unequal weights are, and what is drawn is the same."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr

from policies import compiled, slot_laws, slot_weights, slots_together
from policies.allocation import allocate
from policies.batch import FloatArray
from policies.compiled import kernels
from policies.explorers import check
from policies.matching import Mask
from policies.offers import offer
from policies.slot_laws import may_win, ranks, ranks_by_arrays
from policies.slot_weights import laws_by_weights, weights_in_turn
from policies.slots_together import allocate_together

needs_numba = pytest.mark.skipif(kernels() is None, reason="numba is not installed (extra: compiled)")
Both = Callable[[Callable[[], Any]], tuple[Any, Any]]


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Both:
    """What a call gives by compiled functions, and by numpy alone."""

    def called(call: Callable[[], Any]) -> tuple[Any, Any]:
        fast = call()
        with monkeypatch.context() as patch:
            for module in (slot_laws, slot_weights, slots_together):
                patch.setattr(module, "kernels", lambda: None)
            return fast, call()

    return called


def logs_of(seed: int, *, slots: int, arms: int, scale: float) -> FloatArray:
    """(K, n)."""
    return np.random.default_rng(seed).normal(size=(slots, arms)) * scale


@needs_numba
@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("arms", [3, 4, 12, 100])
@pytest.mark.parametrize("scale", [0.0, 1.0, 10.0, 50.0, 400.0])
def test_pages_by_weights_are_those_of_numpy(slots: int, arms: int, scale: float, both: Both) -> None:
    """Also where some arms may not be shown, down to as many as there are slots."""
    rng = np.random.default_rng(1)
    few = rng.random((slots, arms)) < 0.5
    few[:, :slots] = True
    masks: list[Mask | None] = [None, few, np.arange(arms) < np.full((slots, 1), slots)]
    for mask in masks:
        logs = logs_of(2, slots=slots, arms=arms, scale=scale)
        page = partial(weights_in_turn, logs, mask)
        (arm, p), (other_arm, wanted) = both(lambda page=page: page(rng=np.random.default_rng(3)))  # type: ignore[misc]
        assert arm.tolist() == other_arm.tolist()
        assert p == pytest.approx(wanted, rel=1e-10, abs=1e-290)


@pytest.mark.parametrize("scale", [1.0, 5.0, 30.0])
def test_the_third_slot_is_the_sum_over_all_that_may_stand_before(scale: float, both: Both) -> None:
    """In whole fractions, over all ordered pairs of the other arms; 30 is where differences from the whole have no digits left."""
    logs = np.maximum(logs_of(4, slots=3, arms=9, scale=scale), -200.0)
    one, two, three = ([Fraction(w) for w in np.exp(row - row.max()).tolist()] for row in logs)
    sums = sum(one), sum(two), sum(three)
    found = both(lambda: weights_in_turn(logs, None, rng=np.random.default_rng(1))[1][2])
    for arm in range(9):
        exact = sum(
            one[b] / sums[0] * two[c] / (sums[1] - two[b]) * three[arm] / (sums[2] - three[b] - three[c])
            for b, c in permutations([a for a in range(9) if a != arm], 2)
        )
        assert [p[arm] for p in found] == pytest.approx([float(exact)] * 2, rel=1e-9)


def test_the_bound_would_notice_plain_differences() -> None:
    """Left sums as T - t_b - t_c, without the care for the largest: all digits are lost where one arm has nearly all."""
    weights = np.exp(np.array([0.0, -40.0, -41.0, -42.0]))
    naive = weights.sum() - weights[0] - weights[1]
    assert abs(naive / (weights[2] + weights[3]) - 1.0) > 0.5


@needs_numba
@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("arms", [3, 10, 70, 150])
@pytest.mark.parametrize("spread", [0.01, 0.5, 4.0])
@pytest.mark.parametrize("widths", [0.0, 1.5], ids=["alike", "unlike"])
def test_ranks_are_those_of_numpy(slots: int, arms: int, spread: float, widths: float, both: Both) -> None:
    """And the arms that may win, and the range of the integral."""
    rng = np.random.default_rng(5)
    mean, sd = rng.normal(size=arms) * spread, np.exp(rng.normal(size=arms) * widths)
    kept, wanted = both(lambda: may_win(mean, sd, slots=slots))
    assert kept.tolist() == wanted.tolist()
    m, s = mean[kept], sd[kept]
    if len(m) >= slots:
        found, by_arrays = both(lambda: ranks(m, s, slots=slots))
        assert np.abs(found - by_arrays).max() < 1e-12
        assert np.abs(by_arrays - ranks_by_arrays(m, s, slots=slots)).max() < 1e-12


@needs_numba
def test_the_compiled_normal_law_has_thirteen_digits() -> None:
    """exp(-z^2/2) and the distribution function, into the tails; beyond, what is least is taken."""
    z = np.linspace(-16.0, 37.0, 100_001)
    density, below, work = np.empty_like(z), np.empty_like(z), np.empty((4, len(z)))
    kernels()._normal(z, density, below, work)
    assert density == pytest.approx(np.exp(-0.5 * z * z), rel=1e-13)
    assert below == pytest.approx(ndtr(z), rel=2e-13)
    far = np.array([-1e200, -40.0, 50.0, 1e200])
    kernels()._normal(far, density[:4], below[:4], np.empty((4, 4)))
    assert below[:4].tolist() == [slot_laws.LEAST_F] * 2 + [1.0, 1.0]


@needs_numba
def test_what_is_read_only_is_taken() -> None:
    """Snapshots' arrays may be."""
    mean, sd = np.linspace(0.0, 1.0, 5), np.ones(5)
    mean.flags.writeable = sd.flags.writeable = False
    assert ranks(mean, sd, slots=2).shape == (2, 5)
    assert weights_in_turn(np.broadcast_to(mean, (3, 5)), None, rng=np.random.default_rng(1))[1].shape == (3, 5)


@pytest.mark.parametrize("explorer", ["softmax", "uncertainty", "thompson"])
@pytest.mark.parametrize("epsilon", [0.0, 0.3])
@pytest.mark.parametrize("kappa", [np.ones(3), np.array([0.5, 1.0, 0.7])], ids=["alike", "falling"])
def test_many_pages_say_what_each_page_would(explorer: str, epsilon: float, kappa: FloatArray, both: Both) -> None:
    """Compiled and not: the same arms for the same random numbers, and each page's own law."""
    rng = np.random.default_rng(9)
    means, sds = rng.normal(0.1, 0.07, (30, 60)), rng.uniform(0.01, 0.03, (30, 60))
    rates = check(explorer, {"epsilon": epsilon})

    def pages() -> Any:
        draws = np.random.default_rng(10)
        return allocate_together(means, sds, kappa=kappa, explorer=explorer, rates=rates, rngs=[draws] * len(means))

    found, other = both(pages)
    assert [one.arms for one in found] == [one.arms for one in other]
    for mean, sd, shown, wanted in zip(means, sds, found, other, strict=True):
        p = allocate(offer(mean, sd, kappa=kappa), explorer=explorer, rates=rates, rng=rng).probabilities
        assert shown.propensity == pytest.approx([p[slot, arm] for slot, arm in enumerate(shown.arms)], rel=1e-10)
        assert shown.propensity == pytest.approx(wanted.propensity, rel=1e-10)
        assert len(set(shown.arms)) == 3


def test_without_numba_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is imported."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert compiled.kernels.__wrapped__() is None


def test_laws_of_one_request_are_those_of_many() -> None:
    """What numpy computes for m rows at once."""
    weights = [np.exp(logs_of(6, slots=4, arms=7, scale=2.0))] * 3
    each = [laws_by_weights([one[i : i + 1] for one in weights]) for i in range(4)]
    for slot, law in enumerate(laws_by_weights(weights)):
        assert law == pytest.approx(np.concatenate([one[slot] for one in each]), rel=1e-12)
