"""Brokers for the tests: Apache Kafka through a start script, or the local one.

`CLICKLOOP_KAFKA` names a script with the commands `start DIR --port N` (prints host:port when it serves), `stop DIR`,
`kill DIR` and `pid DIR`. Port N + 1 must be free too: it is the controller's.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

SCRIPT_VARIABLE = "CLICKLOOP_KAFKA"
CLUSTER_VARIABLE = "CLICKLOOP_BOOTSTRAP"


def kafka_script() -> Path | None:
    """Return the start script of Apache Kafka, or None if there is none."""
    named = os.environ.get(SCRIPT_VARIABLE)
    return Path(named) if named else None


def why_no_apache_kafka() -> str | None:
    """Return what is missing for a real cluster, or None if nothing is."""
    script = kafka_script()
    if script is None:
        return f"{SCRIPT_VARIABLE} is not set; let it name a script that starts Apache Kafka"
    if not script.is_file():
        return f"{SCRIPT_VARIABLE}={script} does not exist"
    if shutil.which("java") is None:
        return "java is not installed (Apache Kafka needs Java 17)"
    return None


def why_no_local_broker() -> str | None:
    """Return what is missing for the local broker, or None if nothing is."""
    from streams.local_broker import LocalBrokerError, find_binary

    try:
        find_binary()
    except LocalBrokerError as error:
        return str(error)
    return None


def free_port_pair() -> int:
    """Return a port that was free a moment ago, and so was the next one: none of those that connections leave from."""
    try:
        below = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        below = 32_768
    for _ in range(100):
        port = secrets.randbelow(below - 10_001) + 10_000
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise RuntimeError("no two neighbouring free ports in 100 attempts; close something")


class ApacheKafka:
    """One Apache Kafka broker in its own folder, which a test may stop, kill, pause and start again.

    `folder` outlives stop and kill, so that `start` comes back with the same log on the same port. `took_s`: how long the last start took.
    """

    def __init__(self, *properties: str) -> None:
        script = kafka_script()
        if script is None:
            raise RuntimeError(why_no_apache_kafka() or "no Apache Kafka")
        self._script = str(script)
        self._properties = properties
        self.folder = Path(tempfile.mkdtemp(prefix="clickloop-kafka-"))
        self.port = free_port_pair()
        self.bootstrap = f"127.0.0.1:{self.port}"
        self.took_s = 0.0

    def start(self, *properties: str) -> str:
        """Start the broker (again), wait until it serves, return its bootstrap address."""
        began = time.monotonic()
        printed = self._run("start", str(self.folder), "--port", str(self.port), *self._properties, *properties)
        self.took_s = time.monotonic() - began
        if printed != self.bootstrap:
            raise RuntimeError(f"Kafka serves on {printed!r} instead of {self.bootstrap}")
        return printed

    def stop(self) -> None:
        """Shut the broker down in order."""
        self._run("stop", str(self.folder))

    def kill(self) -> None:
        """Take the broker away as a crash does, and wait until its port refuses connections."""
        self._run("kill", str(self.folder))
        wait_until_refused(self.bootstrap)

    def pause(self) -> None:
        """Stop the process so that connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused broker go on."""
        os.kill(self.pid, signal.SIGCONT)

    @property
    def pid(self) -> int:
        """The broker's process id; RuntimeError if it does not run."""
        return int(self._run("pid", str(self.folder)))

    def remove(self) -> None:
        """Kill the broker if it runs and delete its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, *arguments: str) -> str:
        # Files instead of pipes: the broker inherits them, and a pipe would stay open as long as it lives.
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            done = subprocess.run(
                [self._script, *arguments], stdout=out, stderr=err, stdin=subprocess.DEVNULL, timeout=120
            )
            out.seek(0)
            err.seek(0)
            if done.returncode != 0:
                complaint = err.read().decode(errors="replace")[-3000:]
                raise RuntimeError(f"{self._script} {' '.join(arguments)} ended with {done.returncode}: {complaint}")
            return out.read().decode().strip()


def wait_until_refused(bootstrap: str, *, timeout_s: float = 10.0) -> None:
    """Wait until nobody takes connections at `bootstrap`: a killed JVM holds its sockets a moment longer."""
    host, _, port = bootstrap.rpartition(":")
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        try:
            with socket.create_connection((host, int(port)), timeout=1.0):
                time.sleep(0.05)
        except OSError:
            return
    raise TimeoutError(f"{bootstrap} still takes connections after {timeout_s:g} s")


def wait_until_serving(bootstrap: str, *, timeout_s: float = 30.0) -> None:
    """Wait until a TCP connection to the first address of `bootstrap` is accepted."""
    host, _, port = bootstrap.split(",")[0].rpartition(":")
    until = time.monotonic() + timeout_s
    while True:
        try:
            with socket.create_connection((host, int(port)), timeout=1.0):
                return
        except OSError as error:
            if time.monotonic() > until:
                raise TimeoutError(f"nothing serves at {bootstrap} after {timeout_s:g} s") from error
            time.sleep(0.1)
