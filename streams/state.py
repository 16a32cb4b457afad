"""What a learner knows of one partition: the join, the sums, the counts and the offsets they include. No Kafka.

`take` adds a fetched batch, `freeze` cuts a checkpoint. Sums are updated when a checkpoint is cut or enough rows have
gathered, a policy at a time, so that the cost of touching an arm is spread over many rows.

A recovery puts the sums into the `Table`, calls `rewind` with the cut that all of them go up to, `remember` with what was
pending there, and then takes the input again: `take` up to each later cut, `replay` there, `settled` at the end.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from policies.batch import Batch
from policies.ledger import Tariff
from policies.model import Model, Sums
from policies.references import References
from streams.blocks import Blocks
from streams.cuts import SIDES, Cut, Cuts, Side
from streams.dead_letters import letters
from streams.decode import Decoder, select
from streams.decoded import Dead, Impressions, Record
from streams.events import COLUMNS_MAGIC
from streams.feedback import encode_joined, encode_matured
from streams.gathered import Gathered, parts, positioned, referred, to_batch
from streams.join import Changes, Join, Joined, Matured, Window
from streams.ledgers import Ledgers
from streams.messages import Message
from streams.table import Entry, Table, Tracks, sums_key
from streams.token_outcomes import TokenOutcomes
from streams.touches import touches
from streams.waiting import pack_places, unpack_places

__all__ = ["SIDES", "Fetched", "GapError", "OldBatchError", "PartitionState", "Rules", "Side", "sums_key", "to_batch"]

FLUSH_ROWS = 16_384
NO_REFERENCES = References()
CHECKPOINT_BYTES = 4 * 1024 * 1024
"""What the sums in one checkpoint take, unless a setting says otherwise."""


class Lookup(Protocol):
    """References of policies, as `streams.references.ReferenceReader` has them."""

    def of(self, policy: str) -> References: ...
    def unknown(self, policy: str, versions: Iterable[npt.NDArray[np.integer[Any]]]) -> set[int]: ...
    def look_up(self, versions: Mapping[str, Iterable[int]]) -> None: ...


class GapError(Exception):
    """A batch starts above the position: something in between was fetched and lost. The way out is to rewind."""

    retriable = True


class OldBatchError(Exception):
    """Everything in a batch was read before: it was fetched twice, or the broker has an older log. The way out is to look."""

    retriable = True


@dataclass(frozen=True, slots=True)
class Fetched:
    """Records of one side of a partition, complete for the offsets [start, end)."""

    side: Side
    partition: int
    start: int
    end: int
    records: Sequence[Record]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Everything a partition needs to know of the policies, and how to name what it decodes.

    ``models``: of each policy, that of its first half-life. ``ladders``: of the policies with several, the model of each.
    ``feature_limit``: of the policies that have one, what a context's components are cut to. ``checkpoint_bytes``: what the sums
    in one checkpoint may take; the rest follows in the next ones. ``expire_ms``: of the policies whose arms' sums expire, after
    how long. ``blocks``: memory and files for pending rows. ``references``: of the policies in
    ``referring``, each with its limit of Huber's rule. ``kappa``: of the policies with position effects, those of the settings.
    ``tariffs``: of the policies whose spending is added up. ``partitions``: how many there are, None where tokens are not
    checked against it. ``touch_kinds``: of the policies that attribute conversions, which outcomes
    are written to the ``touch_partitions`` of `touches`. ``telling_units``: the policies whose matured rows tell the unit.
    """

    decoder: Decoder
    windows: Mapping[str, Window]
    models: Mapping[str, Model]
    matured_share: Mapping[str, float]
    topics: Mapping[Side, str]
    feature_limit: Mapping[str, float] = field(default_factory=dict)
    ladders: Mapping[str, Tracks] = field(default_factory=dict)
    checkpoint_bytes: int = CHECKPOINT_BYTES
    expire_ms: Mapping[str, int] = field(default_factory=dict)
    blocks: Blocks = field(default_factory=Blocks)
    references: Lookup | None = None
    referring: Mapping[str, float | None] = field(default_factory=dict)
    tariffs: Mapping[str, Tariff] = field(default_factory=dict)
    kappa: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    partitions: int | None = None
    touch_kinds: Mapping[str, frozenset[str]] = field(default_factory=dict)
    touch_partitions: int = 1
    telling_units: frozenset[str] = frozenset()

    @property
    def tracks(self) -> dict[str, Tracks]:
        """The models of every policy by half-life in seconds."""
        return {policy: self.ladders.get(policy, {model.half_life_s: model}) for policy, model in self.models.items()}

    def width(self, policy: str) -> int:
        """Length of the contexts that a policy's rows carry: none for beta."""
        model = self.models[policy]
        return 0 if model.name == "beta" else model.dimension


