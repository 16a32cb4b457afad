"""Workers as child processes of the demo and of `replay --local`: started, watched, and never left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pydantic import BaseModel, SecretStr

from streams.local_broker import free_port
from streams.settings_errors import ENV_PREFIX

if TYPE_CHECKING:
    from streams.settings import Settings

# The kernel kills the worker when the thread that started it ends, however that happens (Linux; 1 is PR_SET_PDEATHSIG).
_PROGRAM = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv.pop(1)):
    sys.exit("the parent has ended")
from streams.cli import main
main()
"""
STOP_S = 10.0


class WorkerDied(RuntimeError):  # noqa: N818 - reads as what it says
    """A worker ended by itself, or did not become ready; the text holds the end of its log."""

    retriable = False


class WorkerProcess:
    """One worker in a process of its own.

    Args:
        settings: handed over whole, through the environment; the child reads no file.
        role: "learner", "publisher" or "attributor".
        folder: where its log goes.

    Start it in the main thread: it ends with the thread that started it.
    """

    def __init__(self, settings: Settings, role: str, *, folder: Path) -> None:
        self.role = role
        self.port = free_port()
        self._log = folder / f"{role}.log"
        own = {
            "metrics_port": self.port,
            "metrics_host": "127.0.0.1",
            "instance_id": f"{role}-0",
            "log_format": "console",
        }
        environment = without_settings(os.environ) | as_environment(settings.model_copy(update=own))
        package = str(Path(__file__).parents[1])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH")]))
        with self._log.open("wb") as log:
            self._process = _spawn(["worker", role], environment, log)

    @property
    def metrics_url(self) -> str:
        """Where its Prometheus metrics are while it runs."""
        return f"http://127.0.0.1:{self.port}/metrics"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def check(self) -> None:
        """Raise WorkerDied if it has ended."""
        code = self._process.poll()
        if code is not None:
            raise WorkerDied(f"the {self.role} ended with code {code}. The end of its log:\n{self.log_end()}")

    def ready(self) -> tuple[bool, str]:
        """What it answers at /readyz: whether it is ready, and the reason."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as answer:
                return True, answer.read().decode(errors="replace").strip()
        except urllib.error.HTTPError as error:
            return False, error.read().decode(errors="replace").strip()
        except OSError as error:
            return False, str(error)

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until it is ready. Raises WorkerDied if it ends before, or is not ready in time."""
        until = time.monotonic() + timeout_s
        while True:
            self.check()
            ready, why = self.ready()
            if ready:
                return
            if time.monotonic() > until:
                end = self.log_end()
                raise WorkerDied(
                    f"the {self.role} is not ready after {timeout_s:g} s: {why}. The end of its log:\n{end}"
                )
            time.sleep(0.1)

    def log_end(self, most: int = 2000) -> str:
        """The last characters of its log."""
        return self._log.read_text(errors="replace")[-most:].strip() or "(its log is empty)"

    def stop(self) -> None:
        """Ask it to end; make it, if it does not. May be called twice."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=STOP_S)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()


def _spawn(arguments: list[str], environment: dict[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(os.getpid()), *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is for the parent, which ends its workers in order
    )


def without_settings(environment: os._Environ[str] | dict[str, str]) -> dict[str, str]:
    """The environment without any CLICKLOOP_* variable."""
    return {name: value for name, value in environment.items() if not name.upper().startswith(ENV_PREFIX)}


def as_environment(settings: Settings) -> dict[str, str]:
    """Settings as CLICKLOOP_* variables, so that `load` in another process gives the same. Secrets are in clear.

    >>> from streams.settings import Settings
    >>> as_environment(Settings(prefix="demo-"))["CLICKLOOP_PREFIX"]
    'demo-'
    """
    given = {name: getattr(settings, name) for name in type(settings).model_fields}
    defaults = {
        name: field.get_default(call_default_factory=True) for name, field in type(settings).model_fields.items()
    }
    return {
        f"{ENV_PREFIX}{name.upper()}": _plain(value)
        for name, value in given.items()
        if value is not None and value != defaults[name]
    }


def _plain(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, BaseModel):
        return value.model_dump_json(exclude_unset=True)
    if isinstance(value, dict):
        return json.dumps({key: _in_table(v) for key, v in value.items()})
    return str(value)


def _in_table(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return value.model_dump(mode="json", exclude_unset=True) if isinstance(value, BaseModel) else value
