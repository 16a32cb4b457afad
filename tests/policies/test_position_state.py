"""Position effects learned while a policy runs."""

from __future__ import annotations

import numpy as np
import pytest

from policies.meta_records import decode_meta, encode_meta
from policies.meta_state import Rows, first_state, judged
from policies.position_state import Placed, no_rows, placed, settled

TRUE = {"top": 1.0, "side": 0.55, "foot": 0.2}
ARMS = [f"a{i}" for i in range(20)]


def seen(state: Placed, n: int, seed: int, *, off: float = 1.0) -> Placed:
    """With n rows whose predictions are `off` times the truth, and 30% off for each arm by itself."""
    rng = np.random.default_rng(seed)
    rate = dict(zip(ARMS, rng.uniform(0.05, 0.4, len(ARMS)), strict=True))
    wrong = dict(zip(ARMS, off * rng.uniform(0.7, 1.3, len(ARMS)), strict=True))
    slots = rng.choice(list(TRUE), n).tolist()
    arms = rng.choice(ARMS, n).tolist()
    p = np.array([TRUE[slot] * rate[arm] for slot, arm in zip(slots, arms, strict=True)])
    m = np.array([rate[arm] * wrong[arm] for arm in arms])
    return placed(state, slots, arms, m, (rng.random(n) < p).astype(float))


def test_effects_are_found_whatever_the_predictions_are_off_by() -> None:
    """Within three standard errors, with predictions half of the truth, and nothing of it in the effects."""
    state = seen(no_rows(dict.fromkeys(TRUE, 1.0)), 60_000, 1, off=0.5)
    state, reasons = settled(state)
    assert len(reasons) == 2
    for slot, effect in state.effects.items():
        assert effect == pytest.approx(TRUE[slot], abs=0.03)


def test_taking_the_slots_rates_for_effects_would_not_do() -> None:
    """Where the better arms stand in the first slot, raw rates say that the second is worse than it is; predictions correct it."""
    rng = np.random.default_rng(3)
    n = 60_000
    good = rng.random(n) < 0.5
    slots = np.where(rng.random(n) < np.where(good, 0.9, 0.1), "top", "side")
    rate = np.where(good, 0.4, 0.1)
    clicks = (rng.random(n) < rate * np.where(slots == "top", 1.0, 0.5)).astype(float)
    raw = clicks[slots == "side"].mean() / clicks[slots == "top"].mean()
    arms = np.where(good, "good", "bad").tolist()
    state, _ = settled(placed(no_rows({"top": 1.0, "side": 1.0}), slots.tolist(), arms, rate, clicks))
    assert raw < 0.3
    assert state.effects["side"] == pytest.approx(0.5, abs=0.03)


def test_noise_changes_no_effect() -> None:
    """Few clicks, or an estimate within its standard error of what is in use."""
    start = no_rows(TRUE)
    assert settled(seen(start, 100, 5))[1] == ()
    again, reasons = settled(seen(settled(seen(start, 40_000, 6))[0], 10, 7))
    assert reasons == ()
    assert again.effects["top"] == 1.0


def test_the_record_brings_it_back() -> None:
    """Bit for bit for the same slots; other slots start anew, and an older record has none."""
    state = first_state((0.0,), window_ms=1000, seen=seen(no_rows(TRUE), 5_000, 8))
    assert state.seen is not None
    data = encode_meta("p", state, delays_s=())
    again = decode_meta(data, first_state((0.0,), window_ms=1000, seen=no_rows(TRUE)), delays_s=()).seen
    assert again is not None
    assert np.array_equal(again.seen.clicks, state.seen.seen.clicks)
    assert np.array_equal(again.seen.predicted, state.seen.seen.predicted)
    other = no_rows({"top": 1.0, "menu": 0.5})
    assert decode_meta(data, first_state((0.0,), window_ms=1000, seen=other), delays_s=()).seen is other
    old = encode_meta("p", first_state((0.0,), window_ms=1000), delays_s=())
    start = no_rows(TRUE)
    assert decode_meta(old, first_state((0.0,), window_ms=1000, seen=start), delays_s=()).seen is start


def test_rows_that_cannot_be_scored_say_nothing_of_positions() -> None:
    """They have no prediction to compare with."""
    state = first_state((0.0,), window_ms=1000, seen=no_rows(TRUE))
    rows = Rows(arm=["a"] * 3, ts=np.arange(3), x=np.ones((3, 1)), reward=np.ones(3), slot=["side"] * 3)
    after, _ = judged(state, rows, [])
    assert after.seen is state.seen
    assert after.unscored == 3


@pytest.mark.parametrize("start", [{"top": 1.0}, {"top": 1.0, "side": 0.0}])
def test_effects_that_cannot_be_learned_are_refused(start: dict[str, float]) -> None:
    """One slot has nothing to be compared with, and an effect of zero never shows a click."""
    with pytest.raises(ValueError, match="positions start at"):
        no_rows(start)
