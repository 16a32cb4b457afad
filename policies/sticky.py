"""The test of a sticky candidate: rows are gathered by visit, and a period's visits are bet on when it is over.

A visit is one unit in one period (policies/canary.py); its group is drawn by itself, and it makes exactly one bet, on its mean reward. So
visits are independent, however much the decisions of one depend on each other, and nothing of a period is remembered once it is settled.
A period is settled when matured rows are SLACK_MS past its end, its visits in the order of their units' numbers: then neither wealth
nor verdict depends on the order in which partitions were read. Rows that come for it later are left out and counted (``late``).

A row counts for the visit that its unit and its own time name. Where that is not of the group that the row tells (it was shown in another
period than it was decided in, its ad server does not keep groups, or it has no unit), it is left out and counted (``strays``).

What was gathered is no part of the state (it is read again): a `Periods` holds from which offsets on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from policies.audit import share_audited
from policies.canary import CODES, Visit
from policies.promotion import judged
from policies.visits import Tally, tally, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policies.batch import IntArray
    from policies.canary import Canary
    from policies.meta_state import Rows
    from policies.promotion import Bits
    from policies.trials import Trials, Trying

SLACK_MS = 600_000
"""How far matured rows must be past a period's end: events may say to be of 5 minutes ahead, and partitions are not equally far."""
LONGEST_S = 518_400
"""Six days: matured rows are kept for seven, and those of an open period must still be there for a new leader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Periods:
    """Where the test of a sticky candidate stands.

    Attributes:
        over: number of the first period that is not settled; periods count from 1970.
        newest_ms: of all rows of the policy since the candidate came, the largest time; -1 before any.
        first: by period that is not settled and partition of the feedback topic, the offset of the first record that has rows of it.
        late, strays: rows that were left out.
    """

    over: int = 0
    newest_ms: int = -1
    first: dict[int, dict[int, int]] = field(default_factory=dict)
    late: int = 0
    strays: int = 0

    def again(self, partition: int, position: int) -> int:
        """The offset from which a partition is to be read by who has gathered nothing; `position` if there is nothing to read again.

        >>> Periods(first={7: {0: 5, 1: 9}, 8: {0: 12}}).again(0, 20), Periods().again(0, 20)
        (5, 20)
        """
        return min([position, *(by[partition] for by in self.first.values() if partition in by)])


def refused(sticky_s: int, *, kept: bool) -> str | None:
    """Why a candidate cannot be sticky, None if it can; ``kept``: whether matured rows say whose they are.

    >>> refused(86_400, kept=True) is None
    True
    """
    if not 0 <= sticky_s <= LONGEST_S:
        return f"sticky_s = {sticky_s}: must be whole seconds from 1 to {LONGEST_S}, or 0 to assign each decision by itself; for example 86400"
    if sticky_s and not kept:
        return (
            f"sticky_s = {sticky_s}: matured rows of this policy do not say whose they are, so nothing could be bet on; set "
            "sticky_canaries = true for the policy, restart learners and publishers, and propose it again; or leave --sticky out"
        )
    return None


def gathered(
    trying: Trying, rows: Rows, *, bounds: tuple[float, float], partition: int, offset: int, again: bool
) -> tuple[Trying, dict[int, Tally]]:
    """The candidate after one record of matured rows, and by period that is open what the record adds to its visits.

    Args:
        trying: a sticky candidate, before the record.
        rows: with groups, snapshots and units.
        bounds: least and largest reward; what lies beyond is cut.
        partition, offset: of the record.
        again: whether it was counted before, and is read for what it adds only.
    """
    state, period_ms = trying.periods, 1000 * trying.canary.sticky_s
    if not again and len(rows.ts):
        state = replace(state, newest_ms=max(state.newest_ms, int(rows.ts.max())))
    ours = of_test(rows, trying.since_version)
    good = _in_their_group(trying.canary, rows, ours)
    strays, ours = len(ours) - int(good.sum()), ours[good]
    period = rows.ts[ours] // period_ms
    if not again:
        state = replace(
            state, strays=state.strays + strays, late=state.late + int(np.count_nonzero(period < state.over))
        )
    found: dict[int, Tally] = {}
    reward = np.clip((rows.reward[ours] - bounds[0]) / (bounds[1] - bounds[0]), 0.0, 1.0)
    for number in np.unique(period[period >= state.over]).tolist():
        first = state.first.get(number, {}).get(partition)
        if again and (first is None or offset < first):
            continue
        if first is None:
            by = {**state.first.get(number, {}), partition: offset}
            state = replace(state, first={**state.first, number: by})
        at = period == number
        if rows.unit is not None and rows.group is not None:
            units = rows.unit[ours[at]]
            found[number] = tally(units, rows.group[ours[at]] == CODES["canary"], reward[at])
    return replace(trying, periods=state), found


def settled(
    state: Trials, gathered: Mapping[int, tuple[Tally, ...]], *, clock_ms: int
) -> tuple[Trials, dict[int, tuple[Tally, ...]], tuple[str, ...]]:
    """The state once the periods have had their bets that are over at a time of matured rows; what is open; alarms in words."""
    trying = state.trying
    if trying is None or not trying.canary.sticky_s:
        return state, {}, ()
    over = max(trying.periods.over, (clock_ms - SLACK_MS) // (1000 * trying.canary.sticky_s))
    if over == trying.periods.over:
        return state, dict(gathered), ()
    audit, test = state.audit, trying.test
    alarms: tuple[str, ...] = ()
    for number in sorted(number for number in trying.periods.first if number < over):
        visits = whole(gathered.get(number, ()))
        name = f"candidate {trying.canary.number} (visits)"
        audit, more = share_audited(audit, name, visits.canary, share=trying.canary.share)
        alarms += more
        test = judged(test, visits.canary, visits.means)
    first = {number: by for number, by in trying.periods.first.items() if number >= over}
    trying = replace(trying, test=test, periods=replace(trying.periods, over=over, first=first))
    left = {number: tallies for number, tallies in gathered.items() if number >= over}
    return replace(state, trying=trying, audit=audit), left, alarms


def of_test(rows: Rows, since_version: int) -> IntArray:
    """Places of the rows that count for a candidate: of its group or the incumbent's, and not decided before it came."""
    if rows.group is None or rows.snapshot is None:
        return np.zeros(0, np.int64)
    shared = (rows.group == CODES["canary"]) | (rows.group == CODES["incumbent"])
    places: IntArray = np.flatnonzero(shared & (rows.snapshot >= since_version))
    return places


def _in_their_group(canary: Canary, rows: Rows, places: IntArray) -> Bits:
    """Of these rows, which tell the group that their visit has."""
    if rows.unit is None or rows.group is None:
        return np.zeros(len(places), np.bool_)
    period_ms, good = 1000 * canary.sticky_s, []
    units, period = rows.unit[places].tolist(), (rows.ts[places] // period_ms).tolist()
    drawn: dict[tuple[int, int], int] = {}
    for unit, number, told in zip(units, period, rows.group[places].tolist(), strict=True):
        code = drawn.get((unit, number)) if unit else 0
        if code is None:
            group = "canary" if canary.decides("", Visit(unit, number * period_ms)) else "incumbent"
            code = drawn[unit, number] = CODES[group]
        good.append(code == told)
    return np.array(good, np.bool_)
