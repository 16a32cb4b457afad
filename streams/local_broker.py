"""A Kafka-compatible broker in a child process, for the demo and for tests without Java: PyPI's noida-db, in memory.

It ends with the process that started it, also when that is killed: the shell between them reads a pipe whose other end
only the parent holds, and ends the broker when the pipe closes. Not for production: one node, no compaction.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

# $1 is the log; the rest is the broker's command line. Prints the broker's process id, ends with the broker.
_GUARD = """
log=$1; shift; exec 3<&0
"$@" >"$log" 2>&1 </dev/null 3<&- & broker=$!
(cat <&3 >/dev/null; kill "$broker") >/dev/null 2>&1 &
echo "$broker"; exec >/dev/null; wait "$broker"
"""
_ATTEMPTS = 3


class LocalBrokerError(RuntimeError):
    """The local broker could not be started; the text says why and what to do."""

    retriable = False


def find_binary() -> Path:
    """Return the path of noida-db's binary; LocalBrokerError if the package is not installed."""
    spec = importlib.util.find_spec("noida_db")
    places = [] if spec is None else [Path(place) for place in spec.submodule_search_locations or ()]
    for place in places:
        binary = place / "noida-db"
        if binary.is_file():
            if not os.access(binary, os.X_OK):
                binary.chmod(0o755)
            return binary
    raise LocalBrokerError(
        "no local broker: the package noida-db is not installed; run pip install 'clickloop[local]', "
        "or name a Kafka cluster with --bootstrap or CLICKLOOP_BOOTSTRAP"
    )


def free_port() -> int:
    """Return a TCP port that was free on 127.0.0.1 a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LocalBroker:
    """A broker that serves from the moment the constructor returns until `close`.

    Args:
        port: TCP port on 127.0.0.1; 0 takes any free one.
        timeout_s: how long it may take to serve.

    Raises:
        LocalBrokerError: noida-db is not installed, or it ended or did not serve in time (with its output).

    Use as a context manager, or call `close`:

        with LocalBroker() as broker:
            settings = Settings(bootstrap=broker.bootstrap)
    """

    def __init__(self, *, port: int = 0, timeout_s: float = 10.0) -> None:
        binary = find_binary()
        self._folder = Path(tempfile.mkdtemp(prefix="clickloop-broker-"))
        self._guard: subprocess.Popen[bytes] | None = None
        self.pid = 0
        try:
            self.port = self._start(binary, port, timeout_s)
        except BaseException:
            self.close()
            raise
        self.bootstrap = f"127.0.0.1:{self.port}"

    def _start(self, binary: Path, port: int, timeout_s: float) -> int:
        for _ in range(1 if port else _ATTEMPTS):  # another process may take a free port before the broker does
            chosen = port or free_port()
            self._spawn(binary, chosen)
            if self._serves(chosen, timeout_s):
                return chosen
            self._end()
        output = self._log.read_text(errors="replace").strip()[-2000:]
        raise LocalBrokerError(
            f"the local broker does not serve on 127.0.0.1:{chosen} within {timeout_s:g} s; choose another port, "
            f"or name a Kafka cluster with --bootstrap. Its output: {output or '(none)'}"
        )

    @property
    def _log(self) -> Path:
        return self._folder / "broker.log"

    def _spawn(self, binary: Path, port: int) -> None:
        command = [str(binary), "start", "--data-dir", str(self._folder), "--only", "kafka", "--kafka-port", str(port)]
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "sh", str(self._log), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal is for the program, which closes its broker last
        )
        stdout = self._guard.stdout
        if stdout is None:
            raise AssertionError("a pipe was asked for; this is a bug")
        with stdout:
            self.pid = int(stdout.readline() or b"0")

    def _serves(self, port: int, timeout_s: float) -> bool:
        until = time.monotonic() + timeout_s
        while time.monotonic() < until and self.alive:
            output = self._log.read_text(errors="replace") if self._log.exists() else ""
            if "error: kafka" in output:  # it goes on without its Kafka service when the port is taken
                return False
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
                if f"127.0.0.1:{port}" in output:
                    return True
            time.sleep(0.02)
        return False

    @property
    def alive(self) -> bool:
        """Whether the broker's process runs."""
        return self._guard is not None and self._guard.poll() is None

    def close(self) -> None:
        """End the broker and remove its data. May be called twice."""
        self._end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end(self) -> None:
        guard, self._guard = self._guard, None
        if guard is None:
            return
        if guard.stdin is not None:
            guard.stdin.close()
        try:
            guard.wait(timeout=5)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(guard.pid, signal.SIGKILL)
            guard.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
