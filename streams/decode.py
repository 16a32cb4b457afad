"""From fetched records to arrays: decode, validate, and say of every record that cannot be used why.

A batch of one codec decodes in one pass; only when that fails is each record looked at alone. Rows come out as
columns, one group for each policy, in the order of the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from operator import attrgetter
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from streams.columns import ImpressionColumns, OutcomeColumns, column
from streams.events import CONTENT_TYPE, VERSION, Codec, EventError, codec_of

AHEAD_MS = 5 * 60 * 1000  # event time may lead the record's timestamp by this much (semantics: events and time)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Record(Protocol):
    """What a Kafka client hands over; timestamps in ms UTC."""

    @property
    def offset(self) -> int: ...  # noqa: D102
    @property
    def timestamp(self) -> int: ...  # noqa: D102
    @property
    def key(self) -> bytes | None: ...  # noqa: D102
    @property
    def value(self) -> bytes | None: ...  # noqa: D102
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...  # noqa: D102


class Rules(Protocol):
    """What the decoder asks of a policy's settings."""

    @property
    def model(self) -> str: ...  # noqa: D102
    @property
    def dimension(self) -> int: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Dead:
    """A record, or a row of a columnar record, that cannot be used. ``rows``: how many events it stands for."""

    record: Record
    reason: str
    row: int | None = None
    rows: int = 1


class Names(dict[str, int]):
    """Strings numbered in order of appearance, so that rows hold an integer.

    >>> names = Names(); names["b"], names["a"], names["b"], names.list
    (0, 1, 0, ['b', 'a'])
    """

    def __init__(self) -> None:
        self.list: list[str] = []

    def __missing__(self, name: str) -> int:
        code = self[name] = len(self.list)
        self.list.append(name)
        return code


@dataclass(frozen=True, slots=True, kw_only=True)
class Impressions:
    """Validated impressions of one policy and partition, n rows in the order of the log, d the policy's dimension."""

    policy: str
    key: npt.NDArray[np.uint64]  # (n,) hash of decision id and slot, valid in this process only
    slot: npt.NDArray[np.int32]  # (n,) number of the slot's name
    arm: npt.NDArray[np.int32]  # (n,) number of the arm's name
    ts: Ints  # (n,) event time, ms
    offset: Ints  # (n,) offset of the record
    snapshot: npt.NDArray[np.int32]  # (n,) version decided from, -1 for none
    propensity: Floats  # (n,)
    x: npt.NDArray[np.floating[Any]]  # (n, d) float32 where that is exact, else float64


class Click(msgspec.Struct, frozen=True, gc=False):
    """One validated outcome. ``ts`` in ms, ``record`` the original for a dead letter."""

    key: int
    decision_id: str
    slot: str
    outcome_id: str
    kind: str
    value: float
    ts: int
    offset: int
    record: Any
    row: int = 0  # within a columnar record


class _ImpressionRow(msgspec.Struct, gc=False):
    decision_id: str
    slot: str
    policy: str
    arm: str
    propensity: float
    ts: int
    context: list[float] = []
    snapshot: int | None = None
    v: int = VERSION


class _PackedImpressionRow(msgspec.Struct, gc=False):
    decision_id: str
    slot: str
    policy: str
    arm: str
    propensity: float
    ts: int
    context: bytes | list[float] = b""
    snapshot: int | None = None
    v: int = VERSION


class _OutcomeRow(msgspec.Struct, gc=False):
    decision_id: str
    slot: str
    outcome_id: str
    ts: int
    kind: str = "click"
    value: float = 1.0
    v: int = VERSION


_IMPRESSION: dict[Codec, Callable[[bytes], Any]] = {
    "json": msgspec.json.Decoder(_ImpressionRow).decode,
    "msgpack": msgspec.msgpack.Decoder(_PackedImpressionRow).decode,
}
_OUTCOME: dict[Codec, Callable[[bytes], Any]] = {
    "json": msgspec.json.Decoder(_OutcomeRow).decode,
    "msgpack": msgspec.msgpack.Decoder(_OutcomeRow).decode,
}
_IMPRESSION_COLUMNS = msgspec.msgpack.Decoder(ImpressionColumns)
_OUTCOME_COLUMNS = msgspec.msgpack.Decoder(OutcomeColumns)


