"""Fixtures that give a broker, each saying what is missing when it has none to give."""

from __future__ import annotations

import os
import sys
import threading
import time
import uuid
from typing import TYPE_CHECKING

import hypothesis
import pytest

from streams.checkpoint import Writer
from streams.local_broker import LocalBroker
from tests.broker import (
    CLUSTER_VARIABLE,
    ApacheKafka,
    wait_until_serving,
    why_no_apache_kafka,
    why_no_local_broker,
)
from tests.settling import settle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from streams.messages import Message


# The same examples each time, and none fails because somebody else had the processor.
hypothesis.settings.register_profile(
    "clickloop", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("clickloop")

ENDING_S = 2.0
_SESSIONS: list[pytest.Session] = []


def pytest_sessionstart(session: pytest.Session) -> None:
    """Keep what knows how the run ended."""
    _SESSIONS.append(session)


def pytest_unconfigure() -> None:
    """Threads that a test has left end first: one that comes back from C++ while Python ends takes the whole process with it.

    Some wait for brokers that will never answer. Everything is reported by now, so the process ends without them.
    """
    until = time.monotonic() + ENDING_S
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(max(0.0, until - time.monotonic()))
    left = [thread.name for thread in threading.enumerate() if thread is not threading.current_thread()]
    if left and _SESSIONS:
        sys.stderr.write(f"threads that were left: {', '.join(left)}\n")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(_SESSIONS[0].exitstatus))


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the machine's own CLICKLOOP_* variables out of every test."""
    for name in [name for name in os.environ if name.startswith("CLICKLOOP_") and name != "CLICKLOOP_KAFKA"]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _commits_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction of this process returns once it can be read, not just once it is decided: a test reads once."""
    commit = Writer.commit

    def commit_and_settle(writer: Writer, messages: Sequence[Message]) -> None:
        commit(writer, messages)
        settle(writer, messages)

    monkeypatch.setattr(Writer, "commit", commit_and_settle)


@pytest.fixture(scope="session")
def shared_apache_kafka() -> Iterator[str]:
    """The bootstrap address of one Apache Kafka for all tests that leave it as it is."""
    reason = why_no_apache_kafka()
    if reason is not None:
        pytest.skip(f"no Apache Kafka: {reason}")
    kafka = ApacheKafka("broker.session.timeout.ms=20000")  # a busy machine is not taken for its death
    try:
        yield kafka.start()
    finally:
        kafka.remove()


@pytest.fixture(scope="session")
def local_broker() -> Iterator[str]:
    """The bootstrap address of one local broker (noida-db) for all tests."""
    reason = why_no_local_broker()
    if reason is not None:
        pytest.skip(reason)
    with LocalBroker() as broker:
        yield broker.bootstrap


@pytest.fixture(scope="session")
def bootstrap(request: pytest.FixtureRequest) -> str:
    """The best broker at hand: the cluster of CLICKLOOP_BOOTSTRAP, else Apache Kafka, else the local broker."""
    cluster = os.environ.get(CLUSTER_VARIABLE)
    if cluster:
        wait_until_serving(cluster)
        return cluster
    name = "shared_apache_kafka" if why_no_apache_kafka() is None else "local_broker"
    return str(request.getfixturevalue(name))


@pytest.fixture(scope="session", params=["apache", "local"])
def both_brokers(request: pytest.FixtureRequest) -> str:
    """The bootstrap address of each kind of broker in turn; a kind that is not there is skipped with the reason."""
    return str(request.getfixturevalue("shared_apache_kafka" if request.param == "apache" else "local_broker"))


@pytest.fixture
def apache_kafka() -> Iterator[ApacheKafka]:
    """A started Apache Kafka of the test's own, to stop, kill, pause and start again."""
    reason = why_no_apache_kafka()
    if reason is not None:
        pytest.skip(f"no Apache Kafka to break: {reason}")
    kafka = ApacheKafka()
    try:
        kafka.start()
        yield kafka
    finally:
        kafka.remove()


@pytest.fixture
def prefix() -> str:
    """A prefix for topics, groups and transactional ids that no other test has."""
    return f"t{uuid.uuid4().hex[:10]}-"
