"""Laws that every explorer obeys, as functions that assert, and a broken explorer for each; the table is test_conformance.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from policies.batch import FloatArray
from policies.closed_forms import best
from policies.explorers import EXPLORERS, Scores, explore

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


def is_a_function(subject: Subject, at: Scores, rate: float) -> None:
    """The same scores give the same law, to the last bit."""
    assert subject.law(at, rate).tobytes() == subject.law(at, rate).tobytes()


LAWS: tuple[Callable[[Subject, Scores, float], None], ...] = (
    is_a_distribution,
    matches_its_definition,
    goes_with_the_arms,
    has_its_limits,
    splits_ties,
    knows_no_unit,
    changes_nothing,
    is_the_same_in_batches,
    is_a_function,
)


def spoil(at: Scores, rate: float) -> FloatArray:
    """UCB that leaves its bounds in the means."""
    at.mean[:] += rate * at.sd
    return best(at.mean)


def with_law(name: str, law: Law) -> Subject:
    """A subject whose law is another one."""
    known = SUBJECTS[name]
    return Subject(law=law, draw=known.draw, limits=known.limits, scaled=known.scaled, rates=known.rates)


generator = np.random.default_rng(1)
"""What a law must not have."""


BROKEN: dict[Callable[[Subject, Scores, float], None], Subject] = {
    is_a_distribution: with_law("softmax", lambda at, tau: np.exp(at.mean / tau)),
    matches_its_definition: with_law("thompson", lambda at, alpha: of("thompson")(at, 1.02 * alpha)),
    goes_with_the_arms: with_law("ucb", lambda at, _: np.arange(len(at.mean)) / np.arange(len(at.mean)).sum()),
    has_its_limits: with_law("squarecb", lambda at, g: 0.99 * of("squarecb")(at, g) + 0.01 * uniform(at)),
    splits_ties: with_law("ucb", lambda at, alpha: np.eye(len(at.mean))[(at.mean + alpha * at.sd).argmax()]),
    knows_no_unit: with_law("squarecb", lambda at, g: of("squarecb")(Scores(mean=at.mean, sd=at.sd, count=9.0), g)),
    changes_nothing: with_law("ucb", spoil),
    is_the_same_in_batches: with_law("softmax", lambda at, tau: np.exp(at.mean / tau) / np.exp(at.mean / tau).sum()),
    is_a_function: with_law("softmax", lambda at, tau: of("softmax")(at, tau * (1.0 + 1e-9 * generator.random()))),
}


def obeys(law: Callable[[Subject, Scores, float], None], subject: Subject) -> None:
    """The law for several rates, with and without a tie of the best."""
    for seed in (2, 3):
        for rate in subject.rates if law is not matches_its_definition else subject.rates[:2]:
            law(subject, scores_of(seed), rate)
