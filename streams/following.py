"""Following the `policies` topic: heads and arm records in, whole snapshots out.

`Collector` is pure: records in the order of the log, snapshots when everything that a head names is there. `Follower`
feeds it from a background thread. It reads committed records only, all partitions from the beginning, without a group;
when the brokers go away it keeps what it has, says so, and goes on when they are back.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient

from policies.meta_records import read_key
from policies.snapshot import Snapshot, assemble, decode_arm, decode_head
from streams import logs

if TYPE_CHECKING:
    from collections.abc import Callable

    from streams.settings import Settings

KEPT_VERSIONS = 64
"""Records of one arm that are kept while no head names one of them."""

CONTACT_S = 2.0
"""Seconds between two questions to the brokers, by which silence is told from absence."""

PACE_S = 0.2
"""Seconds between two looks for records when there are none. A poll with a timeout asks again as soon as it is answered: where a
broker does not hold an empty fetch (the one of the demo), that takes half a core from whoever shares the process; fifty looks a second took a
tenth of a core that was busy deciding, ten a twentieth."""

_log = logs.get(__name__)


class Collector:
    """Puts the records of the `policies` topic together."""

    def __init__(self) -> None:
        self._heads: dict[str, Any] = {}
        self._arms: dict[str, dict[str, dict[int, Any]]] = {}
        self._changed: set[str] = set()
        self._gone: set[str] = set()
        self._given: dict[str, tuple[int, int]] = {}

    def add(self, key: bytes | None, value: bytes | None) -> None:
        """Take one record; a null value removes. Raises ValueError if it is not what the topic should hold."""
        if read_key(key) is not None:
            return  # a record of the publisher's own, as its meta-state
        policy, arm = names(key)
        if arm is None:
            if value is None:
                self._heads.pop(policy, None)
                self._given.pop(policy, None)
                self._gone.add(policy)
                return
            self._heads[policy] = decode_head(value)
            self._gone.discard(policy)
        elif value is None:
            self._arms.get(policy, {}).pop(arm, None)
        else:
            record = decode_arm(value)
            versions = self._arms.setdefault(policy, {}).setdefault(arm, {})
            versions[record.version] = record
            if len(versions) > KEPT_VERSIONS:
                del versions[next(iter(versions))]
        self._changed.add(policy)

    def take(self) -> tuple[dict[str, Snapshot | None], list[str]]:
        """Return what became complete since the last call, and what is wrong in words.

        The first is the snapshot by policy, None for a policy that was removed. Records that do not add up to their
        head's checksum are a problem of the second kind; the policy waits for its next head.
        """
        ready: dict[str, Snapshot | None] = dict.fromkeys(self._gone)
        problems: list[str] = []
        for policy in sorted(self._changed & set(self._heads)):
            try:
                snapshot = self._assemble(policy)
            except ValueError as error:
                problems.append(f"policy {policy!r}: {error}")
                continue
            if snapshot is not None and self._given.get(policy) != (snapshot.version, snapshot.checksum):
                ready[policy] = snapshot
                self._given[policy] = (snapshot.version, snapshot.checksum)
                self._forget(policy, snapshot)
        self._changed, self._gone = set(), set()
        return ready, problems

    def _assemble(self, policy: str) -> Snapshot | None:
        head, arms = self._heads[policy], self._arms.get(policy, {})
        named = {arm: arms[arm][version] for arm, version in head.arms.items() if version in arms.get(arm, {})}
        return assemble(head, named) if len(named) == len(head.arms) else None

    def _forget(self, policy: str, snapshot: Snapshot) -> None:
        """Drop the records that came before those in use."""
        for arm, record in snapshot.arms.items():
            versions = self._arms[policy][arm]
            for version in list(versions):
                if version == record.version:
                    break
                del versions[version]


class Follower:
    """Calls `on_snapshot` in a background thread for each snapshot that becomes complete.

    Args:
        settings: how the brokers are reached, and the topic's name.
        on_snapshot: takes the policy's name and its snapshot, None when the policy was removed. Must not raise.
    """

    def __init__(self, settings: Settings, *, on_snapshot: Callable[[str, Snapshot | None], None]) -> None:
        self._settings = settings
        self._on_snapshot = on_snapshot
        self._stop = threading.Event()
        self._error: str | None = "not connected yet"
        self._thread = threading.Thread(target=self._run, name="clickloop-follow", daemon=True)
        self._thread.start()

    @property
    def error(self) -> str | None:
        """Why the newest snapshot may not be at hand, None if nothing is wrong."""
        if not self._thread.is_alive():
            return "the thread that follows the policies topic has ended" if self._error is None else self._error
        return self._error

    def close(self) -> None:
        """End the thread. May be called twice."""
        self._stop.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except Exception as error:  # noqa: BLE001 - whatever it is, deciding goes on and the reason is shown
                self._failed(f"{type(error).__name__}: {error}")
                self._stop.wait(1.0)
        self._error = "closed"

    def _failed(self, why: str) -> None:
        if why != self._error:
            _log.warning("cannot follow snapshots; trying again", topic=self._settings.topics.policies, why=why)
        self._error = why

    def _follow(self) -> None:
        consumer = _consumer(self._settings)
        try:
            partitions = _partitions(consumer, self._settings.topics.policies)
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            collector = Collector()
            asked = time.monotonic()
            while not self._stop.is_set():
                fetched = consumer.poll(timeout_ms=0)
                self._collect(collector, fetched)
                if not fetched:
                    self._stop.wait(PACE_S)
                if time.monotonic() - asked > CONTACT_S:
                    self._contact(consumer, partitions)
                    asked = time.monotonic()
        finally:
            consumer.close(autocommit=False)

    def _collect(self, collector: Collector, fetched: dict[Any, list[Any]]) -> None:
        if not fetched:
            return
        problems = []
        for record in (record for records in fetched.values() for record in records):
            try:
                collector.add(record.key, record.value)
            except ValueError as error:
                problems.append(f"partition {record.partition}, offset {record.offset}: {error}")
        ready, wrong = collector.take()
        for policy, snapshot in ready.items():
            self._on_snapshot(policy, snapshot)
        if problems or wrong:
            self._failed("; ".join((*problems, *wrong)))
        else:
            self._error = None

    def _contact(self, consumer: Any, partitions: list[Any]) -> None:
        """Ask the brokers something: a poll without records does not tell whether they are there."""
        try:
            consumer.end_offsets(partitions, timeout_ms=int(CONTACT_S * 1000))
        except KafkaError as error:
            self._failed(f"{type(error).__name__}: {error}")
        else:
            self._error = None


def _consumer(settings: Settings) -> Any:
    made: list[KafkaNetClient] = []

    def client(**config: Any) -> KafkaNetClient:
        made.append(KafkaNetClient(**config))
        return made[-1]

    try:
        return KafkaConsumer(
            **settings.kafka_python(),
            client_id="clickloop-follow",
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            allow_auto_create_topics=False,
            reconnect_backoff_max_ms=1000,
            bootstrap_timeout_ms=3000,
            fetch_max_wait_ms=200,
            metrics_enabled=False,
            kafka_client=client,
        )
    except Exception:
        for (
            one
        ) in made:  # without a broker the consumer is not made, and its thread would run on, one more with each try
            one.close()
        raise


def _partitions(consumer: Any, topic: str) -> list[Any]:
    numbers = consumer.partitions_for_topic(topic)
    if not numbers:
        raise LookupError(f"there is no topic {topic!r}; run clickloop topics create")
    return [TopicPartition(topic, number) for number in sorted(numbers)]


def names(key: bytes | None) -> tuple[str, str | None]:
    """Policy and arm (None for a head) that a record's key names. Raises ValueError if it names none."""
    try:
        policy, arm = msgspec.msgpack.decode(key or b"", type=tuple[str, str | None])
    except msgspec.MsgspecError as error:
        raise ValueError(f"key {key!r} is not [policy, arm or null]: {error}") from error
    return policy, arm
