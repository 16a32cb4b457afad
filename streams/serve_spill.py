"""Events that found no room on their way to Kafka, on disk, until there is room again.

One event is one line of JSON; a folder holds numbered files. The newest is written to; `take` gives the oldest, which is
deleted by `done` when its events have reached Kafka. A process that dies in between sends them again at its next start:
the learner counts a decision's slot and an outcome's id once.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import msgspec

from streams.conversions import Conversion
from streams.events import LARGEST_RECORD, Impression, Outcome, unpacked

if TYPE_CHECKING:
    from pathlib import Path

Event = Impression | Outcome | Conversion

ROWS = 10_000
"""Events in one file."""

_ENCODER = msgspec.json.Encoder()


class _Line(msgspec.Struct):
    i: Impression | None = None
    o: Outcome | None = None
    c: Conversion | None = None


class Spill:
    """A folder of events; safe to use from several threads, for one process alone.

    Args:
        folder: made if it is not there; files of a run before are taken over.
        most_bytes: what the files may take.

    Raises:
        OSError: the folder cannot be made or written to.
    """

    def __init__(self, folder: Path, *, most_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        found = [path for path in folder.glob("*.jsonl") if path.stem.isdigit()]
        self._number = max((int(path.stem) for path in found), default=0) + 1
        self._bytes = sum(path.stat().st_size for path in found)
        self._rows = 0
        self.path(self._number).touch()

    def path(self, number: int) -> Path:
        """The file of that number."""
        return self._folder / f"{number:012d}.jsonl"

    @property
    def bytes(self) -> int:
        """What the files take."""
        return self._bytes

    @property
    def full(self) -> bool:
        """Whether there may be no room for another event."""
        return self._bytes + LARGEST_RECORD > self._most_bytes

    def add(self, event: Event) -> bool:
        """Write one event to disk; False, and nothing written, if that would pass the bound or the disk is full."""
        line = _ENCODER.encode(_line(event)) + b"\n"
        with self._lock:
            if self._bytes + len(line) > self._most_bytes:
                return False
            if self._rows >= ROWS:
                self._number, self._rows = self._number + 1, 0
            try:
                with self.path(self._number).open("ab") as file:
                    file.write(line)
            except OSError:
                return False
            self._bytes += len(line)
            self._rows += 1
            return True

    def take(self) -> tuple[Path, list[Event]] | None:
        """The oldest file and its events; None if there is none. A last line that was cut is left out."""
        with self._lock:
            paths = sorted(path for path in self._folder.glob("*.jsonl") if path.stem.isdigit() and path.stat().st_size)
            if not paths:
                return None
            if paths[0] == self.path(self._number):
                self._number, self._rows = self._number + 1, 0
        events: list[Event] = []
        for line in paths[0].read_bytes().split(b"\n"):
            try:
                read = msgspec.json.decode(line, type=_Line)
            except msgspec.DecodeError:
                continue
            events += [event for event in (read.i, read.o, read.c) if event is not None]
        return paths[0], events

    def done(self, path: Path) -> None:
        """The events of that file have reached Kafka: it goes."""
        with self._lock:
            size = path.stat().st_size
            path.unlink()
            self._bytes -= size


def _line(event: Event) -> _Line:
    if isinstance(event, Impression):
        context = event.context
        return _Line(
            i=msgspec.structs.replace(event, context=unpacked(context)) if isinstance(context, bytes) else event
        )
    return _Line(c=event) if isinstance(event, Conversion) else _Line(o=event)
