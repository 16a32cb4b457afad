"""The references that publishers wrote, as the learner needs them: read when a row names a version that is not known yet.

A version is committed before an ad server can decide from it, so one reading to the end of the topic finds every version that
an impression can name. What is unknown even then (a made-up number, another installation's log) has no reference: such rows go by the
policy's settings. Reading blocks the learner for the moment that it takes; it happens when rows name a newer version, at most once for
each batch of rows.

A reference is kept for as long as the ring of its records is; rows that name older versions go by the settings, too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from policies.meta_records import read_key
from policies.references import KIND, Reference, References, decode, encode, reference_key
from policies.snapshot_records import decode_head
from streams.following import names
from streams.messages import Message
from streams.reading import QUIET, ReadError, bounds

if TYPE_CHECKING:
    from streams.settings import PolicySettings, Settings

log = structlog.get_logger(__name__)

TIMEOUT_S = 30.0
RING_MARGIN, RING_MOST = 64, 1024


def wants(policy: PolicySettings) -> bool:
    """Whether a policy's rows need references."""
    return policy.model == "logistic" or policy.huber is not None


def ring(policy: PolicySettings, meta_interval_s: float) -> int:
    """How many references are kept: those of the time that an impression is needed for, and some more."""
    return min(RING_MOST, RING_MARGIN + round(policy.kept_s / meta_interval_s))


class ReferenceWriter:
    """Of one policy's publisher: the record of each meta-change, over a ring of ``size`` keys."""

    def __init__(self, policy: str, size: int) -> None:
        self._policy, self._size, self._next = policy, size, 0

    def restore(self, records: Mapping[tuple[str | None, str], bytes]) -> None:
        """Go on after the newest record there is; ``records`` by arm and kind."""
        found = [(decode(value).version, kind) for (_, kind), value in records.items() if kind.startswith(KIND)]
        self._next = (int(max(found)[1].removeprefix(KIND)) + 1) % self._size if found else 0

    def message(self, one: Reference) -> Message:
        """The record of the next reference."""
        key = reference_key(self._policy, self._next)
        self._next = (self._next + 1) % self._size
        return Message("policies", key, encode(self._policy, one))


def reference_writer(settings: Settings, name: str) -> ReferenceWriter | None:
    """A policy's writer; None if its rows need no references."""
    policy = settings.policies[name]
    return ReferenceWriter(name, ring(policy, settings.meta_interval_s)) if wants(policy) else None


class ReferenceReader:
    """Of one learner: the references of its policies. Safe from several threads; reads when asked for a version that is newer."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._most = {
            name: ring(policy, settings.meta_interval_s) for name, policy in settings.policies.items() if wants(policy)
        }
        self._known = {policy: References() for policy in self._most}
        self._newest = dict.fromkeys(self._most, 0)
        self._lock = threading.Lock()
        self._consumer: Consumer | None = None
        self._end = 0

    def up_to(self, policy: str, version: int) -> References:
        """The references of a policy, read so far that this version is among them if it was published.

        Raises ReadError if the broker does not answer in TIMEOUT_S.
        """
        with self._lock:
            if version > self._newest[policy]:
                self._catch_up()
            return self._known[policy]

    def _catch_up(self) -> None:
        """Read to the end of what is committed now."""
        consumer, topic = self._consumer or self._begin(), self._settings.topics.policies
        _, end = bounds(consumer, topic, 0, timeout_s=TIMEOUT_S)
        until = time.monotonic() + TIMEOUT_S
        while end > self._end:
            for message in consumer.consume(5_000, timeout=0.05):
                error = message.error()
                if error is None:
                    self._take(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    self._end = end
                elif error.fatal():
                    raise ReadError(f"{topic}: {error.str()}")
            if time.monotonic() > until:
                raise ReadError(f"{topic} could not be read to its end within {TIMEOUT_S:g} s; check the brokers")

    def _begin(self) -> Consumer:
        topic = self._settings.topics.policies
        self._consumer = Consumer(
            {
                **self._settings.librdkafka(),
                "group.id": "clickloop-references",  # a name is asked for; no group is joined
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 20,
                "enable.partition.eof": True,
                "log_level": QUIET,
            }
        )
        self._consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
        return self._consumer

    def _take(self, message: Any) -> None:
        key, value = message.key(), message.value()
        named = read_key(key)
        try:
            if named is not None and named[0] in self._known and named[2].startswith(KIND) and value is not None:
                policy = named[0]
                one = decode(value)
                self._known[policy].add(one)
                self._known[policy].keep(self._most[policy])
                self._newest[policy] = max(self._newest[policy], one.version)
            elif named is None and value is not None:
                policy, arm = names(key)
                if arm is None and policy in self._newest:
                    self._newest[policy] = max(self._newest[policy], decode_head(value).version)
        except ValueError as error:
            log.warning("a record of the policies topic was passed over", offset=message.offset(), why=str(error))
