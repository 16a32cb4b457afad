"""Getting a partition back, in this order.

1. *Initialise* the partition's transactional producer: this fences the predecessor and ends its open transaction, so that
   what is committed now stays the last word.
2. *Read* the state: the newest record of each arm and the checkpoint record.
3. *Rebuild* what is pending, and how often each unit learned: read the input again from the oldest offset that either needed up to
   the committed offsets. It adds to no sum: whatever both of a pair's offsets lie below is in the sums already.
4. *Replay*, if the last checkpoints had no room for all that changed: what is pending is rebuilt at the cut that all sums go
   up to, and the input after it is taken again, cut by cut, for those sums that lack it (streams/cuts.py).

A crash in between changes nothing; the next one begins again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from streams.checkpoint import Writer
from streams.cuts import SIDES, Cut, Side, read_cut
from streams.ledgers import is_ledger
from streams.reading import SimpleRecord, bounds, latest, read, reader
from streams.state import Fetched, PartitionState, Rules
from streams.table import Entry, read_key
from streams.token_outcomes import TOKEN_COUNTS
from streams.token_parts import SEEN
from streams.waiting import unpack_places

TIMEOUT_S = 10.0


Source = Callable[[Side, int, int], Iterator[list[SimpleRecord]]]
"""The records of a side with start <= offset < end, in batches; those that there still are."""


class StateMismatchError(Exception):
    """What is stored cannot go with the settings or with the input. Needs a person; retrying does not help."""

    retriable = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A partition's state without what is pending, and what it takes to get that.

    Attributes:
        state: at the committed offsets; sums that its last checkpoint had no room for lack something.
        base: the cut that all sums go up to.
        cuts: offsets of impressions and clicks and the watermark of every cut after ``base``.
        goes_to: the offsets that each entry's sums include.
        counts: of outcomes, as committed.
        impressions: counts of impressions, as committed.
        largest_ts: of each side, as committed.
        tokens: counts of outcomes by token, as committed.
        seen: records of outcomes that must not count again (streams/token_parts.py), by key.
    """

    state: PartitionState
    base: Cut
    cuts: tuple[tuple[int, int, int | None], ...] = ()
    goes_to: Mapping[Entry, Mapping[Side, int]] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    impressions: Mapping[str, int] = field(default_factory=dict)
    largest_ts: Mapping[Side, int | None] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    seen: Mapping[bytes, bytes] = field(default_factory=dict)


def recover(
    number: int, *, rules: Rules, client: Mapping[str, Any], writer: Writer, stir: Callable[[], None]
) -> tuple[PartitionState, list[str]]:
    """Partition ``number`` as it was committed last, and warnings in words. Blocking; calls ``stir`` at every step.

    Raises FencedError, UnknownOutcomeError or ReadError (try again), StateMismatchError (do not).
    """
    writer.initialise()
    stir()
    with reader(client) as consumer:
        records, end = latest(consumer, writer.topics["posteriors"], number, timeout_s=TIMEOUT_S)
        writer.end = end
        writer.passing("recovery.read")
        stir()
        restored = restore(number, records, rules)
        warnings = _warnings(consumer, restored)
        state = rebuild(restored, _source(consumer, restored), stir)
        writer.passing("recovery.rebuilt")
    return state, warnings


def restore(number: int, records: Mapping[bytes, bytes], rules: Rules) -> Restored:
    """What the newest records of a partition (by key) say of it.

    Raises StateMismatchError if they cannot go with the settings.
    """
    checkpoint: dict[str, Any] | None = None
    found: list[tuple[Entry, dict[str, Any]]] = []
    ledgers: dict[str, bytes] = {}
    seen: dict[bytes, bytes] = {}
    tracks = rules.tracks
    for key, value in records.items():
        policy, partition, arm, track = read_key(key)
        if partition != number:
            continue
        if policy is None and arm == SEEN:
            seen[key] = value
        elif policy is None or arm is None:
            checkpoint = msgspec.msgpack.decode(value)
        elif arm == "" and is_ledger(key):
            ledgers[policy] = value
        elif policy in tracks:
            entry = Entry(policy, next(iter(tracks[policy])) if track is None else track, arm)
            if entry.track in tracks[policy]:
                found.append((entry, msgspec.msgpack.decode(value)))
    if checkpoint is None:
        state = PartitionState(number, rules=rules)
        return Restored(state=state, base=state.cut())
    state = PartitionState(number, rules=rules, watermark=checkpoint["watermark"])
    for policy in sorted({entry.policy for entry, _ in found}):
        _check_counted(policy, checkpoint.get("policies", {}).get(policy, {}).get("viewable"), rules)
    for entry, record in found:
        _put(state, entry, record)
    for policy, value in ledgers.items():
        _put_ledger(state, policy, value)
    restored = Restored(
        state=state,
        base=read_cut(checkpoint.get("base", checkpoint)),
        cuts=tuple((impressions, clicks, mark) for impressions, clicks, mark in checkpoint.get("cuts", ())),
        goes_to={entry: record["offsets"] for entry, record in found},
        counts=checkpoint["counts"],
        impressions=checkpoint["impressions"],
        largest_ts=checkpoint["largest_ts"],
        tokens=checkpoint.get("tokens", {}),
        seen=seen,
    )
    state.positions = {side: checkpoint["offsets"][side] for side in SIDES}
    _settle(restored)
    return restored


