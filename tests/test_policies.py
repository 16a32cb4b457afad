"""The bandit core against closed forms and simulation: sums, priors, posteriors, propensities, snapshots."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from policies.batch import Batch
from policies.decide import decide, law
from policies.empirical_bayes import fit_beta, fit_linear, start_linear
from policies.explorers import probabilities
from policies.model import make_model
from policies.posterior import linear_posterior
from policies.prior import Prior
from policies.snapshot import assemble, build, decode_arm, decode_head, encode_arm, encode_head, republish
from policies.sums import Effective, RecordError

DIMENSION = 3
ARMS = ("a", "b", "c")


def rows(seed: int, n: int, *, step_ms: int = 1000) -> Batch:
    """Dyadic rows: a third of the impressions carry a reward."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-8, 9, (n, DIMENSION)) / 8
    arm = rng.integers(0, len(ARMS), n)
    ts = 1_700_000_000_000 + step_ms * rng.integers(0, 40, n)
    hit = np.flatnonzero(rng.random(n) < 0.3)
    reward = rng.integers(1, 4, len(hit)).astype(float)
    return Batch(
        arms=ARMS,
        arm=arm,
        x=x,
        ts=ts,
        reward_arm=arm[hit],
        reward_x=x[hit],
        reward_ts=ts[hit],
        reward=reward,
        square=reward**2,
    )


def take(batch: Batch, shown: Any, rewarded: Any) -> Batch:
    """Some rows of a batch."""
    return Batch(
        arms=batch.arms,
        arm=batch.arm[shown],
        x=batch.x[shown],
        ts=batch.ts[shown],
        reward_arm=batch.reward_arm[rewarded],
        reward_x=batch.reward_x[rewarded],
        reward_ts=batch.reward_ts[rewarded],
        reward=batch.reward[rewarded],
        square=batch.square[rewarded],
    )


def same(left: dict[str, Any], right: dict[str, Any], model: Any, now_ms: int) -> bool:
    """Bit for bit."""
    for arm in ARMS:
        one, two = model.at(left[arm], now_ms=now_ms), model.at(right[arm], now_ms=now_ms)
        if (one.n_eff, one.count, one.reward, one.square) != (two.n_eff, two.count, two.reward, two.square):
            return False
        if not (np.array_equal(one.b, two.b) and np.array_equal(one.A, two.A)):
            return False
    return True


@pytest.mark.parametrize("name", ["linear", "beta"])
@pytest.mark.parametrize("half_life_s", [0.0, 1.0])
def test_any_order_and_any_split_gives_the_same_bits(name: str, half_life_s: float) -> None:
    """Batches in another order, merged from two halves, are the whole: with whole half-lives too."""
    model = make_model(name, dimension=DIMENSION, half_life_s=half_life_s)
    batch = rows(1, 300)
    rng = np.random.default_rng(2)
    whole = model.update({}, batch)
    shown, rewarded = rng.permutation(len(batch.arm)), rng.permutation(len(batch.reward))
    left = model.update({}, take(batch, shown[:100], rewarded[:20]))
    right = model.update(model.update({}, take(batch, shown[100:220], rewarded[20:])), take(batch, shown[220:], []))
    merged = {arm: model.merge(left[arm], right[arm]) for arm in ARMS}
    now_ms = int(batch.ts.max()) + 5_000
    assert same(whole, merged, model, now_ms)
    fewer = model.update({}, take(batch, shown[1:], rewarded))
    assert not same(whole, fewer, model, now_ms)


def test_forgetting_is_the_closed_form() -> None:
    """A row weighs 2^(-(now - ts)/H)."""
    model = make_model("linear", dimension=DIMENSION, half_life_s=7.0)
    batch = rows(3, 200)
    read = model.at(model.update({}, batch)["b"], now_ms=1_700_000_060_000)
    weights = 2.0 ** (-(1_700_000_060_000 - batch.ts) / 7000.0) * (batch.arm == 1)
    assert read.n_eff == pytest.approx(weights.sum(), rel=1e-12)
    assert np.allclose(read.A, (batch.x * weights[:, None]).T @ batch.x, rtol=1e-12)


