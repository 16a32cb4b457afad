"""Empirical Bayes one level up: arms in groups (a campaign, a category, a slot), so that a new arm starts from its group.

theta_a = mu_g + delta_a with mu_g = mu0 + gamma_g; delta_a ~ N(0, T), gamma_g ~ N(0, U) and mu0 ~ N(mu_start, U/k), T and U
diagonal, noise s2. What arm a tells of its group, and what group g tells of all, have the same form (V without an index is
the variance that is left at that level)::

    V_a = (A_a/s2 + T^-1)^-1,        W_g = sum_a (T^-1 - T^-1 V_a T^-1),   u_g = sum_a T^-1 V_a b_a/s2
    V_g = (W_g + U^-1)^-1,           W_0 = sum_g (U^-1 - U^-1 V_g U^-1),   u_0 = sum_g U^-1 V_g u_g
    S = (W_0 + k U^-1)^-1,  mu0 ~ N(S (u_0 + k U^-1 mu_start), S)
    mu_g ~ N(V_g (u_g + U^-1 E mu0),  V_g + J_g S J_g^T),   J_g = V_g U^-1
    theta_a ~ N(V_a (b_a/s2 + T^-1 E mu_g),  V_a + J_a Cov(mu_g) J_a^T),   J_a = V_a T^-1

This is the exact joint law of all levels; T, U and s2 are fitted by expectation-maximisation as in policies/linear_bayes.py,
T and U each shrunk to half of the start's variance with the weight of 4 arms, or 4 groups. A group's law is a HybridPrior, so that
policies/hybrid.py reads arms out with it: their own rows are not counted twice. Work: K + G inverses of d x d a round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from policies.gaussian import joint
from policies.linear_bayes import NOISE_ROWS, PULL, ROUNDS
from policies.prior import HybridPrior
from policies.scale import Scale, beginning, is_telling, pooled, scale_of, spread

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from policies.batch import FloatArray
    from policies.sums import Effective


JITTER = 1e-12
"""Added to the diagonal of a covariance before it is factorised, in units of its mean."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupPriors:
    """What is believed of an arm before its own rows, by its group.

    Attributes:
        by_group: prior of an arm in each group that has arms with rows.
        other: prior of an arm in a new group, or in none.
        group_of: of the arms.
        between: (d,) U, variances between groups; those of arms within a group are `tau2` of each prior.
    """

    by_group: Mapping[str, HybridPrior]
    other: HybridPrior
    group_of: Mapping[str, str]
    between: FloatArray

    def of(self, arm: str) -> HybridPrior:
        """Prior of an arm, new or known: that of its group."""
        return self.by_group.get(self.group_of.get(arm, ""), self.other)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupedPrior(HybridPrior):
    """A hybrid prior that tells arms apart by their groups; as a HybridPrior it is that of an arm in a new group, or in none.

    Snapshots keep that one for arms that they have no record of; every arm in the sums has a record made with its own.
    """

    groups: GroupPriors

    def of(self, arm: str) -> HybridPrior:
        """What is believed of this arm before its own rows."""
        return self.groups.of(arm)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GroupedPrior):
            return False
        mine, theirs = self.groups, other.groups
        return (mine.other, mine.by_group, mine.group_of) == (theirs.other, theirs.by_group, theirs.group_of)

    __hash__ = None


def grouped(groups: GroupPriors) -> GroupedPrior:
    """One prior for all arms, by their groups.

    >>> grouped(fit_groups({}, {"a": "x"}, dimension=1, intercept=0)).of("a").mean.shape
    (1,)
    """
    other = groups.other
    return GroupedPrior(mean=other.mean, factor=other.factor, tau2=other.tau2, s2=other.s2, groups=groups)


@dataclass(frozen=True, slots=True)
class _Sums:
    """The arms' sums one above another, and the number of each arm's group (K,)."""

    A: FloatArray
    b: FloatArray
    n: FloatArray
    square: FloatArray
    group: npt.NDArray[np.intp]
    groups: int


@dataclass(frozen=True, slots=True)
class _Guess:
    """Variances within groups T (d,) and between them U (d,), and the noise."""

    T: FloatArray
    U: FloatArray
    s2: float


@dataclass(frozen=True, slots=True)
class _Laws:
    """Normal laws under a guess, of mu0 and of the groups' mu_g: means and covariances; and V_g (G, d, d), V_a (K, d, d)."""

    top: tuple[FloatArray, FloatArray]
    groups: tuple[FloatArray, FloatArray]
    left: FloatArray
    own: FloatArray


