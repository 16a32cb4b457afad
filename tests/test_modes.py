"""Modes: who decides for an apprentice and for a policy that is logging only, and what is logged then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policies.canary import Canary
from policies.decide import law
from policies.snapshot import Snapshot, assemble, decode_head, encode_head, records
from policies.snapshot_records import decode_arm
from policies.trials import Word
from streams import topics
from streams.client import PolicyClient
from streams.modes import LOGGING
from streams.promotion import WordRefused, say
from streams.published import read_snapshots
from streams.settings import Settings
from tests.policies.batches import dyadic
from tests.serving import FRONT, Kafka, Serving
from tests.test_client import X, snapshot
from tests.test_publisher import LINEAR, Learners, publishing, settings_of, until

TWO = {"dimension": 2}
POLICIES: dict[str, Any] = {
    "front": TWO,
    "young": TWO | {"mode": "apprentice", "follows": "front"},
    "mute": TWO | {"mode": "logging"},
}


class Frozen(PolicyClient):
    """A client whose snapshots are given."""

    def __init__(self, *snapshots: Snapshot, **policies: Any) -> None:
        settings = Settings(bootstrap="127.0.0.1:1", policies=policies)
        super().__init__(settings, rng=np.random.default_rng(1), clock=lambda: 5.0)
        self._snapshots = {one.policy: one for one in snapshots}


def other(name: str, **fields: Any) -> Snapshot:
    """A snapshot of another policy, of other sums."""
    return replace(snapshot(7, rows=90), policy=name, **fields)


@pytest.mark.parametrize("known", [True, False])
def test_an_apprentice_decides_as_the_policy_that_it_follows(known: bool) -> None:
    """With its exact propensities, under the apprentice's name and no version; told by the settings, or by its snapshot without these."""
    front = snapshot(3)
    young = other("young", follows="front")
    with Frozen(front, young, **(POLICIES if known else {})) as client:
        made = [client.decide("young", X, slot="s") for _ in range(50)]
    p = dict(zip(front.names, law(front, X), strict=True))
    assert [one.propensity for one in made] == [pytest.approx(p[one.arm]) for one in made]
    assert {(one.policy, one.snapshot, one.reason) for one in made} == {("young", None, None)}
    assert law(young, X) != pytest.approx(law(front, X), abs=0.01)  # its own law is another


def test_an_apprentice_needs_no_snapshot_of_its_own() -> None:
    """It is followed from the first decision on; without one of the policy that it follows, the fallback decides."""
    with Frozen(snapshot(3), **POLICIES) as client:
        assert client.decide("young", X, slot="s").reason is None
    with Frozen(other("young"), **POLICIES) as client:
        decision = client.decide("young", X, ("a", "b"), slot="s")
        assert (decision.propensity, decision.reason) == (0.5, "policy 'young' has no snapshot")


def test_a_canary_of_the_followed_policy_decides_for_the_apprentice_too() -> None:
    """As the incumbent does, is with its canary; the marginal propensity is logged."""
    canary = Canary(number=1, share=0.5, salt="s", explorer="softmax", rates={"tau": 9.0, "epsilon": 0.0})
    with Frozen(replace(snapshot(3), canary=canary), **POLICIES) as client:
        groups = {client.decide("young", X, slot="s").group for _ in range(50)}
    assert groups == {"canary", "incumbent"}


@pytest.mark.parametrize("known", [True, False])
def test_a_policy_that_is_logging_only_is_decided_at_random(known: bool) -> None:
    """With known propensities, whatever its snapshot says, and the reason told."""
    with Frozen(other("mute", logging=True), **(POLICIES if known else {})) as client:
        made = [client.decide("mute", X, slot="s") for _ in range(200)]
    assert {(one.propensity, one.snapshot, one.reason) for one in made} == {(1 / 3, None, LOGGING)}
    assert {one.arm for one in made} == {"a", "b", "c"}


def test_the_service_does_the_same() -> None:
    """Answers and impressions of an apprentice and of a policy that is logging only."""
    kafka = Kafka(snapshot(3))
    kafka.snapshots["mute"] = other("mute")
    policies = {"front": FRONT, "young": FRONT | POLICIES["young"], "mute": FRONT | POLICIES["mute"]}
    with Serving(kafka, policies=policies) as serving:
        young = serving.decide({"policy": "young", "slot": "s", "context": [1.0, 0.5]})
        mute = serving.decide({"policy": "mute", "slot": "s", "context": [1.0, 0.5]})
    shown = young["slots"][0]
    p = dict(zip(snapshot(3).names, law(snapshot(3), np.array([1.0, 0.5])), strict=True))
    assert (young["snapshot"], young["reason"]) == (None, None)
    assert shown["propensity"] == pytest.approx(p[shown["arm"]])
    assert (mute["snapshot"], mute["reason"], mute["slots"][0]["propensity"]) == (None, "logging", 1 / 3)
    assert [one.policy for one in kafka.impressions] == ["young", "mute"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"young": TWO | {"mode": "apprentice"}}, "an apprentice, and no other, follows a policy"),
        ({"young": TWO | {"follows": "front"}}, "an apprentice, and no other, follows a policy"),
        ({"young": TWO | {"mode": "apprentice", "follows": "frnt"}}, "must be a policy of mode 'online'"),
        ({"young": TWO | {"mode": "apprentice", "follows": "mute"}}, "of which there are: front"),
        ({"young": {"dimension": 3, "mode": "apprentice", "follows": "front"}}, "must be the same"),
        ({"young": TWO | {"mode": "offline"}}, "mode"),
    ],
)
def test_what_nobody_could_decide_is_refused_at_start(change: dict[str, Any], message: str) -> None:
    """With what is allowed."""
    with pytest.raises(ValueError, match=message):
        Settings(bootstrap="127.0.0.1:1", policies=POLICIES | change)


def test_heads_say_who_decides(bootstrap: str, prefix: str) -> None:
    """Published from the settings, while both learn; a head without has the bytes that it had."""
    young = LINEAR | {"mode": "apprentice", "follows": "front"}
    made = settings_of(
        bootstrap, prefix, policies={"front": LINEAR, "young": young, "mute": LINEAR | {"mode": "logging"}}
    )
    topics.create(made)
    learners = Learners(made)
    for policy in made.policies:
        learners.commit(0, dyadic(11, 90), policy=policy)
    with publishing(made) as publisher:
        found = until(publisher, lambda: (one := read_snapshots(made)).keys() == made.policies.keys() and one)
    assert {name: (one.logging, one.follows) for name, one in found.items()} == {
        "front": (False, ""),
        "young": (False, "front"),
        "mute": (True, ""),
    }
    with pytest.raises(WordRefused, match="mode = 'logging' and decides nothing"):
        say(made, "mute", Word(kind="propose", rates={"alpha": 0.1}))
    assert found["mute"].count == found["front"].count > 0
    assert b"logging" not in encode_head(found["front"])
    arms = {
        name: decode_arm(value)
        for name, (_, value) in zip("abcd", records(found["mute"], every_arm=True), strict=False)
    }
    again = assemble(decode_head(encode_head(found["mute"])), arms)
    assert again is not None
    assert again.logging
