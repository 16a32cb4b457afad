"""The meta-update: one function of state and statistics, with what it changed in words."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policies.arm_features import FeaturedPrior, standardised
from policies.empirical_bayes import fit
from policies.exploring import Hazard, Seen, belief, by_roll_outs, forgotten
from policies.ladder import scored
from policies.meta import Meta, Statistics, first, rates, update
from policies.meta_rules import ALPHAS, DEFAULT, Rules
from policies.posterior import ArmPosterior, posterior
from policies.prior import BetaPrior, HybridPrior, Prior
from policies.rollout_plan import NUMPY, Plan
from policies.sums import Effective
from policies.top_layer import law

D = 3
RULES = Rules(model="linear", dimension=D, intercept=0)
SMALL = Plan(worlds=64, contexts=16)


def arms(rates_: list[float], rows: int, seed: int = 1) -> dict[str, Effective]:
    """Clicks at these rates, whatever the context."""
    rng, found = np.random.default_rng(seed), {}
    for i, rate in enumerate(rates_):
        x = np.column_stack([np.ones(rows), rng.normal(size=(rows, D - 1))])
        r = (rng.random(rows) < rate).astype(float)
        found[str(i)] = Effective(
            n_eff=rows, count=rows, reward=float(r.sum()), square=float(r.sum()), b=r @ x, A=x.T @ x
        )
    return found


def seen(effective: Mapping[str, Effective], *, tracks: int = 1, **others: Any) -> Statistics:
    """No rows matured, unless they are given."""
    given: dict[str, Any] = {"predicted": np.zeros((0, tracks)), "reward": np.zeros(0), "events": 5000}
    contexts = np.column_stack([np.ones(100), np.random.default_rng(2).normal(size=(100, D - 1))])
    return Statistics(effective=[effective] * tracks, **(given | {"contexts": contexts} | others))


def updated(state: Meta, statistics: Statistics, rules: Rules, seed: int = 1) -> tuple[Meta, tuple[str, ...]]:
    """With a generator of this seed."""
    return update(state, statistics, rules=rules, rng=np.random.default_rng(seed))


def test_each_part_is_the_tool_of_its_problem() -> None:
    """The ladder's scores, the prior that is fitted under the track which is then chosen, the default rate."""
    known, other = arms([0.1, 0.2], 500), arms([0.3, 0.4], 50)
    predicted, reward = np.tile([0.1, 0.5], (2000, 1)), np.tile([0.0, 1.0], 1000)
    statistics = replace(seen(known, tracks=2, predicted=predicted, reward=reward), effective=[known, other])
    before = first(RULES, (0.0, 3600.0))
    after, reasons = updated(before, statistics, RULES)
    steps, why = scored(before.ladder, predicted, reward)
    assert after.ladder == steps
    assert reasons == after.reasons == (why,)
    assert why.startswith("half-life none -> 3600 s: ahead by")
    assert after.prior == fit(other, None, model="linear", dimension=D, intercept=0)
    assert after.prior != fit(known, None, model="linear", dimension=D, intercept=0)
    alphas, q = rates(after, RULES)
    assert (alphas.tolist(), q.tolist()) == ([DEFAULT], [1.0])
    assert after.events == 5000


def test_nothing_new_gives_no_reason_and_keeps_the_last() -> None:
    """Reasons are of the last change."""
    state = replace(first(RULES, (0.0,)), reasons=("why",))
    after, reasons = updated(state, seen(arms([0.1, 0.2], 100)), RULES)
    assert reasons == ()
    assert after.reasons == ("why",)


def test_it_changes_nothing_that_it_was_given_and_seeds_reproduce() -> None:
    """State in, state out; the generator is the only chance."""
    rules = replace(RULES, explore="roll-outs", sure=0.0, plan=SMALL)
    known, before = arms([0.1, 0.12, 0.13, 0.1], 100), first(rules, (0.0,))
    copies = {name: one.A.copy() for name, one in known.items()}
    results = [updated(before, seen(known), rules, seed) for seed in (1, 1)]
    assert results[0][0].chosen == results[1][0].chosen
    assert results[0][1] == results[1][1]
    assert all(np.array_equal(known[name].A, A) for name, A in copies.items())
    assert before.prior is None


def test_roll_outs_lower_the_rate_where_all_is_known() -> None:
    """Arms of ten million rows each, nearly alike: the default keeps trying them; and say why."""
    rules = replace(RULES, explore="roll-outs", alphas=(0.1, 1.0, 3.0), default=2, plan=SMALL)
    known = {name: scaled(one, 100.0) for name, one in arms([0.1, 0.1, 0.1, 0.1, 0.12], 4000).items()}
    after, reasons = updated(first(rules, (0.0,)), seen(known), rules)
    assert rules.alphas[after.chosen] < 3.0
    assert reasons[0].startswith("alpha 3 -> ")
    assert "of the reward in 64 roll-outs over 50000 events" in reasons[0]
    assert after.rolled == 5000


