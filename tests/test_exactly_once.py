"""Exactly once: a learner that is killed again and again ends with the sums of the single-threaded oracle, bit for bit."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from msgspec.structs import replace

from policies.model import MODELS
from streams.events import COLUMNS_MAGIC, Impression, Outcome
from streams.failpoints import POINTS
from streams.reading import ReadError, bounds, read, reader
from tests.loop import Loop, assert_conserved, assert_exact, assert_matured_once
from tests.mixture import RETRACTION_S, mixture
from tests.oracle import config, fold, traffic

UNIT_LIMIT = 2
UNIT_WINDOW_S = 15
QUICK_KILLS = 5
WHOLE_KILLS = 20


class Load(threading.Thread):
    """Sends events at a steady pace beside the test."""

    def __init__(self, loop: Loop, events: list[Impression | Outcome], seconds: float) -> None:
        super().__init__(daemon=True)
        self.loop, self.events, self.seconds = loop, events, seconds
        self.start()

    def run(self) -> None:
        began, size = time.monotonic(), 200
        for i in range(0, len(self.events), size):
            self.loop.send(self.events[i : i + size])
            ahead = began + self.seconds * i / len(self.events) - time.monotonic()
            time.sleep(max(0.0, ahead))
        self.loop.flush()


def hour_ago_ms() -> int:
    """Event time need not be now."""
    return int(time.time() * 1000) - 3_600_000


def die(loop: Loop, load: Load) -> None:
    """Wait until the worker dies at its fail-point; on a slow machine nothing may be left to pass the point with."""
    until = time.monotonic() + 120
    while loop.runs("one"):
        assert time.monotonic() < until, "the worker neither died nor worked for 120 s"
        time.sleep(0.1 if load.is_alive() else 0.5)
        with suppress(ReadError):  # the broker has no time
            if not load.is_alive() and loop.runs("one") and loop.behind() == 0:
                loop.kill("one")
                return
    loop.wait_dead("one")


def killed_again_and_again(
    bootstrap: str,
    prefix: str,
    folder: Path,
    *,
    kills: int,
    seed: int,
    model: str = "linear",
    more: str = "",
    limited: bool = False,
    counts_on: Literal["impression", "viewable"] | None = None,
    **top: Any,
) -> None:
    """One run: load, `kills` deaths at seeded moments, half of them at fail-points, then the comparison.

    With ``counts_on`` outcomes take each other back.
    """
    rng = random.Random(seed)
    make = traffic if counts_on is None else mixture
    events = make(seed, 3_000 * kills, start_ms=hour_ago_ms()).events
    if counts_on is not None:
        more += f'counts_on = "{counts_on}"\nretraction_window_s = {RETRACTION_S}\n'
    taking: dict[str, Any] = (
        {} if counts_on is None else {"viewable": counts_on == "viewable", "retraction_s": RETRACTION_S}
    )
    if limited:
        more += f"unit_limit = {UNIT_LIMIT}\nunit_window_s = {UNIT_WINDOW_S}\n"
        events = [replace(one, unit=unit(one)) if isinstance(one, Impression) else one for one in events]
    with Loop(bootstrap, prefix, folder, config(model, more), checkpoint_interval_s=0.15, **top) as loop:
        load = Load(loop, events, seconds=2.0 * kills)
        for number in range(kills):
            if number % 2 == 0:
                point = POINTS[number // 2 % len(POINTS)]
                loop.start("one", fail_at=f"{point}:{rng.randint(1, 3 if point.startswith('checkpoint') else 1)}")
                die(loop, load)
            else:
                loop.start("one")
                time.sleep(rng.uniform(1.2, 3.5))
                loop.kill("one")
        loop.start("one")
        load.join(timeout=120)
        loop.wait_covered()
        truth, counted = fold(events, model, **taking)
        if limited:
            shown = sum(arm.n for arm in truth.values())
            truth, _ = fold(learning(loop, events), model)
            assert 0.3 * shown < sum(arm.n for arm in truth.values()) < 0.9 * shown
        assert_exact(loop, truth, counted)
        assert_conserved(loop, sum(isinstance(event, Outcome) for event in events))
        assert_matured_once(loop)
        loop.stop("one")


def unit(impression: Impression) -> str:
    """One of 700 users, by the decision."""
    return f"u{int(impression.decision_id[1:]) * 7919 % 700}"


def learning(loop: Loop, events: list[Impression | Outcome]) -> list[Impression | Outcome]:
    """The events without the impressions beyond their unit's limit, by the order of each partition's log."""
    first = {one.decision_id: one for one in reversed(events) if isinstance(one, Impression)}
    kept: set[str] = set()
    topic = loop.settings.topics.impressions
    with reader(loop.settings.librdkafka()) as consumer:
        for partition in range(loop.settings.partitions):
            low, high = bounds(consumer, topic, partition, timeout_s=10)
            records = [one for batch in read(consumer, topic, partition, low, high, timeout_s=10) for one in batch]
            counts: Counter[tuple[str, int]] = Counter()
            for one in dict.fromkeys(name for record in records for name in decisions(record.value or b"")):
                bucket = (unit(first[one]), first[one].ts // (1000 * UNIT_WINDOW_S))
                counts[bucket] += 1
                if counts[bucket] <= UNIT_LIMIT:
                    kept.add(one)
    return [one for one in events if isinstance(one, Outcome) or one.decision_id in kept]


def decisions(value: bytes) -> list[str]:
    """The decision ids in a record of any codec."""
    if value[:1] == b"{":
        return [msgspec.json.decode(value)["decision_id"]]
    found = msgspec.msgpack.decode(value[4:] if value[:4] == COLUMNS_MAGIC else value)["decision_id"]
    return found if isinstance(found, list) else [found]


@pytest.mark.parametrize("seed", [1])
def test_killed_at_random_moments_and_between_the_steps(
    both_brokers: str, prefix: str, tmp_path: Path, seed: int
) -> None:
    """A few deaths, at random moments and between the steps of a checkpoint, change nothing; most have no room for all sums."""
    ladder = "half_lives_s = [0, 3600]"
    killed_again_and_again(
        both_brokers, prefix, tmp_path, kills=QUICK_KILLS, seed=seed, more=ladder, checkpoint_bytes=1_024
    )


@pytest.mark.whole
@pytest.mark.timeout(900)
@pytest.mark.parametrize("model", [model for model in MODELS if model != "linear"])
def test_every_models_sums_are_exact(both_brokers: str, prefix: str, tmp_path: Path, model: str) -> None:
    """The same for each posterior, bit for bit: the logistic one around zero has dyadic weights."""
    killed_again_and_again(both_brokers, prefix, tmp_path, kills=QUICK_KILLS, seed=1, model=model)


@pytest.mark.whole
@pytest.mark.timeout(900)
def test_what_learns_of_a_unit_is_exact(both_brokers: str, prefix: str, tmp_path: Path) -> None:
    """The first impressions of each unit in the log of each partition, whatever dies while they are counted."""
    killed_again_and_again(both_brokers, prefix, tmp_path, kills=QUICK_KILLS, seed=2, limited=True)


@pytest.mark.whole
@pytest.mark.timeout(900)
@pytest.mark.parametrize("counts_on", ["impression", "viewable"])
def test_outcomes_that_take_each_other_back_are_exact(
    both_brokers: str, prefix: str, tmp_path: Path, counts_on: Literal["impression", "viewable"]
) -> None:
    """Viewable events, retractions, refunds and invalid traffic; most checkpoints have no room for all sums."""
    killed_again_and_again(
        both_brokers, prefix, tmp_path, kills=QUICK_KILLS, seed=3, counts_on=counts_on, checkpoint_bytes=1_024
    )


@pytest.mark.whole
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [11, 12, 13])
def test_killed_twenty_times(both_brokers: str, prefix: str, tmp_path: Path, seed: int) -> None:
    """Twenty deaths a run, three seeds, on each kind of broker."""
    killed_again_and_again(both_brokers, prefix, tmp_path, kills=WHOLE_KILLS, seed=seed)
