"""How much to explore, by playing it out: Bayesian roll-outs of Thompson sampling from what is believed now.

Worlds theta (K, d) are drawn from the posterior. In each, an agent for each rate alpha begins with that posterior, decides
by x^T m_a + alpha sqrt(x^T V_a x) z_a on contexts of a ring of real ones, and learns from the rewards that the world gives, over
a horizon of H rounds in B steps of n contexts, each of which stands for c = H/(B n) rounds::

    Lambda_a += c/s2 sum x x^T,    h_a += c/s2 sum x (x^T theta_a) + sqrt(c/s2) sum x eps,    eps ~ N(0, 1)

What is seen of a step counts `lag` steps later. Each arm is replaced by a draw from the prior with the observed hazard of
announced changes, and the agents' belief of it by the prior; after an unannounced change only the world is another. A rate's
score is the mean expected reward of a round, with that of the greedy policy at the end, which counts for `after` rounds:
what has been learned is worth something. All rates meet the same worlds, contexts, changes and noise, so their
differences are known better than their scores. The scheme is that of policy roll-outs in Bayes-adaptive planning
(Guez et al. 2012), with a policy of one parameter.

numpy by default; any module of its names does (policies/rollouts_torch.py). Work: B W J K inverses of d x d. Memory: worlds are
played a few at a time, so that arrays of d x d for each of their J K beliefs stay near 1 MB, of which there are 5 + lag; and the
draws, 8 B W K n bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.rollout_plan import NUMPY, Arrays, Belief, Outcome, Plan, check_input

if TYPE_CHECKING:
    import numpy.typing as npt

    from policies.batch import FloatArray

LEAST = 1e-12
"""Least variance of an expectation."""
MOST_HAZARD = 1.0 - 1e-12


def roll_out(
    belief: Belief,
    ring: FloatArray,
    alphas: FloatArray,
    *,
    plan: Plan,
    rng: np.random.Generator,
    arrays: Arrays = NUMPY,
) -> Outcome:
    """Values of Thompson sampling's rates.

    Args:
        belief: what is believed now.
        ring: (m, d) recent contexts.
        alphas: (J,) rates, zero or more.
        plan: how it is played.
        rng: all that is random; the same draws whatever computes.
        arrays: what computes.

    Raises:
        ValueError: shapes do not fit, or a number is not finite.

    >>> belief = Belief(mean=np.array([[0.5], [0.4]]), covariance=np.array([[[1e-6]], [[0.04]]]),
    ...     prior_mean=np.zeros(1), prior_variance=np.ones(1), s2=0.25)
    >>> ring = np.ones((8, 1))
    >>> found = roll_out(belief, ring, np.array([0.0, 1.0]), plan=Plan(worlds=200), rng=np.random.default_rng(1))
    >>> found.best  # the second arm may be better, and there is time to learn it
    1
    """
    check_input(belief, ring, alphas)
    belief = _leading(belief, ring, plan.most_arms)
    luck = _luck(belief, ring, plan, rng)
    K, d = belief.mean.shape
    together = max(1, arrays.together // (len(alphas) * K * d * d))
    parts = [
        _played(belief, alphas, plan, luck, slice(first, first + together), arrays)
        for first in range(0, plan.worlds, together)
    ]
    return Outcome(values=np.concatenate(parts))


@dataclass(frozen=True, slots=True)
class _Luck:
    """All that is random: theta (W, K, d) at the start, and by step the contexts (n, d), draws (W, K, n), noise (W, n) and changes.

    A change is (kind, which arms (W, K), their new weights (W, K, d)); `final` are the contexts of the greedy value.
    """

    theta: FloatArray
    contexts: list[FloatArray]
    draws: list[FloatArray]
    noise: list[FloatArray]
    changes: list[list[tuple[str, npt.NDArray[np.bool_], FloatArray]]]
    final: FloatArray


def _luck(belief: Belief, ring: FloatArray, plan: Plan, rng: np.random.Generator) -> _Luck:
    W, n, (K, d) = plan.worlds, plan.contexts, belief.mean.shape
    lower = np.linalg.cholesky(belief.covariance)
    theta = belief.mean + np.einsum("kij,wkj->wki", lower, rng.standard_normal((W, K, d)))
    luck = _Luck(theta, [], [], [], [], ring[rng.integers(0, len(ring), 4 * n)])
    rounds = plan.horizon / plan.steps
    for _ in range(plan.steps):
        changes = []
        for kind, hazard in (("announced", plan.announced), ("unannounced", plan.unannounced)):
            if hazard > 0.0:
                where = rng.random((W, K)) < -math.expm1(rounds * math.log1p(-min(hazard, MOST_HAZARD)))
                new = belief.prior_mean + np.sqrt(belief.prior_variance) * rng.standard_normal((W, K, d))
                changes.append((kind, where, new))
        luck.changes.append(changes)
        luck.contexts.append(ring[rng.integers(0, len(ring), n)])
        luck.draws.append(rng.standard_normal((W, K, n)))
        luck.noise.append(rng.standard_normal((W, n)))
    return luck


def _played(belief: Belief, alphas: FloatArray, plan: Plan, luck: _Luck, worlds: slice, arrays: Arrays) -> FloatArray:
    """Values (w, J) in some of the worlds."""
    take, theta = arrays.take, luck.theta[worlds].copy()
    game = _Game(belief, alphas, plan, len(theta), arrays)
    earned = take(np.zeros((len(theta), len(alphas))))
    for x, z, noise, changes in zip(luck.contexts, luck.draws, luck.noise, luck.changes, strict=True):
        for kind, where, new in changes:
            theta = np.where(where[worlds, :, None], new[worlds], theta)
            if kind == "announced":
                game.reset(where[worlds])
        earned = earned + game.play(take(theta), take(x), take(z[worlds, None]), take(noise[worlds, None, None]))
    game.settle()
    greedy = game.value(take(theta), take(luck.final))
    total = (plan.horizon / plan.steps * earned + plan.after * greedy) / (plan.horizon + plan.after)
    return np.asarray(arrays.give(total), np.float64)


class _Game:
    """The agents' beliefs, (W, J, K, ...), while they play."""

    def __init__(self, belief: Belief, alphas: FloatArray, plan: Plan, W: int, arrays: Arrays) -> None:
        (K, d), J = belief.mean.shape, len(alphas)
        self._xp, self._arrays, self._K, self._d = arrays.module, arrays, K, d
        precision = np.linalg.inv(belief.covariance)
        h = (precision @ belief.mean[:, :, None])[:, :, 0]
        self.precision = arrays.take(np.tile(precision, (W, J, 1, 1, 1)))
        self.h = arrays.take(np.tile(h, (W, J, 1, 1)))
        self._start = np.diag(1.0 / belief.prior_variance), belief.prior_mean / belief.prior_variance
        self._alphas = arrays.take(alphas[None, :, None, None])
        self._c = plan.horizon / (plan.steps * plan.contexts)
        self._s2, self._lag = belief.s2, plan.lag
        self._numbers = arrays.take(np.arange(K, dtype=np.float64)[:, None])
        self._one = arrays.take(np.ones(1))
        self._waiting: list[tuple[Any, Any]] = []

    def play(self, theta: Any, x: Any, z: Any, noise: Any) -> Any:
        """(W, J) mean expected reward of a step, from which the agents learn."""
        mean, V = self._posterior()
        products = self._squares(x)
        variance = (V.reshape(-1, self._d**2) @ products.T).reshape(*mean.shape[:3], -1)
        sd = self._xp.sqrt(self._xp.clip(variance, LEAST, None))
        shown = self._shown(mean @ x.T + self._alphas * sd * z)
        expected = (theta @ x.T)[:, None]
        earned = (shown * expected).sum(-2).mean(-1)
        seen = (shown @ products).reshape(*mean.shape, self._d) * (self._c / self._s2)
        heard = shown * (expected * (self._c / self._s2) + noise * math.sqrt(self._c / self._s2))
        self._waiting.append((seen, heard @ x))
        while len(self._waiting) > self._lag:
            self._learn()
        return earned

    def settle(self) -> None:
        """Learn what is still waiting."""
        while self._waiting:
            self._learn()

    def value(self, theta: Any, x: Any) -> Any:
        """(W, J) mean expected reward of the arms with the best means."""
        mean, _ = self._posterior()
        return (self._shown(mean @ x.T) * (theta @ x.T)[:, None]).sum(-2).mean(-1)

    def reset(self, where: npt.NDArray[np.bool_]) -> None:
        """The agents know that these arms (W, K) are new; what they wait to hear of the old ones is void."""
        take, xp = self._arrays.take, self._xp
        there = take(where.astype(np.float64))[:, None, :, None]
        self.precision = xp.where(there[..., None] > 0.0, take(self._start[0]), self.precision)
        self.h = xp.where(there > 0.0, take(self._start[1]), self.h)
        self._waiting = [(seen * (1.0 - there[..., None]), heard * (1.0 - there)) for seen, heard in self._waiting]

    def _learn(self) -> None:
        seen, heard = self._waiting.pop(0)
        self.precision, self.h = self.precision + seen, self.h + heard

    def _posterior(self) -> tuple[Any, Any]:
        V = self._xp.linalg.inv(self.precision)
        return (V @ self.h[..., None])[..., 0], V

    def _squares(self, x: Any) -> Any:
        return (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)

    def _shown(self, scores: Any) -> Any:
        """(W, J, K, n) 1 where an arm has the best score of (W, J, K, n)."""
        best = scores.argmax(-2)[..., None, :]
        return self._xp.where(self._numbers == best, self._one, 0.0 * self._one)


def _leading(belief: Belief, ring: FloatArray, most: int) -> Belief:
    """Without the arms that are least likely the best anywhere: `most` are left, by their best upper end over the ring."""
    if len(belief.mean) <= most:
        return belief
    x = ring[:: max(1, len(ring) // 64)]
    sd = np.sqrt(np.maximum(np.einsum("ni,kij,nj->nk", x, belief.covariance, x, optimize=True), LEAST))
    upper = x @ belief.mean.T + 2.0 * sd
    kept = np.sort(np.argsort(-(upper - upper.max(axis=1, keepdims=True)).max(axis=0), kind="stable")[:most])
    return Belief(
        mean=belief.mean[kept],
        covariance=belief.covariance[kept],
        prior_mean=belief.prior_mean,
        prior_variance=belief.prior_variance,
        s2=belief.s2,
    )
