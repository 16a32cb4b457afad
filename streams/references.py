"""The references that publishers wrote, as the learner needs them: read when a row names a version that is not known yet.

A version is committed before an ad server can decide from it, so one reading to the end of the topic finds every version that
an impression can name. What is unknown even then (a made-up number, another installation's log) has no reference: such rows go by the
policy's settings, whatever is published later, and the same version is not looked up again. It is read when rows name a newer version, beside the
learner's loop and before its checkpoint (`Learner.checkpoint`); a recovery reads in its own thread.

A reference is kept for as long as the ring of its records is; rows that name older versions go by the settings, too.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import structlog
from confluent_kafka import Consumer

from policies.meta_records import read_key
from policies.references import KIND, Reference, References, decode, encode, reference_key, reference_of
from policies.snapshot_records import decode_head
from streams.following import names
from streams.messages import Message
from streams.reading import ReadError, SimpleRecord, bounds, read, reader

if TYPE_CHECKING:
    from policies.snapshot import Snapshot
    from streams.settings import PolicySettings, Settings

log = structlog.get_logger(__name__)

TIMEOUT_S = 10.0
MOST_NEVER = 10_000
"""Versions that were never published, and are remembered so that they are not looked up again."""
RING_MARGIN, RING_MOST = 64, 1024
RECORD_BYTES = 7_500_000
"""What a reference may take: the topic takes records of 8 MiB."""


def wants(policy: PolicySettings) -> bool:
    """Whether a policy's rows need references."""
    return goes_by_weights(policy) or policy.positions == "learn"


def goes_by_weights(policy: PolicySettings) -> bool:
    """Whether they need the arms' weights, and not the position effects alone."""
    return policy.model == "logistic" or policy.huber is not None


def ring(policy: PolicySettings, meta_interval_s: float) -> int:
    """How many references are kept: those of the time in which outcomes of an impression still count, and some more."""
    return min(RING_MOST, RING_MARGIN + round(policy.counted_s / meta_interval_s))


class ReferenceWriter:
    """Of one policy's publisher: the record of each meta-change, over a ring of ``size`` keys.

    ``weights``: whether rows go by the arms' weights, and not by position effects alone.
    """

    def __init__(self, policy: str, size: int, *, weights: bool = True) -> None:
        self._policy, self._size, self._next = policy, size, 0
        self._weights = weights

    def restore(self, records: Mapping[tuple[str | None, str], bytes]) -> None:
        """Go on after the newest record there is; ``records`` by arm and kind."""
        found = [(decode(value).version, kind) for (_, kind), value in records.items() if kind.startswith(KIND)]
        self._next = (int(max(found)[1].removeprefix(KIND)) + 1) % self._size if found else 0

    def of(self, snapshot: Snapshot) -> Reference:
        """What a snapshot of a meta-change tells the learner."""
        return reference_of(snapshot, weights=self._weights)

    def messages(self, one: Reference) -> list[Message]:
        """The record of the next reference; none if it is too large for the topic, and rows go by the one before."""
        value = encode(self._policy, one)
        if len(value) > RECORD_BYTES:
            log.error(
                "a reference is too large to be published", policy=self._policy, bytes=len(value), most=RECORD_BYTES
            )
            return []
        key = reference_key(self._policy, self._next)
        self._next = (self._next + 1) % self._size
        return [Message("policies", key, value)]


def reference_writer(settings: Settings, name: str) -> ReferenceWriter | None:
    """A policy's writer; None if its rows need no references."""
    policy = settings.policies[name]
    if not wants(policy):
        return None
    return ReferenceWriter(name, ring(policy, settings.meta_interval_s), weights=goes_by_weights(policy))


class ReferenceReader:
    """Of one learner: the references of its policies, as far as they were read. Safe from several threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._most = {
            name: ring(policy, settings.meta_interval_s) for name, policy in settings.policies.items() if wants(policy)
        }
        self._read = {policy: References(newest=0) for policy in self._most}
        self._known = dict(self._read)
        self._never: dict[str, set[int]] = {policy: set() for policy in self._most}
        self._lock = threading.Lock()
        self._open = ExitStack()
        self._consumer: Consumer | None = None
        self._position = 0

    def of(self, policy: str) -> References:
        """The references of a policy; they do not change any more."""
        return self._known[policy]

    def unknown(self, policy: str, versions: Iterable[npt.NDArray[np.integer[Any]]]) -> set[int]:
        """Those of the versions that are above what was read, and were not looked up in vain."""
        newest = self._known[policy].newest or 0
        above = (column[column > newest] for column in versions)
        return {version for column in above for version in np.unique(column).tolist()} - self._never[policy]

    def look_up(self, versions: Mapping[str, Iterable[int]]) -> None:
        """Read to the end of what is committed, unless another thread has while this one waited. Blocking. Raises ReadError."""
        with self._lock:
            wanted = {policy: self.unknown(policy, [np.array(list(named))]) for policy, named in versions.items()}
            if not any(wanted.values()):
                return
            try:
                self._catch_up()
            except ReadError:
                self.close()
                raise
            self._known = {policy: read.copy(read.newest) for policy, read in self._read.items()}
            for policy, named in wanted.items():
                never = {version for version in named if version > (self._known[policy].newest or 0)}
                kept = self._never[policy] if len(self._never[policy]) < MOST_NEVER else set()
                self._never[policy] = kept | never

    def close(self) -> None:
        """Let go of the connection; the next look-up makes a new one and goes on where this one was."""
        self._open.close()
        self._consumer = None

    def _catch_up(self) -> None:
        topic = self._settings.topics.policies
        if self._consumer is None:
            self._consumer = self._open.enter_context(reader(self._settings.librdkafka(), wait_ms=5))
            low, _ = bounds(self._consumer, topic, 0, timeout_s=TIMEOUT_S)
            self._position = max(self._position, low)
        for batch in read(self._consumer, topic, 0, self._position, None, timeout_s=TIMEOUT_S):
            for record in batch:
                self._take(record)
            self._position = batch[-1].offset + 1

    def _take(self, record: SimpleRecord) -> None:
        named = read_key(record.key)
        try:
            if record.value is None:
                return
            if named is not None and named[0] in self._read and named[2].startswith(KIND):
                one, found = decode(record.value), self._read[named[0]]
                found.add(one)
                found.keep(self._most[named[0]])
                found.newest = max(found.newest or 0, one.version)
            elif named is None:
                policy, arm = names(record.key)
                if arm is None and policy in self._read:
                    found = self._read[policy]
                    found.newest = max(found.newest or 0, decode_head(record.value).version)
        except ValueError as error:
            log.warning("a record of the policies topic was passed over", offset=record.offset, why=str(error))