def fit_groups(
    effective: Mapping[str, Effective],
    group_of: Mapping[str, str],
    *,
    dimension: int,
    intercept: int | None = None,
) -> GroupPriors:
    """Priors by group from the K arms' A_eff, b, n_eff, c.

    Args:
        effective: the arms as they count now, each with b (d,) and A (d, d). Those that tell nothing are left out.
        group_of: the group of each arm. Arms that are not in it are a group of their own together.
        dimension: d.
        intercept: index of the context's constant; see `policies.linear_bayes.fit_linear`.

    Raises:
        ValueError: `intercept` is not an index below d.

    >>> from policies.sums import Effective
    >>> def arm(mean):
    ...     return Effective(n_eff=1000.0, count=1000.0, reward=1000 * mean, square=1000 * (mean**2 + 1),
    ...         b=np.array([1000 * mean]), A=np.array([[1000.0]]))
    ...
    >>> means = {"a": 1.0, "b": 1.1, "c": 3.0, "d": 3.1}
    >>> found = fit_groups({name: arm(mean) for name, mean in means.items()},
    ...     {"a": "x", "b": "x", "c": "y", "d": "y", "new": "y"}, dimension=1, intercept=0)
    >>> bool(abs(found.of("new").mean[0] - 3.05) < 0.3), found.of("stranger") is found.other
    (True, True)
    """
    if intercept is not None and not 0 <= intercept < dimension:
        raise ValueError(f"intercept = {intercept}: must be the index of a component, 0 to {dimension - 1}, or None")
    told = {name: arm for name, arm in effective.items() if is_telling(arm)}
    names = sorted({group_of.get(name, "") for name in told})
    number = {name: i for i, name in enumerate(names)}
    arms = list(told.values())
    scale = scale_of(arms)
    begin, half = beginning(scale, dimension, intercept), 0.5 * spread(scale, dimension, intercept)
    sums = _Sums(
        np.array([arm.A for arm in arms]).reshape(-1, dimension, dimension),
        np.array([arm.b for arm in arms]).reshape(-1, dimension),
        np.array([arm.n_eff for arm in arms]),
        np.array([arm.square for arm in arms]),
        np.array([number[group_of.get(name, "")] for name in told], np.intp),
        len(names),
    )
    laws, guess = _rounds(sums, _Guess(half, half, begin.s2), begin.mean, scale, intercept)
    mean, covariance = laws.groups
    return GroupPriors(
        by_group={name: _prior(mean[i], covariance[i], guess.T, guess.s2) for name, i in number.items()},
        other=_prior(laws.top[0], laws.top[1] + np.diag(guess.U), guess.T, guess.s2),
        group_of=dict(group_of),
        between=guess.U,
    )


