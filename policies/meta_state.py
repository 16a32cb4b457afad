"""What is learned about the learning of one policy, as a value: how fast to forget, which arms changed, how long clicks take.

A pure function of the matured rows in the order of their records, one record of the feedback topic being one batch, and of
the means that were kept (policies/meta_means.py). Each row is scored by what every track expected of it before it was
shown; rows for which nothing is kept, because they are too old, are counted and not scored.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from policies.delay import Ages, no_ages, reweighted, with_ages
from policies.drift import Cusum, follow
from policies.ladder import MEMORY, Ladder, ladder, scored
from policies.position_state import Placed, placed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from policies.batch import FloatArray, IntArray
    from policies.meta_means import Means

ESTIMATE_CLICKS = 100
"""New clicks after which the weights of the delays are estimated again."""
LEAST_VARIANCE = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """Matured impressions of one policy that learn, in the order in which they matured.

    Attributes:
        arm: (n,) names.
        ts: (n,) when each was shown, ms UTC.
        x: (n, d) contexts as they entered the sums.
        reward: (n,) final rewards.
        age_ms: (n,) age of the first outcome that counted, -1 without one; None where the record does not tell.
        slot: (n,) names; None where they do not matter.
        group: (n,) code of who decided, see `policies.canary.CODES`; None where no row tells.
        snapshot: (n,) version decided from, -1 for none.
        propensity: (n,) as logged.
        exact: (n,) whether that is exact.
        unit: (n,) numbers of units, 0 for none; None where the record does not tell.
    """

    arm: Sequence[str]
    ts: IntArray
    x: npt.NDArray[np.floating]
    reward: FloatArray
    age_ms: IntArray | None = None
    slot: Sequence[str] | None = None
    group: IntArray | None = None
    snapshot: IntArray | None = None
    propensity: FloatArray | None = None
    exact: npt.NDArray[np.bool_] | None = None
    unit: npt.NDArray[np.uint64] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewards:
    """Rewards of the rows so far, each counting 0.9999 of the next: n, sum, sum of squares; `chances` while all were 0 or 1."""

    n: float = 0.0
    total: float = 0.0
    square: float = 0.0
    chances: bool = True

    @property
    def variance(self) -> float:
        """Pooled variance square/n - (total/n)^2; 0 without rows."""
        return max(self.square / self.n - (self.total / self.n) ** 2, 0.0) if self.n else 0.0

    def plus(self, reward: FloatArray) -> Rewards:
        """With the rewards (n,) of more rows.

        >>> Rewards().plus(np.array([0.0, 2.0])).chances
        False
        """
        weights = MEMORY ** np.arange(len(reward) - 1, -1, -1)
        kept = MEMORY ** len(reward)
        return Rewards(
            n=kept * self.n + float(weights.sum()),
            total=kept * self.total + float(weights @ reward),
            square=kept * self.square + float(weights @ reward**2),
            chances=self.chances and bool(np.isin(reward, (0.0, 1.0)).all()),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MetaState:
    """State of one policy.

    Attributes:
        ladder: scores of the tracks, and which decides.
        tests: CUSUM by arm.
        ages: how long clicks took.
        new_clicks: clicks since the weights were last estimated.
        weights: of the delays, in use; None are equal ones.
        rewards: their variance, for scores of rewards that are not 0/1.
        since_ms: by arm, when it was last reset: means taken before say nothing of it.
        announced: by arm, the time of the last announced change that was heeded, ms UTC.
        rows, unscored: matured rows that were scored, and those that could not be.
        offsets: next offset by partition of the feedback topic.
        reasons: of the last change, in words.
        seen: by slot, what position effects are estimated from (policies/position_state.py); None where they are not learned.
    """

    ladder: Ladder
    ages: Ages
    tests: Mapping[str, Cusum] = field(default_factory=dict)
    new_clicks: int = 0
    weights: tuple[float, ...] | None = None
    rewards: Rewards = field(default_factory=Rewards)
    since_ms: Mapping[str, int] = field(default_factory=dict)
    announced: Mapping[str, int] = field(default_factory=dict)
    rows: int = 0
    unscored: int = 0
    offsets: Mapping[int, int] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    seen: Placed | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a batch of rows changed: reasons in words, and the arms for which an alarm was raised."""

    reasons: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()


def first_state(half_lives_s: tuple[float, ...], *, window_ms: int, seen: Placed | None = None) -> MetaState:
    """Before any row.

    >>> first_state((0.0, 3600.0), window_ms=600_000).ladder.half_life_s
    0.0
    """
    return MetaState(ladder=ladder(half_lives_s), ages=no_ages(window_ms), seen=seen)


