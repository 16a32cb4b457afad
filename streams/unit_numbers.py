"""Units as 64-bit numbers that are the same in every process: what a pending row keeps of a unit's name.

The low half is Kafka's murmur2 of the name, which tells the partition that the name as a key would go to; the high half CRC-32. That
some two of n units in one of P partitions share a number by chance has the probability n^2 P / 2^65: 4e-5 with 10
million in one of 16. Whoever may choose names can make two that share one; but they could use the other's name as well.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from streams.partition import murmur2

LONG = 256
"""Bytes above which a name is hashed by itself: names that are hashed together take as much memory as the longest."""


def unit_numbers(units: Sequence[str | None]) -> npt.NDArray[np.uint64]:
    """The number of each unit (n,); 0 for none, which an empty name is too.

    >>> [f"{number:016x}" for number in unit_numbers(["u1", None, ""])]
    ['424f9f762c6cf2f0', '0000000000000000', '0000000000000000']
    """
    keys = [b"" if unit is None else unit.encode() for unit in units]
    high = np.fromiter(map(zlib.crc32, keys), np.uint64, len(keys))
    low = murmur2([key if len(key) <= LONG else b"" for key in keys])
    for i in [i for i, key in enumerate(keys) if len(key) > LONG]:
        low[i] = murmur2([keys[i]])[0]
    named = np.fromiter(map(bool, keys), np.bool_, len(keys))
    return np.where(named, (high << np.uint64(32)) | low.astype(np.uint64), np.uint64(0))


def partition_of(unit: int, partitions: int) -> int:
    """The partition of a unit's number, which is that of its name as a key.

    >>> from streams.partition import partition_for
    >>> partition_of(int(unit_numbers(["u1"])[0]), 7) == partition_for(b"u1", 7)
    True
    """
    return (unit & 0x7FFFFFFF) % partitions
