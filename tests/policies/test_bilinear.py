"""The head of clicks: closed forms, a rate that it finds, and an interval that is as wide as it should be."""

from __future__ import annotations

import numpy as np
import pytest

from policies.bilinear import RIDGES, Sides, gain, head, learned_head, logits, losses


def drawn(seed: int, n: int, M: np.ndarray) -> Sides:
    """Rows whose clicks have the odds of M; the constant is first on both sides."""
    rng = np.random.default_rng(seed)
    u = np.hstack([np.ones((n, 1)), rng.normal(size=(n, M.shape[0] - 1))])
    f = np.hstack([np.ones((n, 1)), rng.normal(size=(n, M.shape[1] - 1))])
    p = 1.0 / (1.0 + np.exp(-np.einsum("ij,jk,ik->i", u, M, f)))
    return Sides(u=u, f=f, click=(rng.random(n) < p).astype(float))


def test_two_arms_have_the_log_odds_of_their_clicks() -> None:
    """With an indicator as the only feature and no penalty to speak of: log odds of either group, in closed form."""
    f = np.column_stack([np.ones(100), np.r_[np.zeros(60), np.ones(40)]])
    click = np.r_[np.ones(15), np.zeros(45), np.ones(30), np.zeros(10)]
    M = head(Sides(u=np.ones((100, 1)), f=f, click=click), ridge=1e-9)
    assert M[0].tolist() == pytest.approx([np.log(15 / 45), np.log(30 / 10) - np.log(15 / 45)], abs=1e-3)


def test_the_gradient_is_zero_at_the_minimum() -> None:
    """sum_i (p_i - y_i) u_i f_i^T + ridge M = 0, the intercept without the ridge."""
    rows = drawn(0, 2_000, np.array([[-1.0, 0.5], [0.3, 1.0]]))
    M = head(rows, ridge=5.0)
    held = M.copy()
    held[0, 0] = 0.0
    p = 1.0 / (1.0 + np.exp(-logits(M, rows)))
    assert np.abs(rows.u.T @ ((p - rows.click)[:, None] * rows.f) + 5.0 * held).max() < 0.1


def test_interest_matches_are_found() -> None:
    """Weights of a product of the two sides come back, and lose less than a head that has none."""
    M = np.array([[-1.0, 0.0], [0.0, 1.2]])
    rows, fresh = drawn(1, 20_000, M), drawn(2, 5_000, M)
    found, ridge = learned_head(rows)
    assert np.abs(found - M).max() < 0.1
    assert ridge in RIDGES
    without = np.diag([found[0, 0], 0.0])
    assert losses(found, fresh).mean() < losses(without, fresh).mean() - 0.05


@pytest.mark.parametrize("penalised", [True, False])
def test_noise_is_held_by_the_penalty(penalised: bool) -> None:
    """Forty features that tell nothing cost next to nothing held out; without the choice of a penalty they cost much."""
    M = np.zeros((1, 41))
    rows, fresh = drawn(3, 400, M), drawn(4, 4_000, M)
    found = learned_head(rows)[0] if penalised else head(rows, ridge=1e-6)
    lost = losses(found, fresh).mean() - np.log(2.0)
    assert (lost < 0.02) == penalised


@pytest.mark.parametrize(("blocks", "wide"), [(100, True), (100_000, False)], ids=["blocks", "rows by themselves"])
def test_rows_that_repeat_each_other_count_once(blocks: int, wide: bool) -> None:
    """Of 400 draws, each ten times in a row, the interval is that of 400; rows by themselves would make it a third of that."""
    value = np.repeat(np.random.default_rng(5).normal(size=400), 10)
    low, high = gain(value, np.zeros(4_000), rng=np.random.default_rng(6), blocks=blocks)
    expected = 2 * 1.96 * value.std() / 400**0.5
    assert (high - low > 0.8 * expected) == wide
    assert high - low < 1.25 * expected


def test_what_does_not_go_together_is_refused() -> None:
    """Rows of different numbers, clicks that are none, and too few to compare."""
    one = np.ones((2, 1))
    with pytest.raises(ValueError, match="2, 2 and 3 rows; all need the same number"):
        Sides(u=one, f=one, click=np.zeros(3))
    with pytest.raises(ValueError, match="a click is neither 0 nor 1"):
        Sides(u=one, f=one, click=np.array([0.0, 0.5]))
    with pytest.raises(ValueError, match="losses of 5 and 5 rows; allowed: as many of both, at least 20"):
        gain(np.zeros(5), np.zeros(5), rng=np.random.default_rng(0))
