"""Whose a decision is, for a canary or a random share that lets units keep their group (policies/canary.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.canary import NOBODY, Visit
from streams.unit_numbers import unit_numbers

if TYPE_CHECKING:
    from policies.snapshot import Snapshot


def visit_of(snapshot: Snapshot, unit: str | None, ts: int) -> Visit:
    """The visit of a decision at a time in ms UTC; nobody's where no group sticks to a unit, which then need not be hashed."""
    sticky = (snapshot.canary is not None and snapshot.canary.sticky_s) or snapshot.audit_sticky_s
    if not sticky or unit is None:
        return NOBODY
    return Visit(int(unit_numbers([unit])[0]), ts)
