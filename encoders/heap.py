"""Have the C library keep what memory it was given back.

A batch's matrices, some of ten megabytes, come and go with every layer. glibc hands such memory to the kernel when it is freed, the more
so in threads, and each page of the next matrix is a fault again: 3,000 to 9,000 a batch of 2,048 tokens, 3% of its time.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Parameters of mallopt(3)."""
MAPPED = 1 << 25
"""Bytes from which glibc maps a piece of memory by itself; it allows no more."""
KEPT = 1 << 30
"""Bytes at the end of a heap that are kept."""
HEAP = 1 << 26
"""Bytes of one of a thread's heaps; with as much to spare in the one before, glibc does not give back an empty one."""


def keep_memory() -> None:
    """Let no freed memory go back to the kernel in this process, if its C library is glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_THRESHOLD, MAPPED)
    mallopt(M_TRIM_THRESHOLD, KEPT)
    mallopt(M_TOP_PAD, HEAP)
