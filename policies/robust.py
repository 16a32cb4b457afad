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
