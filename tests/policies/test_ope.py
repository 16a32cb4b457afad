"""Off-policy estimates against the truth of worlds in which it is known, and against their definitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from policies.batch import FloatArray
from policies.ope import MODEL_FREE, OFF_POLICY, LoggedRows, ShrunkDR, SubGaussian, SwitchDR, bootstrap, support

K = 5
RATES = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
LOGGER = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
TARGET = np.array([0.05, 0.1, 0.15, 0.2, 0.5])
TRUTH = float(RATES @ TARGET)


def world(seed: int, n: int, *, model: FloatArray = RATES, logged: FloatArray = LOGGER) -> LoggedRows:
    """A log of n rows; a model that predicts ``model`` by arm; propensities as ``logged`` says."""
    rng = np.random.default_rng(seed)
    arm = rng.choice(K, n, p=LOGGER)
    return LoggedRows(
        reward=(rng.random(n) < RATES[arm]).astype(float),
        propensity=logged[arm],
        target=TARGET[arm],
        predicted=model[arm],
        value=np.full(n, float(model @ TARGET)),
    )


def z_score(name: str, **given: FloatArray) -> float:
    """How many standard errors the mean of 400 estimates of 500 rows lies from the truth."""
    found = np.array([OFF_POLICY[name](world(seed, 500, **given)).mean() for seed in range(400)])
    return float((found.mean() - TRUTH) / (found.std(ddof=1) / np.sqrt(len(found))))


@pytest.mark.parametrize("name", ["ips", "dr", "sndr", "snips", "switch-dr", "dr-os", "sg-dr"])
def test_estimates_come_to_the_truth(name: str) -> None:
    """With a true model and true propensities the mean over 400 logs is the truth, within four standard errors."""
    assert abs(z_score(name)) < 4.0


def test_doubly_robust_needs_only_one_of_the_two() -> None:
    """A model that is wrong does not bias dr but dm; propensities that are wrong bias ips but not dr with a true model."""
    wrong_model, uniform = np.full(K, 0.9), np.full(K, 1 / K)
    assert abs(z_score("dr", model=wrong_model)) < 4.0
    assert OFF_POLICY["dm"](world(0, 500, model=wrong_model)).mean() == pytest.approx(0.9)
    assert OFF_POLICY["dm"](world(0, 500)).mean() == pytest.approx(TRUTH)
    assert abs(z_score("dr", logged=uniform)) < 4.0
    assert abs(z_score("ips", logged=uniform)) > 20.0


def test_a_model_lessens_the_spread() -> None:
    """On the same logs dr varies less than ips, and shrinking the weights less than dr."""
    spread = {name: np.std([OFF_POLICY[name](world(seed, 300)).mean() for seed in range(200)]) for name in OFF_POLICY}
    assert spread["dm"] < spread["sg-dr"] <= spread["dr"] < spread["ips"]
    assert spread["snips"] < spread["ips"]


def test_limits_of_the_shrunk_estimators() -> None:
    """No shrinkage is dr, all of it dm; a switch above every weight is dr, below every weight dm."""
    rows = world(3, 200, model=np.full(K, 0.25))
    dr, dm = OFF_POLICY["dr"](rows), OFF_POLICY["dm"](rows)
    assert np.allclose(ShrunkDR(np.inf)(rows), dr)
    assert np.allclose(ShrunkDR(0.0)(rows), dm)
    assert np.allclose(SwitchDR(np.inf)(rows), dr)
    assert np.allclose(SwitchDR(0.0)(rows), dm)
    assert np.allclose(SubGaussian(0.0)(rows), OFF_POLICY["ips"](rows))
    assert np.allclose(SubGaussian(0.0, model=True)(rows), dr)
    assert SubGaussian(0.2)(replace(rows, reward=np.ones(200))).max() <= 5.0


@pytest.mark.parametrize("name", [name for name in OFF_POLICY if name not in MODEL_FREE])
def test_what_needs_a_model_says_so(name: str) -> None:
    """Without predictions the error names what can be had without."""
    with pytest.raises(ValueError, match="take one of ips, snips, sg-ips"):
        OFF_POLICY[name](replace(world(0, 10), predicted=None, value=None))


def test_support_tells_what_is_wrong() -> None:
    """A good log raises no doubts; wrong propensities, few effective rows and arms that were never shown do."""
    good = world(1, 5_000)
    assert support(good).doubts == ()
    assert support(good).ess == pytest.approx(5_000 / float(TARGET**2 @ (1 / LOGGER)), rel=0.1)
    assert "are not those" in support(world(1, 5_000, logged=np.full(K, 1 / K))).doubts[0]
    lone = replace(good, target=np.where(np.arange(5_000) < 20, 1.0, 0.0))
    assert "a few rows decide" in support(lone).doubts[0]
    assert support(good, unreached=0.25).doubts == (
        "25.0% of the policy's probability is on arms that the log never shows",
    )


def test_the_bootstrap_covers_the_truth() -> None:
    """95% intervals of snips hold the truth in 88% to 100% of 100 logs; one with half the width would not."""
    rng = np.random.default_rng(0)
    found = [bootstrap(world(seed, 400), OFF_POLICY["snips"], rng=rng, times=200) for seed in range(100)]
    assert np.mean([low <= TRUTH <= high for low, high in found]) >= 0.88
    narrow = [(0.75 * low + 0.25 * high, 0.25 * low + 0.75 * high) for low, high in found]
    assert np.mean([low <= TRUTH <= high for low, high in narrow]) < 0.88


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"propensity": np.array([0.5, 0.0])}, r"propensity\[1\] is 0.0; it must be above 0"),
        ({"propensity": np.array([0.5, 1.5])}, r"propensity\[1\] is 1.5"),
        ({"target": np.array([-0.1, 0.5])}, r"target\[0\] is -0.1; it must be between 0 and 1"),
        ({"reward": np.array([0.0, np.nan])}, r"reward\[1\] is not finite"),
        ({"target": np.array([0.5])}, r"target has shape \(1,\); it must be \(2,\)"),
        ({"predicted": np.zeros(2)}, "belong together"),
    ],
)
def test_rows_that_mean_nothing_are_refused(changes: dict[str, FloatArray], message: str) -> None:
    """The error says which number, what it is and what is allowed."""
    good = {"reward": np.zeros(2), "propensity": np.full(2, 0.5), "target": np.full(2, 0.5)}
    with pytest.raises(ValueError, match=message):
        LoggedRows(**{**good, **changes})
