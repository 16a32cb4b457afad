"""Noticing that an arm changed: a two-sided CUSUM of the Bernoulli log-likelihood ratio against what was predicted.

For matured rows with the reward r in {0, 1} and the click rate p that was predicted when it was shown, and the
alternatives that the rate is f p with f = 0.6 (fallen) or f = 1.6 (risen)::

    l_f = r log f + (1 - r) log((1 - f p)/(1 - p))
    S_f <- max(0, S_f + l_f),   alarm when S_f > h = 12, and both S start again from 0

(Page 1954; optimal in the worst delay: Moustakides 1986). Rows of an arm come in the order of their maturing. By Wald's
bound a test that starts at zero raises a false alarm before it returns to zero with a chance of at most exp(-h), 6e-6.

What an alarm means for the sums is in policies/baseline.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from policies.batch import FloatArray

FALLEN, RISEN = 0.6, 1.6
"""Factors on the predicted rate that are looked for."""
THRESHOLD = 12.0
"""h, in nats."""
LEAST, MOST = 1e-4, 0.6
"""Predictions are cut to these: a rate of nothing tells nothing, and 1.6 of it must stay below one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cusum:
    """One arm's test: evidence in nats that its rate has fallen, that it has risen, and how often either was told.

    >>> Cusum()
    Cusum(fallen=0.0, risen=0.0, alarms=0)
    """

    fallen: float = 0.0
    risen: float = 0.0
    alarms: int = 0


def follow(state: Cusum, predicted: FloatArray, reward: FloatArray) -> tuple[Cusum, npt.NDArray[np.intp]]:
    """The test after n more rows of the arm, and the rows (k,) at which an alarm was raised.

    Args:
        state: before these rows.
        predicted: (n,) rate that was predicted when each row was shown.
        reward: (n,) 0 or 1, in the order in which the rows matured.

    Raises:
        ValueError: lengths differ, a reward is not 0 or 1, or a prediction is not between 0 and 1.

    >>> state, alarms = follow(Cusum(), np.full(1000, 0.05), np.zeros(1000))
    >>> alarms.tolist(), state.alarms  # 12 / log(0.97/0.95) = 576 rows without a click
    ([575], 1)
    """
    if predicted.shape != reward.shape or predicted.ndim != 1:
        raise ValueError(f"predicted has shape {predicted.shape}, reward {reward.shape}; both must be (n,)")
    if not np.isin(reward, (0.0, 1.0)).all():
        raise ValueError("a reward is neither 0 nor 1; this test is for clicks")
    if not ((predicted >= 0.0) & (predicted <= 1.0)).all():
        raise ValueError("a prediction is not between 0 and 1; it must be the click rate that the policy expected")
    p = np.clip(predicted, LEAST, MOST)
    fallen, risen = ratio(p, reward, FALLEN), ratio(p, reward, RISEN)
    sums, start, found = (state.fallen, state.risen), 0, []
    while start < len(p):
        down, up = _reflected(sums[0], fallen[start:]), _reflected(sums[1], risen[start:])
        over = np.flatnonzero((down > THRESHOLD) | (up > THRESHOLD))
        if not len(over):
            sums = (float(down[-1]), float(up[-1]))
            break
        found.append(start + int(over[0]))
        sums, start = (0.0, 0.0), start + int(over[0]) + 1
    after = Cusum(fallen=sums[0], risen=sums[1], alarms=state.alarms + len(found))
    return after, np.array(found, np.intp)


def ratio(p: FloatArray, reward: FloatArray, factor: float) -> FloatArray:
    """(n,) log-likelihood ratio, in nats, of the rate factor p against p.

    >>> ratio(np.array([0.5]), np.array([1.0]), 0.6).round(4).tolist()
    [-0.5108]
    """
    nats: FloatArray = reward * np.log(factor) + (1.0 - reward) * (np.log1p(-factor * p) - np.log1p(-p))
    return nats


def _reflected(start: float, steps: FloatArray) -> FloatArray:
    """(n,) S_i = max(0, S_(i-1) + step_i) from S_0 = start: the walk less its running minimum below zero."""
    walk = start + np.cumsum(steps)
    reflected: FloatArray = walk - np.minimum(np.minimum.accumulate(walk), 0.0)
    return reflected
