"""Audits that never sleep: whether logged propensities are true, and whether groups are as large as they should be.

**Propensities.** Of a decision with the true probability p_a, 1{a}/p_a has the mean 1 where a may be shown, and 0 elsewhere. With p the
logged value, and X = 1{a}/p for each row that came after the first of arm a::

    above   prod (1 + l (X - 1))            the arm is shown more often than its propensities say
    below   prod (1 - l (X - 1)/(M - 1))    it is shown less often; M = 1/least, the least propensity that it may have

averaged over fixed bets l in BETS, are nonnegative supermartingales while the means are at most 1, or at least 1. The first holds whatever
the candidates are, the second only where the arm is a candidate of every decision: give ``least`` there only. They are looked at on rows
of the arm itself, so one that is not shown at all raises no alarm: it may be gone.

**Sample-ratio mismatch.** s of n decisions fell to a group that should get the share b. Against b stands a Beta mixture around it::

    B(c b + s, c (1 - b) + n - s) / B(c b, c (1 - b)) / (b^s (1 - b)^(n - s)),   c = 1000

a martingale while the share is b (Robbins 1970; Lindon & Malek 2022). An alarm is raised where one of these reaches 1/a. The j-th test of
the k-th arm, or group, has a = LEVEL 36/(pi^4 k^2 j^2), the two sides of an arm half each: so the chance that there is ever a false alarm is
at most LEVEL for all propensities, and for all groups. After an alarm the test begins anew: one that comes again says that it still is so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import betaln, logsumexp

from policies.promotion import spending

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.batch import FloatArray
    from policies.promotion import Bits

LEVEL = 0.01
BETS = (0.5, 0.1, 0.02, 0.004)
CONCENTRATION = 1000.0

_L = np.array(BETS)
_NONE = (0.0,) * len(BETS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmAudit:
    """The test of one arm's propensities.

    Attributes:
        number: k, in the order in which arms were first seen.
        since: rows of the audit when it began; those after it count, whatever they show.
        alarms: raised so far.
        shown: rows that showed the arm.
        inverse: sum of 1/p over these.
        above, below: by bet, the sum over these of the log factor less that of a row which shows another arm.
    """

    number: int
    since: int
    alarms: int = 0
    shown: int = 0
    inverse: float = 0.0
    above: tuple[float, ...] = _NONE
    below: tuple[float, ...] = _NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareAudit:
    """The test of one group's share.

    Attributes:
        number: k, in the order in which groups were first tested.
        turn: j, of its tests; it begins anew after an alarm, and with another share.
        inside, outside: decisions of this turn.
    """

    number: int
    share: float
    turn: int = 1
    alarms: int = 0
    inside: int = 0
    outside: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """All audits of one policy: by arm, and by group; ``rows``: whose propensities were looked at."""

    arms: Mapping[str, ArmAudit] = field(default_factory=dict)
    shares: Mapping[str, ShareAudit] = field(default_factory=dict)
    rows: int = 0

    @property
    def alarms(self) -> int:
        """Raised so far."""
        return sum(one.alarms for one in self.arms.values()) + sum(one.alarms for one in self.shares.values())

    def mean(self, arm: str) -> float:
        """Mean of 1{a}/p since the arm's test began, near 1 if its propensities are true; NaN without rows.

        >>> Audit(arms={"a": ArmAudit(number=1, since=10, inverse=95.0)}, rows=110).mean("a")
        0.95
        """
        rows = self.rows - self.arms[arm].since
        return self.arms[arm].inverse / rows if rows else math.nan


def propensities_audited(
    state: Audit, arm: Sequence[str], propensity: FloatArray, *, least: float | None = None
) -> tuple[Audit, tuple[str, ...]]:
    """The audits after n more rows, and the alarms in words; the same however rows are cut into batches.

    Args:
        state: before these.
        arm: (n,) what was shown.
        propensity: (n,) as logged, above 0 and at most 1.
        least: the least propensity that any arm may have, where every arm is a candidate of every decision; None tests only whether
            arms are shown too often. A propensity below it counts as this.

    Raises:
        ValueError: a propensity out of range.

    >>> lying = np.full(4000, 0.25)  # the arms are shown every other time
    >>> propensities_audited(Audit(), ["a", "b"] * 2000, lying)[1][0]
    "propensities of arm 'a' are too small: the mean of 1{arm}/p is 2 over 68 decisions, 34 of them its own"
    """
    _check(propensity, least)
    names, codes = np.unique(np.array(arm, object).astype(str), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    rows_of = np.split(order, np.cumsum(np.bincount(codes, minlength=len(names)))[:-1])
    arms, words = dict(state.arms), []
    found = sorted(zip((int(rows[0]) for rows in rows_of), names.tolist(), rows_of, strict=True)) if len(names) else []
    for first, name, rows in found:
        if name not in arms:
            arms[name] = ArmAudit(number=len(arms) + 1, since=state.rows + first + 1)
        at = rows[state.rows + rows >= arms[name].since]
        while len(at):
            arms[name], used, why = _followed(
                arms[name], state.rows + at.astype(np.float64), 1.0 / propensity[at], least
            )
            if why:
                words.append((int(at[used - 1]), f"propensities of arm {name!r} are {why}"))
            at = at[used:]
    after = replace(state, arms=arms, rows=state.rows + len(codes))
    return after, tuple(text for _, text in sorted(words))


def share_audited(
    state: Audit, group: str, inside: Bits, *, share: float, level: float = LEVEL
) -> tuple[Audit, tuple[str, ...]]:
    """The audits after n more decisions, of which some fell to a group that should get a share of them; and the alarms in words.

    >>> share_audited(Audit(), "canary", np.arange(4000) % 5 == 0, share=0.1)[1][0]
    'canary got 79 of 391 decisions, 20.2%, where 10.0% are meant: what is logged is lost or made up for one group, or ids are not random'
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"share = {share}: must be between 0 and 1, neither included")
    known = state.shares.get(group)
    if known is None:
        known = ShareAudit(number=len(state.shares) + 1, share=share)
    elif known.share != share:
        known = ShareAudit(number=known.number, share=share, turn=known.turn + 1, alarms=known.alarms)
    words = []
    while len(inside):
        used, among = len(inside), np.cumsum(inside, dtype=np.float64)
        ours = known.inside + among
        theirs = known.outside + np.arange(1.0, used + 1.0) - among
        needed = -math.log(_spent(known.number, known.turn, level))
        reached = np.flatnonzero(_mismatch(ours, theirs, share) >= needed)
        if len(reached):
            used = int(reached[0]) + 1
        known = replace(known, inside=int(ours[used - 1]), outside=int(theirs[used - 1]))
        if len(reached):
            n = known.inside + known.outside
            words.append(
                f"{group} got {known.inside} of {n} decisions, {known.inside / n:.1%}, where {share:.1%} are meant: what is "
                "logged is lost or made up for one group, or ids are not random"
            )
            known = ShareAudit(number=known.number, share=share, turn=known.turn + 1, alarms=known.alarms + 1)
        inside = inside[used:]
    return replace(state, shares={**state.shares, group: known}), tuple(words)


