"""Byte layout of a policy's top layer, beside its meta-state (policies/meta_records.py).

Key ``[policy, null, "choosing"]``; the value is a MessagePack map with the major version ``v`` first, 1 today; unknown keys are ignored::

    v, policy
    names         of the choices, in words
    S, F          counts
    memory, block, count, leader
    first         first version of each run, as differences from the one before
    index         bytes, one signed byte for each run
"""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import msgspec
import numpy as np

from policies.choosing import Choosing
from policies.records import versioned
from policies.sums import RecordError

VERSION = 1
CHOOSING = "choosing"
"""Kind of the record, the third element of its key."""


class _Choosing(msgspec.Struct, frozen=True, kw_only=True):
    v: int
    policy: str
    names: tuple[str, ...]
    S: tuple[float, ...]
    F: tuple[float, ...]
    memory: float
    block: float
    count: float
    leader: int
    first: list[int]
    index: bytes


def choosing_key(policy: str) -> bytes:
    """Kafka key of a policy's top layer.

    >>> choosing_key("p").hex()
    '93a170c0a863686f6f73696e67'
    """
    return msgspec.msgpack.encode([policy, None, CHOOSING])


def encode_choosing(policy: str, state: Choosing, names: tuple[str, ...]) -> bytes:
    """Record of a policy's top layer."""
    first = [version for version, _ in state.runs]
    record = _Choosing(
        v=VERSION,
        policy=policy,
        names=names,
        S=state.layer.S,
        F=state.layer.F,
        memory=state.layer.memory,
        block=state.block,
        count=state.count,
        leader=state.leader,
        first=[later - before for before, later in zip([0, *first], first, strict=False)],
        index=np.array([index for _, index in state.runs], "i1").tobytes(),
    )
    return msgspec.msgpack.encode(record)


def decode_choosing(data: bytes, start: Choosing, names: tuple[str, ...]) -> Choosing:
    """From its record; where the settings have other choices now, it begins anew.

    Raises:
        RecordError: a later version, or damaged.
    """
    record = versioned(data, _Choosing, VERSION, "a state of the top layer")
    if record.names != names:
        return start
    index = np.frombuffer(record.index, "i1").tolist()
    sizes = {len(names), len(record.S), len(record.F)}
    if len(sizes) != 1 or len(index) != len(record.first) or not all(-1 <= one < len(names) for one in index):
        raise RecordError(
            f"a state of the top layer has {len(record.S)} counts and {len(index)} runs of {len(names)} choices"
        )
    try:
        layer = replace(start.layer, S=record.S, F=record.F, memory=record.memory)
    except ValueError as error:
        raise RecordError(f"a state of the top layer: {error}") from error
    return replace(
        start,
        layer=layer,
        runs=tuple(zip(accumulate(record.first), index, strict=True)),
        leader=record.leader if 0 <= record.leader < len(names) else start.leader,
        block=record.block,
        count=record.count,
    )
