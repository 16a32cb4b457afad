"""Forward decay: forgetting that late and out-of-order rows cannot upset.

A row of event time ts has the fixed weight 2^((ts - L)/H) relative to a landmark L; reading at time t multiplies by
2^(-(t - L)/H), so that what counts is 2^(-(t - ts)/H) whatever L is (Cormode et al. 2009, "Forward decay"). L is the
largest multiple of a block of 256 half-lives that is not above the newest event: weights stay below 2^256, and sums are
a function of the set of rows, not of their order. When the newest event enters another block, sums are multiplied by
2^(-256 j), which is exact.

Powers are taken as 2^fraction scaled by `ldexp`, so whole half-lives are powers of two to the last bit, whatever the
platform's `exp2` does. Rows more than about a thousand half-lives older than the newest weigh nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.batch import FloatArray, IntArray

BLOCK = 256
"""Half-lives from one possible landmark to the next."""

EARLIEST_MS = -(2**62)
"""Newest event time of sums that have seen none."""

_LEAST, _MOST = -5000.0, 1023.0  # exponents beyond are 0, or cannot be held


@dataclass(frozen=True, slots=True, kw_only=True)
class Decay:
    """A rate of decay and the landmarks that go with it.

    Attributes:
        half_life_ms: time in which a weight halves; infinite for none. Whole numbers make whole half-lives exact.

    >>> hour = Decay(half_life_ms=3_600_000.0)
    >>> hour.weight(since_ms=7_200_000), hour.weight(since_ms=-3_600_000)
    (4.0, 0.5)
    >>> hour.landmark_ms(256 * 3_600_000 + 5)
    921600000
    """

    half_life_ms: float

    def __post_init__(self) -> None:
        if not self.half_life_ms >= 1e-3:
            raise ValueError(
                f"a half-life of {self.half_life_ms} ms cannot be held; allowed: 0.001 ms and more, inf for none"
            )

    @property
    def none(self) -> bool:
        """Whether nothing decays: every weight is exactly one."""
        return math.isinf(self.half_life_ms)

    @property
    def block_ms(self) -> int:
        """Time between possible landmarks."""
        return max(1, round(BLOCK * self.half_life_ms))

    def landmark_ms(self, newest_ms: int) -> int:
        """Landmark of sums whose newest event is at `newest_ms`; 0 if nothing decays."""
        return 0 if self.none else newest_ms // self.block_ms * self.block_ms

    def landmarks_ms(self, newest_ms: IntArray) -> IntArray:
        """`landmark_ms` of each of (t,) times."""
        return np.zeros_like(newest_ms) if self.none else newest_ms // self.block_ms * self.block_ms

    def weight(self, *, since_ms: int) -> float:
        """2^(since_ms / half-life): a row's weight this long after the landmark."""
        if self.none:
            return 1.0
        exponent = min(max(since_ms / self.half_life_ms, _LEAST), _MOST)
        whole = math.floor(exponent)
        return math.ldexp(2.0 ** (exponent - whole), whole)

    def weights(self, since_ms: IntArray) -> FloatArray | None:
        """`weight` of each of (n,) times; None where nothing decays, so that no one multiplies by one.

        >>> import numpy as np
        >>> Decay(half_life_ms=1000.0).weights(np.array([-1000, 0, 3000]))
        array([0.5, 1. , 8. ])
        """
        if self.none:
            return None
        exponent = np.clip(since_ms / self.half_life_ms, _LEAST, _MOST)
        whole = np.floor(exponent)
        weights: FloatArray = np.ldexp(np.exp2(exponent - whole), whole.astype(np.int32))
        return weights


def forgetting(half_life_s: float) -> Decay:
    """Decay of a policy with this half-life in seconds, taken to whole milliseconds; 0 forgets nothing.

    Raises:
        ValueError: negative, not a number, or below a millisecond.

    >>> forgetting(0.0).none, forgetting(1.5).half_life_ms
    (True, 1500.0)
    """
    if half_life_s == 0:
        return Decay(half_life_ms=math.inf)
    if not half_life_s >= 0.001 or math.isinf(half_life_s):
        raise ValueError(
            f"half_life_s = {half_life_s}: must be 0 (forget nothing) or at least 0.001 seconds and finite"
        )
    return Decay(half_life_ms=float(round(half_life_s * 1000)))


def pending(delay_s: float, forgotten: Decay) -> Decay:
    """Decay of the rows still waiting, when labels take `delay_s` on average: exp(-age/delay) times the forgetting.

    1/H_pending = 1/H + 1/(delay ln 2), so that pending rows never outweigh the rows they are part of.

    Raises:
        ValueError: `delay_s` is not positive and finite.

    >>> import math
    >>> decay = pending(10.0, forgetting(0.0))
    >>> round(decay.weight(since_ms=-10_000) * math.e, 12)
    1.0
    """
    if not 0.001 <= delay_s < math.inf:
        raise ValueError(f"delays_s holds {delay_s}: a mean delay must be at least 0.001 seconds and finite")
    return Decay(half_life_ms=1.0 / (1.0 / forgotten.half_life_ms + 1.0 / (delay_s * 1000.0 * math.log(2.0))))


def shares(weights: Sequence[float] | None, delays: int) -> Sequence[float]:
    """Weights of that many delays, equal ones for None.

    Raises:
        ValueError: another number of weights.

    >>> shares(None, 4)
    (0.25, 0.25, 0.25, 0.25)
    """
    if weights is None:
        return (1.0 / delays,) * delays if delays else ()
    if len(weights) != delays:
        raise ValueError(f"weights = {tuple(weights)}: must be one for each of {delays} delays; None takes equal ones")
    return weights
