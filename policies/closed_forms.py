"""Probabilities of arms that are formulas of their scores; the last axis of every array is that of the K arms.

Softmax: Sutton & Barto 2018, section 2.8. Inverse gap weighting: Abe & Long 1999. Uncertainty sampling: Settles 2009,
section 3.1, with probabilities in place of the least certain arm alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from policies.batch import FloatArray


def best(scores: npt.NDArray[np.floating]) -> FloatArray:
    """(..., K) equal parts for the arms with the largest score.

    >>> import numpy as np
    >>> best(np.array([1.0, 2.0, 2.0])).tolist()
    [0.0, 0.5, 0.5]
    """
    top = scores == scores.max(axis=-1, keepdims=True)
    p: FloatArray = top / np.count_nonzero(top, axis=-1, keepdims=True)
    return p


def softmax(mean: FloatArray, tau: float) -> FloatArray:
    """(..., K) p_a proportional to exp(mean_a/tau); tau, above zero, has the reward's unit.

    >>> import numpy as np
    >>> softmax(np.array([0.0, np.log(3.0)]), 1.0).round(6).tolist()
    [0.25, 0.75]
    """
    gap = np.minimum(mean.max(axis=-1, keepdims=True) - mean, 745.0 * tau)  # exp(-745) is the smallest above zero
    return normed(np.exp(-gap / tau))


def inverse_gap(mean: FloatArray, gamma: float) -> FloatArray:
    """(..., K) 1/(K + gamma (max - mean_a)) for all but the best arms, which share the rest; gamma in 1/reward.

    >>> import numpy as np
    >>> inverse_gap(np.array([0.0, 0.2]), 10.0).tolist()
    [0.25, 0.75]
    """
    gap = mean.max(axis=-1, keepdims=True) - mean
    top = gap == 0.0
    p = np.where(top, 0.0, 1.0 / (mean.shape[-1] + gamma * gap))
    rest: FloatArray = (1.0 - p.sum(axis=-1, keepdims=True)) / np.count_nonzero(top, axis=-1, keepdims=True)
    return np.where(top, rest, p)


def uncertainty(sd: FloatArray, power: float) -> FloatArray:
    """(..., K) p_a proportional to sd_a^power: shows the arms that most is to be learned of, whatever they bring.

    Power 0 is uniform, 1 Neyman's allocation, large powers the least certain arm.

    >>> import numpy as np
    >>> uncertainty(np.array([1.0, 3.0, 0.0]), 1.0).tolist()
    [0.25, 0.75, 0.0]
    """
    largest = sd.max(axis=-1, keepdims=True)
    return normed(np.where(largest > 0.0, (sd / np.where(largest > 0.0, largest, 1.0)) ** power, 1.0))


def normed(parts: FloatArray) -> FloatArray:
    """The last axis made to sum to one.

    >>> import numpy as np
    >>> normed(np.array([1.0, 3.0])).tolist()
    [0.25, 0.75]
    """
    p: FloatArray = parts / parts.sum(axis=-1, keepdims=True)
    return p
