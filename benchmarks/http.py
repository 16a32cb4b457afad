"""How many decisions a second `clickloop serve` answers on one core, and how long they take, by wrk on loopback.

    python -m benchmarks.http [--seconds 5] [--json]

100 candidates, 3 slots, d = 32: a request of about 1.8 kB. One serving process, pinned to one core, that logs its
impressions to a broker in memory; wrk on the others. For explorers with closed forms (softmax), for Thompson sampling with
exact propensities, and for an empty handler on the same server; and what a decision takes in process (`inprocess_p99_us`). Latencies are at half the rate that was reached, with
connections that wait between requests. Needs wrk (Debian: apt-get install wrk); the
goals are those of the extra compiled.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import uvloop
from aiohttp import web
from confluent_kafka import Producer
from threadpoolctl import threadpool_limits

from benchmarks.decide import DIMENSION, learned, rows_of
from benchmarks.environments import Static
from policies.compiled import kernels
from policies.snapshot import build, records
from streams import topics
from streams.drawing import OfThreads
from streams.filling import Filler, Place
from streams.local_broker import LocalBroker, free_port
from streams.serve_worker import listen, run
from streams.settings import PolicySettings, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

ARMS = 100
SLOTS = 3
CONNECTIONS = 32
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}

SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local bodies, i, pause = {}, 0, tonumber(os.getenv("PAUSE_MS") or "0")
for line in io.lines(os.getenv("BODIES")) do bodies[#bodies + 1] = line end
function request() i = i % #bodies + 1; return wrk.format(nil, nil, nil, bodies[i]) end
if pause > 0 then function delay() return pause * (0.5 + math.random()) end end
function done(summary, latency, requests)
  io.write(string.format("FOUND %f %f %f %f %d %d\\n", summary.requests / summary.duration * 1e6, latency:percentile(50),
    latency:percentile(99), latency:percentile(99.9), summary.errors.status, summary.errors.timeout + summary.errors.read))
end
"""


def bodies(path: Path, env: Static) -> int:
    """Write requests, one a line; their mean length."""
    rng = np.random.default_rng(0)
    names = [f"arm-{i}" for i in range(ARMS)]
    lines = []
    for _ in range(500):
        context = np.asarray(env.contexts[rng.integers(len(env.contexts))], np.float32).astype(float).round(6).tolist()
        asked = {
            "policy": "front",
            "slots": ["top", "side", "foot"],
            "context": context,
            "candidates": names,
            "unit": "u1",
        }
        lines.append(json.dumps(asked, separators=(",", ":")))
    path.write_text("\n".join(lines) + "\n")
    return sum(map(len, lines)) // len(lines)


def wrk(url: str, folder: Path, *, seconds: float, pause_ms: float = 0.0) -> dict[str, float]:
    """One run: requests a second, latencies in ms. Fails if a request did."""
    script = folder / "ask.lua"
    script.write_text(SCRIPT)
    environment = os.environ | {"BODIES": str(folder / "bodies"), "PAUSE_MS": f"{pause_ms:.3f}"}
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "-s", str(script), url]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    found = re.search(r"FOUND (.*)", out)
    assert found is not None, out
    rate, p50, p99, p999, refused, broken = map(float, found[1].split())
    assert refused == broken == 0, f"{refused:g} answers were no success, {broken:g} did not come\n{out}"
    return {"rate": rate, "p50_ms": p50 / 1e3, "p99_ms": p99 / 1e3, "p999_ms": p999 / 1e3}


