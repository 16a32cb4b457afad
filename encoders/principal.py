"""Where the tuning of an encoder begins: the first principal components of its vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from encoders.dense import Dense

if TYPE_CHECKING:
    from encoders.batching import Vectors

FLOOR = 0.1
"""Least spread of a unit, as a share of the mean one: what is below is noise mostly."""


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """Where W begins, in units in which all directions of the vectors have the same spread.

    z = A (T v + c) with T, c in `units`: what tells of clicks may lie where vectors differ little, and A (k, m) gets there in as
    many steps as anywhere.
    """

    units: Dense
    weight: torch.Tensor

    def dense(self, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None) -> Dense:
        """W and b of A and a bias in z, of the start's own without them."""
        A = self.weight if weight is None else weight
        b = A @ _bias(self.units) + (0.0 if bias is None else bias)
        return Dense((A @ self.units.weight).detach(), b.detach())


def principal(vectors: Vectors, count: int) -> Start:
    """The map to the first principal components of vectors (n, D), scaled alike so that their mean square is 1.

    There are as many as the vectors have dimensions and differ in, `count` at most. The units' spread is that of the vectors, or
    `FLOOR` of the mean one where that is less.

    >>> start = principal(np.array([[0.0, 1.0], [4.0, 1.0]], np.float32), 5)
    >>> start.dense()(torch.tensor([[4.0, 1.0]])).round(decimals=4).tolist()
    [[1.0]]
    """
    x = vectors.astype(np.float64)
    mean = x.mean(axis=0)
    _, size, axes = np.linalg.svd(x - mean, full_matrices=False)
    if not size.size or size[0] <= 1e-6 * max(float(np.abs(x).max(initial=0.0)), 1e-30):
        raise ValueError(f"{len(x)} vectors are all the same; a projection needs texts that differ")
    told = size > 1e-6 * size[0]
    axes, sd = axes[told], size[told] / math.sqrt(len(x))
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    k = min(count, len(sd))
    units = np.maximum(sd, FLOOR * math.sqrt(float((sd**2).mean())))
    weight = np.eye(k, len(sd)) * units / math.sqrt(float((sd[:k] ** 2).mean()))
    T = axes / units[:, None]
    return Start(Dense(_single(T), _single(-T @ mean)), _single(weight))


def _bias(dense: Dense) -> torch.Tensor:
    return torch.zeros(dense.dimension) if dense.bias is None else dense.bias


def _single(values: npt.NDArray[np.float64]) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))
