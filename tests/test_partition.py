"""Partitions as Kafka's own clients compute them."""

from __future__ import annotations

import numpy as np
import pytest
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2 as theirs

from streams.partition import murmur2, partition_for, partitions_for


@pytest.mark.parametrize(
    ("key", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_hashes_are_those_of_the_java_client(key: bytes, signed: int) -> None:
    """The values in Kafka's own UtilsTest, where they are signed."""
    assert murmur2([key]).astype(np.int32).tolist() == [signed]


@settings(max_examples=200)
@given(keys=st.lists(st.binary(max_size=40), max_size=30))
def test_hashes_are_those_of_kafka_python(keys: list[bytes]) -> None:
    """Of all lengths at once: 0 to 3 octets after the last whole word, octets above 127, zeros at the end."""
    assert murmur2(keys).tolist() == [theirs(key) & 0xFFFFFFFF for key in keys]


@pytest.mark.parametrize("partitions", [1, 2, 3, 4, 7, 12, 1000])
def test_partitions_are_those_of_aiokafka(partitions: int) -> None:
    """The sign bit is taken off before the remainder; absolute values or a signed remainder would differ."""
    chosen = DefaultPartitioner()
    numbers = list(range(partitions))
    keys = [f"decision-{i}-é".encode() for i in range(500)]
    expected = [chosen(key, numbers, numbers) for key in keys]
    assert partitions_for(keys, partitions).tolist() == expected
    assert [partition_for(key, partitions) for key in keys[:20]] == expected[:20]
    assert any(hashed >= 2**31 for hashed in murmur2(keys).tolist())


def test_no_keys_have_no_partitions() -> None:
    """An empty batch is no error."""
    assert partitions_for([], 4).tolist() == []


def test_a_key_is_hashed_alike_whatever_stands_beside_it() -> None:
    """Padding to the longest key of the batch does not enter."""
    alone = [partition_for(key, 1000) for key in (b"", b"d1", b"d1\0", b"d1\0\0\0", b"x" * 100)]
    assert partitions_for([b"", b"d1", b"d1\0", b"d1\0\0\0", b"x" * 100], 1000).tolist() == alone
    assert len(set(alone)) == 5
