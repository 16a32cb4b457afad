"""Scores of predictions against their definitions, written out pair by pair, and values that can be computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from policies.batch import FloatArray
from policies.scores import arm_means, auc, calibration_error, gini, log_loss, score, top_k


def by_pairs(reward: FloatArray, predicted: FloatArray) -> float:
    """The area under the curve by its definition: of all pairs of a good and a bad row, how many are in order."""
    good, bad = predicted[reward == 1.0], predicted[reward == 0.0]
    return float(np.mean([(one > other) + 0.5 * (one == other) for one in good for other in bad]))


@pytest.mark.parametrize("seed", range(5))
def test_the_area_under_the_curve_counts_pairs(seed: int) -> None:
    """With ties, which random ranks would miss."""
    rng = np.random.default_rng(seed)
    predicted = rng.integers(0, 6, 80) / 10
    reward = (rng.random(80) < 0.2 + predicted).astype(float)
    assert auc(reward, predicted) == pytest.approx(by_pairs(reward, predicted), abs=1e-12)
    assert auc(reward, predicted) != pytest.approx(by_pairs(1.0 - reward, predicted), abs=1e-3)
    assert auc(np.ones(3), np.ones(3)) is None


def test_log_loss_is_finite_for_predictions_outside_of_chances() -> None:
    """A linear model may say 1.2; what is right then costs next to nothing, what is wrong 13.8 nats."""
    assert log_loss(np.array([1.0, 0.0]), np.array([0.8, 0.25])) == pytest.approx(-(math.log(0.8) + math.log(0.75)) / 2)
    assert log_loss(np.array([1.0]), np.array([1.2])) == pytest.approx(0.0, abs=1e-5)
    assert log_loss(np.array([0.0]), np.array([1.2])) == pytest.approx(-math.log(1e-6), rel=1e-6)


def test_calibration_is_judged_in_bins_of_equally_many_rows() -> None:
    """Predictions that are right on average and wrong in each half are not calibrated; true chances are, up to chance."""
    reward, predicted = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.4, 0.5, 0.5, 0.6])
    assert calibration_error(reward, predicted, bins=1) == pytest.approx(0.0)
    assert calibration_error(reward, predicted, bins=2) == pytest.approx(0.45)
    rng = np.random.default_rng(0)
    chance = rng.random(200_000)
    assert calibration_error((rng.random(200_000) < chance).astype(float), chance) < 0.005


def test_the_best_arms_are_those_that_are_known() -> None:
    """An arm that was not shown is not among the best, and costs precision where it is taken for one."""
    assert top_k(np.array([0.1, 0.3, 0.2]), np.array([0.1, 0.3, 0.2]), 2) == (1.0, 1.0)
    assert top_k(np.array([0.1, np.nan, np.nan]), np.array([0.1, 0.3, 0.0]), 2) == (0.5, 1.0)
    found = score(
        np.array([2.0, 0.0]),
        np.array([1.5, 0.5]),
        arm_means=np.array([0.1, np.nan]),
        arm_predicted=np.array([0.3, 0.9]),
        k=5,
    )
    assert (found.k, found.precision, found.recall) == (2, 0.5, 1.0)
    assert found.f1 == pytest.approx(2 / 3)
    assert (found.auc, found.log_loss) == (None, None)  # rewards are no chances
    assert found.mae == pytest.approx(0.2)
    assert found.rmse == pytest.approx(0.2)


def test_exposure_is_uneven_by_its_mean_difference() -> None:
    """Gini is half of the mean absolute difference over the mean, whatever the order."""
    shares = np.array([0.5, 0.1, 0.4, 0.0])
    by_definition = np.abs(shares[:, None] - shares).mean() / (2 * shares.mean())
    assert gini(shares) == pytest.approx(by_definition)
    assert gini(shares[::-1]) == pytest.approx(by_definition)
    assert gini(np.zeros(3)) == 0.0


def test_arms_means_undo_who_was_shown_where() -> None:
    """An arm that is mostly shown where it earns looks as good as it is on all contexts."""
    rng = np.random.default_rng(1)
    n = 200_000
    x = rng.random(n) < 0.5
    p = np.where(x, 0.9, 0.1)
    arm = (rng.random(n) >= p).astype(np.intp)  # arm 0 with chance p
    reward = (rng.random(n) < np.where(arm == 0, np.where(x, 0.4, 0.2), 0.1)).astype(float)
    propensity = np.where(arm == 0, p, 1 - p)
    found = arm_means(arm, reward, propensity, 3)
    assert found[:2] == pytest.approx([0.3, 0.1], abs=0.01)
    assert np.isnan(found[2])
    assert reward[arm == 0].mean() > 0.36
