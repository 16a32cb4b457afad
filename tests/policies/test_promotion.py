"""Promotion: false promotions within the level, power, the same state however decisions are cut, and what breaks it is caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from policies import promotion
from policies.batch import FloatArray, IntArray
from policies.promotion import LEVEL, Bits, Trial, evidence, judged, spending, trial
from policies.visits import tally

SHARE, RATE = 0.1, 0.05
RUNS, ROWS = 200, 60_000


def stream(rng: np.random.Generator, rows: int, lift: float = 1.0) -> tuple[Bits, FloatArray]:
    """Whether the canary decided, and whether it was clicked."""
    canary: Bits = np.asarray(rng.random(rows) < SHARE)
    return canary, (rng.random(rows) < np.where(canary, RATE * lift, RATE)).astype(float)


def verdicts(lift: float, *, number: int = 1, runs: int = RUNS, rows: int = ROWS, seed: int = 1) -> list[Trial]:
    rng = np.random.default_rng(seed)
    return [judged(trial(number, share=SHARE), *stream(rng, rows, lift)) for _ in range(runs)]


def within(false: int, runs: int, level: float) -> bool:
    """Whether so many false verdicts may come by chance at the level: three standard errors."""
    return bool(false <= runs * level + 3 * np.sqrt(runs * level * (1 - level)))


def promoted(found: list[Trial]) -> int:
    return sum(one.verdict == "promote" for one in found)


def test_without_a_lift_promotions_stay_within_the_level() -> None:
    """Looked at after every decision, and so do false roll-backs."""
    found = verdicts(1.0)
    assert within(promoted(found), RUNS, spending(1))
    assert within(sum(one.verdict == "roll back" for one in found), RUNS, spending(1))


def test_a_lift_of_a_fifth_is_promoted_and_a_loss_of_a_fifth_rolled_back() -> None:
    """Most within 100,000 decisions, and never the wrong way round."""
    better, worse = (verdicts(lift, runs=50, rows=100_000) for lift in (1.2, 0.8))
    assert promoted(better) > 35
    assert sum(one.verdict == "roll back" for one in worse) > 35
    assert promoted(worse) == sum(one.verdict == "roll back" for one in better) == 0


def test_a_bet_that_knows_the_outcome_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Betting with the sums that include the decision itself promotes what is not better."""
    honest = promotion._running

    def leaking(start: float, terms: FloatArray) -> tuple[FloatArray, FloatArray]:
        _, after = honest(start, terms)
        return after, after

    monkeypatch.setattr(promotion, "START", 10.0)
    monkeypatch.setattr(promotion, "LEAST_BET", 0.0)
    assert within(promoted(verdicts(1.0, runs=100)), 100, spending(1))
    monkeypatch.setattr(promotion, "_running", leaking)
    assert not within(promoted(verdicts(1.0, runs=100)), 100, spending(1))


def campaign(rng: np.random.Generator, spend: Callable[[int], float], candidates: int = 20) -> bool:
    """Whether any of some candidates without a lift is promoted, where candidate k may spend `spend(k)`."""
    for number in range(1, candidates + 1):
        start = replace(trial(1, share=SHARE), level=spend(number) / spending(1, level=1.0))
        if judged(start, *stream(rng, 15_000)).verdict == "promote":
            return True
    return False


def test_over_all_candidates_promotions_stay_within_the_level() -> None:
    """Each candidate spends its part; where each may spend the whole level, false promotions add up."""
    assert sum(spending(k) for k in range(1, 100_000)) == pytest.approx(LEVEL, abs=1e-6)
    runs, rng = 120, np.random.default_rng(3)
    assert within(sum(campaign(rng, spending) for _ in range(runs)), runs, LEVEL)
    assert not within(sum(campaign(rng, lambda _: LEVEL) for _ in range(runs)), runs, LEVEL)


