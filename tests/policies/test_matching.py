"""Assignment equals brute force, sorting equals assignment where one number tells arms apart, and no arm stands twice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.batch import FloatArray
from policies.matching import EMPTY, MODES, Arms, Mask, assignment, by_sort, one_by_one, solve


def brute_force(worth: FloatArray, eligible: Mask) -> tuple[int, float]:
    """Most slots that can be filled, and the largest sum of worths with so many."""
    slots, n = worth.shape
    found = (0, 0.0)
    for arms in itertools.product(range(-1, n), repeat=slots):
        shown = [(slot, arm) for slot, arm in enumerate(arms) if arm != EMPTY]
        once = len({arm for _, arm in shown}) == len(shown)
        if once and all(eligible[slot, arm] for slot, arm in shown):
            found = max(found, (len(shown), sum(worth[slot, arm] for slot, arm in shown)))
    return found


def value(worth: FloatArray, arms: Arms) -> tuple[int, float]:
    """Slots filled and sum of worths."""
    slots = (arms != EMPTY).nonzero()[0]
    return len(slots), float(sum(worth[slot, arms[slot]] for slot in slots))


def random_case(seed: int, slots: int, n: int) -> tuple[FloatArray, Mask, Arms]:
    """Worths around zero, two of three pairs eligible, some order."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, (slots, n)), rng.random((slots, n)) < 0.67, rng.permutation(slots)


CASES = st.tuples(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 5))


@settings(max_examples=100)
@given(CASES)
def test_assignment_equals_brute_force(case: tuple[int, int, int]) -> None:
    """With negative worths, pairs that are not allowed, and fewer arms than slots."""
    worth, eligible, _ = random_case(*case)
    filled, total = value(worth, assignment(worth, eligible))
    most, best = brute_force(worth, eligible)
    assert filled == most
    assert total == pytest.approx(best, abs=1e-9)


@settings(max_examples=100)
@given(CASES)
def test_with_a_reserve_slots_are_left_empty_where_that_is_worth_more(case: tuple[int, int, int]) -> None:
    """The largest sum over all ways to fill some of the slots, an empty one counting 0."""
    worth, eligible, _ = random_case(*case)
    eligible &= worth >= 0.0
    wanted = max(
        brute_force(worth[list(some)], eligible[list(some)])[1]
        for size in range(len(worth) + 1)
        for some in itertools.combinations(range(len(worth)), size)
        if size == 0 or brute_force(worth[list(some)], eligible[list(some)])[0] == size
    )
    assert value(worth, assignment(worth, eligible, reserve=0.0))[1] == pytest.approx(wanted, abs=1e-9)


def test_filling_all_slots_can_be_worth_less() -> None:
    """So the reserve is not idle: one good arm for the first slot beats two poor places."""
    worth = np.array([[1.0, 0.1], [0.2, -1.0]])
    eligible = worth >= 0.0
    assert assignment(worth, eligible).tolist() == [1, 0]
    assert assignment(worth, eligible, reserve=0.0).tolist() == [0, EMPTY]


def test_the_comparison_would_notice_greedy() -> None:
    """Slot by slot takes 3 + 0 where 2 + 3 is there."""
    worth, eligible = np.array([[3.0, 2.0], [3.0, 0.0]]), np.ones((2, 2), bool)
    assert value(worth, one_by_one(worth, eligible, np.array([0, 1]))) < brute_force(worth, eligible)


@settings(max_examples=100)
@given(CASES)
def test_sort_equals_assignment_when_rank_one(case: tuple[int, int, int]) -> None:
    """kappa_l times the arm's number: the sums are equal, for both ways of sorting."""
    seed, slots, n = case
    rng = np.random.default_rng(seed)
    kappa, arm = rng.uniform(0.1, 1, slots), rng.normal(0.3, 1, n)
    worth, eligible, order = np.outer(kappa, arm), np.ones((slots, n), bool), np.argsort(-kappa)
    if n < slots:  # leaving a slot empty is a choice of its own: which one matters only for negative worths
        worth = np.abs(worth)
    wanted = value(worth, assignment(worth, eligible))
    for found in (
        by_sort(worth[0], eligible, order),
        solve(worth, eligible, mode="assignment", order=order, rank_one=True),
    ):
        assert value(worth, found)[0] == wanted[0]
        assert value(worth, found)[1] == pytest.approx(wanted[1])


def test_sorting_loses_where_slots_differ() -> None:
    """The comparison above would notice: with features of the slots it is not the same."""
    worth, eligible = np.array([[1.0, 0.9], [1.0, 0.1]]), np.ones((2, 2), bool)
    assert value(worth, by_sort(worth.sum(axis=0), eligible, np.array([0, 1]))) < brute_force(worth, eligible)


@settings(max_examples=100)
@given(CASES, st.sampled_from(MODES))
def test_no_arm_twice_and_only_eligible_ones(case: tuple[int, int, int], mode: str) -> None:
    """In every mode; a slot is empty only if no eligible arm is left for it."""
    worth, eligible, order = random_case(*case)
    arms = solve(worth, eligible, mode=mode, order=order)  # type: ignore[arg-type]
    shown = arms[arms != EMPTY]
    assert len(set(shown.tolist())) == len(shown)
    for slot, arm in enumerate(arms):
        assert eligible[slot, arm] if arm != EMPTY else set(eligible[slot].nonzero()[0]) <= set(shown.tolist())


def test_repeat_lets_an_arm_stand_everywhere() -> None:
    """Each slot by itself."""
    worth = np.array([[1.0, 2.0], [0.5, 1.0]])
    eligible = np.ones((2, 2), bool)
    assert solve(worth, eligible, mode="assignment", order=np.array([0, 1]), repeat=True).tolist() == [1, 1]
