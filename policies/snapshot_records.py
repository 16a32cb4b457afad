"""Byte layout of snapshots. All records are MessagePack maps with the major version ``v`` first, 1 today.

Keys: ``[policy, null]`` for the head, ``[policy, arm]`` for an arm.

Head::

    v, policy, version, parent, time_ms, model, dimension, explorer, rates, reasons
    prior         {"mean": bytes <f8, "tau2": bytes <f8, "s2": float}, for hybrid also {"factor": bytes <f8, lower
                  triangle of the shared part's factor row by row}, for student {"dof": float};  or  {"a": float, "b": float}
    encoder, watermark_ms {partition: ms}, offsets {partition: {topic: next offset}}, clicks_ts
    arms          {arm: version of its record}
    checksum      CRC-32, below
    paused, gone  lists of arms: not to be shown; existing no more (removed, renamed). Left out if empty
    allotment     terms of slots and budgets (policies/allotment.py). Left out if empty
    canary        {"number", "share", "salt", "explorer", "rates", "name"}, see policies/canary.py. Left out if there is none
    sticky_canary the same with "sticky_s", in place of canary: readers that cannot keep a unit's group see no canary
    audit_share   of decisions drawn uniformly. Left out if 0
    audit_sticky_s   seconds of the periods for which units stay in that share. Left out if 0
    logging       true if it is not to be decided from; follows: name of the policy that decides in its place. Left out if not so
    succeeds      the policy whose decisions this one makes (policies/succession.py). Left out if there is none
    shares        {policy: share} of this policy's decisions that others make (policies/contest.py). Left out if none do

Arm::

    v, policy, arm, version, count, alarm
    mean, factor  bytes <f4: d numbers, and the lower triangle of W row by row, d (d + 1)/2 numbers (linear)
    dof           float (student)
    a, b          floats (beta)

The checksum is the CRC-32 of the MessagePack array ``[head, arms]``: head is the array of the head's values above in
that order without v, arms and checksum, maps as arrays of pairs sorted by key; arms is an array of
``[arm, version, CRC-32]`` sorted by arm, where an arm's CRC-32 is over the array of its values from version on. Only
fields of version 1 enter, so that a reader which does not know a field added later still agrees.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from policies.allotment import NO_ALLOTMENT, Allotment, allotment_of, fields_of
from policies.canary import Canary
from policies.explorers import check_known
from policies.prior import PRIORS, AnyPrior, BetaPrior, HybridPrior, Prior, StudentPrior
from policies.records import from_bytes, to_bytes
from policies.sums import RecordError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policies.batch import FloatArray

VERSION = 1

GAUSSIAN = ("linear", "hybrid", "student", "logistic")
"""Models whose arms are published as mean and factor."""

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearArm:
    """A linear arm as published.

    Attributes:
        version: of the snapshot that the record was written with.
        count: number of impressions in its sums.
        mean: (d,) posterior mean.
        factor: (d (d + 1)/2,) lower triangle of W row by row, x^T V x = ||W x||^2.
        alarm: its sums could not be used; this is the prior.
        dof: degrees of freedom of a student arm, else None.
    """

    version: int
    count: float
    mean: Float32Array
    factor: Float32Array
    alarm: bool = False
    dof: float | None = None

    @cached_property
    def fields(self) -> dict[str, Any]:
        """What the record says, apart from names and version."""
        return {
            "count": self.count,
            "alarm": self.alarm,
            "mean": to_bytes(self.mean, "<f4"),
            "factor": to_bytes(self.factor, "<f4"),
            **({} if self.dof is None else {"dof": self.dof}),
        }

    def same(self, other: Arm) -> bool:
        """Whether all but the version is the same."""
        return isinstance(other, LinearArm) and self.fields == other.fields

    def at_version(self, version: int) -> LinearArm:
        """The same numbers under another version."""
        return replace(self, version=version)

    def fits(self, model: str, dimension: int) -> bool:
        """Whether this is an arm of such a model."""
        return (
            model in GAUSSIAN
            and (self.dof is not None) == (model == "student")
            and len(self.mean) == dimension
            and len(self.factor) == dimension * (dimension + 1) // 2
        )


@dataclass(frozen=True, kw_only=True)
class BetaArm:
    """A Beta arm as published: Beta(a, b); version, count and alarm as in `LinearArm`."""

    version: int
    count: float
    a: float
    b: float
    alarm: bool = False

    @property
    def fields(self) -> dict[str, Any]:
        """What the record says, apart from names and version."""
        return {"count": self.count, "alarm": self.alarm, "a": self.a, "b": self.b}

    def same(self, other: Arm) -> bool:
        """Whether all but the version is the same."""
        return isinstance(other, BetaArm) and self.fields == other.fields

    def at_version(self, version: int) -> BetaArm:
        """The same numbers under another version."""
        return replace(self, version=version)

    def fits(self, model: str, dimension: int) -> bool:  # noqa: ARG002  # a context does not matter here
        """Whether this is an arm of such a model."""
        return model == "beta"


Arm = LinearArm | BetaArm


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a head record says; see `policies.snapshot.Snapshot`. `arms`: version of each arm's record."""

    policy: str
    version: int
    parent: int | None
    time_ms: int
    model: str
    dimension: int
    explorer: str
    rates: dict[str, float]
    reasons: tuple[str, ...]
    prior: AnyPrior
    encoder: str | None
    watermark_ms: dict[int, int]
    offsets: dict[int, dict[str, int]]
    clicks_ts: int | None
    arms: dict[str, int]
    checksum: int
    paused: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    allotment: Allotment = NO_ALLOTMENT
    canary: Canary | None = None
    audit_share: float = 0.0
    audit_sticky_s: int = 0
    logging: bool = False
    follows: str = ""
    succeeds: str | None = None
    shares: dict[str, float] = field(default_factory=dict)


