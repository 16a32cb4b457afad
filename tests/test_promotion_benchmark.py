"""The promotion benchmark: small runs of it say what the whole one says."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import promotion, promotion_streams
from benchmarks.promotion_streams import Stream
from policies.canary import Canary
from policies.promotion import LEVEL, judged, trial
from policies.trials import Trials, Trying


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


def stream(lift: float, seed: int) -> Stream:
    """A policy's decisions, 20,000 of them."""
    canary = Canary(number=1, share=promotion_streams.SHARE, salt="s", explorer="thompson")
    one = Stream(f"p{seed}", canary, 3, lift, np.random.default_rng(seed))
    for _ in range(20_000 // promotion_streams.STEP):
        one.step()
    return one


@pytest.mark.parametrize("lost", [0, 1])
def test_on_streams_a_row_that_was_not_judged_is_noticed(lost: int) -> None:
    """States are compared with a fold over what was generated, bit for bit."""
    one, seen = stream(1.0, 1), 15_000
    canary, clicked = np.array(one.group[:seen]), np.array(one.clicked[:seen], np.float64)
    keep = np.arange(seen) >= lost
    test = judged(trial(1, share=promotion_streams.SHARE), canary[keep], clicked[keep])
    states = {one.name: Trials(trying=Trying(canary=one.canary, test=test, since_version=3))}
    found = promotion_streams.told([one], states)
    assert found["as_the_fold"] == (0.0 if lost else 1.0)
    assert (found["alike_promoted"], found["alike_policies"]) == (0.0, 1)


def test_on_streams_decisions_are_shared_out_and_clicked_as_they_are_meant_to_be() -> None:
    """A tenth is the canary's, and has the lift."""
    one = stream(4.0, 2)
    group, clicked = np.array(one.group), np.array(one.clicked, float)
    assert abs(group.mean() - 0.1) < 0.01
    assert abs(clicked[~group].mean() - 0.05) < 0.01
    assert abs(clicked[group].mean() - 0.2) < 0.04
