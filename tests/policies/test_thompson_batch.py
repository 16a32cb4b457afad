"""Thompson sampling's probabilities for many contexts are those of each by itself."""

from __future__ import annotations

import numpy as np
import pytest

from policies.batch import FloatArray
from policies.thompson import thompson
from policies.thompson_batch import thompson_batch


def one_by_one(mean: FloatArray, sd: FloatArray) -> FloatArray:
    return np.array([thompson(m, s) for m, s in zip(mean, sd, strict=True)])


@pytest.mark.parametrize("arms", [1, 2, 7, 30, 90])
@pytest.mark.parametrize(
    ("gap", "widths"), [(0.0, (0.3, 0.4)), (1.0, (0.3, 0.4)), (5.0, (0.3, 0.4)), (1.0, (0.01, 3.0))]
)
def test_rows_are_what_they_are_alone(arms: int, gap: float, widths: tuple[float, float]) -> None:
    """Alike, spread and far apart means; widths alike and of several sizes."""
    rng = np.random.default_rng(arms)
    mean, sd = rng.normal(0, gap, (60, arms)), rng.uniform(*widths, (60, arms))
    p = thompson_batch(mean, sd)
    assert p == pytest.approx(one_by_one(mean, sd), abs=2e-5)
    assert p.sum(axis=1) == pytest.approx(np.ones(60), abs=1e-12)


def test_known_arms_and_single_winners_keep_their_place_among_others() -> None:
    """Rows of every kind in one batch, in any order."""
    mean = np.array([[0.0, 0.0, 0.0], [9.0, 0.0, 1.0], [0.5, 0.0, 0.0], [0.1, 0.2, 0.3], [1.0, 1.0, 0.0]])
    sd = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0], [0.5, 0.6, 0.7], [0.0, 0.0, 0.0]])
    order = np.array([3, 1, 4, 0, 2])
    assert thompson_batch(mean, sd) == pytest.approx(one_by_one(mean, sd), abs=1e-9)
    assert thompson_batch(mean[order], sd[order]) == pytest.approx(thompson_batch(mean, sd)[order], abs=1e-9)


def test_no_rows_are_no_probabilities() -> None:
    """And no error."""
    assert thompson_batch(np.zeros((0, 4)), np.zeros((0, 4))).shape == (0, 4)
