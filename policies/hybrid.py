"""Linear regressions that share a part: theta_a = beta + delta_a, with beta common to all arms and delta_a an arm's own.

This is the hybrid model of Li et al. 2010, section 3.2, with the context itself as shared features, z = x. With
beta ~ N(mu, T0), delta_a ~ N(0, T), both diagonal, and noise s2, the raw additive blocks are

    G = sum z z^T = sum_a A_a,   g = sum z r = sum_a b_a,   C_a = sum x z^T = A_a,   A_a,   b_a

so that an arm's record is that of the linear model, blocks of all arms are sums over records, and sums merge in any
order to the last bit (the eliminated matrices that Li et al. update are not additive). beta is eliminated when reading.
With V_a = (A_a/s2 + T^-1)^-1 and J_a = V_a T^-1,

    S^-1 = T0^-1 + sum_a T^-1 V_a A_a/s2,   m = S (T0^-1 mu + sum_a T^-1 V_a b_a/s2),   beta ~ N(m, S)
    theta_a ~ N(V_a b_a/s2 + J_a m,  V_a + J_a S J_a^T)

which are the equations of Li et al. for A0 = S^-1, b0 and s^2 with these priors. The marginal law of an arm is what a
snapshot holds; decisions draw arms' scalars from it independently, so that the product formula for propensities holds.

Arms with features f_a of their own (q numbers with a constant 1 before them) share more: z = f_a (x) x and
theta_a = sum_j f_aj beta_j + delta_a, so that a new arm starts from what its features tell. The blocks of the q d shared
weights are made of the same records when reading,

    G = sum_a (f_a f_a^T) (x) A_a,   g = sum_a f_a (x) b_a,   C_a = f_a^T (x) A_a

S and m follow as above with F_a = f_a^T (x) I for I: F_a beta is what arm a shares, and beta ~ N(m, S) gives it the mean
F_a m and the covariance F_a S F_a^T. The prior of each arm is that law (policies/arm_features.py).

m and S are part of the prior: they move when it is fitted, not with every row of another arm, so that only arms with
new rows are computed and written in between. An arm's own rows count at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from policies.arm_features import Features, seen_as
from policies.gaussian import ArmPosterior, check_shapes, inverse_factor, joint
from policies.linear_bayes import NOISE_ROWS, ROUNDS
from policies.prior import HybridPrior
from policies.scale import Scale, beginning, check_start, is_telling, pooled, scale_of, spread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policies.batch import FloatArray
    from policies.sums import Effective


def hybrid_posterior(prior: HybridPrior, effective: Effective) -> ArmPosterior:
    """Marginal law of theta_a; b (d,) and A (d, d) as they count now. Sums that cannot be used: the prior, an alarm.

    Raises:
        ValueError: prior and sums have different dimensions.

    >>> import numpy as np
    >>> from policies.sums import Effective
    >>> prior = HybridPrior(mean=np.array([1.0]), factor=np.array([[0.0]]), tau2=np.array([1.0]), s2=1.0)
    >>> seen = Effective(n_eff=3.0, count=3.0, reward=3.0, square=3.0, b=np.array([3.0]), A=np.array([[3.0]]))
    >>> found = hybrid_posterior(prior, seen)  # beta is known here: V = 1/(3 + 1)
    >>> found.mean.tolist(), found.factor.tolist()
    ([1.0], [[0.5]])
    """
    check_shapes(len(prior.mean), effective)
    factor = inverse_factor(effective.A / prior.s2 + np.diag(1.0 / prior.tau2))
    if factor is not None and np.isfinite(effective.b).all():
        mean = factor.T @ (factor @ (effective.b / prior.s2 + prior.mean / prior.tau2))
        shared = prior.factor / prior.tau2 @ factor.T @ factor  # W0 J^T
        if np.isfinite(mean).all() and np.isfinite(shared).all():
            return ArmPosterior(mean=mean, factor=joint(factor, shared))
    own = np.diag(np.sqrt(prior.tau2))
    return ArmPosterior(mean=prior.mean, factor=joint(prior.factor, own), alarm=True)


@dataclass(frozen=True, slots=True)
class _Sums:
    """The arms' sums one above another: A (K, d, d), b (K, d), n and square (K,), features f (K, q), first 1."""

    A: FloatArray
    b: FloatArray
    n: FloatArray
    square: FloatArray
    f: FloatArray