@pytest.mark.parametrize("lift", [1.0, 1.6])
def test_the_state_is_the_same_however_decisions_are_cut(lift: float) -> None:
    """Bit for bit, also where the verdict falls within a batch."""
    rng = np.random.default_rng(5)
    canary, reward = stream(rng, 20_000, lift)
    whole = judged(trial(1, share=SHARE), canary, reward)
    assert bool(whole.verdict) == (lift > 1.0)
    for seed in range(5):
        cuts = np.sort(np.random.default_rng(seed).integers(0, 20_000, 40))
        state = trial(1, share=SHARE)
        for start, end in pairwise([0, *cuts.tolist(), 20_000]):
            state = judged(state, canary[start:end], reward[start:end])
        assert state == whole
    one_by_one = trial(1, share=SHARE)
    for i in range(500):
        one_by_one = judged(one_by_one, canary[i : i + 1], reward[i : i + 1])
    assert one_by_one == judged(trial(1, share=SHARE), canary[:500], reward[:500])


def test_wealth_is_the_product_of_the_formula() -> None:
    """An oracle in plain Python: the bets of the decisions before, bounds and all."""
    rng = np.random.default_rng(6)
    canary, reward = rng.random(3000) < 0.5, rng.random(3000)
    state = judged(trial(1, share=0.5), canary, reward)
    up = down = 1.0
    total = square = 0.0
    n = state.canary + state.incumbent
    for i, (ours, r) in enumerate(zip(canary[:n].tolist(), reward[:n].tolist(), strict=True)):
        d = r / 0.5 if ours else -r / 0.5
        k = i + 1000
        v = (square + 1000 * 0.05 / 0.5) / k
        bets = [min(max(sign * total / k, (v / k) ** 0.5 / 2) / v, most) for sign, most in ((1, 0.25), (-1, 0.25))]
        assert min(1 + bets[0] * d, 1 - bets[1] * d) >= 0.5 - 1e-12
        up, down, total, square = up * (1 + bets[0] * d), down * (1 - bets[1] * d), total + d, square + d * d
    assert (np.exp(state.promote), np.exp(state.roll_back)) == pytest.approx((up, down), rel=1e-9)


def test_after_a_verdict_nothing_is_looked_at() -> None:
    """What comes later cannot undo it, or its evidence."""
    found = next(one for one in verdicts(1.6, runs=5) if one.verdict)
    assert judged(found, np.array([False]), np.array([1.0])) is found
    assert "to promote" in evidence(found)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: trial(0, share=0.1), "candidates count from 1"),
        (lambda: trial(1, share=1.0), "share = 1.0"),
        (lambda: trial(1, share=0.1, level=0.0), "level = 0.0"),
        (lambda: judged(trial(1, share=0.1), np.array([True]), np.array([1.5])), "reward 0 is 1.5"),
        (lambda: judged(trial(1, share=0.1), np.array([True]), np.array([np.nan])), "reward 0 is nan"),
        (lambda: judged(trial(1, share=0.1), np.array([True]), np.zeros(2)), "both must be"),
    ],
)
def test_what_has_no_guarantee_is_refused(make: Callable[[], Trial], message: str) -> None:
    """Rewards without bounds, shares and levels that are none."""
    with pytest.raises(ValueError, match=message):
        make()


def sticky(rng: np.random.Generator, units: int, each: int) -> tuple[IntArray, Bits, FloatArray]:
    """Decisions of units that keep their group: (n,) unit, group and reward; units click at rates of their own, without a lift."""
    group, rate = rng.random(units) < 0.5, rng.beta(0.05, 0.95, units)
    unit = rng.integers(0, units, units * each)
    return unit, group[unit], (rng.random(len(unit)) < rate[unit]).astype(float)


def test_units_that_keep_their_group_are_one_bet_each() -> None:
    """Bets on single decisions promote what is not better; one bet a unit, on its mean, does not."""
    rng, runs = np.random.default_rng(8), 100
    by_decision = by_unit = 0
    for _ in range(runs):
        unit, group, reward = sticky(rng, 200, 50)
        by_decision += judged(trial(1, share=0.5), group, reward).verdict == "promote"
        visits = tally(unit.astype(np.uint64), group, reward)
        by_unit += judged(trial(1, share=0.5), visits.canary, visits.means).verdict == "promote"
    assert not within(by_decision, runs, spending(1))
    assert within(by_unit, runs, spending(1))
