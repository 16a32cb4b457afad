"""Roll-outs: values that are known in closed form, what hazard and horizon change, and the same on torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from policies.rollout_plan import NUMPY, Belief, Outcome, Plan
from policies.rollouts import roll_out
from policies.thompson import thompson

RING = np.ones((4, 1))
ALPHAS = np.array([0.1, 0.35, 1.0])

RollOut = Callable[..., Outcome]


def arms(mean: list[float], sd: list[float], *, s2: float = 0.25) -> Belief:
    """Arms with one number each; a new one is N(0, 1)."""
    return Belief(
        mean=np.array(mean)[:, None],
        covariance=np.square(sd)[:, None, None],
        prior_mean=np.zeros(1),
        prior_variance=np.ones(1),
        s2=s2,
    )


def within_error(values: np.ndarray, expected: np.ndarray) -> None:
    """Means over worlds within five standard errors."""
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    assert (np.abs(values.mean(axis=0) - expected) < 5.0 * error + 1e-12).all()


def pays_what_thompson_sampling_pays(play: RollOut) -> None:
    """In the first step, of unknown arms: sum_a p_a E[theta_a] = sum_a p_a m_a, as the draw says nothing of theta."""
    belief, alphas = arms([0.1, 0.3, 0.25], [0.2, 0.1, 0.3]), np.array([0.2, 0.5, 1.0])
    plan = Plan(steps=1, contexts=50, worlds=4000, after=0.0)
    found = play(belief, RING, alphas, plan=plan, rng=np.random.default_rng(1))
    mean, sd = belief.mean[:, 0], np.sqrt(belief.covariance[:, 0, 0])
    within_error(found.values, np.array([thompson(mean, alpha * sd) @ mean for alpha in alphas]))


def learns_what_it_sees(play: RollOut) -> None:
    """The greedy value after one arm of two was shown for H rounds, E max(m, M), M ~ N(m_a, V_a^2/(V_a + s2/H)).

    Arm 1 is known to be worth 0.3; arm 0 is N(0.5, 0.04): greedy shows it for all of the one step.
    """
    belief = arms([0.5, 0.3], [0.2, 1e-5])
    plan = Plan(horizon=20.0, steps=1, contexts=5, worlds=20_000, after=1e9)
    found = play(belief, RING, np.zeros(1), plan=plan, rng=np.random.default_rng(2))
    sd = 0.04 / np.sqrt(0.04 + 0.25 / 20.0)
    z = (0.5 - 0.3) / sd
    within_error(found.values, np.array([0.3 + sd * (z * norm.cdf(z) + norm.pdf(z))]))


LAWS = (pays_what_thompson_sampling_pays, learns_what_it_sees)


def greedy(belief: Belief, ring: Any, alphas: Any, **others: Any) -> Outcome:
    """As if the width did not matter."""
    return roll_out(belief, ring, 0.0 * alphas, **others)


def noiseless(belief: Belief, ring: Any, alphas: Any, **others: Any) -> Outcome:
    """As if rewards had no noise."""
    return roll_out(replace(belief, s2=1e-6), ring, alphas, **others)


@pytest.mark.parametrize(("law", "wrong"), [(LAWS[0], greedy), (LAWS[1], noiseless)])
def test_values_are_those_of_the_closed_form(law: Callable[[RollOut], None], wrong: RollOut) -> None:
    """And those of a game with other rules are not."""
    law(roll_out)
    with pytest.raises(AssertionError):
        law(wrong)


def test_where_all_is_known_less_is_better() -> None:
    """The best arm's mean is earned in full without width."""
    belief = arms([0.1, 0.3], [1e-6, 1e-6])
    found = roll_out(belief, RING, np.array([0.0, 1.0]), plan=Plan(), rng=np.random.default_rng(3))
    assert found.score == pytest.approx([0.3, 0.3], abs=1e-5)


@pytest.mark.parametrize(("horizon", "after", "best", "worst"), [(20.0, 0.0, {0}, 2), (20_000.0, 20_000.0, {1, 2}, 0)])
def test_exploring_pays_when_there_is_time_to_use_it(horizon: float, after: float, best: set[int], worst: int) -> None:
    """Little where the game is short, much where it is long: by more than four standard errors each."""
    belief = arms([0.3, 0.25, 0.25, 0.25], [0.01, 0.1, 0.1, 0.1])
    plan = Plan(horizon=horizon, after=after, worlds=400)
    found = roll_out(belief, RING, ALPHAS, plan=plan, rng=np.random.default_rng(4))
    lead, error = found.lead(worst)
    assert found.best in best
    assert lead > 4.0 * error


def test_announced_changes_bring_new_arms_to_try() -> None:
    """Known arms need no width; where they are replaced, it pays."""
    belief = arms([0.3, 0.2, 0.1], [1e-4, 1e-4, 1e-4])
    scores = {}
    for hazard in (0.0, 2e-4):
        plan = Plan(worlds=400, announced=hazard, horizon=10_000.0)
        scores[hazard] = roll_out(belief, RING, ALPHAS, plan=plan, rng=np.random.default_rng(5))
    assert scores[0.0].lead(2)[0] < 1e-3
    assert scores[2e-4].score.min() > scores[0.0].score.max()  # new arms are N(0, 1): the best of them is better
    assert scores[2e-4].best == 2


