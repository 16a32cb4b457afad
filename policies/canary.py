"""Which decisions a canary makes, and which are made at random: a fixed function of the decision's id.

A share of the decisions may be drawn uniformly for ever (``random``, the yardstick); of the others a canary may make a share. The groups
are drawn for each decision by a hash of the salt and the key (decision id and slot), so that whoever knows these can tell the group again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Group = Literal["incumbent", "canary", "random", "rest"]
"""Who made a decision: of a policy with a canary, this or the incumbent; the share at random; "rest" beside that where there is no canary."""

CODES: Mapping[str, int] = MappingProxyType({"incumbent": 1, "canary": 2, "random": 3, "rest": 4})
"""Of the groups where they are numbers; 0 where a decision has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A changed policy that makes a share of the decisions.

    Attributes:
        number: k, of all candidates that the policy has had.
        share: of the decisions that are not made at random.
        salt: of the hash that assigns decisions.
        explorer, rates: how it chooses; the arms' posteriors are the incumbent's.
        name: in words.
    """

    number: int
    share: float
    salt: str
    explorer: str
    rates: dict[str, float] = field(default_factory=dict)
    name: str = ""


def group_of(key: str, canary: Canary | None, audit_share: float) -> Group | None:
    """The group of a decision; None where nothing is shared out.

    >>> canary = Canary(number=1, share=0.25, salt="s", explorer="thompson")
    >>> groups = [group_of(f"d{i}", canary, 0.1) for i in range(10_000)]
    >>> [round(groups.count(name) / 10_000, 2) for name in ("random", "canary", "incumbent")]
    [0.1, 0.23, 0.68]
    >>> group_of("d1", None, 0.0) is None
    True
    """
    if canary is None and audit_share == 0.0:
        return None
    if audit_share > 0.0 and uniform("random", key) < audit_share:
        return "random"
    if canary is None:
        return "rest"
    return "canary" if uniform(canary.salt, key) < canary.share else "incumbent"


def uniform(salt: str, key: str) -> float:
    """A number in [0, 1) by salt and key, uniform and independent over both.

    >>> round(sum(uniform("s", str(i)) for i in range(10_000)) / 10_000, 2)
    0.5
    """
    digest = blake2b(key.encode(), digest_size=8, key=blake2b(salt.encode(), digest_size=16).digest()).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53
