"""The ladder of half-lives: its recursion, when it switches, and that it finds the half-life that fits."""

from __future__ import annotations

import numpy as np
import pytest

from policies.ladder import BURN_IN, LEAD, MEMORY, STEP, Ladder, ladder, log_scores, scored


def test_it_is_the_recursion() -> None:
    """Row by row by hand, and the same in one piece and in pieces."""
    rng = np.random.default_rng(3)
    p, r = rng.uniform(0.0, 1.0, (500, 3)), rng.integers(0, 2, 500).astype(float)
    scores = STEP * np.arange(3)
    for nats in log_scores(p, r):
        scores = MEMORY * scores + (1.0 - MEMORY) * STEP * np.arange(3) + nats
    start = ladder((0.0, 100.0, 10.0))
    whole, _ = scored(start, p, r)
    assert whole.scores == pytest.approx(scores.tolist())
    parts = start
    for part in np.array_split(np.arange(500), 7):
        parts, _ = scored(parts, p[part], r[part])
    assert parts.scores == pytest.approx(scores.tolist())
    assert parts.rows == whole.rows == 500


def test_where_tracks_predict_alike_the_longest_memory_stays() -> None:
    """However many rows come: differences return to the prior's."""
    state = ladder((0.0, 100.0, 10.0))
    p, r = np.full((1000, 3), 0.1), np.zeros(1000)
    for _ in range(100):
        state, reason = scored(state, p, r)
        assert reason == ""
    assert state.chosen == 0
    assert np.diff(state.scores) == pytest.approx([STEP, STEP])


@pytest.mark.parametrize(
    ("rows", "lead", "switches"), [(BURN_IN - 1, 50.0, False), (BURN_IN, 50.0, True), (5000, LEAD, False)]
)
def test_it_switches_after_the_burn_in_by_a_clear_lead(rows: int, lead: float, switches: bool) -> None:
    """A lead of exactly the threshold is not enough."""
    state = Ladder(half_lives_s=(0.0, 10.0), scores=(0.0, lead), rows=rows)
    after, reason = scored(state, np.zeros((0, 2)), np.zeros(0))
    assert (after.chosen == 1) == switches
    assert (reason != "") == switches
    assert after.half_life_s == (10.0 if switches else 0.0)


def rates(half_life: float, reward: np.ndarray) -> np.ndarray:
    """Prediction before each row by a discounted mean, as a track of that half-life would give."""
    kept = 1.0 if half_life == 0.0 else 0.5 ** (1.0 / half_life)
    n, total, found = 20.0, 2.0, np.empty(len(reward))
    for i, r in enumerate(reward.tolist()):
        found[i] = total / n
        n, total = kept * n + 1.0, kept * total + r
    return found


@pytest.mark.parametrize(("period", "chosen"), [(0, 0), (2000, 2)])
def test_it_finds_the_half_life_that_fits(period: int, chosen: int) -> None:
    """None where the rate stays, a short one where it jumps between 5% and 30%."""
    rng = np.random.default_rng(8)
    rate = np.full(30_000, 0.1) if period == 0 else np.where(np.arange(30_000) // period % 2, 0.05, 0.3)
    reward = (rng.random(30_000) < rate).astype(float)
    half_lives = (0.0, 20_000.0, 400.0)
    predicted = np.stack([rates(one, reward) for one in half_lives], axis=1)
    state = ladder(half_lives)
    for part in np.array_split(np.arange(30_000), 60):
        state, _ = scored(state, predicted[part], reward[part])
    assert state.chosen == chosen


def test_other_rewards_are_scored_by_the_normal_density() -> None:
    """Log density at the mean: -log(2 pi s2)/2."""
    assert log_scores(np.array([[3.0]]), np.array([3.0]), s2=4.0) == pytest.approx(-0.5 * np.log(8.0 * np.pi))
    with pytest.raises(ValueError, match="give s2"):
        log_scores(np.array([[3.0]]), np.array([3.0]))
    with pytest.raises(ValueError, match=r"s2 = 0\.0"):
        log_scores(np.array([[3.0]]), np.array([3.0]), s2=0.0)


@pytest.mark.parametrize("half_lives", [(), (10.0, 20.0), (10.0, 0.0), (10.0, 10.0), (-1.0,)])
def test_half_lives_must_go_down(half_lives: tuple[float, ...]) -> None:
    """The prior prefers the first."""
    with pytest.raises(ValueError, match="from the longest to the shortest"):
        ladder(half_lives)


def test_numbers_that_do_not_fit_are_refused() -> None:
    """Shapes, and what is not finite."""
    state = ladder((0.0, 10.0))
    with pytest.raises(ValueError, match=r"must be \(n, 2\)"):
        scored(state, np.zeros((3, 1)), np.zeros(3))
    with pytest.raises(ValueError, match="not finite"):
        scored(state, np.full((1, 2), np.nan), np.zeros(1))
