"""The service as its operators have it: processes, signals, Kafka."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from streams.events import Impression
from streams.published import read_snapshots
from streams.reading import bounds, partition_count, read, reader
from streams.sums import read_states
from tests.loop import WORKER, Loop
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
CONFIG = """
[policies.front]
dimension = 2
window_s = 600
arms = ["good", "bad", "poor"]
alpha = 1.0
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Served:
    """A `clickloop serve` of a test's own."""

    def __init__(self, loop: Loop, *options: str, codec: str = "columns") -> None:
        self.port = free_port()
        self.log = loop.folder / f"serve-{self.port}.log"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("CLICKLOOP_")}
        environment |= {
            "CLICKLOOP_SERVE_CODEC": codec,
            "CLICKLOOP_SERVE_DEADLINE_MS": "10000",  # a loaded machine is not what is tested
            "CLICKLOOP_SERVE_DRAIN_S": "60",
        }
        command = [
            sys.executable,
            "-c",
            WORKER,
            "serve",
            "--config",
            str(loop.config),
            "--port",
            str(self.port),
            *options,
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            sent = None if body is None else json.dumps(body).encode()
            connection.request(method, path, sent, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def wait(self, path: str, timeout_s: float = 120.0) -> None:
        until = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(OSError):
                if self.call("GET", path)[0] == 200:
                    return
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < until, self.log.read_text()[-3000:]
            time.sleep(0.1)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(90)

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def loop(bootstrap: str, prefix: str, tmp_path: Path) -> Iterator[Loop]:
    with Loop(bootstrap, prefix, tmp_path, CONFIG, partitions=1) as made:
        yield made


def produced(loop: Loop, topic: str) -> list[dict[str, Any]]:
    """Everything in a topic whose records are MessagePack."""
    import msgspec

    rows = []
    client = loop.settings.librdkafka()
    with reader(client) as consumer:
        for partition in range(partition_count(client, topic)):
            low, high = bounds(consumer, topic, partition, timeout_s=10)
            if high > low:
                for batch in read(consumer, topic, partition, low, None, timeout_s=10):
                    rows += [msgspec.msgpack.decode(record.value or b"") for record in batch]
    return rows


def test_clicks_over_http_make_better_decisions_over_http(loop: Loop) -> None:
    """Decisions and outcomes by HTTP, learner and publisher between: the arm that is clicked is shown more."""
    loop.start("learner")
    loop.start("publisher", "publisher")
    rng = np.random.default_rng(0)
    with Served(loop) as served:
        served.wait("/readyz")
        shares: list[float] = []
        asks = [{"policy": "front", "slot": "top", "context": [1.0, 0.5]}] * 100
        until = time.monotonic() + 90
        while time.monotonic() < until and not (shares and shares[-1] > 0.8):
            status, answers = served.call("POST", "/v1/decisions", asks)
            assert status == 200
            shown = [(answer["decision_id"], answer["slots"][0]["arm"]) for answer in answers]
            clicked = [one for one, arm in shown if rng.random() < (0.5 if arm == "good" else 0.02)]
            if clicked:
                outcomes = [{"decision_id": one, "slot": "top"} for one in clicked]
                assert served.call("POST", "/v1/outcomes", outcomes)[0] == 202
            shares.append(sum(arm == "good" for _, arm in shown) / len(shown))
            time.sleep(0.2)
        assert shares[0] < 0.6
        assert shares[-1] > 0.8, shares
        (entry,) = served.call("GET", "/v1/policies")[1]["policies"]
        assert entry["snapshot"] > 1
        assert served.stop() == 0, served.log.read_text()[-3000:]
    loop.wait_covered()
    counts = loop.sums()["counts"]
    assert counts["joined"] == sum(counts.values())


def test_an_end_in_the_midst_of_requests_loses_none_that_was_answered(loop: Loop) -> None:
    """SIGTERM to two processes under load: exit code 0, and every decision that was answered is in the topic."""
    with Served(loop, "--workers", "2", codec="msgpack") as served:
        served.wait("/livez")
        answered: list[str] = []

        def ask() -> None:
            body = {"policy": "front", "slot": "top", "context": [1.0, 0.5]}
            with contextlib.suppress(OSError, http.client.HTTPException):
                while True:
                    status, answer = served.call("POST", "/v1/decisions", body)
                    if status == 200:
                        answered.append(answer["decision_id"])

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(answered) > 50)
        assert served.stop() == 0, served.log.read_text()[-3000:]
        for thread in threads:
            thread.join()
    found = produced(loop, loop.settings.topics.impressions)
    assert set(answered) <= {row["decision_id"] for row in found}
    assert {row["snapshot"] for row in found} == {None}
    assert set(found[0]) <= set(Impression.__struct_fields__)
    assert found[0]["propensity"] == pytest.approx(1 / 3)


def test_a_process_that_dies_is_replaced(loop: Loop) -> None:
    """After a SIGKILL of one of two, the other answers, and soon there are two again."""
    with Served(loop, "--workers", "2") as served:
        served.wait("/livez")
        first, _ = wait_for(lambda: len(found := children(served.process.pid)) == 2 and found)
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: len(set(children(served.process.pid)) - {first}) == 2)
        served.wait("/livez")
        assert served.stop() == 0, served.log.read_text()[-3000:]


