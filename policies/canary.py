"""Which decisions a canary makes, and which are made at random: a fixed function of the decision's id.

A share of the decisions may be drawn uniformly for ever (``random``, the yardstick); of the others a canary may make a share. The groups
are drawn for each decision by a hash of the salt and the key (decision id and slot), so that whoever knows these can tell the group again.

A **sticky** canary draws them for each *visit* instead: one unit in one period of so many seconds, counted from 1970 in UTC. The hash is of
the salt, the unit's number and the period's, so that a unit keeps its group for a period and is drawn anew in the next one. A decision
without a unit belongs to no visit: the incumbent decides it, and it tells no group. The random share may be sticky in the same way; of a
decision without a unit it is then drawn for itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

Group = Literal["incumbent", "canary", "random", "rest"]
"""Who made a decision: of a policy with a canary, this or the incumbent; the share at random; "rest" beside that where there is no canary."""

CODES: Mapping[str, int] = MappingProxyType({"incumbent": 1, "canary": 2, "random": 3, "rest": 4})
"""Of the groups where they are numbers; 0 where a decision has none."""


class Visit(NamedTuple):
    """Who sees a decision, a unit's 64-bit number (0: not known), and when it is made, ms UTC."""

    unit: int
    ts: int


NOBODY = Visit(0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A changed policy that makes a share of the decisions.

    Attributes:
        number: k, of all candidates that the policy has had.
        share: of the decisions that are not made at random.
        salt: of the hash that assigns decisions.
        explorer, rates: how it chooses; the arms' posteriors are the incumbent's.
        name: in words.
        sticky_s: seconds of the periods for which units keep their group; 0 draws it for each decision.
    """

    number: int
    share: float
    salt: str
    explorer: str
    rates: dict[str, float] = field(default_factory=dict)
    name: str = ""
    sticky_s: int = 0

    def share_of(self, visit: Visit) -> float:
        """Of the decisions of this kind that are not made at random: none where a group would stick to a unit and there is none."""
        return 0.0 if self.sticky_s and not visit.unit else self.share

    def decides(self, key: str, visit: Visit) -> bool:
        """Whether a decision that is not made at random falls to it.

        >>> sticky = Canary(number=1, share=0.5, salt="s", explorer="thompson", sticky_s=60)
        >>> [sticky.decides(key, Visit(7, ts)) for key, ts in (("d1", 60_000), ("d2", 119_999), ("d3", 120_000))]
        [False, False, True]
        """
        return uniform(self.salt, visit_key(visit, self.sticky_s) if self.sticky_s else key) < self.share_of(visit)


def group_of(
    key: str, canary: Canary | None, audit_share: float, visit: Visit = NOBODY, *, audit_sticky_s: int = 0
) -> Group | None:
    """The group of a decision; None where nothing is shared out, or a sticky canary does not know whom it is for.

    ``audit_sticky_s``: seconds of the periods for which units stay in the random share; 0, or an unknown unit, draws for each decision.

    >>> canary = Canary(number=1, share=0.25, salt="s", explorer="thompson")
    >>> groups = [group_of(f"d{i}", canary, 0.1) for i in range(10_000)]
    >>> [round(groups.count(name) / 10_000, 2) for name in ("random", "canary", "incumbent")]
    [0.1, 0.23, 0.68]
    >>> group_of("d1", None, 0.0) is None
    True
    """
    if canary is None and audit_share == 0.0:
        return None
    drawn_by = visit_key(visit, audit_sticky_s) if audit_sticky_s and visit.unit else key
    if audit_share > 0.0 and uniform("random", drawn_by) < audit_share:
        return "random"
    if canary is None or not canary.share_of(visit):
        return "rest" if audit_share > 0.0 else None
    return "canary" if canary.decides(key, visit) else "incumbent"


def visit_key(visit: Visit, sticky_s: int) -> str:
    r"""What the group of a visit goes by: the unit's number and the period's.

    >>> visit_key(Visit(0xFF, 86_400_000), 86_400)
    '00000000000000ff\x001'
    """
    return f"{visit.unit:016x}\0{visit.ts // (1000 * sticky_s)}"


def uniform(salt: str, key: str) -> float:
    """A number in [0, 1) by salt and key, uniform and independent over both.

    >>> round(sum(uniform("s", str(i)) for i in range(10_000)) / 10_000, 2)
    0.5
    """
    digest = blake2b(key.encode(), digest_size=8, key=blake2b(salt.encode(), digest_size=16).digest()).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53
