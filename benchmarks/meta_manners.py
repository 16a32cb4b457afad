"""The policies that benchmarks/meta.py compares, as manners of one loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from policies.linear_bayes import fit_linear
from policies.meta import Statistics, first, rates, update
from policies.meta_rules import ALPHAS, Rules
from policies.prior import Prior

if TYPE_CHECKING:
    from benchmarks.meta_loop import Index, Matured, Moment
    from policies.batch import FloatArray

HALF_LIVES = (0.0, 40_000.0, 16_000.0, 6_000.0)
"""The ladder of all meta-updates here, and the half-lives of fixed pairs, in rounds."""


class Fixed:
    """One alpha and one half-life, with a fitted prior.

    Args:
        alpha, half_life: as they say.
        dimension: d.
        uniform: share of decisions that are drawn uniformly.
        warm_up: rounds that are drawn uniformly at first.
    """

    def __init__(
        self, alpha: float, half_life: float = 0.0, *, dimension: int, uniform: float = 0.0, warm_up: int = 0
    ) -> None:
        self.half_lives: tuple[float, ...] = (half_life,)
        self.dimension = dimension
        self._alpha, self._uniform, self._warm_up = alpha, uniform, warm_up

    def widths(self, n: int) -> tuple[FloatArray, Index]:
        """Always the same."""
        return np.full(n, self._alpha), np.zeros(n, np.intp)

    def uniform(self, now: int) -> float:
        """All of the warm-up."""
        return 1.0 if now < self._warm_up else self._uniform

    def track(self) -> int:
        """The only one."""
        return 0

    def heard(self, rows: Matured) -> None:
        """Nothing."""

    def update(self, at: Moment) -> Prior:
        """Empirical Bayes."""
        return fit_linear(at.effective(self.track()), None, dimension=self.dimension, intercept=0)


class Textbook(Fixed):
    """Linear Thompson sampling as in textbooks: the prior N(0, I), the noise 1, alpha = 1."""

    def __init__(self, *, dimension: int) -> None:
        super().__init__(1.0, dimension=dimension)

    def update(self, at: Moment) -> Prior:  # noqa: ARG002
        """Nothing is fitted."""
        return Prior(mean=np.zeros(self.dimension), tau2=np.ones(self.dimension), s2=1.0)


class Exp3(Fixed):
    """EXP3 over the rates (Auer et al. 2002, figure 1), with late rewards, and a fitted prior.

    Args:
        dimension: d.
        rng: of the choices.
        gamma: share of its uniform choices.
    """

    def __init__(self, *, dimension: int, rng: np.random.Generator, gamma: float = 0.05) -> None:
        super().__init__(1.0, dimension=dimension)
        self._rng, self._gamma = rng, gamma
        self._gains = np.zeros(len(ALPHAS))
        self._logged: list[FloatArray] = []

    def _law(self) -> FloatArray:
        weights = np.exp(self._gains - self._gains.max())
        law: FloatArray = (1.0 - self._gamma) * weights / weights.sum() + self._gamma / len(ALPHAS)
        return law

    def widths(self, n: int) -> tuple[FloatArray, Index]:
        """Drawn from its law, which is logged."""
        law = self._law()
        choice = self._rng.choice(len(law), size=n, p=law).astype(np.intp)
        self._logged.append(law[choice])
        return np.array(ALPHAS)[choice], choice

    def heard(self, rows: Matured) -> None:
        """Importance-weighted gains."""
        p = self._logged.pop(0)[: len(rows.reward)]
        np.add.at(self._gains, rows.choice, self._gamma * rows.reward / p / len(ALPHAS))


class Meta:
    """The library's meta-update.

    Args:
        rules: what it does.
        rng: of its draws and roll-outs.
        half_lives: of its ladder, in rounds.
    """

    def __init__(self, rules: Rules, *, rng: np.random.Generator, half_lives: tuple[float, ...] = HALF_LIVES) -> None:
        self.half_lives = half_lives
        self.rules, self.state = rules, first(rules, half_lives)
        self.reasons: list[str] = []
        self._rng, self._now = rng, 0
        self._rows: list[Matured] = []

    def widths(self, n: int) -> tuple[FloatArray, Index]:
        """Drawn from the rates' law."""
        alphas, q = rates(self.state, self.rules)
        choice = np.zeros(n, np.intp) if len(q) == 1 else self._rng.choice(len(q), size=n, p=q).astype(np.intp)
        return alphas[choice], choice

    def uniform(self, now: int) -> float:  # noqa: ARG002
        """No floor."""
        return 0.0

    def track(self) -> int:
        """The one that the ladder chose."""
        return self.state.ladder.chosen

    def heard(self, rows: Matured) -> None:
        """Kept until the next update."""
        self._rows.append(rows)

    def update(self, at: Moment) -> Prior:
        """The meta-update."""
        tracks, rows = len(self.half_lives), self._rows
        seen = Statistics(
            effective=[at.effective(track) for track in range(tracks)],
            predicted=np.concatenate([np.zeros((0, tracks)), *(one.predicted for one in rows)]),
            reward=np.concatenate([np.zeros(0), *(one.reward for one in rows)]),
            choice=np.concatenate([np.zeros(0, np.intp), *(one.choice for one in rows)]),
            contexts=at.contexts,
            events=at.now - self._now,
            changes=at.replaced,
        )
        self.state, reasons = update(self.state, seen, rules=self.rules, rng=self._rng)
        self.reasons += [f"{at.now}: {reason}" for reason in reasons]
        self._rows, self._now = [], at.now
        assert isinstance(self.state.prior, Prior)
        return self.state.prior
