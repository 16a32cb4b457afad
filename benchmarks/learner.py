"""How fast the learner is, and what it is compared with: everything on one broker, one log, one after the other.

    python -m benchmarks.learner [--events 1500000] [--bootstrap HOST:PORT] [--systems json,columns-500,...] [--json]

The log is written beforehand; each system then catches up with it. d = 32, 100 arms, clicks on 3% of the impressions, 30 s after them on
average, event time at 1,000 impressions a second, window 600 s and grace 60 s, 4 partitions; an event is an impression or a click. The
learner is the real `clickloop worker learner` with checkpoints every 0.4 s and all feedback on, timed from its first commit to the
commit that covers the log; afterwards its committed sums must equal a fold of numpy over the log bit for bit.

Needs Linux. Columnar runs take three times the events, or they would be over within a few checkpoints.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

if not __package__:  # run as a file: the repository is not on the path, and http.py would hide Python's own
    sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.ceiling import read_all
from benchmarks.cluster import PARTITIONS, broker, topics_of
from benchmarks.committed import Run, run_learner
from benchmarks.figures import Speed
from benchmarks.filling import Filled, fill
from benchmarks.workload import Workload, make_past
from streams.events import Codec
from streams.settings import Settings

LOGS = ("json", "msgpack", "columns-100", "columns-500")
SYSTEMS = ("aiokafka", "faust", *LOGS)
NAMES = {
    "aiokafka": "aiokafka",
    "faust": "faust_table",
    "json": "json",
    "msgpack": "msgpack",
    "columns-100": "columnar_100",
    "columns-500": "columnar",
}
FAUST_S = 20.0
COLUMNAR_FACTOR = 3

Results = dict[str, Speed | Run]
Log = tuple[Workload, Filled, Settings]


def main() -> None:
    """Measure what is asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_500_000, help="impressions in the log (default %(default)s)")
    parser.add_argument("--bootstrap", help="a Kafka to use; else one is started")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="some of %(default)s")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
    given = parser.parse_args()
    systems = given.systems.split(",")
    unknown = sorted(set(systems) - set(SYSTEMS))
    if unknown or given.events < 10_000:
        parser.error(f"--systems has {unknown}, allowed: {', '.join(SYSTEMS)}; --events at least 10000")
    with broker(given.bootstrap) as (bootstrap, kind):
        print(f"broker: {kind} at {bootstrap}")
        results = measure(bootstrap, systems, impressions=given.events)
    if given.json:
        print(json.dumps(as_record(results)))


def measure(bootstrap: str, systems: list[str], *, impressions: int) -> Results:
    """Every system in turn, each log made once and deleted before the next."""
    results: Results = {}
    for log in LOGS:
        wanted = [system for system in systems if system == log or (log == "json" and system in ("aiokafka", "faust"))]
        if not wanted:
            continue
        factor = COLUMNAR_FACTOR if log.startswith("columns") else 1
        with _log(bootstrap, log, impressions * factor) as (workload, filled, settings):
            for system in wanted:
                results[system] = _runner(system)((workload, filled, settings))
                print(f"{system:12} {describe(results[system])}", flush=True)
    return results


@contextmanager
def _log(bootstrap: str, name: str, impressions: int) -> Iterator[Log]:
    codec, _, rows = name.partition("-")
    prefix = f"bench-{time.time_ns() % 10**9}-{name}-"
    with topics_of(bootstrap, prefix) as settings:
        workload = make_past(impressions, end_ms=int(time.time() * 1000))
        started = time.monotonic()
        filled = fill(workload, settings, codec=cast("Codec", codec), rows_per_record=int(rows or 1))
        size = filled.octets / workload.events
        took_s = time.monotonic() - started
        print(
            f"{name}: log of {workload.events:,} events, {size:.0f} bytes each, written in {took_s:.0f} s", flush=True
        )
        yield workload, filled, settings


def _runner(system: str) -> Callable[[Log], Speed | Run]:
    if system == "aiokafka":
        return lambda log: read_all(log[2], log[1])
    if system == "faust":
        return lambda log: run_faust(log[2])
    return lambda log: run_learner(*log)


def run_faust(settings: Settings) -> Speed:
    """The baseline, in a process of its own, for some seconds: the whole log would take it a quarter of an hour."""
    program = Path(__file__).with_name("faust_table.py")
    command = [sys.executable, str(program), "--bootstrap", settings.bootstrap, "--prefix", settings.prefix]
    command += ["--partitions", str(PARTITIONS), "--seconds", str(FAUST_S)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=FAUST_S + 120, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the Faust program ended with {done.returncode}: {done.stderr[-2000:]}")
    figures = json.loads(done.stdout.splitlines()[-1])
    return Speed(events=int(figures["events"]), wall_s=figures["wall_s"], cpu_s=figures["cpu_s"])


def describe(result: Speed | Run) -> str:
    """One line for people."""
    speed = result.speed if isinstance(result, Run) else result
    line = f"{speed.per_s:>9,.0f} events/s {speed.per_cpu_s:>9,.0f} per CPU second {speed.cpu_us:>8.2f} us CPU an event"
    if not isinstance(result, Run):
        return line
    memory = f"peak {result.peak_mb:.0f} MB, {result.pending_rows:,} rows pending at {result.bytes_per_row:.0f} bytes"
    memory += f" ({result.resident_per_row:.0f} by resident memory)"
    exact = "exact" if result.exact else "NOT EXACT"
    return f"{line}; {memory}; {exact}; limit: {speed.limit} (machine {speed.machine_busy:.0%} busy)"


def as_record(results: Results) -> dict[str, float | bool | str]:
    """All figures under flat names."""
    record: dict[str, float | bool | str] = {}
    for system, result in results.items():
        name = NAMES[system]
        speed = result.speed if isinstance(result, Run) else result
        record[f"{name}_events_per_s"] = round(speed.per_s)
        record[f"{name}_events_per_cpu_s"] = round(speed.per_cpu_s)
        record[f"{name}_cpu_us"] = round(speed.cpu_us, 3)
        if isinstance(result, Run):
            record[f"{name}_rss_mb"] = round(result.peak_mb)
            record[f"{name}_limit"] = speed.limit
    runs = [result for result in results.values() if isinstance(result, Run)]
    if runs:
        record["bytes_per_pending_row"] = round(max(run.bytes_per_row for run in runs), 1)
        record["resident_bytes_per_pending_row"] = round(max(run.resident_per_row for run in runs), 1)
        record["pending_rows"] = max(run.pending_rows for run in runs)
        record["rss_mb"] = round(max(run.peak_mb for run in runs))
        record["exact"] = all(run.exact for run in runs)
    return record


if __name__ == "__main__":
    main()
