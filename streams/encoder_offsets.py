"""Up to where everything is answered: what may be committed when answers come in another order than questions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Place(NamedTuple):
    """Where a request stands."""

    partition: int
    offset: int


class Offsets:
    """Offsets of one topic that were taken and are not settled yet. Not safe from several threads.

    >>> offsets = Offsets()
    >>> for offset in (5, 6, 7):
    ...     offsets.take(Place(0, offset))
    >>> offsets.settle(Place(0, 6)); offsets.committable()
    {}
    >>> offsets.settle(Place(0, 5)); offsets.committable()
    {0: 7}
    >>> offsets.committable()
    {}
    """

    def __init__(self) -> None:
        self._open: dict[int, dict[int, None]] = {}  # ascending, as offsets are taken in order
        self._next: dict[int, int] = {}
        self._told: dict[int, int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    def take(self, place: Place) -> None:
        """A request was read, and waits for its answer."""
        if place.offset < self._next.get(place.partition, 0):  # the group gave the partition again, from before
            self.forget([place.partition])
        self._told.setdefault(place.partition, place.offset)
        self._open.setdefault(place.partition, {})[place.offset] = None
        self._next[place.partition] = place.offset + 1

    def settle(self, place: Place) -> None:
        """A request was answered, and the answer is safe. One that is not known is passed over."""
        self._open.get(place.partition, {}).pop(place.offset, None)

    def forget(self, partitions: Iterable[int]) -> None:
        """The partitions are somebody else's."""
        for partition in partitions:
            for table in (self._open, self._next, self._told):
                table.pop(partition, None)

    def committable(self) -> dict[int, int]:
        """By partition the offset before which all is settled, where it is further than it was at the last call."""
        found = {p: next(iter(self._open[p]), following) for p, following in self._next.items()}
        further = {p: offset for p, offset in found.items() if offset > self._told[p]}
        self._told |= further
        return further
