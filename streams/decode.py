"""From fetched records to arrays: decode, validate, and say of every record that cannot be used why.

A run of one codec decodes in one pass; only when that fails is each record looked at alone. Rows come out as
columns, one group for each policy, in the order of the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter

import numpy as np

from streams import decode_columns, decode_rows
from streams.decode_rows import OutcomeRow, PolicyRules, Rules
from streams.decoded import Click, Dead, Impressions, Names, Record, row_keys
from streams.events import CONTENT_TYPE, Codec, EventError, codec_of
from streams.token_check import TokenCheck
from streams.tokens import TokenError
from streams.validation import latest_ms, outcome_reason, valid

COLUMNS = ("key", "slot", "arm", "ts", "offset", "row", "snapshot", "propensity", "x", "flags")


class Decoder:
    """Decodes the records of one worker: holds the numbering of arms and slots.

    ``policies`` maps a policy's name to its rules (model, dimension); ``kinds`` are the outcomes that any policy lists; ``tokens``
    reads the outcomes' tokens, which are passed over without it; ``attributing`` are the policies whose clicks conversions are
    attributed to.
    """

    def __init__(
        self,
        policies: Mapping[str, Rules],
        *,
        kinds: Iterable[str],
        tokens: TokenCheck | None = None,
        attributing: Iterable[str] = (),
    ) -> None:
        self._tokens = tokens
        self.kinds = frozenset(kinds)
        self.slots = Names()
        self.arms: dict[str, Names] = {policy: Names() for policy in policies}
        self._policies = PolicyRules(policies, attributing)

    def impressions(self, records: Sequence[Record]) -> tuple[list[Impressions], list[Dead]]:
        """Validated impressions by policy, and what could not be used.

        Groups hold different decisions, or follow each other in the order of the log: of two copies the first comes first.
        """
        groups: list[Impressions] = []
        dead: list[Dead] = []
        for codec, run in _runs(records, dead):
            if codec == "columns":
                found = decode_columns.impressions(
                    run, policies=self._policies, arms=self.arms, slots=self.slots, dead=dead
                )
            else:
                found = decode_rows.impressions(
                    run, codec, policies=self._policies, arms=self.arms, slots=self.slots, dead=dead
                )
            for raw in found:
                group = valid(raw, arms=self.arms[raw.policy], slots=self.slots, dead=dead)
                if group is not None:
                    groups.append(group)
        return merged(groups), dead

    def clicks(self, records: Sequence[Record]) -> tuple[list[Click], list[Dead]]:
        """Validated outcomes in order, and what could not be used."""
        clicks: list[Click] = []
        dead: list[Dead] = []
        for codec, run in _runs(records, dead):
            if codec == "columns":
                clicks += self._clicks(*decode_columns.outcomes(run, dead=dead), dead)
            else:
                rows, kept = decode_rows.outcomes(run, codec, dead=dead)
                clicks += self._clicks(rows, kept, None, dead)
        return clicks, dead

    def _clicks(
        self, rows: list[OutcomeRow], records: list[Record], numbers: list[int] | None, dead: list[Dead]
    ) -> Iterable[Click]:
        slots = self.slots.codes([row.slot for row in rows])
        keys = row_keys([row.decision_id for row in rows], slots, self.slots.hashes()).tolist()
        for i, (row, record, key) in enumerate(zip(rows, records, keys, strict=True)):
            number = None if numbers is None else numbers[i]
            reason = outcome_reason(row, kinds=self.kinds, latest=latest_ms(record))
            if reason is not None:
                dead.append(Dead(record, reason, number))
                continue
            brought = None
            if row.token is not None and self._tokens is not None:
                try:
                    brought = self._tokens.brought(row, latest_ms(record), arms=self.arms, slots=self.slots)
                except TokenError as error:
                    dead.append(Dead(record, f"token: {error}", number, token=error.what))
                    continue
            yield Click(
                key,
                row.decision_id,
                row.slot,
                row.outcome_id,
                row.kind,
                row.value,
                row.ts,
                record.offset,
                record,
                number or 0,
                row.cost,
                row.of,
                brought,
            )


def _runs(records: Sequence[Record], dead: list[Dead]) -> Iterable[tuple[Codec, Sequence[Record]]]:
    """Records in order, in runs of one codec."""

    def codec(record: Record) -> Codec | None:
        try:
            if record.value is None:
                raise EventError("the value is null (a tombstone); an event needs a value")
            named = dict(record.headers).get(CONTENT_TYPE) if record.headers else None
            return codec_of(record.value, named)
        except EventError as error:
            dead.append(Dead(record, str(error)))
            return None

    one = _common_codec(records)
    if one is not None:
        yield one, records
        return
    for name, run in groupby(records, codec):
        if name is not None:
            yield name, list(run)


def _common_codec(records: Sequence[Record]) -> Codec | None:
    """The codec that all records have by their first byte, None if they differ or it is not that simple."""
    if any(map(attrgetter("headers"), records)):
        return None
    try:
        first = {record.value[0] for record in records}  # type: ignore[index]
        codecs = {codec_of(bytes((byte,))) for byte in first}
    except (TypeError, IndexError, EventError):
        return None
    return codecs.pop() if len(codecs) == 1 else None


def merged(groups: list[Impressions]) -> list[Impressions]:
    """Groups of one policy and type put together, in order: large batches are cheaper to join.

    Where two groups hold the same decision, stretches of the log instead, so that the first of its copies comes first. Of a
    policy that limits its units both types go together, in the order of the log, because its first rows are those that learn.
    """
    if len(groups) < 2:
        return groups
    together: dict[tuple[str, str], list[Impressions]] = {}
    for group in groups:
        together.setdefault((group.policy, group.x.dtype.str if group.unit is None else ""), []).append(group)
    result = [parts[0] if len(parts) == 1 else _concatenated(parts) for parts in together.values()]
    keys = [np.unique(group.key) for group in result]
    if len(np.unique(np.concatenate(keys))) == sum(map(len, keys)):
        return result
    return list(_stretches(result))


def _stretches(groups: list[Impressions]) -> Iterable[Impressions]:
    """The groups cut so that their offsets ascend from one to the next; a record is never in two groups."""
    number = np.repeat(np.arange(len(groups)), [len(group.ts) for group in groups])
    position = np.concatenate([np.arange(len(group.ts)) for group in groups])
    order = np.argsort(np.concatenate([group.offset for group in groups]), kind="stable")
    cuts = np.flatnonzero(np.diff(number[order])) + 1
    for rows in np.split(order, cuts):
        yield select(groups[number[rows[0]]], position[rows])


def select(group: Impressions, rows: object) -> Impressions:
    """Some rows of a batch."""
    return Impressions(policy=group.policy, **{name: getattr(group, name)[rows] for name in _columns_of(group)})


def _columns_of(group: Impressions, *without: str) -> tuple[str, ...]:
    optional = (name for name in ("unit", "person", "cost") if name not in without and getattr(group, name) is not None)
    return (*COLUMNS, *optional)


def _concatenated(parts: list[Impressions]) -> Impressions:
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _columns_of(parts[0], "cost")}
    if any(part.cost is not None for part in parts):
        costs = [np.full(len(part.ts), np.nan) if part.cost is None else part.cost for part in parts]
        columns["cost"] = np.concatenate(costs)
    whole = Impressions(policy=parts[0].policy, **columns)
    return whole if whole.unit is None else _in_order(whole)


def _in_order(group: Impressions) -> Impressions:
    """The rows in the order of the log."""
    if (np.diff(group.offset) >= 0).all():
        return group
    return select(group, np.argsort(group.offset, kind="stable"))