def children(parent: int) -> list[int]:
    """Serving processes of a parent; its helper that tracks resources is none."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if not folder.name.isdigit() or f"\nPPid:\t{parent}\n" not in (folder / "status").read_text():
                continue
            if b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


SLOTS = """
[policies.front]
dimension = 2
window_s = 600
arms = ["dear", "free", "third"]
epsilon = 0.1
[policies.front.slots.side]
position = 0.5
[policies.front.budgets.spring]
amount = 4.0
period_s = 86400
[policies.front.ads.dear]
budget = "spring"
cost = 0.125
click_cost = 1.0
[policies.front.ads.free]
value = 1.0
"""


def test_a_budget_is_spent_by_pages_over_http_and_then_closes(bootstrap: str, prefix: str, tmp_path: Path) -> None:
    """Pages of two slots by HTTP until the arm is gone from them: what the ledger says is spent is what was shown and clicked."""
    asks = [{"policy": "front", "slots": ["top", "side"], "context": [1.0, 0.5]}] * 20
    with Loop(bootstrap, prefix, tmp_path, SLOTS, partitions=2) as loop:
        loop.start("learner")
        loop.start("publisher", "publisher")
        with Served(loop) as served:
            served.wait("/readyz")
            impressions = clicks = 0
            gone, until = 0, time.monotonic() + 120
            while gone < 10 and time.monotonic() < until:
                status, answers = served.call("POST", "/v1/decisions", asks)
                assert status == 200
                dear = [(one["decision_id"], s["slot"]) for one in answers for s in one["slots"] if s["arm"] == "dear"]
                # a price may hide it before the budget is spent; the first page spends this one
                gone = (
                    0 if dear or "spring" not in read_snapshots(loop.settings)["front"].allotment.closed else gone + 1
                )
                outcomes = [{"decision_id": decision, "slot": slot} for decision, slot in dear[::4]]
                if outcomes:
                    assert served.call("POST", "/v1/outcomes", outcomes)[0] == 202
                impressions, clicks = impressions + len(dear), clicks + len(outcomes)
                time.sleep(0.1)
            assert gone == 10, "the budget never closed"
            assert served.stop() == 0, served.log.read_text()[-3000:]
        loop.wait_covered()
        states = read_states(loop.settings)
        spent = sum(
            state.ledgers.by_policy["front"].accounts["spring"].total for state in states if state.ledgers.by_policy
        )
        assert spent == 0.125 * impressions + 1.0 * clicks
        assert spent >= 4.0
        snapshot = read_snapshots(loop.settings)["front"]
        assert snapshot.allotment.closed == {"spring"}