def scaled(arm: Effective, factor: float) -> Effective:
    """As many more rows that say the same."""
    return Effective(
        n_eff=factor * arm.n_eff,
        count=factor * arm.count,
        reward=factor * arm.reward,
        square=factor * arm.square,
        b=factor * arm.b,
        A=factor * arm.A,
    )


def test_roll_outs_wait_until_they_are_due_and_for_a_clear_lead() -> None:
    """Not before `every` events; not where the lead is less than `sure` standard errors."""
    rules = replace(RULES, explore="roll-outs", alphas=(0.1, 3.0), default=1, plan=SMALL)
    known = {name: scaled(one, 100.0) for name, one in arms([0.1, 0.1, 0.12], 4000).items()}
    early, _ = updated(first(rules, (0.0,)), seen(known, events=rules.every - 1), rules)
    assert (early.chosen, early.rolled) == (1, 0)
    doubtful, _ = updated(first(rules, (0.0,)), seen(known), replace(rules, sure=1e9))
    assert (doubtful.chosen, doubtful.rolled) == (1, rules.every)
    clear, _ = updated(first(rules, (0.0,)), seen(known), rules)
    assert clear.chosen == 0


def test_the_top_layer_moves_by_evidence() -> None:
    """Six thousand rows, of which one rate's earn thrice as much."""
    rules = replace(RULES, explore="top-layer")
    rng = np.random.default_rng(3)
    choice = rng.integers(0, len(ALPHAS), 12_000)
    reward = (rng.random(12_000) < np.where(choice == 4, 0.15, 0.05)).astype(float)
    rows: dict[str, Any] = {"predicted": np.full((12_000, 1), 0.05), "reward": reward}
    after, reasons = updated(first(rules, (0.0,)), seen(arms([0.1], 10), choice=choice, **rows), rules)
    assert rules.alphas[after.chosen] == ALPHAS[4]
    assert reasons[0].startswith(f"alpha {DEFAULT:g} -> {ALPHAS[4]:g}: 75% of events")
    alphas, q = rates(after, rules)
    assert alphas.tolist() == list(ALPHAS)
    assert q.tolist() == law(after.choices).tolist()
    with pytest.raises(ValueError, match="choice is None"):
        updated(first(rules, (0.0,)), seen(arms([0.1], 10), **rows), rules)


def test_a_new_arm_starts_from_its_group_or_its_features() -> None:
    """Groups give a prior each; features give each arm its own."""
    known = arms([0.05] * 6 + [0.4] * 6, 400)
    group_of = {str(i): "low" if i < 6 else "high" for i in range(12)} | {"new": "high"}
    grouped, _ = updated(first(RULES, (0.0,)), seen(known, group_of=group_of), RULES)
    assert grouped.groups is not None
    assert isinstance(grouped.prior, HybridPrior)
    assert grouped.groups.of("new").mean[0] == pytest.approx(0.4, abs=0.05)
    assert grouped.prior.mean[0] == pytest.approx(0.22, abs=0.1)
    rules = replace(RULES, model="hybrid")
    features = standardised({name: [float(group == "high")] for name, group in group_of.items()})
    featured, _ = updated(first(rules, (0.0,)), seen(known, features=features), rules)
    assert isinstance(featured.prior, FeaturedPrior)
    assert featured.prior.of("new").mean[0] == pytest.approx(0.4, abs=0.05)
    with pytest.raises(ValueError, match="leave group_of out"):
        updated(first(rules, (0.0,)), seen(known, features=features, group_of=group_of), rules)


def test_roll_outs_begin_with_what_snapshots_hold() -> None:
    """Each arm's posterior mean and covariance, with its group's prior where there are groups."""
    known = arms([0.05, 0.1, 0.4], 300)
    state, _ = updated(first(RULES, (0.0,)), seen(known, group_of={"0": "a", "1": "a", "2": "b"}), RULES)
    assert state.prior is not None
    assert state.groups is not None
    found = belief(
        Seen(prior=state.prior, arms=known, groups=state.groups, contexts=None, announced=0.0, unannounced=0.0)
    )
    for i, (name, one) in enumerate(known.items()):
        read = posterior(state.groups.of(name), one)
        assert isinstance(read, ArmPosterior)
        assert np.array_equal(found.mean[i], read.mean)
        assert np.allclose(found.covariance[i], read.factor.T @ read.factor)
    new = state.groups.other
    assert np.allclose(found.prior_variance, np.diag(new.factor.T @ new.factor) + new.tau2)


