"""The top layer: its recursion and its memory, that evidence moves it and noise does not, and mixtures' propensities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta

from policies.batch import Batch
from policies.decide_batch import law_batch
from policies.empirical_bayes import fit
from policies.model import make_model
from policies.snapshot import Snapshot, build
from policies.thompson import thompson
from policies.top_layer import KEPT, TopLayer, draw, evidence, law, matured, mixed, told, top_layer

Update = Callable[[TopLayer, np.ndarray, np.ndarray], TopLayer]


def events(rates: list[float], n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Choices drawn at random, and clicks at the rates of the choices."""
    rng = np.random.default_rng(seed)
    choice = rng.integers(0, len(rates), n)
    return choice, (rng.random(n) < np.array(rates)[choice]).astype(float)


def is_the_recursion(update: Update) -> None:
    """Event by event by hand, and the same in one piece and in pieces."""
    choice, reward = events([0.1, 0.5, 0.3], 400, 1)
    S, F = np.ones(3), np.full(3, 9.0)
    for j, r in zip(choice, reward, strict=True):
        S, F = 1.0 + 0.99 * (S - 1.0), 9.0 + 0.99 * (F - 9.0)
        S[j] += r
        F[j] += 1.0 - r
    start = top_layer(3, default=0, memory=0.99)
    whole = update(start, choice, reward)
    assert np.allclose(whole.S, S)
    assert np.allclose(whole.F, F)
    parts = start
    for part in np.array_split(np.arange(400), 7):
        parts = update(parts, choice[part], reward[part])
    assert np.allclose(parts.S + parts.F, whole.S + whole.F)


def remembers_its_memory(update: Update) -> None:
    """For ever the same events: S - 1 tends to rate/(1 - d) of the choice's share, whatever came long before."""
    state = update(top_layer(2, default=0, memory=0.99), np.ones(500, int), np.ones(500))
    state = update(state, np.tile([0, 1], 1500), np.tile([1.0, 0.0], 1500))
    assert sum(state.S) - 2.0 + sum(state.F) - 18.0 == pytest.approx(1.0 / (1.0 - 0.99), rel=1e-6)
    assert state.S[0] - 1.0 == pytest.approx(0.99 / (1.0 - 0.99**2), rel=1e-6)
    assert state.S[1] == pytest.approx(1.0, abs=1e-6)


def forgets_nothing(state: TopLayer, choice: np.ndarray, reward: np.ndarray) -> TopLayer:
    """As `matured`, without the discount."""
    S, F = np.array(state.S), np.array(state.F)
    np.add.at(S, choice, reward)
    np.add.at(F, choice, 1.0 - reward)
    return TopLayer(S=tuple(S), F=tuple(F), default=state.default, memory=state.memory)


def fades_only_the_drawn(state: TopLayer, choice: np.ndarray, reward: np.ndarray) -> TopLayer:
    """As `matured`, but what is not drawn does not fade."""
    S, F = np.array(state.S), np.array(state.F)
    for j, r in zip(choice, reward, strict=True):
        S[j] = 1.0 + state.memory * (S[j] - 1.0) + r
        F[j] = 9.0 + state.memory * (F[j] - 9.0) + 1.0 - r
    return TopLayer(S=tuple(S), F=tuple(F), default=state.default, memory=state.memory)


@pytest.mark.parametrize("check", [is_the_recursion, remembers_its_memory])
def test_counts_follow_the_recursion(check: Callable[[Update], None]) -> None:
    """And layers with another memory do not."""
    check(matured)
    for wrong in (forgets_nothing, fades_only_the_drawn):
        with pytest.raises(AssertionError):
            check(wrong)


def test_the_evidence_is_the_ratio_of_marginal_likelihoods() -> None:
    """By integration over the rates."""
    state = TopLayer(S=(4.0, 1.5), F=(12.0, 14.5), default=0)
    prior = beta(1.0, 9.0)

    def likelihood(p: float, j: int) -> float:
        return float(p ** (state.S[j] - 1.0) * (1.0 - p) ** (state.F[j] - 9.0))

    own = np.prod([quad(lambda p, j=j: likelihood(p, j) * prior.pdf(p), 0.0, 1.0)[0] for j in (0, 1)])
    shared = quad(lambda p: likelihood(p, 0) * likelihood(p, 1) * prior.pdf(p), 0.0, 1.0)[0]
    assert evidence(state) == pytest.approx(own / (own + shared), rel=1e-6)


