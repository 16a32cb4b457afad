"""Simulated environments that regret is measured in. The order of the draws and the seeds are part of the definition.

`Static`: 50 arms, contexts of 32 with the intercept, clicks at once. `Changing`: 30 arms, contexts of 17 with the
intercept, clicks after an exponential delay with a mean of 1,000 rounds; decisions come in blocks of 100 from one
snapshot. The click of arm a in round t comes if ``uniforms[t] < probability of a``: whatever is chosen, paired seeds
meet the same luck.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from policies.batch import FloatArray

Kind = Literal["stationary", "abrupt", "gradual", "churn"]
KINDS: tuple[Kind, ...] = ("stationary", "abrupt", "gradual", "churn")

BLOCK = 100
"""Rounds of `Changing` that are decided from one snapshot."""


def sigmoid(z: FloatArray) -> FloatArray:
    """1/(1 + exp(-z)).

    >>> sigmoid(np.zeros(1)).tolist()
    [0.5]
    """
    p: FloatArray = 1.0 / (1.0 + np.exp(-z))
    return p


class Static:
    """One logistic model that stays as it is.

    Attributes:
        contexts: (rounds, d), the intercept first.
        uniforms: (rounds,) a click comes if its uniform lies below the arm's probability.
        delays: (rounds,) zero.

    >>> env = Static(seed=0)
    >>> round(float(env.probabilities(0, env.contexts).max(axis=1).mean()), 6)
    0.49994
    """

    def __init__(self, *, seed: int, rounds: int = 20_000, arms: int = 50, dimension: int = 32) -> None:
        rng = np.random.default_rng(1000 + seed)
        bias = rng.normal(-2.5, 0.5, arms)
        slopes = rng.normal(0, 1 / np.sqrt(dimension - 1), (arms, dimension - 1))
        features = rng.normal(size=(rounds, dimension - 1))
        self.contexts: FloatArray = np.concatenate([np.ones((rounds, 1)), features], axis=1)
        self.uniforms: FloatArray = rng.random(rounds)
        self.delays: FloatArray = np.zeros(rounds)
        self._bias, self._slopes = bias, slopes

    def probabilities(self, round_: int, contexts: FloatArray) -> FloatArray:  # noqa: ARG002  # it never changes
        """(n, arms) chances of a click for contexts (n, d) at a round."""
        return sigmoid(self._bias + contexts[:, 1:] @ self._slopes.T)

    def replaced(self, start: int, stop: int) -> npt.NDArray[np.intp]:  # noqa: ARG002
        """Arms that are announced as new in rounds start <= t < stop: none."""
        return np.zeros(0, np.intp)


@dataclass(frozen=True, slots=True)
class Segment:
    """Parameters theta (arms, d) that hold from round `start` on, and the arms that are announced as new there."""

    start: int
    theta: FloatArray
    replaced: npt.NDArray[np.intp]


class Changing:
    """A logistic model of rare clicks (4%) whose parameters change with time.

    Args:
        kind: "stationary"; "abrupt": half of the arms are drawn anew in the middle; "gradual": Ornstein-Uhlenbeck steps
            that keep the stationary law; "churn": three announced new arms every 5,000 rounds.
        seed: of all draws.
        rounds: how many.
        arms: K.
        dimension: without the intercept.
        base_rate: click rate of an average arm at the zero context.
        mean_delay: of a click, in rounds.

    Attributes:
        contexts: (rounds, dimension + 1), the intercept first.
        uniforms: (rounds,) a click comes if its uniform lies below the arm's probability.
        delays: (rounds,) rounds from the impression to its click.

    Raises:
        ValueError: another kind.
    """

    def __init__(
        self,
        kind: str,
        *,
        seed: int,
        rounds: int = 100_000,
        arms: int = 30,
        dimension: int = 16,
        base_rate: float = 0.04,
        mean_delay: float = 1000.0,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"there is no kind {kind!r} of change; choose one of {', '.join(KINDS)}")
        rng = np.random.default_rng(2000 + seed)
        features = np.clip(rng.standard_normal((rounds, dimension)), -2.0, 2.0)
        self.contexts: FloatArray = np.hstack([np.ones((rounds, 1)), features])
        self.uniforms: FloatArray = rng.random(rounds)
        self.delays: FloatArray = rng.exponential(mean_delay, rounds)
        law = _Law(rng, dimension, base_rate)
        self.segments = law.segments(kind, rounds, arms)
        self._starts = np.array([segment.start for segment in self.segments])

    def probabilities(self, round_: int, contexts: FloatArray) -> FloatArray:
        """(n, arms) chances of a click for contexts (n, d) at a round."""
        segment = self.segments[int(np.searchsorted(self._starts, round_, side="right") - 1)]
        return sigmoid(contexts @ segment.theta.T)

    def replaced(self, start: int, stop: int) -> npt.NDArray[np.intp]:
        """Arms that are announced as new in rounds start <= t < stop."""
        found = [segment.replaced for segment in self.segments if start <= segment.start < stop]
        return np.concatenate(found) if found else np.zeros(0, np.intp)


class _Law:
    """What parameters are drawn from: N(mean, sd^2) for each component."""

    def __init__(self, rng: np.random.Generator, dimension: int, base_rate: float) -> None:
        self._rng = rng
        self._mean = np.r_[np.log(base_rate / (1 - base_rate)), 0.10 * rng.standard_normal(dimension)]
        self._sd = np.r_[0.5, np.full(dimension, 0.15)]

    def _draw(self, arms: int) -> FloatArray:
        drawn: FloatArray = self._mean + self._sd * self._rng.standard_normal((arms, len(self._mean)))
        return drawn

    def segments(self, kind: str, rounds: int, arms: int) -> list[Segment]:
        nobody = np.zeros(0, np.intp)
        theta = self._draw(arms)
        segments = [Segment(0, theta, nobody)]
        if kind == "abrupt":
            moved = self._rng.permutation(arms)[: arms // 2]
            segments.append(Segment(rounds // 2, self._with(theta, moved), nobody))
        elif kind == "churn":
            for start in range(5000, rounds, 5000):
                new = self._rng.permutation(arms)[:3]
                theta = self._with(theta, new)
                segments.append(Segment(start, theta, new))
        elif kind == "gradual":
            rho = np.exp(-1000 / 50_000)
            for start in range(1000, rounds, 1000):
                step = np.sqrt(1 - rho**2) * self._sd * self._rng.standard_normal(theta.shape)
                theta = self._mean + rho * (theta - self._mean) + step
                segments.append(Segment(start, theta, nobody))
        return segments

    def _with(self, theta: FloatArray, new: npt.NDArray[np.intp]) -> FloatArray:
        changed = theta.copy()
        changed[new] = self._draw(len(new))
        return changed


Environment = Static | Changing
