"""What the kernel and a worker say of a process: CPU time, memory, pending rows. Linux only."""

from __future__ import annotations

import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Seconds of CPU, user and system, that all threads of a process have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def memory_mb(pid: int, name: str) -> float:
    """`VmRSS` (resident now) or `VmHWM` (the most so far) of a process, in MB of 10^6 bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise LookupError(f"/proc/{pid}/status has no {name}")


def machine_cpu_s() -> tuple[float, float]:
    """Busy and total CPU seconds of the machine since it started, all cores together."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / TICKS_PER_S, sum(fields) / TICKS_PER_S


def metrics(url: str) -> dict[str, float]:
    """A worker's metrics, added up over their labels."""
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - the address is the worker's own
        lines = answer.read().decode().splitlines()
    totals: dict[str, float] = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0]
            totals[name] = totals.get(name, 0.0) + float(value)
    return totals


@dataclass(frozen=True, slots=True)
class Moment:
    """Time and CPU used, of one process and of the machine, at one moment."""

    at_s: float
    cpu_s: float
    busy_s: float
    total_s: float

    @classmethod
    def now(cls, pid: int) -> Moment:
        """The figures of a process now."""
        return cls(perf_counter(), cpu_s(pid), *machine_cpu_s())


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How long something took for so many events."""

    events: int
    wall_s: float
    cpu_s: float
    machine_busy: float = float("nan")  # share of all cores, everybody's work

    @classmethod
    def between(cls, start: Moment, end: Moment, *, events: int) -> Speed:
        """From two moments of one process."""
        busy = (end.busy_s - start.busy_s) / max(end.total_s - start.total_s, 1e-9)
        return cls(events=events, wall_s=end.at_s - start.at_s, cpu_s=end.cpu_s - start.cpu_s, machine_busy=busy)

    @property
    def per_s(self) -> float:
        """Events per second of wall time."""
        return self.events / self.wall_s

    @property
    def per_cpu_s(self) -> float:
        """Events per second of the process's CPU time."""
        return self.events / self.cpu_s

    @property
    def cpu_us(self) -> float:
        """CPU microseconds of the process for one event."""
        return self.cpu_s / self.events * 1e6

    @property
    def limit(self) -> str:
        """What kept it from going faster."""
        if self.cpu_s > 0.9 * self.wall_s:
            return "its own thread: one core"
        if self.machine_busy > 0.9:
            return "the machine: all cores are busy with broker and others"
        return "waiting: for the broker, or for the next checkpoint"
