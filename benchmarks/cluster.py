"""The broker a benchmark runs on: the one that is named, else Apache Kafka by its start script, else the local one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka.admin import AdminClient

from benchmarks.workload import DIMENSION, GRACE_S, POLICY, WINDOW_S
from streams import topics
from streams.local_broker import LocalBroker
from streams.settings import PolicySettings, Settings
from tests.broker import ApacheKafka, kafka_script

PARTITIONS = 4


@contextmanager
def broker(bootstrap: str | None) -> Iterator[tuple[str, str]]:
    """Give address and kind of a broker; one that was started here is removed afterwards."""
    if bootstrap is not None:
        yield bootstrap, "as given"
    elif kafka_script() is not None:
        kafka = ApacheKafka()
        try:
            yield kafka.start(), "Apache Kafka"
        finally:
            kafka.remove()
    else:
        with LocalBroker() as local:
            yield local.bootstrap, "local broker (noida-db)"


@contextmanager
def topics_of(bootstrap: str, prefix: str, **settings: Any) -> Iterator[Settings]:
    """Give settings whose topics were just made under a prefix of their own; the topics are deleted afterwards."""
    policy = PolicySettings(dimension=DIMENSION, window_s=WINDOW_S, grace_s=GRACE_S)
    usual: dict[str, Any] = {"partitions": PARTITIONS, "policies": {POLICY: policy}}
    made = Settings(bootstrap=bootstrap, prefix=prefix, **(usual | settings))
    report = topics.create(made)
    wrong = [f"{problem.topic} {problem.what}" for problem in report.problems if problem.error]
    if wrong:
        raise RuntimeError(f"the topics cannot be used: {'; '.join(wrong)}")
    try:
        yield made
    finally:
        admin = AdminClient(made.librdkafka())
        mine = [name for name in admin.list_topics(timeout=10).topics if name.startswith(prefix)]
        for done in admin.delete_topics(mine).values():
            done.exception()
