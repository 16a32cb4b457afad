"""Position effects: how much a slot's place scales the click probability of what it shows, from feedback rows.

Position-based model (Richardson et al. 2007): P(click | slot l, group g) = kappa_l b_g m, where m is the probability that the
policy predicted for the first place (1 if none is given) and b_g corrects it for rows of one group, usually an arm. Estimated by EM
over whether a slot was looked at (Chuklin et al. 2015, chapter 4), on additive counts of each slot and group::

    looked at without a click:  kappa (1 - b m)/(1 - kappa b m)        kappa_l <- (clicks + looked at)/shown
    liked without a click:      b m (1 - kappa)/(1 - kappa b m)        b_g <- (clicks + liked)/(shown m)

Only products kappa_l b_g are seen, so kappa of the first slot is 1. A slot is told from the first one only through groups
that were shown in both (or by a chain of such): allocations that depend on the score alone confound place and merit, which
`swapped` undoes on a share of traffic. Standard errors are those of the binomial likelihood at the estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from policies.batch import FloatArray

ROUNDS, CLOSE = 2000, 1e-9
"""Rounds of EM at most, and the change of kappa at which they end."""

MOST = 1.0 - 1e-9
"""The largest probability."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Counts:
    """What estimation needs of rows: (L, G) shown, clicks and the sum of predicted probabilities, by slot and group."""

    shown: FloatArray
    clicks: FloatArray
    predicted: FloatArray

    def __add__(self, other: Counts) -> Counts:
        """Counts of both's rows."""
        return Counts(
            shown=self.shown + other.shown,
            clicks=self.clicks + other.clicks,
            predicted=self.predicted + other.predicted,
        )

    def __mul__(self, weight: float) -> Counts:
        """Counts whose rows weigh `weight` each, to forget old ones or to take them back."""
        return Counts(shown=weight * self.shown, clicks=weight * self.clicks, predicted=weight * self.predicted)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Positions:
    """Estimates: kappa (L,) with kappa[0] = 1, its standard error (L,) and the groups' b (G,).

    A slot that cannot be compared with the first keeps its start value and has the error inf.
    """

    kappa: FloatArray
    se: FloatArray
    b: FloatArray


def counts(
    slot: npt.NDArray[np.intp],
    group: npt.NDArray[np.intp],
    click: FloatArray,
    *,
    slots: int,
    groups: int,
    predicted: FloatArray | None = None,
) -> Counts:
    """Counts of n rows: slot, group, click (0 or 1) and predicted probability (n,) each.

    Raises:
        ValueError: a slot or group out of range, or a click that is neither 0 nor 1.

    >>> counts(np.array([0, 1]), np.array([0, 0]), np.array([1.0, 0.0]), slots=2, groups=1).clicks.tolist()
    [[1.0], [0.0]]
    """
    if len(slot) and not (slot.min() >= 0 and slot.max() < slots and group.min() >= 0 and group.max() < groups):
        raise ValueError(
            f"slots go from 0 to {slots - 1}, groups to {groups - 1}; rows have {slot.max()}, {group.max()}"
        )
    if not np.isin(click, (0.0, 1.0)).all():
        raise ValueError("a click is neither 0 nor 1: position effects are estimated from clicks, not from their value")
    cell, size = slot * groups + group, slots * groups
    m = np.ones(len(slot)) if predicted is None else predicted

    def table(weights: FloatArray) -> FloatArray:
        sums = np.zeros(size)
        np.add.at(sums, cell, weights)
        return sums.reshape(slots, groups)

    return Counts(shown=table(np.ones(len(slot))), clicks=table(click), predicted=table(m))


def estimate(seen: Counts, *, start: FloatArray | None = None) -> Positions:
    """Position effects by EM.

    Args:
        seen: counts, of the same groups in different slots.
        start: (L,) kappa of slots that cannot be compared yet; 1 for all unless told.

    >>> seen = Counts(shown=np.full((2, 1), 1000.0), clicks=np.array([[100.0], [50.0]]), predicted=np.full((2, 1), 1000.0))
    >>> estimate(seen).kappa.round(6).tolist()
    [1.0, 0.5]
    """
    n, c = seen.shown, seen.clicks
    kappa0 = np.ones(len(n)) if start is None else start / start[0]
    known = _comparable(seen)
    used = known[:, None] & (n > 0.0)
    n, c = np.where(used, n, 0.0), np.where(used, c, 0.0)
    m = np.where(used, seen.predicted / np.where(used, seen.shown, 1.0), 0.0)
    kappa, b = _matched(n, c, m, kappa0)
    for _ in range(ROUNDS):
        before = kappa / kappa[0]
        kappa, b = _em_round(n, c, m, kappa, b)
        if np.abs(kappa / kappa[0] - before)[known].max() < CLOSE:
            break
    b, kappa = b * kappa[0], kappa / kappa[0]
    return Positions(kappa=np.where(known, kappa, kappa0), se=_errors(n, m, kappa, b, known), b=b)