def test_changes_that_nobody_announces_cost() -> None:
    """What was learned is worth less at the end, whatever the rate."""
    belief = arms([0.8, 0.2], [0.1, 0.1])
    before, after = (
        roll_out(belief, RING, ALPHAS, plan=Plan(worlds=400, unannounced=one), rng=np.random.default_rng(6)).score
        for one in (0.0, 1e-4)
    )
    assert (after < before - 0.2).all()


def test_labels_that_come_late_are_not_used_before() -> None:
    """With a lag of all steps nothing is learned until the end; the greedy value then is the same as without."""
    belief = arms([0.3, 0.3], [0.3, 0.3])
    plan = Plan(worlds=2000, after=0.0)
    at_once, late = (
        roll_out(belief, RING, np.ones(1), plan=replace(plan, lag=lag), rng=np.random.default_rng(7))
        for lag in (0, plan.steps)
    )
    within_error(late.values, np.array([0.3]))
    assert at_once.score[0] > late.score[0] + 0.1
    ends = [
        roll_out(belief, RING, np.ones(1), plan=replace(plan, lag=lag, after=1e12), rng=np.random.default_rng(7))
        for lag in (0, plan.steps)
    ]
    assert ends[1].score[0] == pytest.approx(ends[0].score[0], abs=0.02)


def test_rates_meet_the_same_worlds() -> None:
    """Differences are known better than scores; the lead's standard error is that of the differences."""
    belief = arms([0.3] * 6, [0.2] * 6)
    found = roll_out(belief, RING, ALPHAS, plan=Plan(worlds=400), rng=np.random.default_rng(8))
    gap = found.values[:, found.best] - found.values[:, 1]
    assert found.lead(1) == (gap.mean(), gap.std(ddof=1) / 20.0)
    independent = np.hypot(*found.values[:, [0, 2]].std(axis=0, ddof=1)) / 20.0
    assert found.lead(0 if found.best == 2 else 2)[1] < 0.6 * independent


def test_seeds_reproduce() -> None:
    """To the last bit; another seed plays another game, and what was given stays as it is."""
    belief = arms([0.3, 0.2], [0.2, 0.2])
    before = belief.mean.copy()
    one, same, other = (
        roll_out(belief, RING, ALPHAS, plan=Plan(announced=1e-4), rng=np.random.default_rng(seed)).values
        for seed in (1, 1, 2)
    )
    assert one.tobytes() == same.tobytes() != other.tobytes()
    assert np.array_equal(belief.mean, before)


def test_arms_that_cannot_win_are_left_out() -> None:
    """A hundred poor arms change nothing but the luck: within five standard errors."""
    few = arms([0.5, 0.45], [0.05, 0.05])
    many = arms([0.5, 0.45] + [-1.0] * 100, [0.05, 0.05] + [0.01] * 100)
    plan = Plan(worlds=1000, most_arms=2)
    found = roll_out(many, RING, ALPHAS, plan=plan, rng=np.random.default_rng(9))
    assert (
        found.values.tobytes() == roll_out(few, RING, ALPHAS, plan=plan, rng=np.random.default_rng(9)).values.tobytes()
    )
    whole = roll_out(many, RING, ALPHAS, plan=replace(plan, most_arms=102, worlds=100), rng=np.random.default_rng(10))
    within_error(whole.values, found.score)


def test_torch_plays_the_same_game() -> None:
    """The same draws: equal to rounding."""
    pytest.importorskip("torch", reason="torch is of the extra encoder")
    from policies.rollouts_torch import torch_arrays

    rng = np.random.default_rng(11)
    ring = np.column_stack([np.ones(50), rng.normal(size=(50, 2))])
    belief = Belief(
        mean=rng.normal(0.3, 0.1, (7, 3)),
        covariance=np.tile(0.01 * np.eye(3), (7, 1, 1)),
        prior_mean=np.zeros(3),
        prior_variance=np.full(3, 0.02),
        s2=0.2,
    )
    plan = Plan(announced=1e-5, unannounced=1e-5, lag=1, worlds=8)
    one, other = (
        roll_out(belief, ring, ALPHAS, plan=plan, rng=np.random.default_rng(12), arrays=arrays).values
        for arrays in (NUMPY, torch_arrays("cpu"))
    )
    assert np.allclose(one, other, rtol=1e-9)
    with pytest.raises(ValueError, match="device = 'nowhere'"):
        torch_arrays("nowhere")


@pytest.mark.parametrize(
    "change",
    [{"steps": 0}, {"worlds": 1}, {"lag": -1}, {"horizon": 0.0}, {"announced": 1.5}, {"unannounced": -0.1}],
)
def test_plans_that_cannot_work_are_refused(change: dict[str, float]) -> None:
    """With the value and what is allowed."""
    (name, value), *_ = change.items()
    with pytest.raises(ValueError, match=f"{name} = {value}"):
        Plan(**change)  # type: ignore[arg-type]


def test_input_that_does_not_fit_is_refused() -> None:
    """Shapes and numbers."""
    belief, rng = arms([0.3], [0.1]), np.random.default_rng(1)
    with pytest.raises(ValueError, match="ring has shape"):
        roll_out(belief, np.ones((4, 2)), ALPHAS, plan=Plan(), rng=rng)
    with pytest.raises(ValueError, match="none below zero"):
        roll_out(belief, RING, np.array([-1.0]), plan=Plan(), rng=rng)
    with pytest.raises(ValueError, match="mean holds numbers"):
        roll_out(replace(belief, mean=np.array([[np.nan]])), RING, ALPHAS, plan=Plan(), rng=rng)