def test_the_law_is_that_of_its_draws() -> None:
    """Default or Beta draws by the evidence, over what each keeps: by simulation within five standard errors."""
    state = TopLayer(S=(41.0, 61.0, 56.0), F=(969.0, 949.0, 954.0), default=0, kept=0.02)
    rng, n = np.random.default_rng(2), 200_000
    sampled = rng.beta(np.array(state.S), np.array(state.F), (n, 3)).argmax(axis=1)
    inner = np.where(rng.random(n) < evidence(state), sampled, state.default)
    kept = rng.random(n) < 3 * state.kept
    simulated = np.bincount(np.where(kept, rng.integers(0, 3, n), inner), minlength=3) / n
    q = law(state)
    assert q.sum() == pytest.approx(1.0)
    error = 5.0 * np.sqrt(q * (1.0 - q) / n)
    assert (np.abs(simulated - q) < error).all()
    drawn = np.bincount(draw(state, np.random.default_rng(3), n), minlength=3) / n
    assert (np.abs(drawn - q) < error).all()


def test_noise_does_not_move_it() -> None:
    """Six choices of one rate: the default keeps its share in all of 50 logs, as plain Thompson sampling would not."""
    inner, plain = [], []
    for seed in range(50):
        choice, reward = events([0.04] * 6, 20_000, seed)
        state = matured(top_layer(6, default=2), choice, reward)
        inner.append(law(state)[2])
        plain.append(np.argmax(np.array(state.S) / (np.array(state.S) + np.array(state.F))) == 2)
    assert min(inner) > 0.65
    assert np.mean(plain) < 0.5


def test_evidence_moves_it() -> None:
    """A choice of twice the rate gets what is free."""
    choice, reward = events([0.04, 0.08], 20_000, 5)
    before = top_layer(2, default=0)
    after = matured(before, choice, reward)
    assert law(after)[1] == pytest.approx(1.0 - KEPT, abs=0.01)
    assert told(before, after, ["0.3", "0.5"]).startswith("0.3 -> 0.5: 95% of events")
    assert told(after, after, ["0.3", "0.5"]) == ""


def test_rewards_are_shares_of_the_bound() -> None:
    """Ten times the rewards under ten times the bound are the same counts."""
    choice, reward = events([0.2, 0.4], 300, 6)
    one = matured(top_layer(2, default=0), choice, reward)
    ten = matured(top_layer(2, default=0, bound=10.0), choice, 10.0 * reward)
    assert np.allclose(one.S, ten.S)
    with pytest.raises(ValueError, match="allows 0 to 1"):
        matured(one, np.array([0]), np.array([10.0]))
    with pytest.raises(ValueError, match="allows 0 to 1"):
        matured(one, np.array([0]), np.array([-0.1]))


def test_an_arms_propensity_is_the_mixture() -> None:
    """By simulation of both draws within five standard errors; the law of the drawn choice alone is another."""
    mean, sd, q = np.array([0.0, 0.1, 0.3]), np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 0.3])
    alphas = np.array([0.2, 0.5, 1.0])
    laws = np.stack([thompson(mean, alpha * sd) for alpha in alphas])
    rng, n = np.random.default_rng(4), 200_000
    alpha = alphas[rng.choice(3, size=n, p=q)]
    shown = (mean + alpha[:, None] * sd * rng.standard_normal((n, 3))).argmax(axis=1)
    simulated, p = np.bincount(shown, minlength=3) / n, mixed(q, laws)
    error = 5.0 * np.sqrt(p * (1.0 - p) / n)
    assert (np.abs(simulated - p) < error).all()
    assert not (np.abs(simulated - laws[1]) < error).all()