class _Version(msgspec.Struct):
    v: int


class _Prior(msgspec.Struct, omit_defaults=True):
    mean: bytes | None = None
    tau2: bytes | None = None
    s2: float | None = None
    factor: bytes | None = None
    dof: float | None = None
    a: float | None = None
    b: float | None = None


class _Head(msgspec.Struct):
    v: int
    policy: str
    version: int
    parent: int | None
    time_ms: int
    model: Literal["linear", "hybrid", "student", "logistic", "beta"]
    dimension: int
    explorer: str
    rates: dict[str, float]
    reasons: tuple[str, ...]
    prior: _Prior
    encoder: str | None
    watermark_ms: dict[int, int]
    offsets: dict[int, dict[str, int]]
    clicks_ts: int | None
    arms: dict[str, int]
    checksum: int
    paused: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    allotment: dict[str, Any] = {}  # msgspec copies an empty dict for each instance
    canary: Canary | None = None
    sticky_canary: Canary | None = None
    audit_share: float = 0.0
    audit_sticky_s: int = 0
    logging: bool = False
    follows: str = ""
    succeeds: str | None = None
    shares: dict[str, float] = {}


class _Arm(msgspec.Struct):
    v: int
    policy: str
    arm: str
    version: int
    count: float
    alarm: bool
    mean: bytes | None = None
    factor: bytes | None = None
    dof: float | None = None
    a: float | None = None
    b: float | None = None


LATER = (
    "paused",
    "gone",
    "allotment",
    "canary",
    "audit_share",
    "audit_sticky_s",
    "logging",
    "follows",
    "succeeds",
    "shares",
)
"""Fields that came after version 1: left out where they are empty, and not part of the checksum."""

_HEAD_FIELDS = tuple(name for name in Head.__slots__ if name not in ("arms", "checksum", *LATER))


def head_key(policy: str) -> bytes:
    """Kafka key of a policy's head.

    >>> head_key("p").hex()
    '92a170c0'
    """
    return msgspec.msgpack.encode([policy, None])


def arm_key(policy: str, arm: str) -> bytes:
    """Kafka key of an arm's record.

    >>> arm_key("p", "a").hex()
    '92a170a161'
    """
    return msgspec.msgpack.encode([policy, arm])


def encode_arm(policy: str, name: str, arm: Arm) -> bytes:
    """Record of one arm."""
    return msgspec.msgpack.encode({"v": VERSION, "policy": policy, "arm": name, "version": arm.version, **arm.fields})


