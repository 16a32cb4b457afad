"""Getting a partition back, in this order.

1. *Initialise* the partition's transactional producer: this fences the predecessor and ends its open transaction, so that
   what is committed now stays the last word.
2. *Read* the state: the newest record of each arm and the checkpoint record.
3. *Rebuild* what is pending, and how often each unit learned: read the input again from the oldest offset that either needed up to
   the committed offsets. It adds to no sum: whatever both of a pair's offsets lie below is in the sums already.

A crash in between changes nothing; the next one begins again.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any

import msgspec
import numpy as np

from streams.checkpoint import Writer
from streams.reading import bounds, latest, read, reader
from streams.state import SIDES, PartitionState, Rules
from streams.waiting import unpack_places

TIMEOUT_S = 10.0


class StateMismatchError(Exception):
    """What is stored cannot go with the settings or with the input. Needs a person; retrying does not help."""

    retriable = False


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
        state, oldest, waited = restore(number, records, rules)
        warnings = _rebuild(consumer, state, oldest, waited, stir)
        writer.passing("recovery.rebuilt")
    return state, warnings


def restore(
    number: int, records: Mapping[bytes, bytes], rules: Rules
) -> tuple[PartitionState, dict[str, int], set[int]]:
    """State, oldest needed offsets and the places of waiting outcomes from the newest records of a partition (by key), without what is pending."""
    checkpoint: dict[str, Any] | None = None
    arms: list[tuple[str, str, dict[str, Any]]] = []
    for key, value in records.items():
        policy, partition, arm = msgspec.msgpack.decode(key)
        if partition != number:
            continue
        decoded = msgspec.msgpack.decode(value)
        if policy is None and arm is None:
            checkpoint = decoded
        elif policy in rules.models:
            arms.append((policy, arm, decoded))
    state = PartitionState(number, rules=rules, watermark=None if checkpoint is None else checkpoint["watermark"])
    if checkpoint is None:
        return state, dict.fromkeys(SIDES, 0), set()
    for policy, arm, decoded in arms:
        model = rules.models[policy]
        if decoded["model"] != model.family:
            raise StateMismatchError(
                f"policy {policy!r} has model {model.name!r} (sums {model.family!r}) in the settings and {decoded['model']!r} in the stored sums: "
                "go back to the old model, or give the policy a new name"
            )
        try:
            state.sums[policy][arm] = model.decode(decoded)
        except ValueError as error:
            raise StateMismatchError(f"policy {policy!r}, arm {arm!r}: {error}") from error
    for side in SIDES:
        state.positions[side] = checkpoint["offsets"][side]
        state.largest_ts[side] = checkpoint["largest_ts"][side]
    state.join.counts.update(checkpoint["counts"])
    state.impressions.update(checkpoint["impressions"])
    expired = checkpoint.get("expired")
    if expired is not None:
        state.join.units.restore(np.fromiter(unpack_places(expired), np.int64))
    return state, checkpoint["oldest"], unpack_places(checkpoint["waiting"])


def _rebuild(
    consumer: Any, state: PartitionState, oldest: Mapping[str, int], waited: Container[int], stir: Callable[[], None]
) -> list[str]:
    warnings = []
    state.counts["waiting"] = 0
    for side in SIDES:
        topic, start, end = state.rules.topics[side], oldest[side], state.positions[side]
        low, high = bounds(consumer, topic, state.number, timeout_s=TIMEOUT_S)
        if high < end:
            raise StateMismatchError(
                f"{topic}-{state.number} ends at offset {high}, but the sums include everything below {end}: the topic was made anew "
                "or the broker has an older log. Restore the log, or start over under another prefix"
            )
        if low > start and start < end:
            warnings.append(
                f"{topic}-{state.number}: offsets {start} to {min(low, end)} are needed to know what is pending, but retention has deleted them; "
                "clicks on those impressions will be unmatched. Make the topic's retention longer than window_s + grace_s"
            )
        if low > end:
            warnings.append(
                f"{topic}-{state.number}: offsets {end} to {low} were deleted by retention before they were read"
            )
        for batch in read(consumer, topic, state.number, max(start, low), end, timeout_s=TIMEOUT_S):
            state.remember(side, batch, waited)
            stir()
    state.frozen = (state.positions["impressions"], state.positions["clicks"], state.join.watermark)
    return warnings
