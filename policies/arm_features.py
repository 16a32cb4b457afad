"""Features of arms: numbers that say what arms have in common, so that a new one starts from arms like it.

f_a = (1, (v_a - mean) / sd) of the declared numbers v_a, (q,) each: standardised over the arms that are declared, so that
all parts start with the same prior variance whatever the units, and so that the mean arm is (1, 0, ..., 0). That is also
what an arm without declared features gets: it starts from what all arms share. A number that is the same for all arms
tells nothing and is left at zero. What is learned with them is in policies/hybrid.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from policies.gaussian import joint
from policies.groups import GroupedPrior
from policies.prior import AnyPrior, HybridPrior

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from policies.batch import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Standardised features by arm; made by `standardised`.

    Attributes:
        length: 1 + the number of declared features.
        by_arm: (length,) of each declared arm, the constant 1 first.
    """

    length: int
    by_arm: Mapping[str, FloatArray]

    def of(self, arm: str) -> FloatArray:
        """(length,) of an arm, (1, 0, ..., 0) for one without."""
        found = self.by_arm.get(arm)
        return np.eye(self.length)[0] if found is None else found


def standardised(declared: Mapping[str, Sequence[float]]) -> Features | None:
    """Features of the declared arms; None if none are declared.

    Raises:
        ValueError: lengths differ, or are zero, or a number is not finite.

    >>> features = standardised({"a": [10.0], "b": [30.0]})
    >>> features.of("a").round(6).tolist(), features.of("other").tolist()
    ([1.0, -1.0], [1.0, 0.0])
    """
    if not declared:
        return None
    lengths = {len(values) for values in declared.values()}
    if len(lengths) > 1 or lengths == {0}:
        raise ValueError(f"arms have {sorted(lengths)} features; all need the same number, one or more")
    values = np.array([list(values) for values in declared.values()], np.float64)
    if not np.isfinite(values).all():
        wrong = [arm for arm, row in zip(declared, values, strict=True) if not np.isfinite(row).all()]
        raise ValueError(f"features of {wrong} hold numbers that are not finite")
    size = np.abs(values).max(axis=0)
    values = values / np.where(size > 0.0, size, 1.0)  # so that no square overflows
    sd = values.std(axis=0)
    varies = sd > 1e-9
    units = np.where(varies, (values - values.mean(axis=0)) / np.where(varies, sd, 1.0), 0.0)
    rows = np.concatenate([np.ones((len(units), 1)), units], axis=1)
    return Features(rows.shape[1], dict(zip(declared, rows, strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeaturedPrior(HybridPrior):
    """A hybrid prior that tells arms apart by their features; as a HybridPrior it is that of an arm without any.

    Snapshots keep that one for arms that they have no record of; every arm in the sums has a record made with its own.

    Attributes:
        features: of the arms, q numbers each.
        shared_mean: (q d,) mean of the shared parts, one for each feature.
        shared_factor: (q d, q d) lower triangular factor of their covariance.
    """

    features: Features
    shared_mean: FloatArray
    shared_factor: FloatArray

    def of(self, arm: str) -> HybridPrior:
        """What is believed of this arm before its own rows."""
        f = self.features.of(arm)
        return _seen(f, self.shared_mean, self.shared_factor, tau2=self.tau2, s2=self.s2)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, FeaturedPrior)
            and self.s2 == other.s2
            and np.array_equal(self.tau2, other.tau2)
            and np.array_equal(self.shared_mean, other.shared_mean)
            and np.array_equal(self.shared_factor, other.shared_factor)
            and self.features.by_arm.keys() == other.features.by_arm.keys()
            and all(np.array_equal(f, other.features.of(arm)) for arm, f in self.features.by_arm.items())
        )

    __hash__ = None


def prior_of(prior: AnyPrior, arm: str) -> AnyPrior:
    """The prior of one arm: its own where arms have features or groups, else the one of all."""
    return prior.of(arm) if isinstance(prior, FeaturedPrior | GroupedPrior) else prior


def seen_as(
    features: Features | None, *, mean: FloatArray, factor: FloatArray, tau2: FloatArray, s2: float
) -> HybridPrior:
    """Prior of arms from the law of the shared parts, (q d,) and (q d, q d); q is 1 without features."""
    if features is None:
        return HybridPrior(mean=mean, factor=factor, tau2=tau2, s2=s2)
    plain = _seen(np.eye(features.length)[0], mean, factor, tau2=tau2, s2=s2)
    return FeaturedPrior(
        mean=plain.mean,
        factor=plain.factor,
        tau2=tau2,
        s2=s2,
        features=features,
        shared_mean=mean,
        shared_factor=factor,
    )


def _seen(f: FloatArray, mean: FloatArray, factor: FloatArray, *, tau2: FloatArray, s2: float) -> HybridPrior:
    """Law of sum_j f_j beta_j."""
    q, d = len(f), len(tau2)
    through = np.einsum("j,kji->ki", f, factor.reshape(q * d, q, d))
    return HybridPrior(mean=f @ mean.reshape(q, d), factor=joint(through), tau2=tau2, s2=s2)
