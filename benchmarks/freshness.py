"""How long a click takes to reach decisions: from its production to the first snapshot in a client that includes it.

    python -m benchmarks.freshness [--rate 20000] [--seconds 30] [--bootstrap HOST:PORT] [--json]

A learner and a publisher run as they do in production; a process of its own sends impressions and clicks steadily; this process is
the ad server, with a policy client that follows the snapshots. A click at an offset is known to the first snapshot whose head
names a larger offset for its partition; the moment that counts is when the client would decide from that snapshot. All clocks
are the machine's. The first seconds are left out, in which everything starts and caches fill.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run as a file: the repository is not on the path, and http.py would hide Python's own
    sys.path[0] = str(Path(__file__).parents[1])

import numpy as np

from benchmarks.cluster import PARTITIONS, broker
from benchmarks.figures import Moment, Speed
from benchmarks.workload import DIMENSION, GRACE_S, POLICY, WINDOW_S
from streams.client import PolicyClient
from streams.freshness import Freshness
from streams.local_loop import LocalLoop
from streams.settings import PolicySettings, Settings

if TYPE_CHECKING:
    from policies.snapshot import Snapshot

WARM_UP_S = 5.0
REST_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Delays in seconds over `clicks` clicks; CPU seconds per second of each worker."""

    delays_s: np.ndarray
    unknown: int
    snapshots: int
    events: int
    behind_s: float
    busy: dict[str, float]

    def record(self) -> dict[str, float]:
        """The figures under flat names."""
        found = {
            "p50_s": float(np.quantile(self.delays_s, 0.5)),
            "p99_s": float(np.quantile(self.delays_s, 0.99)),
            "max_s": float(self.delays_s.max()),
            "clicks": len(self.delays_s),
            "unknown": self.unknown,
            "snapshots": self.snapshots,
            "events": self.events,
            "behind_s": self.behind_s,
        }
        return found | {f"{role}_cpu": share for role, share in self.busy.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=20_000, help="events a second (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=30, help="how long the load lasts (default %(default)s)")
    parser.add_argument("--codec", choices=["json", "msgpack"], default="msgpack")
    parser.add_argument("--bootstrap", help="a Kafka to use; else one is started")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
    given = parser.parse_args()
    if given.seconds <= WARM_UP_S:
        parser.error(f"--seconds is {given.seconds:g}; the first {WARM_UP_S:g} are left out: allowed is more than that")
    with broker(given.bootstrap) as (bootstrap, kind):
        print(f"broker: {kind} at {bootstrap}; {given.rate:,.0f} events/s of {given.codec} for {given.seconds:g} s")
        report = measure(bootstrap, rate=given.rate, seconds=given.seconds, codec=given.codec)
    record = {name: round(value, 4) for name, value in report.record().items()}
    for name, value in record.items():
        print(f"{name:16} {value:g}")
    if given.json:
        print(json.dumps(record))


def measure(bootstrap: str, *, rate: float, seconds: float, codec: str) -> Report:
    """Run the loop under load."""
    policy = PolicySettings(dimension=DIMENSION, window_s=WINDOW_S, grace_s=GRACE_S)
    prefix = f"bench-{time.time_ns() % 10**9}-fresh-"
    settings = Settings(bootstrap=bootstrap, prefix=prefix, partitions=PARTITIONS, policies={POLICY: policy})
    fresh, snapshots = Freshness(), 0

    def seen(snapshot: Snapshot) -> None:
        nonlocal snapshots
        snapshots += 1
        fresh.snapshot({int(p): int(sides["clicks"]) for p, sides in snapshot.offsets.items()}, seen_s=time.time())

    with (
        LocalLoop(settings, own_broker=False) as loop,
        PolicyClient(loop.settings, on_snapshot=seen),
        tempfile.TemporaryDirectory(prefix="clickloop-bench-") as folder,
    ):
        started = {worker.role: Moment.now(worker.pid) for worker in loop.workers}
        clicks, sent = _send(bootstrap, prefix, Path(folder) / "clicks.npy", rate=rate, seconds=seconds, codec=codec)
        loop.check()
        speeds = {
            worker.role: Speed.between(started[worker.role], Moment.now(worker.pid), events=1)
            for worker in loop.workers
        }
        for partition, offset, sent_s in clicks.tolist():
            fresh.click(partition=int(partition), offset=int(offset), sent_s=sent_s)
        until = time.monotonic() + REST_S
        while fresh.unknown() and time.monotonic() < until:
            time.sleep(0.1)
    return Report(
        delays_s=fresh.delays_s(sent_after_s=float(clicks[:, 2].min()) + WARM_UP_S),
        unknown=fresh.unknown(),
        snapshots=snapshots,
        events=int(sent["events"]),
        behind_s=sent["behind_s"],
        busy={role: speed.cpu_s / speed.wall_s for role, speed in speeds.items()},
    )


def _send(
    bootstrap: str, prefix: str, out: Path, *, rate: float, seconds: float, codec: str
) -> tuple[np.ndarray, dict[str, float]]:
    """Run the load to its end; its clicks (m, 3) as partition, offset, moment, and what it says."""
    command = [sys.executable, str(Path(__file__).with_name("load.py")), "--bootstrap", bootstrap, "--prefix", prefix]
    command += ["--rate", str(rate), "--seconds", str(seconds), "--codec", codec, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * seconds + 120, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the load ended with {done.returncode}: {done.stderr[-2000:]}")
    return np.load(out), json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