def _matched(n: FloatArray, c: FloatArray, m: FloatArray, kappa: FloatArray) -> tuple[FloatArray, FloatArray]:
    """A start near the end: kappa and b with which every slot and every group has as many clicks as were seen."""
    size = n * m
    kappa = kappa.copy()
    b = np.zeros(n.shape[1])
    for _ in range(200):
        b = c.sum(axis=0) / np.maximum(kappa @ size, 1e-300)
        kappa = np.maximum(c.sum(axis=1) / np.maximum(size @ b, 1e-300), 1e-6)
        kappa /= kappa[0]
    return kappa, b


def _em_round(
    n: FloatArray, c: FloatArray, m: FloatArray, kappa: FloatArray, b: FloatArray
) -> tuple[FloatArray, FloatArray]:
    b, kappa = b * kappa.max(), kappa / kappa.max()
    like = np.minimum(b * m, MOST)
    miss = (n - c) / np.maximum(1.0 - kappa[:, None] * like, 1e-12)
    looked, liked = c + miss * kappa[:, None] * (1.0 - like), c + miss * like * (1.0 - kappa[:, None])
    new = looked.sum(axis=1) / np.maximum(n.sum(axis=1), 1e-300)
    return np.clip(new, 1e-9, 1.0), liked.sum(axis=0) / np.maximum((n * m).sum(axis=0), 1e-300)


def _comparable(seen: Counts) -> npt.NDArray[np.bool_]:
    """(L,) whether groups with clicks link a slot to the first one."""
    link = (seen.shown > 0.0) & (seen.clicks.sum(axis=0) > 0.0)
    reached = np.zeros(len(link), bool)
    reached[0] = True
    for _ in range(len(link)):
        reached |= (link & link[reached].any(axis=0)).any(axis=1)
    return reached


def _errors(n: FloatArray, m: FloatArray, kappa: FloatArray, b: FloatArray, known: npt.NDArray[np.bool_]) -> FloatArray:
    """Standard errors from the information of log kappa_l and log b_g, w = n r/(1 - r) in each cell."""
    r = np.minimum(kappa[:, None] * b * m, MOST)
    w = n * r / (1.0 - r)
    se = np.full(len(n), np.inf)
    se[0] = 0.0
    rest = np.flatnonzero(known[1:]) + 1
    if len(rest):
        group = np.where(w.sum(axis=0) > 0.0, w.sum(axis=0), 1.0)
        information = np.diag(w.sum(axis=1)[rest]) - (w[rest] / group) @ w[rest].T
        se[rest] = kappa[rest] * np.sqrt(np.maximum(np.diag(np.linalg.pinv(information)), 0.0))
    return se


def swapped(arms: npt.NDArray[np.intp], *, share: float, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """(K,) the allocation with two of its slots, drawn at random, exchanged in a share of cases.

    Only where every arm may stand in every slot. What was drawn does not depend on the arms, so the
    marginal propensities are those of `swapped_law`.

    >>> swapped(np.array([7, 8]), share=1.0, rng=np.random.default_rng(1)).tolist()
    [8, 7]
    """
    if len(arms) < 2 or rng.random() >= share:
        return arms
    first, second = rng.choice(len(arms), 2, replace=False)
    out = arms.copy()
    out[first], out[second] = arms[second], arms[first]
    return out


def swapped_law(p: FloatArray, *, share: float) -> FloatArray:
    """(K, N) marginal probabilities after `swapped`, from those before.

    >>> swapped_law(np.array([[1.0, 0.0], [0.0, 1.0]]), share=0.1).tolist()
    [[0.9, 0.1], [0.1, 0.9]]
    """
    slots = len(p)
    if slots < 2:
        return p
    moved = share * 2.0 / slots
    out: FloatArray = (1.0 - moved) * p + moved * (p.sum(axis=0) - p) / (slots - 1)
    return out
