"""The linear model's sums of many policies at once, as arrays: what `LinearModel` keeps, for simulations that must be fast.

R policies with G tracks of K arms each. Rows of one block have one time, its end; otherwise these are the sums of
`policies.linear.LinearModel`, and tests/test_meta_benchmark.py holds them to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from policies.sums import Effective

if TYPE_CHECKING:
    from policies.batch import FloatArray

Index = npt.NDArray[np.intp]


class Tracks:
    """Sums as they count now: forgotten by then, with what is pending beside them.

    Args:
        half_lives: (R, G) in rounds, 0 forgets nothing.
        arms: K.
        dimension: d.
        mean_delay: of a click, in rounds; 0 if clicks come at once.

    Attributes:
        A, P: (R, G, K, d, d) sum of w x x^T over all rows, and over those that are still pending.
        n, p: (R, G, K) likewise sum of w.
        b: (R, G, K, d) sum of w x over clicks; c (R, G, K) sum of w.
    """

    def __init__(self, half_lives: FloatArray, *, arms: int, dimension: int, mean_delay: float) -> None:
        R, G = half_lives.shape
        self.A, self.P = np.zeros((2, R, G, arms, dimension, dimension))
        self.n, self.p, self.c = np.zeros((3, R, G, arms))
        self.b = np.zeros((R, G, arms, dimension))
        self._rates = np.divide(1.0, half_lives, out=np.zeros_like(half_lives), where=half_lives > 0.0)
        self._mean_delay = mean_delay
        self._owner = np.arange(R)

    def weight(self, age: FloatArray) -> FloatArray:
        """(R, G, ...) what rows of these ages (R or 1, 1, ...) count."""
        rates = self._rates.reshape(*self._rates.shape, *[1] * (age.ndim - 2))
        kept: FloatArray = np.exp2(-age * rates)
        return kept

    def pass_time(self, rounds: float) -> None:
        """Forget, and let pending rows mature, for so many rounds."""
        kept = self.weight(np.full((1, 1, 1), rounds))
        self.n *= kept
        self.c *= kept
        self.b *= kept[..., None]
        self.A *= kept[..., None, None]
        waits = kept * (np.exp(-rounds / self._mean_delay) if self._mean_delay else 0.0)
        self.p *= waits
        self.P *= waits[..., None, None]

    def show(self, x: FloatArray, arm: Index) -> None:
        """Add impressions of now: contexts (n, d) and the arms (R, n) that each policy showed."""
        d = x.shape[1]
        hot = (arm[:, None, :] == np.arange(self.n.shape[2])[:, None]).astype(np.float64)  # (R, K, n)
        count = hot.sum(axis=2)[:, None]
        squares = (hot @ (x[:, :, None] * x[:, None, :]).reshape(len(x), d * d)).reshape(*hot.shape[:2], d, d)
        self.n += count
        self.A += squares[:, None]
        if self._mean_delay:
            self.p += count
            self.P += squares[:, None]

    def click(self, policy: Index, arm: Index, x: FloatArray, age: FloatArray) -> None:
        """Add clicks (m,) on impressions of these ages in rounds: whose, on which arm, contexts (m, d)."""
        w = np.exp2(-age[:, None] * self._rates[policy])  # (m, G)
        G = w.shape[1]
        at = (policy[:, None], np.arange(G)[None, :], arm[:, None])
        np.add.at(self.c, at, w)
        np.add.at(self.b, at, w[:, :, None] * x[:, None, :])

    def reset(self, arms: Index) -> None:
        """Forget everything of these arms: announced changes."""
        for sums in (self.A, self.P, self.n, self.p, self.c, self.b):
            sums[:, :, arms] = 0.0

    def effective(self, policy: int, track: int) -> dict[str, Effective]:
        """One policy's arms by their numbers, as `LinearModel.at` gives them."""
        at = policy, track
        n, c, b = np.maximum(self.n[at] - self.p[at], 0.0), self.c[at], self.b[at]
        A = self.A[at] - self.P[at]
        return {
            str(k): Effective(
                n_eff=float(n[k]), count=float(n[k]), reward=float(c[k]), square=float(c[k]), b=b[k], A=A[k]
            )
            for k in range(len(n))
        }
