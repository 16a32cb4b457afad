"""Laws that every estimator obeys, as functions that assert, with a broken estimator for each; the table is test_conformance.py."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from scipy.special import expit

from policies.arm_laws import NormalLaws
from policies.batch import Batch, FloatArray
from policies.empirical_bayes import fit_beta, fit_hybrid, fit_linear, fit_logistic, fit_student
from policies.groups import fit_groups
from policies.model import make_model
from policies.monte_carlo import estimate
from policies.sums import Effective
from policies.thompson import thompson

K, ROWS = 300, 200
MEAN, TAU2, S2, DOF = np.array([0.3, -0.2]), 0.04, 0.25, 8.0

Seen = Mapping[str, Effective]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An estimator to be judged.

    Attributes:
        run: data -> numbers (m,). Randomness is seeded in it: an estimator that draws is judged by the mean of many.
        data: what it is tried on; not to be changed.
        truth: (m,) the numbers that the data were made with, or that a closed form gives.
        error: (m,) how far from them it may be: about five standard errors.
        shuffled: the same data in another order.
        exact: whether the order may change no more than rounding does.
        scaled: (data, numbers) with rewards in a unit 8 times smaller, None where rewards have no unit.
    """

    run: Callable[[Any], FloatArray]
    data: Callable[[], Any]
    truth: FloatArray
    error: FloatArray
    shuffled: Callable[[Any], Any]
    exact: bool = True
    scaled: Callable[[Any, FloatArray], tuple[Any, FloatArray]] | None = None


def seen_by(model: str, x: FloatArray, reward: FloatArray) -> Seen:
    """What K arms have seen: ROWS contexts (K, ROWS, d) and rewards (K, ROWS) each."""
    made, arms = make_model(model, dimension=x.shape[2]), tuple(f"arm-{i}" for i in range(K))
    arm, flat, ts = np.repeat(np.arange(K), ROWS), x.reshape(K * ROWS, -1), np.zeros(K * ROWS, np.int64)
    batch = Batch(
        arms=arms,
        arm=arm,
        x=flat,
        ts=ts,
        reward_arm=arm,
        reward_x=flat,
        reward_ts=ts,
        reward=reward.ravel(),
        square=reward.ravel() ** 2,
    )
    return {name: made.at(one, now_ms=0) for name, one in made.update({}, batch).items()}


@cache
def regressions(model: str) -> Seen:
    """Arms whose weights are N(MEAN, TAU2 I): rewards with noise S2 (of an arm's own for "student"), or clicks."""
    rng = np.random.default_rng(4)
    x = np.stack([np.ones((K, ROWS)), rng.normal(size=(K, ROWS))], axis=2)
    theta = MEAN + np.sqrt(TAU2) * rng.normal(size=(K, 2))
    expected = np.einsum("kni,ki->kn", x, theta)
    if model == "logistic":
        return seen_by(model, x, (rng.random((K, ROWS)) < expit(expected)).astype(np.float64))
    noise = S2 * DOF / rng.chisquare(DOF, (K, 1)) if model == "student" else np.full((K, 1), S2)
    return seen_by(model, x, expected + np.sqrt(noise) * rng.normal(size=(K, ROWS)))


@cache
def rates() -> Seen:
    """Arms whose click rates are Beta(6, 54)."""
    rng = np.random.default_rng(5)
    clicks = rng.random((K, ROWS)) < rng.beta(6.0, 54.0, (K, 1))
    return seen_by("beta", np.zeros((K, ROWS, 0)), clicks.astype(np.float64))


def other_order(seen: Seen) -> Seen:
    """The arms the other way round."""
    return dict(reversed(list(seen.items())))


def larger(seen: Seen, numbers: FloatArray) -> tuple[Seen, FloatArray]:
    """Rewards times 8, and what mean (2), tau2 and s2 are then; degrees of freedom have no unit."""
    arms = {
        name: replace(arm, reward=8 * arm.reward, square=64 * arm.square, b=8 * arm.b) for name, arm in seen.items()
    }
    factors = np.array([8.0, 8.0, 64.0, 64.0, 64.0, 1.0])[: len(numbers)]
    return arms, factors * numbers


def numbers_of(prior: Any) -> FloatArray:
    """Mean (2), tau2 (2), s2 and, if it has them, degrees of freedom."""
    return np.array([*prior.mean, *prior.tau2, prior.s2, *((prior.dof,) if hasattr(prior, "dof") else ())])


def beta_numbers(seen: Seen) -> FloatArray:
    """Mean and standard deviation of the rates."""
    prior = fit_beta(seen)
    mean = prior.a / (prior.a + prior.b)
    return np.array([mean, np.sqrt(mean * (1 - mean) / (prior.a + prior.b + 1))])


def rao_blackwell(arms: NormalLaws) -> FloatArray:
    """Mean of 300 estimates of the probability of the arm with the largest mean."""
    rng, best = np.random.default_rng(6), int(arms.mean.argmax())
    return np.array([np.mean([estimate(arms, best, rng=rng) for _ in range(300)])])


def normal_arms() -> NormalLaws:
    """A hundred and twenty."""
    rng = np.random.default_rng(7)
    return NormalLaws(mean=rng.normal(0.0, 0.3, 120), sd=rng.uniform(0.2, 0.6, 120))


