"""Explorers as probability vectors: the chance of every arm, computed first, so that the arm can be drawn from it.

What is logged is then exact by construction; an error of the quadrature only perturbs the policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from policies.thompson import thompson

if TYPE_CHECKING:
    from policies.batch import FloatArray

EXPLORERS = ("thompson", "ucb", "epsilon-greedy")
"""Names that `probabilities` knows."""


def probabilities(
    mean: FloatArray, sd: FloatArray, *, explorer: str, alpha: float = 1.0, epsilon: float = 0.0
) -> FloatArray:
    """(K,) probability of each arm; not negative, sums to one.

    "thompson": p_a = P(a is the largest of independent N(mean, (alpha sd)^2)), by quadrature. "ucb": the arms with the
    largest mean + alpha sd, in equal parts. "epsilon-greedy": the arms with the largest mean, in equal parts. Over any
    of them the floor (1 - epsilon) p + epsilon/K.

    Args:
        mean: (K,) expected reward of each arm, in the reward's unit.
        sd: (K,) standard deviation of each expectation, zero or more.
        explorer: one of EXPLORERS.
        alpha: width of the exploration, zero or more; 0 is greedy.
        epsilon: share of decisions drawn uniformly, 0 to 1.

    Raises:
        ValueError: unknown explorer, no arms, a number that is not finite, or one out of its range.

    >>> import numpy as np
    >>> probabilities(np.array([0.1, 0.3, 0.3]), np.zeros(3), explorer="epsilon-greedy", epsilon=0.1).round(4).tolist()
    [0.0333, 0.4833, 0.4833]
    >>> probabilities(np.array([0.0, 0.0]), np.array([1.0, 2.0]), explorer="thompson").round(6).tolist()
    [0.5, 0.5]
    """
    check(explorer, alpha, epsilon)
    if mean.ndim != 1 or mean.shape != sd.shape or not len(mean):
        raise ValueError(f"mean has shape {mean.shape}, sd {sd.shape}; both must be (K,) with at least one arm")
    if not (np.isfinite(mean).all() and np.isfinite(sd).all() and sd.min() >= 0.0):
        raise ValueError(f"means must be finite, sds finite and not negative: mean = {mean}, sd = {sd}")
    p = thompson(mean, alpha * sd) if explorer == "thompson" else best(mean + alpha * sd if explorer == "ucb" else mean)
    return floor(p, epsilon)


def check(explorer: str, alpha: float, epsilon: float) -> None:
    """Raise ValueError unless the explorer exists and its rates are in range.

    >>> check("softmax", 1.0, 0.0)
    Traceback (most recent call last):
    ValueError: there is no explorer 'softmax'; choose one of thompson, ucb, epsilon-greedy
    """
    if explorer not in EXPLORERS:
        raise ValueError(f"there is no explorer {explorer!r}; choose one of {', '.join(EXPLORERS)}")
    if not 0.0 <= alpha < np.inf:
        raise ValueError(f"alpha = {alpha}: must be finite and not negative")
    if not 0.0 <= epsilon <= 1.0:
        raise ValueError(f"epsilon = {epsilon}: must be between 0 and 1, both included")


def best(scores: npt.NDArray[np.floating]) -> FloatArray:
    """(K,) equal parts for the arms with the largest score.

    >>> import numpy as np
    >>> best(np.array([1.0, 2.0, 2.0])).tolist()
    [0.0, 0.5, 0.5]
    """
    p: FloatArray = (scores == scores.max()).astype(np.float64)
    return p / np.count_nonzero(p)


def floor(p: FloatArray, epsilon: float) -> FloatArray:
    """(1 - epsilon) p + epsilon/K: every arm keeps at least epsilon/K."""
    return p if epsilon == 0.0 else (1.0 - epsilon) * p + epsilon / len(p)