def judged(
    state: MetaState, rows: Rows, kept: Sequence[Means], *, delays_s: tuple[float, ...] = (), watch: bool = False
) -> tuple[MetaState, Told]:
    """The state after one record of matured rows, and what it changed.

    Args:
        state: before these rows.
        rows: the rows of one record.
        kept: what tracks expected at several times, oldest first.
        delays_s: grid of the mean delays whose weights are learned.
        watch: whether arms' click rates are tested for changes.
    """
    rewards = state.rewards.plus(rows.reward)
    found, predicted = expected(rows, kept, state.since_ms)
    reward = rows.reward[found]
    seen = state.seen
    if seen is not None and rows.slot is not None and len(found):
        here = [rows.slot[i] for i in found.tolist()]
        m = predicted[:, state.ladder.chosen]
        predicted = predicted * seen.of(here)[:, None]
        seen = placed(seen, here, [rows.arm[i] for i in found.tolist()], m, reward)
    after = replace(
        state,
        rewards=rewards,
        rows=state.rows + len(found),
        unscored=state.unscored + len(rows.reward) - len(found),
        seen=seen,
    )
    reasons: list[str] = []
    s2 = None if rewards.chances else rewards.variance
    if len(found) and len(state.ladder.scores) > 1 and (s2 is None or s2 > LEAST_VARIANCE):
        after_ladder, reason = scored(state.ladder, predicted, reward, s2=s2)
        after = replace(after, ladder=after_ladder)
        reasons += [reason] if reason else []
    alarms: tuple[str, ...] = ()
    if watch and rewards.chances and len(found):
        names = [rows.arm[i] for i in found.tolist()]
        tests, alarms = _tested(state.tests, names, predicted[:, state.ladder.chosen], reward)
        after = replace(after, tests=tests)
    after, reason = _timed(after, rows, delays_s)
    reasons += [reason] if reason else []
    return (replace(after, reasons=tuple(reasons)) if reasons else after), Told(reasons=tuple(reasons), alarms=alarms)


def expected(rows: Rows, kept: Sequence[Means], since_ms: Mapping[str, int]) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """Rows (m,) that can be scored, and (m, G) what each track expected of them by the newest means from before they were shown."""
    times = np.array([means.at_ms for means in kept], np.int64)
    at = np.searchsorted(times, rows.ts, side="left") - 1  # strictly before: sums at a time hold the rows of that time
    taken = np.where(at >= 0, times[at], -(2**62)) if len(times) else np.full(len(rows.ts), -(2**62))
    reset = np.array([since_ms.get(arm, -(2**62)) for arm in rows.arm], np.int64)
    found = np.flatnonzero((at >= 0) & (taken >= reset))
    tracks = kept[0].tracks if len(kept) else 1
    predicted = np.zeros((len(found), tracks))
    for j in np.unique(at[found]).tolist():
        here = at[found] == j
        which = found[here]
        predicted[here] = kept[j].predict([rows.arm[i] for i in which.tolist()], rows.x[which])
    return found, predicted


def _tested(
    tests: Mapping[str, Cusum], arm: Sequence[str], predicted: FloatArray, reward: FloatArray
) -> tuple[dict[str, Cusum], tuple[str, ...]]:
    names, codes = np.unique(np.array(arm, object).astype(str), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=len(names)))[:-1]
    p, r = np.split(np.clip(predicted, 0.0, 1.0)[order], ends), np.split(reward[order], ends)
    after, alarms = dict(tests), []
    for name, rates, rewards in zip(names.tolist(), p, r, strict=True):
        after[name], found = follow(after.get(name, Cusum()), rates, rewards)
        if len(found):
            alarms.append(name)
    return after, tuple(alarms)


def _timed(state: MetaState, rows: Rows, delays_s: tuple[float, ...]) -> tuple[MetaState, str]:
    """With the ages of the clicks, and in words why the weights changed."""
    if rows.age_ms is None:
        return state, ""
    ages = with_ages(state.ages, rows.age_ms, rows.ts)
    new = state.new_clicks + int(np.count_nonzero(rows.age_ms >= 0))
    if new < ESTIMATE_CLICKS:
        return replace(state, ages=ages, new_clicks=new), ""
    weights = reweighted(ages, delays_s, state.weights)
    state = replace(state, ages=ages, new_clicks=0)
    if weights is None:
        return state, ""
    shares = ", ".join(f"{delay:g} s {weight:.0%}" for delay, weight in zip(delays_s, weights, strict=True))
    return replace(state, weights=weights), f"click delays: {shares}, from {ages.clicks:.0f} clicks"
