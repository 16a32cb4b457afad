"""A steady load: impressions and clicks at the time they carry, each click with the moment it was sent and its offset.

Run as a program it encodes everything first, waits for the start, sends, and writes the clicks as a numpy file with the columns
partition, offset, moment (s since the epoch), one row for each click.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

if not __package__:  # run as a file: the repository is not on the path, and http.py would hide Python's own
    sys.path[0] = str(Path(__file__).parents[1])

import numpy as np
from confluent_kafka import Message, Producer

from benchmarks.workload import CLICK_RATE, Workload, make
from streams.events import Codec, encode
from streams.settings import Settings

MEAN_DELAY_MS = 2_000
TURN_S = 0.005
PREPARE_US = 25  # an event, at most

Event = tuple[int, str, bytes, bytes]  # when (ms), topic, key, value


def events_of(workload: Workload, settings: Settings, codec: Codec) -> list[Event]:
    """All records in the order of their time, encoded; clicks after the last impression are left out."""
    names = settings.topics
    n, m = len(workload.ts), len(workload.clicked)
    events: list[Event] = [
        (impression.ts, names.impressions, impression.decision_id.encode(), encode(impression, codec))
        for impression in workload.impressions(slice(0, n), codec)
    ]
    end_ms = int(workload.ts[-1])
    events += [
        (click.ts, names.clicks, click.decision_id.encode(), encode(click, codec))
        for click in workload.clicks(slice(0, m))
        if click.ts <= end_ms
    ]
    events.sort(key=lambda event: event[0])
    return events


class Sender:
    """Sends events when their time has come, and keeps what became of the clicks."""

    def __init__(self, settings: Settings) -> None:
        self.clicks: list[tuple[int, int, float]] = []
        self.latest_s = 0.0  # the most that an event was sent behind its time
        self._clicks_topic = settings.topics.clicks
        self._producer = Producer(
            {
                **settings.librdkafka(),
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "linger.ms": 5,
                "queue.buffering.max.messages": 200_000,
            }
        )

    def run(self, events: list[Event]) -> None:
        """Send all of them; returns when the broker has them."""
        sent = 0
        while sent < len(events):
            now_ms = time.time() * 1000
            if events[sent][0] <= now_ms:
                self.latest_s = max(self.latest_s, (now_ms - events[sent][0]) / 1000)
            while sent < len(events) and events[sent][0] <= now_ms:
                self._send(events[sent])
                sent += 1
            self._producer.poll(TURN_S)
        if self._producer.flush(30):
            raise RuntimeError("the broker did not take the load within 30 s")

    def _send(self, event: Event) -> None:
        _, topic, key, value = event
        if topic != self._clicks_topic:
            self._producer.produce(topic, value, key)
            return
        sent_s = time.time()

        def delivered(error: object, message: Message) -> None:
            if error is not None:
                raise RuntimeError(f"a click was not delivered: {error}")
            self.clicks.append((message.partition() or 0, message.offset() or 0, sent_s))

        self._producer.produce(topic, value, key, on_delivery=delivered)


def main() -> None:
    """Send a load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--rate", type=float, default=20_000, help="impressions and clicks a second")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--codec", choices=["json", "msgpack"], default="msgpack")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    settings = Settings(bootstrap=given.bootstrap, prefix=given.prefix)
    per_s = given.rate / (1 + CLICK_RATE)
    impressions = int(per_s * given.seconds)
    start_s = time.time() + given.rate * given.seconds * PREPARE_US / 1e6
    workload = make(impressions, start_ms=int(start_s * 1000), per_s=per_s, mean_delay_ms=MEAN_DELAY_MS)
    events = events_of(workload, settings, given.codec)
    spare_s = start_s - time.time()
    sender = Sender(settings)
    sender.run(events)
    np.save(given.out, np.array(sender.clicks, np.float64).reshape(-1, 3))
    print(json.dumps({"events": len(events), "behind_s": round(max(sender.latest_s, -spare_s), 3)}), flush=True)


if __name__ == "__main__":
    main()
