from __future__ import annotations

import math

import numpy as np
import pytest

from policies.decay import EARLIEST_MS, Decay, forgetting, pending
from policies.model import make_model
from tests.policies.batches import START_MS, shown

YEAR_MS = 365 * 86_400_000


@pytest.mark.parametrize("half_life_ms", [1.0, 49.0, 1000.0, 3_600_000.0])
def test_whole_half_lives_are_powers_of_two(half_life_ms: float) -> None:
    """Scalars and arrays give 2^k to the last bit, for half-lives that have no exact inverse too."""
    decay = Decay(half_life_ms=half_life_ms)
    steps = np.arange(-1000, 1000)
    expected = np.ldexp(1.0, steps)
    weights = decay.weights(steps * int(half_life_ms))
    assert weights is not None
    assert weights.tolist() == expected.tolist()
    assert [decay.weight(since_ms=k * int(half_life_ms)) for k in steps.tolist()] == expected.tolist()


def test_fractions_of_a_half_life_are_the_closed_form() -> None:
    """Between whole half-lives the weight is 2^(t/H) within 1e-13, in scalars as in arrays."""
    decay = forgetting(7.0)
    times = np.arange(-700_000, 700_000, 977)
    expected = np.exp2(times / 7000.0)
    weights = decay.weights(times)
    assert weights is not None
    assert np.allclose(weights, expected, rtol=1e-13, atol=0.0)
    assert np.allclose([decay.weight(since_ms=int(t)) for t in times], expected, rtol=1e-13, atol=0.0)


def test_landmarks_lie_whole_half_lives_apart_and_not_above_the_newest() -> None:
    """Any two landmarks differ by whole half-lives, negative times included, so rebasing is exact."""
    decay = forgetting(3.0)
    newest = np.array([-10_000_000, -1, 0, 5, 768_000, START_MS])
    landmarks = decay.landmarks_ms(newest)
    assert (landmarks % 3000 == 0).all()
    assert ((landmarks <= newest) & (newest - landmarks < 256 * 3000)).all()
    assert landmarks.tolist() == [decay.landmark_ms(int(t)) for t in newest]
    assert forgetting(0.0).landmark_ms(EARLIEST_MS) == 0


def test_pending_decays_by_delay_and_forgetting_together() -> None:
    """P's weight is exp(-t/mu) 2^(-t/H), so pending rows never outweigh the rows that they belong to."""
    decay = pending(20.0, forgetting(60.0))
    assert decay.weight(since_ms=-45_000) == pytest.approx(math.exp(-45 / 20) * 2 ** (-45 / 60), rel=1e-13)


@pytest.mark.parametrize("half_life_s", [-1.0, math.nan, math.inf, 0.0001])
def test_impossible_half_lives_are_refused_with_their_value(half_life_s: float) -> None:
    """The message names the setting and the value."""
    with pytest.raises(ValueError, match=f"half_life_s = {half_life_s}"):
        forgetting(half_life_s)


@pytest.mark.parametrize("delay_s", [0.0, -1.0, math.nan, math.inf])
def test_impossible_delays_are_refused_with_their_value(delay_s: float) -> None:
    """The message names the setting and the value."""
    with pytest.raises(ValueError, match=f"delays_s holds {delay_s}"):
        pending(delay_s, forgetting(0.0))


def test_rows_older_than_the_landmark_count_by_their_age() -> None:
    """A late row weighs what it would have weighed in time."""
    model = make_model("linear", dimension=1, half_life_s=1.0)
    landmark_ms = START_MS // 256_000 * 256_000
    first = model.update({}, shown("a", [landmark_ms + 4_000]))
    assert first["a"].landmark_ms == landmark_ms
    late = model.update(first, shown("a", [landmark_ms - 3_000]))
    assert model.at(late["a"], now_ms=landmark_ms + 4_000).n_eff == 1.0 + 2.0**-7


def test_rebasing_changes_nothing_that_is_read() -> None:
    """A landmark that moves by a block of half-lives leaves the reading the same to the last bit."""
    model = make_model("linear", dimension=1, half_life_s=1.0)
    landmark_ms = (START_MS // 256_000 + 1) * 256_000
    old = model.update({}, shown("a", [landmark_ms - 2_000, landmark_ms - 1_000]))
    new = model.update(old, shown("a", [landmark_ms + 3_000]))
    assert old["a"].landmark_ms == landmark_ms - 256_000
    assert new["a"].landmark_ms == landmark_ms
    assert model.at(new["a"], now_ms=landmark_ms + 3_000).n_eff == 1.0 + 2.0**-4 + 2.0**-5


@pytest.mark.parametrize("name", ["linear", "beta"])
def test_ten_years_of_one_second_half_lives_stay_finite(name: str) -> None:
    """Event time moves by 3e8 half-lives, and back for a late row; what counts is the last rows."""
    model = make_model(name, dimension=1, half_life_s=1.0, delays_s=(1.0,))
    sums = model.update({}, shown("a", [START_MS]))
    for month in range(1, 121):
        sums = model.update(sums, shown("a", [START_MS + month * YEAR_MS // 12]))
    sums = model.update(sums, shown("a", [START_MS]))
    end_ms = START_MS + 10 * YEAR_MS
    read = model.at(sums["a"], now_ms=end_ms + 2_000)
    assert read.n_eff == pytest.approx(0.25 * (1 - math.exp(-2.0)), rel=1e-12)
    assert read.count == 122
    assert model.at(sums["a"], now_ms=end_ms + 50 * YEAR_MS).n_eff == 0.0


def test_reading_before_the_newest_event_reads_at_it() -> None:
    """A reader whose clock is behind sees weights of at most one and nothing negative."""
    model = make_model("beta", dimension=0, half_life_s=1.0, delays_s=(5.0,))
    sums = model.update({}, shown("a", [START_MS, START_MS + 8_000]))["a"]
    behind, at_newest = (model.at(sums, now_ms=now_ms) for now_ms in (0, START_MS + 8_000))
    assert behind.n_eff == at_newest.n_eff > 0.0
    assert model.at(sums, now_ms=START_MS + 9_000).n_eff != at_newest.n_eff
