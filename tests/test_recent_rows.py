"""The newest matured rows read once from the end of the feedback topic, as guardrails want them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from policies.meta_state import Rows
from streams import recent_rows, topics
from streams.checkpoint import Writer
from streams.failpoints import failpoints
from streams.messages import Message
from streams.reading import ReadError
from streams.recent_rows import Newest, newest_rows
from streams.settings import Settings
from tests.test_promotion import matured
from tests.test_publisher import settings_of

A_RECORD = 100


def rows(ts: list[int]) -> Rows:
    """Rows that have their time as context and propensity, in thousandths."""
    x = np.array(ts, np.float64)
    return Rows(
        arm=[f"a{one}" for one in ts], ts=np.array(ts), x=x[:, None], reward=np.zeros(len(ts)), propensity=x / 1000.0
    )


def written(settings: Settings, partition: int, records: list[bytes]) -> None:
    writer = Writer(
        settings.librdkafka(),
        transactional_id=f"{settings.prefix}feedback-{partition}",
        partition=partition,
        topics={"feedback": settings.topics.feedback},
        timeout_s=60.0,
        passing=failpoints(None),
    )
    writer.initialise()
    writer.commit([Message("feedback", None, record) for record in records])
    writer.close()


def test_the_newest_by_event_time_are_kept_whatever_the_order_of_reading() -> None:
    """Partitions are read by turns; arm, context and propensity stay together."""
    found = Newest(3)
    for ts in ([5, 9, 1], [], [7, 2], [8]):
        found.take(rows(ts))
    assert list(found.logged.arm) == ["a7", "a8", "a9"]
    assert found.logged.x[:, 0].tolist() == [7.0, 8.0, 9.0]
    assert found.logged.propensity.tolist() == [0.007, 0.008, 0.009]


def test_rows_are_found_behind_records_of_others(bootstrap: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of both partitions; further and further back as long as there are too few, and no further when there are enough."""
    monkeypatch.setattr(recent_rows, "LOOK_S", 60.0)
    settings = settings_of(bootstrap, prefix)
    topics.create(settings)
    assert len(newest_rows(settings, "front", most=10).arm) == 0
    record = [matured([None] * A_RECORD, np.zeros(A_RECORD), version=number, ts=number) for number in range(5)]
    written(settings, 0, [record[0], record[3], *[b"of somebody else"] * 300])
    written(settings, 1, [record[1]] * 300 + [record[2], record[4]])
    looked: list[int] = []
    since = recent_rows._since

    def looks(follower: Any, back: int, most: int, until: float) -> Any:
        looked.append(back)
        return since(follower, back, most, until)

    monkeypatch.setattr(recent_rows, "_since", looks)
    assert len(newest_rows(settings, "front", most=250).arm) == 250
    assert looked == [32]
    looked.clear()
    assert len(newest_rows(settings, "front", most=100_000).arm) == 304 * A_RECORD
    assert looked == [32, 256, 2048]


def test_rows_that_cannot_be_read_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The override is refused, and the publisher goes on."""

    def broken(*_: Any, **__: Any) -> Any:
        raise ReadError("the broker went away")

    monkeypatch.setattr(recent_rows, "FeedbackFollower", broken)
    settings = settings_of("127.0.0.1:1", "p")
    assert len(newest_rows(settings, "front", most=10).arm) == 0
