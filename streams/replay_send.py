"""Sending a log through the topics at a multiple of its own speed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from streams.delivery import QueueFull
from streams.producer import EventProducer
from streams.replay_order import Chunk, chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from streams.delivery import Delivery
    from streams.events import Codec, Impression, Outcome
    from streams.logged_rows import Event
    from streams.settings import Settings

STEP_S = 0.25
"""With a speed, a chunk is not longer than this on the wall clock, so that events do not come in lumps."""


@dataclass(slots=True)
class Sent:
    """What was delivered; for each side ("impressions", "clicks") and partition the offset after the last record."""

    impressions: int = 0
    outcomes: int = 0
    ends: dict[str, dict[int, int]] = field(default_factory=lambda: {"impressions": {}, "clicks": {}})


class Sender:
    """Sends chunks in the order that `replay_order` asks for.

    Args:
        settings: how the brokers are reached, and the topics' names.
        window_s: the policy's window.
        speed: seconds of event time in a second; 0 is as fast as it goes.
        codec: how events are written.
    """

    def __init__(self, settings: Settings, *, window_s: float, speed: float = 0.0, codec: Codec = "json") -> None:
        if speed < 0:
            raise ValueError(f"speed is {speed}; allowed: 0 (as fast as it goes) and above")
        self.sent = Sent()
        self._sides = {settings.topics.impressions: "impressions", settings.topics.clicks: "clicks"}
        self._speed = speed
        span_s = min(window_s, speed * STEP_S) if speed else window_s
        self._span_ms = max(1, int(span_s * 1000))
        self._producer = EventProducer(settings, codec=codec, on_delivery=self._delivered)

    def send(self, events: Iterable[Event], *, progress: Callable[[int], None] = lambda _: None) -> Sent:
        """Send all and return what was delivered; `progress` takes the number of impressions sent so far.

        Raises:
            NotDelivered: something did not reach Kafka. What was delivered before stays there.
        """
        begun_s, first_ms = time.monotonic(), None
        for chunk in chunks(events, span_ms=self._span_ms):
            first_ms = chunk.start_ms if first_ms is None else first_ms
            if self._speed:
                due_s = begun_s + (chunk.start_ms - first_ms) / 1000 / self._speed
                time.sleep(max(0.0, due_s - time.monotonic()))
            self._send(chunk)
            progress(self.sent.impressions)
        self._producer.flush()
        return self.sent

    def close(self) -> None:
        """End the producer, after what is queued is delivered."""
        self._producer.close()

    def _send(self, chunk: Chunk) -> None:
        if chunk.outcomes:
            self._producer.flush()
            for outcome in chunk.outcomes:
                self._patiently(self._producer.outcome, outcome)
            self._producer.flush()
            self.sent.outcomes += len(chunk.outcomes)
        for impression in chunk.impressions:
            self._patiently(self._producer.impression, impression)
        self.sent.impressions += len(chunk.impressions)

    @staticmethod
    def _patiently(send: Callable[..., None], event: Impression | Outcome) -> None:
        while True:
            try:
                send(event)
            except QueueFull:
                time.sleep(0.01)
            else:
                return

    def _delivered(self, delivery: Delivery) -> None:
        if delivery.error is None:
            ends = self.sent.ends[self._sides[delivery.topic]]
            ends[delivery.partition] = max(ends.get(delivery.partition, 0), delivery.offset + 1)
