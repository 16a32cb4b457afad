"""Drift: the CUSUM against its recursion and its error rates, and baselines against sums of the rows that are left."""

from __future__ import annotations

import numpy as np
import pytest

from policies.baseline import DRIFT_KEPT, NOTHING_KEPT, cut, read
from policies.drift import FALLEN, RISEN, THRESHOLD, Cusum, follow, ratio
from policies.model import make_model
from policies.posterior import linear_posterior
from policies.prior import Prior
from tests.policies.batches import dyadic, take


def by_hand(predicted: list[float], reward: list[float]) -> tuple[Cusum, list[int]]:
    down = up = 0.0
    found: list[int] = []
    for i, (p, r) in enumerate(zip(predicted, reward, strict=True)):
        rate, click = np.array([p]), np.array([r])
        down = max(0.0, down + float(ratio(rate, click, FALLEN)[0]))
        up = max(0.0, up + float(ratio(rate, click, RISEN)[0]))
        if down > THRESHOLD or up > THRESHOLD:
            found.append(i)
            down = up = 0.0
    return Cusum(fallen=down, risen=up, alarms=len(found)), found


@pytest.mark.parametrize("true_rate", [0.02, 0.1, 0.3])
def test_it_is_the_recursion(true_rate: float) -> None:
    """Row by row, in one piece or in many, with alarms on either side."""
    rng = np.random.default_rng(4)
    predicted = rng.uniform(0.05, 0.2, 4000)
    reward = (rng.random(4000) < true_rate).astype(float)
    expected, found = by_hand(predicted.tolist(), reward.tolist())
    whole, alarms = follow(Cusum(), predicted, reward)
    assert alarms.tolist() == found
    assert (whole.fallen, whole.risen) == pytest.approx((expected.fallen, expected.risen), abs=1e-9)
    state = Cusum()
    for part in np.array_split(np.arange(4000), 37):
        state, _ = follow(state, predicted[part], reward[part])
    assert state.alarms == len(found)
    assert (state.fallen, state.risen) == pytest.approx((whole.fallen, whole.risen), abs=1e-9)


def test_false_alarms_are_rare_and_changes_are_found() -> None:
    """Over 200,000 true predictions none is expected; at 0.5 and at 2 times the rate one comes within 2,500 rows of 5%."""
    rng = np.random.default_rng(5)
    p = np.full(200_000, 0.05)
    _, quiet = follow(Cusum(), p, (rng.random(len(p)) < p).astype(float))
    assert len(quiet) <= 1
    for factor in (0.5, 2.0):
        _, alarms = follow(Cusum(), p[:2500], (rng.random(2500) < factor * p[:2500]).astype(float))
        assert len(alarms) >= 1


def test_no_rows_change_nothing() -> None:
    """Nor is an alarm raised."""
    state = Cusum(fallen=3.0, risen=1.0, alarms=2)
    after, alarms = follow(state, np.zeros(0), np.zeros(0))
    assert after == state
    assert len(alarms) == 0


@pytest.mark.parametrize(
    ("predicted", "reward", "message"),
    [([0.1], [2.0], "neither 0 nor 1"), ([1.5], [1.0], "between 0 and 1"), ([0.1, 0.2], [1.0], "both must be")],
)
def test_what_is_no_click_or_no_rate_is_refused(predicted: list[float], reward: list[float], message: str) -> None:
    """NaN among them."""
    with pytest.raises(ValueError, match=message):
        follow(Cusum(), np.array(predicted), np.array(reward))
    with pytest.raises(ValueError, match="between 0 and 1"):
        follow(Cusum(), np.array([np.nan]), np.array([1.0]))


