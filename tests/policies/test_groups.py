"""Priors one level up: the exact law of all levels, what a new arm starts from, and that groups are worth having."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policies.empirical_bayes import fit_hybrid, fit_linear
from policies.groups import GroupPriors, fit_groups, group_laws
from policies.linear_bayes import PULL
from policies.posterior import ArmPosterior, posterior
from policies.prior import HybridPrior
from policies.scale import beginning, scale_of
from policies.sums import Effective

Laws = Callable[..., tuple[tuple[Any, Any], tuple[Any, Any]]]


def arm(theta: np.ndarray, rows: int, s2: float, rng: np.random.Generator) -> Effective:
    """Sums of rows with an intercept."""
    x = np.column_stack([np.ones(rows), rng.normal(size=(rows, len(theta) - 1))])
    r = x @ theta + np.sqrt(s2) * rng.normal(size=rows)
    return Effective(n_eff=rows, count=rows, reward=float(r.sum()), square=float(r @ r), b=r @ x, A=x.T @ x)


def agrees_with_the_joint_law(laws: Laws) -> None:
    """The posterior of (mu0, mu_g, theta_a) as one large normal law, written down by its precision."""
    rng = np.random.default_rng(1)
    d, group, s2 = 2, np.array([0, 0, 1, 2, 2]), 0.5
    T, U, start = np.array([0.3, 0.1]), np.array([0.5, 0.2]), np.array([0.4, -0.1])
    arms = [arm(rng.normal(size=d), 12, s2, rng) for _ in group]
    G, K = 3, len(group)
    precision, h = np.zeros((2, (1 + G + K) * d, (1 + G + K) * d))[0], np.zeros((1 + G + K) * d)

    def at(i: int) -> slice:
        return slice(i * d, (i + 1) * d)

    def link(child: int, parent: int, variance: np.ndarray) -> None:
        for one, other, sign in ((child, child, 1), (parent, parent, 1), (child, parent, -1), (parent, child, -1)):
            precision[at(one), at(other)] += sign * np.diag(1.0 / variance)

    precision[at(0), at(0)] += np.diag(PULL / U)
    h[at(0)] += PULL / U * start
    for g in range(G):
        link(1 + g, 0, U)
    for a, one in enumerate(arms):
        link(1 + G + a, 1 + group[a], T)
        precision[at(1 + G + a), at(1 + G + a)] += one.A / s2
        h[at(1 + G + a)] += one.b / s2
    covariance = np.linalg.inv(precision)
    mean = covariance @ h
    A, b = np.stack([one.A for one in arms]), np.stack([one.b for one in arms])
    top, groups = laws(A, b, group, within=T, between=U, s2=s2, start=start)
    assert np.allclose(top[0], mean[at(0)])
    assert np.allclose(top[1], covariance[at(0), at(0)])
    for g in range(G):
        assert np.allclose(groups[0][g], mean[at(1 + g)])
        assert np.allclose(groups[1][g], covariance[at(1 + g), at(1 + g)])


def without_the_uncertainty_of_the_top(*args: Any, **kwargs: Any) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """As if mu0 were known."""
    top, (mean, covariance) = group_laws(*args, **kwargs)
    return top, (mean, 0.9 * covariance)


def test_the_laws_are_those_of_the_joint_normal() -> None:
    """And not with the top's uncertainty left out."""
    agrees_with_the_joint_law(group_laws)
    with pytest.raises(AssertionError):
        agrees_with_the_joint_law(without_the_uncertainty_of_the_top)


def test_one_arm_is_shrunk_twice() -> None:
    """Balanced arms with one number each, by the formulas of the two-way random-effects model."""
    n, T, U, s2 = 50.0, 0.2, 0.4, 2.0
    means = np.array([[1.0, 1.4, 1.2], [3.0, 2.6, 2.2]])
    b, A = (n * means).reshape(-1, 1), np.full((6, 1, 1), n)
    top, groups = group_laws(
        A, b, np.repeat([0, 1], 3), within=np.array([T]), between=np.array([U]), s2=s2, start=np.zeros(1)
    )
    of_mean = (T + s2 / n) / 3.0  # variance of a group's average around mu_g
    told = 2.0 / (U + of_mean)
    overall = told * means.mean() / (told + PULL / U)
    share = U / (U + of_mean)
    assert top[0][0] == pytest.approx(overall)
    assert top[1][0, 0] == pytest.approx(1.0 / (told + PULL / U))
    assert groups[0][:, 0] == pytest.approx(overall + share * (means.mean(axis=1) - overall))


def campaigns(groups: int, arms: int, rows: int, seed: int) -> tuple[dict[str, Effective], dict[str, str], np.ndarray]:
    """Arms in groups that differ much more than arms within one; the groups' means."""
    rng = np.random.default_rng(seed)
    mu = np.array([0.5, 0.0]) + np.array([0.3, 0.2]) * rng.normal(size=(groups, 2))
    seen = {
        f"{g}.{i}": arm(mu[g] + np.array([0.1, 0.05]) * rng.normal(size=2), rows, 0.25, rng)
        for g in range(groups)
        for i in range(arms)
    }
    return seen, {name: name.split(".")[0] for name in seen}, mu


