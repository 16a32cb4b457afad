"""Arms whose sums expire in a learner: however it reads, cuts, lacks room and dies, each arm has its last life's sums."""

from __future__ import annotations

import random
import tomllib
from dataclasses import replace

import msgspec
import pytest

from policies.expiry import NEVER
from streams.events import Impression, Outcome
from streams.posteriors import Posteriors
from streams.rules import rules, tracks
from streams.settings import Settings
from streams.state import SIDES, Fetched, PartitionState
from streams.table import read_key
from tests.oracle import POLICY, config, fold, traffic
from tests.test_budget import START_MS, TWO_SUMS, Committed, Log, recovered

HALF_LIVES = (0.0, 64.0)
EXPIRE_S = 90.0


def settings_of() -> Settings:
    policy = tomllib.loads(config("linear"))["policies"][POLICY]
    return Settings.model_validate({"policies": {POLICY: policy | {"half_lives_s": HALF_LIVES, "expire_s": EXPIRE_S}}})


def turns(seed: int) -> list[Impression | Outcome]:
    """Traffic of 16 minutes in which eight arms take turns of 40 s: each comes back 280 s after it was shown last."""
    events = traffic(seed, 1_200, start_ms=START_MS, step_ms=800.0).events
    return [
        msgspec.structs.replace(event, arm=f"turn{(event.ts - START_MS) // 40_000 % 8}")
        if isinstance(event, Impression)
        else event
        for event in events
    ]


def last_lives(events: list[Impression | Outcome]) -> tuple[dict[str, int], list[Impression | Outcome]]:
    """The oracle: newest event of each arm, and the events with each arm named by its life."""
    newest: dict[str, int] = {}
    floor: dict[str, int] = {}
    named: list[Impression | Outcome] = []
    shown = [event for event in events if isinstance(event, Impression)]
    for event in shown:
        if event.arm in newest and event.ts - newest[event.arm] > EXPIRE_S * 1000:
            floor[event.arm] = newest[event.arm]
        newest[event.arm] = max(newest.get(event.arm, NEVER), event.ts)
    for one in events:
        old = isinstance(one, Impression) and one.ts <= floor.get(one.arm, NEVER)
        named.append(msgspec.structs.replace(one, arm="old") if old else one)
    return newest, named


def run(seed: int, *, budget: int, crash: float, largest: int) -> tuple[PartitionState, Committed, int]:
    """A learner that is lost with a chance of ``crash`` at each cut."""
    rng = random.Random(seed)
    log, committed, deaths = Log(turns(seed)), Committed(), 0
    given = replace(rules(settings_of()), checkpoint_bytes=budget)
    state = PartitionState(0, rules=given)
    while any(state.positions[side] < len(log.sides[side]) for side in SIDES) or state.table.unwritten:
        for side in SIDES:
            start = state.positions[side]
            end = min(
                len(log.sides[side]), start + rng.randrange(1, largest if side == "impressions" else largest // 3)
            )
            if end > start:
                state.take(Fetched(side, 0, start, end, log.sides[side][start:end]))
        if rng.random() < crash:
            deaths += 1
            state = recovered(log, committed, replace(rules(settings_of()), checkpoint_bytes=budget))
            continue
        marks = [ts for ts in state.largest_ts.values() if ts is not None]
        committed.add(state.freeze(min(marks) if len(marks) == 2 else None))
    return state, committed, deaths


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("largest", "budget", "crash"), [(40, 10_000_000, 0.0), (9, TWO_SUMS, 0.2), (120, TWO_SUMS, 0.25)]
)
def test_the_sums_are_those_of_each_arms_last_life(seed: int, largest: int, budget: int, crash: float) -> None:
    """Bit for bit, and the arms that are missing, in memory and among the records, are those that nothing can come for."""
    state, committed, deaths = run(seed, budget=budget, crash=crash, largest=largest)
    newest, named = last_lives(turns(seed))
    truth, _ = fold(named, "linear")
    hold_ms = state.rules.windows[POLICY].hold_ms
    watermark = state.join.watermark
    assert watermark is not None
    kept = {arm for arm, ts in newest.items() if ts + EXPIRE_S * 1000 + hold_ms >= watermark}
    assert 0 < len(kept) < 8
    for track in HALF_LIVES:
        assert set(state.table.sums[POLICY][track]) == kept
    written = {(arm, track) for policy, _, arm, track in map(read_key, committed.records) if policy is not None}
    assert written == {(arm, track) for arm in kept for track in (None, HALF_LIVES[1])}
    now = {arm: state.rules.models[POLICY].at(sums, now_ms=START_MS) for arm, sums in state.sums[POLICY].items()}
    assert {arm: (one.n_eff, one.reward, one.b.tolist(), one.A.tolist()) for arm, one in now.items()} == {
        arm: (truth[arm].n, truth[arm].reward, truth[arm].b.tolist(), truth[arm].A.tolist()) for arm in kept
    }
    assert (deaths > 2) == (crash > 0)
    assert truth["old"].n > 0


def test_the_publisher_forgets_a_part_on_its_tombstone() -> None:
    """When the last partition's part has expired the arm is no longer merged, and it is named as changed."""
    settings = settings_of()
    posteriors = Posteriors(settings, {POLICY: tracks(settings.policies[POLICY])})
    rng = random.Random(1)
    log, state = Log(turns(1)), PartitionState(0, rules=rules(settings))
    seen: set[str] = set()
    gone: set[str] = set()
    while state.positions["impressions"] < len(log.sides["impressions"]):
        for side in SIDES:
            start = state.positions[side]
            end = min(len(log.sides[side]), start + rng.randrange(20, 60))
            if end > start:
                state.take(Fetched(side, 0, start, end, log.sides[side][start:end]))
        for message in state.freeze(min(ts for ts in state.largest_ts.values() if ts is not None)):
            if message.topic == "posteriors":
                posteriors.add(0, message.key, message.value)
        merged, changed, _ = posteriors.take(POLICY)
        arms = set(merged[0.0])
        assert arms == set(state.sums[POLICY])
        assert seen - arms <= changed
        gone |= seen - arms
        seen = arms
    assert gone
