"""What outcomes do to their impression: earn reward, show that it was seen, or take something back. Pure functions of a set.

What an impression is worth follows from the set of outcomes that came in time, never from the order in which they came:

1. A retraction takes back the outcome that it names (``of``) as though it had never come. It takes back anything but a
   retraction, so a refund or an ``invalid`` that was a mistake can be taken back as well.
2. An impression counts unless an ``invalid`` is left, and where impressions count on being viewable, only if a viewable
   event is left.
3. A refund takes its value from that of the outcome that it names, never beyond zero. What was refunded in full is still an
   outcome, of reward 0; what was retracted is none.

Sums of refunds are exact (`math.fsum`), so they too are a function of the set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import copysign, fsum
from typing import NamedTuple

import msgspec

EARNS = 1
"""Of an outcome: it enters the reward of its impression."""
SHOWS = 2
"""It tells that the impression was seen."""
RETRACTS = 4
"""It takes back a whole outcome."""
REFUNDS = 8
"""It takes back some of an outcome's value."""
VOIDS = 16
"""It takes back the whole impression."""

TAKING_BACK = {"retraction": RETRACTS, "refund": REFUNDS, "invalid": VOIDS}
"""Kinds with a meaning of their own, which no policy may list among its outcomes, and what they do."""


class Seen(msgspec.Struct, frozen=True, gc=False):
    """An outcome that belongs to a pending row. ``reward`` is None if it fell outside the window.

    ``value``: as it came; ``worth``: what the policy multiplies it by; ``of``: the outcome that it takes back; ``cost``: what it costs
    or, if it takes something back, returns; None for nothing, NaN for what the settings say.
    """

    outcome_id: str
    ts: int
    reward: float | None
    leaves: int
    does: int = EARNS
    value: float = 0.0
    worth: float = 1.0
    of: str | None = None
    cost: float | None = None


class Dues(NamedTuple):
    """What the outcomes of an impression cost: a sum that they say, and how many clicks and impressions at the settings' own price."""

    cost: float = 0.0
    clicks: int = 0
    shown: int = 0

    def less(self, other: Dues) -> Dues:
        """What is due beyond what was."""
        return Dues(self.cost - other.cost, self.clicks - other.clicks, self.shown - other.shown)


def dues(seen: Sequence[Seen], *, viewable: bool) -> Dues:
    """What the outcomes of one impression cost, a function of their set.

    What counts costs what it says. A retraction leaves nothing to pay for what it takes back; a refund returns what it says itself;
    an ``invalid`` returns all of it, and the impression.

    >>> click, back = Seen("o1", 20, 1.0, 0, cost=0.25), Seen("o2", 30, 0.0, 0, RETRACTS, of="o1")
    >>> dues([click], viewable=False).cost, dues([click, back], viewable=False).cost
    (0.25, 0.0)
    >>> dues([click, Seen("o2", 30, 0.0, 0, VOIDS, cost=math.nan)], viewable=False)
    Dues(cost=0.0, clicks=0, shown=-1)
    """
    left = _left([one for one in seen if one.reward is not None])
    voids = [one for one in left if one.does == VOIDS]
    if voids:
        told = [one.cost for one in voids if one.cost is not None and not math.isnan(one.cost)]
        return Dues(cost=-max(told)) if told else Dues(shown=-1)
    if viewable and not any(one.does & SHOWS for one in left):
        return Dues()
    signed = [(-1.0 if one.does == REFUNDS else 1.0, one.cost) for one in left if one.cost is not None]
    return Dues(
        fsum(sign * cost for sign, cost in signed if not math.isnan(cost)),
        sum(math.isnan(cost) for sign, cost in signed if sign > 0.0),
    )


def counting(seen: Sequence[Seen], *, viewable: bool) -> Sequence[Seen] | None:
    """The outcomes that earn, less what was refunded, of an impression that counts; None if it does not count.

    Args:
        seen: outcomes of one impression, in any order.
        viewable: whether it counts only if it was seen.

    >>> buy, back = Seen("o1", 20, 8.0, 0, value=2.0, worth=4.0), Seen("o2", 30, 0.0, 0, REFUNDS, value=0.5, of="o1")
    >>> [one.reward for one in counting([back, buy], viewable=False)]
    [6.0]
    >>> counting([buy, Seen("o2", 30, 0.0, 0, RETRACTS, of="o1")], viewable=False)
    []
    >>> counting([buy], viewable=True) is None
    True
    """
    for one in seen:
        if one.does != EARNS:
            break
    else:  # the usual case
        return None if viewable else seen
    left = _left([one for one in seen if one.reward is not None])
    if any(one.does == VOIDS for one in left) or (viewable and not any(one.does & SHOWS for one in left)):
        return None
    refunds: dict[str | None, list[float]] = {}
    for one in left:
        if one.does == REFUNDS:
            refunds.setdefault(one.of, []).append(one.value)
    return [_refunded(one, refunds.get(one.outcome_id)) for one in left if one.does & EARNS]


def _left(seen: Sequence[Seen]) -> Sequence[Seen]:
    """Those that no retraction takes back."""
    retracted = {one.of for one in seen if one.does == RETRACTS}
    return [one for one in seen if one.does == RETRACTS or one.outcome_id not in retracted] if retracted else seen


def _refunded(one: Seen, refunds: Sequence[float] | None) -> Seen:
    if refunds is None:
        return one
    left = copysign(max(abs(one.value) - fsum(refunds), 0.0), one.value) + 0.0  # no negative zero
    return msgspec.structs.replace(one, value=left, reward=one.worth * left)


def back_reason(kind: str, outcome_id: str, of: str | None, value: float) -> str | None:
    """Why an outcome of this kind cannot take back what it names, None if it can or takes nothing back.

    >>> back_reason("retraction", "r1", "o1", 1.0), back_reason("click", "o1", None, 1.0)
    (None, None)
    >>> back_reason("refund", "r1", None, 1.0)
    'of is missing; a refund names by it the outcome_id of what it takes back'
    """
    if kind not in ("retraction", "refund"):
        return None
    if not of:
        return (
            f"of is {'missing' if of is None else 'empty'}; a {kind} names by it the outcome_id of what it takes back"
        )
    if of == outcome_id:
        return f"of is {of!r}, the {kind}'s own outcome_id; give it an id of its own"
    if kind == "refund" and value < 0:
        return f"value is {value}; allowed for a refund: 0 or more, how much of the outcome's value is taken back"
    return None


def default_id(kind: str, of: str | None) -> str:
    """The outcome_id of an outcome that was given none: one of each kind counts, or one for each outcome that is taken back.

    >>> default_id("click", None), default_id("retraction", "o1")
    ('click', 'retraction:o1')
    """
    return kind if of is None else f"{kind}:{of}"
