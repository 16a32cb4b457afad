"""Outcomes by token through a real broker: learners die, trackers send everything again, and each outcome counts once."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from streams.events import Impression, Outcome
from tests.loop import Loop, assert_conserved, assert_exact, assert_matured_once
from tests.oracle import WORTH, ArmSums, config, fold
from tests.token_traffic import KEYS, mixed, token_of

LIFE_S = 7200
CONFIG = config(more=f"token_window_s = {LIFE_S}\n") + f'[token_keys]\n7 = "{KEYS.secrets[7].decode()}"\n'


def truth_of(events: list[Impression | Outcome]) -> tuple[dict[str, ArmSums], set[tuple[str, str, str]]]:
    """Sums by arm and the outcomes that count, by set semantics: in the join's window, or with a token that is ours."""
    sums, _ = fold([event for event in events if isinstance(event, Impression)])
    shown = {event.decision_id: event for event in events if isinstance(event, Impression)}
    counted: set[tuple[str, str, str]] = set()
    earned: dict[tuple[str, str], float] = {}
    for event in events:
        if isinstance(event, Impression) or (event.decision_id, event.slot, event.outcome_id) in counted:
            continue
        impression = shown[event.decision_id]
        end_s = 20 if event.token is None else LIFE_S
        forged = event.token is not None and event.token != token_of(impression)
        if forged or not -2_000 <= event.ts - impression.ts < 1000 * end_s:
            continue
        counted.add((event.decision_id, event.slot, event.outcome_id))
        reward = WORTH[event.kind] * event.value
        sums[impression.arm].reward += reward
        sums[impression.arm].b += reward * np.array(impression.context)
        place = event.decision_id, event.slot
        before = earned.get(place, 0.0)
        earned[place] = before + reward
        sums[impression.arm].square += earned[place] ** 2 - before**2
    return sums, counted


def test_killed_learners_count_each_outcome_once(both_brokers: str, prefix: str, tmp_path: Path) -> None:
    """Deaths after a commit and by SIGKILL, sums that lag behind, and all outcomes a second time: sums bit for bit, all conserved."""
    events = mixed(21, 1_500, step_ms=200, disagree=False)
    half = len(events) // 2
    with Loop(both_brokers, prefix, tmp_path, CONFIG, checkpoint_interval_s=0.15, checkpoint_bytes=1024) as loop:
        send(loop, events[:half])
        for point in ("checkpoint.committed:2", "checkpoint.flushed:2", "recovery.rebuilt:1"):
            loop.start("one", fail_at=point)
            loop.wait_dead("one")
        loop.start("one")
        loop.wait_covered()
        loop.kill("one")
        again: list[Impression | Outcome] = [
            event for event in events[:half] if isinstance(event, Outcome) and event.token is not None
        ]
        send(loop, again + events[half:])
        loop.start("one")
        loop.wait_covered()
        assert_exact(loop, *truth_of(events))
        sent = sum(isinstance(event, Outcome) for event in [*events, *again])
        assert_conserved(loop, sent)
        counts = loop.sums()["counts"]
        assert counts["duplicate"] > len(again) / 2
        assert counts["dead"] > 10
        assert_matured_once(loop)
        loop.stop("one")


def send(loop: Loop, events: list[Impression | Outcome]) -> None:
    """A little at a time, so that what goes in batches is seconds late and not minutes."""
    for i in range(0, len(events), 20):
        loop.send(events[i : i + 20])
    loop.flush()
