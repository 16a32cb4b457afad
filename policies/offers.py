"""What a request offers: the worth of every arm in every slot, and which may be shown, as the explorers see them.

    M[l, a] = kappa_l (value_a - click_price_a) theta_a - price_a + bonus_a

theta_a is the expected reward of arm a in the first slot, with the posterior's mean and standard deviation; kappa from
policies/positions.py; price_a = lambda cost of an impression and click_price_a = lambda cost of a click from policies/budgets.py; bonus_a from
policies/exposure.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from policies.batch import FloatArray

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Terms:
    """What an arm's worth is made of beside its expected reward; (N,) each, None where there is none.

    Attributes:
        value: worth of a unit of reward, 1 unless given.
        click_price: dual price times the cost of a click.
        price: dual price times the cost of an impression.
        bonus: of exposure floors and ceilings.
    """

    value: FloatArray | None = None
    click_price: FloatArray | None = None
    price: FloatArray | None = None
    bonus: FloatArray | None = None


NO_TERMS = Terms()
ONE = np.ones(1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Offer:
    """K slots and N arms.

    Attributes:
        mean, sd: (K, N) expectation and standard deviation of M.
        eligible: (K, N) what may be shown where.
        full: whether that is everything.
        order: (K,) slots by kappa, the best first: they are filled in this order.
        rank_one: whether the best allocation is that of sorting: one kappa for each slot and one number for each arm.
        kappa: (K,) position effects.
        per_unit: (N,) or (1,) value less click price.
        reserve: worth of an empty slot; None is less than that of any arm.
    """

    mean: FloatArray
    sd: FloatArray
    eligible: Mask
    order: npt.NDArray[np.intp]
    rank_one: bool
    kappa: FloatArray
    per_unit: FloatArray
    reserve: float | None = None
    full: bool = False

    @property
    def scale(self) -> FloatArray:
        """(K,) worth of a unit of reward in a slot, the mean over arms."""
        return self.kappa * float(np.abs(self.per_unit).mean())


def offer(
    mean: FloatArray,
    sd: FloatArray,
    *,
    kappa: FloatArray,
    terms: Terms = NO_TERMS,
    eligible: Mask | None = None,
    reserve: float | None = None,
) -> Offer:
    """The offer of a request.

    Args:
        mean, sd: (N,) of theta, or (K, N) where slots have features of their own.
        kappa: (K,) position effects, not negative.
        terms: see `Terms`.
        eligible: (N,) or (K, N) what may be shown after eligibility, caps and budgets; None is everything.
        reserve: arms whose expected worth in a slot is below are not eligible there; a paced budget needs 0, so that nothing is shown
            at a loss. None shows whatever there is.

    Raises:
        ValueError: shapes do not fit, or a number is not finite.

    >>> asked = offer(np.array([0.1, 0.2]), np.zeros(2), kappa=np.array([1.0, 0.5]), terms=Terms(price=np.array([0.0, 0.15])),
    ...     reserve=0.0)
    >>> asked.mean.round(3).tolist(), asked.eligible.tolist()
    ([[0.1, 0.05], [0.05, -0.05]], [[True, True], [True, False]])
    """
    slots, n = len(kappa), mean.shape[-1]
    shared = mean.ndim == 1
    if mean.shape != sd.shape or mean.shape not in ((n,), (slots, n)) or not slots or not n:
        raise ValueError(f"mean has shape {mean.shape}, sd {sd.shape}; both must be (N,) or ({slots}, N), N above 0")
    if not kappa.min() >= 0.0:  # true for NaN
        raise ValueError(f"kappa = {kappa}: position effects must not be negative")
    per = per_unit(terms, n)
    added = added_of(terms, n)
    column = kappa[:, None]
    if per is not ONE:
        mean, sd = mean * per, sd * np.abs(per)
    M, S = column * mean, column * sd
    if added is not None:
        M += added
    if not math.isfinite(np.add.reduce(M, axis=None) + np.add.reduce(S, axis=None)):
        raise ValueError("an arm's worth is not finite: see mean, sd, kappa and the terms")
    mask = _everything(slots, n) if eligible is None else np.broadcast_to(eligible, (slots, n))
    if reserve is not None:
        mask = mask & (reserve <= M)
    full = eligible is None and reserve is None
    alike = full or bool((mask == mask[0]).all())
    return Offer(
        mean=M,
        sd=S,
        eligible=mask,
        order=(-kappa).argsort(kind="stable"),
        rank_one=shared and alike and (added is None or bool((kappa == kappa[0]).all())),
        kappa=kappa,
        per_unit=per,
        reserve=reserve,
        full=full,
    )


@lru_cache(maxsize=256)
def _everything(slots: int, n: int) -> Mask:
    """(K, N) true, read-only."""
    mask = np.ones((slots, n), bool)
    mask.flags.writeable = False
    return mask


def per_unit(terms: Terms, n: int) -> FloatArray:
    """(N,) or (1,) value less the price of a click."""
    value = ONE if terms.value is None else terms.value
    per = value if terms.click_price is None else value - terms.click_price
    if per.shape not in ((1,), (n,)):
        raise ValueError(f"value and click_price must be ({n},), one number for each arm; they make {per.shape}")
    return per


def added_of(terms: Terms, n: int) -> FloatArray | None:
    """(N,) bonus less the price of an impression; None if there is neither."""
    for name, term in (("price", terms.price), ("bonus", terms.bonus)):
        if term is not None and term.shape != (n,):
            raise ValueError(f"{name} has shape {term.shape}; must be ({n},), one number for each arm")
    if terms.price is None:
        return terms.bonus
    return -terms.price if terms.bonus is None else terms.bonus - terms.price
