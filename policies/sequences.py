"""Confidence sequences: intervals for a mean that hold at every moment at once, however often one looks.

For X_i in [0, 1] with a common conditional mean, the predictable-mixture empirical Bernstein bound (Waudby-Smith & Ramdas
2024, theorem 2)::

    L_t = [sum l_i X_i - log(1/a) - sum (X_i - mu_(i-1))^2 psi(l_i)] / sum l_i,    psi(l) = -log(1 - l) - l
    l_i = min(sqrt(2 log(1/a)/(s2_(i-1) i log(1 + i))), 1/2)

with mu and s2 the regularised running mean and variance of what came before i. P(some L_t > mean) <= a; the upper end is one
minus the lower end of 1 - X. What is not in [0, 1] must be scaled by a bound that was declared beforehand: the width goes by
the scale, so a bound on the weights is worth declaring.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from policies.batch import FloatArray

LARGEST_BET = 0.5


def lower(x: FloatArray, *, level: float = 0.975) -> FloatArray:
    """(n,) L_t after each of n values in [0, 1]; the largest so far, as each of them holds. One-sided at ``level``.

    Raises:
        ValueError: a value outside [0, 1], or a level that is not between 0 and 1.

    >>> lower(np.ones(1000))[-1].round(3)
    np.float64(0.992)
    """
    _check(x, level)
    told = np.log(1.0 / (1.0 - level))
    i = np.arange(1, len(x) + 1)
    mean = np.concatenate([[0.5], (0.5 + np.cumsum(x)) / (i + 1.0)])  # mu_0 .. mu_n
    variance = np.concatenate([[0.25], (0.25 + np.cumsum((x - mean[1:]) ** 2)) / (i + 1.0)])
    bet = np.minimum(np.sqrt(2.0 * told / (variance[:-1] * i * np.log1p(i))), LARGEST_BET)
    psi = -np.log1p(-bet) - bet
    bound = (np.cumsum(bet * x) - told - np.cumsum((x - mean[:-1]) ** 2 * psi)) / np.cumsum(bet)
    best: FloatArray = np.maximum.accumulate(np.maximum(bound, 0.0)) if len(x) else bound
    return best


def interval(
    x: FloatArray, *, least: float = 0.0, most: float = 1.0, level: float = 0.95
) -> tuple[FloatArray, FloatArray]:
    """(n,) lower and upper ends for the mean of values in [least, most], valid at all times together.

    Args:
        x: (n,) values in the order in which they came.
        least: bound from below, declared before the data.
        most: bound from above, declared before the data.
        level: chance that the mean is inside at every moment.

    >>> low, high = interval(np.tile([0.0, 1.0], 5000))
    >>> bool(low[-1] < 0.5 < high[-1]), bool(high[-1] - low[-1] < 0.06)
    (True, True)
    """
    if not least < most:
        raise ValueError(f"least = {least}, most = {most}: the bounds must differ, the lower one first")
    scaled = (x - least) / (most - least)
    one_sided = (1.0 + level) / 2.0
    low = least + (most - least) * lower(scaled, level=one_sided)
    high = least + (most - least) * (1.0 - lower(1.0 - scaled, level=one_sided))
    return low, high


def _check(x: FloatArray, level: float) -> None:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level = {level}: must be between 0 and 1, for example 0.95")
    wrong = ~((x >= 0.0) & (x <= 1.0))
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ValueError(
            f"value {i} is {x[i]}; it must be between 0 and 1 after scaling: declare wider bounds, or clip and say so"
        )
