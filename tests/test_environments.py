"""The benchmark's environments are the ones that published figures refer to."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.environments import Changing, Static


def test_static_has_the_known_values() -> None:
    """Best mean 0.499940 and a uniform policy's regret of 0.381255 a round, seed 0."""
    env = Static(seed=0)
    p = env.probabilities(0, env.contexts)
    assert p.shape == (20_000, 50)
    assert p.max(axis=1).mean() == pytest.approx(0.499940, abs=5e-7)
    assert (p.max(axis=1) - p.mean(axis=1)).mean() == pytest.approx(0.381255, abs=5e-7)


@pytest.mark.parametrize(
    ("kind", "segments", "first", "last"),
    [
        ("stationary", 1, 0.042271, 0.046741),
        ("abrupt", 2, 0.042271, 0.044765),
        ("gradual", 100, 0.042271, 0.053002),
        ("churn", 20, 0.042271, 0.046828),
    ],
)
def test_changing_has_the_known_values(kind: str, segments: int, first: float, last: float) -> None:
    """Mean click probability over the first and the last five contexts, seed 0."""
    env = Changing(kind, seed=0)
    assert len(env.segments) == segments
    assert env.probabilities(0, env.contexts[:5]).mean() == pytest.approx(first, abs=5e-7)
    assert env.probabilities(99_999, env.contexts[-5:]).mean() == pytest.approx(last, abs=5e-7)


def test_churn_announces_its_new_arms() -> None:
    """Three arms every 5,000 rounds, told for the block that holds the round; elsewhere nobody is new."""
    churn = Changing("churn", seed=1, rounds=12_000)
    assert len(churn.replaced(5000, 5100)) == 3
    assert len(churn.replaced(4900, 5000)) == 0
    assert len(Static(seed=1, rounds=10).replaced(0, 10)) == 0


def test_only_announced_arms_change_under_churn() -> None:
    """The parameters of all others stay."""
    churn = Changing("churn", seed=1, rounds=12_000)
    before, after = churn.segments[0].theta, churn.segments[1].theta
    moved = np.flatnonzero((before != after).any(axis=1))
    assert set(moved) == set(churn.segments[1].replaced)


def test_an_unknown_kind_lists_the_choices() -> None:
    """Kinds are named in the error."""
    with pytest.raises(ValueError, match="choose one of stationary, abrupt, gradual, churn"):
        Changing("sudden", seed=0)
