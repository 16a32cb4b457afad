"""What an attributor knows of one partition: touches, waiting conversions, and the offsets they include. No Kafka.

`take` adds records, `freeze` cuts a checkpoint: outcomes for the topic of clicks, dead letters, and the record from which `AttributionState`
goes on after a crash. It reads the topics again from the oldest offsets that are needed: what lies below the record's offsets
is remembered and counts nothing, and only the conversions whose offsets the record names wait again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from streams.attribution import Attribution, Rule
from streams.conversions import Conversion, misplaced_reason, read_conversion
from streams.dead_letters import letters
from streams.decoded import Dead, Record
from streams.events import CONTENT_TYPE, JSON, EventError, Outcome, encode
from streams.horizon import CONVERSIONS, Horizon
from streams.messages import Message
from streams.touches import read_touch
from streams.unit_numbers import unit_numbers
from streams.waiting import pack_places, unpack_places

Input = Literal["touches", "conversions"]
INPUTS: tuple[Input, Input] = ("touches", "conversions")


class AttributionState:
    """State of partition ``number`` of ``partitions``.

    Args:
        number: of the partition.
        partitions: how many there are.
        rules: of the policies that attribute.
        topics: full names of the inputs, for dead letters.
        checkpoint: the newest record, None before the first.
    """

    def __init__(
        self,
        number: int,
        *,
        partitions: int,
        rules: Mapping[str, Rule],
        topics: Mapping[Input, str],
        checkpoint: bytes | None = None,
    ) -> None:
        self.number = number
        self.partitions = partitions
        self.topics = topics
        record: dict[str, Any] = {} if checkpoint is None else msgspec.msgpack.decode(checkpoint)
        self.attribution = Attribution(rules, watermark=record.get("watermark"))
        self.attribution.counts.update(record.get("counts", {}))
        self.settled: dict[Input, int] = {side: record.get("offsets", {}).get(side, 0) for side in INPUTS}
        self.positions: dict[Input, int] = {side: record.get("oldest", {}).get(side, 0) for side in INPUTS}
        self.horizon = Horizon(partitions, self.attribution.watermark)
        self._waited = frozenset(unpack_places(record["waiting"]) if record else ())
        self._kinds = {policy: rule.kinds for policy, rule in rules.items()}
        self._frozen = (dict(self.settled), self.attribution.watermark) if record else None
        self._dead: list[tuple[Input, Dead]] = []

    @property
    def counts(self) -> dict[str, int]:
        """Conversions by what became of them."""
        return self.attribution.counts

    @property
    def rebuilt(self) -> bool:
        """Whether everything has been read again that the checkpoint included."""
        return all(self.positions[side] >= self.settled[side] for side in INPUTS)

    def take(self, side: Input, records: Sequence[Record]) -> None:
        """Add records of one topic, in order; those that were taken before are passed over."""
        fresh = [record for record in records if record.offset >= self.positions[side]]
        if not fresh:
            return
        if side == "touches":
            self._touch(fresh)
        else:
            self._convert(fresh)
        self.reached(side, fresh[-1].offset + 1)

    def reached(self, side: Input, offset: int) -> None:
        """There is nothing more below that offset: what remains of transactions takes offsets, too."""
        self.positions[side] = max(self.positions[side], offset)

    def _touch(self, records: Sequence[Record]) -> None:
        for record in records:
            try:
                unit, source, touch = read_touch(record.value)
            except EventError as error:
                if record.offset >= self.settled["touches"]:
                    self._dead.append(("touches", Dead(record, str(error))))
                continue
            self.horizon.saw(source, touch.ts)
            self.attribution.touch(unit, touch, record.offset)

    def _convert(self, records: Sequence[Record]) -> None:
        read: list[tuple[Record, Conversion]] = []
        for record in records:
            try:
                read.append((record, read_conversion(record, kinds=self._kinds)))
            except EventError as error:
                self._unusable(record, str(error))
        units = unit_numbers([event.unit for _, event in read]).tolist()
        for (record, event), unit in zip(read, units, strict=True):
            why_not = misplaced_reason(unit, partition=self.number, partitions=self.partitions)
            if why_not is not None:
                self._unusable(record, why_not)
                continue
            self.horizon.saw(CONVERSIONS, event.ts)
            again = record.offset < self.settled["conversions"]
            self.attribution.convert(unit, event, record.offset, waited=self._waited if again else None)

    def _unusable(self, record: Record, reason: str) -> None:
        """A dead letter, once: what waits in the checkpoint and has become unusable since, by other settings, is one, too."""
        if record.offset >= self.settled["conversions"] or record.offset in self._waited:
            self._dead.append(("conversions", Dead(record, reason)))
            self.counts["dead"] += 1

    def freeze(self) -> list[Message]:
        """Give out what is due at the horizon's watermark; returns what one transaction has to hold, nothing if nothing changed.

        Raises RuntimeError before the state is rebuilt.
        """
        if not self.rebuilt:
            raise RuntimeError(f"partition {self.number} was frozen before it was rebuilt: this is a bug")
        given = self.attribution.advance(self.horizon.watermark)
        place = (dict(self.positions), self.attribution.watermark)
        if place == self._frozen and not given and not self._dead:
            return []
        messages = [*map(_message, given), *self._letters(), self._checkpoint()]
        self._dead = []
        self._frozen = place
        return messages

    def _letters(self) -> list[Message]:
        return [letter for side, row in self._dead for letter in letters(self.topics[side], self.number, [row])]

    def _checkpoint(self) -> Message:
        oldest = self.attribution.oldest()
        value = {
            "v": 1,
            "offsets": self.positions,
            "oldest": {
                side: self.positions[side] if first is None else first
                for side, first in zip(INPUTS, oldest, strict=True)
            },
            "watermark": self.attribution.watermark,
            "waiting": pack_places(np.array(self.attribution.waiting, np.int64)),
            "counts": self.counts,
        }
        return Message("attribution", str(self.number).encode(), msgspec.msgpack.encode(value))


def _message(outcome: Outcome) -> Message:
    return Message("clicks", outcome.decision_id.encode(), encode(outcome), ((CONTENT_TYPE, JSON),))
