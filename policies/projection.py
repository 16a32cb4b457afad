"""Principal components of texts' vectors: long vectors of an encoder become a few features, always the same way.

Moments n, s = sum x, S = sum x x^T of vectors x (D,) are additive, so that parts of a stream are added up anywhere. With mu = s/n
and C = S/n - mu mu^T = sum_j l_j q_j q_j^T, l_1 >= l_2 >= ... (Pearson 1901; Jolliffe 2002, section 1.1), the features are

    z_j = q_j^T (x - mu) / sqrt(l_j),    j = 1 ... r

with mean 0 and variance 1 over the vectors that were seen, as `policies.features` has its numbers; a text that is not known is
at 0, the mean. An eigenvector is given up to its sign: each q_j has its largest component positive.

The interest match of two texts is m(u, v) = (u - mu)^T (v - mu) / sqrt(tr C^2): for independent u and v of these moments it has
mean 0 and variance 1. It is made of whole vectors, not of the r components.

A projection never changes. Its name, "pca16:..." with r and 32 digits of BLAKE2b over encoder, mean, matrix and scale, stands for
its numbers to the last bit, so that sums of contexts of another projection are told apart.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from policies.features import FeatureError

if TYPE_CHECKING:
    from policies.batch import FloatArray

Float32Array = npt.NDArray[np.float32]

NAME = r"pca([1-9][0-9]{0,3}):[0-9a-f]{32}"
"""What a projection's name looks like; the first number is how many components it has."""

LEAST_SHARE = 1e-6
"""Share of the largest variance below which a component is rounding."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moments:
    """Sums over n vectors: s (D,) and S (D, D)."""

    n: float
    s: FloatArray
    S: FloatArray


def no_moments(dimension: int) -> Moments:
    """Moments of no vector of this length."""
    return Moments(n=0.0, s=np.zeros(dimension), S=np.zeros((dimension, dimension)))


def added(moments: Moments, vectors: npt.ArrayLike) -> Moments:
    """Moments with vectors (n, D) added.

    Raises:
        ValueError: another length, or numbers that are not finite.

    >>> added(no_moments(1), [[1.0], [3.0]]).S.tolist()
    [[10.0]]
    """
    x = np.asarray(vectors, np.float64)
    if x.ndim != 2 or x.shape[1] != len(moments.s):
        raise ValueError(f"vectors have shape {x.shape}; the moments are of (n, {len(moments.s)})")
    if not np.isfinite(x).all():
        raise ValueError("vectors hold numbers that are not finite; leave these texts out")
    return Moments(n=moments.n + len(x), s=moments.s + x.sum(axis=0), S=moments.S + x.T @ x)


def merged(one: Moments, other: Moments) -> Moments:
    """Moments of both.

    >>> merged(added(no_moments(1), [[1.0]]), added(no_moments(1), [[3.0]])).n
    2.0
    """
    if len(one.s) != len(other.s):
        raise ValueError(
            f"moments of vectors of {len(one.s)} and {len(other.s)} numbers: they are of different encoders"
        )
    return Moments(n=one.n + other.n, s=one.s + other.s, S=one.S + other.S)


@dataclass(frozen=True, kw_only=True, eq=False)
class Projection:
    """How vectors of one encoder become features; see the module.

    Attributes:
        encoder: fingerprint of the encoder.
        mean: (D,) mu.
        matrix: (r, D) rows q_j / sqrt(l_j).
        spread: sqrt(tr C^2), the standard deviation of a match.
        texts: number of vectors that it was made of.
        share: part of their variance that the components have.

    Raises:
        ValueError: shapes do not go together, or a number cannot be used.
    """

    encoder: str
    mean: Float32Array
    matrix: Float32Array
    spread: float
    texts: float
    share: float

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or self.mean.shape != self.matrix.shape[1:] or not self.matrix.size:
            raise ValueError(
                f"matrix has shape {self.matrix.shape} and mean {self.mean.shape}; allowed: (r, D) and (D,)"
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.matrix).all() and 0.0 < self.spread < math.inf):
            raise ValueError(f"a projection's numbers must be finite, and spread = {self.spread} above zero")

    @property
    def dimension(self) -> int:
        """D, length of the encoder's vectors."""
        return len(self.mean)

    @property
    def length(self) -> int:
        """r, number of components."""
        return len(self.matrix)

    @cached_property
    def name(self) -> str:
        """What stands for these numbers; see the module."""
        digest = hashlib.blake2b(self.encoder.encode() + b"\n", digest_size=16)
        for part in (self.mean.astype("<f4"), self.matrix.astype("<f4"), np.array(self.spread, "<f8")):
            digest.update(part.tobytes())
        return f"pca{self.length}:{digest.hexdigest()}"

    def centred(self, vectors: npt.ArrayLike) -> FloatArray:
        """(..., D) vectors without the mean. Raises ValueError for another length."""
        x = np.asarray(vectors, np.float64)
        if x.shape[-1] != self.dimension:
            raise ValueError(f"a vector has {x.shape[-1]} numbers; projection {self.name} takes {self.dimension}")
        return x - self.mean

    def components(self, vectors: npt.ArrayLike, length: int | None = None) -> FloatArray:
        """(..., length) the first components of vectors (..., D); all of them if None."""
        z: FloatArray = self.centred(vectors) @ self.matrix[:length].T
        return z

    def match(self, one: npt.ArrayLike, other: npt.ArrayLike) -> float:
        """Interest match of two vectors (D,)."""
        return float(self.centred(one) @ self.centred(other)) / self.spread


