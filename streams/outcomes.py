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

from collections.abc import Sequence
from math import copysign, fsum

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

    ``value``: as it came; ``worth``: what the policy multiplies it by; ``of``: the outcome that it takes back.
    """

    outcome_id: str
    ts: int
    reward: float | None
    leaves: int
    does: int = EARNS
    value: float = 0.0
    worth: float = 1.0
    of: str | None = None


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
    seen = [one for one in seen if one.reward is not None]
    retracted = {one.of for one in seen if one.does == RETRACTS}
    left = [one for one in seen if one.does == RETRACTS or one.outcome_id not in retracted]
    if any(one.does == VOIDS for one in left) or (viewable and not any(one.does & SHOWS for one in left)):
        return None
    refunds: dict[str | None, list[float]] = {}
    for one in left:
        if one.does == REFUNDS:
            refunds.setdefault(one.of, []).append(one.value)
    return [_refunded(one, refunds.get(one.outcome_id)) for one in left if one.does & EARNS]


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