def test_beta_arms_are_played_too() -> None:
    """By their moments; two arms, one of them hardly known."""
    known = {"a": beta_arm(2000.0, 60.0), "b": beta_arm(20.0, 1.0)}
    rules = Rules(model="beta", dimension=0, explore="roll-outs", sure=0.0, plan=SMALL)
    after, _ = updated(first(rules, (0.0,)), seen(known, contexts=None), rules)
    assert after.rolled == 5000
    assert isinstance(after.prior, BetaPrior)
    one = belief(Seen(prior=after.prior, arms=known, groups=None, contexts=None, announced=0.0, unannounced=0.0))
    a, b = after.prior.a + 60.0, after.prior.b + 1940.0
    assert one.mean[0, 0] == pytest.approx(a / (a + b))
    assert one.covariance[0, 0, 0] == pytest.approx(a * b / ((a + b) ** 2 * (a + b + 1.0)))


def beta_arm(n: float, r: float) -> Effective:
    """Clicks without a context."""
    return Effective(n_eff=n, count=n, reward=r, square=r)


def test_the_hazard_is_the_observed_one() -> None:
    """Three of 30 arms every 5,000 events; what is long past counts less; without events it is none."""
    assert Hazard().rate == 0.0
    state = Hazard()
    for _ in range(50):
        state = state.plus(3, arms=30, events=5000)
    assert state.rate == pytest.approx(3 / (30 * 5000))
    for _ in range(1000):
        state = state.plus(0, arms=30, events=5000)
    assert state.rate < 0.02 * 3 / (30 * 5000)
    assert (1.0 - forgotten(100.0, 0.5)) ** 200 == pytest.approx(0.5)


def test_one_arm_needs_no_exploring_and_roll_outs_need_contexts() -> None:
    """The rate stays; and an error that says what is missing."""
    rules = replace(RULES, explore="roll-outs")
    after, reasons = updated(first(rules, (0.0,)), seen(arms([0.1], 100)), rules)
    assert (after.chosen, reasons) == (rules.default, ())
    with pytest.raises(ValueError, match="needs recent contexts"):
        updated(first(rules, (0.0,)), seen(arms([0.1, 0.2], 100), contexts=None), rules)
    with pytest.raises(ValueError, match="sums of 1 tracks; the ladder has 2"):
        updated(first(RULES, (0.0, 5.0)), seen(arms([0.1], 10)), RULES)


def test_roll_outs_of_sums_that_cannot_be_used_still_end() -> None:
    """An arm whose sums are not finite is its prior."""
    rules = replace(RULES, explore="roll-outs", plan=SMALL)
    known = arms([0.1, 0.2], 100)
    bad = {**known, "bad": replace(known["0"], b=np.full(D, np.nan))}
    after, _ = updated(first(rules, (0.0,)), seen(bad), rules)
    assert after.rolled == rules.every
    assert isinstance(after.prior, Prior)


def test_a_large_update_stays_in_its_memory() -> None:
    """A thousand arms at d = 32 with roll-outs of 40 of them: below 200 MB at any time, besides the sums."""
    rng, d = np.random.default_rng(5), 32
    x = rng.normal(size=(200, d))
    x[:, 0] = 1.0
    A = x.T @ x
    known = {
        str(i): Effective(n_eff=200.0, count=200.0, reward=r, square=r, b=r * A[0] / 200.0, A=A)
        for i, r in enumerate(rng.binomial(200, 0.05, 1000).astype(float).tolist())
    }
    rules = Rules(model="linear", dimension=d, intercept=0, explore="roll-outs")
    statistics = replace(seen(known), contexts=x)
    tracemalloc.start()
    updated(first(rules, (0.0,)), statistics, rules)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200e6


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"explore": "nowhere"}, "choose one of fixed, roll-outs, top-layer"),
        ({"alphas": ()}, "alphas = "),
        ({"alphas": (0.0, 1.0)}, "alphas = "),
        ({"default": 6}, "default = 6"),
        ({"every": 0}, "every = 0"),
        ({"delay": -1.0}, r"delay = -1\.0"),
        ({"model": "logistic", "explore": "roll-outs"}, "its numbers are logits"),
    ],
)
def test_rules_that_cannot_work_are_refused(change: dict[str, Any], match: str) -> None:
    """When they are made, with what is allowed."""
    with pytest.raises(ValueError, match=match):
        replace(RULES, **change)


def test_the_chosen_rate_is_kept_without_a_lead() -> None:
    """By roll-outs directly: equal arms that are known give no reason to move."""
    rules = replace(RULES, explore="roll-outs", plan=SMALL)
    known = {name: scaled(one, 1e6) for name, one in arms([0.1, 0.3], 1000).items()}
    state, _ = updated(first(RULES, (0.0,)), seen(known), RULES)
    assert state.prior is not None
    contexts = np.array([[1.0, 0.0, 0.0]])
    known_seen = Seen(prior=state.prior, arms=known, groups=None, contexts=contexts, announced=0.0, unannounced=0.0)
    assert by_roll_outs(known_seen, 3, rules, rng=np.random.default_rng(1), arrays=NUMPY) == (3, "")
