"""Promotion on streams through Kafka, with deaths: false promotions, power and time, by real learners and a real publisher.

    python -m benchmarks.promotion_streams [--alike 100] [--better 20] [--rows 60000] [--kills 6] [--bootstrap HOST:PORT] [--json]

Each policy tries a candidate that makes 10% of its decisions; click rate 5%. The candidates of `alike` policies have no lift, those of
`better` policies one of 1.2 times. Decisions are shared out as ad servers do it, by the salt in the published snapshot, and go as
impressions and clicks to the topics that `clickloop worker learner` reads; what has matured goes by the feedback topic to `clickloop
worker publisher`, which judges. Learner and publisher are killed (SIGKILL) at random times, `kills` times, and started again.

Told are the shares promoted, against the 3.04% that a first candidate may spend of 5%, and of those with a lift the median number of
decisions that the test had seen; and whether every policy was judged as a fold over its rows judges them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from confluent_kafka import Producer

from benchmarks.cluster import broker, topics_of
from policies.canary import Canary, group_of
from policies.decide_split import split_key
from policies.promotion import judged, trial
from policies.trial_records import KIND, decode_trials
from policies.trials import Trials, Word
from streams.columns import encode_impressions, encode_outcomes
from streams.events import Impression, Outcome
from streams.policy_words import write_word
from streams.processes import WorkerProcess
from streams.published import read_published, read_snapshots
from streams.settings import Settings

SHARE, RATE, LIFT = 0.1, 0.05, 1.2
STEP, GAP_MS, WINDOW_S, GRACE_S = 250, 10, 20.0, 1.0
"""Decisions of a policy in one record, ms of event time between two, and how long they mature."""
START_MS = 1_700_000_000_000


@dataclass(slots=True)
class Stream:
    """One policy's decisions so far: who decided, and whether it was clicked."""

    name: str
    canary: Canary
    version: int
    lift: float
    rng: np.random.Generator
    group: list[bool] = field(default_factory=list)
    clicked: list[bool] = field(default_factory=list)

    def step(self) -> tuple[bytes, bytes | None]:
        """The next decisions as a record of impressions, and one of their clicks."""
        first = len(self.group)
        ids = [f"{self.name}-{number}" for number in range(first, first + STEP)]
        groups = [group_of(split_key(one, "top"), self.canary, 0.0) for one in ids]
        arms, u = self.rng.integers(0, 2, STEP).tolist(), self.rng.random(STEP).tolist()
        by_canary = [group == "canary" for group in groups]
        hit = [one < RATE * (self.lift if canary else 1.0) for one, canary in zip(u, by_canary, strict=True)]
        ts = [START_MS + GAP_MS * number for number in range(first, first + STEP)]
        shown = [
            Impression(
                decision_id=one, slot="top", policy=self.name, snapshot=self.version, arm="ab"[arm], propensity=0.5,
                ts=at, group=group,
            )
            for one, arm, at, group in zip(ids, arms, ts, groups, strict=True)
        ]  # fmt: skip
        clicks = [
            Outcome(decision_id=one, slot="top", outcome_id="c", ts=at + GAP_MS)
            for one, at, click in zip(ids, ts, hit, strict=True)
            if click
        ]
        self.group += by_canary
        self.clicked += hit
        return encode_impressions(shown), encode_outcomes(clicks) if clicks else None


class Workers:
    """Learner and publisher, which may be killed."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self.of = {role: WorkerProcess(settings, role, folder=folder) for role in ("learner", "publisher")}
        self.kills = 0

    def kill(self, role: str) -> None:
        """SIGKILL, and another one in its place."""
        one = self.of[role]
        one.check()
        os.kill(one.pid, signal.SIGKILL)
        one.stop()
        self.of[role] = WorkerProcess(self._settings, role, folder=self._folder)
        self.kills += 1

    def check(self) -> None:
        """Raise WorkerDied if one has ended by itself."""
        for one in self.of.values():
            one.check()

    def stop(self) -> None:
        """End them."""
        for one in self.of.values():
            one.stop()


@contextmanager
def running(settings: Settings) -> Iterator[Workers]:
    """Workers that are ended afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        workers = Workers(settings, Path(folder))
        try:
            yield workers
        finally:
            workers.stop()


def proposed(settings: Settings, workers: Workers, lifts: dict[str, float], seed: int) -> list[Stream]:
    """A candidate for each policy, as its published snapshot says."""
    for name in lifts:
        write_word(settings, name, Word(kind="propose", rates={"alpha": 0.2}, share=SHARE))
    until = time.monotonic() + 120.0
    while True:
        workers.check()
        found = read_snapshots(settings)
        if len(found) == len(lifts) and all(one.canary is not None for one in found.values()):
            break
        assert time.monotonic() < until, "not every policy has a canary after two minutes"
        time.sleep(0.5)
    rngs = np.random.default_rng(seed).spawn(len(lifts))
    return [
        Stream(name, canary, found[name].version, lift, rng)
        for (name, lift), rng in zip(lifts.items(), rngs, strict=True)
        if (canary := found[name].canary) is not None
    ]