def regression(
    fit: Callable[..., Any], model: str, *, truth: FloatArray, error: FloatArray, unit: bool = True
) -> Subject:
    """A fit of the arms' regressions."""
    return Subject(
        run=lambda seen: numbers_of(fit(seen, dimension=2)),
        data=lambda: regressions(model),
        truth=truth,
        error=error,
        shuffled=other_order,
        scaled=larger if unit else None,
    )


def grouped(seen: Seen, *, dimension: int) -> Any:
    """Prior of an arm in none of thirty groups, between which these arms do not differ."""
    found = fit_groups(seen, {name: str(int(name[4:]) % 30) for name in seen}, dimension=dimension)
    return replace(found.other, tau2=found.other.tau2 + found.between)


TRUTH, ERROR = np.array([*MEAN, TAU2, TAU2, S2]), np.array([0.06, 0.06, 0.012, 0.012, 0.02])
EXACT = normal_arms()
SUBJECTS = {
    "fit_linear": regression(fit_linear, "linear", truth=TRUTH, error=ERROR),
    "fit_groups": regression(grouped, "linear", truth=TRUTH, error=ERROR),
    "fit_hybrid": regression(fit_hybrid, "hybrid", truth=TRUTH, error=ERROR),
    "fit_student": regression(
        fit_student,
        "student",
        truth=np.array([*MEAN, TAU2, TAU2, S2 * DOF / (DOF - 2), DOF]),
        error=np.array([0.06, 0.06, 0.014, 0.014, 0.06, 3.5]),
    ),
    "fit_logistic": regression(
        fit_logistic,
        "logistic",
        truth=np.array([*MEAN, TAU2, TAU2, 1.0]),
        error=np.array([0.06, 0.06, 0.02, 0.02, 0.0]),
        unit=False,
    ),
    "fit_beta": Subject(
        run=beta_numbers,
        data=rates,
        truth=np.array([0.1, np.sqrt(0.09 / 61)]),
        error=np.array([0.013, 0.011]),
        shuffled=other_order,
    ),
    "estimate": Subject(
        run=rao_blackwell,
        data=normal_arms,
        truth=thompson(EXACT.mean, EXACT.sd)[[EXACT.mean.argmax()]],
        error=np.array([0.005]),
        shuffled=lambda arms: arms.some(np.arange(len(arms))[::-1]),
        exact=False,
    ),
}
"""Every public function of policies/ that is named fit_... or estimate..., once."""


def finds_the_truth(subject: Subject) -> None:
    """What the data were made with, within the stated error."""
    assert (np.abs(subject.run(subject.data()) - subject.truth) <= subject.error).all()


def knows_no_order(subject: Subject) -> None:
    """The same data in another order give the same, to rounding (to the stated error where it draws)."""
    data = subject.data()
    bound = 1e-9 * np.abs(subject.truth) + 1e-12 if subject.exact else subject.error
    assert (np.abs(subject.run(subject.shuffled(data)) - subject.run(data)) <= bound).all()


def changes_nothing(subject: Subject) -> None:
    """The data are as they were."""
    data = copy.deepcopy(subject.data())
    before = pickle.dumps(data)
    subject.run(data)
    assert pickle.dumps(data) == before


def is_a_function(subject: Subject) -> None:
    """The same data and seed give the same numbers, to the last bit."""
    assert subject.run(subject.data()).tobytes() == subject.run(subject.data()).tobytes()


def knows_no_unit(subject: Subject) -> None:
    """Rewards counted in a smaller unit give the same answer in that unit."""
    if subject.scaled is None:
        return
    numbers = subject.run(subject.data())
    data, expected = subject.scaled(subject.data(), numbers)
    assert np.allclose(subject.run(data), expected, rtol=1e-6)


def broken(run: Callable[[Any], FloatArray]) -> Subject:
    """`fit_linear`'s subject with another estimator."""
    return replace(SUBJECTS["fit_linear"], run=run)


def linear(seen: Seen) -> FloatArray:
    """As it should be."""
    return numbers_of(fit_linear(seen, dimension=2))


def first_counts_more(seen: Seen) -> FloatArray:
    """The first arm's weight is half."""
    first = next(iter(seen.values()))
    half: FloatArray = 0.5 * (linear(seen) + np.array([*(first.b / first.n_eff), TAU2, TAU2, S2]))
    return half


def in_place(seen: Seen) -> FloatArray:
    """Adds its jitter to the sums."""
    for arm in seen.values():
        arm.A[:] += 1e-9 * np.eye(2)
    return linear(seen)


generator = np.random.default_rng(1)
"""What an estimator must not have."""

LAWS: dict[str, tuple[Callable[[Subject], None], Subject]] = {
    "finds the truth": (finds_the_truth, broken(lambda seen: linear(seen) * [1, 1, 1, 1, 1.5])),
    "knows no order": (knows_no_order, broken(first_counts_more)),
    "inputs stay": (changes_nothing, broken(in_place)),
    "seeds reproduce": (is_a_function, broken(lambda seen: linear(seen) + 1e-9 * generator.random())),
    "knows no unit": (knows_no_unit, broken(lambda seen: linear(seen) + np.array([0.0, 0.0, 0.01, 0.01, 0.0]))),
}