@dataclass(frozen=True, slots=True)
class _Guess:
    """What a round starts from: variances of the shared parts (q, d) and of the own part (d,), and the noise."""

    T0: FloatArray
    T: FloatArray
    s2: float


@dataclass(frozen=True, slots=True)
class _Shared:
    """Law of all shared parts under a guess, beta ~ N(mean, W0^T W0), (q d,) and (q d, q d); V_a and J_a, (K, d, d)."""

    mean: FloatArray
    factor: FloatArray
    V: FloatArray
    J: FloatArray


def fit_hybrid(
    effective: Mapping[str, Effective],
    start: HybridPrior | None = None,
    *,
    dimension: int,
    intercept: int | None = None,
    features: Features | None = None,
) -> HybridPrior:
    """Law of the shared part and variances T, T0, s2 from the K arms' A_eff, b, n_eff, c by empirical Bayes.

    Three rounds of expectation-maximisation: m and S as in the module's docstring, with mu the start's mean; then, with
    m_a and C_a the mean and covariance of theta_a and R_a = I - J_a::

        E_a = (m_a - F_a m)^2 + diag(V_a + R_a F_a S F_a^T R_a^T),    E_0 = (m - mu)^2 + diag S
        tau_b^2 = (sum E_a,intercept + nu (0.5 pbar)^2) / (K + nu),    likewise tau_w^2 over slopes, and T0 from E_0
        s2  = (sum [c_a - 2 m_a'b_a + m_a'A_a m_a + tr(A_a C_a)] + 50 var) / (sum n_a + 50)

    The last round's variances give the m and S that are returned. Shrinking T0, for each feature by itself, is what
    keeps a shared part that is not there from costing anything. Arms that tell nothing are left out; a round that
    float64 cannot do ends the rounds. The time grows as K q^2 d^3, the memory as K q d^2.

    Args:
        effective: the arms as they count now, each with b (d,) and A (d, d).
        start: where T and s2 start, and what is returned without data; None is `scale.beginning`, as for linear.
        dimension: d.
        intercept: index of the context's constant; None treats all components alike.
        features: of the arms; None for none. With them the result is a `FeaturedPrior`.

    Raises:
        ValueError: `intercept` is not an index below d, or `start` has another length.

    >>> fit_hybrid({}, dimension=1, intercept=0).mean.tolist()
    [0.5]
    """
    check_start(start, dimension=dimension, intercept=intercept)
    told = {name: arm for name, arm in effective.items() if is_telling(arm)}
    arms = list(told.values())
    scale = scale_of(arms)
    begin, wide = beginning(scale, dimension, intercept), spread(scale, dimension, intercept)
    q = 1 if features is None else features.length
    wide, mu = np.tile(wide, (q, 1)), np.concatenate([begin.mean, np.zeros((q - 1) * dimension)])
    if not arms:
        shared = np.diag(np.sqrt(wide.ravel()))
        return start or seen_as(features, mean=mu, factor=shared, tau2=begin.tau2, s2=begin.s2)
    guess = _Guess(wide, begin.tau2, begin.s2) if start is None else _Guess(wide, start.tau2, start.s2)
    sums = _Sums(
        np.stack([arm.A for arm in arms]),
        np.stack([arm.b for arm in arms]),
        np.array([arm.n_eff for arm in arms]),
        np.array([arm.square for arm in arms]),
        np.ones((len(arms), 1)) if features is None else np.stack([features.of(name) for name in told]),
    )
    found, guess = _rounds(sums, guess, mu, scale, intercept)
    return seen_as(features, mean=found.mean, factor=found.factor, tau2=guess.T, s2=guess.s2)


