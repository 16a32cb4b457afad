"""Confidence sequences hold at every look; what holds at one look only is caught."""

from __future__ import annotations

import numpy as np
import pytest

from policies.batch import FloatArray
from policies.sequences import interval

RUNS, ROWS = 400, 1_000


def misses(ends: tuple[FloatArray, FloatArray], mean: float) -> bool:
    """Whether the mean was outside at any moment from the tenth row on."""
    low, high = ends
    return bool(((low > mean) | (high < mean))[10:].any())


def naive(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The interval that a textbook gives for one look, taken at every look."""
    i = np.arange(1, len(x) + 1)
    mean = np.cumsum(x) / i
    half = 1.96 * np.sqrt(np.maximum(np.cumsum(x**2) / i - mean**2, 1e-12) / i)
    return mean - half, mean + half


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_the_mean_is_inside_at_every_moment(rate: float) -> None:
    """At most 5% of 400 runs ever miss (with three standard errors of the count); the textbook's interval misses often."""
    rng = np.random.default_rng(1)
    runs = (rng.random((RUNS, ROWS)) < rate).astype(float)
    share = np.mean([misses(interval(x), rate) for x in runs])
    assert share <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / RUNS)
    assert np.mean([misses(naive(x), rate) for x in runs]) > 0.2


def test_weighted_rewards_are_scaled_first() -> None:
    """Rewards times weights up to 20: a quarter of a million rows tell their mean to a few hundredths."""
    rng = np.random.default_rng(2)
    hits: FloatArray = np.asarray((rng.random(250_000) < 0.05) & (rng.random(250_000) < 0.05), np.float64)
    x = np.multiply(hits, 20.0, dtype=np.float64)
    low, high = interval(x, most=20.0)
    assert low[-1] < 0.05 < high[-1]
    assert high[-1] - low[-1] < 0.04
    assert (np.diff(low) >= 0).all()
    assert (np.diff(high) <= 0).all()


@pytest.mark.parametrize(
    ("x", "given", "message"),
    [
        ([0.5, 1.5], {}, "value 1 is 1.5"),
        ([0.5], {"least": 1.0, "most": 1.0}, "the bounds must differ"),
        ([0.5], {"level": 1.0}, "must be between 0 and 1"),
        ([float("nan")], {}, "value 0 is nan"),
    ],
)
def test_what_has_no_bound_is_refused(x: list[float], given: dict[str, float], message: str) -> None:
    """A value outside the declared bounds would end the guarantee."""
    with pytest.raises(ValueError, match=message):
        interval(np.array(x), **given)


def test_no_rows_say_nothing() -> None:
    """An empty sequence is no error."""
    low, high = interval(np.zeros(0))
    assert (len(low), len(high)) == (0, 0)
