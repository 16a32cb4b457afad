"""Click delays: the estimates against closed forms, what an open window does to them, and what the right mixture corrects."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from policies.batch import Batch
from policies.delay import MOVED, Ages, edges_s, mean_delay_s, merged, mixture, no_ages, reweighted, to_come, with_ages
from policies.model import make_model
from tests.policies.batches import START_MS

if TYPE_CHECKING:
    from policies.batch import FloatArray

W = 3600.0


def delays(n: int, weights: tuple[float, ...], means: tuple[float, ...], rng: np.random.Generator) -> FloatArray:
    """Delays in seconds of n clicks that come within the window: a mixture of truncated exponentials."""
    mean = np.array(means)[rng.choice(len(means), n, p=weights)]
    drawn: FloatArray = -mean * np.log1p(np.expm1(-W / mean) * rng.random(n))
    return drawn


def aged(ages_s: FloatArray, ts: FloatArray | None = None) -> Ages:
    when = np.full(len(ages_s), START_MS) if ts is None else ts.astype(np.int64)
    return with_ages(no_ages(round(W * 1000)), (1000 * ages_s).astype(np.int64), when)


@pytest.mark.parametrize("mean_s", [5.0, 600.0, 3000.0])
def test_one_exponential_is_found_from_its_mean_age(mean_s: float) -> None:
    """Its expectation mu - W/(exp(W/mu) - 1) gives mu back; taken for the mean itself it is too short."""
    age = mean_s - W / math.expm1(W / mean_s) if mean_s > 10 else mean_s
    assert mean_delay_s(age, W) == pytest.approx(mean_s, rel=1e-6)
    if mean_s > 1000:
        assert age < 0.5 * mean_s


def test_the_mean_is_within_its_standard_error() -> None:
    """Three times 1/sqrt(n I), with the information I of a truncated exponential."""
    n, mu = 20_000, 900.0
    found = mean_delay_s(float(delays(n, (1.0,), (mu,), np.random.default_rng(1)).mean()), W)
    r = W / mu
    information = (1.0 - r**2 * math.exp(r) / math.expm1(r) ** 2) / mu**2
    assert abs(found - mu) < 3.0 / math.sqrt(n * information)


def test_open_windows_bias_the_mean() -> None:
    """600 s comes out as 366 when the clicks of half an hour's impressions are taken as they come, and as 600 from those that matured."""
    rng = np.random.default_rng(2)
    shown, delay = rng.uniform(0.0, 1800.0, 400_000), rng.exponential(600.0, 400_000)
    come = delay[(shown + delay < 1800.0) & (delay < W)]
    assert mean_delay_s(float(come.mean()), W) == pytest.approx(365.0, abs=3.0)
    assert mean_delay_s(float(delay[delay < W].mean()), W) == pytest.approx(600.0, abs=6.0)


def test_two_exponentials_are_told_apart() -> None:
    """Weights of 0.7 and 0.3 within three standard errors of the likelihood's curvature; the delay that nobody has gets little."""
    n, grid = 20_000, (30.0, 600.0)
    state = aged(delays(n, (0.7, 0.3), grid, np.random.default_rng(3)))
    found = mixture(state.counts, grid, W)
    likely = -np.diff(np.exp(-edges_s(W) / np.array(grid)[:, None]), axis=1) / -np.expm1(-W / np.array(grid)[:, None])
    information = n * float(((likely[0] - likely[1]) ** 2 / (0.7 * likely[0] + 0.3 * likely[1])).sum())
    assert abs(found[0] - 0.7) < 3.0 / math.sqrt(information)
    three = mixture(state.counts, (30.0, 600.0, 3000.0), W)
    assert three[2] < 0.05


def test_ages_add_up_in_any_order() -> None:
    """In pieces, backwards, over three days: the same within rounding; and old clicks count less."""
    rng = np.random.default_rng(4)
    ages, ts = (1000 * rng.exponential(300.0, 3000)).astype(np.int64), START_MS + rng.integers(0, 3 * 86_400_000, 3000)
    start = no_ages(round(W * 1000))
    whole = with_ages(start, ages, ts)
    parts = [with_ages(start, ages[i::7], ts[i::7]) for i in reversed(range(7))]
    total = parts[0]
    for part in parts[1:]:
        total = merged(total, part)
    assert np.allclose(total.counts, whole.counts, rtol=1e-12)
    assert total.mean_age_s == pytest.approx(whole.mean_age_s)
    weights = 0.5 ** ((ts.max() - ts) / 86_400_000)
    assert whole.clicks == pytest.approx(float(weights[ages <= 1000 * W].sum()))