def test_the_variances_of_both_levels_are_recovered() -> None:
    """From 60 groups of 6 arms with 300 rows: sds within a fifth, the noise within 3%."""
    seen, group_of, _ = campaigns(60, 6, 300, 2)
    found = fit_groups(seen, group_of, dimension=2, intercept=0)
    assert np.sqrt(found.between) == pytest.approx([0.3, 0.2], rel=0.2)
    assert np.sqrt(found.other.tau2) == pytest.approx([0.1, 0.05], rel=0.2)
    assert found.other.s2 == pytest.approx(0.25, rel=0.03)


def squared_error(found: GroupPriors, mu: np.ndarray) -> float:
    """Of what new arms start from, over groups."""
    errors = [(found.of(f"new {g}").mean - mean) ** 2 for g, mean in enumerate(mu)]
    return float(np.mean(errors))


def test_a_new_arm_starts_from_its_group() -> None:
    """Much nearer than from what all arms share, with about the error that its law says; a stranger starts from that."""
    seen, group_of, mu = campaigns(30, 5, 100, 3)
    new = {f"new {g}": str(g) for g in range(30)}
    grouped = fit_groups(seen, group_of | new, dimension=2, intercept=0)
    flat = fit_linear(seen, dimension=2, intercept=0).mean
    error = squared_error(grouped, mu)
    assert error < 0.2 * float(np.mean((flat - mu) ** 2))
    believed = np.mean([np.einsum("ij,ij->j", w, w) for w in (grouped.of(name).factor for name in new)])
    assert 0.5 * believed < error < 2.0 * believed
    assert grouped.of("stranger") is grouped.other
    assert np.allclose(grouped.other.mean, flat, atol=0.05)


def test_groups_that_mix_everything_up_are_of_no_use() -> None:
    """The check above fails with groups drawn at random."""
    seen, group_of, mu = campaigns(30, 5, 100, 3)
    rng = np.random.default_rng(4)
    shuffled = dict(zip(group_of, rng.permutation(list(group_of.values())).tolist(), strict=True))
    found = fit_groups(seen, shuffled | {f"new {g}": str(g) for g in range(30)}, dimension=2, intercept=0)
    assert squared_error(found, mu) > 0.2 * float(np.mean((fit_linear(seen, dimension=2, intercept=0).mean - mu) ** 2))


def read_out(prior: HybridPrior, sums: Effective) -> ArmPosterior:
    """An arm's posterior."""
    found = posterior(prior, sums)
    assert isinstance(found, ArmPosterior)
    return found


def test_an_arm_is_read_out_as_the_joint_law_has_it() -> None:
    """With its group's prior: its own rows, which the group has seen too, are not counted twice."""
    seen, group_of, _ = campaigns(8, 3, 20, 6)
    found = fit_groups(seen, group_of, dimension=2, intercept=0)
    one = "3.1"
    read = read_out(found.of(one), seen[one])
    alone = {name: arm for name, arm in seen.items() if name != one}
    T, U, s2 = found.other.tau2, found.between, found.other.s2
    number = {name: i for i, name in enumerate(sorted(set(group_of.values())))}
    start = beginning(scale_of(list(seen.values())), 2, 0).mean
    _, groups = group_laws(
        np.stack([arm.A for arm in alone.values()]),
        np.stack([arm.b for arm in alone.values()]),
        np.array([number[group_of[name]] for name in alone]),
        within=T,
        between=U,
        s2=s2,
        start=start,
    )
    g = number[group_of[one]]
    prior = np.linalg.inv(groups[1][g] + np.diag(T))
    V = np.linalg.inv(prior + seen[one].A / s2)
    mean = V @ (prior @ groups[0][g] + seen[one].b / s2)
    assert np.allclose(read.mean, mean, rtol=1e-6)
    assert np.allclose(read.factor.T @ read.factor, V, rtol=1e-6)


def test_one_group_of_all_is_the_hybrid_model() -> None:
    """What all arms share and what is their own: the same posterior means within 2% of the spread."""
    seen, _, _ = campaigns(20, 1, 60, 7)
    grouped = fit_groups(seen, dict.fromkeys(seen, "all"), dimension=2, intercept=0)
    hybrid = fit_hybrid(seen, dimension=2, intercept=0)
    for name, sums in seen.items():
        assert np.allclose(read_out(grouped.of(name), sums).mean, read_out(hybrid, sums).mean, atol=0.02)


def test_without_rows_it_is_the_start() -> None:
    """Whatever groups are named."""
    found = fit_groups({}, {"a": "x"}, dimension=2, intercept=0)
    assert found.of("a") is found.other
    assert found.other.mean.tolist() == [0.5, 0.0]
    seen, group_of, _ = campaigns(3, 2, 30, 8)
    broken = {**seen, "bad": replace(seen["0.0"], reward=np.inf)}
    one, other = (fit_groups(arms, group_of, dimension=2, intercept=0) for arms in (seen, broken))
    assert np.array_equal(one.of("0.0").mean, other.of("0.0").mean)


def test_an_intercept_that_is_none_is_refused() -> None:
    """With what is allowed."""
    with pytest.raises(ValueError, match="intercept = 2"):
        fit_groups({}, {}, dimension=2, intercept=2)
