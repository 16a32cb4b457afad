"""How long clicks take, from rows whose window has closed: the mean, and the weights of a mixture on a fixed grid.

With the window W, component k of the mean delay mu_k has the density of an exponential cut at W, and clicks mix them::

    f_k(u) = exp(-u/mu_k) / (mu_k (1 - exp(-W/mu_k))),   f = sum_k v_k f_k,   0 <= u < W

Ages are counted in bins of fixed, log-spaced edges, forgotten by event time (policies/decay.py): a state of 65 numbers that
adds up in any order. The weights v are its maximum likelihood, by expectation-maximisation on the bins; they are what
`Model.at` weighs the pending accumulators with. Only matured rows may be added: a window that is still open shows its
early clicks only, and the estimate comes out short (365 for a true 600).

A delay that is not well below the window is corrected a little too much: sum_k v_k exp(-u/mu_k) exceeds the share of clicks that
are still to come within the window by at most the largest exp(-W/mu_k).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import brentq

from policies.decay import EARLIEST_MS, Decay

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.batch import FloatArray, IntArray

PER_OCTAVE, OCTAVES = 4, 16
"""Bins: four for each doubling, sixteen doublings below the window, and one for what is shorter."""
HALF_LIFE_MS = 86_400_000.0
"""Half-life of an age that was seen, or the window if that is longer: how people click changes by days."""
LEAST_CLICKS = 1000.0
"""Weight of clicks below which no weights are told: by chance alone a share of 1,000 errs by 0.043 at some age (95%, DKW)."""
MOVED = 0.05
"""Weights matter when they change the share of clicks that are still to come by more than this at some age."""
ROUNDS = 500


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ages:
    """Ages of clicks by bin, additive.

    Attributes:
        window_ms: W.
        counts: (65,) weight of the clicks in each bin, at the landmark.
        total_ms: sum of weight times age.
        landmark_ms, newest_ms: as in `policies.sums.Sums`, of the impressions' times.
    """

    window_ms: int
    counts: FloatArray
    total_ms: float = 0.0
    landmark_ms: int = 0
    newest_ms: int = EARLIEST_MS

    @property
    def clicks(self) -> float:
        """Weight of all clicks, when the newest was shown."""
        return float(self.counts.sum()) * self._kept

    @property
    def mean_age_s(self) -> float:
        """Mean age in seconds; NaN without clicks."""
        n = float(self.counts.sum())
        return self.total_ms / n / 1000.0 if n > 0.0 else math.nan

    @property
    def _kept(self) -> float:
        return decay(self.window_ms).weight(since_ms=self.landmark_ms - self.newest_ms)


def decay(window_ms: int) -> Decay:
    """How ages are forgotten."""
    return Decay(half_life_ms=max(HALF_LIFE_MS, float(window_ms)))


def no_ages(window_ms: int) -> Ages:
    """Before any click.

    >>> no_ages(600_000).clicks
    0.0
    """
    nothing = np.zeros(PER_OCTAVE * OCTAVES + 1)
    return Ages(window_ms=window_ms, counts=nothing, landmark_ms=decay(window_ms).landmark_ms(EARLIEST_MS))


def edges_s(window_s: float) -> FloatArray:
    """(66,) edges of the bins in seconds, from 0 to the window.

    >>> edges_s(600.0)[[0, -5, -1]].tolist()
    [0.0, 300.0, 600.0]
    """
    powers = np.arange(-PER_OCTAVE * OCTAVES, 1) / PER_OCTAVE
    edges: FloatArray = np.concatenate([[0.0], window_s * np.exp2(powers)])
    return edges


def with_ages(before: Ages, age_ms: IntArray, ts: IntArray) -> Ages:
    """With the clicks of n matured impressions: ages (n,), negative where no click counted, and times (n,) when they were shown.

    >>> one = with_ages(no_ages(600_000), np.array([300_000, -1]), np.array([10, 20]))
    >>> round(one.clicks, 9), round(one.mean_age_s, 9)
    (1.0, 300.0)
    """
    told = (age_ms >= 0) & (age_ms <= before.window_ms)
    ages, shown = age_ms[told], ts[told]
    if not len(ages):
        return before
    rule = decay(before.window_ms)
    newest = max(before.newest_ms, int(shown.max()))
    landmark = rule.landmark_ms(newest)
    weights = rule.weights(shown - landmark)
    bins = np.searchsorted(edges_s(before.window_ms / 1000.0), ages / 1000.0, side="right") - 1
    counts = np.bincount(np.minimum(bins, len(before.counts) - 1), weights, minlength=len(before.counts))
    old = rule.weight(since_ms=before.landmark_ms - landmark)
    total = float(ages @ weights) if weights is not None else float(ages.sum())
    return replace(
        before,
        counts=old * before.counts + counts,
        total_ms=old * before.total_ms + total,
        landmark_ms=landmark,
        newest_ms=newest,
    )


def merged(left: Ages, right: Ages) -> Ages:
    """Ages of both; of the same window."""
    rule, newest = decay(left.window_ms), max(left.newest_ms, right.newest_ms)
    landmark = rule.landmark_ms(newest)
    p, q = (rule.weight(since_ms=one.landmark_ms - landmark) for one in (left, right))
    total = p * left.total_ms + q * right.total_ms
    return replace(
        left, counts=p * left.counts + q * right.counts, total_ms=total, landmark_ms=landmark, newest_ms=newest
    )


def mean_delay_s(mean_age_s: float, window_s: float) -> float:
    """The mean delay mu of one exponential whose clicks within the window have this mean age (both in seconds).

    Solves ``age = mu - W/(exp(W/mu) - 1)``, the maximum likelihood; infinite from half the window on, where nothing falls off.

    >>> round(mean_delay_s(300.0 - 600.0 / (math.exp(2.0) - 1.0), 600.0), 6)
    300.0
    >>> mean_delay_s(300.0, 600.0)
    inf
    """
    if not 0.0 < mean_age_s < 0.499 * window_s:
        return 0.0 if mean_age_s == 0.0 else math.inf if mean_age_s > 0.0 else math.nan

    def surplus(rate: float) -> float:  # rate = W/mu
        return 1.0 / rate - math.exp(-rate) / -math.expm1(-rate) - mean_age_s / window_s

    return window_s / float(brentq(surplus, 1e-3, 2.0 * window_s / mean_age_s, xtol=1e-12))


def mixture(counts: FloatArray, delays_s: Sequence[float], window_s: float) -> FloatArray:
    """(K,) weights v of the delays, the maximum likelihood for counts (65,) of ages by bin; equal without counts.

    Each round gives every bin's clicks to the components by what they make likely, ``v_k <- sum_j (h_j/n) v_k q_kj/sum_l v_l q_lj``.

    >>> edges = edges_s(600.0)
    >>> mixture(-np.diff(np.exp(-edges / 30.0)), (30.0, 200.0), 600.0).round(3).tolist()
    [1.0, 0.0]
    """
    mean = np.array(delays_s, np.float64)[:, None]
    weights = np.full(len(mean), 1.0 / len(mean))
    n = float(counts.sum())
    if not n > 0.0:
        return weights
    likely = -np.diff(np.exp(-edges_s(window_s) / mean), axis=1) / -np.expm1(-window_s / mean)
    for _ in range(ROUNDS):
        joint = weights[:, None] * likely + 1e-300
        after = joint @ (counts / joint.sum(axis=0)) / n
        moved, weights = float(np.abs(after - weights).max()), after / after.sum()
        if moved < 1e-9:
            break
    return weights


def to_come(weights: Sequence[float], delays_s: Sequence[float], age_s: FloatArray) -> FloatArray:
    """(n,) share of clicks that are still to come at these ages, sum_k v_k exp(-u/mu_k).

    >>> to_come((0.5, 0.5), (10.0, 20.0), np.array([0.0])).tolist()
    [1.0]
    """
    share: FloatArray = np.array(weights) @ np.exp(-age_s / np.array(delays_s, np.float64)[:, None])
    return share


def reweighted(ages: Ages, delays_s: tuple[float, ...], used: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """New weights if they are known well enough and matter (LEAST_CLICKS, MOVED), else None. `used` None are equal ones."""
    if len(delays_s) < 2 or ages.clicks < LEAST_CLICKS:
        return None
    window_s = ages.window_ms / 1000.0
    old = used or (1.0 / len(delays_s),) * len(delays_s)
    new = tuple(mixture(ages.counts, delays_s, window_s).tolist())
    at = edges_s(window_s)
    gap = float(np.abs(to_come(new, delays_s, at) - to_come(old, delays_s, at)).max())
    return new if gap > MOVED else None