def test_weights_are_told_when_they_are_known_and_matter() -> None:
    """Not from 900 clicks, not when they say what is in use already, and not for a grid of one."""
    rng, grid = np.random.default_rng(5), (30.0, 600.0)
    few, many = (aged(delays(n, (0.9, 0.1), grid, rng)) for n in (900, 5000))
    assert reweighted(few, grid, None) is None
    told = reweighted(many, grid, None)
    assert told is not None
    gap = np.abs(to_come(told, grid, edges_s(W)) - to_come((0.5, 0.5), grid, edges_s(W))).max()
    assert gap > MOVED
    assert reweighted(many, grid, told) is None
    assert reweighted(many, (30.0,), None) is None


def shown(
    n: int, rate: float, weights: tuple[float, ...], grid: tuple[float, ...], seed: int
) -> tuple[Batch, float, int]:
    """Impressions over two windows with the clicks that have come by the end; the weight of labels that are in, and the end (ms)."""
    rng = np.random.default_rng(seed)
    end = 2 * W
    at = rng.uniform(0.0, end, n)
    clicked = rng.random(n) < rate
    come = clicked & (at + delays(n, weights, grid, rng) < end)
    mean = np.array(grid)[:, None]
    left = np.exp(-np.minimum(end - at, W) / mean) - np.exp(-W / mean)
    labelled = float((1.0 - np.array(weights) @ (left / -np.expm1(-W / mean))).sum())
    ts = START_MS + (1000 * at).astype(np.int64)
    ones = np.ones(int(come.sum()))
    batch = Batch(
        arms=("a",), arm=np.zeros(n, np.intp), x=np.zeros((n, 0)), ts=ts, reward_arm=np.zeros(len(ones), np.intp),
        reward_x=np.zeros((len(ones), 0)), reward_ts=ts[come], reward=ones, square=ones,
    )  # fmt: skip
    return batch, labelled, START_MS + round(1000 * end)


def test_the_right_mixture_removes_the_bias() -> None:
    """n_eff is the labels that are in, and the rate the true one within its error; equal weights and no correction miss both."""
    grid, weights, rate, n = (30.0, 600.0), (0.1, 0.9), 0.05, 400_000
    batch, labelled, now_ms = shown(n, rate, weights, grid, 6)
    model = make_model("beta", dimension=0, delays_s=grid)
    sums = model.update({}, batch)["a"]
    right, equal = model.at(sums, now_ms=now_ms, weights=weights), model.at(sums, now_ms=now_ms)
    error = math.sqrt(rate * (1.0 - rate) / n)
    assert right.n_eff == pytest.approx(labelled, rel=3e-3)
    assert abs(right.reward / right.n_eff - rate) < 3.0 * error
    assert abs(equal.reward / equal.n_eff - rate) > 3.0 * error
    assert abs(equal.reward / sums.n - rate) > 3.0 * error
    assert model.at(sums, now_ms=now_ms, weights=(0.5, 0.5)).n_eff == equal.n_eff


@pytest.mark.parametrize("name", ["linear", "logistic"])
def test_every_model_reads_by_the_weights(name: str) -> None:
    """All weight on one delay is the model of that delay; another number of weights is refused."""
    rng = np.random.default_rng(7)
    x = rng.integers(-8, 9, (50, 2)) / 8
    batch = Batch(
        arms=("a",), arm=np.zeros(50, np.intp), x=x, ts=START_MS + np.arange(50) * 1000, reward_arm=np.zeros(1, np.intp),
        reward_x=x[:1], reward_ts=np.array([START_MS]), reward=np.ones(1), square=np.ones(1),
    )  # fmt: skip
    both, one = (make_model(name, dimension=2, delays_s=grid) for grid in ((20.0, 300.0), (300.0,)))
    now = START_MS + 60_000
    left = both.at(both.update({}, batch)["a"], now_ms=now, weights=(0.0, 1.0))
    right = one.at(one.update({}, batch)["a"], now_ms=now)
    assert np.allclose(left.A, right.A, rtol=1e-12)
    assert np.allclose(left.b, right.b, rtol=1e-12)
    with pytest.raises(ValueError, match="must be one for each of 2 delays"):
        both.at(both.zero(), now_ms=now, weights=(1.0,))
