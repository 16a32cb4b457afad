"""Logistic regression on two sides, a context's and an arm's: what a click's odds are for u on one side and f on the other.

    p = 1/(1 + exp(-u^T M f)),    M = argmin sum_i -log p(y_i | u_i, f_i) + ridge/2 (|M|^2 - M_11^2)

u (p,) and f (q,) each have a constant 1 first, so that M holds the intercept M_11, which the ridge leaves alone, effects of
either side alone, and interest matches. That is the shared part of Li et al. 2010, section 3.2, z = f (x) u, with a logit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize

if TYPE_CHECKING:
    from policies.batch import FloatArray

RIDGES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Penalties that `learned_head` chooses among."""
STEPS = 200
"""Steps of L-BFGS at most."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sides:
    """Rows with their two sides and what followed.

    Attributes:
        u: (n, p) of the context, the constant 1 first.
        f: (n, q) of the arm, the constant 1 first.
        click: (n,) 0 or 1.

    Raises:
        ValueError: lengths differ, or a click is neither.
    """

    u: FloatArray
    f: FloatArray
    click: FloatArray

    def __post_init__(self) -> None:
        if not len(self.u) == len(self.f) == len(self.click):
            raise ValueError(f"{len(self.u)}, {len(self.f)} and {len(self.click)} rows; all need the same number")
        if not np.isin(self.click, (0.0, 1.0)).all():
            raise ValueError("a click is neither 0 nor 1; allowed: whether something followed")

    def part(self, rows: slice) -> Sides:
        """Some of the rows."""
        return Sides(u=self.u[rows], f=self.f[rows], click=self.click[rows])


def head(rows: Sides, *, ridge: float) -> FloatArray:
    """M (p, q) under a penalty.

    >>> rows = Sides(u=np.ones((4, 1)), f=np.ones((4, 1)), click=np.array([1.0, 0.0, 0.0, 0.0]))
    >>> round(float(head(rows, ridge=1.0)[0, 0]), 4), round(float(np.log(1 / 3)), 4)  # the intercept alone: log odds
    (-1.0986, -1.0986)
    """
    shape = (rows.u.shape[1], rows.f.shape[1])
    start = np.zeros(shape)
    share = (rows.click.sum() + 0.5) / (len(rows.click) + 1.0)
    start[0, 0] = np.log(share / (1.0 - share))

    def objective(flat: FloatArray) -> tuple[float, FloatArray]:
        M = flat.reshape(shape)
        held = M.copy()
        held[0, 0] = 0.0
        z = logits(M, rows)
        residual = 1.0 / (1.0 + np.exp(-np.clip(z, -500.0, 500.0))) - rows.click
        slope = rows.u.T @ (residual[:, None] * rows.f) + ridge * held
        return float(losses(M, rows).sum() + 0.5 * ridge * (held**2).sum()), slope.ravel()

    found = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": STEPS})
    M: FloatArray = found.x.reshape(shape)
    return M


def learned_head(rows: Sides, *, share: float = 0.8) -> tuple[FloatArray, float]:
    """M (p, q) of all rows, and the penalty among RIDGES whose head from the first `share` of them loses least on the rest.

    >>> rng = np.random.default_rng(0)
    >>> noise = Sides(u=np.ones((400, 1)), f=np.c_[np.ones(400), rng.normal(size=(400, 40))], click=np.arange(400) % 2.0)
    >>> learned_head(noise)[1] >= 100.0  # nothing to learn: a large one
    True
    """
    cut = int(share * len(rows.click))
    first, rest = rows.part(slice(0, cut)), rows.part(slice(cut, None))
    lost = [float(losses(head(first, ridge=ridge), rest).mean()) for ridge in RIDGES]
    ridge = RIDGES[int(np.argmin(lost))]
    return head(rows, ridge=ridge), ridge


def logits(M: FloatArray, rows: Sides) -> FloatArray:
    """(n,) u^T M f.

    >>> logits(np.array([[2.0]]), Sides(u=np.ones((1, 1)), f=np.ones((1, 1)), click=np.zeros(1))).tolist()
    [2.0]
    """
    found: FloatArray = np.einsum("ij,ij->i", rows.u @ M, rows.f)
    return found


def losses(M: FloatArray, rows: Sides) -> FloatArray:
    """(n,) log-loss of each row, in nats.

    >>> losses(np.zeros((1, 1)), Sides(u=np.ones((1, 1)), f=np.ones((1, 1)), click=np.ones(1))).round(6).tolist()
    [0.693147]
    """
    signed = np.where(rows.click > 0.0, -1.0, 1.0) * logits(M, rows)
    return np.logaddexp(0.0, signed)


def gain(
    before: FloatArray, after: FloatArray, *, rng: np.random.Generator, blocks: int = 100, times: int = 2000
) -> tuple[float, float]:
    """Ends of the 95% interval of the mean of before - after (n,), losses of the same rows in the order of time.

    A percentile bootstrap of whole blocks of neighbours (Carlstein 1986), as rows of one decision or visit depend on each other.

    Raises:
        ValueError: other lengths, or fewer than 20 rows.

    >>> low, high = gain(np.full(100, 0.7), np.full(100, 0.5), rng=np.random.default_rng(0))
    >>> round(low, 6), round(high, 6)
    (0.2, 0.2)
    """
    if before.shape != after.shape or len(before) < 20:
        raise ValueError(f"losses of {len(before)} and {len(after)} rows; allowed: as many of both, at least 20")
    count = min(blocks, len(before) // 2)
    parts = np.array_split(before - after, count)
    total, size = np.array([part.sum() for part in parts]), np.array([len(part) for part in parts])
    drawn = rng.integers(0, count, (times, count))
    means = total[drawn].sum(axis=1) / size[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
