"""Following snapshots costs next to nothing while nothing is published, whatever the broker does with an empty fetch."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest
from kafka.errors import KafkaError

from streams import following
from streams.following import Follower
from streams.settings import Settings
from tests.waiting import assert_ended


class Empty:
    """A consumer of a broker that holds no fetch: a poll that may wait asks again and again until its time is over."""

    def __init__(self, polls: int) -> None:
        self._left = polls
        self.may_wait: list[int] = []
        self.go, self.done = threading.Event(), threading.Event()

    def poll(self, *, timeout_ms: int) -> dict[Any, Any]:
        assert self.go.wait(60)  # until the test sees the pauses
        self.may_wait.append(timeout_ms)
        self._left -= 1
        if self._left <= 0:
            self.done.set()
        return {}

    def partitions_for_topic(self, _: str) -> set[int]:
        return {0}

    def end_offsets(self, *_: Any, **__: Any) -> dict[Any, int]:
        return {}

    def assign(self, _: Any) -> None: ...
    def seek_to_beginning(self, *_: Any) -> None: ...
    def close(self, *, autocommit: bool) -> None: ...


def test_a_broker_that_answers_at_once_is_not_asked_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No poll may loop inside the consumer, and the follower pauses between two that brought nothing."""
    consumer, pauses = Empty(5), list[float]()
    monkeypatch.setattr(following, "_consumer", lambda _: consumer)
    follower = Follower(Settings(), on_snapshot=lambda *_: None)
    stop = follower._stop
    wait = stop.wait

    def paused(timeout: float) -> bool:
        pauses.append(timeout)
        return wait(timeout)

    monkeypatch.setattr(stop, "wait", paused)
    consumer.go.set()
    assert consumer.done.wait(60)
    follower.close()
    assert set(consumer.may_wait) == {0}
    assert set(pauses) == {following.PACE_S}


def test_a_broker_that_is_not_there_costs_no_thread_with_each_try() -> None:
    """What a consumer has begun ends if it cannot be made."""
    before = set(threading.enumerate())
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(KafkaError):
            following._consumer(Settings(bootstrap=f"127.0.0.1:{taken.getsockname()[1]}"))
    assert_ended(set(threading.enumerate()) - before)