class PartitionState:
    """State of partition ``number`` under ``rules``."""

    def __init__(self, number: int, *, rules: Rules, watermark: int | None = None) -> None:
        self.number = number
        self.rules = rules
        tokens = TokenOutcomes(rules.windows, number=number, partitions=rules.partitions)
        self.join = Join(rules.windows, watermark=watermark, blocks=rules.blocks, tokens=tokens)
        self.table = Table(rules.tracks, expire_ms=rules.expire_ms)
        self.ledgers = Ledgers(rules.tariffs)
        self.positions: dict[Side, int] = {"impressions": 0, "clicks": 0}
        self.largest_ts: dict[Side, int | None] = {"impressions": None, "clicks": None}
        self.impressions = {"accepted": 0, "duplicate": 0, "expired": 0, "dead": 0, "limited": 0}
        self.frozen: tuple[int, int, int | None] | None = None
        self._cuts = Cuts(self.cut())
        # While input is replayed: what each entry's record includes, and where the cut that is being replayed ends.
        self._goes_to: dict[Entry, Mapping[Side, int]] = {}
        self._replayed: Mapping[Side, int] | None = None
        self._gathered: dict[str, Gathered] = {}
        self._joined: list[Joined] = []
        self._matured: list[Matured] = []
        self._dead: list[tuple[Side, Dead]] = []

    @property
    def sums(self) -> dict[str, dict[str, Sums]]:
        """Sums of every policy's first half-life by arm."""
        return {policy: next(iter(tracks.values())) for policy, tracks in self.table.sums.items()}

    @property
    def counts(self) -> dict[str, int]:
        """Outcomes by what became of them."""
        return self.join.counts

    def take(self, batch: Fetched) -> list[Joined]:
        """Add a batch. What lies below the position is dropped; returns what was joined.

        Raises GapError if it starts above the position, OldBatchError if nothing of it lies above.
        """
        position = self.positions[batch.side]
        if batch.end <= position:
            raise OldBatchError(
                f"{batch.side}-{self.number}: a batch ends at {batch.end}, everything below {position} was read"
            )
        if batch.start > position:
            raise GapError(f"{batch.side}-{self.number}: a batch starts at {batch.start}, the position is {position}")
        records = batch.records
        if batch.start < position:
            records = [record for record in records if record.offset >= position]
        joined = self._impressions(records) if batch.side == "impressions" else self._clicks(records)
        self.positions[batch.side] = batch.end
        return joined

    def remember(self, side: Side, records: Sequence[Record], waited: Container[int]) -> None:
        """Rebuild what is pending from records below the committed offsets; adds to no sum and no count.

        ``waited``: places of the outcomes that were waiting.
        """
        if side == "impressions":
            groups, _ = self.rules.decoder.impressions(records)
            for group in groups:
                self.join.add_impressions(group, counted=False)
        else:
            clicks, _ = self.rules.decoder.clicks(records)
            self.join.add_clicks(clicks, rebuild=waited)

    def _impressions(self, records: Sequence[Record]) -> list[Joined]:
        groups, dead = self.rules.decoder.impressions(records)
        by_offset = None
        joined: list[Joined] = []
        for group in groups:
            self._seen_time("impressions", int(group.ts.max()))
            changes = self.join.add_impressions(group)
            self.impressions["duplicate"] += changes.duplicates
            if changes.fresh is not None and changes.learning is not None:
                self.impressions["accepted"] += len(changes.fresh)
                self.impressions["limited"] += changes.limited
                if self._replayed is None:
                    self.ledgers.shown(group, changes.fresh, self.rules.decoder.arms[group.policy].list)
                self._gather(group, changes.learning)
            if changes.expired is not None:
                by_offset = by_offset or {record.offset: record for record in records}
                dead.extend(self._expired(group, changes, by_offset))
            joined.extend(self._settle(changes))
        for row in dead:
            self._dead.append(("impressions", row))
            if not row.reason.startswith(EXPIRED):
                self.impressions["dead"] += row.rows
        return joined

    def _clicks(self, records: Sequence[Record]) -> list[Joined]:
        clicks, dead = self.rules.decoder.clicks(records)
        if clicks:
            self._seen_time("clicks", max(click.ts for click in clicks))
        for row in dead:
            self._dead.append(("clicks", row))
            self.counts["dead"] += row.rows
            if row.token is not None:
                self.join.tokens.counts[row.token] += row.rows
        return self._settle(self.join.add_clicks(clicks))

    def _settle(self, changes: Changes) -> list[Joined]:
        for row in changes.joined:
            if row.learns and row.counts:
                gathered = self._gathered.get(row.policy)
                if gathered is None:
                    gathered = self._gathered[row.policy] = Gathered()
                gathered.add(row)
        if self._replayed is None:
            self.ledgers.followed(changes.joined, self.rules.decoder.arms)
        self._joined.extend(changes.joined)
        self._dead.extend(
            ("clicks", Dead(click.record, reason, _row_of(click.record, click.row))) for click, reason in changes.dead
        )
        return changes.joined

    def _expired(self, group: Impressions, changes: Changes, by_offset: Mapping[int, Record]) -> Iterator[Dead]:
        window = self.rules.windows[group.policy]
        for i in () if changes.expired is None else changes.expired.tolist():
            self.impressions["expired"] += 1
            reason = (
                f"{EXPIRED}: ts {int(group.ts[i])} + window and grace {window.hold_ms} ms is not above the watermark {self.join.watermark} "
                "of its partition. To replay an older log, use topics of its own (prefix)"
            )
            record = by_offset[int(group.offset[i])]
            yield Dead(record, reason, _row_of(record, int(group.row[i])))

    def _seen_time(self, side: Side, ts: int) -> None:
        before = self.largest_ts[side]
        self.largest_ts[side] = ts if before is None else max(before, ts)

    def _gather(self, group: Impressions, learning: Any) -> None:
        if not len(learning):
            return
        if len(learning) < len(group.ts):
            group = select(group, learning)
        gathered = self._gathered.setdefault(group.policy, Gathered())
        gathered.impressions.append(group)
        gathered.rows += len(learning)
        if gathered.rows >= FLUSH_ROWS and not self.unknown_versions(group.policy):
            self._flush(group.policy)

    def unknown_versions(self, *policies: str) -> dict[str, set[int]]:
        """What gathered rows name and `Rules.references` has to look up first, by policy; of all policies if none is given.

        What was not looked up is by `freeze`, which then blocks.
        """
        if self.rules.references is None:
            return {}
        found = {
            policy: self.rules.references.unknown(policy, self._gathered[policy].versions)
            for policy in policies or self._gathered
            if policy in self.rules.referring and policy in self._gathered
        }
        return {policy: versions for policy, versions in found.items() if versions}

    def _look_up(self, *policies: str) -> None:
        unknown = self.unknown_versions(*policies)
        if unknown and self.rules.references is not None:
            self.rules.references.look_up(unknown)

    def _flush(self, policy: str) -> None:
        self._look_up(policy)
        gathered = self._gathered.pop(policy, None)
        if gathered is None:
            return
        only = self._lacking(policy, self.rules.decoder.arms[policy].list)
        added, taken = parts(gathered, policy)
        self.table.update(policy, self._batch(policy, added), cut=self._cuts.number, only=only)
        if taken is not None:
            self.table.take_out(policy, self._batch(policy, taken), cut=self._cuts.number, only=only)

    def _batch(self, policy: str, gathered: Gathered) -> Batch:
        names = self.rules.decoder.arms[policy].list
        limit = self.rules.feature_limit.get(policy)
        batch = to_batch(gathered, names, self.rules.width(policy), limit=limit)
        references = self.rules.references if policy in self.rules.referring else None
        if policy in self.rules.kappa:
            known = NO_REFERENCES if references is None else references.of(policy)
            batch = positioned(batch, gathered, known, self.rules.decoder.slots.list, self.rules.kappa[policy])
        if references is not None:
            known, limit = references.of(policy), self.rules.referring[policy]
            logistic = self.rules.models[policy].family == "logistic"
            batch = referred(batch, gathered, known, linearised=logistic, limit=limit)
        return batch

    def _lacking(self, policy: str, arms: Sequence[str]) -> dict[float, list[bool]] | None:
        """While input is replayed: by half-life, which arms' records do not go up to the cut that is being replayed."""
        to = self._replayed
        if to is None:
            return None

        def lacks(track: float, arm: str) -> bool:
            included = self._goes_to.get(Entry(policy, track, arm))
            return included is None or any(included[side] < to[side] for side in SIDES)

        return {track: [lacks(track, arm) for arm in arms] for track in self.table.tracks[policy]}

    def freeze(self, watermark: int | None) -> list[Message]:
        """Cut a checkpoint at the present positions, with the watermark moved to ``watermark``.

        Returns the records that one transaction has to hold, none if nothing changed since the last cut. Raises ReadError, and has
        changed nothing, if references cannot be looked up.
        """
        self._look_up()
        if watermark is not None:
            self._matured.extend(self.join.advance(watermark))
        place = (self.positions["impressions"], self.positions["clicks"], self.join.watermark)
        if place == self.frozen and not self.table.unwritten:
            return []
        self._close()
        messages = [
            *self._arm_records(),
            *self.ledgers.messages(self.number, self.positions),
            *self._remembered(),
            *self._feedback(),
            *self._dead_letters(),
            *self._touches(),
            self._checkpoint(),
        ]
        self._joined, self._matured, self._dead = [], [], []
        self.frozen = place
        return messages

    def _close(self) -> None:
        """End the present cut."""
        for policy in list(self._gathered):
            self._flush(policy)
        self.table.expire(self.join.watermark, {name: window.hold_ms for name, window in self.rules.windows.items()})
        self._cuts.add(self.cut())

    def cut(self) -> Cut:
        """Where the partition stands."""
        oldest = self.join.oldest()
        return Cut(
            offsets=dict(self.positions),
            watermark=self.join.watermark,
            oldest={
                side: self.positions[side] if first is None else first
                for side, first in zip(SIDES, oldest, strict=True)
            },
            waiting=pack_places(self.join.waiting.places()),
            expired=pack_places(self.join.units.expired()),
            token_floor=self.join.tokens.store.floor,
        )

    # -- recovery

    def recall(self, seen: Mapping[bytes, bytes], base: Cut) -> None:
        """Before `rewind`: the records of outcomes by token that counted."""
        self.join.tokens.store.restore(seen, base=base.offsets, floor=base.token_floor)

    def rewind(self, base: Cut, goes_to: Mapping[Entry, Mapping[Side, int]]) -> None:
        """Go back to a cut, to `remember` what was pending there; ``goes_to``: the offsets that each entry's record includes."""
        self.positions = dict(base.offsets)
        self.join.watermark = base.watermark
        if base.expired:
            self.join.units.restore(np.fromiter(unpack_places(base.expired), np.int64))
        self._cuts = Cuts(base)
        self._goes_to = dict(goes_to)

    def replaying(self, to: Mapping[Side, int]) -> None:
        """What is taken from here on belongs to the cut that ends at these offsets."""
        self._replayed = to

    def replay(self, watermark: int | None) -> None:
        """End a cut that is being replayed, as `freeze` ended it, without its records."""
        if self._replayed is None:
            raise RuntimeError("replay without a cut that is being replayed: this is a bug")
        self.positions = dict(self._replayed)
        if watermark is not None:
            self.join.advance(watermark)
        self._close()

    def settled(self) -> None:
        """End the recovery: what is taken from here on is new."""
        self._joined, self._matured, self._dead = [], [], []
        self.join.tokens.store.settled()
        self._goes_to, self._replayed = {}, None
        self.frozen = (self.positions["impressions"], self.positions["clicks"], self.join.watermark)

    # -- records

    def _arm_records(self) -> Iterator[Message]:
        offsets = {"offsets": dict(self.positions)}
        for entry in self.table.buried():
            yield Message("posteriors", self._key(entry), None)
        for entry, value in self.table.write(self.rules.checkpoint_bytes, offsets):
            yield Message("posteriors", self._key(entry), value)

    def _remembered(self) -> Iterator[Message]:
        """Records of outcomes that must not count again, once `_arm_records` has written what the sums' records go up to."""
        base = self._cuts.at(self.table.base)
        yield from self.join.tokens.store.records(
            self.number, cut=dict(self.positions), base=base.offsets, watermark=base.watermark
        )

    def _key(self, entry: Entry) -> bytes:
        policy, track, arm = entry
        first = next(iter(self.table.tracks[policy]))
        return sums_key(policy, self.number, arm, None if track == first else track)

    def _feedback(self) -> Iterator[Message]:
        arms, slots = self.rules.decoder.arms, self.rules.decoder.slots
        for value in encode_joined(self._joined, partition=self.number, arms=arms, slots=slots):
            yield Message("feedback", None, value)
        for value in encode_matured(
            self._matured,
            partition=self.number,
            arms=arms,
            slots=slots,
            share=self.rules.matured_share,
            units=self.rules.telling_units,
        ):
            yield Message("feedback", None, value)

    def _dead_letters(self) -> Iterator[Message]:
        by_record: dict[tuple[Side, int], list[Dead]] = {}
        for side, row in self._dead:
            by_record.setdefault((side, row.record.offset), []).append(row)
        for (side, _), rows in by_record.items():
            yield from letters(self.rules.topics[side], self.number, rows)

    def _touches(self) -> Iterator[Message]:
        rules = self.rules
        if rules.touch_kinds:
            yield from touches(
                self._joined,
                kinds=rules.touch_kinds,
                windows=rules.windows,
                partitions=rules.touch_partitions,
                source=self.number,
            )

    def _checkpoint(self) -> Message:
        value = {
            "v": 1,
            **self._cuts.newest.fields,
            **self._cuts.since(self.table.base),
            "unwritten": len(self.table.unwritten),
            "counts": dict(self.counts),
            "impressions": dict(self.impressions),
            **({"tokens": dict(self.join.tokens.counts)} if any(self.join.tokens.counts.values()) else {}),
            "largest_ts": dict(self.largest_ts),
            "policies": {
                policy: {"model": model.name, "dimension": model.dimension, **self.rules.windows[policy].counted}
                for policy, model in self.rules.models.items()
            },
        }
        return Message("posteriors", sums_key(None, self.number, None), msgspec.msgpack.encode(value))


EXPIRED = "came after its window had closed"


def _row_of(record: Record, row: int) -> int | None:
    """The row within a columnar record, None for a record of one event."""
    return row if record.value is not None and record.value[:4] == COLUMNS_MAGIC else None
