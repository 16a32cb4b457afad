"""Texts as features from settings to decisions: what they imply, what is refused, what happens while vectors are missing."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import numpy as np
import pytest

from policies.arm_contexts import ArmContexts
from policies.decide import law
from policies.features import FeatureError, Value
from policies.hybrid import fit_hybrid
from policies.prior import HybridPrior
from policies.snapshot import Snapshot, build
from streams.client import PolicyClient
from streams.rules import model
from streams.settings import PolicySettings, Settings, SettingsError, load
from streams.texts import ASK_AGAIN_S, LOOK_AGAIN_S, Texts
from streams.token_issue import TokenDesk
from tests.vectors import Table, projection, vector_of

NOBODY = "127.0.0.1:1"
PROJECTION = projection()
ADS: dict[str, Any] = {
    "shoes": {"title": "Two red shoes", "category": "shoes"},
    "hat": {"title": "A hat", "body": "Warm."},
    "plain": {},
}
SHOES, HAT = "Two red shoes\nshoes", "A hat\nWarm."
FEATURES: dict[str, Any] = {
    "numeric": {"hour": {}},
    "texts": {"query": 3},
    "projection": PROJECTION.name,
    "match": "query",
}
FRONT: dict[str, Any] = {"model": "hybrid", "features": FEATURES, "ads": ADS, "arms": [*ADS], "arm_texts": 2}
VALUES: dict[str, Value] = {"hour": 0.5, "query": "red shoes"}


class Nowhere:
    """Stands in for what follows the snapshots: the test gives them."""

    error = "nobody is there"

    def __init__(self, *_: object, **__: object) -> None: ...
    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def _no_brokers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.client.Follower", Nowhere)


class Clock:
    """Time that the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def settings(**changes: Any) -> Settings:
    return Settings(bootstrap=NOBODY, policies={"front": PolicySettings.model_validate(FRONT | changes)})


def compiled(texts: Texts, values: dict[str, Value], known: Settings | None = None) -> Any:
    features = (known or settings()).policies["front"].features
    assert features is not None
    return texts.compiled("front", features.features, values)


def everything() -> Table:
    table = Table(PROJECTION)
    table.put("red shoes", SHOES, HAT)
    return table


def test_dimension_and_fingerprint_follow_from_texts_and_projection() -> None:
    """So that sums of another encoder or projection are refused, and the sizes are known without the model."""
    policy = settings().policies["front"]
    assert (policy.dimension, policy.intercept) == (1 + 1 + 3 + 1, 0)
    other = projection(encoder="e2")
    changed = settings(features=FEATURES | {"projection": other.name}).policies["front"]
    assert len({policy.fingerprint, changed.fingerprint}) == 2
    assert PolicySettings.model_validate(policy.model_dump(mode="json")) == policy


def test_a_text_becomes_its_components_and_its_match_with_each_arm() -> None:
    """By the projection, in place; arms without a text match nothing."""
    with Texts(settings(), everything()) as texts:
        made = compiled(texts, VALUES)
    assert made.missing == ()
    assert isinstance(made.context, ArmContexts)
    query = vector_of("red shoes")
    z = PROJECTION.components(query, 3)
    for arm, text in (("shoes", SHOES), ("hat", HAT)):
        match = PROJECTION.match(query, vector_of(text))
        assert np.allclose(made.context.of(arm), [1.0, 0.5, *z, match], rtol=1e-6, atol=1e-9)
    for arm in ("plain", "unknown"):
        assert np.allclose(made.context.of(arm), [1.0, 0.5, *z, 0.0], rtol=1e-6, atol=1e-9)


