"""What is believed of K arms' expected rewards as laws to draw from: normal, Student t, or Beta, independent of each other.

Thompson sampling over many arms (policies/monte_carlo.py) needs draws, chances of exceeding a level, and levels that are
exceeded with a given chance; a law of another kind needs these five methods and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, ndtr, ndtri

from policies.beta_thompson import beta_above, beta_contenders
from policies.student_t import cdf, upper_quantile
from policies.thompson import contenders
from policies.thompson_student import student_contenders

if TYPE_CHECKING:
    from policies.batch import FloatArray

Index = npt.NDArray[np.intp]

FAR = 1e30
"""Standard deviations between a level and a point mass."""


class ArmLaws(Protocol):
    """Independent laws of K arms."""

    def __len__(self) -> int:
        """K."""

    def contenders(self) -> Index:
        """(C,) arms that may be the largest; the others are with a chance below 1e-6."""

    def some(self, rows: Index) -> Self:
        """The laws of some arms, in the order of `rows`."""

    def draws(self, rng: np.random.Generator, n: int) -> FloatArray:
        """(n, K) draws."""

    def above(self, level: FloatArray, rows: Index) -> FloatArray:
        """(n,) chance that the arm `rows[i]` lies above `level[i]`."""

    def exceeded(self, chance: FloatArray, rows: Index) -> FloatArray:
        """(n,) level that the arm `rows[i]` exceeds with `chance[i]`, above 0 and at most 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalLaws:
    """N(mean, sd^2), (K,) each; sd = 0 is a point mass.

    >>> import numpy as np
    >>> arms = NormalLaws(mean=np.array([0.0, 1.0]), sd=np.array([1.0, 0.0]))
    >>> arms.above(np.array([0.0, 0.5]), np.array([0, 1])).tolist()
    [0.5, 1.0]
    """

    mean: FloatArray
    sd: FloatArray

    def __len__(self) -> int:
        return len(self.mean)

    def contenders(self) -> Index:
        """See `ArmLaws`."""
        return contenders(self.mean, self.sd)

    def some(self, rows: Index) -> NormalLaws:
        """See `ArmLaws`."""
        return NormalLaws(mean=self.mean[rows], sd=self.sd[rows])

    def draws(self, rng: np.random.Generator, n: int) -> FloatArray:
        """See `ArmLaws`."""
        return self.mean + self.sd * rng.standard_normal((n, len(self.mean)))

    def above(self, level: FloatArray, rows: Index) -> FloatArray:
        """See `ArmLaws`."""
        p: FloatArray = ndtr(_deviations(self.mean[rows] - level, self.sd[rows]))
        return p

    def exceeded(self, chance: FloatArray, rows: Index) -> FloatArray:
        """See `ArmLaws`."""
        level: FloatArray = self.mean[rows] - self.sd[rows] * ndtri(chance)
        return level


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentLaws:
    """mean + scale t_dof, (K,) each; scale = 0 is a point mass.

    >>> import numpy as np
    >>> arms = StudentLaws(mean=np.zeros(1), scale=np.ones(1), dof=np.array([9.0]))
    >>> arms.exceeded(np.array([0.025]), np.array([0])).round(4).tolist()
    [2.2622]
    """

    mean: FloatArray
    scale: FloatArray
    dof: FloatArray

    def __len__(self) -> int:
        return len(self.mean)

    def contenders(self) -> Index:
        """See `ArmLaws`."""
        return student_contenders(self.mean, self.scale, self.dof)

    def some(self, rows: Index) -> StudentLaws:
        """See `ArmLaws`."""
        return StudentLaws(mean=self.mean[rows], scale=self.scale[rows], dof=self.dof[rows])

    def draws(self, rng: np.random.Generator, n: int) -> FloatArray:
        """See `ArmLaws`."""
        return self.mean + self.scale * rng.standard_t(np.broadcast_to(self.dof, (n, len(self.dof))))

    def above(self, level: FloatArray, rows: Index) -> FloatArray:
        """See `ArmLaws`."""
        return cdf(_deviations(self.mean[rows] - level, self.scale[rows]), self.dof[rows])

    def exceeded(self, chance: FloatArray, rows: Index) -> FloatArray:
        """See `ArmLaws`."""
        level: FloatArray = self.mean[rows] + self.scale[rows] * upper_quantile(chance, self.dof[rows])
        return level


@dataclass(frozen=True, slots=True, kw_only=True)
class BetaLaws:
    """Beta(a, b), (K,) each.

    >>> import numpy as np
    >>> BetaLaws(a=np.ones(1), b=np.ones(1)).above(np.array([0.75]), np.array([0])).tolist()
    [0.25]
    """

    a: FloatArray
    b: FloatArray

    def __len__(self) -> int:
        return len(self.a)

    def contenders(self) -> Index:
        """See `ArmLaws`."""
        return beta_contenders(self.a, self.b)

    def some(self, rows: Index) -> BetaLaws:
        """See `ArmLaws`."""
        return BetaLaws(a=self.a[rows], b=self.b[rows])

    def draws(self, rng: np.random.Generator, n: int) -> FloatArray:
        """See `ArmLaws`."""
        return rng.beta(self.a, self.b, (n, len(self.a)))

    def above(self, level: FloatArray, rows: Index) -> FloatArray:
        """See `ArmLaws`."""
        return beta_above(self.a[rows], self.b[rows], level)

    def exceeded(self, chance: FloatArray, rows: Index) -> FloatArray:
        """See `ArmLaws`."""
        level: FloatArray = 1.0 - betaincinv(self.b[rows], self.a[rows], chance)
        return level


def _deviations(gap: FloatArray, sd: FloatArray) -> FloatArray:
    """gap/sd, for a point mass far on the side on which it is; none above its own level."""
    far = np.where(gap > 0.0, FAR, -FAR)
    return np.divide(gap, sd, out=far, where=sd > 0.0)
