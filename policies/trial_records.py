"""Byte layout of what a policy tries: one record of the compacted `policies` topic, beside the meta-state's.

Key: ``[policy, null, "trials"]``. Value: a MessagePack map with the major version ``v`` first, 1 today; unknown keys are ignored, keys that
are not there have the defaults::

    v, policy
    trying        {"canary": see policies/canary.py, "test": see policies/promotion.Trial, "since_version", "periods": see
                  policies/sticky.Periods} or null
    candidates, frozen, heard
    adopted       list of {"explorer", "rates"}, the newest last
    offsets       {partition of the feedback topic: next offset}
    audit         {"arms": {arm: ArmAudit}, "shares": {group: ShareAudit}, "rows"}, see policies/audit.py
    by_visit      [first, next] version that the last sticky candidate was in. Left out if there was none
    random_since  first version with the random share that is audited. Left out if it is 0
"""

from __future__ import annotations

from dataclasses import fields

import msgspec

from policies.audit import Audit
from policies.explorers import check_known
from policies.sums import RecordError
from policies.trials import Exploring, Trials, Trying

VERSION = 1
KIND = "trials"


class _Version(msgspec.Struct, frozen=True):
    v: int


class _Record(msgspec.Struct, frozen=True):
    v: int
    policy: str
    trying: Trying | None = None
    candidates: int = 0
    adopted: tuple[Exploring, ...] = ()
    frozen: bool = False
    heard: int = 0
    offsets: dict[int, int] = {}
    audit: Audit = Audit()
    by_visit: tuple[int, int] = (0, 0)
    random_since: int = 0


def trials_key(policy: str) -> bytes:
    """Kafka key of the record.

    >>> trials_key("p").hex()
    '93a170c0a6747269616c73'
    """
    return msgspec.msgpack.encode([policy, None, KIND])


def encode_trials(policy: str, state: Trials) -> bytes:
    """Record of a policy's state.

    >>> decode_trials(encode_trials("p", Trials(heard=7))).heard
    7
    """
    values = {one.name: getattr(state, one.name) for one in fields(state)}
    values["offsets"] = dict(sorted(state.offsets.items()))
    record = msgspec.to_builtins(_Record(v=VERSION, policy=policy, **values), builtin_types=(bytes,))
    for name in ("by_visit", "random_since"):
        if getattr(state, name) == getattr(Trials(), name):
            del record[name]
    return msgspec.msgpack.encode(record)


def decode_trials(data: bytes) -> Trials:
    """State from its record. Raises RecordError: a later version, damaged, or of an explorer that is not known here."""
    try:
        version = msgspec.msgpack.decode(data, type=_Version).v
        if not 1 <= version <= VERSION:
            raise RecordError(f"a record of trials has version {version}, this reader knows 1 to {VERSION}; upgrade it")
        record = msgspec.msgpack.decode(data, type=_Record)
        for one in record.adopted:
            check_known(one.explorer, one.rates)
        if record.trying is not None:
            check_known(record.trying.canary.explorer, record.trying.canary.rates)
    except (msgspec.DecodeError, ValueError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(
            f"a record of trials cannot be read: {error}; its first bytes are {data[:16].hex(' ')}"
        ) from error
    return Trials(**{one.name: getattr(record, one.name) for one in fields(Trials)})
