"""Matured impressions of the feedback topic, as policies are evaluated on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from policies.evaluation import Decided
from streams import feedback
from streams.reading import bounds, partition_count, read, reader
from streams.settings import Settings

TIMEOUT_S = 10.0


def matured(settings: Settings, policy: str, newest: int, *, dimension: int) -> Rows:
    """The newest matured impressions of a policy that were drawn with a chance below one, by event time. Raises ReadError."""
    rows = Rows(dimension)
    for record in _records(settings, policy):
        rows.add(record)
        if len(rows) > 2 * newest:
            rows.keep(newest)
    rows.keep(newest)
    return rows


def _records(settings: Settings, policy: str) -> Iterator[dict[str, Any]]:
    client, topic = settings.librdkafka(), settings.topics.feedback
    with reader(client) as consumer:
        for partition in range(partition_count(client, topic)):
            low, high = bounds(consumer, topic, partition, timeout_s=TIMEOUT_S)
            if high > low:
                for batch in read(consumer, topic, partition, low, None, timeout_s=TIMEOUT_S):
                    for record in batch:
                        decoded = None if record.value is None else feedback.decode(record.value)
                        if decoded is not None and decoded["type"] == "matured" and decoded["policy"] == policy:
                            yield decoded


class Rows:
    """Matured rows that were drawn with a chance below one and count, as they are read.

    Args:
        dimension: of the contexts, 0 to do without; rows with others, from before a setting was changed, are left out.

    Attributes:
        left_out: rows whose context had another dimension.
    """

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._parts: list[dict[str, Any]] = []
        self._rows = 0
        self.left_out = 0

    def __len__(self) -> int:
        return self._rows

    def add(self, record: Mapping[str, Any]) -> None:
        """Take a decoded record of matured rows, without impressions that never became viewable or were taken back."""
        chance = np.flatnonzero((record["propensity"] < 1.0) & feedback.counts(record))
        part = {name: record[name][chance] for name in ("impression_ts", "propensity", "reward")}
        part["context"] = record["context"][chance].astype(np.float64)
        part["arm"] = np.array(record["arm"], object)[chance]
        self.take(part)

    def take(self, part: dict[str, Any]) -> None:
        """Take n rows: `impression_ts`, `propensity`, `reward` and `arm` (n,), `context` (n, d)."""
        if self._dimension not in (0, part["context"].shape[1]):
            self.left_out += len(part["reward"])
            return
        self._parts.append(part | {"context": part["context"][:, : self._dimension]})
        self._rows += len(part["reward"])

    def keep(self, newest: int) -> None:
        """Let go of all but the newest rows, and put them in the order of event time."""
        if self._parts:
            whole = {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}
            order = np.argsort(whole["impression_ts"], kind="stable")[-newest:]
            self._parts = [{name: column[order] for name, column in whole.items()}]
            self._rows = len(order)

    def decided(self) -> Decided:
        """The rows that `keep` left."""
        if not self._rows:
            nothing = np.zeros(0)
            return Decided(
                arms=(),
                arm=np.zeros(0, np.intp),
                x=np.zeros((0, self._dimension)),
                ts=np.zeros(0, np.int64),
                propensity=nothing,
                reward=nothing,
            )
        (part,) = self._parts
        names, codes = np.unique(part["arm"].astype(str), return_inverse=True)
        return Decided(
            arms=tuple(names.tolist()),
            arm=codes.astype(np.intp),
            x=part["context"],
            ts=part["impression_ts"],
            propensity=part["propensity"],
            reward=part["reward"],
        )