def test_many_contexts_are_mixed_together() -> None:
    """(J, n, K) as each row alone."""
    rng = np.random.default_rng(5)
    laws, q = rng.dirichlet(np.ones(4), (3, 6)), np.array([0.1, 0.2, 0.7])
    assert np.allclose(mixed(q, laws)[2], mixed(q, laws[:, 2]))
    with pytest.raises(ValueError, match="sum to one"):
        mixed(np.array([0.5, 0.2, 0.2]), laws)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"default": 2}, "default = 2"),
        ({"bound": 0.0}, "bound = 0.0"),
        ({"kept": 0.6}, "kept = 0.6"),
        ({"memory": 0.0}, "memory = 0.0"),
        ({"F": (9.0,)}, "F 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, float], match: str) -> None:
    """With what is allowed."""
    with pytest.raises(ValueError, match=match):
        TopLayer(**{"S": (1.0, 1.0), "F": (9.0, 9.0), "default": 0} | change)  # type: ignore[arg-type]


def test_events_that_do_not_fit_are_refused() -> None:
    """Lengths, and choices that are none."""
    state = top_layer(2, default=0)
    with pytest.raises(ValueError, match=r"both must be \(n,\)"):
        matured(state, np.array([0, 1]), np.array([1.0]))
    with pytest.raises(ValueError, match="indices of 2 choices"):
        matured(state, np.array([2]), np.array([1.0]))


def front(model: str, sums: Mapping[str, Any]) -> Snapshot:
    """A policy of two arms."""
    made = make_model(model, dimension=0 if model == "beta" else 2)
    read = {arm: made.at(one, now_ms=0) for arm, one in sums.items()}
    prior = fit(read, None, model=model, dimension=made.dimension, intercept=None if model == "beta" else 0)
    return build(model, model=made, sums=sums, prior=prior, version=1, previous=None, time_ms=0, now_ms=0)


def learned(model: str, x: np.ndarray, arm: np.ndarray, reward: np.ndarray) -> dict[str, Any]:
    """Sums of logged rows."""
    made, ts, context = make_model(model, dimension=0 if model == "beta" else 2), np.zeros(len(x), np.int64), x
    if model == "beta":
        context = x[:, :0]
    rows = Batch(
        arms=("a", "b"),
        arm=arm,
        x=context,
        ts=ts,
        reward_arm=arm,
        reward_x=context,
        reward_ts=ts,
        reward=reward,
        square=reward,
    )
    return made.update({}, rows)


def test_whole_policies_compete_as_choices() -> None:
    """One that sees the context and one that cannot: traffic goes to the first, and propensities are the mixture's."""
    rng = np.random.default_rng(7)
    x = np.column_stack([np.ones(3000), rng.choice([-1.0, 1.0], 3000)])

    def clicks(x: np.ndarray, arm: np.ndarray) -> np.ndarray:
        good = np.where(arm == 0, 1.0, -1.0) == x[:, 1]
        return (rng.random(len(x)) < np.where(good, 0.3, 0.1)).astype(float)

    arm = rng.integers(0, 2, 3000)
    reward = clicks(x, arm)
    strategies = [front(model, learned(model, x, arm, reward)) for model in ("beta", "linear")]
    state, shown, propensity = top_layer(2, default=0), [], []
    for _ in range(12):
        x = np.column_stack([np.ones(500), rng.choice([-1.0, 1.0], 500)])
        laws = np.stack([law_batch(one, x if one.dimension else x[:, :0], ("a", "b")) for one in strategies])
        choice = draw(state, rng, 500)
        arm = (rng.random(500) >= laws[choice, np.arange(500), 0]).astype(int)
        p = mixed(law(state), laws)
        shown.append(arm == 0)
        propensity.append(p[:, 0])
        state = matured(state, choice, clicks(x, arm))
    assert law(state)[1] > 0.9
    assert told(top_layer(2, default=0), state, ["beta", "linear"]).startswith("beta -> linear")
    p = np.concatenate(propensity)
    gap = np.concatenate(shown).mean() - p.mean()
    assert abs(gap) < 5.0 * np.sqrt((p * (1.0 - p)).mean() / len(p))
