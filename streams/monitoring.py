"""What a learner tells people: metrics, readiness, and a loud word when keys arrive on the wrong partition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from time import monotonic, time
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from faust.types import TP

from streams.decode_rows import UNREADABLE
from streams.events import COLUMNS_MAGIC
from streams.join import Joined
from streams.metrics import Metrics
from streams.partition import partition_for, partitions_for
from streams.state import SIDES, PartitionState, Side
from streams.transport import RecordBatch

if TYPE_CHECKING:
    from streams.learner import Learner

log = structlog.get_logger(__name__)

UNREADY_S = 15.0
DEAF_S = 30.0
ADDED = ("joined", "duplicate", "late", "unmatched", "dead")
SAMPLE_EVERY = 20


class Monitor:
    """Metrics of one learner. ``topics`` are the input topics' names by side, ``partitions`` their number."""

    def __init__(self, metrics: Metrics, *, topics: Mapping[Side, str], partitions: int) -> None:
        self.metrics = metrics
        self.topics = topics
        self.partitions = partitions
        self.beat = monotonic()
        self.status = (False, "starting")
        self._seen: dict[int, dict[str, int]] = {}
        self._rewards: dict[int, dict[str, tuple[float, float]]] = {}
        self._newest_ms: dict[TP, int] = {}
        self._assigned_ms = 0.0
        self._batches = 0
        self._complained: dict[str, float] = {}

    def live(self) -> tuple[bool, str]:
        """False when the event loop has not turned for half a minute."""
        silent = monotonic() - self.beat
        return silent < DEAF_S, "alive" if silent < DEAF_S else f"the event loop has not turned for {silent:.0f} s"

    def ready(self) -> tuple[bool, str]:
        """Whether every partition of this worker makes progress, and if not, which does not."""
        return self.status

    def assigned(self, numbers: Iterable[int]) -> None:
        """The worker's partitions changed."""
        self.status = (False, f"recovering partitions {sorted(numbers)}")
        self._assigned_ms = time() * 1000

    def took(self, batch: RecordBatch, joined: Sequence[Joined]) -> None:
        """A batch was added."""
        for row in joined:
            self.metrics.join_delay.observe((row.click.ts - row.impression_ts) / 1000)
        if not batch.records:
            return
        self._newest_ms[TP(batch.topic, batch.partition)] = batch.records[-1].timestamp
        self._batches += 1
        if self._batches % SAMPLE_EVERY == 1:
            self._check_keys(batch)

    def _check_keys(self, batch: RecordBatch) -> None:
        record = batch.records[0]
        misplaced = 0
        if record.key is not None:
            misplaced = int(partition_for(record.key, self.partitions) != batch.partition)
        elif record.value is not None and record.value[:4] == COLUMNS_MAGIC:
            try:
                ids = msgspec.msgpack.decode(memoryview(record.value)[4:])["decision_id"]
                misplaced = int((partitions_for([i.encode() for i in ids], self.partitions) != batch.partition).sum())
            except (*UNREADABLE, KeyError, TypeError, AttributeError):
                return
        if not misplaced:
            return
        self.metrics.misplaced_keys.labels(topic=batch.topic).inc(misplaced)
        if monotonic() - self._complained.get(batch.topic, -1e9) > 60:
            self._complained[batch.topic] = monotonic()
            log.error(
                "keys arrive on another partition than murmur2 names: impressions and clicks will not meet. "
                "Set partitioner=murmur2_random in the producer (librdkafka's default is CRC32)",
                topic=batch.topic,
                partition=batch.partition,
                key=repr(record.key),
            )

    def committed(self, number: int, state: PartitionState, seconds: float) -> None:
        """A checkpoint was committed."""
        self.metrics.checkpoint_seconds.observe(seconds)
        self.metrics.checkpoints.labels(result="committed").inc()
        now = _counts(state)
        seen = self._seen.setdefault(number, dict.fromkeys(now, 0))
        for name, value in now.items():
            side, outcome = name.split(":")
            if value > seen[name] and side == "tokens":
                self.metrics.tokens.labels(outcome=outcome).inc(value - seen[name])
            elif value > seen[name]:
                self.metrics.events.labels(topic=side, outcome=outcome).inc(value - seen[name])
                if outcome in ("dead", "expired"):
                    self.metrics.dead_letters.labels(topic=side, reason=outcome).inc(value - seen[name])
        self._seen[number] = now
        self._rewards[number] = {
            policy: (sum(float(s.n) for s in arms.values()), sum(float(s.reward) for s in arms.values()))
            for policy, arms in state.sums.items()
        }

    def recovered(self, number: int, state: PartitionState, reason: str) -> None:
        """A partition was read back. What it counts so far was exported by somebody before."""
        self.metrics.recoveries.labels(reason=reason).inc()
        self._seen[number] = _counts(state)

    def gave_up(self, number: int) -> None:
        """A partition went to another worker: its gauges go too."""
        self._seen.pop(number, None)
        self._rewards.pop(number, None)
        for gauge in (
            self.metrics.pending_rows,
            self.metrics.pending_bytes,
            self.metrics.pending_file_bytes,
            self.metrics.waiting_clicks,
            self.metrics.remembered_bytes,
            self.metrics.watermark,
        ):
            _drop(gauge, str(number))
        for topic in self.topics.values():
            _drop(self.metrics.lag_records, topic, str(number))
            _drop(self.metrics.lag_seconds, topic, str(number))
            self._newest_ms.pop(TP(topic, number), None)
        if not self._rewards:
            self.metrics.ctr.clear()

    def lost(self, topic: str, records: int) -> None:
        """Retention deleted records before they were read."""
        self.metrics.lost_records.labels(topic=topic).inc(records)

    def failed(self, result: str) -> None:
        """A checkpoint did not end well."""
        self.metrics.checkpoints.labels(result=result).inc()

    def observe(self, learner: Learner) -> None:
        """Gauges and readiness, now."""
        self.beat = monotonic()
        slow = []
        for number, lifecycle in learner.lifecycles.items():
            state = lifecycle.state
            if state is None or not lifecycle.flowing:
                slow.append(number)
                continue
            if self.beat - lifecycle.progressed > UNREADY_S:
                slow.append(number)
            self._gauges(number, state, learner)
        self._ctr()
        if slow:
            self.status = (False, f"partitions {sorted(slow)} are recovering or make no progress")
        elif learner.generation == 0:
            self.status = (False, "waiting for the group's assignment")
        else:
            self.status = (True, f"partitions {sorted(learner.assigned)} flow")

    def _gauges(self, number: int, state: PartitionState, learner: Learner) -> None:
        label = str(number)
        self.metrics.pending_rows.labels(partition=label).set(state.join.pending.rows)
        self.metrics.pending_bytes.labels(partition=label).set(state.join.nbytes)
        self.metrics.pending_file_bytes.labels(partition=label).set(state.join.pending.file_bytes)
        self.metrics.waiting_clicks.labels(partition=label).set(state.counts["waiting"])
        self.metrics.remembered_bytes.labels(partition=label).set(state.join.tokens.store.nbytes)
        if state.join.watermark is not None:
            self.metrics.watermark.labels(partition=label).set(state.join.watermark / 1000)
        for side in SIDES:
            tp = TP(self.topics[side], number)
            end = learner.end_of(tp)
            lag = 0 if end is None else max(0, end - state.positions[side])
            since_ms = self._newest_ms.get(tp, self._assigned_ms)
            age_s = 0.0 if lag == 0 else max(0.0, time() - since_ms / 1000)
            self.metrics.lag_records.labels(topic=tp.topic, partition=label).set(lag)
            self.metrics.lag_seconds.labels(topic=tp.topic, partition=label).set(age_s)

    def _ctr(self) -> None:
        totals: dict[str, tuple[float, float]] = {}
        for policies in self._rewards.values():
            for policy, (n, reward) in policies.items():
                before = totals.get(policy, (0.0, 0.0))
                totals[policy] = (before[0] + n, before[1] + reward)
        for policy, (n, reward) in totals.items():
            if n > 0:
                self.metrics.ctr.labels(policy=policy).set(reward / n)


def _counts(state: PartitionState) -> dict[str, int]:
    counts = {f"clicks:{name}": state.counts[name] for name in ADDED}
    counts |= {f"tokens:{name}": value for name, value in state.join.tokens.counts.items()}
    return counts | {f"impressions:{name}": value for name, value in state.impressions.items()}


def _drop(gauge: Any, *labels: str) -> None:
    try:
        gauge.remove(*labels)
    except KeyError:
        return