def test_after_an_announced_change_an_arm_is_its_prior_and_learns_anew() -> None:
    """Bit for bit: with everything cut, then with the sums of the later rows alone."""
    model = make_model("linear", dimension=3)
    first, second = dyadic(11, 90), take(dyadic(12, 60), list(range(60)), list(range(20)))
    before = model.update({}, first)
    after = model.update(before, second)
    prior = Prior(mean=np.array([0.1, 0.0, 0.0]), tau2=np.array([1.0, 0.5, 0.5]), s2=0.25)
    for arm, sums in before.items():
        told = cut(model.at(sums, now_ms=9), None, now_ms=9, kept=NOTHING_KEPT)
        fresh = linear_posterior(prior, read(model.at(sums, now_ms=9), told, now_ms=9))
        assert np.array_equal(fresh.mean, prior.mean)
        assert not fresh.alarm
        later = model.at(model.update({}, second).get(arm, model.zero()), now_ms=9)
        left = read(model.at(after[arm], now_ms=9), told, now_ms=9)
        assert np.array_equal(left.A, later.A)
        assert np.array_equal(left.b, later.b)
        assert left.n_eff == later.n_eff


def test_a_baseline_is_forgotten_as_the_sums_are() -> None:
    """After two half-lives a quarter of it is subtracted, and the share that is left stays 5%."""
    model = make_model("linear", dimension=3, half_life_s=1.0)
    (_arm, sums), *_ = model.update({}, dyadic(11, 90)).items()
    now = sums.newest_ms
    told = cut(model.at(sums, now_ms=now), None, now_ms=now, kept=DRIFT_KEPT, half_life_s=1.0)
    later = now + 2000
    whole = model.at(sums, now_ms=later)
    left = read(whole, told, now_ms=later, half_life_s=1.0)
    assert np.allclose(left.A, DRIFT_KEPT * whole.A, rtol=1e-12)
    assert left.n_eff == pytest.approx(DRIFT_KEPT * whole.n_eff)
    assert left.count == whole.count


def test_two_cuts_keep_the_product_of_their_shares() -> None:
    """5% of 5% of the rows before the first; 5% of those between."""
    model = make_model("linear", dimension=3)
    first = model.update({}, dyadic(11, 90))
    second = model.update(first, dyadic(12, 60))
    between = model.update({}, dyadic(12, 60))
    for arm in set(first) & set(between):
        one = cut(model.at(first[arm], now_ms=1), None, now_ms=1, kept=0.05)
        two = cut(model.at(second[arm], now_ms=2), one, now_ms=2, kept=0.05)
        left = read(model.at(second[arm], now_ms=3), two, now_ms=3)
        expected = 0.05**2 * model.at(first[arm], now_ms=3).A + 0.05 * model.at(between[arm], now_ms=3).A
        assert np.allclose(left.A, expected, rtol=1e-9, atol=1e-9)


def test_rows_that_were_pending_at_the_cut_count_in_full() -> None:
    """Their impressions mature into A after it, as their clicks come into b after it."""
    model = make_model("linear", dimension=3, delays_s=(1.0,))
    (_arm, sums), *_ = model.update({}, dyadic(11, 90)).items()
    now = sums.newest_ms
    at_cut = model.at(sums, now_ms=now)
    told = cut(at_cut, None, now_ms=now, kept=NOTHING_KEPT)
    much_later = now + 60_000
    left = read(model.at(sums, now_ms=much_later), told, now_ms=much_later)
    assert left.n_eff == pytest.approx(sums.n - at_cut.n_eff)
    assert left.n_eff > 0.0


def test_impossible_cuts_are_refused() -> None:
    """A share beyond one, or a time before the last cut."""
    model = make_model("beta", dimension=0)
    nothing = model.at(model.zero(), now_ms=0)
    with pytest.raises(ValueError, match=r"kept = 1.5"):
        cut(nothing, None, now_ms=0, kept=1.5)
    told = cut(nothing, None, now_ms=10, kept=0.0)
    with pytest.raises(ValueError, match="must not be before the baseline's cut at 10"):
        read(nothing, told, now_ms=9)
