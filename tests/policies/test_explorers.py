"""Explorers as probability vectors: their closed forms, and the laws that all of them obey.

SUBJECTS lists every explorer once; an explorer that is not there fails. LAWS are what all must obey, and each has a
subject in BROKEN that it rejects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.batch import FloatArray
from policies.closed_forms import best, uncertainty
from policies.explorers import EXPLORERS, Scores, explore, probabilities

DRAWS = 1_000_000
CHUNK = 100_000

Arms = npt.NDArray[np.intp]
Law = Callable[[Scores, float], FloatArray]
Draw = Callable[[Scores, float, np.random.Generator, int], Arms]


def uniform(scores: Scores) -> FloatArray:
    """1/K each."""
    return np.full(len(scores.mean), 1 / len(scores.mean))


def greedy(scores: Scores) -> FloatArray:
    """Equal parts for the best means."""
    return best(scores.mean)


def keys_to_arms(keys: FloatArray) -> Arms:
    """Index of the largest key in each row; ties at random."""
    tied = keys == keys.max(axis=1, keepdims=True)
    arms: Arms = (tied * np.random.default_rng(5).random(keys.shape)).argmax(axis=1)
    return arms


def by_key(key: Callable[[Scores, float], FloatArray]) -> Draw:
    """Draws of an explorer that shows the largest key, ties at random."""
    return lambda at, rate, rng, n: keys_to_arms(np.tile(key(at, rate), (n, 1)))


def by_gumbel(logits: Callable[[Scores, float], FloatArray]) -> Draw:
    """Draws with chances proportional to exp(logits), by the Gumbel trick."""
    return lambda at, rate, rng, n: keys_to_arms(logits(at, rate) + rng.gumbel(size=(n, len(at.mean))))


def draw_thompson(at: Scores, rate: float, rng: np.random.Generator, n: int) -> Arms:
    """The largest of independent draws."""
    return keys_to_arms(at.mean + rate * at.sd * rng.standard_normal((n, len(at.mean))))


def draw_squarecb(at: Scores, rate: float, rng: np.random.Generator, n: int) -> Arms:
    """Propose an arm uniformly; keep it with the chance 1/(1 + gamma gap/K), else show a best one."""
    arms = len(at.mean)
    proposed, best_arm = rng.integers(0, arms, n), keys_to_arms(np.tile(at.mean, (n, 1)))
    gamma = rate * np.sqrt(at.count) / at.noise_sd
    kept = rng.random(n) < 1 / (1 + gamma * (at.mean.max() - at.mean[proposed]) / arms)
    return np.where(kept, proposed, best_arm)


def draw_explore_first(at: Scores, rate: float, rng: np.random.Generator, n: int) -> Arms:
    """Uniform or greedy."""
    return rng.integers(0, len(at.mean), n) if at.count < rate else keys_to_arms(np.tile(at.mean, (n, 1)))


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An explorer's law beside what it must be.

    Attributes:
        law: (scores, rate) -> probabilities.
        draw: arms drawn by the explorer's definition, without its probabilities.
        limits: rates, and what the law is there.
        scaled: factor of the rate when the reward's unit becomes c times smaller.
        rates: values that the laws are tried with.
    """

    law: Law
    draw: Draw
    limits: tuple[tuple[float, Callable[[Scores], FloatArray]], ...]
    scaled: Callable[[float], float] = lambda c: 1.0
    rates: tuple[float, ...] = (0.3, 1.0, 3.0)


def of(name: str) -> Law:
    """The law of an explorer without a floor."""
    own = EXPLORERS[name].rate
    return lambda at, rate: explore(at, name, {own: rate, "epsilon": rate if own == "epsilon" else 0.0})