def _rounds(sums: _Sums, guess: _Guess, mu: FloatArray, scale: Scale, intercept: int | None) -> tuple[_Shared, _Guess]:
    """Law of the shared part after ROUNDS rounds, and the variances that it was made with."""
    none = np.zeros((0, len(guess.T), len(guess.T)))
    found, made = _Shared(mu, np.diag(np.sqrt(guess.T0.ravel())), none, none), guess
    for left in range(ROUNDS, -1, -1):
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                found, made = _shared(sums, guess, mu), guess
                if left:
                    guess = _further(sums, guess, found, mu, scale, intercept)
        except (np.linalg.LinAlgError, ValueError):  # sizes too far apart for float64
            break
    return found, made


def _shared(sums: _Sums, guess: _Guess, mu: FloatArray) -> _Shared:
    """Law of beta under a guess, by elimination of the arms' own parts."""
    (K, q), d = sums.f.shape, len(guess.T)
    A = sums.A / guess.s2
    V = np.linalg.inv(A + np.diag(1.0 / guess.T)).astype(np.float64, copy=False)
    J = V / guess.T
    each = (A @ V) / guess.T  # what an arm tells of what it shares, T^-1 V A/s2
    pairs = (sums.f[:, :, None] * sums.f[:, None, :]).reshape(K, q * q)
    told = (pairs.T @ each.reshape(K, d * d)).reshape(q, q, d, d).transpose(0, 2, 1, 3).reshape(q * d, q * d)
    factor = inverse_factor(0.5 * (told + told.T) + np.diag(1.0 / guess.T0.ravel()))
    if factor is None or not np.isfinite(V).all():
        raise ValueError("the shared part has no covariance")
    h = (sums.f.T @ np.einsum("aji,aj->ai", J, sums.b)).ravel() / guess.s2 + mu / guess.T0.ravel()
    mean = factor.T @ (factor @ h)
    if not np.isfinite(mean).all():
        raise ValueError("the shared part has no mean")
    return _Shared(mean, factor, V, J)


def _further(sums: _Sums, guess: _Guess, found: _Shared, mu: FloatArray, scale: Scale, intercept: int | None) -> _Guess:
    """The variances that the expected squares give."""
    q, d = guess.T0.shape
    V, J = found.V, found.J
    W0 = np.einsum("aj,kji->aki", sums.f, found.factor.reshape(q * d, q, d))  # W0 F_a^T
    spread_J = W0 @ J.transpose(0, 2, 1)  # W0 F_a^T J^T, so that J F S F^T J^T is its own square
    shared = sums.f @ found.mean.reshape(q, d)
    m = np.einsum("aij,aj->ai", V, sums.b) / guess.s2 + np.einsum("aij,aj->ai", J, shared)
    E = (m - shared) ** 2 + np.einsum("aii->ai", V) + ((W0 - spread_J) ** 2).sum(axis=1)
    E_0 = ((found.mean - mu) ** 2 + (found.factor**2).sum(axis=0)).reshape(q, d)
    T0 = np.stack([pooled(part[None], scale, intercept) for part in E_0])
    trace = np.einsum("aij,aji->", sums.A, V) + np.einsum("aki,aki->", spread_J @ sums.A, spread_J)
    fitted = np.einsum("ai,aij,aj->", m, sums.A, m, optimize=True) - 2.0 * np.einsum("ai,ai->", m, sums.b)
    residual = float(sums.square.sum() + fitted + trace)
    s2 = (residual + NOISE_ROWS * scale.variance) / (float(sums.n.sum()) + NOISE_ROWS)
    return _Guess(T0, pooled(E, scale, intercept), max(s2, 1e-3 * scale.variance))
