"""A record that a transaction will hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """One record to be written: ``topic`` is a role (posteriors, feedback, dead_letters), not yet a name.

    ``partition``: where it goes if not to the writer's own.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    partition: int | None = None