def fed(settings: Settings, workers: Workers, streams: list[Stream], *, rows: int, kills: int, seed: int) -> None:
    """Write all decisions in order of event time, and kill workers in between; then what lets the last ones mature."""
    producer = Producer({**settings.librdkafka(), "linger.ms": 20, "queue.buffering.max.messages": 100_000})
    rng = np.random.default_rng([seed, 1])
    steps = -(-rows // STEP)
    mature = -(-int((WINDOW_S + GRACE_S) * 1000 + GAP_MS) // (STEP * GAP_MS)) + 1
    dies = set(rng.choice(np.arange(1, steps), size=kills, replace=False).tolist())
    for step in range(steps + mature):
        for stream in streams:
            for topic, value in zip((settings.topics.impressions, settings.topics.clicks), stream.step(), strict=True):
                if value is not None:
                    send(producer, topic, value)
        if step in dies:
            producer.flush(60)
            workers.kill("publisher" if rng.random() < 0.5 else "learner")
        workers.check()
    assert producer.flush(60) == 0, "the broker did not take the log"


def send(producer: Producer, topic: str, value: bytes) -> None:
    """Queue one record."""
    while True:
        try:
            producer.produce(topic, value, partition=0)
        except BufferError:
            producer.poll(0.1)
        else:
            producer.poll(0)
            return


def settled(settings: Settings, workers: Workers, streams: list[Stream], *, rows: int) -> dict[str, Trials]:
    """States once every candidate is decided, or has seen `rows` decisions."""
    until, seen = time.monotonic() + 1800.0, -1.0
    while True:
        workers.check()
        metas = read_published(settings)[1]
        states = {one.name: decode_trials(metas[one.name][None, KIND]) for one in streams}
        total = sum(judged_rows(state) for state in states.values())
        if all(state.trying is None or judged_rows(state) >= rows for state in states.values()):
            return states
        if total > seen:
            seen, until = total, time.monotonic() + 120.0
        assert time.monotonic() < until, f"nothing was judged for two minutes; {total:.0f} rows were"
        time.sleep(2.0)


def judged_rows(state: Trials) -> float:
    """Rows of the candidate that is tried."""
    return 0.0 if state.trying is None else float(state.trying.test.canary + state.trying.test.incumbent)


def main() -> None:
    """Run all and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alike", type=int, default=100, help="policies whose candidate has no lift")
    parser.add_argument("--better", type=int, default=20, help="policies whose candidate has one of 1.2 times")
    parser.add_argument("--rows", type=int, default=60_000, help="decisions of each policy")
    parser.add_argument("--kills", type=int, default=6, help="deaths of learner or publisher")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bootstrap", help="a Kafka to use; else one is started")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    given = parser.parse_args()
    lifts = {f"alike-{i}": 1.0 for i in range(given.alike)} | {f"better-{i}": LIFT for i in range(given.better)}
    with broker(given.bootstrap) as (bootstrap, kind):
        print(f"broker: {kind}; {len(lifts)} policies of {given.rows} decisions, {given.kills} deaths", flush=True)
        found = measure(bootstrap, lifts, rows=given.rows, kills=given.kills, seed=given.seed)
    for name, value in found.items():
        print(f"{name:28} {value:.4g}")
    if given.json:
        print(json.dumps(found))


def measure(bootstrap: str, lifts: dict[str, float], *, rows: int, kills: int, seed: int) -> dict[str, float]:
    """What became of the candidates."""
    policy = {"model": "beta", "arms": ["a", "b"], "window_s": WINDOW_S, "grace_s": GRACE_S}
    began, prefix = time.perf_counter(), f"bench-{time.time_ns() % 10**9}-"
    policies = dict.fromkeys(lifts, policy)
    with (
        topics_of(
            bootstrap, prefix, partitions=1, policies=policies, meta_interval_s=3600.0, log_level="warning"
        ) as settings,
        running(settings) as workers,
    ):
        streams = proposed(settings, workers, lifts, seed)
        fed(settings, workers, streams, rows=rows, kills=kills, seed=seed)
        states = settled(settings, workers, streams, rows=rows)
        died = workers.kills
    return told(streams, states) | {"deaths": died, "seconds": time.perf_counter() - began}


def told(streams: list[Stream], states: dict[str, Trials]) -> dict[str, float]:
    """Shares by lift, and of how many policies the state is that of a fold over its rows, bit for bit."""
    found: dict[str, float] = {}
    same = 0
    for name, lift in (("alike", 1.0), ("better", LIFT)):
        verdicts, times = [], []
        for one in (one for one in streams if one.lift == lift):
            trying = states[one.name].trying
            seen = len(one.group) if trying is None else int(judged_rows(states[one.name]))
            fold = judged(trial(1, share=SHARE), np.array(one.group[:seen]), np.array(one.clicked[:seen], np.float64))
            verdict = "" if trying is not None else "promote" if states[one.name].adopted else "roll back"
            same += fold.verdict == verdict and (trying is None or trying.test == fold)
            verdicts.append(verdict)
            if verdict == "promote":
                times.append(float(fold.canary + fold.incumbent))
        if verdicts:
            found |= {f"{name}_policies": len(verdicts), f"{name}_promoted": verdicts.count("promote") / len(verdicts)}
            found[f"{name}_rolled_back"] = verdicts.count("roll back") / len(verdicts)
        if times:
            found[f"{name}_median_decisions"] = float(np.median(times))
    return found | {"as_the_fold": same / len(streams)}


if __name__ == "__main__":
    main()
