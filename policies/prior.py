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
        s2: noise variance of one reward, above zero; 1 for logistic, whose sums hold the variances.

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HybridPrior:
    """theta_a = beta + delta_a with delta_a ~ N(0, diag(tau2)), reward ~ N(x^T theta_a, s2): see policies/hybrid.py.

    The part that arms share is known from all of them, beta ~ N(mean, S) with x^T S x = ||factor x||^2, and so this is
    what is believed of an arm before its own rows.

    Attributes:
        mean: (d,) mean of beta.
        factor: (d, d) lower triangular.
        tau2: (d,) variances of what is an arm's own, above zero.
        s2: noise variance of one reward, above zero.

    Raises:
        ValueError: shapes differ, or a number is not finite or not positive where it must be.
    """

    mean: FloatArray
    factor: FloatArray
    tau2: FloatArray
    s2: float

    def __post_init__(self) -> None:
        Prior(mean=self.mean, tau2=self.tau2, s2=self.s2)  # refuses what neither may hold
        d = len(self.mean)
        if self.factor.shape != (d, d) or np.triu(self.factor, 1).any():
            raise ValueError(f"factor has shape {self.factor.shape}; it must be lower triangular, ({d}, {d})")
        if not np.isfinite(self.factor).all():
            raise ValueError("factor holds numbers that are not finite")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HybridPrior):
            return NotImplemented
        names = ("mean", "factor", "tau2")
        return self.s2 == other.s2 and all(np.array_equal(getattr(self, one), getattr(other, one)) for one in names)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StudentPrior:
    """Normal-inverse-gamma: 1/sigma_a^2 ~ Gamma(dof/2, rate dof s2/2), theta_a ~ N(mean, sigma_a^2/s2 diag(tau2)).

    Each arm has a noise variance sigma_a^2 of its own, about s2; the larger dof, the nearer they lie to it.

    Attributes:
        mean, tau2, s2: as in `Prior`.
        dof: degrees of freedom, above 2.

    Raises:
        ValueError: as `Prior`, or dof is not finite and above 2.
    """

    mean: FloatArray
    tau2: FloatArray
    s2: float
    dof: float

    def __post_init__(self) -> None:
        _ = self.normal  # refuses what neither may hold
        if not 2.0 < self.dof < math.inf:
            raise ValueError(f"dof = {self.dof}: must be finite and above 2, or there is no standard deviation")

    @property
    def normal(self) -> Prior:
        """The same with one noise variance for all arms."""
        return Prior(mean=self.mean, tau2=self.tau2, s2=self.s2)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StudentPrior):
            return NotImplemented
        return self.dof == other.dof and self.normal == other.normal

    __hash__ = None  # type: ignore[assignment]


AnyPrior = Prior | HybridPrior | StudentPrior | BetaPrior

PRIORS: dict[str, type[Prior] | type[HybridPrior] | type[StudentPrior] | type[BetaPrior]] = {
    "beta": BetaPrior,
    "linear": Prior,
    "hybrid": HybridPrior,
    "student": StudentPrior,
    "logistic": Prior,
}
"""Type of the prior of each model; by `policies.model.MODELS`."""
