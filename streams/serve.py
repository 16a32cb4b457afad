"""`clickloop serve`: the HTTP service, in one process or in several that share a port."""

from __future__ import annotations

import ctypes
import ipaddress
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from streams import logs
from streams.serve_auth import Gate
from streams.serve_spill import take_over
from streams.serve_worker import listen, run
from streams.settings_errors import SettingsError

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from streams.settings import Settings

EARLY_S = 5.0
"""A process that lives less long than this did not start; it is not started again for ever."""

ATTEMPTS = 5
_log = logs.get(__name__)


class ServeError(RuntimeError):
    """The service cannot go on; the text says why."""

    retriable = False


def run_serve(settings: Settings, *, workers: int, no_auth: bool) -> int:
    """Serve until SIGTERM or SIGINT; the exit code.

    Args:
        settings: see `serve_*` there.
        workers: processes; each follows snapshots, decides, and has its own /metrics port, metrics_port + its number.
        no_auth: serve without tokens on an address that others can reach.

    Raises:
        SettingsError: no policy, or without tokens the address is not loopback.
        OSError: it cannot listen there, or cannot move what more processes than now have left in `serve_spill_dir`.
        ServeError: a process ends again and again.
    """
    if not settings.policies:
        raise SettingsError(
            "policies = {}: serve needs at least one; add a table [policies.NAME] to a file and name it by --config"
        )
    tokens = settings.serve_tokens
    if Gate(None if tokens is None else tokens.get_secret_value()).open and not (
        no_auth or loopback(settings.listen_host)
    ):
        raise SettingsError(
            f"listen_host = {settings.listen_host!r}: without serve_tokens everybody who reaches it could write; set serve_tokens, "
            "listen on 127.0.0.1, or say --no-auth where something in front checks who asks"
        )
    bound = listen(settings.listen_host, settings.listen_port)
    folder = settings.serve_spill_dir
    left = 0 if folder is None else take_over(folder, workers=workers)
    if left:
        _log.info("process 0 sends what more processes than now have left on disk", files=left, folder=str(folder))
    if workers == 1:
        return run(settings, bound, 0)
    with bound:  # bound and not listening: it keeps the port, and gets no connection
        return _Herd(settings, bound.getsockname()[1], workers).run()


def loopback(host: str) -> bool:
    """Whether only this machine reaches the address.

    >>> loopback("127.0.0.1"), loopback("localhost"), loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Herd:
    """Processes that are started, watched, and ended together."""

    def __init__(self, settings: Settings, port: int, workers: int) -> None:
        self._settings = settings.model_copy(update={"listen_port": port})
        self._context = multiprocessing.get_context("spawn")
        self._processes: dict[int, tuple[SpawnProcess, float]] = {}
        self._early: dict[int, int] = dict.fromkeys(range(workers), 0)
        self._ending = False

    def run(self) -> int:
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._end)
        for number in self._early:
            self._start(number)
        codes: list[int] = []
        try:
            while self._processes:
                wait([process.sentinel for process, _ in self._processes.values()], timeout=0.5)
                codes += self._ended()
                if self._ending:
                    self._end()  # again: one that was being started when the signal came has not heard it
        finally:
            self._end()
            for process, _ in self._processes.values():
                process.join(self._settings.serve_drain_s + 2)
                process.kill()
        return max(map(abs, codes), default=0)

    def _start(self, number: int) -> None:
        process = self._context.Process(
            target=_child, args=(self._settings, number, os.getpid()), name=f"serve-{number}"
        )
        process.start()
        self._processes[number] = (process, time.monotonic())

    def _ended(self) -> list[int]:
        """Exit codes of processes that have ended as they should; the others are started again."""
        codes = []
        for number, (process, since) in list(self._processes.items()):
            if process.exitcode is None:
                continue
            del self._processes[number]
            if self._ending:
                codes.append(0 if process.exitcode == -signal.SIGTERM else process.exitcode)  # it did not serve yet
                continue
            self._early[number] = self._early[number] + 1 if time.monotonic() - since < EARLY_S else 0
            if self._early[number] >= ATTEMPTS:
                raise ServeError(
                    f"serving process {number} ended {ATTEMPTS} times at its start, with code {process.exitcode}"
                )
            _log.error("a serving process has ended; starting another", process=number, code=process.exitcode)
            self._start(number)
        return codes

    def _end(self, *_: Any) -> None:
        self._ending = True
        for process, _since in self._processes.values():
            if process.is_alive():
                process.terminate()


def _child(settings: Settings, number: int, parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no process outlives the one that watches it
    if os.getppid() != parent:
        sys.exit("the parent has ended")
    logs.configure(settings)
    sys.exit(run(settings, listen(settings.listen_host, settings.listen_port), number))
