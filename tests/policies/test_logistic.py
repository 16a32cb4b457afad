"""Logistic sums are one step of iteratively reweighted least squares around a fixed point."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from policies.decide import law
from policies.empirical_bayes import fit_logistic
from policies.linear_sums import LinearSums
from policies.logistic import LogisticModel
from policies.model import make_model
from policies.posterior import linear_posterior
from policies.prior import Prior
from policies.snapshot import build
from policies.sums import Effective, RecordError
from tests.policies.batches import START_MS, bits, clicks, dyadic, shown

NOW_MS = START_MS + 45_000
POINT = (-1.0, 0.5, 0.25)


def test_a_reward_adds_exactly_its_context() -> None:
    """Whatever the point: u moves by r x to the last bit."""
    model = LogisticModel(dimension=3, point=POINT)
    zero = model.zero()
    x = np.array([[0.1, 0.2, 0.3]])
    after = model.update({"a": zero}, clicks("a", [START_MS], x, [1.0]))["a"]
    assert model.at(after, now_ms=NOW_MS).b.tolist() == x[0].tolist()


def test_at_the_optimum_the_posterior_mean_is_the_maximum_likelihood() -> None:
    """Linearised around the maximum itself, a step goes nowhere; and repeated steps lead there."""
    rng = np.random.default_rng(3)
    x = np.column_stack([np.ones(4000), rng.normal(size=(4000, 2))])
    hit = np.flatnonzero(rng.random(4000) < expit(x @ np.array([-1.0, 0.7, -0.4])))
    flat, w = Prior(mean=np.zeros(3), tau2=np.full(3, 1e9), s2=1.0), np.zeros(3)
    for _ in range(8):
        model = LogisticModel(dimension=3, point=tuple(w.tolist()))
        sums = model.update({}, shown("a", [0] * len(x), x.tolist()))
        sums = model.update(sums, clicks("a", [0] * len(hit), x[hit], [1.0] * len(hit)))
        w = linear_posterior(flat, model.at(sums["a"], now_ms=0)).mean
    r = np.zeros(len(x))
    r[hit] = 1.0
    assert np.abs(x.T @ (r - expit(x @ w))).max() < 1e-6
    again = linear_posterior(flat, model.at(sums["a"], now_ms=0))
    assert np.allclose(again.mean, w, atol=1e-9)
    fisher = (x * (expit(x @ w) * expit(-(x @ w)))[:, None]).T @ x
    assert np.allclose(again.factor.T @ again.factor, np.linalg.inv(fisher), rtol=1e-6)


def test_the_prior_is_recovered_on_the_logit_scale() -> None:
    """From 150 arms of 600 rows around the true mean: mean within 0.1, which the linearisation costs, and spread within a quarter."""
    rng = np.random.default_rng(7)
    center = np.array([-1.5, 0.0, 0.4])
    model = LogisticModel(dimension=3, point=tuple(center.tolist()))
    arms: dict[str, Effective] = {}
    for i in range(150):
        x = np.column_stack([np.ones(600), rng.normal(size=(600, 2))])
        hit = np.flatnonzero(rng.random(600) < expit(x @ (center + rng.normal(0, 0.3, 3))))
        sums = model.update({}, shown("a", [0] * 600, x.tolist()))
        sums = model.update(sums, clicks("a", [0] * len(hit), x[hit], [1.0] * len(hit)))
        arms[str(i)] = model.at(sums["a"], now_ms=0)
    prior = fit_logistic(arms, dimension=3, intercept=0)
    assert np.allclose(prior.mean, center, atol=0.1)
    assert np.sqrt(prior.tau2) == pytest.approx(np.full(3, 0.3), rel=0.25)
    assert prior.s2 == 1.0


def test_far_from_the_point_numbers_stay_finite() -> None:
    """Contexts that the point says are certain are worth no curvature, and nothing overflows."""
    model = LogisticModel(dimension=1, point=(1.0,))
    read = model.at(model.update({}, shown("a", [0, 0], [[1e6], [-1e6]]))["a"], now_ms=0)
    assert np.isfinite(read.A).all()
    assert read.b[0] == pytest.approx(-1e6, rel=0.01)


def test_sums_around_another_point_are_refused() -> None:
    """They cannot be added; the message names both points."""
    sums = LogisticModel(dimension=3, point=POINT).update({}, dyadic(1, 30))["a"]
    record = LogisticModel(dimension=3, point=POINT).encode(sums)
    with pytest.raises(RecordError, match=r"around the point \[-1.0, 0.5, 0.25\], the policy has \[0.0, 0.0, 0.0\]"):
        LogisticModel(dimension=3).decode(record)
    assert bits(LogisticModel(dimension=3, point=POINT).at(sums, now_ms=0)) == bits(
        LogisticModel(dimension=3, point=POINT).at(LogisticModel(dimension=3, point=POINT).decode(record), now_ms=0)
    )


@pytest.mark.parametrize("point", [(1.0,), (1.0, 2.0, float("nan"))])
def test_an_impossible_point_is_refused(point: tuple[float, ...]) -> None:
    """Of another length, or not finite; and for a model that is not linearised."""
    with pytest.raises(ValueError, match="3 finite numbers"):
        LogisticModel(dimension=3, point=point)
    with pytest.raises(ValueError, match="only the model 'logistic'"):
        make_model("linear", dimension=3, point=point)
    with pytest.raises(ValueError, match="dimension = 0"):
        LogisticModel(dimension=0)
    with pytest.raises(ValueError, match=r"x has shape \(4, 3\); the model needs \(n, 2\)"):
        LogisticModel(dimension=2).update({}, dyadic(8, 4))


def test_an_arm_with_more_clicks_is_chosen_more_often() -> None:
    """Through prior, snapshot and decision."""
    model = LogisticModel(dimension=1, point=(-1.0,))
    x = np.ones((100, 1))
    sums: dict[str, LinearSums] = {}
    for arm, n in (("good", 40), ("bad", 20)):
        one = model.update({}, shown(arm, [0] * 100, x.tolist()))
        sums |= model.update(one, clicks(arm, [0] * n, x[:n], [1.0] * n))
    prior = fit_logistic({arm: model.at(one, now_ms=0) for arm, one in sums.items()}, dimension=1, intercept=0)
    front = build("p", model=model, sums=sums, prior=prior, version=1, previous=None, time_ms=0, now_ms=0)
    p = law(front, [1.0], ("good", "bad"))
    assert p[0] > 0.95
    assert front.stack.row == {"good": 0, "bad": 1}
