"""What a producer compresses its records with is the producer's choice."""

from __future__ import annotations

import pytest
from aiokafka import codec


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
def test_every_compression_of_kafka_can_be_read(compression: str) -> None:
    """An installation without a codec would stop at the first such batch, with everything behind it unread."""
    assert getattr(codec, f"has_{compression}")()
    packed = getattr(codec, f"{compression}_encode")(b"event" * 100)
    assert getattr(codec, f"{compression}_decode")(packed) == b"event" * 100