def test_a_text_without_a_vector_is_at_the_mean_and_asked_for_once_a_minute() -> None:
    """It is said which; once the vector has come it counts."""
    clock, table = Clock(), Table(PROJECTION)
    table.put(SHOES)
    with Texts(settings(), table, clock=clock) as texts:
        for _ in range(3):
            made = compiled(texts, VALUES)
            assert made.missing == ("query", "ads.hat")
            assert made.context.each([*ADS]).tolist() == 3 * [[1.0, 0.5, 0.0, 0.0, 0.0, 0.0]]
        assert table.asked == ["red shoes", HAT]
        clock.now = ASK_AGAIN_S
        compiled(texts, VALUES)
        assert table.asked == 2 * ["red shoes", HAT]
        table.put("red shoes", HAT)
        clock.now += LOOK_AGAIN_S
        assert compiled(texts, VALUES).missing == ()
        assert compiled(texts, {**VALUES, "query": None}).missing == ()


def test_a_request_that_finds_no_room_is_made_again() -> None:
    """Deciding does not wait for it."""
    table = Table(PROJECTION)
    table.full = True
    with Texts(settings(), table) as texts:
        assert compiled(texts, VALUES).missing == ("query", "ads.shoes", "ads.hat")
        table.full = False
        compiled(texts, VALUES)
    assert "red shoes" in table.asked


def test_vectors_of_another_encoder_are_never_used() -> None:
    """Nor is anything decided by a projection that is not there; a broken variant that took any vector would."""
    other = Table(PROJECTION)
    other.put("red shoes", SHOES, HAT, encoder="e2")
    for table in (other, Table()):
        with Texts(settings(), table) as texts:
            made = compiled(texts, VALUES)
        assert made.missing == ("query", "ads.shoes", "ads.hat")
        assert made.context.each([*ADS]).tolist() == 3 * [[1.0, 0.5, 0.0, 0.0, 0.0, 0.0]]


def snapshot(policy: PolicySettings) -> Snapshot:
    """One that has learned what a match is worth, and nothing else."""
    made = model(policy)
    prior = HybridPrior(mean=np.array([0.1, 0.0, 0.0, 0.0, 0.0, 0.4]), factor=np.zeros((6, 6)), tau2=np.ones(6), s2=1.0)
    return build(
        "front", model=made, sums={arm: made.zero() for arm in ADS}, prior=prior, version=3, previous=None, time_ms=0,
        now_ms=0, encoder=made.encoder,
    )  # fmt: skip


def test_a_decision_is_drawn_by_every_arms_own_match_and_logs_the_shown_ones() -> None:
    """The law is that of the contexts that would be logged, whichever arm it is."""
    known = settings()
    found = snapshot(known.policies["front"])
    with closing(PolicyClient(known, rng=np.random.default_rng(0), texts=Texts(known, everything()))) as client:
        client._swap("front", found)
        shown = [client.decide("front", VALUES, slot="top", decision_id=f"d{i}") for i in range(60)]
        chances = client.propensities("front", VALUES)
        told = client.explain("front", VALUES)
    assert chances["shoes"] != chances["hat"]
    with Texts(known, everything()) as texts:
        contexts = compiled(texts, VALUES).context
    assert list(chances.values()) == pytest.approx(law(found, contexts).tolist(), abs=1e-12)
    for one in shown:
        assert np.array_equal(one.context, contexts.of(one.arm))
        assert one.propensity == pytest.approx(chances[one.arm], abs=1e-12)
        assert (one.snapshot, one.missing) == (3, ())
    assert [arm.contributions[-1] for arm in told] == pytest.approx(
        [0.4 * contexts.of(arm)[-1] for arm in found.names], rel=1e-6
    )


def test_a_token_has_the_context_of_the_arm_that_was_shown() -> None:
    """Rounded before deciding, so that token and impression agree to the last bit."""
    policy = PolicySettings.model_validate(FRONT | {"token_window_s": 86_400.0})
    known = Settings(bootstrap=NOBODY, policies={"front": policy}, token_keys={1: "0123456789abcdef"})
    desk = TokenDesk(known)
    shown = set()
    with closing(PolicyClient(known, rng=np.random.default_rng(0), texts=Texts(known, everything()))) as client:
        client._swap("front", snapshot(policy))
        for i in range(40):
            one = client.decide("front", VALUES, slot="top", decision_id=f"d{i}")
            assert one.token is not None
            signed = desk.opened(one.token, ts=one.ts)
            assert np.array_equal(signed.context, one.context)
            assert np.array_equal(one.context, one.context.astype(np.float16))
            assert (signed.arm, signed.policy) == (one.arm, "front")
            shown.add((one.arm, float(one.context[-1])))
    assert len(shown) >= 2  # each arm with a match of its own


