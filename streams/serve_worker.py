"""One serving process: the event loop, its socket, what it asks of Kafka, and how it ends.

On SIGTERM
    1. /readyz says no; the socket is closed, so that no connection comes any more.
    2. Requests that are being answered get their answers; idle connections are closed.
    3. What waits for Kafka is delivered, or goes to disk where a folder is set.
    4. Exit code 0; 1 if events were lost, with their number in the log. All within `serve_drain_s` and a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

import uvloop
from aiohttp import web
from prometheus_client import CollectorRegistry
from threadpoolctl import threadpool_limits

from streams import logs
from streams.client import PolicyClient
from streams.delivery import NotDelivered
from streams.metrics_server import serve as serve_metrics
from streams.serve_app import Service
from streams.serve_auth import Gate
from streams.serve_log import Journal
from streams.serve_metrics import ServeMetrics
from streams.serve_spill import Spill, folder_of

if TYPE_CHECKING:
    from aiohttp.http_parser import RawRequestMessage
    from aiohttp.streams import StreamReader

    from streams.settings import Settings

BACKLOG = 1024
GARBAGE_S = 30.0
"""Seconds between two looks for garbage in cycles. Requests and snapshots make none, and a look takes 20 ms from whoever waits: with Python's
own rule, by numbers of objects, the 99th percentile at half load was 21 ms instead of 5."""

SWITCH_S = 0.001
"""How long a thread that delivers or follows may hold the loop up: Python's own 5 ms are a slow answer's whole time."""

LINGER_MS = 25.0
"""How long events are gathered. Each batch is one record of each partition, whose fixed cost is taken from who decides: at 5 ms and 4,000
requests/s that was a tenth of the core."""

SILENT_S = 10.0
"""Seconds in which nothing of what waits is delivered, after which the brokers count as gone."""

_log = logs.get(__name__)


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address that other processes may share; not listening yet.

    Raises:
        OSError: the address is not this machine's, or taken by others; the text names the setting to change.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise OSError(
            f"serve cannot listen on {host}:{port} ({error.strerror or error}); set listen_port to another port, or to 0 for any "
            "free one, and listen_host to an address of this machine"
        ) from error
    return bound


class Brokers:
    """Tells whether the service is ready: snapshots are there and followed, and what is sent arrives."""

    def __init__(self, settings: Settings, client: PolicyClient) -> None:
        # one that learns beside another, or contends with it, is not needed to decide
        self._policies = tuple(
            name for name, policy in settings.policies.items() if policy.succeeds is None and policy.contends is None
        )
        self._client = client
        self._delivered = (0, time.monotonic())
        self.draining = False

    def ready(self) -> tuple[bool, str]:
        """Whether to send requests here, and in words why or why not."""
        if self.draining:
            return False, "ending: no new requests"
        missing = [name for name in self._policies if self._client.snapshot(name) is None]
        if missing:
            return False, f"no snapshot of {', '.join(missing)}: {self._client.error or 'none was published yet'}"
        if not self._client.healthy:
            return False, f"snapshots are not followed: {self._client.error}"
        stats = self._client.stats
        settled, since = self._delivered
        if stats.delivered != settled or not stats.queued:
            self._delivered = (stats.delivered, time.monotonic())
        elif time.monotonic() - since > SILENT_S:
            return False, f"{stats.queued} events wait for Kafka: {stats.last_error or 'no broker answers'}"
        return True, "ready"


def run(settings: Settings, bound: socket.socket, number: int) -> int:
    """Serve on the bound socket until SIGTERM or SIGINT; the exit code. `number` tells processes on a machine apart."""
    sys.setswitchinterval(SWITCH_S)
    with threadpool_limits(1):
        return uvloop.run(_serve(settings, bound, number))


async def _serve(settings: Settings, bound: socket.socket, number: int) -> int:
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    metrics = ServeMetrics(CollectorRegistry())
    folder = settings.serve_spill_dir
    spill = None if folder is None else Spill(folder_of(folder, number), most_bytes=settings.serve_spill_bytes)
    journal = Journal(
        queue_rows=settings.serve_queue_rows, spill=spill, count=lambda what, n: metrics.events.labels(what=what).inc(n)
    )
    tokens = settings.serve_tokens
    gate = Gate(None if tokens is None else tokens.get_secret_value())
    client = PolicyClient(
        settings,
        codec=settings.serve_codec,
        queue_rows=settings.serve_queue_rows,
        linger_ms=LINGER_MS,
        on_delivery=journal.settled,
    )
    brokers = Brokers(settings, client)
    journal.start(client)
    service = Service(
        settings, source=client, journal=journal, gate=gate, metrics=metrics, ready=brokers.ready, texts=client.texts
    )
    _watch(metrics, service, client, spill)
    port = settings.metrics_port + number if settings.metrics_port else 0
    with serve_metrics(metrics, host=settings.metrics_host, port=port, live=_alive, ready=brokers.ready):
        runner = await start(service, settings, bound)
        gc.freeze()
        gc.disable()
        looking = asyncio.create_task(_look_for_garbage())
        _log.info("serving", address="{}:{}".format(*bound.getsockname()[:2]), process=number)
        await stop.wait()
        looking.cancel()
        brokers.draining = True
        until = time.monotonic() + settings.serve_drain_s
        await runner.cleanup()
        return await asyncio.to_thread(_end, client, journal, max(0.5, until - time.monotonic()))


async def _look_for_garbage() -> None:
    while True:
        await asyncio.sleep(GARBAGE_S)
        gc.collect()


async def start(service: Service, settings: Settings, bound: socket.socket) -> web.ServerRunner:
    """Listen on the bound socket and answer by the service; `cleanup` of what is returned ends it in order."""
    limit = settings.serve_max_body_bytes

    def request(
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: object,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        loop = asyncio.get_running_loop()
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=limit)  # type: ignore[arg-type]

    server = web.Server(service.handle, request_factory=request, access_log=None, keepalive_timeout=75.0)
    runner = web.ServerRunner(server, shutdown_timeout=settings.serve_drain_s / 2)
    await runner.setup()
    await web.SockSite(runner, bound, backlog=BACKLOG).start()
    return runner


def _watch(metrics: ServeMetrics, service: Service, client: PolicyClient, spill: Spill | None) -> None:
    metrics.watch("requests_open", "Requests being answered.", lambda: service.requests)
    metrics.watch("events_queued", "Events that wait for Kafka.", lambda: client.stats.queued)
    metrics.watch("events_taken", "Events given to the client since the start.", lambda: client.stats.taken)
    metrics.watch("spill_bytes", "What events on disk take.", lambda: 0 if spill is None else spill.bytes)


def _alive() -> tuple[bool, str]:
    return True, "alive"


def _end(client: PolicyClient, journal: Journal, timeout_s: float) -> int:
    code = 0
    try:
        journal.close(timeout_s)
    except NotDelivered as error:
        _log.error("ending without having delivered everything", why=str(error), queued=client.stats.queued)
        code = 1
    with contextlib.suppress(NotDelivered):
        client.close(0.1)
    return code
