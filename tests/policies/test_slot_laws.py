"""Probabilities of arms in slots equal sums over all that may happen, and the shares of a million draws."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from policies.batch import FloatArray
from policies.closed_forms import normed
from policies.matching import Arms, Mask
from policies.slot_gaps import gap_law, gaps_in_turn
from policies.slot_laws import may_win, normals_in_turn, ranks
from policies.slot_weights import uniform, weights_in_turn
from policies.thompson import thompson

K, N = 3, 5
EVERY = np.ones((K, N), bool)
Law = Callable[[int, list[int]], FloatArray]


def by_histories(law: Law, eligible: Mask) -> FloatArray:
    """(K, N) marginal probabilities by going through every history."""
    slots, n = eligible.shape
    p = np.zeros((slots, n))

    def go(slot: int, gone: tuple[int, ...], chance: float) -> None:
        if slot == slots:
            return None
        left = [arm for arm in range(n) if eligible[slot, arm] and arm not in gone]
        if not left:
            return go(slot + 1, gone, chance)
        for arm, part in zip(left, law(slot, left), strict=True):
            p[slot, arm] += chance * part
            go(slot + 1, (*gone, arm), chance * float(part))
        return None

    go(0, (), 1.0)
    return p


def scores(seed: int, spread: float) -> tuple[FloatArray, FloatArray]:
    """Means and widths, (K, N) each."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, spread, (K, N)), rng.uniform(0.05, 0.5, (K, N))


def some(seed: int) -> Mask:
    """(K, N) with at least K arms in each slot."""
    eligible = np.random.default_rng(seed).random((K, N)) < 0.7
    eligible[:, :K] |= eligible.sum(axis=1, keepdims=True) < K
    return eligible


@pytest.mark.parametrize("spread", [0.0, 0.3, 3.0, 100.0])
@pytest.mark.parametrize("eligible", [EVERY, some(1), some(2)])
def test_thompson_in_turn_is_the_sum_over_histories(spread: float, eligible: Mask) -> None:
    """By products of matrices as by going through them one by one, to the quadrature's error."""
    m, s = scores(3, spread)
    found = normals_in_turn(m, s, eligible, rng=np.random.default_rng(1))[1]
    wanted = by_histories(lambda slot, left: thompson(m[slot][left], s[slot][left]), eligible)
    assert np.abs(found - wanted).max() < 3e-6
    assert found.sum(axis=1) == pytest.approx(1.0)


def test_the_bound_would_notice_conditional_probabilities() -> None:
    """Renormalising the first slot's law, as if arms left did not compete, is not Thompson sampling among them."""
    m, s = (np.tile(part[0], (K, 1)) for part in scores(3, 0.3))
    wrong = by_histories(lambda _, left: thompson(m[0], s[0])[left] / thompson(m[0], s[0])[left].sum(), EVERY)
    assert np.abs(normals_in_turn(m, s, EVERY, rng=np.random.default_rng(1))[1] - wrong).max() > 1e-3


