"""Which partition a key belongs to: Kafka's murmur2, as the Java client, kafka-python and aiokafka compute it.

librdkafka's own default (CRC32) differs; producers built on it must set ``partitioner=murmur2_random``, or an impression
and its click land in different partitions and never meet.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_SEED = np.uint32(0x9747B28C)
_M = np.uint32(0x5BD1E995)
_MASK = 0x7FFFFFFF


def partition_for(key: bytes, partitions: int) -> int:
    """The partition (0-based) of one key.

    >>> partition_for(b"d1", 4)
    1
    """
    return int(partitions_for([key], partitions)[0])


def partitions_for(keys: Sequence[bytes], partitions: int) -> npt.NDArray[np.int64]:
    """The partition (0-based) of each key, shape (n,).

    >>> partitions_for([b"d1", b"d2", b"a-longer-key"], 4)
    array([1, 2, 3])
    """
    return (murmur2(keys).astype(np.int64) & _MASK) % partitions


def murmur2(keys: Sequence[bytes]) -> npt.NDArray[np.uint32]:
    """MurmurHash2 (Austin Appleby) of each key with Kafka's seed, shape (n,), all keys at once.

    >>> murmur2([b"21", b"foobar"]).astype(int).tolist()
    [3321034988, 3504634814]
    """
    if not keys:
        return np.zeros(0, np.uint32)
    lengths = np.fromiter(map(len, keys), np.int64, len(keys))
    width = int(lengths.max()) // 4 * 4 + 4
    padded = b"".join([key.ljust(width, b"\0") for key in keys])
    octets = np.frombuffer(padded, np.uint8).reshape(len(keys), width)
    words = octets.view("<u4")
    whole, tail = lengths // 4, lengths % 4
    with np.errstate(over="ignore"):
        h = _SEED ^ lengths.astype(np.uint32)
        for i in range(width // 4):
            k = words[:, i] * _M
            k = (k ^ (k >> np.uint32(24))) * _M
            h = np.where(i < whole, (h * _M) ^ k, h)
        rest = words[np.arange(len(keys)), whole]  # zero-padded, so the missing octets of the last word are zero
        h = np.where(tail > 0, (h ^ rest) * _M, h)
        h = (h ^ (h >> np.uint32(13))) * _M
        return h ^ (h >> np.uint32(15))