def bare(port: int) -> None:
    """The empty handler: the same server, the body is read, and nothing is done."""

    async def handle(request: web.BaseRequest) -> web.Response:
        await request.read()
        return web.Response(body=b"{}", content_type="application/json")

    async def forever() -> None:
        runner = web.ServerRunner(web.Server(handle, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()

    pin()
    uvloop.run(forever())


def service(settings: Settings) -> None:
    """One serving process."""
    pin()
    sys.exit(run(settings, listen("127.0.0.1", settings.listen_port), 0))


def pin() -> None:
    """This process to the first core that it may use."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@contextmanager
def running(target: Any, argument: Any, port: int, path: str) -> Iterator[int]:
    """A process that serves, from when it answers on; its id."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=(argument,), daemon=True)
    process.start()
    try:
        until = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1):
                    break
            except OSError:
                assert time.monotonic() < until, "the service did not become ready"
                time.sleep(0.1)
        yield process.pid or 0
    finally:
        process.terminate()
        process.join(15)


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def measured(pid: int, url: str, folder: Path, *, seconds: float) -> dict[str, float]:
    """Rate at full load, CPU a request, and latencies at half of that rate."""
    wrk(url, folder, seconds=1.0)
    before = cpu_s(pid)
    full = wrk(url, folder, seconds=seconds)
    busy = cpu_s(pid) - before
    half = wrk(url, folder, seconds=seconds, pause_ms=1e3 * CONNECTIONS / (full["rate"] / 2) - full["p50_ms"] / 4)
    asked = full["rate"] * seconds
    return half | {"half_rate": half["rate"], "rate": full["rate"], "cpu_us": busy / asked * 1e6}


def in_process(explorer: str) -> dict[str, float]:
    """Microseconds of what `PolicyClient.decide_slots` computes for the same requests: median and 99th percentile."""
    env, names = Static(seed=0), tuple(f"arm-{i}" for i in range(ARMS))
    _, _, make = learned(rows_of(env, 30 * ARMS, arms=ARMS, seed=2), names)
    filler, of = Filler({"front": PolicySettings(dimension=DIMENSION)}), OfThreads(np.random.default_rng(1))
    snapshot = build("front", **(dict(make.keywords) | {"explorer": explorer, "rates": {}}))
    place = Place(slots=("top", "side", "foot"), candidates=names)
    taken = []
    with threadpool_limits(1):
        for i in range(4000):
            x = np.asarray(env.contexts[i % len(env.contexts)], np.float64)
            start = time.perf_counter()
            filler.fill("front", snapshot, x, place, rng=of.mine())
            taken.append((time.perf_counter() - start) * 1e6)
    return {"p50_us": float(np.median(taken[200:])), "p99_us": float(np.quantile(taken[200:], 0.99))}


def published(settings: Settings, env: Static, explorer: str) -> None:
    """Topics, and a snapshot whose arms have learned from 3,000 rows."""
    topics.create(settings)
    names = tuple(f"arm-{i}" for i in range(ARMS))
    _, _, make = learned(rows_of(env, 30 * ARMS, arms=ARMS, seed=2), names)
    kept = dict(make.keywords) | {"explorer": explorer, "rates": {}}
    producer = Producer({**settings.librdkafka(), "transactional.id": f"{settings.prefix}bench"})
    producer.init_transactions(10)
    producer.begin_transaction()
    for key, value in records(build("front", **kept)):
        producer.produce(settings.topics.policies, value, key)
    producer.commit_transaction(10)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each run of wrk")
    parser.add_argument("--codec", default="columns", help="how impressions are written: json, msgpack, columns")
    parser.add_argument("--json", action="store_true", help="print all numbers as one JSON object on the last line")
    asked = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed; on Debian: apt-get install wrk")
    env = Static(seed=0)
    numbers: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name, LocalBroker() as broker:
        folder = Path(name)
        size = bodies(folder / "bodies", env)
        how = "by numpy: the extra compiled is not installed" if kernels() is None else "compiled"
        print(f"{ARMS} candidates, {SLOTS} slots ({how}), d = {DIMENSION}, requests of {size} bytes, one serving core")
        port = free_port()
        with running(bare, port, port, "/") as pid:
            found = measured(pid, f"http://127.0.0.1:{port}/", folder, seconds=asked.seconds)
            show("empty handler", found)
            numbers["bare_requests_per_s"] = found["rate"]
        for explorer, suffix in (("softmax", ""), ("thompson", "_thompson")):
            policy = PolicySettings(dimension=DIMENSION, explorer=explorer)
            settings = Settings(
                bootstrap=broker.bootstrap,
                prefix=f"{explorer}-",
                partitions=2,
                policies={"front": policy},
                listen_port=free_port(),
                metrics_port=0,
                serve_queue_rows=1_000_000,
                log_level="error",
                serve_codec=asked.codec,
            )
            published(settings, env, explorer)
            url = f"http://127.0.0.1:{settings.listen_port}/v1/decisions"
            with running(service, settings, settings.listen_port, "/readyz") as pid:
                found = measured(pid, url, folder, seconds=asked.seconds)
            show(explorer, found)
            inside = in_process(explorer)
            print(f"{'':<15}in process p50 {inside['p50_us']:.0f} us  p99 {inside['p99_us']:.0f} us", flush=True)
            numbers |= {f"inprocess_{key}{suffix}": value for key, value in inside.items()}
            numbers |= {f"requests_per_s{suffix}": found.pop("rate")}
            numbers |= {
                f"{key.removesuffix('_ms')}{suffix}_ms" if key.endswith("_ms") else key + suffix: v
                for key, v in found.items()
            }
    if asked.json:
        print(json.dumps({key: round(value, 3) for key, value in numbers.items()}))


def show(name: str, found: dict[str, float]) -> None:
    """One line of the table."""
    print(
        f"{name:<15}{found['rate']:>8,.0f} requests/s  {found['cpu_us']:>5.0f} us CPU each; at {found['half_rate']:,.0f}/s "
        f"p50 {found['p50_ms']:.2f} ms  p99 {found['p99_ms']:.2f} ms  p99.9 {found['p999_ms']:.2f} ms",
        flush=True,
    )


if __name__ == "__main__":
    main()