SUBJECTS = {
    "thompson": Subject(
        law=of("thompson"),
        draw=draw_thompson,
        limits=((0.0, greedy), (1e9, lambda at: of("thompson")(no_means(at), 1.0))),
    ),
    "ucb": Subject(
        law=of("ucb"),
        draw=by_key(lambda at, alpha: at.mean + alpha * at.sd),
        limits=((0.0, greedy), (1e9, lambda at: best(at.sd))),
    ),
    "epsilon-greedy": Subject(
        law=of("epsilon-greedy"),
        draw=lambda at, epsilon, rng, n: np.where(
            rng.random(n) < epsilon, rng.integers(0, len(at.mean), n), keys_to_arms(np.tile(at.mean, (n, 1)))
        ),
        limits=((0.0, greedy), (1.0, uniform)),
        rates=(0.05, 0.5),
    ),
    "softmax": Subject(
        law=of("softmax"),
        draw=by_gumbel(lambda at, tau: at.mean / tau),
        limits=((1e-9, greedy), (1e9, uniform)),
        scaled=lambda c: c,
    ),
    "squarecb": Subject(law=of("squarecb"), draw=draw_squarecb, limits=((0.0, uniform), (1e12, greedy))),
    "explore-first": Subject(
        law=of("explore-first"),
        draw=draw_explore_first,
        limits=((0.0, greedy), (1e9, uniform)),
        rates=(10.0, 1000.0),
    ),
    "uncertainty": Subject(
        law=of("uncertainty"),
        draw=by_gumbel(lambda at, power: power * np.log(at.sd)),
        limits=((0.0, uniform), (1e6, lambda at: best(at.sd))),
    ),
}


def no_means(at: Scores) -> Scores:
    """The same widths around zero."""
    return Scores(mean=0.0 * at.mean, sd=at.sd, count=at.count, noise_sd=at.noise_sd)


def scores_of(seed: int, arms: int = 7) -> Scores:
    """Scores whose first two arms are alike and, for even seeds, the best."""
    rng = np.random.default_rng(seed)
    mean, sd = rng.normal(0.0, 0.5, arms), rng.uniform(0.05, 0.6, arms)
    mean[:2] = mean.max() if seed % 2 == 0 else mean[0]
    sd[:2] = 1.1 * sd.max()
    return Scores(mean=mean, sd=sd, count=400.0, noise_sd=0.5)


def is_a_distribution(subject: Subject, at: Scores, rate: float) -> None:
    """Not negative, sums to one."""
    p = subject.law(at, rate)
    assert p.shape == at.mean.shape
    assert p.min() >= 0.0
    assert p.sum() == pytest.approx(1.0, abs=1e-12)


