"""Memory for pending rows, and files for what passes its ceiling: blocks of bytes that move to a mapped file when there are too many.

All partitions of a worker share one `Blocks`. A block that nobody refers to any more gives its memory or its place back. A file is taken in segments whose room on the disk is claimed when they are made, so a
full disk is an error at once and never a crash later; it has no name, so it goes with the process.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Block = npt.NDArray[np.uint8]

SEGMENT_BYTES = 64 * 1024 * 1024


class NoRoomError(OSError):
    """Pending rows have passed the memory ceiling, and the disk has no room for them. Needs a person."""

    retriable = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where a block lies in the files."""

    segment: int
    start: int
    size: int


class Blocks:
    """Blocks of all sizes. ``ceiling_bytes``: memory that they may take before old ones move to files; None for any.

    Args:
        ceiling_bytes: of memory, all blocks together.
        folder: for the files; None is the system's folder for temporary files.

    >>> blocks = Blocks(ceiling_bytes=100)
    >>> first, second = blocks.new(80), blocks.new(80)
    >>> blocks.full
    True
    >>> first[:] = 7
    >>> first = blocks.move(first)
    >>> blocks.memory_bytes, blocks.file_bytes, int(first.sum())
    (80, 80, 560)
    >>> del first, second
    >>> blocks.memory_bytes, blocks.file_bytes
    (0, 0)
    """

    def __init__(self, *, ceiling_bytes: int | None = None, folder: Path | None = None) -> None:
        self.ceiling_bytes = ceiling_bytes
        self.folder = folder
        self.memory_bytes = 0
        self.file_bytes = 0
        self._segments: list[mmap.mmap] = []
        self._free: dict[int, list[Place]] = {}
        self._lock = threading.RLock()  # partitions are rebuilt in threads of their own, and a block may end anywhere

    @property
    def full(self) -> bool:
        """Whether blocks in memory take more than they may."""
        return self.ceiling_bytes is not None and self.memory_bytes > self.ceiling_bytes

    def new(self, size: int) -> Block:
        """A block in memory, its bytes undefined."""
        with self._lock:
            self.memory_bytes += size
        block = np.empty(size, np.uint8)
        weakref.finalize(block, self._drop, size).atexit = False
        return block

    def move(self, block: Block) -> Block:
        """A block's bytes in a file; let go of the one in memory. Raises NoRoomError."""
        size = len(block)
        with self._lock:
            free = self._free.setdefault(size, [])
            if not free:
                free.extend(self._segment(size))
            place = free.pop()
            self.file_bytes += size
            segment = self._segments[place.segment]
        moved: Block = np.frombuffer(segment, np.uint8, size, place.start)
        weakref.finalize(moved, self._vacate, place).atexit = False
        moved[:] = block
        _let_go(segment, place)
        return moved

    def _drop(self, size: int) -> None:
        with self._lock:
            self.memory_bytes -= size

    def _vacate(self, place: Place) -> None:
        with self._lock:
            self._free[place.size].append(place)
            self.file_bytes -= place.size

    def _segment(self, size: int) -> list[Place]:
        """One more piece of file, cut into places for blocks of this size."""
        places = max(1, SEGMENT_BYTES // size)
        length = -(-places * size // mmap.PAGESIZE) * mmap.PAGESIZE
        try:
            with tempfile.TemporaryFile(prefix="clickloop-pending-", dir=self.folder) as file:
                os.posix_fallocate(file.fileno(), 0, length)
                self._segments.append(mmap.mmap(file.fileno(), length))
        except OSError as error:
            folder = self.folder or tempfile.gettempdir()
            raise NoRoomError(
                f"pending impressions take more than pending_memory_mb = {(self.ceiling_bytes or 0) / 1e6:g}, and {folder} has no room for "
                f"{length / 1e6:.0f} MB more ({error}): make room there, set pending_dir to a larger disk, raise pending_memory_mb, or "
                "shorten the policies' windows"
            ) from error
        number = len(self._segments) - 1
        return [Place(number, i * size, size) for i in range(places)]


def _let_go(segment: mmap.mmap, place: Place) -> None:
    """Let the pages leave memory; they come back from the file when they are read."""
    first = place.start // mmap.PAGESIZE * mmap.PAGESIZE
    last = -(-(place.start + place.size) // mmap.PAGESIZE) * mmap.PAGESIZE
    segment.madvise(mmap.MADV_DONTNEED, first, min(last, len(segment)) - first)
