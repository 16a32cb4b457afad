"""What is believed of an arm before its own rows: the learned start of new arms, and what forgotten arms return to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from policies.batch import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prior:
    """theta ~ N(mean, diag(tau2)), reward ~ N(x^T theta, s2).

    Attributes:
        mean: (d,) prior mean of the weights.
        tau2: (d,) prior variances, above zero.
        s2: noise variance of one reward, above zero.

    Raises:
        ValueError: shapes differ, or a number is not finite or not positive where it must be.

    >>> import numpy as np
    >>> Prior(mean=np.zeros(2), tau2=np.array([1.0, 0.0]), s2=0.1)
    Traceback (most recent call last):
    ValueError: tau2 = [1. 0.]: variances must be finite and above zero
    """

    mean: FloatArray
    tau2: FloatArray
    s2: float

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.mean.shape != self.tau2.shape:
            raise ValueError(f"mean has shape {self.mean.shape}, tau2 {self.tau2.shape}; both must be (d,)")
        if not np.isfinite(self.mean).all():
            raise ValueError(f"mean = {self.mean}: must be finite")
        if not (np.isfinite(self.tau2).all() and (self.tau2 > 0.0).all()):
            raise ValueError(f"tau2 = {self.tau2}: variances must be finite and above zero")
        if not 0.0 < self.s2 < math.inf:
            raise ValueError(f"s2 = {self.s2}: the noise variance must be finite and above zero")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Prior):
            return NotImplemented
        return self.s2 == other.s2 and np.array_equal(self.mean, other.mean) and np.array_equal(self.tau2, other.tau2)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True, kw_only=True)
class BetaPrior:
    """An arm's reward rate ~ Beta(a, b).

    Raises:
        ValueError: a or b is not finite and above zero.
    """

    a: float
    b: float

    def __post_init__(self) -> None:
        if not (0.0 < self.a < math.inf and 0.0 < self.b < math.inf):
            raise ValueError(f"a = {self.a}, b = {self.b}: both must be finite and above zero")
