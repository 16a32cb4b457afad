"""The sums of all partitions as committed, followed in a thread and merged when asked for.

A partition's records are applied together, when its checkpoint record arrives: what is merged is always a state that was
committed as a whole.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import msgspec
import structlog
from confluent_kafka import OFFSET_BEGINNING, KafkaException, TopicPartition

from policies.ledger import Ledger, merged
from policies.ledger_records import decode_ledger
from policies.model import Sums
from streams.ledgers import is_ledger, tariffs
from streams.reading import ReadError, partition_count, reader
from streams.settings import Settings
from streams.table import Tracks, read_key

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Place:
    """How far merged sums go: by partition the watermark (ms) and the next offsets; ``now_ms`` the newest watermark."""

    watermark_ms: dict[int, int] = field(default_factory=dict)
    offsets: dict[int, dict[str, int]] = field(default_factory=dict)
    now_ms: int = 0

    def copy(self) -> Place:
        """The same, which does not change when the sums go on."""
        offsets = {number: dict(next_) for number, next_ in self.offsets.items()}
        return Place(dict(self.watermark_ms), offsets, self.now_ms)


class Posteriors:
    """Sums by policy, half-life, arm and partition. ``tracks``: of each policy, the model of every half-life (s)."""

    def __init__(self, settings: Settings, tracks: Mapping[str, Tracks]) -> None:
        self.error: str | None = "the sums have not been read yet"
        self._settings = settings
        self._tracks = tracks
        self._lock = threading.Lock()
        self._sums: dict[str, dict[float, dict[str, dict[int, Sums]]]] = _by_track(tracks)
        self._merged: dict[str, dict[float, dict[str, Sums]]] = _by_track(tracks)
        self._changed: dict[str, set[tuple[float, str]]] = {policy: set() for policy in tracks}
        self._uncommitted: dict[int, list[tuple[str, float, str, dict[str, Any] | None]]] = {}
        self._tariffs = tariffs(settings.policies)
        self._ledgers: dict[str, dict[int, Ledger]] = {policy: {} for policy in self._tariffs}
        self._untold: dict[int, dict[str, Ledger]] = {}
        self._place = Place()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="posteriors", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def everything_changed(self) -> None:
        """Have the next `take` of each policy name every arm."""
        with self._lock:
            for policy, tracks in self._sums.items():
                self._changed[policy] = {(track, arm) for track, arms in tracks.items() for arm in arms}

    def take(self, policy: str) -> tuple[dict[float, dict[str, Sums]], set[str], Place]:
        """Merged sums by half-life and arm, the arms that changed since the last call, and how far they go.

        Partitions are added and arms given in their order, so that the same sums give the same bits.
        """
        with self._lock:
            changed, self._changed[policy] = self._changed[policy], set()
            parts = {
                (track, arm): [sums for _, sums in sorted(self._sums[policy][track].get(arm, {}).items())]
                for track, arm in changed
            }
            place = self._place.copy()
        merged = self._merged[policy]
        for (track, arm), sums in parts.items():
            merged[track].pop(arm, None)
            if sums:  # else every partition's part has expired
                merged[track][arm] = reduce(self._tracks[policy][track].merge, sums)
        in_order = {track: dict(sorted(arms.items())) for track, arms in merged.items()}
        return in_order, {arm for _, arm in changed}, place

    def ledger(self, policy: str) -> tuple[Ledger, int]:
        """What was spent and shown on all partitions, in their order, and the newest watermark in ms."""
        with self._lock:
            parts = [ledger for _, ledger in sorted(self._ledgers.get(policy, {}).items())]
            now_ms = self._place.now_ms
        return merged(parts, self._tariffs[policy].periods if policy in self._tariffs else {}), now_ms

    def place(self) -> Place:
        """How far what is known goes, as `take` tells beside the sums."""
        with self._lock:
            return self._place.copy()

    def add(self, partition: int, key: bytes | None, value: bytes | None) -> None:
        """Take one record of a partition, in the order of the log."""
        if key is None:
            return
        policy, number, arm, track = read_key(key)
        if policy is not None and arm == "" and is_ledger(key):
            if policy in self._ledgers and value is not None:
                self._untold.setdefault(partition, {})[policy] = decode_ledger(value)
            return
        if policy is None and arm is not None:  # what else learners keep there
            return
        record = None if value is None else msgspec.msgpack.decode(value)
        if policy is not None and arm is not None:
            if policy in self._tracks:
                track = next(iter(self._tracks[policy])) if track is None else track
                self._uncommitted.setdefault(partition, []).append((policy, track, arm, record))
            return
        if record is None:
            return
        with self._lock:
            for name, of, one, sums in self._uncommitted.pop(partition, ()):
                model = self._tracks[name].get(of)
                if model is not None and sums is None:
                    self._sums[name][of].get(one, {}).pop(number, None)
                    self._changed[name].add((of, one))
                elif model is not None and sums is not None:
                    self._sums[name][of].setdefault(one, {})[number] = model.decode(sums)
                    self._changed[name].add((of, one))
            for name, ledger in self._untold.pop(partition, {}).items():
                self._ledgers[name][number] = ledger
            self._place.offsets[number] = record["offsets"]
            if record["watermark"] is not None:
                self._place.watermark_ms[number] = record["watermark"]
                self._place.now_ms = max(self._place.now_ms, record["watermark"])

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except (ReadError, KafkaException, ValueError) as error:
                self.error = f"cannot follow the sums: {error}"
                log.warning("cannot follow the sums; trying again", error=str(error))
                self._stop.wait(1.0)

    def _follow(self) -> None:
        client, topic = self._settings.librdkafka(), self._settings.topics.posteriors
        with reader(client) as consumer:
            partitions = range(partition_count(client, topic))
            consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
            left = set(partitions)
            while not self._stop.is_set():
                for message in consumer.consume(2_000, timeout=0.1):
                    error = message.error()
                    if error is None:
                        self.add(message.partition() or 0, message.key(), message.value())
                    elif error.fatal():
                        raise ReadError(error.str())
                    else:
                        left.discard(message.partition())
                if not left:
                    self.error = None


def _by_track(tracks: Mapping[str, Tracks]) -> dict[str, dict[float, dict[str, Any]]]:
    return {policy: {track: {} for track in models} for policy, models in tracks.items()}
