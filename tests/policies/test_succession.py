"""Succession: when a policy is due, and on which decisions it learns until then."""

from __future__ import annotations

import numpy as np
import pytest

from policies.succession import is_due, learns, most_enough


@pytest.mark.parametrize(
    ("new", "old", "due"),
    [
        (0.0, 0.0, False),
        (99.0, 0.0, False),  # enough of nothing, and less than the least
        (100.0, 0.0, True),
        (100.0, 200.0, True),
        (100.0, 201.0, False),
        (1e9, 2e9, True),
    ],
)
def test_a_policy_is_due_with_a_share_of_the_others_data_and_at_least_some(new: float, old: float, due: bool) -> None:
    """Both bounds are inclusive."""
    assert is_due(new, old, enough=0.5, least=100.0) == due


@pytest.mark.parametrize("half_life", [np.inf, 50.0])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.75])
def test_the_ratio_tends_to_what_the_share_allows(share: float, half_life: float) -> None:
    """From below, whatever the old policy starts with and whatever is forgotten; a larger `enough` is never reached."""
    new, old, ratios = 0.0, 500.0, []
    for _ in range(200_000):
        new, old = new * 0.5 ** (1 / half_life) + share, old * 0.5 ** (1 / half_life) + (1 - share)
        ratios.append(new / old)
    assert np.all(np.diff(ratios) >= -1e-9)
    assert most_enough(share) * 0.98 < ratios[-1] <= most_enough(share) * (1 + 1e-9)


def test_decisions_are_drawn_by_their_id() -> None:
    """The same in every process, with the share's probability, independently for two policies."""
    ids = [f"d{i}" for i in range(20_000)]
    one, two = (np.array([learns(name, policy, 0.3) for name in ids]) for policy in ("front-2", "home-2"))
    spread = 4 * np.sqrt(0.3 * 0.7 / len(ids))
    assert abs(one.mean() - 0.3) < spread
    assert abs((one & two).mean() - 0.09) < spread
    assert not any(learns(name, "front-2", 0.0) for name in ids)
    assert all(learns(name, "front-2", 1.0) for name in ids)
    assert learns("d1", "front-2", 0.3) == learns("d1", "front-2", 0.3)
    smaller = np.array([learns(name, "front-2", 0.1) for name in ids])
    assert not (smaller & ~one).any()  # a larger share takes more, not others
