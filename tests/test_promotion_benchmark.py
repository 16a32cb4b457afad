"""The promotion benchmark: small runs of it say what the whole one says."""

from __future__ import annotations

import numpy as np

from benchmarks import promotion
from policies.promotion import LEVEL


def test_a_small_run_has_power_and_few_false_promotions() -> None:
    """40 streams of 100,000 decisions."""
    found = promotion.canaries(np.random.default_rng(1), 40, 100_000)
    assert found["whole_1x_promote"] <= LEVEL + 3 * np.sqrt(LEVEL / 40)
    assert found["whole_1.2x_promote"] > 0.7
    assert found["whole_1.2x_promote_median_events"] < found["first_1.2x_promote_median_events"] < 100_000
    assert promotion.whole(0.1).spent == LEVEL


def test_sticky_units_break_bets_on_decisions_only() -> None:
    """A thousand visitors, two hundred decisions each."""
    found = promotion.sticky(np.random.default_rng(2), 40)
    assert found["sticky_1000_by_decision_false"] > 0.15
    assert found["sticky_1000_by_unit_false"] <= LEVEL + 3 * np.sqrt(LEVEL / 40)


def test_visits_that_are_drawn_anew_are_few_false_promotions() -> None:
    """Ten periods; with a lift, more visitors find it oftener."""
    found = promotion.visits(np.random.default_rng(3), 20)
    for units in promotion.UNITS:
        assert found[f"visits_{units}_by_visit_false"] <= LEVEL + 3 * np.sqrt(LEVEL / 20)
    assert found["visits_20000_by_visit_1.2x"] > 0.8
