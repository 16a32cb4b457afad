"""A snapshot's arms as arrays, made once, so that a decision is a few products. The last row is the prior's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from policies.posterior import unseen
from policies.prior import AnyPrior, BetaPrior
from policies.snapshot_records import Arm, BetaArm, LinearArm, unpack_lower

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policies.batch import FloatArray

Index = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearStack:
    """Linear arms: `row` numbers their names, mean is (K + 1, d), factor (K + 1, d, d)."""

    row: dict[str, int]
    mean: FloatArray
    factor: FloatArray

    def scores(self, context: FloatArray, rows: Index | None) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the expected reward, (C,) each, of the arms in `rows`; None is all K.

        mean = x^T m, sd = ||W x||.
        """
        d = len(context)
        arms = len(self.row)
        if rows is not None and 4 * len(rows) < arms:
            mean, factor = self.mean[rows], self.factor[rows]
            return mean @ context, _norms((factor.reshape(-1, d) @ context).reshape(-1, d))
        mean, sd = self.mean @ context, _norms((self.factor.reshape(-1, d) @ context).reshape(-1, d))
        return (mean[:arms], sd[:arms]) if rows is None else (mean[rows], sd[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class BetaStack:
    """Beta arms: `row` numbers their names, a and b are (K + 1,). `laws` keeps what was computed."""

    row: dict[str, int]
    a: FloatArray
    b: FloatArray
    laws: dict[bytes, FloatArray] = field(default_factory=dict)


def _norms(products: FloatArray) -> FloatArray:
    norms: FloatArray = np.sqrt(np.einsum("ij,ij->i", products, products))
    return norms


def stack(arms: Mapping[str, Arm], prior: AnyPrior) -> LinearStack | BetaStack:
    """Arrays of the arms' numbers in float64, with the prior's as the last row."""
    row = {name: i for i, name in enumerate(arms)}
    if isinstance(prior, BetaPrior):
        betas = [arm for arm in arms.values() if isinstance(arm, BetaArm)]
        return BetaStack(
            row=row, a=np.array([*(arm.a for arm in betas), prior.a]), b=np.array([*(arm.b for arm in betas), prior.b])
        )
    linears = [arm for arm in arms.values() if isinstance(arm, LinearArm)]
    d = len(prior.mean)
    mean, factor = np.empty((len(linears) + 1, d)), np.empty((len(linears) + 1, d, d))
    for i, arm in enumerate(linears):
        mean[i], factor[i] = arm.mean, unpack_lower(arm.factor, d)
    new = unseen(prior)
    mean[-1], factor[-1] = new.mean, new.factor
    return LinearStack(row=row, mean=mean, factor=factor)