def group_laws(
    A: FloatArray,
    b: FloatArray,
    group: npt.NDArray[np.intp],
    *,
    within: FloatArray,
    between: FloatArray,
    s2: float,
    start: FloatArray,
) -> tuple[tuple[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]:
    """Laws of mu0, (d,) and (d, d), and of the G groups' means, (G, d) and (G, d, d), for given variances.

    Args:
        A, b: (K, d, d) and (K, d) sums of the arms.
        group: (K,) number of each arm's group, 0 to G - 1, each with an arm.
        within, between: (d,) T and U.
        s2: noise.
        start: (d,) mu_start.

    >>> top, groups = group_laws(np.full((2, 1, 1), 4.0), np.array([[4.0], [8.0]]), np.array([0, 1]),
    ...     within=np.ones(1), between=np.ones(1), s2=1.0, start=np.zeros(1))
    >>> top[0].round(3).tolist()  # between the arms' 1 and 2, pulled to 0 a little
    [1.483]
    """
    sums = _Sums(A, b, np.zeros(len(A)), np.zeros(len(A)), group, int(group.max()) + 1)
    laws = _levels(sums, _Guess(within, between, s2), start)
    return laws.top, laws.groups


def _rounds(sums: _Sums, guess: _Guess, start: FloatArray, scale: Scale, intercept: int | None) -> tuple[_Laws, _Guess]:
    """Laws after ROUNDS rounds, and the variances that they were made with; without arms, the start."""
    nothing = np.zeros((sums.groups, len(start), len(start)))
    known = np.zeros((len(start), len(start)))
    found, made = _Laws((start, known), (np.tile(start, (sums.groups, 1)), nothing), nothing, sums.A), guess
    for left in range(ROUNDS if len(sums.A) else -1, -1, -1):
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                found, made = _levels(sums, guess, start), guess
                if left:
                    guess = _further(sums, guess, found, scale, intercept)
        except (np.linalg.LinAlgError, ValueError):  # sizes too far apart for float64
            break
    return found, made


def _levels(sums: _Sums, guess: _Guess, start: FloatArray) -> _Laws:
    """The exact law of all levels under a guess."""
    V = np.asarray(np.linalg.inv(sums.A / guess.s2 + np.diag(1.0 / guess.T)), np.float64)
    told = np.einsum("aij,aj->ai", V, sums.b / guess.s2) / guess.T
    V_g, u_g = _up(V, told, sums.group, sums.groups, guess.T, guess.U)
    nobody = np.zeros(sums.groups, np.intp)
    S, u_0 = _up(V_g, np.einsum("gij,gj->gi", V_g, u_g) / guess.U, nobody, 1, guess.U, guess.U / PULL)
    mean = S[0] @ (u_0[0] + PULL / guess.U * start)
    group_mean = np.einsum("gij,gj->gi", V_g, u_g + mean / guess.U)
    J = V_g / guess.U
    group_covariance = V_g + J @ S[0] @ J.transpose(0, 2, 1)
    if not (np.isfinite(mean).all() and np.isfinite(group_covariance).all() and np.isfinite(group_mean).all()):
        raise ValueError("the groups have no law")
    return _Laws((mean, S[0]), (group_mean, group_covariance), V_g, V)


def _up(
    V: FloatArray, told: FloatArray, parent: npt.NDArray[np.intp], parents: int, own: FloatArray, above: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """(W + above^-1)^-1 and u of each parent, from its children's V (., d, d) and what they tell (., d)."""
    d = len(own)
    W, u = np.zeros((parents, d, d)), np.zeros((parents, d))
    np.add.at(W, parent, np.diag(1.0 / own) - V / own[:, None] / own)
    np.add.at(u, parent, told)
    left: FloatArray = np.asarray(np.linalg.inv(0.5 * (W + W.transpose(0, 2, 1)) + np.diag(1.0 / above)), np.float64)
    return left, u


def _further(sums: _Sums, guess: _Guess, laws: _Laws, scale: Scale, intercept: int | None) -> _Guess:
    """The variances that the expected squares give."""
    V, (mean, S), (group_mean, group_covariance) = laws.own, laws.top, laws.groups
    i = np.arange(len(mean))
    above = group_mean[sums.group]
    m = np.einsum("aij,aj->ai", V, sums.b / guess.s2 + above / guess.T)
    J, C = V / guess.T, group_covariance[sums.group]
    left = J - np.eye(len(mean))
    own = (m - above) ** 2 + V[:, i, i] + (left @ C @ left.transpose(0, 2, 1))[:, i, i]
    # Var(mu_g - mu0) = V_g + (J_g - I) S (J_g - I)^T, and Cov(mu_g) = V_g + J_g S J_g^T
    left_g = laws.left / guess.U - np.eye(len(mean))
    others = (group_mean - mean) ** 2 + laws.left[:, i, i] + (left_g @ S @ left_g.transpose(0, 2, 1))[:, i, i]
    halved = Scale(scale.rate * 0.5**0.5, scale.variance)
    covariance = V + J @ C @ J.transpose(0, 2, 1)
    residual = float(sums.square.sum() - 2.0 * np.einsum("ai,ai->", m, sums.b))
    residual += float(
        np.einsum("ai,aij,aj->", m, sums.A, m, optimize=True) + np.einsum("aij,aji->", sums.A, covariance)
    )
    s2 = (residual + NOISE_ROWS * scale.variance) / (float(sums.n.sum()) + NOISE_ROWS)
    return _Guess(pooled(own, halved, intercept), pooled(others, halved, intercept), max(s2, 1e-3 * scale.variance))


def _prior(mean: FloatArray, covariance: FloatArray, T: FloatArray, s2: float) -> HybridPrior:
    """The prior of arms whose shared part has this law."""
    if not covariance.any():
        return HybridPrior(mean=mean, factor=np.zeros_like(covariance), tau2=T, s2=s2)
    unit = JITTER * np.trace(covariance) / len(covariance)
    lower = np.linalg.cholesky(0.5 * (covariance + covariance.T) + unit * np.eye(len(covariance)))
    return HybridPrior(mean=mean, factor=joint(lower.T), tau2=T, s2=s2)