def matches_its_definition(subject: Subject, at: Scores, rate: float) -> None:
    """The shares of a million draws are the law within five standard errors."""
    p, rng = subject.law(at, rate), np.random.default_rng(3)
    drawn = [np.bincount(subject.draw(at, rate, rng, CHUNK), minlength=len(p)) for _ in range(DRAWS // CHUNK)]
    share = np.sum(drawn, axis=0) / DRAWS
    assert (np.abs(share - p) <= 5 * np.sqrt(p * (1 - p) / DRAWS) + 3e-6).all()


def goes_with_the_arms(subject: Subject, at: Scores, rate: float) -> None:
    """Arms in another order have their chances in that order."""
    order = np.random.default_rng(4).permutation(len(at.mean))
    other = Scores(mean=at.mean[order], sd=at.sd[order], count=at.count, noise_sd=at.noise_sd)
    assert subject.law(other, rate) == pytest.approx(subject.law(at, rate)[order], abs=2e-6)


def has_its_limits(subject: Subject, at: Scores, rate: float) -> None:
    """At the ends of its rate it is what it is known to be there."""
    for end, limit in subject.limits:
        assert subject.law(at, end) == pytest.approx(limit(at), abs=1e-5)


def splits_ties(subject: Subject, at: Scores, rate: float) -> None:
    """Arms that are alike have the same chance."""
    p = subject.law(at, rate)
    assert p[0] == pytest.approx(p[1], abs=2e-6)


def knows_no_unit(subject: Subject, at: Scores, rate: float) -> None:
    """Rewards counted in cents give the law that they give in dollars."""
    cents = Scores(mean=128 * at.mean, sd=128 * at.sd, count=at.count, noise_sd=128 * at.noise_sd)
    assert subject.law(cents, rate * subject.scaled(128.0)) == pytest.approx(subject.law(at, rate), abs=2e-6)


def changes_nothing(subject: Subject, at: Scores, rate: float) -> None:
    """The scores are as they were."""
    before = at.mean.tobytes() + at.sd.tobytes()
    subject.law(at, rate)
    assert at.mean.tobytes() + at.sd.tobytes() == before


def is_the_same_in_batches(subject: Subject, at: Scores, rate: float) -> None:
    """Contexts together have the laws that they have alone."""
    others = (at, scores_of(11), scores_of(12))
    mean, sd = np.stack([one.mean for one in others]), np.stack([one.sd for one in others])
    together = subject.law(Scores(mean=mean, sd=sd, count=at.count, noise_sd=at.noise_sd), rate)
    assert together == pytest.approx(np.stack([subject.law(one, rate) for one in others]), abs=2e-6)


LAWS = (
    is_a_distribution,
    matches_its_definition,
    goes_with_the_arms,
    has_its_limits,
    splits_ties,
    knows_no_unit,
    changes_nothing,
    is_the_same_in_batches,
)


def spoil(at: Scores, rate: float) -> FloatArray:
    """UCB that leaves its bounds in the means."""
    at.mean[:] += rate * at.sd
    return best(at.mean)


def with_law(name: str, law: Law) -> Subject:
    """A subject whose law is another one."""
    known = SUBJECTS[name]
    return Subject(law=law, draw=known.draw, limits=known.limits, scaled=known.scaled, rates=known.rates)


BROKEN: dict[Callable[[Subject, Scores, float], None], Subject] = {
    is_a_distribution: with_law("softmax", lambda at, tau: np.exp(at.mean / tau)),
    matches_its_definition: with_law("thompson", lambda at, alpha: of("thompson")(at, 1.02 * alpha)),
    goes_with_the_arms: with_law("ucb", lambda at, _: np.arange(len(at.mean)) / np.arange(len(at.mean)).sum()),
    has_its_limits: with_law("squarecb", lambda at, g: 0.99 * of("squarecb")(at, g) + 0.01 * uniform(at)),
    splits_ties: with_law("ucb", lambda at, alpha: np.eye(len(at.mean))[(at.mean + alpha * at.sd).argmax()]),
    knows_no_unit: with_law("squarecb", lambda at, g: of("squarecb")(Scores(mean=at.mean, sd=at.sd, count=9.0), g)),
    changes_nothing: with_law("ucb", spoil),
    is_the_same_in_batches: with_law("softmax", lambda at, tau: np.exp(at.mean / tau) / np.exp(at.mean / tau).sum()),
}


def test_every_explorer_is_a_subject() -> None:
    """One that is not listed here has no laws to obey."""
    assert set(SUBJECTS) == set(EXPLORERS)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", SUBJECTS)
def test_explorers_obey_the_laws(name: str, law: Callable[[Subject, Scores, float], None]) -> None:
    """Every law for every explorer, with several rates, with and without a tie of the best."""
    subject = SUBJECTS[name]
    for seed in (2, 3):
        for rate in subject.rates if law is not matches_its_definition else subject.rates[:2]:
            law(subject, scores_of(seed), rate)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_laws_reject_a_broken_explorer(law: Callable[[Subject, Scores, float], None]) -> None:
    """Each law has a subject that it fails."""
    with pytest.raises(AssertionError):
        law(BROKEN[law], scores_of(2), 1.0)


MEAN, SD = np.array([1.0, 1.0, 0.0]), np.array([0.1, 0.1, 2.0])


@pytest.mark.parametrize(
    ("explorer", "rates", "expected"),
    [
        ("epsilon-greedy", {"epsilon": 0.3}, [0.45, 0.45, 0.1]),
        ("epsilon-greedy", {}, [0.5, 0.5, 0.0]),
        ("ucb", {}, [0.0, 0.0, 1.0]),
        ("ucb", {"alpha": 0.1}, [0.5, 0.5, 0.0]),
        ("ucb", {"epsilon": 0.06}, [0.02, 0.02, 0.96]),
        ("thompson", {"alpha": 0.0}, [0.5, 0.5, 0.0]),
        ("thompson", {"alpha": 0.0, "epsilon": 1.0}, [1 / 3, 1 / 3, 1 / 3]),
        ("softmax", {"tau": 1 / np.log(2)}, [0.4, 0.4, 0.2]),
        ("squarecb", {"gamma_scale": 1.0}, [5 / 12, 5 / 12, 1 / 6]),  # gamma = sqrt(9)/1
        ("squarecb", {"gamma_scale": 1.0, "epsilon": 0.5}, [3 / 8, 3 / 8, 1 / 4]),
        ("explore-first", {"first": 10.0}, [1 / 3, 1 / 3, 1 / 3]),
        ("explore-first", {"first": 9.0}, [0.5, 0.5, 0.0]),
        ("uncertainty", {}, [1 / 22, 1 / 22, 10 / 11]),
        ("uncertainty", {"power": 2.0}, [1 / 402, 1 / 402, 200 / 201]),
    ],
)
def test_explorers_are_their_closed_forms(explorer: str, rates: dict[str, float], expected: list[float]) -> None:
    """After 9 impressions, with a noise of 1. The floor mixes the uniform law in."""
    found = probabilities(MEAN, SD, explorer=explorer, rates=rates, count=9.0)
    assert found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("explorer", EXPLORERS)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    arms=st.integers(1, 12),
    rate=st.sampled_from([1e-3, 0.3, 1.0, 4.0, 1e30]),
    epsilon=st.sampled_from([0.0, 0.01, 0.5]),
    spread=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_every_law_is_a_distribution_with_its_floor(
    explorer: str, seed: int, arms: int, rate: float, epsilon: float, spread: float
) -> None:
    """Sums to one and keeps the floor, whatever the numbers."""
    rng = np.random.default_rng(seed)
    mean, sd = spread * rng.normal(size=arms), spread * rng.uniform(0.0, 2.0, arms)
    rates = {"epsilon": epsilon} | ({} if explorer == "epsilon-greedy" else {EXPLORERS[explorer].rate: rate})
    p = probabilities(mean, sd, explorer=explorer, rates=rates, count=1e9)
    assert p.sum() == pytest.approx(1.0, abs=1e-12)
    assert p.min() >= epsilon / arms * (1 - 1e-12)


def test_arms_that_are_known_exactly_leave_nothing_to_learn() -> None:
    """Uncertainty sampling is uniform where every width is zero."""
    assert uncertainty(np.zeros(4), 2.0).tolist() == [0.25] * 4


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"explorer": "greedy"}, "no explorer 'greedy'; choose one of thompson"),
        ({"rates": {"tau": 1.0}}, "explorer 'thompson' has no rate 'tau'; it has alpha, epsilon"),
        ({"rates": {"alpha": -0.1}}, "alpha = -0.1: must be not negative"),
        ({"rates": {"alpha": np.inf}}, "alpha = inf"),
        ({"explorer": "softmax", "rates": {"tau": 0.0}}, "tau = 0.0: must be above zero"),
        ({"rates": {"epsilon": 1.1}}, "epsilon = 1.1"),
        ({"rates": {"epsilon": np.nan}}, "epsilon = nan"),
        ({"mean": np.array([])}, "at least one arm"),
        ({"mean": np.array([1.0])}, "both must be"),
        ({"mean": np.array([1.0, np.nan, 0.0])}, "means must be finite"),
        ({"sd": np.array([1.0, -1.0, 0.0])}, "not negative"),
        ({"count": -1.0}, "count = -1.0"),
        ({"noise_sd": 0.0}, "noise_sd = 0.0"),
    ],
)
def test_impossible_arguments_are_refused_with_their_value(change: dict[str, object], reason: str) -> None:
    """The message names the value and what is allowed."""
    arguments: dict[str, object] = {"mean": MEAN, "sd": SD, "explorer": "thompson"} | change
    with pytest.raises(ValueError, match=reason):
        probabilities(**arguments)  # type: ignore[arg-type]