def test_what_is_pending_is_subtracted() -> None:
    """With a mean delay mu, a row of age u counts with 1 - exp(-u/mu)."""
    model = make_model("linear", dimension=DIMENSION, delays_s=(5.0,))
    batch = rows(4, 200)
    now_ms = 1_700_000_050_000
    read = model.at(model.update({}, batch)["a"], now_ms=now_ms)
    weights = (1 - np.exp(-(now_ms - batch.ts) / 5000.0)) * (batch.arm == 0)
    assert read.n_eff == pytest.approx(weights.sum(), rel=1e-12)
    assert np.allclose(read.A, (batch.x * weights[:, None]).T @ batch.x, rtol=1e-10)


@pytest.mark.parametrize("name", ["linear", "beta"])
def test_records_read_back_and_refuse_what_does_not_fit(name: str) -> None:
    """Encode and decode is the identity; unknown keys are ignored; another dimension or a newer version is refused."""
    model = make_model(name, dimension=DIMENSION, half_life_s=60.0, delays_s=(2.0, 9.0))
    sums = model.update({}, rows(5, 50))
    back = {arm: model.decode(model.encode(one) | {"later": 1}) for arm, one in sums.items()}
    assert same(sums, back, model, 1_700_000_050_000)
    with pytest.raises(RecordError, match="v"):
        model.decode(model.encode(sums["a"]) | {"v": 2})
    if name == "linear":
        with pytest.raises(RecordError):
            make_model(name, dimension=4, half_life_s=60.0, delays_s=(2.0, 9.0)).decode(model.encode(sums["a"]))


def test_update_leaves_its_input_alone() -> None:
    """Old sums keep their numbers, and arms that a batch does not touch keep their objects."""
    model = make_model("linear", dimension=DIMENSION)
    first = model.update({}, rows(6, 30))
    before = {arm: model.encode(one) for arm, one in first.items()}
    only_a = take(rows(7, 60), np.flatnonzero(rows(7, 60).arm == 0), [])
    second = model.update(first, only_a)
    assert {arm: model.encode(one) for arm, one in first.items()} == before
    assert second["b"] is first["b"]
    assert second["a"] is not first["a"]


@pytest.mark.parametrize("arms", [1, 2, 8, 30])
def test_thompson_propensities_match_simulation(arms: int) -> None:
    """The quadrature agrees with 400,000 draws within five standard errors and sums to one."""
    rng = np.random.default_rng(arms)
    mean, sd = rng.normal(0, 1, arms), rng.uniform(0.05, 1.5, arms)
    p = probabilities(mean, sd, explorer="thompson")
    draws = rng.normal(mean, sd, (400_000, arms)).argmax(axis=1)
    share = np.bincount(draws, minlength=arms) / len(draws)
    error = np.sqrt(np.maximum(p * (1 - p), 1e-6) / len(draws))
    assert p.sum() == pytest.approx(1.0, abs=1e-12)
    assert (np.abs(share - p) <= 5 * error + 1e-5).all()


def test_the_other_explorers_are_their_closed_forms() -> None:
    """Greedy splits ties, UCB takes the largest bound, the floor mixes the uniform law in."""
    mean, sd = np.array([1.0, 1.0, 0.0]), np.array([0.1, 0.1, 2.0])
    assert probabilities(mean, sd, explorer="epsilon-greedy", epsilon=0.3).tolist() == pytest.approx([0.45, 0.45, 0.1])
    assert probabilities(mean, sd, explorer="ucb", alpha=1.0).tolist() == [0.0, 0.0, 1.0]
    assert probabilities(mean, sd, explorer="ucb", alpha=1.0, epsilon=0.06).tolist() == pytest.approx(
        [0.02, 0.02, 0.96]
    )


def effective(theta: Any, n: int, s2: float, rng: Any) -> Effective:
    """Sums of n rows of one arm with noise variance s2."""
    x = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])
    r = x @ theta + rng.normal(0, np.sqrt(s2), n)
    return Effective(
        n_eff=float(n), count=float(n), reward=float(r.sum()), square=float((r**2).sum()), b=x.T @ r, A=x.T @ x
    )


