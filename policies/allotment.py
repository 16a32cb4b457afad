"""What a snapshot says of slots and budgets beside the arms' posteriors: the published terms of allocation.

As a map in the snapshot's head, each part left out if it is empty::

    kappa    {slot: position effect}, of slots that were seen; others have the settings' own
    price    {budget: dual price, value per cost}; see policies/budgets.py
    closed   [budgets that nothing may draw on: spent, or paused]
    bonus    {arm: what its worth gains in units of value}; see policies/exposure.py
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

EMPTY: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Allotment:
    """Terms that hold for every decision of a snapshot; see the module.

    Raises:
        ValueError: a number that is not finite, a position effect or a price below zero.

    >>> Allotment(price={"spring": -1.0})
    Traceback (most recent call last):
    ValueError: price of 'spring' = -1.0: must be finite and not negative
    """

    kappa: Mapping[str, float] = field(default_factory=dict)
    price: Mapping[str, float] = field(default_factory=dict)
    closed: frozenset[str] = frozenset()
    bonus: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, terms in (("kappa", self.kappa), ("price", self.price)):
            for key, value in terms.items():
                if not 0.0 <= value < math.inf:
                    raise ValueError(f"{name} of {key!r} = {value}: must be finite and not negative")
        for key, value in self.bonus.items():
            if not math.isfinite(value):
                raise ValueError(f"bonus of {key!r} = {value}: must be finite")

    def __bool__(self) -> bool:
        return bool(self.kappa or self.price or self.closed or self.bonus)


NO_ALLOTMENT = Allotment()


def fields_of(terms: Allotment) -> dict[str, Any]:
    """The map of the head.

    >>> fields_of(Allotment(price={"spring": 0.5}, closed=frozenset({"autumn"})))
    {'price': {'spring': 0.5}, 'closed': ['autumn']}
    """
    parts = {
        "kappa": dict(terms.kappa),
        "price": dict(terms.price),
        "closed": sorted(terms.closed),
        "bonus": dict(terms.bonus),
    }
    return {name: part for name, part in parts.items() if part}


def allotment_of(fields: Mapping[str, Any]) -> Allotment:
    """From the map of the head; parts that are not known are ignored.

    Raises:
        ValueError: as `Allotment`, or a part is of another type.

    >>> allotment_of({"closed": ["autumn"], "later": 1}).closed
    frozenset({'autumn'})
    """
    try:
        return Allotment(
            kappa={str(key): float(value) for key, value in fields.get("kappa", EMPTY).items()},
            price={str(key): float(value) for key, value in fields.get("price", EMPTY).items()},
            closed=frozenset(str(name) for name in fields.get("closed", ())),
            bonus={str(key): float(value) for key, value in fields.get("bonus", EMPTY).items()},
        )
    except (AttributeError, TypeError) as error:
        raise ValueError(f"an allotment must be a map of maps, and closed a list: {error}; it is {fields!r}") from error
