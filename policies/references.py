"""Reference weights: the arms' means as published with a meta-change, for what enters sums and has to be estimated first.

"Whatever is estimated and enters sums is taken from the version that the impression names": the reference of an impression that
names the version v is the mean (d,) of its arm as the publisher published it with its last meta-change at or before v (an
older version that is published again changes no reference). It is the point around
which the logistic model is linearised for that row, and what Huber's rule measures a reward from. So sums stay a
function of the log and of what was published. Rows of other references add up, because each is a quadratic of its own.

Record (compacted `policies` topic, key ``[policy, null, "reference N"]``, N over a ring)::

    v, policy, version, arms
    mean      bytes <f4, (arms, d)
    kappa     {slot: position effect}, left out if there are none
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from policies.records import from_bytes, to_bytes
from policies.robust import huber_changes
from policies.sums import RecordError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from policies.batch import Batch, FloatArray
    from policies.snapshot import Snapshot

KIND = "reference "
VERSION = 1


class _Record(msgspec.Struct, frozen=True, omit_defaults=True):
    v: int
    policy: str
    version: int
    arms: tuple[str, ...]
    mean: bytes
    kappa: dict[str, float] = {}  # msgspec copies an empty dict for each instance


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reference:
    """What one meta-change published: version, the mean (d,) of every arm by name, and the position effect of slots."""

    version: int
    means: Mapping[str, FloatArray]
    kappa: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class References:
    """A policy's references in the order of their versions. ``newest``: the largest version known to be published, None for any."""

    _found: list[Reference] = field(default_factory=list)
    newest: int | None = None

    def copy(self, newest: int | None) -> References:
        """The same references for a reader that goes on while another adds to these."""
        return References(list(self._found), newest)

    def add(self, one: Reference) -> None:
        """Take one; again is the same."""
        versions = [known.version for known in self._found]
        at = bisect_right(versions, one.version)
        if at == 0 or versions[at - 1] != one.version:
            self._found.insert(at, one)

    def keep(self, most: int) -> None:
        """Let go of all but the newest."""
        del self._found[:-most]

    def of(self, version: int) -> Reference | None:
        """The last one at or before a version; None if there is none.

        >>> known = References()
        >>> known.add(Reference(version=3, means={}))
        >>> known.of(2), known.of(7).version
        (None, 3)
        """
        at = bisect_right([known.version for known in self._found], version)
        return self._found[at - 1] if at else None

    def points(
        self, version: npt.NDArray[np.integer[Any]], arm: npt.NDArray[np.integer[Any]], names: Sequence[str], d: int
    ) -> tuple[FloatArray, npt.NDArray[np.intp]]:
        """Reference weights of n rows: distinct ones (k, d), and which of them is each row's (n,), -1 where there is none.

        Args:
            version: (n,) that each row names; below 0 is none, and so is one above `newest`.
            arm: (n,) index into ``names``.
            names: of the arms.
            d: length of the weights.

        >>> known = References()
        >>> known.add(Reference(version=3, means={"a": np.array([0.5])}))
        >>> points, index = known.points(np.array([2, 3, 9, 9]), np.array([0, 0, 0, 1]), ["a", "b"], 1)
        >>> points.tolist(), index.tolist()
        ([[0.5]], [-1, 0, 0, -1])
        """
        at = self._place(version)
        pairs, index = np.unique(at * len(names) + arm, return_inverse=True)
        found: list[FloatArray] = []
        place = np.full(len(pairs), -1, np.intp)
        for i, pair in enumerate(pairs.tolist()):
            which, code = divmod(pair, len(names))
            mean = self._found[which].means.get(names[code]) if which >= 0 else None
            if mean is not None and len(mean) == d:
                place[i] = len(found)
                found.append(mean)
        return np.array(found).reshape(len(found), d), place[index]

    def kappa(
        self,
        version: npt.NDArray[np.integer[Any]],
        slot: npt.NDArray[np.integer[Any]],
        names: Sequence[str],
        start: Mapping[str, float],
    ) -> FloatArray:
        """Position effects (n,) of rows' slots, as published with the versions that they name.

        Args:
            version: (n,) that each row names, as in `points`.
            slot: (n,) index into ``names``.
            names: of the slots.
            start: effects where no reference tells one; 1 for slots that are not in it either.

        >>> known = References()
        >>> known.add(Reference(version=3, means={}, kappa={"side": 0.5}))
        >>> known.kappa(np.array([2, 3, 3]), np.array([0, 0, 1]), ["side", "top"], {"side": 0.8}).tolist()
        [0.8, 0.5, 1.0]
        """
        at = self._place(version)
        out = np.ones(len(version))
        pairs, index = np.unique(at * len(names) + slot, return_inverse=True)
        values = []
        for pair in pairs.tolist():
            which, code = divmod(pair, len(names))
            told = self._found[which].kappa if which >= 0 else start
            values.append(told.get(names[code], start.get(names[code], 1.0)))
        if len(pairs):
            out = np.array(values)[index]
        return out

    def _place(self, version: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.intp]:
        """(n,) which reference each row's version goes by, -1 for none."""
        versions = [known.version for known in self._found]
        at = np.searchsorted(versions, version, side="right") - 1 if versions else np.full(len(version), -1)
        if self.newest is not None:
            at = np.where(version > self.newest, -1, at)
        return np.asarray(at, np.intp)


