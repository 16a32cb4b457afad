"""A service in this process with stand-ins for Kafka, on a real socket."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import uvloop
from prometheus_client import CollectorRegistry

from streams.conversions import Conversion
from streams.delivery import QueueFull, Stats
from streams.events import Impression, Outcome, unpacked
from streams.serve_app import Service
from streams.serve_auth import Gate
from streams.serve_log import Journal
from streams.serve_metrics import ServeMetrics
from streams.serve_worker import listen, start
from streams.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from policies.snapshot import Snapshot
    from streams.serve_spill import Spill

FRONT = {"dimension": 2, "arms": ("a", "b", "c")}
ASK = {"policy": "front", "slot": "top", "context": [1.0, 0.5]}
NOW_S = 1001.0


def context_of(event: Impression) -> list[float]:
    """The context of an impression as numbers."""
    return unpacked(event.context) if isinstance(event.context, bytes) else event.context


class Kafka:
    """What a `PolicyClient` is to the service: snapshots that a test sets, and events that it looks at."""

    def __init__(self, snapshot: Snapshot | None, *, room: int = 10**9) -> None:
        self.snapshots = {} if snapshot is None else {snapshot.policy: snapshot}
        self.room = room
        self.impressions: list[Impression] = []
        self.outcomes: list[Outcome] = []
        self.conversions: list[Conversion] = []
        self.tags: list[object] = []
        self.queued = 0

    def snapshot(self, policy: str) -> Snapshot | None:
        return self.snapshots.get(policy)

    def age_s(self, policy: str) -> float | None:
        found = self.snapshots.get(policy)
        return None if found is None else NOW_S - found.time_ms / 1000

    @property
    def stats(self) -> Stats:
        return Stats(taken=self.queued)

    def _take(self, tag: object) -> None:
        if len(self.tags) >= self.room:
            raise QueueFull("the buffer is full")
        self.tags.append(tag)

    def log_event(self, event: Impression | Outcome | Conversion, *, tag: object = None) -> None:
        self._take(tag)
        if isinstance(event, Impression):
            self.impressions.append(event)
        elif isinstance(event, Outcome):
            self.outcomes.append(event)
        else:
            self.conversions.append(event)

    def log_page(self, page: Sequence[Impression]) -> bool:
        if len(self.tags) + len(page) > self.room:
            return False
        for event in page:
            self.log_event(event, tag=event)
        return True

    def flush(self, timeout_s: float = 30.0) -> None: ...


class Serving:
    """A service that runs in a thread from `__enter__` to `__exit__`."""

    def __init__(
        self,
        kafka: Kafka,
        *,
        spill: Spill | None = None,
        queue_rows: int = 100_000,
        policies: Any = None,
        texts: Any = None,
        **more: Any,
    ) -> None:
        more = {"serve_deadline_ms": 60_000.0} | more  # a loaded machine is not what is tested
        self.settings = Settings(policies={"front": FRONT} if policies is None else policies, **more)
        self.kafka = kafka
        self.metrics = ServeMetrics(CollectorRegistry())
        self.journal = Journal(queue_rows=queue_rows, spill=spill, count=self._count)
        tokens = self.settings.serve_tokens
        self.journal.start(kafka)
        self.well = (True, "ready")
        self.service = Service(
            self.settings,
            source=kafka,
            journal=self.journal,
            gate=Gate(None if tokens is None else tokens.get_secret_value()),
            metrics=self.metrics,
            ready=lambda: self.well,
            texts=texts,
            clock=lambda: NOW_S,
            rng=np.random.default_rng(1),
        )
        self._socket = listen("127.0.0.1", 0)
        self.port = int(self._socket.getsockname()[1])
        self._up, self._stop = threading.Event(), asyncio.Event()
        self.loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread(target=lambda: uvloop.run(self._run()))

    def _count(self, what: str, n: int) -> None:
        self.metrics.events.labels(what=what).inc(n)

    async def _run(self) -> None:
        self.loop = asyncio.get_running_loop()
        runner = await start(self.service, self.settings, self._socket)
        self._up.set()
        await self._stop.wait()
        await runner.cleanup()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._up.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self.journal.close(1)

    def counted(self, what: str) -> float:
        return self.metrics.registry.get_sample_value("clickloop_serve_events_total", {"what": what}) or 0.0

    def call(
        self, method: str, path: str, body: Any = None, *, raw: bytes | None = None, **headers: Any
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers and decoded body of one request; `raw` goes as it is."""
        sent = raw if raw is not None else None if body is None else json.dumps(body).encode()
        named = {"Content-Type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, sent, named)
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), json.loads(answer.read() or b"null")
        finally:
            connection.close()

    def decide(self, body: Any = None, **headers: Any) -> Any:
        """The answer to a decision that must succeed."""
        status, _, answer = self.call("POST", "/v1/decisions", ASK if body is None else body, **headers)
        assert status == 200, answer
        return answer


def files(folder: Path) -> list[Path]:
    """Files of a folder that hold something."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