def principal(moments: Moments, *, length: int, encoder: str) -> Projection:
    """The projection on the first `length` principal components.

    Raises:
        ValueError: fewer vectors or directions than that.

    >>> four = added(no_moments(2), [[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> found = principal(four, length=1, encoder="e")
    >>> found.components([[2.0, 0.0]]).round(3).tolist(), found.name[:5]
    ([[1.414]], 'pca1:')
    """
    if not 1 <= length <= len(moments.s):
        raise ValueError(f"length = {length}: allowed are 1 to {len(moments.s)}, the numbers of a vector")
    if moments.n <= length:
        raise ValueError(f"{moments.n:.0f} texts cannot give {length} components; wait for more, or ask for fewer")
    mean = moments.s / moments.n
    covariance = moments.S / moments.n - np.outer(mean, mean)
    variances, directions = np.linalg.eigh(0.5 * (covariance + covariance.T))
    variances, directions = variances[::-1], directions[:, ::-1].T
    kept = int((variances > max(LEAST_SHARE * variances[0], 0.0)).sum())
    if kept < length:
        raise ValueError(
            f"the texts vary in {kept} directions only, and {length} components are asked for; ask for fewer"
        )
    rows = directions[:length]
    largest = np.abs(rows).argmax(axis=1)
    rows = rows * np.sign(rows[np.arange(length), largest])[:, None]
    return Projection(
        encoder=encoder,
        mean=mean.astype(np.float32),
        matrix=(rows / np.sqrt(variances[:length])[:, None]).astype(np.float32),
        spread=float(np.sqrt((np.maximum(variances, 0.0) ** 2).sum())),
        texts=moments.n,
        share=float(variances[:length].sum() / np.maximum(variances, 0.0).sum()),
    )


def length_of(name: str) -> int:
    """How many components the projection of that name has. Raises FeatureError if it is no such name.

    >>> length_of("pca16:" + 32 * "0")
    16
    """
    found = re.fullmatch(NAME, name)
    if found is None:
        raise FeatureError(
            f"projection = {name!r}: must be the name of one, as pca16:... with 32 hexadecimal digits; "
            "clickloop encoder project makes one and tells it"
        )
    return int(found[1])
