"""Arms that come and go on a broker: the controls topic, the command line, the publisher, and who decides."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from confluent_kafka import Producer

from policies.arms import Control
from policies.snapshot import Snapshot
from streams import cli, snapshots, topics
from streams.arms import ArmRefused, listed, say, words
from streams.client import ALL_HIDDEN, PolicyClient
from streams.controls import BadControl, Collected, decode, encode, read_controls, write_controls
from streams.published import is_held, read_snapshots
from streams.settings import Settings
from tests.policies.batches import dyadic
from tests.test_publisher import Learners, X, publishing, records, settings_of, tick, until
from tests.waiting import wait_for


@pytest.fixture
def settings(bootstrap: str, prefix: str) -> Settings:
    made = settings_of(bootstrap, prefix)
    topics.create(made)
    return made


def newest(settings: Settings) -> Snapshot:
    return read_snapshots(settings)["front"]


def test_words_of_each_verb() -> None:
    """Each verb changes what it says and nothing else; the reason and the time are its own."""
    paused = words({}, "pause", "a", reason="budget spent", time_ms=7)
    assert paused == {"a": Control(state="paused", reason="budget spent", time_ms=7)}
    reset = words(paused, "reset", "a", time_ms=8)
    assert reset["a"] == Control(state="paused", changed_ms=8, time_ms=8)
    assert words(reset, "resume", "a", time_ms=9)["a"] == Control(changed_ms=8, time_ms=9)
    renamed = words(reset, "rename", "a", new="b", time_ms=9)
    assert list(renamed) == ["b", "a"]  # the new name is paused before the old one leads to it
    assert (renamed["b"].state, renamed["b"].changed_ms, renamed["a"].renamed_to) == ("paused", None, "b")
    assert words(renamed, "add", "a", time_ms=9)["a"].renamed_to is None


@pytest.mark.parametrize(
    ("verb", "arm", "new", "part"),
    [
        ("pause", "old", "", "was renamed to 'a'"),
        ("pause", "left", "", "was removed; bring it back by arm add"),
        ("rename", "a", "old", "leads back to itself"),
        ("rename", "a", "a", "leads back to itself"),
        ("rename", "a", "", "an empty one"),
        ("rename", "a", "left", "'left' was removed"),
        ("add", "", "", "must not be empty"),
    ],
)
def test_what_makes_no_sense_is_refused(verb: str, arm: str, new: str, part: str) -> None:
    """Before anything is written, with the way out."""
    controls = {"old": Control(renamed_to="a"), "left": Control(state="removed")}
    with pytest.raises(ArmRefused, match=part):
        words(controls, verb, arm, new=new, time_ms=1)


def test_records_are_maps_in_either_codec_and_unknown_fields_are_ignored() -> None:
    """Golden bytes, and what other programs may write."""
    value = encode(Control(state="paused", time_ms=1))
    assert value.hex() == "83a17601a57374617465a6706175736564a774696d655f6d7301"
    assert decode(b'{"v": 1, "state": "removed", "owner": "eve"}') == Control(state="removed")
    assert decode(encode(Control(renamed_to="b", changed_ms=0))) == Control(renamed_to="b", changed_ms=0)


@pytest.mark.parametrize(
    "value", [b"", b"{", b"[]", b"\x80", b'{"v": 2}', b'{"v": 1, "state": "gone"}', b'{"v": 1, "renamed_to": ""}']
)
def test_what_says_nothing_is_passed_over(value: bytes) -> None:
    """A word before it stands; a tombstone takes it back."""
    key = msgspec.msgpack.encode(["front", "a"])
    found = Collected()
    found.add(key, encode(Control(state="paused")))
    with pytest.raises(BadControl):
        found.add(key, value)
    with pytest.raises(ValueError, match="key"):
        found.add(b"front", encode(Control()))
    assert found.policies == {"front": {"a": Control(state="paused")}}
    found.add(key, None)
    assert found.policies == {"front": {}}


def test_the_commands_write_what_anybody_can_read(
    bootstrap: str, prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every verb through the command line; the raw records are MessagePack; questions are asked where something is lost."""
    config = tmp_path / "clickloop.toml"
    config.write_text('[policies.front]\ndimension = 3\nintercept = 0\narms = ["a", "b"]\n')
    where = ["--bootstrap", bootstrap, "--config", str(config)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLICKLOOP_PREFIX", prefix)
        assert cli.run(["arm", "pause", "front", "a", *where]) == 1
        assert "run clickloop topics create" in capsys.readouterr().err
        assert cli.run(["topics", "create", *where]) == 0
        assert cli.run(["arm", "pause", "front", "a", "--reason", "budget spent", *where]) == 0
        assert cli.run(["arm", "rename", "front", "b", "c", *where]) == 0
        assert cli.run(["arm", "add", "front", "new", *where]) == 0
        assert cli.run(["arm", "remove", "front", "new", *where]) == 1  # nobody answers the question
        assert "No client chooses it any more" in capsys.readouterr().err
        assert cli.run(["arm", "remove", "front", "new", "--yes", *where]) == 0
        assert cli.run(["arm", "reset", "front", "c", "--yes", *where]) == 0
        assert cli.run(["arm", "resume", "front", "b", *where]) == 1
        assert "was renamed to 'c'" in capsys.readouterr().err
        assert cli.run(["arm", "resume", "frnt", "b", *where]) == 2
        assert "did you mean front?" in capsys.readouterr().err
        assert cli.run(["arm", "list", "front", "--json", *where]) == 0
        shown = json.loads(capsys.readouterr().out)
        settings = Settings(bootstrap=bootstrap, prefix=prefix)
    assert {row["arm"]: row["state"] for row in shown["arms"]} == {
        "a": "paused",
        "b": "renamed",
        "c": "active",
        "new": "removed",
    }
    raw = [
        (msgspec.msgpack.decode(one.key or b""), msgspec.msgpack.decode(one.value or b""))
        for one in records(settings, settings.topics.controls)
    ]
    assert raw[0][0] == ["front", "a"]
    assert {name: raw[0][1][name] for name in ("v", "state", "reason")} == {
        "v": 1,
        "state": "paused",
        "reason": "budget spent",
    }


def test_the_loop_follows_what_is_said_of_arms(settings: Settings) -> None:
    """Add, pause, rename and remove while sums come: the snapshots and the decisions follow, with the reasons in words."""
    learners = Learners(settings)
    with publishing(settings) as publisher, PolicyClient(settings, rng=np.random.default_rng(1)) as client:

        def reached(so: Callable[[Snapshot], bool]) -> Snapshot:
            def published() -> Snapshot | None:
                one = read_snapshots(settings).get("front")
                return one if one is not None and so(one) else None

            one: Snapshot = until(publisher, published)
            wait_for(lambda: (seen := client.snapshot("front")) is not None and seen.version >= one.version)
            return one

        learners.commit(0, dyadic(11, 90))
        reached(lambda one: one.names == ("a", "b", "c", "d"))
        say(settings, "front", "add", "new")
        one = reached(lambda one: "new" in one.arms)
        assert "arm 'new' added" in one.reasons
        say(settings, "front", "pause", "a", reason="budget spent")
        one = reached(lambda one: one.paused == ("a",))
        assert "arm 'a' paused: budget spent" in one.reasons
        chosen = [client.decide("front", X, slot="s") for _ in range(50)]
        assert {tuple(one.candidates) for one in chosen} == {("b", "c", "d", "new")}
        assert client.decide("front", X, ("a",), slot="s").reason == ALL_HIDDEN
        learners.commit(1, dyadic(12, 60))  # a learns on, paused
        count = learners.merged()["a"].count
        reached(lambda one: one.arms["a"].count == count)

        say(settings, "front", "rename", "b", new="bee")
        both = learners.merged()["b"].count
        one = reached(lambda one: "bee" in one.arms)
        assert (one.arms["bee"].count, "b" in one.arms, one.gone) == (both, False, ("b",))
        learners.commit(0, dyadic(13, 60))  # impressions under the old name still come
        later = learners.merged()["b"].count
        assert later > both
        reached(lambda one: one.arms["bee"].count == later)
        say(settings, "front", "remove", "d")
        one = reached(lambda one: "d" not in one.arms)
        assert one.gone == ("b", "d")
        assert set(client.decide("front", X, ("b", "c", "d", "a"), slot="s").candidates) == {"c"}
        rows = {row["arm"]: row for row in listed(settings, "front")}
        assert (rows["bee"]["count"], rows["d"]["state"], rows["b"]["renamed_to"]) == (later, "removed", "bee")
        assert rows["bee"]["mean"] == float(one.arms["bee"].mean[0])  # type: ignore[union-attr]


def test_a_held_snapshot_is_paused_too_and_a_rollback_brings_no_paused_arm_back(settings: Settings) -> None:
    """What may be shown is of today, whatever version is published; and nonsense on the topic stops nothing."""
    learners = Learners(settings)
    producer = Producer(settings.librdkafka())
    producer.produce(settings.topics.controls, key=b"nonsense", value=b"{")
    producer.flush(10)
    with publishing(settings) as publisher:
        learners.commit(0, dyadic(11, 90))
        until(publisher, lambda: read_snapshots(settings))
        write_controls(settings, "front", {"a": Control(state="paused")})
        until(publisher, lambda: newest(settings).paused == ("a",))
        snapshots.rollback(settings, "front", 1)
        assert newest(settings).paused == ("a",)
        write_controls(settings, "front", {"c": Control(state="removed", reason="law")})
        found = until(publisher, lambda: (one := newest(settings)).gone == ("c",) and one)
        assert is_held(found)
        assert found.reasons[-1] == "arm 'c' removed: law"
        version = found.version
        time.sleep(0.3)
        tick(publisher, 3)
        assert newest(settings).version == version
    assert read_controls(settings)["front"]["c"].reason == "law"


def test_all_arms_removed_leaves_a_snapshot_that_chooses_nothing(settings: Settings) -> None:
    """Not the snapshot of before."""
    learners = Learners(settings)
    with publishing(settings) as publisher:
        learners.commit(0, dyadic(11, 90))
        until(publisher, lambda: read_snapshots(settings))
        write_controls(settings, "front", {arm: Control(state="removed") for arm in "abcd"})
        until(publisher, lambda: newest(settings).gone == ("a", "b", "c", "d"))
        assert newest(settings).names == ()


class Frozen(PolicyClient):
    """A client whose snapshot is given."""

    def __init__(self, snapshot: Snapshot, **given: Any) -> None:
        super().__init__(Settings(bootstrap="127.0.0.1:1"), rng=np.random.default_rng(1), clock=lambda: 5.0, **given)
        self._snapshots = {"front": snapshot}


@pytest.mark.parametrize("fallback", ["uniform", ("house",), ("house", "z")])
def test_candidates_that_are_all_hidden_are_answered_with_a_reason(fallback: Any) -> None:
    """No exception in the middle of an ad request: a fallback without a version, and why."""
    from tests.policies.test_arms import hidden

    with Frozen(hidden(), fallback=fallback) as client:
        decision = client.decide("front", X, ("b", "z"), slot="s")
        assert (decision.snapshot, decision.reason) == (None, ALL_HIDDEN)
        assert decision.candidates == ("b", "z")
        assert decision.propensity == (0.5 if fallback == "uniform" else 1.0)
        if "z" in fallback:
            assert decision.arm == "z"
        fine = client.decide("front", X, ("b", "a"), slot="s")
        assert (fine.arm, fine.propensity, fine.reason, fine.snapshot) == ("a", 1.0, None, 1)


def test_a_fallback_for_age_leaves_paused_arms_out() -> None:
    """An old snapshot still knows what was paused."""
    from tests.policies.test_arms import hidden

    with Frozen(hidden(), max_age_s=1.0) as client:
        decision = client.decide("front", X, slot="s")
        assert decision.candidates == ("a", "c", "d")
        assert decision.reason == "snapshot 1 is older than 1.0 s"
