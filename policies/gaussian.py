"""Normal laws of an arm's weights by a triangular factor W: covariance V = W^T W, so that x^T V x = ||W x||^2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import lapack

if TYPE_CHECKING:
    from policies.batch import FloatArray
    from policies.prior import Prior
    from policies.sums import Effective

JITTERS = (0.0, 1e-9, 1e-8, 1e-7, 1e-6)
"""What is added to the diagonal in turn, in units of tr(Lambda)/d, until a factor exists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmPosterior:
    """theta with mean `mean` and covariance V, x^T V x = ||factor x||^2; normal, or Student t.

    Attributes:
        mean: (d,) posterior mean.
        factor: (d, d) lower triangular.
        alarm: the sums could not be used (not finite, or not positive definite in spite of jitter); this is the prior.
        dof: degrees of freedom of x^T theta's Student t law, None if it is normal.
    """

    mean: FloatArray
    factor: FloatArray
    alarm: bool = False
    dof: float | None = None


def check_shapes(d: int, effective: Effective) -> None:
    """Raise ValueError unless b is (d,) and A (d, d)."""
    if effective.b.shape != (d,) or effective.A.shape != (d, d):
        raise ValueError(
            f"the prior has {d} components, b {effective.b.shape} and A {effective.A.shape}; all must agree"
        )


def linear_posterior(prior: Prior, effective: Effective) -> ArmPosterior:
    """Mean and factor of one arm; b (d,) and A (d, d) as they count now.

    Raises:
        ValueError: prior and sums have different dimensions.

    >>> import numpy as np
    >>> from policies.prior import Prior
    >>> from policies.sums import Effective
    >>> prior = Prior(mean=np.zeros(1), tau2=np.ones(1), s2=1.0)
    >>> seen = Effective(n_eff=3.0, count=3.0, reward=3.0, square=3.0, b=np.array([3.0]), A=np.array([[3.0]]))
    >>> linear_posterior(prior, seen).mean.tolist()  # 3/(1 + 3)
    [0.75]
    """
    check_shapes(len(prior.mean), effective)
    precision = effective.A / prior.s2 + np.diag(1.0 / prior.tau2)
    h = effective.b / prior.s2 + prior.mean / prior.tau2
    factor = inverse_factor(precision) if np.isfinite(h).all() else None
    if factor is not None:
        mean = factor.T @ (factor @ h)
        if np.isfinite(mean).all():
            return ArmPosterior(mean=mean, factor=factor)
    return ArmPosterior(mean=prior.mean, factor=np.diag(np.sqrt(prior.tau2)), alarm=True)


def inverse_factor(precision: FloatArray) -> FloatArray | None:
    """L^-1 of the Cholesky factor, with the least jitter that gives one; None if none does.

    >>> import numpy as np
    >>> inverse_factor(np.array([[4.0]])).tolist()
    [[0.5]]
    """
    if not np.isfinite(precision).all():
        return None
    unit = np.trace(precision) / len(precision)
    for jitter in JITTERS:
        lower, failed = lapack.dpotrf(precision + jitter * unit * np.eye(len(precision)), lower=1, clean=1)
        if not failed:
            factor, failed = lapack.dtrtri(lower, lower=1)
            if not failed and np.isfinite(factor).all():
                return np.ascontiguousarray(factor)
    return None


def joint(*factors: FloatArray) -> FloatArray:
    """(d, d) lower triangular factor of the sum of the covariances with these (., d) factors.

    Triangular by an orthogonal transformation of the factors one above another, with columns and rows reversed: the
    covariances themselves, which would square their condition, are not formed.

    >>> import numpy as np
    >>> joint(np.array([[3.0]]), np.array([[4.0]])).tolist()  # 3^2 + 4^2
    [[5.0]]
    """
    upper: FloatArray = np.asarray(np.linalg.qr(np.concatenate(factors)[:, ::-1], mode="r"))
    triangle = upper[::-1, ::-1]
    signs = np.where(np.diag(triangle) < 0.0, -1.0, 1.0)
    return np.ascontiguousarray(signs[:, None] * triangle)
