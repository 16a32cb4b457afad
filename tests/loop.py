"""Running the loop for tests: real worker processes, a producer, and what can be read back."""

from __future__ import annotations

import collections
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Producer

from streams import feedback
from streams.events import Impression, Outcome, encode
from streams.gathering import batches
from streams.reading import ReadError, bounds, partition_count, read, reader
from streams.settings import Settings, load
from streams.sums import read_states, read_sums
from streams.topics import create
from tests.oracle import POLICY, ArmSums

WORKER = "from streams.cli import main; main()"


def heeds(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal; one that is still importing has none. True where /proc does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (number - 1) & 1)


class Loop:
    """One prefix on one broker: settings, topics, workers. A context manager that leaves no process behind."""

    def __init__(
        self, bootstrap: str, prefix: str, folder: Path, config: str, *, partitions: int = 2, **more: Any
    ) -> None:
        self.config = folder / "clickloop.toml"
        top = {"bootstrap": bootstrap, "prefix": prefix, "partitions": partitions, "metrics_port": 0} | more
        lines = [f"{key} = {value!r}".replace("'", '"') for key, value in top.items()]
        self.config.write_text("\n".join(lines) + "\n" + config)
        self.settings: Settings = load(self.config)
        self.folder = folder
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.starts: collections.Counter[str] = collections.Counter()
        self.delivered = 0  # events that the broker has acknowledged
        wrong = [str(one) for one in create(self.settings).problems if one.error]
        assert not wrong, wrong
        self.producer = Producer(
            self.settings.librdkafka() | {"partitioner": "murmur2_random", "linger.ms": 2, "enable.idempotence": True}
        )

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self.workers):
            self.kill(name)

    # -- workers

    def start(
        self, name: str, role: str = "learner", *, fail_at: str | None = None, program: Sequence[str] = ("-c", WORKER)
    ) -> None:
        """Start a worker process under a static name; its log goes to a file."""
        self.starts[name] += 1
        environment = {key: value for key, value in os.environ.items() if not key.startswith("CLICKLOOP_")}
        environment |= {"CLICKLOOP_INSTANCE_ID": name}
        if fail_at is not None:
            environment["CLICKLOOP_FAIL_AT"] = fail_at
        with self.log_of(name).open("ab") as log:
            self.workers[name] = subprocess.Popen(
                [sys.executable, *program, "worker", role, "--config", str(self.config)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=environment,
            )

    def log_of(self, name: str) -> Path:
        """The file that a worker's lines go to."""
        return self.folder / f"{name}.log"

    def _tail(self, name: str) -> str:
        return f"--- {name}\n" + self.log_of(name).read_text()[-3000:]

    def kill(self, name: str) -> None:
        """SIGKILL, and wait until it has gone."""
        worker = self.workers.pop(name)
        if worker.poll() is None:
            worker.send_signal(signal.SIGCONT)
            worker.kill()
        worker.wait()

    def stop(self, name: str) -> None:
        """SIGTERM once it is heeded; a worker that ends with anything but 0, or had ended before, fails the test with its last lines."""
        worker = self.workers.pop(name)
        until = time.monotonic() + 60
        while worker.poll() is None and not heeds(worker.pid, signal.SIGTERM) and time.monotonic() < until:
            time.sleep(0.05)
        worker.terminate()
        code = worker.wait(timeout=90)
        assert code == 0, f"{name} ended with {code}\n{self._tail(name)}"

    def signal(self, name: str, number: int) -> None:
        """Any signal."""
        self.workers[name].send_signal(number)

    def runs(self, name: str) -> bool:
        """Whether a worker has not died."""
        return self.workers[name].poll() is None

    def wait_dead(self, name: str, timeout_s: float = 60.0) -> None:
        """Wait until a worker has died by itself, as a fail-point makes it."""
        self.workers[name].wait(timeout=timeout_s)
        del self.workers[name]

    # -- events

    def send(self, events: Iterable[Impression | Outcome]) -> None:
        """Produce events of one policy in order, JSON and MessagePack by turns; a third follows in columnar batches."""
        topics, gathered = self.settings.topics, []
        for i, event in enumerate(events):
            if i % 3 == 2:
                gathered.append(event)
                continue
            topic = topics.impressions if isinstance(event, Impression) else topics.clicks
            self._produce(topic, encode(event, "msgpack" if i % 3 == 0 else "json"), key=event.decision_id.encode())
        for topic, kind in ((topics.impressions, Impression), (topics.clicks, Outcome)):
            rows = [(event, None) for event in gathered if isinstance(event, kind)]
            for partition, value, _ in batches(rows, partitions=self.settings.partitions):
                self._produce(topic, value, partition=partition)
        self.producer.poll(0)

    def _produce(self, topic: str, value: bytes, **where: Any) -> None:
        while True:
            try:
                self.producer.produce(topic, value=value, on_delivery=self._acknowledged, **where)
                return
            except BufferError:
                self.producer.poll(0.1)

    def _acknowledged(self, error: object, _: object) -> None:
        assert error is None, error
        self.delivered += 1

    def flush(self) -> None:
        """Wait until the broker has everything."""
        left = self.producer.flush(60)
        assert left == 0, f"{left} events were not delivered within 60 s"

    # -- what came out

    def behind(self) -> int:
        """Records of both topics that no committed checkpoint includes yet."""
        states = read_states(self.settings)
        missing = 0
        with reader(self.settings.librdkafka()) as consumer:
            for state in states:
                for side, topic in state.rules.topics.items():
                    missing += max(0, bounds(consumer, topic, state.number, timeout_s=10)[1] - state.positions[side])
        return missing

    def wait_covered(self, timeout_s: float = 60.0) -> float:
        """Wait until every produced event is in a committed checkpoint. Returns the seconds waited."""
        started = time.monotonic()
        while True:
            try:
                missing = self.behind()
            except ReadError:
                missing = -1
            if missing == 0:
                return time.monotonic() - started
            if time.monotonic() - started > timeout_s:
                tails = "\n".join(self._tail(name) for name in self.starts)
                raise TimeoutError(f"{missing} records are not covered after {timeout_s} s\n{tails}")
            time.sleep(0.3)

    def sums(self) -> dict[str, Any]:
        """What ``clickloop policy sums`` says."""
        return read_sums(self.settings, POLICY)

    def feedback(self, kind: str) -> list[dict[str, Any]]:
        """Committed feedback records of a type."""
        topic, records = self.settings.topics.feedback, []
        with reader(self.settings.librdkafka()) as consumer:
            for partition in range(partition_count(self.settings.librdkafka(), topic)):
                low, high = bounds(consumer, topic, partition, timeout_s=10)
                if high > low:
                    for batch in read(consumer, topic, partition, low, None, timeout_s=10):
                        records += [feedback.decode(record.value) for record in batch if record.value is not None]
        return [record for record in records if record["type"] == kind]

    def dead_letters(self) -> list[Any]:
        """Committed records of the dead-letter topic."""
        topic = self.settings.topics.dead_letters
        with reader(self.settings.librdkafka()) as consumer:
            low, high = bounds(consumer, topic, 0, timeout_s=10)
            return (
                [record for batch in read(consumer, topic, 0, low, None, timeout_s=10) for record in batch]
                if high > low
                else []
            )


def assert_exact(loop: Loop, truth: dict[str, ArmSums], counted: set[tuple[str, str, str]]) -> None:
    """The committed sums equal the oracle's bit for bit, and every joined row is in the feedback topic once."""
    found = loop.sums()
    assert sorted(found["arms"]) == sorted(truth)
    for name, arm in truth.items():
        got = found["arms"][name]
        assert got["n"] == arm.n, name
        assert got["reward"] == arm.reward, name
        assert got["square"] == arm.square, name
        assert np.array_equal(np.array(got.get("b", [])), arm.b), name
        assert np.array_equal(np.array(got.get("A", [])), arm.A), name
    until = time.monotonic() + 30
    while True:
        rows = [
            row
            for record in loop.feedback("joined")
            for row in zip(record["decision_id"], record["slot"], record["outcome_id"], strict=True)
        ]
        if len(rows) >= len(counted) or time.monotonic() > until:
            break
        time.sleep(0.3)  # a transaction's end shows in one topic before it does in another
    assert len(rows) == len(set(rows)), "a joined row is in the feedback topic more than once"
    assert set(rows) == counted
    assert found["counts"]["joined"] == len(counted)


def assert_conserved(loop: Loop, outcomes: int) -> None:
    """Every outcome that was produced is counted as exactly one thing."""
    counts = loop.sums()["counts"]
    assert sum(counts.values()) == outcomes, counts


def assert_matured_once(loop: Loop) -> None:
    """No impression matured twice."""
    places = [
        (record["partition"], *place)
        for record in loop.feedback("matured")
        for place in zip(record["impression_offset"].tolist(), record["impression_row"].tolist(), strict=True)
    ]
    assert len(places) == len(set(places))