def _check_counted(policy: str, stored: str | None, rules: Rules) -> None:
    """Raise StateMismatchError if the sums hold other impressions than the settings want: pending ones would count twice, or never."""
    wanted = rules.windows[policy].viewable
    if stored != wanted:
        told = [
            "each impression" if kind is None else f"impressions with an outcome {kind!r}" for kind in (wanted, stored)
        ]
        raise StateMismatchError(
            f"policy {policy!r} counts {told[0]} by the settings (counts_on, viewable_kind), and its stored sums hold {told[1]}: "
            "go back to the old settings, or give the policy a new name"
        )


def _put(state: PartitionState, entry: Entry, record: Mapping[str, Any]) -> None:
    model = state.table.tracks[entry.policy][entry.track]
    if record["model"] != model.family:
        raise StateMismatchError(
            f"policy {entry.policy!r} has model {model.name!r} (sums {model.family!r}) in the settings and {record['model']!r} in the stored "
            "sums: go back to the old model, or give the policy a new name"
        )
    try:
        state.table.put(entry, record)
    except ValueError as error:
        raise StateMismatchError(f"policy {entry.policy!r}, arm {entry.arm!r}: {error}") from error


def _put_ledger(state: PartitionState, policy: str, value: bytes) -> None:
    if policy in state.rules.tariffs:
        try:
            state.ledgers.put(policy, value)
        except ValueError as error:
            raise StateMismatchError(f"policy {policy!r}: {error}") from error


def _settle(restored: Restored) -> None:
    """Count what was counted when the checkpoint was written."""
    state = restored.state
    state.counts.update(restored.counts)
    state.impressions.update(restored.impressions)
    state.largest_ts.update(restored.largest_ts)
    state.join.tokens.counts = dict.fromkeys(TOKEN_COUNTS, 0) | dict(restored.tokens)


def rebuild(restored: Restored, source: Source, stir: Callable[[], None]) -> PartitionState:
    """Steps 3 and 4: the state with all that is pending, from the input that ``source`` reads again."""
    state, base = restored.state, restored.base
    state.recall(restored.seen, base)
    state.rewind(base, restored.goes_to)
    state.counts["waiting"] = 0
    waited = unpack_places(base.waiting)
    for side in SIDES:
        for batch in source(side, base.oldest[side], base.offsets[side]):
            state.remember(side, batch, waited)
            stir()
    for impressions, clicks, watermark in restored.cuts:
        to: dict[Side, int] = {"impressions": impressions, "clicks": clicks}
        state.replaying(to)
        for side in SIDES:
            for batch in source(side, state.positions[side], to[side]):
                state.take(Fetched(side, state.number, state.positions[side], batch[-1].offset + 1, batch))
                stir()
        state.replay(watermark)
    waiting = state.counts["waiting"]
    _settle(restored)
    state.counts["waiting"] = waiting
    state.settled()
    return state


def _source(consumer: Any, restored: Restored) -> Source:
    """What the broker still has of the input."""
    state = restored.state

    def batches(side: Side, start: int, end: int) -> Iterator[list[SimpleRecord]]:
        if start < end:
            topic = state.rules.topics[side]
            low, _ = bounds(consumer, topic, state.number, timeout_s=TIMEOUT_S)
            yield from read(consumer, topic, state.number, max(start, low), end, timeout_s=TIMEOUT_S)

    return batches


def _warnings(consumer: Any, restored: Restored) -> list[str]:
    """What retention has deleted of the input, in words. Raises StateMismatchError if its end is missing."""
    warnings = []
    for side in SIDES:
        topic = restored.state.rules.topics[side]
        low, high = bounds(consumer, topic, restored.state.number, timeout_s=TIMEOUT_S)
        warnings += _missing(restored, side, low, high)
    return warnings


def _missing(restored: Restored, side: Side, low: int, high: int) -> list[str]:
    """The same of one side, whose input is [low, high)."""
    state, base, warnings = restored.state, restored.base, []
    topic, number, end = state.rules.topics[side], state.number, state.positions[side]
    start = base.oldest[side]
    if high < end:
        raise StateMismatchError(
            f"{topic}-{number} ends at offset {high}, but the sums include everything below {end}: the topic was made anew "
            "or the broker has an older log. Restore the log, or start over under another prefix"
        )
    if low > start and start < end:
        warnings.append(
            f"{topic}-{number}: offsets {start} to {min(low, end)} are needed to know what is pending, but retention has deleted them; "
            "clicks on those impressions will be unmatched. Make the topic's retention longer than window_s (or retraction_window_s) + grace_s, and unit_window_s with unit_limit"
        )
    if restored.cuts and low > base.offsets[side]:
        warnings.append(
            f"{topic}-{number}: offsets {base.offsets[side]} to {min(low, end)} were not yet in all sums, and retention has deleted them: "
            "those sums lack them. Make the topic's retention longer"
        )
    if low > end:
        warnings.append(f"{topic}-{number}: offsets {end} to {low} were deleted by retention before they were read")
    return warnings
