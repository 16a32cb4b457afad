"""What the records of all models' sums have in common: checking them, and arrays as bytes.

A record is a MessagePack map. Version 1 has, for every model::

    v            1
    model        family of the model: "beta", or "linear" (also for hybrid and student),
                 or "logistic", whose record has one key more: policies/logistic.py
    d            length of the context; 0 for beta
    half_life_s  forgetting that the weights were made with, 0 for none
    delays_s     list of mean delays, one for each entry of `pending`
    landmark_ms  time that the weights refer to
    encoder      fingerprint of the encoder that contexts came from; left out if there is none
    newest_ms    largest event time; -2^62 if there was none
    n, count, reward, square   floats, see policies/sums.py
    pending      list of maps: landmark_ms, n (and A for linear), one for each delay

Matrices are the upper triangle row by row, arrays little-endian float64 bytes. Unknown keys are ignored, so fields can
be added within a version; a reader refuses a larger version, because it cannot know what changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from policies.sums import VERSION, RecordError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policies.batch import FloatArray


Kind = TypeVar("Kind", bound=msgspec.Struct)


class _Version(msgspec.Struct):
    v: int


class PendingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Pending accumulator of one delay, as written."""

    landmark_ms: int
    n: float
    A: bytes = b""


class SumsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Sums of one arm, as written."""

    model: str
    d: int
    half_life_s: float
    delays_s: tuple[float, ...]
    landmark_ms: int
    newest_ms: int
    n: float
    count: float
    reward: float
    square: float
    b: bytes = b""
    A: bytes = b""
    pending: tuple[PendingRecord, ...] = ()
    encoder: str | None = None


def read(record: Mapping[str, object], expected: Mapping[str, Any]) -> SumsRecord:
    """Check a record against the model that is to use it: `expected` are its model, d, half_life_s and delays_s.

    Raises:
        RecordError: version, model or settings differ, or a field is missing or of the wrong type.
    """
    version = record.get("v")
    if not isinstance(version, int) or version < 1:
        raise RecordError(f"sums have version {version!r}; allowed: 1 to {VERSION}. Is this a record of sums?")
    if version > VERSION:
        raise RecordError(
            f"sums have version {version}, this reader knows up to {VERSION}; upgrade it before reading them"
        )
    try:
        sums = msgspec.convert(dict(record), SumsRecord)
    except msgspec.ValidationError as error:
        raise RecordError(f"a record of sums (version {version}) is damaged: {error}") from error
    for name, value in expected.items():
        if getattr(sums, name) != value:
            raise RecordError(
                f"sums were made with {name} = {getattr(sums, name)!r}, the policy has {name} = {value!r}; "
                "restore the setting, or give the changed policy a new name so that it starts from its own sums"
            )
    if len(sums.pending) != len(sums.delays_s):
        raise RecordError(
            f"sums hold {len(sums.pending)} pending accumulators for {len(sums.delays_s)} delays; one each"
        )
    return sums


def versioned(data: bytes, kind: type[Kind], newest: int, what: str) -> Kind:
    """A record that is a MessagePack map with the version ``v``. Raises RecordError: of a version above `newest`, or it cannot be read."""
    try:
        version = msgspec.msgpack.decode(data, type=_Version).v
        if not 1 <= version <= newest:
            raise RecordError(f"{what} has version {version}, this reader knows 1 to {newest}; upgrade it")
        return msgspec.msgpack.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise RecordError(f"{what} cannot be read: {error}; its first bytes are {data[:16].hex(' ')}") from error


def to_bytes(array: npt.NDArray[Any], dtype: str = "<f8") -> bytes:
    """Array as little-endian bytes.

    >>> import numpy as np
    >>> to_bytes(np.array([1.0])).hex()
    '000000000000f03f'
    """
    return array.astype(dtype, copy=False).tobytes()


def from_bytes(data: bytes, length: int, *, what: str, dtype: str = "<f8") -> FloatArray:
    """(length,) array from little-endian bytes; float64 unless `dtype` says otherwise.

    Raises:
        RecordError: another length, or numbers that are not finite.
    """
    if len(data) != length * np.dtype(dtype).itemsize:
        raise RecordError(
            f"{what} has {len(data)} bytes; {length} numbers of type {dtype} have {length * np.dtype(dtype).itemsize}"
        )
    array = np.frombuffer(data, dtype)
    if not np.isfinite(array).all():
        raise RecordError(f"{what} holds numbers that are not finite")
    return array
