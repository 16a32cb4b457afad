"""Thompson sampling over many arms: the arm by one draw, its probability by Rao-Blackwell Monte Carlo.

p_a = E[P(theta_a > M)], M the largest of the other arms' draws, is estimated by the mean over J independent M: unbiased for
the arm that was chosen, as these draws do not depend on the choice, and with less variance than the share of J draws that
a wins (Casella & Robert 1996). It is an estimate: 1/p of it is biased, and what logs it must say so.

M needs no draw of every arm. Above a level L, prod_b F_b is the law of the largest point of a Poisson process in which arm
b has -log F_b(u) points above u, so that M is drawn from the few points above L (exactly, if there is one). L is the
POINTS-th largest of one draw of all arms: about as many points are above it, and none with a chance of about exp(-POINTS).
Work grows as K + J POINTS, where J draws of all arms would take J K and the quadrature K times its nodes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from policies.arm_laws import ArmLaws
    from policies.batch import FloatArray

DRAWS = 64
"""J, draws that an estimate is the mean of."""

POINTS = 30
"""Points that are about expected above the level, and arms up to which all are drawn."""

LEAST = float(np.finfo(np.float64).tiny)
"""A propensity is above zero."""


def draw_estimated(
    arms: ArmLaws, *, rng: np.random.Generator, epsilon: float = 0.0, draws: int = DRAWS
) -> tuple[int, float]:
    """Draw an arm by Thompson sampling over the floor, and estimate the probability that it had.

    Args:
        arms: K independent laws of expected rewards, the width of the exploration included.
        rng: advanced by all the draws.
        epsilon: share of decisions drawn uniformly.
        draws: J.

    Returns:
        Index of the arm, and the estimate (1 - epsilon) p + epsilon/K.

    >>> import numpy as np
    >>> from policies.arm_laws import NormalLaws
    >>> alike = NormalLaws(mean=np.zeros(200), sd=np.ones(200))
    >>> arm, p = draw_estimated(alike, rng=np.random.default_rng(1))
    >>> round(200 * p)
    1
    """
    kept = arms.contenders()
    some = arms.some(kept)
    if epsilon > 0.0 and rng.random() < epsilon:
        arm = int(rng.integers(len(arms)))
    else:
        arm = int(kept[some.draws(rng, 1)[0].argmax()])
    at = int(np.searchsorted(kept, arm))
    p = estimate(some, at, rng=rng, draws=draws) if at < len(kept) and kept[at] == arm else 0.0
    return arm, max((1.0 - epsilon) * p + epsilon / len(arms), LEAST)


def estimate(arms: ArmLaws, arm: int, *, rng: np.random.Generator, draws: int = DRAWS) -> float:
    """Unbiased estimate of the probability that one arm's draw is the largest.

    >>> import numpy as np
    >>> from policies.arm_laws import NormalLaws
    >>> two = NormalLaws(mean=np.array([0.0, 1.0]), sd=np.ones(2))
    >>> p = estimate(two, 0, rng=np.random.default_rng(1), draws=100_000)
    >>> abs(p - 0.23975) < 0.003  # Phi(-1/sqrt 2)
    True
    """
    if len(arms) == 1:
        return 1.0
    others = arms.some(np.flatnonzero(np.arange(len(arms)) != arm))
    return float(arms.above(largest(others, rng, draws), np.full(draws, arm)).mean())


def largest(arms: ArmLaws, rng: np.random.Generator, draws: int) -> FloatArray:
    """(draws,) independent draws of the largest of the arms' draws.

    >>> import numpy as np
    >>> from policies.arm_laws import BetaLaws
    >>> uniform = BetaLaws(a=np.ones(200), b=np.ones(200))
    >>> found = largest(uniform, np.random.default_rng(1), 10_000)
    >>> bool(abs(found.mean() - 200 / 201) < 3e-4)
    True
    """
    if len(arms) <= POINTS:
        dense: FloatArray = arms.draws(rng, draws).max(axis=1)
        return dense
    level = float(np.partition(arms.draws(rng, 1)[0], -POINTS)[-POINTS])
    beyond = arms.above(np.full(len(arms), level), np.arange(len(arms)))
    sums = (-np.log1p(-np.minimum(beyond, 1.0 - 1e-16))).cumsum()
    points = int(rng.poisson(draws * sums[-1]))
    which = np.minimum(sums.searchsorted(rng.random(points) * sums[-1], side="right"), len(arms) - 1)
    u = 1.0 - rng.random(points)
    chance = -np.expm1(u * np.log1p(-np.minimum(beyond[which], 1.0 - 1e-16)))
    found = np.full(draws, level)
    np.maximum.at(found, rng.integers(0, draws, points), arms.exceeded(chance, which))
    return found
