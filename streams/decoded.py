"""What decoding gives: validated rows as columns, outcomes, and records that cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from policies.canary import CODES

ESTIMATE = 1
"""Flag of an impression: its propensity is an estimate."""
LIMITED = 2
"""Flag of an impression: its unit had reached the policy's limit, so that it does not learn; the join sets it."""

GROUP_SHIFT, GROUP_BITS = 4, 0x70
"""Flags of an impression: the code of its group (policies/canary.py), 0 for none."""

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


@dataclass(frozen=True, slots=True)
class Dead:
    """A record, or a row of a columnar record, that cannot be used. ``rows``: how many events it stands for.

    ``token``: what is wrong with its token, in a word, if that is why.
    """

    record: Record
    reason: str
    row: int | None = None
    rows: int = 1
    token: str | None = None


class Names(dict[str, int]):
    """Strings numbered in order of appearance, so that rows hold an integer.

    >>> names = Names(); names["b"], names["a"], names["b"], names.list
    (0, 1, 0, ['b', 'a'])
    """

    def __init__(self) -> None:
        self.list: list[str] = []
        self._hashes = np.zeros(0, np.uint64)

    def hashes(self) -> npt.NDArray[np.uint64]:
        """A 64-bit hash of every name, by its number; valid in this process only."""
        if len(self._hashes) < len(self.list):
            self._hashes = np.fromiter(map(hash, self.list), np.int64, len(self.list)).view(np.uint64)
        return self._hashes

    def codes(self, names: Sequence[str]) -> npt.NDArray[np.int32]:
        """The number of each name (n,)."""
        return np.fromiter(map(self.__getitem__, names), np.int32, len(names))

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
    row: npt.NDArray[np.int32]  # (n,) row within a columnar record, else 0
    snapshot: npt.NDArray[np.int32]  # (n,) version decided from, -1 for none
    propensity: Floats  # (n,)
    x: npt.NDArray[np.floating[Any]]  # (n, d) float32 where that is exact, else float64
    flags: npt.NDArray[np.uint8]  # (n,) ESTIMATE or not
    unit: npt.NDArray[np.uint64] | None = None  # (n,) hash of the unit, 0 for none; None where the policy has no limit
    person: npt.NDArray[np.uint64] | None = (
        None  # (n,) number of the unit (streams/touches.py); None unless conversions are attributed
    )
    cost: Floats | None = None  # (n,) NaN where the event does not say it; None where no event does


class Brought(msgspec.Struct, frozen=True, gc=False):
    """The impression that an outcome's ``token`` tells of; ``arm`` and ``slot`` are numbers of names, ``x`` is (d,) float32."""

    policy: str
    arm: int
    slot: int
    ts: int
    snapshot: int
    propensity: float
    x: npt.NDArray[np.float32]
    flags: int
    token: str = ""


class Click(msgspec.Struct, frozen=True, gc=False):
    """One validated outcome. ``ts`` in ms, ``record`` the original for a dead letter, ``brought`` what its token says."""

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
    cost: float | None = None  # None where the event does not say it
    of: str | None = None  # id of the outcome that it takes back
    brought: Brought | None = None


def row_keys(
    decision_ids: Sequence[str], slots: npt.NDArray[np.integer[Any]], slot_hash: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of (decision id, slot) for each row, shape (n,).

    Python's keyed string hash: nobody outside can provoke a collision, and by chance one of n live rows collides
    with probability n / 2^64 at each insertion (once in ten years at 100,000 a second with 600,000 pending).
    """
    h = np.fromiter(map(hash, decision_ids), np.int64, len(decision_ids)).view(np.uint64)
    return _mixed(h ^ (slot_hash[slots] * np.uint64(0x9E3779B97F4A7C15)))


def unit_keys(units: Sequence[str | None]) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each unit (n,), by the same hash; 0 for none, which an empty name is too.

    >>> keys = unit_keys(["u1", None, "u2", "", "u1"])
    >>> (keys > 0).tolist(), bool(keys[0] == keys[4] != keys[2])
    ([True, False, True, False, True], True)
    """
    n = len(units)
    named = np.fromiter(map(bool, units), np.bool_, n)
    return np.where(named, _mixed(np.fromiter(map(hash, units), np.int64, n).view(np.uint64)), np.uint64(0))


def estimate_flags(kinds: Sequence[Any]) -> npt.NDArray[np.uint8]:
    """ESTIMATE for each kind of propensity (n,) that is given and not "exact": a kind not known here is not taken for exact.

    >>> estimate_flags([None, "estimate", "exact"]).tolist()
    [0, 1, 0]
    """
    if not any(kinds):
        return np.zeros(len(kinds), np.uint8)
    return np.array([ESTIMATE if kind and kind != "exact" else 0 for kind in kinds], np.uint8)


def group_flags(groups: Sequence[Any]) -> npt.NDArray[np.uint8]:
    """The bits of each group (n,); a group that is not known here is none, and its row tells nothing of any.

    >>> (group_flags([None, "canary", "later"]) >> GROUP_SHIFT).tolist()
    [0, 2, 0]
    """
    if not any(groups):
        return np.zeros(len(groups), np.uint8)
    codes = [CODES.get(group, 0) if isinstance(group, str) else 0 for group in groups]
    return np.array([code << GROUP_SHIFT for code in codes], np.uint8)


def _mixed(h: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    h = h * np.uint64(0xBF58476D1CE4E5B9)
    mixed: npt.NDArray[np.uint64] = h ^ (h >> np.uint64(31))
    return mixed
