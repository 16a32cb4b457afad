"""Limits on what one row can do to the sums. They are constants, and applied as a row enters: the sums stay a function of the log.

A context beyond its limit has leverage: one row of 1,000 standard deviations outweighs a million ordinary ones in A, and
its reward decides what is learned (Huber 1981, "Robust Statistics", section 7.9, on leverage). A reward beyond its bounds
does the same to b. Both are cut to the limit rather than left out, so that counts and propensities keep their meaning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from policies.batch import FloatArray


def clip_contexts(x: npt.NDArray[np.floating[Any]], limit: float | None) -> npt.NDArray[np.floating[Any]]:
    """Contexts (n, d) with every component between -limit and limit, in float64; without a limit they are x itself.

    The limit is compared in float64 whatever x is in, so that a row is cut to the same number wherever it is read.

    >>> import numpy as np
    >>> clip_contexts(np.array([[1.0, -8.0, 3.0]], np.float32), 4.0).tolist()
    [[1.0, -4.0, 3.0]]
    """
    return x if limit is None else np.clip(x.astype(np.float64), -limit, limit)


def bounded(reward: float, bounds: tuple[float, float] | None) -> float:
    """An impression's reward, aggregated over its outcomes, between its least and its largest; None bounds nothing.

    >>> bounded(7.0, (0.0, 5.0)), bounded(7.0, None)
    (5.0, 7.0)
    """
    return reward if bounds is None else min(max(reward, bounds[0]), bounds[1])


def huber(reward: FloatArray, expected: FloatArray, limit: float) -> FloatArray:
    """(n,) pseudo-rewards: what is more than ``limit`` from what was expected is cut to it, so that a fluke moves b no further.

    m + clip(r - m, -c, c) (Huber 1964, "Robust estimation of a location parameter", by his psi in place of a weight, so that A
    stays the sum of x x^T), where the interval from m - c to m + c reaches to 0 at least: r is cut to between min(m - c, 0) and
    max(m + c, 0). A reward of 0 stays 0: it is what every impression counts with at first. More reward is never less
    pseudo-reward, and none changes its sign. The pseudo-reward is a function of the final reward alone, so its changes may come
    in any order.

    Args:
        reward: (n,) final rewards so far.
        expected: (n,) m, by the reference weights.
        limit: c, in the reward's unit.

    >>> import numpy as np
    >>> huber(np.array([0.0, 1.0, 50.0, 0.1]), np.array([9.0, 0.5, 1.0, -5.0]), 2.0).tolist()
    [0.0, 1.0, 3.0, 0.0]
    """
    pseudo: FloatArray = np.clip(reward, np.minimum(expected - limit, 0.0), np.maximum(expected + limit, 0.0))
    return pseudo


def huber_changes(
    before: FloatArray, change: FloatArray, expected: FloatArray, limit: float
) -> tuple[FloatArray, FloatArray]:
    """(m,) changes of pseudo-rewards and of their squares, from the rewards before and their changes (m,).

    >>> import numpy as np
    >>> [part.tolist() for part in huber_changes(np.array([2.0]), np.array([48.0]), np.array([1.0]), 3.0)]  # 2 to 50
    [[2.0], [12.0]]
    """
    old, new = huber(before, expected, limit), huber(before + change, expected, limit)
    return new - old, new**2 - old**2
