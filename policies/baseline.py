"""What is not to be believed any more of an arm: a part of its sums, kept beside them and subtracted when they are read.

The sums themselves are never touched, so they stay a function of the log. With E(t) the arm's sums as they count at time t
(`Model.at`), forgetting at half-life H, and a cut at time c that keeps the share k::

    read(t) = E(t) - 2^(-(t - c)/H) B,    B = (1 - k) E(c)

E(c) holds only rows whose label was in, so rows that were pending at the cut count in full, with the clicks that come for
them later. Cutting again cuts what is left: B' = B 2^(-(c' - c)/H) + (1 - k) read(c').
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from policies.decay import forgetting
from policies.sums import Effective

if TYPE_CHECKING:
    from policies.batch import FloatArray

DRIFT_KEPT = 0.05
"""Share that is kept after a drift alarm."""
NOTHING_KEPT = 0.0
"""Share that is kept after an announced change: the arm is its prior again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """B at the time of the cut, ms of event time."""

    at_ms: int
    part: Effective


def cut(
    effective: Effective, before: Baseline | None, *, now_ms: int, kept: float, half_life_s: float = 0.0
) -> Baseline:
    """The baseline after a cut.

    Args:
        effective: the arm's sums as they count at `now_ms`, from `Model.at`; nothing subtracted.
        before: baseline so far, None if there was none.
        now_ms: event time of the cut, not before that of the last.
        kept: share of what is read that stays, 0 to 1.
        half_life_s: of the model.

    Raises:
        ValueError: `kept` is out of range, or the cut lies before the last one.

    >>> seen = Effective(n_eff=100.0, count=120.0, reward=10.0, square=10.0)
    >>> changed = cut(seen, None, now_ms=5, kept=0.05)
    >>> read(seen, changed, now_ms=5).n_eff, read(seen, changed, now_ms=5).count
    (5.0, 120.0)
    """
    if not 0.0 <= kept <= 1.0:
        raise ValueError(f"kept = {kept}: must be between 0 (nothing is believed any more) and 1 (everything)")
    left = read(effective, before, now_ms=now_ms, half_life_s=half_life_s)
    old = 0.0 if before is None else _weight(before, now_ms, half_life_s)
    part = left if before is None else before.part
    return Baseline(at_ms=now_ms, part=_combined(1.0 - kept, left, old, part))


def both(left: Baseline, right: Baseline, *, half_life_s: float = 0.0) -> Baseline:
    """What is not to be believed of two arms whose sums are read as one, at the later cut.

    >>> seen = Effective(n_eff=100.0, count=120.0, reward=10.0, square=10.0)
    >>> one = cut(seen, None, now_ms=5, kept=0.0)
    >>> both(one, one).part.n_eff
    200.0
    """
    at_ms = max(left.at_ms, right.at_ms)
    p, q = (_weight(one, at_ms, half_life_s) for one in (left, right))
    return Baseline(at_ms=at_ms, part=_combined(p, left.part, q, right.part))


def read(effective: Effective, baseline: Baseline | None, *, now_ms: int, half_life_s: float = 0.0) -> Effective:
    """An arm's sums without its baseline; `count` keeps all rows, as it counts what was shown.

    Raises:
        ValueError: the time lies before the cut.

    >>> read(Effective(n_eff=3.0, count=3.0, reward=1.0, square=1.0), None, now_ms=0).n_eff
    3.0
    """
    if baseline is None:
        return effective
    without = _combined(1.0, effective, -_weight(baseline, now_ms, half_life_s), baseline.part)
    return Effective(
        n_eff=max(without.n_eff, 0.0),
        count=effective.count,
        reward=without.reward,
        square=without.square,
        b=without.b,
        A=without.A,
    )


def _weight(baseline: Baseline, now_ms: int, half_life_s: float) -> float:
    if now_ms < baseline.at_ms:
        raise ValueError(f"now_ms = {now_ms}: must not be before the baseline's cut at {baseline.at_ms}")
    return forgetting(half_life_s).weight(since_ms=baseline.at_ms - now_ms)


def _combined(p: float, one: Effective, q: float, other: Effective) -> Effective:
    def add(left: FloatArray, right: FloatArray) -> FloatArray:
        return p * left + q * right

    return Effective(
        n_eff=p * one.n_eff + q * other.n_eff,
        count=one.count,
        reward=p * one.reward + q * other.reward,
        square=p * one.square + q * other.square,
        b=add(one.b, other.b),
        A=add(one.A, other.A),
    )
