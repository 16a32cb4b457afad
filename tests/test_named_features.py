"""Named features from settings to decisions: what they imply, what is published with a snapshot, what is refused."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import numpy as np
import pytest

from policies.features import FeatureError, Value
from policies.prior import Prior
from policies.snapshot import Snapshot, build, decode_head, encode_head
from policies.sums import RecordError
from streams.client import PolicyClient
from streams.rules import model
from streams.settings import PolicySettings, Settings, SettingsError, load

NOBODY = "127.0.0.1:1"
FEATURES: dict[str, Any] = {
    "numeric": {"hour": {"mean": 12.0, "sd": 6.0}},
    "categorical": {"device": 4},
    "crosses": [{"of": ["hour", "device"], "buckets": 4}],
}
POLICY = PolicySettings.model_validate({"features": FEATURES})
VALUES: dict[str, Value] = {"hour": 18.0, "device": "phone"}


def snapshot_of(policy: PolicySettings) -> Snapshot:
    made = model(policy)
    prior = Prior(mean=np.zeros(policy.dimension), tau2=np.ones(policy.dimension), s2=1.0)
    return build(
        "front",
        model=made,
        sums={"a": made.zero(), "b": made.zero()},
        prior=prior,
        version=3,
        previous=None,
        time_ms=0,
        now_ms=0,
        encoder=made.encoder,
    )


def client(policy: PolicySettings, snapshot: Snapshot | None) -> PolicyClient:
    made = PolicyClient(Settings(bootstrap=NOBODY, policies={"front": policy}), rng=np.random.default_rng(0))
    if snapshot is not None:
        made._swap("front", snapshot)
    return made


def test_dimension_and_intercept_follow_from_the_features() -> None:
    """Given or not, and they survive being written out and read again."""
    assert (POLICY.dimension, POLICY.intercept) == (10, 0)
    assert PolicySettings.model_validate({"features": FEATURES, "dimension": 10, "intercept": 0}) == POLICY
    assert PolicySettings.model_validate(POLICY.model_dump(mode="json")) == POLICY
    plain = PolicySettings.model_validate({"features": FEATURES | {"intercept": False}})
    assert (plain.dimension, plain.intercept) == (9, None)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"features": FEATURES, "dimension": 8}, "dimension = 8: the features make it 10"),
        ({"features": FEATURES, "intercept": 3}, "intercept = 3: the features make it 0"),
        ({"features": FEATURES, "encoder": "e1"}, "no other encoder"),
        ({"features": FEATURES, "model": "beta"}, "allowed are models with a context"),
        ({"features": {}}, "there are no features"),
        ({"features": {"numeric": {"hour": {"sd": 0}}}}, "greater than 0"),
        ({"features": {"numeric": {"hour": {"std": 2}}}}, "std"),
        ({"features": {"categorical": {"device": 0}}}, "greater than or equal to 1"),
        ({"features": FEATURES | {"crosses": [{"of": ["hour", "week"]}]}}, "hour, device"),
    ],
)
def test_settings_that_make_no_sense_are_refused(policy: dict[str, Any], message: str) -> None:
    """When the program starts, by name."""
    with pytest.raises(SettingsError) as caught:
        load(overrides={"policies": {"front": policy}})
    assert message in str(caught.value)
    assert "front" in str(caught.value)


def test_the_head_of_a_snapshot_names_the_features() -> None:
    """As the fingerprint of what its contexts come from."""
    head = decode_head(encode_head(snapshot_of(POLICY)))
    assert POLICY.features is not None
    assert head.encoder == POLICY.features.features.fingerprint


def test_sums_of_other_features_are_refused() -> None:
    """Their numbers would mean something else."""
    other = PolicySettings.model_validate({"features": FEATURES | {"categorical": {"device": 4}, "intercept": True}})
    changed = PolicySettings.model_validate({"features": FEATURES | {"numeric": {"hour": {"mean": 11.0, "sd": 6.0}}}})
    record = model(POLICY).encode(model(POLICY).zero())
    model(other).decode(record)
    with pytest.raises(RecordError, match="encoder"):
        model(changed).decode(record)


def test_values_and_their_vector_decide_alike() -> None:
    """The same law, and the vector is what is logged."""
    assert POLICY.features is not None
    x = POLICY.features.features.vector(VALUES)
    for snapshot in (None, snapshot_of(POLICY)):
        with closing(client(POLICY, snapshot)) as one:
            named, plain = (
                one.decide("front", VALUES, ["a", "b"], slot="top"),
                one.decide("front", x, ["a", "b"], slot="top"),
            )
        assert np.array_equal(named.context, x)
        assert np.array_equal(named.context, plain.context)
        assert named.snapshot == plain.snapshot == (None if snapshot is None else 3)


def test_unknown_names_are_refused_when_deciding() -> None:
    """Whether there is a snapshot or not: the typing error must be seen before anything is logged."""
    for snapshot in (None, snapshot_of(POLICY)):
        with closing(client(POLICY, snapshot)) as one, pytest.raises(FeatureError, match="no feature 'our'"):
            one.decide("front", {**VALUES, "our": 3.0}, ["a"], slot="top")


def test_a_snapshot_of_other_features_is_refused() -> None:
    """For values and for vectors, with both fingerprints."""
    other = PolicySettings.model_validate({"features": FEATURES | {"numeric": {"hour": {}}}})
    for context in (VALUES, np.zeros(10)):
        with (
            closing(client(POLICY, snapshot_of(other))) as one,
            pytest.raises(
                FeatureError, match=r"snapshot 3 of policy 'front' .* give learner, publisher and ad servers"
            ),
        ):
            one.decide("front", context, slot="top")


def test_values_without_declared_features_are_refused() -> None:
    """The settings to write are named."""
    with (
        closing(client(PolicySettings(dimension=2), None)) as one,
        pytest.raises(FeatureError, match=r"declare \[policies.front.features\]"),
    ):
        one.decide("front", VALUES, ["a"], slot="top")
