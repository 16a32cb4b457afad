"""Running the real learner over a filled log, and watching it from outside until its commits cover everything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from benchmarks.figures import Moment, Speed, memory_mb, metrics
from benchmarks.filling import Filled
from benchmarks.workload import POLICY, Workload
from streams.processes import WorkerProcess, as_environment, without_settings
from streams.settings import Settings

LOOK_S = 0.1
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Look:
    """The learner at one moment: events that its commits cover, memory in MB, pending rows and what it says they take."""

    moment: Moment
    events: int
    resident_mb: float
    rows: float
    octets: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One learner over one log."""

    speed: Speed
    peak_mb: float
    pending_rows: int  # the most seen
    bytes_per_row: float  # by the process's own gauges, when it held the most
    resident_per_row: float  # what the peak of resident memory has above that before the first row
    exact: bool


def run_learner(workload: Workload, filled: Filled, settings: Settings) -> Run:
    """Start a learner, let it catch up with the log, stop it, check its sums. Raises RuntimeError if it makes no progress."""
    with tempfile.TemporaryDirectory(prefix="clickloop-bench-") as folder:
        learner = WorkerProcess(settings, "learner", folder=Path(folder))
        try:
            looks = list(_watch(learner, filled, settings))
            peak_mb = memory_mb(learner.pid, "VmHWM")
        finally:
            learner.stop()
    first, last = next(look for look in looks if look.events), looks[-1]
    fullest = max(looks, key=lambda look: look.rows)
    before_mb = max((look.resident_mb for look in looks if look.rows == 0), default=0.0)
    return Run(
        speed=Speed.between(first.moment, last.moment, events=last.events - first.events),
        peak_mb=peak_mb,
        pending_rows=int(fullest.rows),
        bytes_per_row=fullest.octets / max(fullest.rows, 1),
        resident_per_row=(peak_mb - before_mb) * 1e6 / max(fullest.rows, 1),
        exact=_is_exact(workload, filled, committed_sums(settings)),
    )


def _watch(learner: WorkerProcess, filled: Filled, settings: Settings) -> Iterator[Look]:
    """Looks at the learner from its first answer on until its commits cover everything."""
    topics = {"impressions": settings.topics.impressions, "clicks": settings.topics.clicks}
    places = {(topics[side], partition): (side, partition) for side, partition in filled.ends}
    wanted, seen, changed_s = filled.events(filled.ends), 0, time.monotonic()
    with closing(Consumer({**settings.librdkafka(), "group.id": settings.learner_group, "log_level": 2})) as group:
        while seen < wanted:
            learner.check()
            try:
                found = group.committed([TopicPartition(*place) for place in places], timeout=10)
            except KafkaException:  # a young broker has no coordinator yet
                time.sleep(0.2)
                continue
            moment = Moment.now(learner.pid)
            events = filled.events({places[tp.topic, tp.partition]: max(tp.offset, 0) for tp in found})
            if events > seen:
                seen, changed_s = events, time.monotonic()
            elif time.monotonic() - changed_s > PATIENCE_S:
                raise RuntimeError(f"stuck at {seen} of {wanted} events for {PATIENCE_S:g} s: {learner.log_end()}")
            yield _look(learner, moment, events)
            time.sleep(LOOK_S)


def _look(learner: WorkerProcess, moment: Moment, events: int) -> Look:
    gauges: dict[str, float] = {}
    with suppress(OSError):  # it has just started
        gauges = metrics(learner.metrics_url)
    resident_mb = memory_mb(learner.pid, "VmRSS")
    rows, octets = gauges.get("clickloop_pending_rows", 0.0), gauges.get("clickloop_pending_bytes", 0.0)
    return Look(moment, events, resident_mb, rows, octets)


def committed_sums(settings: Settings) -> dict[str, Any]:
    """What `clickloop policy sums` prints."""
    command = [sys.executable, "-c", "from streams.cli import main; main()", "policy", "sums", POLICY, "--json"]
    environment = without_settings(os.environ) | as_environment(settings)
    package = str(Path(__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH")]))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"clickloop policy sums ended with {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _is_exact(workload: Workload, filled: Filled, found: dict[str, Any]) -> bool:
    """Whether sums, offsets and counts are what a fold of numpy over the log gives, bit for bit; says what is not."""
    wrong = []
    expected = workload.sums()
    for arm in sorted(expected.keys() | found["arms"].keys()):
        given, wanted = found["arms"].get(arm, {}), expected.get(arm, {})
        wrong += [f"{arm}: {name}" for name in ("n", "reward", "b", "A") if given.get(name) != wanted.get(name)]
    offsets = {(side, int(p)): end for side, ends in found["offsets"].items() for p, end in ends.items()}
    if offsets != filled.ends:
        wrong.append(f"offsets {offsets}")
    if found["counts"]["joined"] != len(workload.clicked):
        wrong.append(f"counts {found['counts']}, impressions {found.get('impressions')}")
    if wrong:
        print(f"NOT EXACT: {len(wrong)} differences: {'; '.join(wrong[:5])}", file=sys.stderr)
    return not wrong
