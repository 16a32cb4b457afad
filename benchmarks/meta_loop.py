"""A fast loop for many policies side by side in one changing world: the linear model's sums, priors and Thompson draws.

All policies meet the same contexts and luck, and the same normal draws. Decisions come in blocks from one snapshot;
impressions enter the sums at the end of their block, clicks in the block in which they come, and a row matures after
three mean delays. What is the library's own: priors (`fit_linear`), the ladder, the top layer, roll-outs, the meta-update;
the sums are those of `LinearModel` (benchmarks/meta_sums.py), and posteriors are computed for all arms at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from benchmarks.meta_sums import Tracks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from benchmarks.environments import Changing
    from policies.batch import FloatArray
    from policies.prior import Prior
    from policies.sums import Effective

    Index = npt.NDArray[np.intp]

BLOCK = 100
PATIENCE = 3.0
"""Mean delays after which a row matures."""
EVERY = 1000
"""Rounds between updates of the prior and of the meta-state; before, whenever the data doubled."""
RING = 2000
"""Contexts that roll-outs are played on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matured:
    """Rows of one policy whose label is final: contexts (n, d), what each track expected (n, G), the choice drawn, the label."""

    predicted: FloatArray
    choice: Index
    reward: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What a policy can see when it is updated: the round, its sums by track, recent contexts, arms replaced since the last."""

    now: int
    effective: Callable[[int], dict[str, Effective]]
    contexts: FloatArray
    replaced: int


class Manner(Protocol):
    """How one policy explores, forgets and is calibrated."""

    half_lives: tuple[float, ...]

    def widths(self, n: int) -> tuple[FloatArray, Index]:
        """For n decisions: alpha (n,) and the number of the choice that gave it (n,)."""
        ...

    def uniform(self, now: int) -> float:
        """Share of decisions that are drawn uniformly."""
        ...

    def track(self) -> int:
        """The track that decides."""
        ...

    def heard(self, rows: Matured) -> None:
        """Rows that matured."""
        ...

    def update(self, at: Moment) -> Prior:
        """The prior from now on; time for a meta-update."""
        ...


class Loop:
    """Policies with the same number of tracks in one world.

    Args:
        world: see benchmarks/environments.py.
        manners: of each policy.
        mean_delay: of a click, told to the policies.
        seed: of the draws.
    """

    def __init__(self, world: Changing, manners: Sequence[Manner], *, mean_delay: float, seed: int, arms: int) -> None:
        self.world, self.manners, self.mean_delay = world, manners, mean_delay
        self._rng = np.random.default_rng(7000 + seed)
        d = world.contexts.shape[1]
        half_lives = np.array([manner.half_lives for manner in manners], np.float64)
        self.tracks = Tracks(half_lives, arms=arms, dimension=d, mean_delay=mean_delay)
        R, G = half_lives.shape
        self._upper = np.triu_indices(d)
        self._arms, self._R, self._G, self._d = arms, R, G, d
        self.priors = [manner.update(self._moment(r, 0, 0)) for r, manner in enumerate(manners)]
        self._updated = 0

    def play(self, rounds: int) -> FloatArray:
        """(R, rounds) regret of each policy: the best arm's click probability minus the chosen arm's."""
        R, G, world = self._R, self._G, self.world
        self._arm, self._choice = np.zeros((R, rounds), np.intp), np.zeros((R, rounds), np.intp)
        self._born = np.zeros(self._arms, np.intp)
        self._expected = np.zeros((R, rounds, G))
        self._due = np.full((R, rounds), np.inf)
        self._waiting = np.zeros((2, 0), np.intp)
        regret, replaced, wait = np.zeros((R, rounds)), 0, int(PATIENCE * self.mean_delay)
        for start in range(0, rounds, BLOCK):
            rows = np.arange(start, min(start + BLOCK, rounds))
            new = world.replaced(start, start + BLOCK)
            if len(new):
                self.tracks.reset(new)
                self._born[new] = start
                replaced += len(new)
            x = world.contexts[rows]
            arm = self._decide(x, rows)
            p = world.probabilities(start, x)
            mine = p[np.arange(len(rows))[None, :], arm]
            regret[:, rows] = p.max(axis=1) - mine
            self._post(rows, world.uniforms[rows] < mine)
            now = int(rows[-1]) + 1
            self.tracks.pass_time(float(len(rows)))
            self.tracks.show(x, arm)
            self._clicks(now)
            self._mature(max(start - wait, 0), max(now - wait, 0), wait)
            replaced = self._update(now, replaced)
        return regret

    def _decide(self, x: FloatArray, rows: Index) -> Index:
        """Arms (R, n) by Thompson draws from this moment's posteriors."""
        R, n = self._R, len(rows)
        mean, V = self._posteriors()
        track = np.array([manner.track() for manner in self.manners])
        every = np.einsum("rgkd,nd->rgkn", mean, x, optimize=True)
        at = every[np.arange(R), track]
        packed = V.reshape(R * self._arms, self._d, self._d)[:, self._upper[0], self._upper[1]]
        twice = np.where(self._upper[0] == self._upper[1], 1.0, 2.0)
        squares = (x[:, self._upper[0]] * x[:, self._upper[1]] * twice).T
        sd = np.sqrt(np.maximum(packed @ squares, 1e-12)).reshape(R, self._arms, n)
        z = self._rng.standard_normal((self._arms, n))
        lottery, uniform = self._rng.random(n), self._rng.integers(0, self._arms, n)
        arm = np.empty((R, n), np.intp)
        for r, manner in enumerate(self.manners):
            alpha, self._choice[r, rows] = manner.widths(n)
            arm[r] = (at[r] + alpha * sd[r] * z).argmax(axis=0)
            arm[r] = np.where(lottery < manner.uniform(int(rows[0])), uniform, arm[r])
        self._arm[:, rows] = arm
        self._expected[:, rows] = np.take_along_axis(every, arm[:, None, None, :], axis=2)[:, :, 0].transpose(0, 2, 1)
        return arm

    def _posteriors(self) -> tuple[FloatArray, FloatArray]:
        """Means (R, G, K, d) under every track, covariances (R, K, d, d) under the one that decides."""
        tracks = self.tracks
        s2 = np.array([prior.s2 for prior in self.priors])[:, None, None, None]
        precision = np.array([1.0 / prior.tau2 for prior in self.priors])[:, None, None, :]
        start = np.array([prior.mean / prior.tau2 for prior in self.priors])[:, None, None, :]
        Lambda = (tracks.A - tracks.P) / s2[..., None]
        i = np.arange(self._d)
        Lambda[..., i, i] += precision
        V = inverses(Lambda)
        mean = np.einsum("rgkij,rgkj->rgki", V, tracks.b / s2 + start)
        return mean, V[np.arange(self._R), [manner.track() for manner in self.manners]]

    def _post(self, rows: Index, clicked: npt.NDArray[np.bool_]) -> None:
        """Clicks (R, n) of these rows are on their way."""
        self._due[:, rows] = np.where(clicked, rows + self.world.delays[rows], np.inf)
        policy, at = np.nonzero(clicked)
        self._waiting = np.concatenate([self._waiting, np.stack([policy, rows[at]])], axis=1)

    def _clicks(self, now: int) -> None:
        """Clicks that have come enter the sums, unless their arm was replaced."""
        policy, row = self._waiting
        here = self._due[policy, row] < now
        self._waiting = self._waiting[:, ~here]
        policy, row = policy[here], row[here]
        arm = self._arm[policy, row]
        alive = row >= self._born[arm]
        policy, row, arm = policy[alive], row[alive], arm[alive]
        shown = np.minimum((row // BLOCK + 1) * BLOCK, now)
        self.tracks.click(policy, arm, self.world.contexts[row], (now - shown).astype(np.float64))

    def _mature(self, start: int, stop: int, wait: int) -> None:
        """Labels of rounds from `start` to `stop` are final."""
        if start == stop:
            return
        rows = slice(start, stop)
        label = (self._due[:, rows] <= np.arange(start, stop) + wait).astype(np.float64)
        for r, manner in enumerate(self.manners):
            manner.heard(Matured(predicted=self._expected[r, rows], choice=self._choice[r, rows], reward=label[r]))

    def _update(self, now: int, replaced: int) -> int:
        """Priors from now on, if it is time; arms replaced since then."""
        if now < min(2 * self._updated, self._updated + EVERY):
            return replaced
        self._updated = now
        self.priors = [manner.update(self._moment(r, now, replaced)) for r, manner in enumerate(self.manners)]
        return 0

    def _moment(self, policy: int, now: int, replaced: int) -> Moment:
        return Moment(
            now=now,
            effective=partial(self.tracks.effective, policy),
            contexts=self.world.contexts[max(now - RING, 0) : now],
            replaced=replaced,
        )


def inverses(matrices: FloatArray) -> FloatArray:
    """(..., d, d) inverses of positive definite matrices: Cholesky factors, inverted row by row for all at once.

    >>> inverses(np.array([[[4.0, 0.0], [0.0, 16.0]]])).tolist()
    [[[0.25, 0.0], [0.0, 0.0625]]]
    """
    d = matrices.shape[-1]
    L = np.ascontiguousarray(np.linalg.cholesky(matrices).reshape(-1, d, d).transpose(1, 2, 0))
    X = np.zeros_like(L)
    for i in range(d):
        X[i, i] = 1.0 / L[i, i]
        if i:
            X[i, :i] = -np.einsum("jn,jkn->kn", L[i, :i], X[:i, :i]) * X[i, i]
    factors = np.ascontiguousarray(X.transpose(2, 0, 1))
    found: FloatArray = (factors.transpose(0, 2, 1) @ factors).reshape(matrices.shape)
    return found
