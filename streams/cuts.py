"""Where a partition was cut: what a recovery has to know of every checkpoint that some sums' records do not go up to.

A checkpoint whose changed sums do not fit its budget leaves some of them as they were written before. Then its record names
a *base*, the last cut that every record goes up to, and the cuts since. A recovery rebuilds what was pending at the base,
and takes the input again cut by cut: between two cuts the watermark stood still, so the same outcomes meet the same
impressions, whatever order they are read in, and each sum gets what its record lacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Side = Literal["impressions", "clicks"]
SIDES: tuple[Side, Side] = ("impressions", "clicks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One checkpoint of a partition.

    Attributes:
        offsets: next to read, by side.
        watermark: event time in ms up to which rows have left; None before the first.
        oldest: first offset that something pending needs, by side.
        waiting: places of the waiting outcomes, packed (streams/waiting.py).
        expired: places of the impressions that came too late and count for no unit (streams/units.py), packed; empty is none.
        token_floor: hours of decisions below it were let go of (streams/token_store.py).
    """

    offsets: Mapping[Side, int]
    watermark: int | None
    oldest: Mapping[Side, int]
    waiting: bytes
    expired: bytes = b""
    token_floor: int = 0

    @property
    def fields(self) -> dict[str, Any]:
        """As the checkpoint record holds it."""
        return {
            "offsets": dict(self.offsets),
            "watermark": self.watermark,
            "oldest": dict(self.oldest),
            "waiting": self.waiting,
            "expired": self.expired,
            **({"token_floor": self.token_floor} if self.token_floor else {}),
        }

    @property
    def place(self) -> tuple[int, int, int | None]:
        """Offsets of impressions and clicks, and the watermark: what a replay has to reach."""
        return self.offsets["impressions"], self.offsets["clicks"], self.watermark


def read_cut(record: Mapping[str, Any]) -> Cut:
    """A cut from `Cut.fields`; other keys are passed over."""
    return Cut(
        offsets=record["offsets"],
        watermark=record["watermark"],
        oldest=record["oldest"],
        waiting=record["waiting"],
        expired=record.get("expired", b""),
        token_floor=record.get("token_floor", 0),
    )


class Cuts:
    """The cuts that may still be needed, by number; the newest always."""

    def __init__(self, first: Cut) -> None:
        self.number = 0
        self._kept = {0: first}

    @property
    def newest(self) -> Cut:
        """The last cut."""
        return self._kept[self.number]

    def add(self, cut: Cut) -> None:
        """One more cut; one at the place of the last takes that one's number."""
        if cut.place != self.newest.place:
            self.number += 1
        self._kept[self.number] = cut

    def at(self, base: int | None) -> Cut:
        """The cut of that number, the newest for None."""
        return self._kept[self.number if base is None else min(base, self.number)]

    def since(self, base: int | None) -> dict[str, Any]:
        """What a checkpoint record says of ``base`` and the cuts after it, and forgets those before; nothing if all is written."""
        needed = self.number if base is None else base
        self._kept = {number: cut for number, cut in self._kept.items() if number >= min(needed, self.number)}
        if needed >= self.number:
            return {}
        return {
            "base": self._kept[needed].fields,
            "cuts": [self._kept[number].place for number in range(needed + 1, self.number + 1)],
        }
