"""Named places where a test can make the process die: ``CLICKLOOP_FAIL_AT=checkpoint.produced:3`` kills it at the third passage."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable

POINTS = (
    "checkpoint.cut",
    "checkpoint.begun",
    "checkpoint.produced",
    "checkpoint.flushed",
    "checkpoint.committed",
    "recovery.initialised",
    "recovery.read",
    "recovery.rebuilt",
)

Pass = Callable[[str], None]


def failpoints(setting: str | None) -> Pass:
    """A function to call with a point's name. Raises ValueError if the setting names no point.

    >>> failpoints(None)("checkpoint.cut")
    """
    if setting is None:
        return lambda _: None
    name, _, count = setting.partition(":")
    if name not in POINTS or not (count or "1").isdigit():
        raise ValueError(f"fail_at is {setting!r}; allowed: NAME or NAME:COUNT with NAME one of {', '.join(POINTS)}")
    passed: Counter[str] = Counter()

    def at(point: str) -> None:
        passed[point] += 1
        if point == name and passed[point] == int(count or "1"):
            os.kill(os.getpid(), signal.SIGKILL)

    return at
