"""The baseline: the same join and update as a Faust program is usually written, with two agents and tables.

Impressions are kept in a table by decision id, sums in a table by arm; a click looks its impression up and corrects the
arm. Events are JSON records; the sums are numpy arrays, pickled into their changelog, which is several times faster than
JSON lists. In Faust's favour: tables live in memory instead of RocksDB, nothing expires, duplicates are not looked for,
delivery is at-least-once (a crash counts twice), and there is no feedback topic.

Run as a program it works for some seconds of a filled pair of topics and prints one JSON object: events, wall_s, cpu_s.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import tempfile
import warnings
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any

import faust
import numpy as np
from faust.types import StreamT


@dataclass(slots=True)
class Counted:
    """What the agents have done so far, to be timed from outside."""

    events: int = 0
    joined: int = 0
    last_s: float = 0.0

    def one(self) -> None:
        """An event was worked up."""
        self.events += 1
        self.last_s = perf_counter()


class Impression(faust.Record, serializer="json"):
    """What the join needs of an impression."""

    decision_id: str
    arm: str
    context: list[float]


class Click(faust.Record, serializer="json"):
    """What the join needs of a click."""

    decision_id: str
    value: float


class Sums(faust.Record, serializer="pickle"):
    """One arm: n, reward, b (d,), A (d, d)."""

    n: float
    reward: float
    b: Any
    A: Any


def make_app(bootstrap: str, prefix: str, *, partitions: int, counted: Counted) -> faust.App:
    """The program; it adds to `counted`."""
    app = faust.App(
        f"{prefix}faust-table",
        broker=f"kafka://{bootstrap}",
        store="memory://",
        datadir=tempfile.mkdtemp(prefix="faust-table-"),
        topic_partitions=partitions,
        topic_replication_factor=1,
        web_enabled=False,
        stream_wait_empty=False,
    )
    impressions = app.topic(f"{prefix}impressions", value_type=Impression, key_type=str, key_serializer="raw")
    clicks = app.topic(f"{prefix}clicks", value_type=Click, key_type=str, key_serializer="raw")
    shown = app.Table("shown", key_type=str, value_type=Impression, partitions=partitions)
    early = app.Table("early", key_type=str, value_type=Click, partitions=partitions)
    arms = app.Table("arms", key_type=str, value_type=Sums, partitions=partitions)

    def reward(impression: Impression, value: float) -> None:
        sums = arms[impression.arm]
        x = np.array(impression.context)
        arms[impression.arm] = Sums(n=sums.n, reward=sums.reward + value, b=sums.b + value * x, A=sums.A)
        counted.joined += 1

    @app.agent(impressions)
    async def show(stream: StreamT[Any]) -> None:
        async for impression in stream:
            shown[impression.decision_id] = impression
            x = np.array(impression.context)
            sums = arms.get(impression.arm) or Sums(n=0.0, reward=0.0, b=np.zeros(len(x)), A=np.zeros((len(x), len(x))))
            arms[impression.arm] = Sums(n=sums.n + 1, reward=sums.reward, b=sums.b, A=sums.A + np.outer(x, x))
            click = early.pop(impression.decision_id, None)
            if click is not None:
                reward(impression, click.value)
            counted.one()

    @app.agent(clicks)
    async def click(stream: StreamT[Any]) -> None:
        async for event in stream:
            impression = shown.get(event.decision_id)
            if impression is None:
                early[event.decision_id] = event
            else:
                reward(impression, event.value)
            counted.one()

    return app


async def _run(app: faust.App, counted: Counted, *, seconds: float, most: int) -> None:
    """Work, print the figures, and end the process as it stands: nothing is to be saved."""
    await app.start()
    while not counted.events:
        await asyncio.sleep(0.05)
    start_events, start_s, start_cpu_s = counted.events, perf_counter(), process_time()
    while counted.events < most and perf_counter() < start_s + seconds:
        await asyncio.sleep(0.1)
    events = counted.events - start_events
    last_s = counted.last_s if counted.events >= most else perf_counter()
    used_s = process_time() - start_cpu_s
    print(
        json.dumps({"events": events, "wall_s": last_s - start_s, "cpu_s": used_s, "joined": counted.joined}),
        flush=True,
    )
    os._exit(0)


def main() -> None:
    """Run it for a while on topics that are filled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--events", type=int, default=10**9, help="stop after so many")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # of pickle, which is safe where only this program writes
    counted = Counted()
    app = make_app(given.bootstrap, given.prefix, partitions=given.partitions, counted=counted)
    asyncio.run(_run(app, counted, seconds=given.seconds, most=given.events))


if __name__ == "__main__":
    main()