def test_slots_that_are_alike_share_one_grid() -> None:
    """And give the same."""
    m, s = (np.tile(part[0], (K, 1)) for part in scores(4, 0.3))
    alike = normals_in_turn(m, s, EVERY, rng=np.random.default_rng(1), alike=True)[1]
    assert np.abs(alike - normals_in_turn(m, s, EVERY, rng=np.random.default_rng(1))[1]).max() < 3e-6


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0, 2000.0])
@pytest.mark.parametrize("eligible", [EVERY, some(1), some(2)])
def test_weights_in_turn_are_the_sum_over_histories(spread: float, eligible: Mask) -> None:
    """To rounding, also where one arm has all the weight."""
    logs = scores(5, spread)[0]

    def law(slot: int, left: list[int]) -> FloatArray:
        return normed(np.exp(logs[slot][left] - logs[slot][left].max()))

    found = weights_in_turn(logs, eligible, rng=np.random.default_rng(1))[1]
    assert found == pytest.approx(by_histories(law, eligible), abs=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("eligible", [EVERY, some(1), some(2)])
def test_gaps_in_turn_are_the_sum_over_histories(gamma: float, ties: bool, eligible: Mask) -> None:
    """To rounding; the best that is left changes with what is gone."""
    at = scores(6, 0.3)[0].round(1 if ties else 9)

    def law(slot: int, left: list[int]) -> FloatArray:
        return gap_law(at[slot], np.isin(np.arange(N), left), gamma)[left]

    found = gaps_in_turn(at, np.full(K, gamma), eligible, rng=np.random.default_rng(1))[1]
    assert found == pytest.approx(by_histories(law, eligible), abs=1e-12)


@pytest.mark.parametrize("eligible", [EVERY, some(1), np.array([[1, 0, 0], [1, 0, 0], [1, 1, 1]], bool)])
def test_uniform_is_the_sum_over_histories(eligible: Mask) -> None:
    """Also where a slot stays empty."""
    wanted = by_histories(lambda _, left: np.full(len(left), 1 / len(left)), eligible)
    assert uniform(eligible) == pytest.approx(wanted, abs=1e-14)


def test_uniform_of_many_kinds_is_the_sum_over_histories() -> None:
    """Slots and arms at random, some that may stand nowhere."""
    rng = np.random.default_rng(7)
    for share in (0.2, 0.5, 0.8):
        for _ in range(20):
            eligible = rng.random((rng.integers(2, 6), rng.integers(1, 7))) < share
            wanted = by_histories(lambda _, left: np.full(len(left), 1 / len(left)), eligible)
            assert uniform(eligible) == pytest.approx(wanted, abs=1e-14)


def test_uniform_is_known_where_every_slot_and_most_arms_differ() -> None:
    """60 arms of 37 mixtures of six sizes, a slot of each: frequencies of 4,000 fillings are the probabilities."""
    rng = np.random.default_rng(1)
    eligible = rng.random((6, 60)) < 0.5
    p, shown = uniform(eligible), np.zeros((6, 60))
    assert p.sum(axis=1) == pytest.approx(1.0)
    for _ in range(4_000):
        left = eligible.copy()
        for slot in range(6):
            arm = rng.choice(left[slot].nonzero()[0])
            shown[slot, arm] += 1
            left[:, arm] = False
    assert (np.abs(shown - 4_000 * p) <= 5.0 * np.sqrt(4_000 * p)).all()


@pytest.mark.parametrize("spread", [0.0, 0.3, 30.0])
def test_few_ranks_by_differences_are_those_by_positive_sums(spread: float) -> None:
    """To rounding, also where arms lie so far apart that odds are 1e60."""
    m, s = (part[0] for part in scores(6, spread))
    for slots in (1, 2, 3):
        assert ranks(m, s, slots=slots) == pytest.approx(ranks(m, s, slots=4)[:slots], abs=3e-6)


@pytest.mark.parametrize("spread", [0.0, 0.3, 30.0])
def test_ranks_match_a_million_draws(spread: float) -> None:
    """Within five standard errors; the fourth rank too."""
    m, s = (part[0] for part in scores(6, spread))
    place = np.argsort(-(m + s * np.random.default_rng(7).standard_normal((1_000_000, N))), axis=1)
    p = ranks(m, s, slots=4)
    for slot in range(4):
        share = np.bincount(place[:, slot], minlength=N) / 1e6
        assert (np.abs(share - p[slot]) <= 5 * np.sqrt(p[slot] * (1 - p[slot]) / 1e6) + 2e-6).all()


def test_ranks_of_all_slots_cover_every_arm() -> None:
    """With as many slots as arms the matrix is doubly stochastic."""
    m, s = (part[0] for part in scores(8, 0.3))
    assert ranks(m, s, slots=N).sum(axis=0) == pytest.approx(1.0, abs=1e-5)


def test_arms_that_may_win_after_others_are_gone() -> None:
    """The second best of three is kept for two slots, not for one."""
    m, s = np.array([0.0, 10.0, 20.0]), np.ones(3)
    assert may_win(m, s, slots=1).tolist() == [2]
    assert may_win(m, s, slots=2).tolist() == [1, 2]


@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_arms_are_drawn_from_what_is_computed(spread: float) -> None:
    """Shares of 20,000 calls are the marginals, within five standard errors."""
    m, s = scores(9, spread)
    rng, n = np.random.default_rng(10), 20_000
    normals: Callable[[], tuple[Arms, FloatArray]] = lambda: normals_in_turn(m[:, :4], s[:, :4], EVERY[:, :4], rng=rng)  # noqa: E731
    weights: Callable[[], tuple[Arms, FloatArray]] = lambda: weights_in_turn(m[:, :4], EVERY[:, :4], rng=rng)  # noqa: E731
    for law in (normals, weights):
        shown = np.array([law()[0] for _ in range(n)])
        p = law()[1]
        for slot in range(K):
            share = np.bincount(shown[:, slot], minlength=4) / n
            assert (np.abs(share - p[slot]) <= 5 * np.sqrt(p[slot] * (1 - p[slot]) / n) + 1e-9).all()
