"""Waiting for what happens, as long as a busy machine may need."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

PATIENCE_S = 90.0


def wait_for(ready: Callable[[], Any], timeout_s: float = PATIENCE_S) -> Any:
    """What is there once something is."""
    end = time.monotonic() + timeout_s
    while not (found := ready()):
        assert time.monotonic() < end, f"it did not come true within {timeout_s:g} s"
        time.sleep(0.02)
    return found


def assert_ended(threads: Iterable[threading.Thread]) -> None:
    """Threads end by themselves: one that answered somebody may be at its end."""
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), thread.name


def running(pid: int) -> bool:
    """Whether a process exists that is not only waiting to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