def row_keys(
    decision_ids: Sequence[str], slots: Ints | npt.NDArray[np.int32], slot_hash: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of (decision id, slot) for each row, shape (n,).

    Python's keyed string hash: nobody outside can provoke a collision, and by chance one of n live rows collides
    with probability n / 2^64 at each insertion (once in ten years at 100,000 a second with 600,000 pending).
    """
    h = np.fromiter(map(hash, decision_ids), np.int64, len(decision_ids)).view(np.uint64)
    h = (h ^ (slot_hash[slots] * np.uint64(0x9E3779B97F4A7C15))) * np.uint64(0xBF58476D1CE4E5B9)
    return h ^ (h >> np.uint64(31))


class Decoder:
    """Decodes the records of one worker: holds the numbering of arms and slots.

    ``policies`` maps a policy's name to its rules (model, dimension); ``kinds`` are the outcomes that any policy lists.
    """

    def __init__(self, policies: Mapping[str, Rules], *, kinds: Iterable[str]) -> None:
        self.policies = policies
        self.kinds = frozenset(kinds)
        self.slots = Names()
        self.arms: dict[str, Names] = {policy: Names() for policy in policies}
        self._slot_hash = np.zeros(0, np.uint64)

    def impressions(self, records: Sequence[Record]) -> tuple[list[Impressions], list[Dead]]:
        """Validated impressions by policy, and what could not be used."""
        groups: list[Impressions] = []
        dead: list[Dead] = []
        for codec, run in _runs(records, dead):
            if codec == "columns":
                for record in run:
                    groups.extend(self._impression_columns(record, dead))
            else:
                groups.extend(self._impression_rows(*_each(run, _IMPRESSION[codec], dead), dead))
        return merged(groups), dead

    def clicks(self, records: Sequence[Record]) -> tuple[list[Click], list[Dead]]:
        """Validated outcomes in order, and what could not be used."""
        clicks: list[Click] = []
        dead: list[Dead] = []
        for codec, run in _runs(records, dead):
            if codec == "columns":
                for record in run:
                    clicks.extend(self._outcome_columns(record, dead))
            else:
                rows, kept = _each(run, _OUTCOME[codec], dead)
                clicks.extend(self._clicks(rows, kept, [None] * len(rows), dead))
        return clicks, dead

    def _impression_rows(self, rows: list[Any], records: list[Record], dead: list[Dead]) -> Iterable[Impressions]:
        by_policy: dict[str, list[int]] = {}
        policies = [row.policy for row in rows]
        if len(set(policies)) == 1:
            by_policy[policies[0]] = list(range(len(rows)))
        else:
            for i, policy in enumerate(policies):
                by_policy.setdefault(policy, []).append(i)
        for policy, chosen in by_policy.items():
            whole = len(chosen) == len(rows)
            group = self._one_policy(
                policy,
                rows if whole else [rows[i] for i in chosen],
                records if whole else [records[i] for i in chosen],
                dead,
            )
            if group is not None:
                yield group

    def _one_policy(self, policy: str, rows: list[Any], records: list[Record], dead: list[Dead]) -> Impressions | None:
        rules = self.policies.get(policy)
        if rules is None:
            reason = self._unknown(policy)
            dead.extend(Dead(record, reason) for record in records)
            return None
        if rules.model != "beta" and not _all_of_dimension([row.context for row in rows], rules.dimension):
            rows, records = _of_dimension(rows, records, rules.dimension, policy, dead)
        if not rows:
            return None
        return self._validated(
            policy,
            records=records,
            row_numbers=None,
            decision_ids=[row.decision_id for row in rows],
            slot=np.array([self.slots[row.slot] for row in rows], np.int32),
            arm=np.array(list(map(self.arms[policy].__getitem__, [row.arm for row in rows])), np.int32),
            ts=np.array([row.ts for row in rows], np.int64),
            snapshot=np.array([-1 if row.snapshot is None else row.snapshot for row in rows], np.int64),
            propensity=np.array([row.propensity for row in rows], np.float64),
            version=np.array([row.v for row in rows]),
            x=_matrix([row.context for row in rows], rules.dimension if rules.model != "beta" else 0),
            dead=dead,
        )

    def _impression_columns(self, record: Record, dead: list[Dead]) -> Iterable[Impressions]:
        try:
            batch = _columns(record, _IMPRESSION_COLUMNS, "impression")
            rules = self.policies.get(batch.policy)
            if rules is None:
                raise EventError(self._unknown(batch.policy))
            if rules.model != "beta" and batch.dimension != rules.dimension:
                raise EventError(_dimension_reason(batch.dimension, rules.dimension, batch.policy))
            if batch.dtype not in ("<f4", "<f8"):
                raise EventError(f"dtype is {batch.dtype!r}; allowed: '<f4', '<f8'")
            n = batch.n
            x = column(batch.context, batch.dtype, n * batch.dimension, "context").reshape(n, batch.dimension)
            columns = {
                "slot": _codes(batch.slot, batch.slots, self.slots, n, "slot"),
                "arm": _codes(batch.arm, batch.arms, self.arms[batch.policy], n, "arm"),
                "ts": column(batch.ts, "<i8", n, "ts"),
                "snapshot": column(batch.snapshot, "<i8", n, "snapshot"),
                "propensity": column(batch.propensity, "<f8", n, "propensity"),
            }
        except (EventError, msgspec.MsgspecError) as error:
            dead.append(Dead(record, str(error), rows=_rows_of(record)))
            return
        if n:
            if rules.model == "beta":
                x = x[:, :0]
            group = self._validated(
                batch.policy,
                records=[record],
                row_numbers=np.arange(n),
                decision_ids=batch.decision_id,
                version=np.full(n, batch.v),
                x=x,
                dead=dead,
                **columns,
            )
            if group is not None:
                yield group

    def _validated(
        self,
        policy: str,
        *,
        records: list[Record],
        row_numbers: Ints | None,
        decision_ids: list[str],
        slot: Any,
        arm: Any,
        ts: Any,
        snapshot: Any,
        propensity: Any,
        version: Any,
        x: Any,
        dead: list[Dead],
    ) -> Impressions | None:
        """Columns as Impressions, without the rows that break a rule."""
        n = len(decision_ids)
        if row_numbers is None:
            offset = np.array([record.offset for record in records], np.int64)
            latest = np.array([record.timestamp for record in records], np.int64) + AHEAD_MS
        else:
            offset = np.full(n, records[0].offset, np.int64)
            latest = np.full(n, records[0].timestamp + AHEAD_MS, np.int64)
        good = (propensity > 0) & (propensity <= 1) & (ts >= 0) & (ts <= latest) & np.isfinite(x).all(axis=1)
        good &= (snapshot >= -1) & (snapshot < 2**31) & (version == VERSION)
        arm_names, slot_names = self.arms[policy], self.slots
        if "" in arm_names or "" in slot_names or not all(decision_ids):
            good &= np.array([bool(i) for i in decision_ids])
            good &= (arm != arm_names.get("", -1)) & (slot != slot_names.get("", -1))
        if len(slot_names) != len(self._slot_hash):
            self._slot_hash = np.fromiter(map(hash, slot_names.list), np.int64, len(slot_names)).view(np.uint64)
        kept: Any = slice(None)
        if not good.all():
            for i in np.flatnonzero(~good).tolist():
                reason = _reason(
                    decision_ids[i],
                    arm_names.list[arm[i]],
                    slot_names.list[slot[i]],
                    float(propensity[i]),
                    int(ts[i]),
                    int(latest[i]),
                    x[i],
                    int(version[i]),
                )
                dead.append(
                    Dead(records[i] if row_numbers is None else records[0], reason, None if row_numbers is None else i)
                )
            kept = good
            decision_ids = [decision_ids[i] for i in np.flatnonzero(good)]
            if not decision_ids:
                return None
        slot = slot[kept].astype(np.int32)
        return Impressions(
            policy=policy,
            key=row_keys(decision_ids, slot, self._slot_hash),
            slot=slot,
            arm=arm[kept].astype(np.int32),
            ts=ts[kept],
            offset=offset[kept],
            snapshot=snapshot[kept].astype(np.int32),
            propensity=propensity[kept],
            x=_narrow(x[kept]),
        )

    def _outcome_columns(self, record: Record, dead: list[Dead]) -> list[Click]:
        try:
            batch = _columns(record, _OUTCOME_COLUMNS, "outcome")
            if len(batch.outcome_id) != batch.n:
                raise EventError(f"column 'outcome_id' has {len(batch.outcome_id)} values, n is {batch.n}")
            slots = _names(batch.slot, batch.slots, batch.n, "slot")
            kinds = _names(batch.kind, batch.kinds, batch.n, "kind")
            value = column(batch.value, "<f8", batch.n, "value").tolist()
            ts = column(batch.ts, "<i8", batch.n, "ts").tolist()
        except (EventError, msgspec.MsgspecError) as error:
            dead.append(Dead(record, str(error), rows=_rows_of(record)))
            return []
        rows = [
            _OutcomeRow(d, s, o, t, k, v, batch.v)
            for d, s, o, t, k, v in zip(batch.decision_id, slots, batch.outcome_id, ts, kinds, value, strict=True)
        ]
        return self._clicks(rows, [record] * len(rows), list(range(len(rows))), dead)

    def _clicks(
        self, rows: list[_OutcomeRow], records: list[Record], numbers: Sequence[int | None], dead: list[Dead]
    ) -> list[Click]:
        if not rows:
            return []
        slots = np.array([self.slots[row.slot] for row in rows], np.int64)
        if len(self.slots) != len(self._slot_hash):
            self._slot_hash = np.fromiter(map(hash, self.slots.list), np.int64, len(self.slots)).view(np.uint64)
        keys = row_keys([row.decision_id for row in rows], slots, self._slot_hash).tolist()
        clicks: list[Click] = []
        for row, record, number, key in zip(rows, records, numbers, keys, strict=True):
            reason = self._click_reason(row, record)
            if reason is None:
                clicks.append(
                    Click(
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
                    )
                )
            else:
                dead.append(Dead(record, reason, number))
        return clicks

    def _click_reason(self, row: _OutcomeRow, record: Record) -> str | None:
        if row.v != VERSION:
            return _version_reason(row.v)
        for name in ("decision_id", "slot", "outcome_id"):
            if not getattr(row, name):
                return f"{name} is empty"
        if row.kind not in self.kinds:
            return (
                f"kind is {row.kind!r}, which no policy lists in its outcomes; listed: {', '.join(sorted(self.kinds))}"
            )
        if not -1.7e308 < row.value < 1.7e308:
            return f"value is {row.value}; allowed: a finite number"
        return _time_reason(row.ts, record.timestamp + AHEAD_MS)

    def _unknown(self, policy: str) -> str:
        return (
            f"policy is {policy!r}, which the settings do not have; known: {', '.join(sorted(self.policies)) or 'none'}"
        )


def _runs(records: Sequence[Record], dead: list[Dead]) -> Iterable[tuple[Codec, list[Record]]]:
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
        yield one, list(records)
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


def _all_of_dimension(contexts: list[Any], dimension: int) -> bool:
    """Whether every context has this many values, all of one encoding (the usual case)."""
    kinds = set(map(type, contexts))
    if kinds == {bytes}:
        return set(map(len, contexts)) == {4 * dimension}
    return kinds == {list} and set(map(len, contexts)) == {dimension}


def merged(groups: list[Impressions]) -> list[Impressions]:
    """Groups of one policy and type put together, in order: large batches are cheaper to join."""
    if len(groups) < 2:
        return groups
    together: dict[tuple[str, str], list[Impressions]] = {}
    for group in groups:
        together.setdefault((group.policy, group.x.dtype.str), []).append(group)
    return [parts[0] if len(parts) == 1 else _concatenated(parts) for parts in together.values()]


def _concatenated(parts: list[Impressions]) -> Impressions:
    columns = ("key", "slot", "arm", "ts", "offset", "snapshot", "propensity", "x")
    return Impressions(
        policy=parts[0].policy, **{name: np.concatenate([getattr(part, name) for part in parts]) for name in columns}
    )


def _each(records: list[Record], decode: Callable[[bytes], Any], dead: list[Dead]) -> tuple[list[Any], list[Record]]:
    """Decoded rows and their records. One pass; record by record only if that fails."""
    try:
        return [decode(record.value) for record in records], records  # type: ignore[arg-type]
    except (msgspec.MsgspecError, ValueError):
        rows, kept = [], []
    for record in records:
        try:
            rows.append(decode(record.value))  # type: ignore[arg-type]
            kept.append(record)
        except (msgspec.MsgspecError, ValueError) as error:
            dead.append(Dead(record, f"cannot be decoded: {error}"))
    return rows, kept


def _columns(record: Record, decoder: msgspec.msgpack.Decoder[Any], kind: str) -> Any:
    batch = decoder.decode(memoryview(record.value or b"")[4:])
    if batch.type != kind:
        raise EventError(f"type is {batch.type!r}; this topic takes {kind!r} batches")
    if batch.v != VERSION:
        raise EventError(_version_reason(batch.v))
    if batch.n < 0 or len(batch.decision_id) != batch.n:
        raise EventError(f"column 'decision_id' has {len(batch.decision_id)} values, n is {batch.n}")
    return batch


def _rows_of(record: Record) -> int:
    """How many events a columnar record that cannot be used stands for; 1 if even that cannot be read."""
    try:
        n = msgspec.msgpack.decode((record.value or b"")[4:])["n"]
        return max(1, int(n))
    except (msgspec.MsgspecError, ValueError, TypeError, KeyError):
        return 1


def _positions(buffer: bytes, names: list[str], n: int, name: str) -> npt.NDArray[np.uint32]:
    codes = column(buffer, "<u4", n, name)
    if n and int(codes.max()) >= len(names):
        raise EventError(f"column {name!r} points at name {int(codes.max())} of {len(names)}")
    return codes  # type: ignore[return-value]


def _codes(buffer: bytes, names: list[str], index: Names, n: int, name: str) -> npt.NDArray[np.int32]:
    codes = _positions(buffer, names, n, name)
    return np.array([index[value] for value in names], np.int32)[codes] if n else np.zeros(0, np.int32)


def _names(buffer: bytes, names: list[str], n: int, name: str) -> list[str]:
    return [names[code] for code in _positions(buffer, names, n, name).tolist()]


def _matrix(contexts: list[Any], dimension: int) -> npt.NDArray[np.floating[Any]]:
    """Contexts of one dimension d as (n, d)."""
    n = len(contexts)
    if dimension == 0:
        return np.zeros((n, 0), np.float32)
    if isinstance(contexts[0], bytes) and set(map(type, contexts)) == {bytes}:
        return np.frombuffer(b"".join(contexts), "<f4").reshape(n, dimension)
    if set(map(type, contexts)) == {list}:
        return np.fromiter(chain.from_iterable(contexts), np.float64, n * dimension).reshape(n, dimension)
    rows = np.empty((n, dimension))
    for i, context in enumerate(contexts):
        rows[i] = np.frombuffer(context, "<f4") if isinstance(context, bytes) else context
    return rows


def _narrow(x: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    """float32 where every value is one, so that a pending row takes half the memory; else unchanged."""
    if x.dtype == np.float32:
        return x
    with np.errstate(over="ignore"):
        narrow = x.astype(np.float32)
    return narrow if np.array_equal(narrow, x) else x


def _of_dimension(
    rows: list[Any], records: list[Record], dimension: int, policy: str, dead: list[Dead]
) -> tuple[list[Any], list[Record]]:
    kept = []
    for row, record in zip(rows, records, strict=True):
        if isinstance(row.context, bytes) and len(row.context) % 4:
            dead.append(Dead(record, f"context has {len(row.context)} bytes; float32 values take 4 each"))
            continue
        size = len(row.context) // 4 if isinstance(row.context, bytes) else len(row.context)
        if size == dimension:
            kept.append((row, record))
        else:
            dead.append(Dead(record, _dimension_reason(size, dimension, policy)))
    return [row for row, _ in kept], [record for _, record in kept]


def _dimension_reason(size: int, dimension: int, policy: str) -> str:
    return f"context has {size} values; policy {policy!r} has dimension {dimension}"


def _version_reason(version: int) -> str:
    return f"v is {version}; this program reads version {VERSION}: update it, or produce version {VERSION}"


def _time_reason(ts: int, latest: int) -> str | None:
    if 0 <= ts <= latest:
        return None
    return f"ts is {ts}; allowed: ms UTC from 0 to {latest} (5 minutes after the record's timestamp)"


def _reason(
    decision_id: str, arm: str, slot: str, propensity: float, ts: int, latest: int, x: Any, version: int
) -> str:
    """Why an impression was refused, in words."""
    if version != VERSION:
        return _version_reason(version)
    for name, value in (("decision_id", decision_id), ("arm", arm), ("slot", slot)):
        if not value:
            return f"{name} is empty"
    if not 0 < propensity <= 1:
        return f"propensity is {propensity}; allowed: above 0, at most 1"
    late = _time_reason(ts, latest)
    if late is not None:
        return late
    bad = np.flatnonzero(~np.isfinite(x))
    if len(bad):
        return f"context[{bad[0]}] is {x[bad[0]]}; allowed: finite numbers"
    return "snapshot is out of range; allowed: null or 0 to 2147483647"
