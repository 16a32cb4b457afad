"""/metrics, /livez and /readyz over HTTP in a thread of their own, so that a busy event loop is still seen."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Protocol, Self

from prometheus_client.exposition import choose_encoder

if TYPE_CHECKING:
    from types import TracebackType

    from prometheus_client import CollectorRegistry

Probe = Callable[[], tuple[bool, str]]
"""Tells whether all is well, and in words why or why not. Called in the server's threads: it must not block."""

_CLIENT_TIMEOUT_S = 10.0


class Registered(Protocol):
    """Metrics of one process, of whatever kind, with the registry that has them."""

    registry: CollectorRegistry


class Server:
    """A running server.

    Attributes:
        port: the TCP port it listens on, also where 0 was asked for.
    """

    def __init__(self, http: ThreadingHTTPServer) -> None:
        self._http = http
        self.port = int(http.server_address[1])
        self._thread = threading.Thread(target=http.serve_forever, args=(0.1,), name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and wait for the thread."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve(metrics: Registered, *, host: str, port: int, live: Probe, ready: Probe) -> Server:
    """Listen on `host`:`port` (0 takes any free port) until the server is closed.

    `/metrics` is what Prometheus reads, `/livez` and `/readyz` answer 200 or 503 with the probe's words.

    Raises:
        OSError: the address is taken or not this machine's; the text names the setting to change.
    """

    class Handler(_Handler):
        probes = {"/livez": live, "/readyz": ready}  # noqa: RUF012 - one class for each server
        registry = metrics.registry

    try:
        http = _HTTPServer((host, port), Handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"metrics cannot listen on {host}:{port} ({reason}); set metrics_port (CLICKLOOP_METRICS_PORT) to another "
            "port, or to 0 for any free one, and metrics_host to an address of this machine"
        ) from error
    return Server(http)


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True


class _Handler(BaseHTTPRequestHandler):
    timeout = _CLIENT_TIMEOUT_S
    probes: dict[str, Probe]
    registry: CollectorRegistry

    def do_GET(self) -> None:
        """Answer one request."""
        path = self.path.split("?", 1)[0]
        if path == "/metrics":
            encoder, content_type = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, encoder(self.registry), content_type)
        elif path in self.probes:
            well, words = _ask(self.probes[path])
            self._answer(200 if well else 503, f"{words}\n".encode(), "text/plain; charset=utf-8")
        else:
            self._answer(404, b"here are /metrics, /livez and /readyz\n", "text/plain; charset=utf-8")

    def _answer(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name for it
        """Say nothing: a scrape every few seconds is no news."""


def _ask(probe: Probe) -> tuple[bool, str]:
    try:
        return probe()
    except Exception as error:  # noqa: BLE001 - whatever it is, it means not well
        return False, f"the probe failed: {error!r}"