def decode_arm(data: bytes) -> Arm:
    """Arm from its record. Raises RecordError if it cannot be used."""
    record = _decode(data, _Arm, "an arm's record")
    if record.a is not None and record.b is not None:
        if not (0.0 < record.a < np.inf and 0.0 < record.b < np.inf):
            raise RecordError(
                f"arm {record.arm!r} has a = {record.a}, b = {record.b}; both must be finite and above zero"
            )
        return BetaArm(version=record.version, count=record.count, a=record.a, b=record.b, alarm=record.alarm)
    if record.mean is None or record.factor is None:
        raise RecordError(f"arm {record.arm!r} has neither mean and factor nor a and b; is this an arm's record?")
    d = len(record.mean) // 4
    if record.dof is not None and not 2.0 < record.dof < np.inf:
        raise RecordError(f"arm {record.arm!r} has dof = {record.dof}; it must be finite and above 2")
    return LinearArm(
        version=record.version,
        count=record.count,
        mean=_float32(record.mean, d, f"mean of arm {record.arm!r}"),
        factor=_float32(record.factor, d * (d + 1) // 2, f"factor of arm {record.arm!r}"),
        alarm=record.alarm,
        dof=record.dof,
    )


def _float32(data: bytes, length: int, what: str) -> Float32Array:
    return from_bytes(data, length, what=what, dtype="<f4").astype(np.float32)


def encode_head_record(head: Head) -> bytes:
    """Record of a head."""
    values = {name: getattr(head, name) for name in Head.__slots__ if name not in LATER or getattr(head, name)}
    if "allotment" in values:
        values["allotment"] = fields_of(head.allotment)
    if head.canary is not None:
        told = msgspec.to_builtins(values.pop("canary"))
        if head.canary.sticky_s:
            values["sticky_canary"] = told
        else:
            del told["sticky_s"]
            values["canary"] = told
    return msgspec.msgpack.encode({"v": VERSION, **values, "prior": _prior_fields(head.prior)})


def decode_head(data: bytes) -> Head:
    """Head from its record. Raises RecordError if it cannot be used."""
    record = _decode(data, _Head, "a head")
    values = {name: getattr(record, name) for name in Head.__slots__}
    canary = values["canary"] = record.canary if record.sticky_canary is None else record.sticky_canary
    try:
        prior = _prior(record.prior, record.dimension)
        if not isinstance(prior, PRIORS[record.model]):
            raise RecordError(f"it is a {type(prior).__name__}, the model is {record.model!r}")
    except ValueError as error:
        raise RecordError(f"the head of policy {record.policy!r} has an impossible prior: {error}") from error
    try:
        check_known(record.explorer, record.rates)
        if canary is not None:
            check_known(canary.explorer, canary.rates)
    except ValueError as error:
        raise RecordError(
            f"the head of policy {record.policy!r} cannot be decided from: {error}; upgrade this reader if it is older"
        ) from error
    try:
        allotment = allotment_of(record.allotment)
    except ValueError as error:
        raise RecordError(f"the head of policy {record.policy!r} has impossible terms: {error}") from error
    return Head(**{**values, "prior": prior, "allotment": allotment})


def _decode(data: bytes, kind: type[Any], what: str) -> Any:
    try:
        version = msgspec.msgpack.decode(data, type=_Version).v
        if not 1 <= version <= VERSION:
            raise RecordError(
                f"{what} has version {version}, this reader knows 1 to {VERSION}; upgrade it before reading them"
            )
        return msgspec.msgpack.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise RecordError(f"{what} cannot be read: {error}; its first bytes are {data[:16].hex(' ')}") from error


def _prior_fields(prior: AnyPrior) -> dict[str, Any]:
    if isinstance(prior, BetaPrior):
        return {"a": prior.a, "b": prior.b}
    fields = {"mean": to_bytes(prior.mean), "tau2": to_bytes(prior.tau2), "s2": prior.s2}
    if isinstance(prior, StudentPrior):
        return fields | {"dof": prior.dof}
    return fields | {"factor": to_bytes(pack_lower(prior.factor))} if isinstance(prior, HybridPrior) else fields


def _prior(record: _Prior, dimension: int) -> AnyPrior:
    if record.a is not None and record.b is not None:
        return BetaPrior(a=record.a, b=record.b)
    if record.mean is None or record.tau2 is None or record.s2 is None:
        raise RecordError("neither mean, tau2 and s2 nor a and b are there")
    mean = from_bytes(record.mean, dimension, what="the prior's mean")
    tau2 = from_bytes(record.tau2, dimension, what="the prior's tau2")
    if record.dof is not None:
        return StudentPrior(mean=mean, tau2=tau2, s2=record.s2, dof=record.dof)
    if record.factor is None:
        return Prior(mean=mean, tau2=tau2, s2=record.s2)
    packed = from_bytes(record.factor, dimension * (dimension + 1) // 2, what="the prior's factor")
    return HybridPrior(mean=mean, factor=unpack_lower(packed, dimension), tau2=tau2, s2=record.s2)


def checksum(head: Head, arms: Mapping[str, Arm]) -> int:
    """CRC-32 over what head and arms say; see the module's docstring."""
    values = [_plain(_prior_fields(head.prior) if name == "prior" else getattr(head, name)) for name in _HEAD_FIELDS]
    sums = [[name, arms[name].version, arm_checksum(arms[name])] for name in sorted(arms)]
    return zlib.crc32(msgspec.msgpack.encode([values, sums]))


def arm_checksum(arm: Arm) -> int:
    """CRC-32 over an arm's version and numbers."""
    return zlib.crc32(msgspec.msgpack.encode([arm.version, *arm.fields.values()]))


def _plain(value: Any) -> Any:
    return sorted([key, _plain(inner)] for key, inner in value.items()) if isinstance(value, dict) else value


@lru_cache(maxsize=64)
def lower_indices(dimension: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows and columns of a lower triangle's elements, row by row."""
    rows, columns = np.tril_indices(dimension)
    return rows, columns


def pack_lower(matrix: FloatArray) -> FloatArray:
    """Lower triangle (d (d + 1)/2,) of a (d, d) matrix, row by row.

    >>> import numpy as np
    >>> pack_lower(np.array([[1.0, 0.0], [2.0, 3.0]])).tolist()
    [1.0, 2.0, 3.0]
    """
    packed: FloatArray = matrix[lower_indices(len(matrix))]
    return packed


def unpack_lower(packed: npt.NDArray[np.floating], dimension: int) -> FloatArray:
    """(d, d) lower triangular matrix from `pack_lower`'s numbers, in float64."""
    matrix = np.zeros((dimension, dimension))
    matrix[lower_indices(dimension)] = packed
    return matrix