def refer(
    batch: Batch,
    known: References,
    version: npt.NDArray[np.integer[Any]],
    reward_version: npt.NDArray[np.integer[Any]],
    before: FloatArray,
    *,
    linearised: bool,
    limit: float | None,
) -> Batch:
    """A batch whose rows go by the versions that their impressions name.

    Args:
        batch: n impressions and m changes of reward.
        known: references of the policy.
        version: (n,) of the impressions.
        reward_version: (m,) of the changes' impressions.
        before: (m,) rewards of the impressions before the changes.
        linearised: whether impressions get points, as the logistic model needs them.
        limit: of Huber's rule (policies/robust.py) for the rewards; None cuts nothing.
    """
    d = batch.x.shape[1]
    if linearised:
        points, point = known.points(version, batch.arm, batch.arms, d)
        batch = replace(batch, points=points, point=point)
    if limit is not None:
        points, point = known.points(reward_version, batch.reward_arm, batch.arms, d)
        told = point >= 0
        expected = np.einsum("md,md->m", batch.reward_x[told].astype(np.float64), points[point[told]])
        reward, square = batch.reward.copy(), batch.square.copy()
        reward[told], square[told] = huber_changes(before[told], reward[told], expected, limit)
        batch = replace(batch, reward=reward, square=square)
    return batch


def reference_key(policy: str, number: int) -> bytes:
    """Kafka key of a policy's reference by its number in the ring.

    >>> reference_key("p", 3).hex()
    '93a170c0ab7265666572656e63652033'
    """
    return msgspec.msgpack.encode([policy, None, f"{KIND}{number}"])


def reference_of(snapshot: Snapshot, *, weights: bool = True) -> Reference:
    """What a snapshot of a model with a context publishes; without its arms' weights if nothing goes by them.

    Raises:
        ValueError: its arms have no weights.
    """
    means = {}
    for name, arm in snapshot.arms.items() if weights else ():
        mean = getattr(arm, "mean", None)
        if mean is None:
            raise ValueError(f"arm {name!r} of policy {snapshot.policy!r} has no weights to refer to")
        means[name] = np.asarray(mean, np.float64)
    return Reference(version=snapshot.version, means=means, kappa=dict(snapshot.allotment.kappa))


def encode(policy: str, one: Reference) -> bytes:
    """Record of a reference."""
    means = np.array(list(one.means.values()), np.float64)
    record = _Record(VERSION, policy, one.version, tuple(one.means), to_bytes(means.ravel(), "<f4"), dict(one.kappa))
    return msgspec.msgpack.encode(record)


def decode(data: bytes) -> Reference:
    """Reference from its record. Raises RecordError if it cannot be used.

    >>> one = decode(encode("p", Reference(version=4, means={"a": np.array([0.25, -1.0])})))
    >>> one.version, one.means["a"].tolist()
    (4, [0.25, -1.0])
    """
    try:
        record = msgspec.msgpack.decode(data, type=_Record)
    except msgspec.MsgspecError as error:
        raise RecordError(f"a reference cannot be read: {error}; its first bytes are {data[:16].hex(' ')}") from error
    if not 1 <= record.v <= VERSION:
        raise RecordError(f"a reference has version {record.v}, this reader knows 1 to {VERSION}; upgrade it")
    k = len(record.arms)
    d = len(record.mean) // (4 * k) if k else 0
    mean = from_bytes(record.mean, k * d, what="the means of a reference", dtype="<f4").astype(np.float64)
    means = dict(zip(record.arms, mean.reshape(k, d), strict=True))
    return Reference(version=record.version, means=means, kappa=record.kappa)
