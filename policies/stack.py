"""A snapshot's arms as arrays, made once, so that a decision is a few products. The last row is the prior's."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from policies.batch import FloatArray
from policies.posterior import unseen
from policies.prior import AnyPrior, BetaPrior
from policies.snapshot_records import Arm, BetaArm, LinearArm, lower_indices, pack_lower

if TYPE_CHECKING:
    from collections.abc import Mapping

Index = npt.NDArray[np.intp]
Float32Array = npt.NDArray[np.float32]
Floating = TypeVar("Floating", FloatArray, Float32Array)

TOGETHER = 64
"""Arms whose matrices are unpacked at a time."""

CANCELS = 1000.0
"""How much larger than a sum its terms may be for float32 to tell it to 1e-3."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearStack:
    """Linear arms: `row` numbers their names, mean is (K + 1, d), square (K + 1, d (d + 1)/2).

    `square` holds each arm's covariance V = W^T W such that x^T V x is its product with `pairs(x)`: half the numbers of a
    matrix, and contexts in batches become one matrix product. float64, as the terms may cancel.
    """

    row: dict[str, int]
    mean: FloatArray
    square: FloatArray

    def scores(self, context: FloatArray, rows: Index | None) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the expected reward of the C arms in `rows` (None is all K).

        mean = x^T m, sd = sqrt(x^T V x); (C,) each for a context (d,), (C, n) for n contexts as columns (d, n).
        """
        mean, square = self.mean, self.square
        arms = len(self.row)
        few = rows is not None and 4 * len(rows) < arms
        if few:
            mean, square = mean[rows], square[rows]
        m, variance = mean @ context, square @ pairs(context)
        if not few:
            m, variance = (m[:arms], variance[:arms]) if rows is None else (m[rows], variance[rows])
        np.maximum(variance, 0.0, out=variance)
        return m, np.sqrt(variance, out=variance)

    def means(self, context: FloatArray, rows: Index | None) -> FloatArray:
        """The means of `scores` alone, for explorers that go by nothing else.

        >>> one = LinearStack(row={"a": 0}, mean=np.array([[0.5], [0.1]]), square=np.ones((2, 1)))
        >>> one.means(np.array([2.0]), None).tolist()
        [1.0]
        """
        return (self.mean[: len(self.row)] if rows is None else self.mean[rows]) @ context

    @cached_property
    def _narrow(self) -> tuple[Float32Array, Float32Array]:
        """`square` and sqrt(diag V) in float32."""
        d = self.mean.shape[1]
        diagonal = np.arange(1, d + 1) * np.arange(2, d + 2) // 2 - 1
        with np.errstate(over="ignore"):
            return self.square.astype(np.float32), np.sqrt(self.square[:, diagonal]).astype(np.float32)

    def rough_scores(self, contexts: FloatArray, rows: Index | None) -> tuple[FloatArray, FloatArray]:
        """`scores` for contexts (d, n) with standard deviations that may err by 1e-3 of themselves, in half the time.

        The sum of the sizes of the terms of x^T V x is at most (sum |x_i| sqrt(V_ii))^2. Where that is not below CANCELS
        times x^T V x, float32 does not do, and all arms are scored in float64.
        """
        square, spread = self._narrow
        mean = self.mean
        if rows is None:
            mean, square, spread = mean[:-1], square[:-1], spread[:-1]
        else:
            mean, square, spread = mean[rows], square[rows], spread[rows]
        with np.errstate(over="ignore", invalid="ignore"):
            x = contexts.astype(np.float32)
            variance, size = square @ pairs(x), spread @ np.abs(x)
            size *= size
            unsafe = ~(size < CANCELS * variance).all(axis=0)  # true for NaN
            m, sd = mean @ contexts, np.sqrt(variance)
        if unsafe.any():
            m[:, unsafe], sd[:, unsafe] = self.scores(np.ascontiguousarray(contexts[:, unsafe]), rows)
        return m, sd


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentStack:
    """Student arms: centers and standard deviations as `linear` has them, dof is (K + 1,)."""

    linear: LinearStack
    dof: FloatArray

    @property
    def row(self) -> dict[str, int]:
        """Numbers of the arms' names."""
        return self.linear.row

    def scores(self, context: FloatArray, rows: Index | None) -> tuple[FloatArray, FloatArray]:
        """As `LinearStack.scores`."""
        return self.linear.scores(context, rows)


def dof_of(arms: LinearStack | StudentStack, rows: Index | None) -> FloatArray | None:
    """(C,) degrees of freedom of the arms in `rows` (None is all K); None for arms with normal laws."""
    if isinstance(arms, LinearStack):
        return None
    return arms.dof[:-1] if rows is None else arms.dof[rows]


def pairs(context: Floating) -> Floating:
    """(d (d + 1)/2, ...) products x_i x_j of a context (d,), or of contexts (d, n), for i >= j in row order.

    >>> pairs(np.array([2.0, 3.0])).tolist()
    [4.0, 6.0, 9.0]
    """
    if context.ndim == 1:
        i, j = lower_indices(len(context))
        return context[i] * context[j]
    d, n = context.shape
    out = np.empty((d * (d + 1) // 2, n), context.dtype)
    for k in range(d):
        first = k * (k + 1) // 2
        np.multiply(context[: k + 1], context[k], out=out[first : first + k + 1])
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class BetaStack:
    """Beta arms: `row` numbers their names, a and b are (K + 1,). `laws` keeps what was computed."""

    row: dict[str, int]
    a: FloatArray
    b: FloatArray
    laws: dict[bytes, FloatArray] = field(default_factory=dict)


def stack(arms: Mapping[str, Arm], prior: AnyPrior) -> LinearStack | StudentStack | BetaStack:
    """Arrays of the arms' numbers in float64, with the prior's as the last row."""
    row = {name: i for i, name in enumerate(arms)}
    if isinstance(prior, BetaPrior):
        betas = [arm for arm in arms.values() if isinstance(arm, BetaArm)]
        return BetaStack(
            row=row, a=np.array([*(arm.a for arm in betas), prior.a]), b=np.array([*(arm.b for arm in betas), prior.b])
        )
    linears = [arm for arm in arms.values() if isinstance(arm, LinearArm)]
    new = unseen(prior)
    packed = np.array([*(arm.factor for arm in linears), pack_lower(new.factor)])
    linear = LinearStack(
        row=row, mean=np.array([*(arm.mean for arm in linears), new.mean], np.float64), square=_squares(packed)
    )
    if new.dof is None:
        return linear
    return StudentStack(linear=linear, dof=np.array([*(arm.dof for arm in linears), new.dof], np.float64))


def _squares(packed: npt.NDArray[np.floating]) -> FloatArray:
    """(K, d (d + 1)/2) covariances W^T W, for `LinearStack.square`, from factors W packed row by row."""
    arms, length = packed.shape
    d = math.isqrt(2 * length)
    i, j = lower_indices(d)
    square = np.empty((arms, length))
    for first in range(0, arms, TOGETHER):
        part = packed[first : first + TOGETHER]
        W = np.zeros((len(part), d, d))
        W[:, i, j] = part
        square[first : first + TOGETHER] = (W.transpose(0, 2, 1) @ W)[:, i, j]
    square[:, i != j] *= 2.0
    return square
