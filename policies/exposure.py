"""Exposure floors and ceilings: shares of impressions that every arm gets at least or at most, by virtual queues (Neely 2010).

Floor f_a and ceiling c_a are shares of all slots shown. After n of them, of which shown_a had arm a::

    q_a <- max(0, q_a + eta pbar (f_a n - shown_a)),    r_a <- max(0, r_a + eta pbar (shown_a - c_a n))

and an arm's worth gains q_a - r_a; pbar, the mean value of a shown slot, gives the queues its unit. As q never gains less than the
step, shown_a >= f_a N - q_a/(eta pbar) after N slots whatever happened: the shortfall is what the queue says. The queue stops growing once
q_a exceeds what separates the arm from those that are shown, so the shortfall is a constant and its share goes to zero.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from policies.batch import FloatArray

ETA = 0.003
"""Part of pbar that one missing impression adds to an arm's worth."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exposure:
    """Queues of A arms.

    Attributes:
        floor: (A,) least share of shown slots, 0 asks for none.
        ceiling: (A,) largest share, 1 allows all.
        low: (A,) q, in units of value.
        high: (A,) r, in units of value.
    """

    floor: FloatArray
    ceiling: FloatArray
    low: FloatArray
    high: FloatArray

    @property
    def bonus(self) -> FloatArray:
        """(A,) q - r, what an arm's worth gains."""
        return self.low - self.high


def exposure(floor: FloatArray, ceiling: FloatArray | None = None) -> Exposure:
    """Queues before any impression.

    Raises:
        ValueError: shares outside [0, 1], a floor above its ceiling, or floors that add up to more than 1.

    >>> exposure(np.array([0.1, 0.0])).bonus.tolist()
    [0.0, 0.0]
    """
    top = np.ones(len(floor)) if ceiling is None else ceiling
    if top.shape != floor.shape or not (floor >= 0.0).all() or not (floor <= top).all() or not (top <= 1.0).all():
        raise ValueError(f"floor = {floor}, ceiling = {top}: must be (A,) each with 0 <= floor <= ceiling <= 1")
    if floor.sum() > 1.0 + 1e-12:
        raise ValueError(f"floors add up to {floor.sum()}; they are shares of the same slots: at most 1")
    return Exposure(floor=floor, ceiling=top, low=np.zeros(len(floor)), high=np.zeros(len(floor)))


def counted(state: Exposure, shown: FloatArray, *, pbar: float, eta: float = ETA) -> Exposure:
    """After slots that showed arm a `shown[a]` times, (A,); pbar is the mean value of a shown slot, above zero.

    >>> counted(exposure(np.array([0.1, 0.0])), np.array([0.0, 10.0]), pbar=0.05).bonus.round(6).tolist()
    [0.00015, 0.0]
    """
    if not 0.0 < pbar < np.inf:
        raise ValueError(f"pbar = {pbar}: must be finite and above zero")
    n, step = shown.sum(), eta * pbar
    return replace(
        state,
        low=np.maximum(0.0, state.low + step * (state.floor * n - shown)),
        high=np.maximum(0.0, state.high + step * (shown - state.ceiling * n)),
    )
