"""Logistic regression sums, disjoint arms, in the form of one step of iteratively reweighted least squares.

Around a linearisation point w* (d,) that is known when a row enters, with eta = x^T w*, p = sigma(eta) and v = p (1 - p), the
log-likelihood of r ~ Bernoulli(sigma(x^T theta)) is quadratic in theta to second order, with

    H = sum w v x x^T,    u = sum w (v eta - p) x + sum w r x

so that the posterior under theta ~ N(mu, T) has precision T^-1 + H and mean (T^-1 + H)^-1 (T^-1 mu + u) (McCullagh and
Nelder 1989, section 2.5). Given w*, sums merge exactly, and a reward of r adds exactly r x: nothing depends on order.
The approximation is good where x^T theta is within about 1 of x^T w*; at w* = 0 it is least squares. A batch may bring a point
for each row, the arm's published mean by the version that the impression names (policies/references.py): each row is then a
quadratic around its own, and these add. Rows without one go around the model's `point`: the logit of the usual rate at the
context's constant is the least to name. Rewards lie in [0, 1]. Scores are on the logit scale, where
the order of arms, of draws and so Thompson's probabilities are those of the rates.

Sums are those of the linear model on rows of d + 1 numbers, sqrt(v) x and sqrt(v) eta - p/sqrt(v): their A holds H, and
the part of u without rewards as its last column, so that forgetting and what is pending apply to both alike. The record
is that of policies/records.py with d the length of the context, b of d + 1 numbers, A of (d + 1)(d + 2)/2, and

    point    bytes <f8, d numbers: the model's own w*

A reader with another one refuses it: rows that name no version would go around two points.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from policies import records
from policies.linear import LinearModel
from policies.linear_sums import LinearSums
from policies.sums import Effective, RecordError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from policies.batch import Batch, FloatArray

FARTHEST = 30.0
"""Largest |x^T w*| that is linearised around: beyond, p is 0 or 1 to the last bits."""


class LogisticModel:
    """Sums for Bayesian logistic regression of the reward on the context, one regression for each arm.

    Args:
        dimension: d, length of the context.
        half_life_s: half-life of old rows in seconds, taken to whole milliseconds; 0 forgets nothing.
        delays_s: mean delays in seconds; rows count as pending by the equal mixture of these exponentials.
        encoder: fingerprint of the encoder whose output the contexts are, as for `LinearModel`.
        point: (d,) linearisation point w*; empty for zeros.

    Raises:
        ValueError: a setting that cannot work.

    >>> import numpy as np
    >>> from policies.batch import Batch
    >>> rows = Batch(arms=("a",), arm=np.array([0]), x=np.array([[1.0, 2.0]]), ts=np.array([1]),
    ...     reward_arm=np.array([0]), reward_x=np.array([[1.0, 2.0]]), reward_ts=np.array([1]),
    ...     reward=np.ones(1), square=np.ones(1))
    >>> model = LogisticModel(dimension=2)
    >>> read = model.at(model.update({}, rows)["a"], now_ms=10)
    >>> read.A.tolist(), read.b.tolist()  # v = 1/4; x - x/2
    ([[0.25, 0.5], [0.5, 1.0]], [0.5, 1.0])
    """

    name = "logistic"
    family = "logistic"

    def __init__(
        self,
        *,
        dimension: int,
        half_life_s: float = 0.0,
        delays_s: tuple[float, ...] = (),
        encoder: str | None = None,
        point: tuple[float, ...] = (),
    ) -> None:
        if point and (len(point) != dimension or not all(map(math.isfinite, point))):
            raise ValueError(f"point = {point}: must be empty or have {dimension} finite numbers, one for each feature")
        if dimension < 1:
            raise ValueError(f"dimension = {dimension}: must be at least 1, the length of the context")
        self.dimension = dimension
        self.point: FloatArray = np.array(point, np.float64) if point else np.zeros(dimension)
        self._rows = LinearModel(dimension=dimension + 1, half_life_s=half_life_s, delays_s=delays_s, encoder=encoder)
        self.encoder = encoder
        self.half_life_s = self._rows.half_life_s
        self._kept = {"half_life_s": self._rows.half_life_s, "delays_s": self._rows.delays_s, "encoder": encoder}

    @property
    def timeless(self) -> bool:
        """Whether reading the same sums later gives the same numbers."""
        return self._rows.timeless

    def zero(self) -> LinearSums:
        """Sums of no rows."""
        return self._rows.zero()

    def update(self, sums: Mapping[str, LinearSums], batch: Batch) -> dict[str, LinearSums]:
        """Return the arms' sums with the batch's rows added; arms that it does not touch keep their very objects.

        Raises:
            ValueError: the contexts are not (n, d).
        """
        for name, x in (("x", batch.x), ("reward_x", batch.reward_x)):
            if x.ndim != 2 or x.shape[1] != self.dimension:
                raise ValueError(f"{name} has shape {x.shape}; the model needs (n, {self.dimension})")
        reward_x = np.zeros((len(batch.reward), self.dimension + 1))
        reward_x[:, :-1] = batch.reward_x
        return self._rows.update(sums, replace(batch, x=self._working(batch), reward_x=reward_x))

    def _working(self, batch: Batch) -> FloatArray:
        """(n, d + 1): sqrt(v) x, and sqrt(v) eta - p/sqrt(v), where p/sqrt(v) = exp(eta/2); around each row's own point."""
        wide = batch.x.astype(np.float64)
        eta = wide @ self.point
        if batch.points is not None and batch.point is not None:
            told = batch.point >= 0
            eta[told] = np.einsum("nd,nd->n", wide[told], batch.points[batch.point[told]])
        eta = np.clip(eta, -FARTHEST, FARTHEST)
        root = np.sqrt(expit(eta) * expit(-eta))
        return np.column_stack([root[:, None] * wide, root * eta - np.exp(0.5 * eta)])

    def merge(self, left: LinearSums, right: LinearSums) -> LinearSums:
        """Sums of the rows of both, at the later landmark."""
        return self._rows.merge(left, right)

    def negative(self, sums: LinearSums) -> LinearSums:
        """What takes these rows back when it is merged; times stay as they are."""
        return self._rows.negative(sums)

    def encode(self, sums: LinearSums) -> dict[str, object]:
        """Sums as a map that MessagePack can hold; layout in the module's docstring."""
        point = records.to_bytes(self.point)
        return self._rows.encode(sums) | {"model": self.family, "d": self.dimension, "point": point}

    def decode(self, record: Mapping[str, object]) -> LinearSums:
        """Read what `encode` wrote; unknown keys are ignored. Raises RecordError if it cannot be used."""
        records.read(record, {"model": self.family, "d": self.dimension, **self._kept})
        point = record.get("point")
        if point != records.to_bytes(self.point):
            told = np.frombuffer(point, "<f8").tolist() if isinstance(point, bytes) and len(point) % 8 == 0 else point
            raise RecordError(
                f"sums were made around the point {told}, the policy has {self.point.tolist()}; "
                "restore the setting, or give the changed policy a new name so that it starts from its own sums"
            )
        return self._rows.decode({**record, "model": self._rows.family, "d": self.dimension + 1})

    def at(self, sums: LinearSums, *, now_ms: int, weights: Sequence[float] | None = None) -> Effective:
        """H as `A` and u as `b`, as they count at event time `now_ms`, or at the arm's newest event if that is later."""
        read, d = self._rows.at(sums, now_ms=now_ms, weights=weights), self.dimension
        return replace(read, A=np.ascontiguousarray(read.A[:d, :d]), b=read.A[:d, d] + read.b[:d])
