"""Byte layout of what a policy's exploration and its groups of arms are, beside the meta-state (policies/meta_records.py).

Keys: ``[policy, null, "exploration"]`` and ``[policy, group, "group"]``. Values are MessagePack maps with the major version ``v``
first, 1 today; unknown keys are ignored.

Exploration::

    v, policy, alpha, given
    hazard        [changes, exposure]
    count, at_ms, announced_ms
    events        0 if it is not there, as in records of before
    d             length of the contexts
    ring          bytes <f4, (m, d), oldest first
    cut           {partition: {topic: next offset}}

Group::

    v, policy, group, s2
    mean, tau2    bytes <f8, d numbers
    factor        bytes <f8, lower triangle row by row
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np

from policies.exploration import Exploration, Offsets
from policies.exploring import Hazard
from policies.prior import HybridPrior
from policies.records import from_bytes, to_bytes, versioned
from policies.sums import RecordError

VERSION = 1
EXPLORATION, GROUP = "exploration", "group"
"""Kinds of records, the third element of their keys."""


class _Exploration(msgspec.Struct, frozen=True, kw_only=True):
    v: int
    policy: str
    alpha: float
    given: float
    hazard: tuple[float, float]
    count: float
    at_ms: int
    announced_ms: int
    d: int
    ring: bytes
    cut: Offsets
    events: float = 0.0


class _Group(msgspec.Struct, frozen=True, kw_only=True):
    v: int
    policy: str
    group: str
    s2: float
    mean: bytes
    tau2: bytes
    factor: bytes


def exploration_key(policy: str) -> bytes:
    """Kafka key of a policy's exploration.

    >>> exploration_key("p").hex()
    '93a170c0ab6578706c6f726174696f6e'
    """
    return msgspec.msgpack.encode([policy, None, EXPLORATION])


def group_key(policy: str, group: str) -> bytes:
    """Kafka key of what arms of a group start from.

    >>> group_key("p", "g").hex()
    '93a170a167a567726f7570'
    """
    return msgspec.msgpack.encode([policy, group, GROUP])


def encode_exploration(policy: str, state: Exploration) -> bytes:
    """Record of a policy's exploration."""
    record = _Exploration(
        v=VERSION,
        policy=policy,
        alpha=state.alpha,
        given=state.given,
        hazard=(state.hazard.changes, state.hazard.exposure),
        count=state.count,
        at_ms=state.at_ms,
        announced_ms=state.announced_ms,
        d=state.ring.shape[1],
        ring=state.ring.astype("<f4", copy=False).tobytes(),
        cut={partition: dict(sorted(of.items())) for partition, of in sorted(state.cut.items())},
        events=state.events,
    )
    return msgspec.msgpack.encode(record)


def decode_exploration(data: bytes, start: Exploration) -> Exploration:
    """From its record. Where the settings' rate is another now, it begins from that; contexts of another length are let go of.

    Raises:
        RecordError: a later version, or damaged.
    """
    record: _Exploration = versioned(data, _Exploration, VERSION, "a state of exploration")
    ring, d = start.ring, start.ring.shape[1]
    if record.d == d and d:
        values = from_bytes(record.ring, len(record.ring) // 4, what="recent contexts", dtype="<f4")
        if len(values) % d:
            raise RecordError(f"a state of exploration has {len(values)} numbers for contexts of {d}")
        ring = values.astype(np.float32).reshape(-1, d)
    return replace(
        start,
        alpha=record.alpha if record.given == start.given else start.alpha,
        hazard=Hazard(changes=record.hazard[0], exposure=record.hazard[1]),
        count=record.count,
        events=record.events,
        at_ms=record.at_ms,
        announced_ms=record.announced_ms,
        ring=ring,
        cut=record.cut,
    )


def encode_group(policy: str, group: str, prior: HybridPrior) -> bytes:
    """Record of what arms of a group start from."""
    lower = prior.factor[np.tril_indices(len(prior.mean))]
    record = _Group(
        v=VERSION,
        policy=policy,
        group=group,
        s2=prior.s2,
        mean=to_bytes(prior.mean),
        tau2=to_bytes(prior.tau2),
        factor=to_bytes(lower),
    )
    return msgspec.msgpack.encode(record)


def decode_group(data: bytes) -> HybridPrior:
    """What arms of a group start from. Raises RecordError if it cannot be used."""
    record: _Group = versioned(data, _Group, VERSION, "a group's prior")
    d = len(record.mean) // 8
    factor = np.zeros((d, d))
    factor[np.tril_indices(d)] = from_bytes(record.factor, d * (d + 1) // 2, what="a group's factor")
    mean, tau2 = (from_bytes(one, d, what="a group's prior") for one in (record.mean, record.tau2))
    try:
        return HybridPrior(mean=mean, factor=factor, tau2=tau2, s2=record.s2)
    except ValueError as error:
        raise RecordError(f"group {record.group!r} of policy {record.policy!r}: {error}") from error
