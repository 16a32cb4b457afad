"""Events that found no room on their way to Kafka, on disk, until there is room again.

One event is one line of JSON; a folder holds numbered files. The newest is written to; `take` gives the oldest, which is
deleted by `done` when its events have reached Kafka. A process that dies in between sends them again at its next start:
the learner counts a decision's slot and an outcome's id once. A line that could be written in part only (the disk is full) is
cut off again, so that the next one does not follow it.
"""

from __future__ import annotations

import contextlib
import os
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
        found = _files(folder)
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
            path, before = self.path(self._number), None
            try:
                with path.open("ab") as file:
                    before = file.tell()
                    file.write(line)
            except OSError:
                if before is not None:
                    self._undo(path, before)
                return False
            self._bytes += len(line)
            self._rows += 1
            return True

    def _undo(self, path: Path, size: int) -> None:
        """A part of a line may have been written, and the next one must not follow it: the file is as it was, or another follows."""
        try:
            os.truncate(path, size)
        except OSError:
            self._number, self._rows = self._number + 1, 0
            with contextlib.suppress(OSError):
                self._bytes += path.stat().st_size - size

    def take(self) -> tuple[Path, list[Event]] | None:
        """The oldest file and its events; None if there is none. A last line that was cut is left out."""
        with self._lock:
            paths = [path for path in _files(self._folder) if path.stat().st_size]
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


def folder_of(folder: Path, number: int) -> Path:
    """Where the serving process of that number keeps its events."""
    return folder / f"serve-{number}"


def take_over(folder: Path, *, workers: int) -> int:
    """Move what processes numbered `workers` and above have left to the first one's folder, before it starts; returns the files moved.

    Raises:
        OSError: a file cannot be moved.
    """
    first = folder_of(folder, 0)
    left = [
        path
        for other in sorted(folder.glob("serve-*"))
        if (number := other.name.removeprefix("serve-")).isdigit() and int(number) >= workers
        for path in _files(other)
        if path.stat().st_size
    ]
    if left:
        first.mkdir(parents=True, exist_ok=True)
    newest = max((int(path.stem) for path in _files(first)), default=0)
    for place, path in enumerate(left, newest + 1):
        path.rename(first / f"{place:012d}.jsonl")
    return len(left)


def _files(folder: Path) -> list[Path]:
    """The numbered files, the oldest first."""
    return sorted(path for path in folder.glob("*.jsonl") if path.stem.isdigit())


def _line(event: Event) -> _Line:
    if isinstance(event, Impression):
        context = event.context
        return _Line(
            i=msgspec.structs.replace(event, context=unpacked(context)) if isinstance(context, bytes) else event
        )
    return _Line(c=event) if isinstance(event, Conversion) else _Line(o=event)
