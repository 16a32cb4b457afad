"""A world that is known: requests with contexts, arms whose click probability is logistic in them, delayed clicks.

``P(click | arm a, context x) = 1 / (1 + exp(-theta_a . x))`` with ``x[0] = 1``. Because the world is known, so are the
click rates of uniform random choice and of the best choice for every request, and expected click rates can be compared
without the noise of the clicks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

STEP = 1 / 64
"""Features are whole multiples of this, so that they are float32 exactly and their products sum exactly in float64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Arms and how they are clicked.

    Attributes:
        theta: (K, d) coefficients of the log odds; column 0 belongs to the constant.
        mean_delay_s: mean seconds from an impression to its click, exponential.
        window_s: seconds below which every click comes; longer delays are not drawn (the law is truncated).
    """

    theta: FloatArray
    mean_delay_s: float
    window_s: float

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the K arms, in the order of the rows of `theta`."""
        width = len(str(len(self.theta) - 1))
        return tuple(f"ad-{number:0{width}d}" for number in range(len(self.theta)))

    @property
    def dimension(self) -> int:
        """Length d of a context, the constant included."""
        return int(self.theta.shape[1])

    def contexts(self, n: int, *, rng: np.random.Generator) -> FloatArray:
        """Contexts of n requests, (n, d): a constant 1, then normal features cut at 2 and rounded to `STEP`."""
        features = np.clip(rng.standard_normal((n, self.dimension - 1)), -2.0, 2.0)
        return np.hstack([np.ones((n, 1)), np.round(features / STEP) * STEP])

    def probabilities(self, contexts: FloatArray) -> FloatArray:
        """Click probability of every arm in every context: (n, d) -> (n, K)."""
        odds: FloatArray = np.exp(contexts @ self.theta.T)
        return odds / (1.0 + odds)

    def delays_s(self, n: int, *, rng: np.random.Generator) -> FloatArray:
        """Delays of n clicks in seconds, (n,), each below `window_s`."""
        within = -np.expm1(-self.window_s / self.mean_delay_s)
        delays: FloatArray = -self.mean_delay_s * np.log1p(-within * rng.random(n))
        return delays


def drifted(world: World) -> World:
    """The same arms after a change: each has the coefficients of another, half the arms further on.

    What is possible stays the same, by uniform choice and by the best; which arm is good for whom does not.

    >>> before = make_world(arms=4, seed=1)
    >>> bool((drifted(before).theta == before.theta[[2, 3, 0, 1]]).all())
    True
    """
    return replace(world, theta=np.roll(world.theta, len(world.theta) // 2, axis=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Click rates per request of a sample: of uniform choice, of the best choice, of the best arm for all."""

    uniform: float
    best: float
    best_single: float


def make_world(
    *,
    arms: int = 20,
    dimension: int = 8,
    seed: int = 0,
    base_rate: float = 0.04,
    bias_sd: float = 0.3,
    feature_sd: float = 0.25,
    mean_delay_s: float = 2.0,
    window_s: float = 30.0,
) -> World:
    """Draw a world.

    Args:
        arms: number K, at least 2.
        dimension: length d of a context with its constant, at least 2.
        seed: the same seed gives the same world.
        base_rate: click rate of an average arm at the zero context.
        bias_sd: spread of the arms' log odds at the zero context.
        feature_sd: spread of the coefficient of each feature.
        mean_delay_s: mean seconds from impression to click before truncation.
        window_s: seconds below which every click comes.

    Raises:
        ValueError: fewer than 2 arms or dimensions, or a rate outside (0, 1).

    >>> make_world(arms=3, dimension=2, seed=1).arms
    ('ad-0', 'ad-1', 'ad-2')
    """
    if arms < 2 or dimension < 2:
        raise ValueError(f"arms = {arms}, dimension = {dimension}: a world needs at least 2 of each")
    if not 0 < base_rate < 1:
        raise ValueError(f"base_rate = {base_rate}: must be above 0 and below 1")
    rng = np.random.default_rng(seed)
    theta = feature_sd * rng.standard_normal((arms, dimension))
    theta[:, 0] = np.log(base_rate / (1 - base_rate)) + bias_sd * rng.standard_normal(arms)
    return World(theta=theta, mean_delay_s=mean_delay_s, window_s=window_s)


def rates(world: World, contexts: FloatArray) -> Rates:
    """The click rates that are possible on these contexts, (n, d)."""
    p = world.probabilities(contexts)
    return Rates(uniform=float(p.mean()), best=float(p.max(axis=1).mean()), best_single=float(p.mean(axis=0).max()))


def share_of_possible(chosen: float, *, uniform: float, best: float) -> float:
    """How far a click rate lies from uniform choice (0) to the best choice (1); 0 where the two do not differ.

    >>> share_of_possible(0.12, uniform=0.05, best=0.15)
    0.7
    """
    return 0.0 if best == uniform else round((chosen - uniform) / (best - uniform), 12)
