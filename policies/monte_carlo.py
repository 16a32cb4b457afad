"""Thompson sampling over many arms: the arm by one draw, its probability by Rao-Blackwell Monte Carlo.

p_a = E[Phibar((max_{b != a} draw_b - mu_a)/s_a)], the expectation over independent draws of the other arms, is estimated
by the mean over J such draws: unbiased for the arm that was chosen, as the draws do not depend on the choice, and with
less variance than the share of J draws that a wins (Casella & Robert 1996). It is an estimate: 1/p of it is biased, and
what logs it must say so. Work grows as J K, where the quadrature's grows as K times its nodes and costs ten times more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

from policies.thompson import contenders

if TYPE_CHECKING:
    from policies.batch import FloatArray

DRAWS = 64
"""J, draws that an estimate is the mean of."""

LEAST = float(np.finfo(np.float64).tiny)
"""A propensity is above zero."""


def draw_estimated(
    mean: FloatArray, sd: FloatArray, *, rng: np.random.Generator, epsilon: float = 0.0, draws: int = DRAWS
) -> tuple[int, float]:
    """Draw an arm by Thompson sampling over the floor, and estimate the probability that it had.

    Args:
        mean: (K,) expected rewards.
        sd: (K,) standard deviations, the width of the exploration included.
        rng: advanced by all the draws.
        epsilon: share of decisions drawn uniformly.
        draws: J.

    Returns:
        Index of the arm, and the estimate (1 - epsilon) p + epsilon/K.

    >>> import numpy as np
    >>> arm, p = draw_estimated(np.zeros(200), np.ones(200), rng=np.random.default_rng(1))
    >>> round(200 * p)
    1
    """
    kept = contenders(mean, sd)
    m, s = mean[kept], sd[kept]
    if epsilon > 0.0 and rng.random() < epsilon:
        arm = int(rng.integers(len(mean)))
    else:
        arm = int(kept[(m + s * rng.standard_normal(len(kept))).argmax()])
    p = estimate(m, s, int(np.searchsorted(kept, arm)), rng=rng, draws=draws) if arm in kept else 0.0
    return arm, max((1.0 - epsilon) * p + epsilon / len(mean), LEAST)


def estimate(mean: FloatArray, sd: FloatArray, arm: int, *, rng: np.random.Generator, draws: int = DRAWS) -> float:
    """Unbiased estimate of the probability that one arm's draw is the largest of independent N(mean, sd^2), K >= 2.

    >>> import numpy as np
    >>> p = estimate(np.array([0.0, 1.0]), np.ones(2), 0, rng=np.random.default_rng(1), draws=100_000)
    >>> abs(p - 0.23975) < 0.003  # Phi(-1/sqrt 2)
    True
    """
    others = np.arange(len(mean)) != arm
    draws_ahead = rng.standard_normal((draws, len(mean) - 1), dtype=np.float32)
    draws_ahead *= sd[others].astype(np.float32)
    draws_ahead += (mean[others] - mean[arm]).astype(np.float32)
    ahead = draws_ahead.max(axis=1).astype(np.float64)  # of the arm's mean
    if sd[arm] == 0.0:
        return float((ahead < 0.0).mean())
    return float(ndtr(-ahead / sd[arm]).mean())