def test_decisions_go_on_without_vectors_and_without_brokers() -> None:
    """By what else is known, and the decision says what was missing."""
    known = settings()
    with closing(PolicyClient(known, rng=np.random.default_rng(0))) as client:
        assert client.decide("front", VALUES, slot="top").missing == ("query", "ads.shoes", "ads.hat")
        client._swap("front", snapshot(known.policies["front"]))
        one = client.decide("front", VALUES, slot="top")
    assert one.snapshot == 3
    assert one.context.tolist() == [1.0, 0.5, 0.0, 0.0, 0.0, 0.0]


def test_wrong_values_are_refused_before_anything_is_asked_for() -> None:
    """Whatever a typing error looks like."""
    table = everything()
    with Texts(settings(), table) as texts:
        wrong: list[dict[str, Value]] = [{**VALUES, "querry": "x"}, {"hour": 1.0}, {**VALUES, "query": 3.0}]
        for values in wrong:
            with pytest.raises(FeatureError):
                compiled(texts, values)
    assert table.asked == []


def test_arms_start_from_arms_with_texts_like_theirs() -> None:
    """Their first components are arm features; one without a vector is the mean arm until it comes."""
    clock, table = Clock(), Table(PROJECTION)
    known = settings()
    with Texts(known, table, arms_only=True, clock=clock) as texts:
        assert texts.arm_features("front") is None
        table.put(SHOES, HAT)
        clock.now = LOOK_AGAIN_S
        features = texts.arm_features("front")
        assert texts.arm_features("other") is None
    assert features is not None
    z = np.array([PROJECTION.components(vector_of(text), 2) for text in (SHOES, HAT)])
    wanted = (z - z.mean(axis=0)) / z.std(axis=0)
    assert np.allclose([features.of("shoes")[1:], features.of("hat")[1:]], wanted, atol=1e-5)
    assert features.of("plain").tolist() == [1.0, 0.0, 0.0]
    assert isinstance(fit_hybrid({}, dimension=6, intercept=0, features=features), HybridPrior)
    with Texts(settings(arm_texts=0), table, arms_only=True) as none:
        assert none.arm_features("front") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": FEATURES | {"projection": "minilm"}}, "clickloop encoder project makes one"),
        ({"features": FEATURES | {"texts": {"query": 5}}}, "has 4 components"),
        ({"features": FEATURES | {"match": "page"}}, "match must be one of them"),
        ({"ads": {"shoes": {"size": "728x90"}}}, "no arm has a text"),
        ({"model": "linear"}, "needs model = 'hybrid'"),
        ({"arm_texts": 5}, "has 4 components"),
        ({"arm_features": {"shoes": [1.0]}}, "no arm_features beside it"),
        ({"features": {"numeric": {"hour": {}}}, "ads": ADS}, "projection = None"),
        ({"succeeds": "old", "succession_enough": 1.0}, "never gets there"),
        ({"succeeds": "old"}, "there is no such policy"),
        ({"succeeds": "front"}, "in a circle"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    """When the program starts, by name."""
    with pytest.raises(SettingsError) as caught:
        load(overrides={"policies": {"front": FRONT | changes}})
    assert message in str(caught.value)


def test_a_linear_policy_may_have_texts_and_a_match() -> None:
    """Only what arms share needs the hybrid model."""
    known = settings(model="linear", arm_texts=0)
    assert known.policies["front"].dimension == 6
