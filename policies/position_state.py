"""Position effects as they are learned while a policy runs: counts of matured rows, and the effects in use.

A row counts with what the policy expected of it in the first slot (policies/positions.py, where m is that probability), in one of
GROUPS groups by its arm, so that the counts stay small whatever the number of arms. Rows count MEMORY of the next one: pages are
laid out anew now and then. Effects in use change when an estimate lies away from them by more than
its standard error and by more than LEAST_CHANGE of them, so that sums are not scaled by noise.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from policies.positions import Counts, counts, estimate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from policies.batch import FloatArray

GROUPS = 64
MEMORY = 0.999999
"""What a row still counts after the next one."""
LEAST_CHANGE = 0.01
"""Relative change of an effect below which it stays as it is."""
LEAST_CLICKS = 30
"""Clicks in a slot before its effect is estimated."""
LEAST_KAPPA = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placed:
    """State of one policy.

    Attributes:
        slots: the L slots that effects are learned of; the first one's is 1.
        kappa: (L,) effects in use.
        start: (L,) effects of the settings, in units of the first slot's.
        seen: counts (L, GROUPS).
    """

    slots: tuple[str, ...]
    kappa: FloatArray
    start: FloatArray
    seen: Counts

    def of(self, slot: Sequence[str]) -> FloatArray:
        """(n,) effects in use; 1 for slots that are not learned of."""
        return np.array([self.effects.get(name, 1.0) for name in slot])

    @property
    def effects(self) -> dict[str, float]:
        """Effects in use by slot."""
        return dict(zip(self.slots, self.kappa.tolist(), strict=True))


def no_rows(start: Mapping[str, float]) -> Placed:
    """Before any row, with the effects of the settings by slot, the first of which is the unit.

    Raises:
        ValueError: fewer than two slots, or an effect that is not above zero.

    >>> no_rows({"top": 1.0, "side": 0.5}).effects
    {'top': 1.0, 'side': 0.5}
    """
    values = np.array(list(start.values()), np.float64)
    if len(values) < 2 or not (values > 0.0).all():
        raise ValueError(f"positions start at {dict(start)}: two or more slots are needed, with effects above zero")
    zeros = np.zeros((len(values), GROUPS))
    kappa = values / values[0]
    return Placed(slots=tuple(start), kappa=kappa, start=kappa, seen=Counts(shown=zeros, clicks=zeros, predicted=zeros))


def placed(state: Placed, slot: Sequence[str], arm: Sequence[str], predicted: FloatArray, reward: FloatArray) -> Placed:
    """After n matured rows.

    Args:
        state: before them.
        slot, arm: (n,) names; rows in slots that are not learned of are passed over.
        predicted: (n,) expected rewards in the first slot.
        reward: (n,) final rewards, of which the click is whether there is one.

    >>> state = placed(no_rows({"top": 1.0, "side": 1.0}), ["side", "menu"], ["a", "a"], np.array([0.2, 0.2]), np.array([1.0, 0.0]))
    >>> state.seen.shown.sum(axis=1).tolist(), state.seen.clicks.sum(axis=1).tolist()
    ([0.0, 1.0], [0.0, 1.0])
    """
    place = {name: i for i, name in enumerate(state.slots)}
    at = np.array([place.get(name, -1) for name in slot], np.intp)
    known = np.flatnonzero(at >= 0)
    if not len(known):
        return state
    new = counts(
        at[known],
        np.array([zlib.crc32(arm[i].encode()) % GROUPS for i in known.tolist()], np.intp),
        (reward[known] > 0.0).astype(np.float64),
        slots=len(state.slots),
        groups=GROUPS,
        predicted=np.clip(predicted[known], 1e-6, 1.0),
    )
    return replace(state, seen=state.seen * MEMORY ** len(known) + new)


def settled(state: Placed) -> tuple[Placed, tuple[str, ...]]:
    """With the effects estimated anew where that is worth a change, and the changes in words.

    >>> seen = Counts(shown=np.full((2, GROUPS), 1000.0), clicks=np.array([[100.0], [50.0]]) * np.ones(GROUPS),
    ...     predicted=np.full((2, GROUPS), 100.0))
    >>> settled(replace(no_rows({"top": 1.0, "side": 1.0}), seen=seen))[1]
    ('position effect of side 1 -> 0.5 +- 0.01, from 3200 clicks there',)
    """
    clicks = state.seen.clicks.sum(axis=1)
    if clicks[0] < LEAST_CLICKS or not (clicks[1:] >= LEAST_CLICKS).any():
        return state, ()
    found = estimate(state.seen, start=state.start)
    kappa, reasons = state.kappa.copy(), []
    for i in range(1, len(kappa)):
        new, se = max(float(found.kappa[i]), LEAST_KAPPA), float(found.se[i])
        if clicks[i] < LEAST_CLICKS or not math.isfinite(se):
            continue
        if abs(new - kappa[i]) > max(se, LEAST_CHANGE * kappa[i]):
            reasons.append(
                f"position effect of {state.slots[i]} {kappa[i]:.3g} -> {new:.3g} +- {se:.2g}, from {clicks[i]:.0f} clicks there"
            )
            kappa[i] = new
    return (replace(state, kappa=kappa), tuple(reasons)) if reasons else (state, ())
