"""Pending rows beyond the memory ceiling: in files, out of memory, and a full disk says so."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.figures import memory_mb
from streams.blocks import Blocks, NoRoomError


def test_what_moved_leaves_memory_and_reads_the_same() -> None:
    """320 MB in files cost less than 80 MB of memory, every byte is what it was, and all of it is given back."""
    blocks, size = Blocks(ceiling_bytes=0), 1_000_003
    before = memory_mb(os.getpid(), "VmRSS")
    kept = []
    for i in range(320):
        block = blocks.new(size)
        block[:] = i % 251
        kept.append(blocks.move(block))
    del block
    assert memory_mb(os.getpid(), "VmRSS") - before < 80
    assert (blocks.memory_bytes, blocks.file_bytes) == (0, 320 * size)
    assert all((block == i % 251).all() for i, block in enumerate(kept))
    kept[7][:] = 99
    assert kept[7].min() == 99
    assert (kept[6][-1], kept[8][0]) == (6, 8)
    del kept
    gc.collect()
    assert blocks.file_bytes == 0
    again = blocks.move(np.zeros(size, np.uint8))
    assert len(blocks._segments) == -(-320 // (64 * 1024 * 1024 // size))
    assert again.max() == 0


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    """The error names the setting, the folder and the way out; what is in memory stays."""
    blocks = Blocks(ceiling_bytes=0, folder=tmp_path / "nowhere")
    block = blocks.new(100)
    with pytest.raises(NoRoomError, match=r"pending_memory_mb = 0, and .*nowhere has no room .* set pending_dir"):
        blocks.move(block)
    assert blocks.memory_bytes == 100


def test_a_full_disk_is_an_error_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room is claimed when a segment is made: a file with holes would end the process by a signal later."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(NoRoomError, match="No space left on device"):
        Blocks(ceiling_bytes=0).move(np.zeros(10, np.uint8))
