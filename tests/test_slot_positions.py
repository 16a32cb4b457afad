"""Position effects between publisher and learner: what scales a row's context is what its version said."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from policies.references import Reference, References, decode, encode
from streams.events import Impression, Outcome
from streams.events import encode as encode_event
from streams.published import read_snapshots
from streams.reading import SimpleRecord
from streams.rules import rules
from streams.settings import Settings
from streams.state import Fetched, PartitionState
from tests.loop import Loop
from tests.test_exactly_once import hour_ago_ms

SLOTS: dict[str, Any] = {"top": {}, "side": {"position": 0.5}}
POLICY: dict[str, Any] = {"dimension": 2, "window_s": 60, "grace_s": 10, "slots": SLOTS}
PUBLISHED = {3: {"top": 1.0, "side": 0.25}, 8: {"top": 1.0, "side": 0.75}}


class Known:
    """References as a reader has them."""

    def __init__(self) -> None:
        self.found = References(newest=20)
        for version, kappa in PUBLISHED.items():
            self.found.add(Reference(version=version, means={}, kappa=kappa))

    def of(self, policy: str) -> References:
        return self.found

    def unknown(self, policy: str, versions: Any) -> set[int]:
        return set()

    def look_up(self, versions: Any) -> None:
        raise AssertionError


def effect(slot: str, version: int | None, *, learned: bool) -> float:
    """By the rule: the last published at or before the version, else that of the settings."""
    of = max((known for known in PUBLISHED if version is not None and known <= version <= 20), default=None)
    start = SLOTS.get(slot, {}).get("position", 1.0)
    return float(PUBLISHED[of].get(slot, start)) if learned and of is not None else float(start)


def log(seed: int, n: int) -> list[Impression | Outcome]:
    rng = random.Random(seed)
    found: list[Impression | Outcome] = []
    for i in range(n):
        ts, slot = 1_700_000_000_000 + 10 * i, rng.choice(["top", "side", "menu"])
        version = rng.choice([None, 1, 3, 5, 8, 12, 99])
        context = [1.0, rng.randrange(-8, 9) / 8]
        found.append(
            Impression(
                decision_id=f"d{i}",
                slot=slot,
                policy="front",
                snapshot=version,
                arm=rng.choice("ab"),
                propensity=0.5,
                context=context,
                ts=ts,
            )
        )
        if rng.random() < 0.3:
            found.append(Outcome(decision_id=f"d{i}", slot=slot, outcome_id="o", ts=ts + 500))
    return found


@pytest.mark.parametrize("learned", [True, False])
def test_contexts_are_scaled_by_the_effect_of_the_version_that_the_impression_names(learned: bool) -> None:
    """Dyadic effects, so that the sums equal those of a loop over the rows bit for bit; clicks wherever they come."""
    events = log(3, 600)
    settings = Settings(policies={"front": POLICY | {"positions": "learn" if learned else "fixed"}})
    working = replace(rules(settings), references=Known() if learned else None)
    partition = PartitionState(0, rules=working)
    shown = [one for one in events if isinstance(one, Impression)]
    clicks = [one for one in events if isinstance(one, Outcome)]
    parts: list[tuple[Any, list[Any]]] = [("clicks", clicks[:50]), ("impressions", shown), ("clicks", clicks[50:])]
    for side, some in parts:
        at = partition.positions[side]
        records = [SimpleRecord(at + i, one.ts, None, encode_event(one, "json"), []) for i, one in enumerate(some)]
        partition.take(Fetched(side, 0, at, at + len(some), records))
    partition.freeze(events[0].ts)
    A = {arm: np.zeros((2, 2)) for arm in "ab"}
    b = {arm: np.zeros(2) for arm in "ab"}
    rows = {one.decision_id: one for one in shown}
    for one in shown:
        x = effect(one.slot, one.snapshot, learned=learned) * np.array(one.context)
        A[one.arm] += np.outer(x, x)
    for click in clicks:
        of = rows[click.decision_id]
        b[of.arm] += effect(of.slot, of.snapshot, learned=learned) * np.array(of.context)
    model = working.models["front"]
    for arm, sums in partition.sums["front"].items():
        found = model.at(sums, now_ms=events[0].ts)
        assert found.A is not None
        assert np.array_equal(found.A, A[arm])
        assert np.array_equal(found.b, b[arm])


def test_a_reference_carries_effects() -> None:
    """With and without weights; one of before has none."""
    one = Reference(version=4, means={}, kappa={"top": 1.0, "side": 0.5})
    assert decode(encode("p", one)).kappa == one.kappa
    assert decode(encode("p", Reference(version=4, means={"a": np.zeros(1)}))).kappa == {}


def test_effects_are_learned_published_and_used(bootstrap: str, prefix: str, tmp_path: Path) -> None:
    """Through Kafka: clicks in the side slot come 0.4 times as often, the settings say as often."""
    config = """
meta_interval_s = 1
[policies.front]
dimension = 2
window_s = 4
grace_s = 1
positions = "learn"
intercept = 0
[policies.front.slots.top]
[policies.front.slots.side]
"""
    rng = np.random.default_rng(4)
    with Loop(bootstrap, prefix, tmp_path, config, checkpoint_interval_s=0.2) as loop:
        loop.start("one")
        loop.start("p", "publisher")
        start, sent = hour_ago_ms(), 0
        until = time.monotonic() + 90
        kappa = 1.0
        while abs(kappa - 0.4) > 0.08:
            assert time.monotonic() < until, f"learned {kappa}"
            events: list[Impression | Outcome] = []
            for i in range(sent, sent + 4_000):
                slot = "top" if rng.random() < 0.5 else "side"
                arm = "ab"[int(rng.integers(2))]
                ts = start + 5 * i
                events.append(
                    Impression(
                        decision_id=f"d{i}",
                        slot=slot,
                        policy="front",
                        snapshot=1,
                        arm=arm,
                        propensity=0.5,
                        context=[1.0, float(rng.normal())],
                        ts=ts,
                    )
                )
                if rng.random() < (0.4 if arm == "a" else 0.2) * (1.0 if slot == "top" else 0.4):
                    events.append(Outcome(decision_id=f"d{i}", slot=slot, outcome_id="o", ts=ts + 100))
            sent += 4_000
            loop.send(events)
            loop.flush()
            time.sleep(1.0)
            snapshot = read_snapshots(loop.settings).get("front")
            kappa = 1.0 if snapshot is None else snapshot.allotment.kappa.get("side", 1.0)
        loop.stop("p")
        loop.stop("one")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"positions": "learn", "slots": {"top": {}}}, "list two or more"),
        ({"positions": "learn", "model": "beta", "dimension": 0}, "position effects"),
        ({"model": "logistic"}, "position effects"),
    ],
)
def test_what_cannot_be_learned_is_refused(change: dict[str, Any], says: str) -> None:
    """At start, with the way out."""
    with pytest.raises(ValidationError, match=says):
        Settings(policies={"front": POLICY | change})
