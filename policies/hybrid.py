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

m and S are part of the prior: they move when it is fitted, not with every row of another arm, so that only arms with
new rows are computed and written in between. An arm's own rows count at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from policies.gaussian import ArmPosterior, check_shapes, inverse_factor, joint
from policies.linear_bayes import NOISE_ROWS, ROUNDS
from policies.prior import HybridPrior
from policies.scale import Scale, beginning, check_start, pooled, scale_of, spread, telling

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
    """The arms' sums one above another: A (K, d, d), b (K, d), n and square (K,)."""

    A: FloatArray
    b: FloatArray
    n: FloatArray
    square: FloatArray


@dataclass(frozen=True, slots=True)
class _Guess:
    """What a round starts from: variances of the shared and of the own part, (d,) each, and the noise."""

    T0: FloatArray
    T: FloatArray
    s2: float


def fit_hybrid(
    effective: Mapping[str, Effective],
    start: HybridPrior | None = None,
    *,
    dimension: int,
    intercept: int | None = None,
) -> HybridPrior:
    """Law of the shared part and variances T, T0, s2 from the K arms' A_eff, b, n_eff, c by empirical Bayes.

    Three rounds of expectation-maximisation: m and S as in the module's docstring, with mu the start's mean; then, with
    m_a and C_a the mean and covariance of theta_a and R_a = I - J_a::

        E_a = (m_a - m)^2 + diag(V_a + R_a S R_a^T),    E_0 = (m - mu)^2 + diag S
        tau_b^2 = (sum E_a,intercept + nu (0.5 pbar)^2) / (K + nu),    likewise tau_w^2 over slopes, and T0 from E_0
        s2  = (sum [c_a - 2 m_a'b_a + m_a'A_a m_a + tr(A_a C_a)] + 50 var) / (sum n_a + 50)

    The last round's variances give the m and S that are returned. Shrinking T0 is what keeps a shared part that is not
    there from costing anything. Arms that tell nothing are left out; a round that float64 cannot do ends the rounds.

    Args:
        effective: the arms as they count now, each with b (d,) and A (d, d).
        start: where T and s2 start, and what is returned without data; None is `scale.beginning`, as for linear.
        dimension: d.
        intercept: index of the context's constant; None treats all components alike.

    Raises:
        ValueError: `intercept` is not an index below d, or `start` has another length.

    >>> fit_hybrid({}, dimension=1, intercept=0).mean.tolist()
    [0.5]
    """
    check_start(start, dimension=dimension, intercept=intercept)
    arms = telling(effective)
    scale = scale_of(arms)
    begin, wide = beginning(scale, dimension, intercept), spread(scale, dimension, intercept)
    if not arms:
        shared = np.diag(np.sqrt(wide))
        return start or HybridPrior(mean=begin.mean, factor=shared, tau2=begin.tau2, s2=begin.s2)
    guess = _Guess(wide, begin.tau2, begin.s2) if start is None else _Guess(wide, start.tau2, start.s2)
    sums = _Sums(
        np.stack([arm.A for arm in arms]),
        np.stack([arm.b for arm in arms]),
        np.array([arm.n_eff for arm in arms]),
        np.array([arm.square for arm in arms]),
    )
    return _rounds(sums, guess, begin.mean, scale, intercept)


def _rounds(sums: _Sums, guess: _Guess, mu: FloatArray, scale: Scale, intercept: int | None) -> HybridPrior:
    found = HybridPrior(mean=mu, factor=np.diag(np.sqrt(guess.T0)), tau2=guess.T, s2=guess.s2)
    for left in range(ROUNDS, -1, -1):
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                found, V, J = _shared(sums, guess, mu)
                if left:
                    guess = _further(sums, found, V, J, mu, scale, intercept)
        except (np.linalg.LinAlgError, ValueError):  # sizes too far apart for float64
            break
    return found


def _shared(sums: _Sums, guess: _Guess, mu: FloatArray) -> tuple[HybridPrior, FloatArray, FloatArray]:
    """Law of beta under a guess, and V_a, J_a, (K, d, d) each."""
    A = sums.A / guess.s2
    V = np.linalg.inv(A + np.diag(1.0 / guess.T)).astype(np.float64, copy=False)
    J = V / guess.T
    told = (A @ V).sum(axis=0) / guess.T
    factor = inverse_factor(0.5 * (told + told.T) + np.diag(1.0 / guess.T0))
    if factor is None:
        raise ValueError("the shared part has no covariance")
    h = np.einsum("aji,aj->i", J, sums.b) / guess.s2 + mu / guess.T0
    return HybridPrior(mean=factor.T @ (factor @ h), factor=factor, tau2=guess.T, s2=guess.s2), V, J


def _further(
    sums: _Sums,
    found: HybridPrior,
    V: FloatArray,
    J: FloatArray,
    mu: FloatArray,
    scale: Scale,
    intercept: int | None,
) -> _Guess:
    """The variances that the expected squares give."""
    W0 = found.factor
    spread_J = np.einsum("ij,akj->aik", W0, J)  # W0 J^T, so that J S J^T is its own square
    spread_R = W0 - spread_J
    m = np.einsum("aij,aj->ai", V, sums.b) / found.s2 + J @ found.mean
    E = (m - found.mean) ** 2 + np.einsum("aii->ai", V) + (spread_R**2).sum(axis=1)
    E_0 = (found.mean - mu) ** 2 + (W0**2).sum(axis=0)
    trace = np.einsum("aij,aji->", sums.A, V) + np.einsum("aki,aij,akj->", spread_J, sums.A, spread_J, optimize=True)
    fitted = np.einsum("ai,aij,aj->", m, sums.A, m, optimize=True) - 2.0 * np.einsum("ai,ai->", m, sums.b)
    residual = float(sums.square.sum() + fitted + trace)
    s2 = (residual + NOISE_ROWS * scale.variance) / (float(sums.n.sum()) + NOISE_ROWS)
    return _Guess(pooled(E_0[None], scale, intercept), pooled(E, scale, intercept), max(s2, 1e-3 * scale.variance))