def _followed(audit: ArmAudit, at: FloatArray, inverse: FloatArray, least: float | None) -> tuple[ArmAudit, int, str]:
    """The test after rows of the arm (by their place in the audit) up to an alarm; how many these are, and the alarm's words."""
    needed = -math.log(_spent(audit.number, audit.alarms + 1, LEVEL) / 2.0)
    rows = at - audit.since + 1.0
    above = _sums(audit.above, np.log1p(_L * (inverse[:, None] - 1.0)) - np.log1p(-_L))
    below, reached_below = np.tile(audit.below, (len(at), 1)), np.zeros(len(at), np.bool_)
    if least is not None and least < 1.0:
        bets = _L / (1.0 / least - 1.0)
        cut = np.minimum(inverse, 1.0 / least)[:, None]
        below = _sums(audit.below, np.log1p(-bets * (cut - 1.0)) - np.log1p(bets))
        reached_below = _averaged(below + rows[:, None] * np.log1p(bets)) >= needed
    reached_above = _averaged(above + rows[:, None] * np.log1p(-_L)) >= needed
    reached = np.flatnonzero(reached_above | reached_below)
    used = int(reached[0]) + 1 if len(reached) else len(at)
    total = float(np.cumsum(np.concatenate([[audit.inverse], inverse]))[used])
    shown = audit.shown + used
    if not len(reached):
        after = replace(audit, shown=shown, inverse=total, above=_plain(above[-1]), below=_plain(below[-1]))
        return after, used, ""
    n = int(rows[used - 1])
    size = "small" if reached_above[used - 1] else "large"
    why = f"too {size}: the mean of 1{{arm}}/p is {total / n:.4g} over {n} decisions, {shown} of them its own"
    return ArmAudit(number=audit.number, since=int(at[used - 1]) + 1, alarms=audit.alarms + 1), used, why


def _spent(number: int, turn: int, level: float) -> float:
    return spending(turn, level=spending(number, level=level))


def _mismatch(inside: FloatArray, outside: FloatArray, share: float) -> FloatArray:
    """(n,) log of the mixture's likelihood ratio against the share."""
    a, b = CONCENTRATION * share, CONCENTRATION * (1.0 - share)
    chance = inside * math.log(share) + outside * math.log1p(-share)
    ratio: FloatArray = betaln(a + inside, b + outside) - betaln(a, b) - chance
    return ratio


def _sums(start: tuple[float, ...], terms: FloatArray) -> FloatArray:
    """(n, bets) running sums, added one by one."""
    sums: FloatArray = np.cumsum(np.concatenate([np.array(start)[None], terms]), axis=0)[1:]
    return sums


def _averaged(logs: FloatArray) -> FloatArray:
    """(n,) log of the mean over bets."""
    mean: FloatArray = logsumexp(logs, axis=1) - math.log(len(BETS))
    return mean


def _plain(values: FloatArray) -> tuple[float, ...]:
    return tuple(values.tolist())


def _check(propensity: FloatArray, least: float | None) -> None:
    if least is not None and not 0.0 < least <= 1.0:
        raise ValueError(f"least = {least}: must be above 0 and at most 1")
    wrong = ~((propensity > 0.0) & (propensity <= 1.0))
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ValueError(f"propensity {i} is {propensity[i]}; must be above 0 and at most 1")
