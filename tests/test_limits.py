"""Limits on what one row does to the sums: features and rewards beyond them, in every way that rows come in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streams.columns import encode_impressions
from streams.events import Impression, Outcome, encode
from streams.reading import SimpleRecord
from streams.rules import rules
from streams.settings import PolicySettings, Settings, SettingsError, load
from streams.state import Fetched, PartitionState

NOW = 1_700_000_000_000
CONTEXTS = [[1.0, 0.5], [1.0, -80.0], [1.0, 3.0]]
LIMIT = 2.7  # not a float32: a row must be cut to the same number as float32 and as float64
CUT = np.array([[1.0, 0.5], [1.0, -2.7], [1.0, 2.7]])


def state(**policy: Any) -> PartitionState:
    settings = PolicySettings(dimension=2, window_s=100, grace_s=1, **policy)
    return PartitionState(0, rules=rules(Settings(policies={"p": settings})))


def impressions() -> list[Impression]:
    return [
        Impression(
            decision_id=f"d{i}", slot="s", policy="p", snapshot=1, arm="a", propensity=0.5, context=x, ts=NOW + i
        )
        for i, x in enumerate(CONTEXTS)
    ]


def clicks(values: list[float], *, decision: str = "d1") -> list[SimpleRecord]:
    found = [
        Outcome(decision_id=decision, slot="s", outcome_id=f"o{i}", kind="click", value=value, ts=NOW + 10 + i)
        for i, value in enumerate(values)
    ]
    return [SimpleRecord(i, NOW, None, encode(one, "json"), []) for i, one in enumerate(found)]


def fed(partition: PartitionState, outcomes: list[SimpleRecord], codec: str, *, clicks_first: bool = False) -> Any:
    if codec == "columns":
        shown = [SimpleRecord(0, NOW, None, encode_impressions(impressions()), [])]
    else:
        shown = [SimpleRecord(i, NOW, None, encode(one, "json"), []) for i, one in enumerate(impressions())]
    both = [
        Fetched("impressions", 0, 0, len(shown), shown),
        Fetched("clicks", 0, 0, len(outcomes), outcomes),
    ]
    for batch in reversed(both) if clicks_first else both:
        partition.take(batch)
    partition.freeze(None)
    model = partition.rules.models["p"]
    return model.at(partition.sums["p"]["a"], now_ms=NOW)


@pytest.mark.parametrize("codec", ["json", "columns"])
def test_components_beyond_the_limit_are_cut_in_both_sums(codec: str) -> None:
    """A over impressions and b over clicks see the same row, to the last bit."""
    sums = fed(state(feature_limit=LIMIT), clicks([1.0]), codec)
    assert np.array_equal(sums.A, CUT.T @ CUT)
    assert np.array_equal(sums.b, CUT[1])


def test_without_a_limit_contexts_enter_as_they_are() -> None:
    """Verbatim."""
    x = np.array(CONTEXTS)
    assert np.array_equal(fed(state(), clicks([1.0]), "json").A, x.T @ x)


@pytest.mark.parametrize("clicks_first", [False, True])
@pytest.mark.parametrize(
    ("values", "reward"), [([3.0], 3.0), ([30.0], 5.0), ([3.0, 4.0, 1.0], 5.0), ([-9.0, 3.0], -1.0), ([9.0, -7.0], 2.0)]
)
def test_rewards_of_an_impression_stay_between_their_bounds(
    values: list[float], reward: float, clicks_first: bool
) -> None:
    """The aggregate is bounded, not each outcome: what came too much can be taken back."""
    sums = fed(state(reward_bounds=(-1.0, 5.0)), clicks(values), "json", clicks_first=clicks_first)
    assert (sums.reward, sums.square) == (reward, reward**2)


def test_matured_rewards_are_bounded_too() -> None:
    """Evaluation sees the reward that was learned from."""
    partition = state(reward_bounds=(0.0, 5.0))
    fed(partition, clicks([30.0]), "json")
    (matured,) = partition.join.advance(NOW + 1_000_000)
    assert matured.reward.tolist() == [0.0, 5.0, 0.0]


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"feature_limit": 0}, "greater than 0"),
        ({"feature_limit": float("inf")}, "feature_limit = inf"),
        ({"reward_bounds": [1, 5]}, "with 0 among them"),
        ({"reward_bounds": [0, 0]}, "with 0 among them"),
        ({"reward_bounds": [5, -5]}, "with 0 among them"),
    ],
)
def test_limits_that_make_no_sense_are_refused(policy: dict[str, Any], message: str) -> None:
    """When the program starts."""
    with pytest.raises(SettingsError) as caught:
        load(overrides={"policies": {"front": {"dimension": 2, **policy}}})
    assert message in str(caught.value)