def test_empirical_bayes_recovers_the_prior_and_the_noise() -> None:
    """From 200 arms drawn from a known prior: its mean within 0.02, its spread within a third, the noise within 3%."""
    rng = np.random.default_rng(9)
    thetas = np.array([0.3, 0.0, 0.1]) + rng.normal(0, [0.12, 0.08, 0.08], (200, 3))
    arms = {str(i): effective(theta, 400, 0.25, rng) for i, theta in enumerate(thetas)}
    prior = fit_linear(arms, dimension=3, intercept=0)
    assert np.allclose(prior.mean, [0.3, 0.0, 0.1], atol=0.02)
    assert np.sqrt(prior.tau2) == pytest.approx([0.12, 0.08, 0.08], rel=0.34)
    assert prior.s2 == pytest.approx(0.25, rel=0.03)


def test_empirical_bayes_without_data_is_its_start() -> None:
    """No rows teach nothing, and no rate is zero or infinite."""
    none = {"a": Effective(n_eff=0.0, count=0.0, reward=0.0, square=0.0, b=np.zeros(3), A=np.zeros((3, 3)))}
    assert fit_linear(none, dimension=3) == start_linear(none, dimension=3)
    beta = fit_beta(
        {str(i): Effective(n_eff=1e4, count=1e4, reward=r, square=r) for i, r in enumerate((300.0, 400.0, 500.0))}
    )
    assert beta.a / (beta.a + beta.b) == pytest.approx(0.04, rel=0.02)


def test_the_posterior_is_the_textbooks() -> None:
    """Precision diag(1/tau2) + A/s2, mean its solve, and ||W x||^2 = x' V x."""
    rng = np.random.default_rng(10)
    arm = effective(np.array([0.2, 0.1, -0.1]), 50, 0.1, rng)
    prior = Prior(mean=np.array([0.1, 0.0, 0.0]), tau2=np.array([0.5, 0.2, 0.1]), s2=0.1)
    found = linear_posterior(prior, arm)
    precision = np.diag(1 / prior.tau2) + arm.A / prior.s2
    assert np.allclose(found.mean, np.linalg.solve(precision, prior.mean / prior.tau2 + arm.b / prior.s2))
    x = rng.normal(size=3)
    assert ((found.factor @ x) ** 2).sum() == pytest.approx(x @ np.linalg.inv(precision) @ x)


def snapshots() -> tuple[Any, Any]:
    """Two versions of a policy; only arm a changes in the second."""
    model = make_model("linear", dimension=DIMENSION)
    prior = Prior(mean=np.zeros(3), tau2=np.ones(3), s2=0.25)
    sums = model.update({}, rows(11, 90))
    one = build("front", model=model, sums=sums, prior=prior, version=1, previous=None, time_ms=5, now_ms=0)
    more = model.update(sums, take(rows(12, 60), np.flatnonzero(rows(12, 60).arm == 0), []))
    two = build(
        "front", model=model, sums=more, prior=prior, version=2, previous=one, time_ms=6, now_ms=0, changed={"a"}
    )
    return one, two


def test_snapshots_travel_in_parts_and_only_changed_arms_are_written() -> None:
    """A reader puts head and arms together, not before all are there, and notices what does not add up."""
    one, two = snapshots()
    assert {name: arm.version for name, arm in two.arms.items()} == {"a": 2, "b": 1, "c": 1}
    head = decode_head(encode_head(two))
    arms = {name: decode_arm(encode_arm("front", name, arm)) for name, arm in two.arms.items()}
    assert assemble(head, {name: arm for name, arm in arms.items() if name != "b"}) is None
    whole = assemble(head, arms)
    assert whole is not None
    x = np.array([0.5, -1.0, 0.25])
    assert np.array_equal(law(whole, x), law(two, x))
    back = republish(one, version=3, parent=2, time_ms=7, reason="rollback")
    assert np.array_equal(law(back, x), law(one, x))
    assert {arm.version for arm in back.arms.values()} == {3}


def test_decisions_follow_their_propensities() -> None:
    """The logged propensity is the share with which an arm is drawn; an unknown arm is scored by the prior."""
    _, two = snapshots()
    rng = np.random.default_rng(13)
    x = np.array([0.5, -1.0, 0.25])
    p = law(two, x, ("a", "b", "new"))
    drawn = [decide(two, x, ("a", "b", "new"), rng=rng) for _ in range(4000)]
    share = np.array([sum(one.arm == name for one in drawn) for name in ("a", "b", "new")]) / len(drawn)
    assert np.abs(share - p).max() < 0.035
    assert all(one.propensity == p[one.candidates.index(one.arm)] for one in drawn[:50])
