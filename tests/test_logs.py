"""Logging: what a library says again and again is said once in a while."""

from __future__ import annotations

import logging

from streams.logs import REPEAT_S, Repeats


def line(name: str, message: str, *arguments: object, at_s: float) -> logging.LogRecord:
    record = logging.LogRecord(name, logging.ERROR, "file", 1, message, arguments, None)
    record.created = at_s
    return record


def test_a_library_s_line_passes_once_in_a_while_and_counts_the_others() -> None:
    """The wording counts, not what is filled in; after a while the line comes again, with the number left out."""
    repeats = Repeats()
    lines = [line("aiokafka.client", "no node %s", i, at_s=1000 + i * 0.1) for i in range(50)]
    assert [repeats.filter(one) for one in lines] == [True] + [False] * 49
    later = line("aiokafka.client", "no node %s", 50, at_s=1000 + REPEAT_S)
    assert repeats.filter(later)
    assert later.getMessage() == "no node 50 (and 49 more like it)"
    assert repeats.filter(line("aiokafka.client", "another", at_s=1000.2))


def test_our_own_lines_always_pass() -> None:
    """Nothing of clickloop's is left out, and no traceback of a library."""
    repeats = Repeats()
    assert all(repeats.filter(line("streams.learner", "rewinding", at_s=1000)) for _ in range(3))
    crash = [line("faust.agents", "crashed", at_s=1000) for _ in range(2)]
    for one in crash:
        one.exc_info = (ValueError, ValueError("why"), None)
    assert all(repeats.filter(one) for one in crash)
