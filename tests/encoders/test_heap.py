"""Memory that is given back and taken again, as page faults tell."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, threading
import numpy as np
from encoders.heap import keep_memory

def batches():
    for _ in range(20):
        some = [np.ones(size, np.float32) for size in (3_000_000, 2_300_000, 800_000, 3_000_000)]
        del some

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    batches()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

if sys.argv[1] == "kept":
    keep_memory()
batches()
thread = threading.Thread(target=lambda: (batches(), faults()))
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library is not glibc")
def test_kept_memory_is_not_fetched_again() -> None:
    """Twenty batches of matrices in a thread that has had as many before: no page is new to it. Without it many are."""
    faults = {
        name: int(subprocess.run([sys.executable, "-c", PROGRAM, name], capture_output=True, check=True).stdout)
        for name in ("kept", "given back")
    }
    pages = 20 * 36_400_000 // 4_096
    assert faults["kept"] < 0.01 * pages
    assert faults["given back"] > 0.05 * pages
