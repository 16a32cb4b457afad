"""Promotion on a broker: candidates proposed by word, shared out by snapshots, judged from matured rows, promoted over leaders' deaths."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from confluent_kafka import Producer

from policies.canary import CODES, Canary, Visit, group_of
from policies.decide import law
from policies.meta_records import read_key
from policies.promotion import trial
from policies.snapshot import Snapshot, exploring
from policies.trial_records import KIND, decode_trials, encode_trials
from policies.trials import Exploring, Trials, Word, judged_rows
from streams import cli, feedback, promotion, topics
from streams.checkpoint import UnknownOutcomeError, Writer
from streams.client import PolicyClient
from streams.decoded import GROUP_SHIFT, Names
from streams.failpoints import failpoints
from streams.messages import Message
from streams.meta_feedback import rows_of
from streams.policy_words import BadWord, Words, decode_word, encode_word, read_words, word_key, write_word
from streams.promotion import WordRefused, overrides, say, told
from streams.published import read_published, read_snapshots
from streams.publisher import Publisher
from streams.settings import PolicySettings, Settings
from streams.snapshots import history, rollback
from tests.policies.batches import dyadic
from tests.serving import Kafka, Serving
from tests.test_client import snapshot
from tests.test_publisher import LINEAR, Learners, publishing, records, settings_of, tick, until
from tests.waiting import wait_for

START_MS, A_STEP = 1_700_000_000_000, 100
NOTHING_SEEN = "mean reward nan of 0 decisions against nan of 0, wealth 1 to promote and 1 to roll back"
OVERRIDDEN = Exploring(explorer="thompson", rates={"alpha": 2.0, "epsilon": 0.005})
PROPOSED = Word(kind="propose", rates={"alpha": 0.1}, share=0.5, reason="narrower")


@pytest.fixture(autouse=True)
def _known_salt(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the groups are the same in every run."""
    monkeypatch.setattr(secrets, "token_hex", lambda _: "salt")


@pytest.fixture
def settings(bootstrap: str, prefix: str) -> Settings:
    made = settings_of(bootstrap, prefix)
    topics.create(made)
    return made


class World:
    """Stands in for ad servers and learners: decisions of the newest snapshot, shared out by it, as matured rows in the feedback topic."""

    def __init__(
        self, settings: Settings, *, canary: float, incumbent: float, seed: int = 1, lost: float = 0.0
    ) -> None:
        self.settings = settings
        self.rates = {"canary": canary, "incumbent": incumbent, "random": 0.02, "rest": incumbent, None: incumbent}
        self.lost = lost
        self.rng = np.random.default_rng(seed)
        self.ids = self.steps = 0
        self.records: list[bytes] = []
        self.writer = Writer(
            settings.librdkafka(),
            transactional_id=settings.prefix + "feedback-0",
            partition=0,
            topics={"feedback": settings.topics.feedback},
            timeout_s=60.0,
            passing=failpoints(None),
        )
        self.writer.initialise()

    def step(self, snapshot: Snapshot) -> None:
        """A second's decisions; of those of the canary a share is lost."""
        groups = []
        for _ in range(A_STEP):
            self.ids += 1
            group = group_of(f"d{self.ids}", snapshot.canary, snapshot.audit_share)
            if group != "canary" or self.rng.random() >= self.lost:
                groups.append(group)
        clicked = self.rng.random(len(groups)) < np.array([self.rates[group] for group in groups])
        self.steps += 1
        record = matured(groups, clicked.astype(np.float64), snapshot.version, START_MS + 1000 * self.steps)
        self.writer.commit([Message("feedback", None, record)])
        self.records.append(record)


def matured(groups: list[Any], reward: Any, version: int, ts: int) -> bytes:
    """A record of matured rows of two arms, by turns."""
    names, slots, n = Names(), Names(), len(groups)
    for one in ("a", "b", "top"):
        names[one]
    slots["top"]
    flags = np.array([CODES.get(group, 0) << GROUP_SHIFT for group in groups], np.uint8)
    more = {"reward": reward.astype("<f8").tobytes(), "outcomes": reward.astype("<u4").tobytes(), "share": 1.0}
    return feedback._record(
        "matured", 0, "front", names, slots, arm=np.arange(n) % 2, slot=np.zeros(n, np.int64),
        snapshot=np.full(n, version), propensity=np.full(n, 0.5), impression_ts=np.full(n, ts),
        impression_offset=np.arange(n), impression_row=np.zeros(n), flags=flags, x=np.zeros((n, 3)), more=more,
    )  # fmt: skip


@contextmanager
def proposed(settings: Settings, learners: Learners | None = None) -> Iterator[tuple[Publisher, Snapshot]]:
    """A publisher that leads, and its snapshot with a canary."""
    (learners or Learners(settings)).commit(0, dyadic(11, 90))
    with publishing(settings) as publisher:
        until(publisher, lambda: read_snapshots(settings))
        write_word(settings, "front", PROPOSED)
        yield publisher, until(publisher, lambda: (one := newest(settings)).canary and one)


def newest(settings: Settings) -> Snapshot:
    return read_snapshots(settings)["front"]


def reasons(settings: Settings) -> list[str]:
    return [reason for head in history(settings, "front") for reason in head["reasons"]]


def state_of(publisher: Publisher) -> Trials:
    return publisher._policies["front"].trials.state


def judged_all(publisher: Publisher, world: World) -> None:
    """Tick until what was written is judged."""
    until(publisher, lambda: (end := end_of(world)) and sum(state_of(publisher).offsets.values()) >= end)


def due(publisher: Publisher) -> None:
    """Let the state be written with the next tick, without a snapshot."""
    known = publisher._policies["front"]
    known.meta_at = known.trials._written_at = -1e18


def end_of(world: World) -> int:
    """Where the topic ends once all that was written can be read: a commit is acknowledged before it can. 0 until then."""
    found = records(world.settings, world.settings.topics.feedback)
    return found[-1].offset + 1 if len(found) == world.steps else 0


def test_a_better_candidate_is_promoted_over_leaders_that_die(settings: Settings) -> None:
    """One dies in the middle of a transaction, rows judged that no record tells of; the next goes on, and the history tells the story.

    The state in the end is that of the rows of the topic in their order, bit for bit.
    """
    with proposed(settings) as (publisher, before):
        assert before.canary is not None
        assert (before.rates["alpha"], before.canary.rates["alpha"], before.canary.share) == (0.3, 0.1, 0.5)
        world = World(settings, canary=0.22, incumbent=0.15)
        world.step(before)
        judged_all(publisher, world)
        assert publisher._writer is not None

        def dies(messages: Any) -> None:
            raise UnknownOutcomeError("the broker went away")

        publisher._writer.commit = dies  # type: ignore[method-assign]
        due(publisher)
        world.step(before)
        until(publisher, lambda: publisher.ready() == (False, "the broker went away"))
    with publishing(settings) as publisher:
        tick(publisher)
        until(publisher, lambda: publisher.ready()[1] == "leading")
        judged_all(publisher, world)
        found = Trials(trying=None)
        for _ in range(40):
            if newest(settings).canary is None:
                break
            found = state_of(publisher)
            world.step(before)
            judged_all(publisher, world)
        front = newest(settings)
    assert front.canary is None
    assert front.rates["alpha"] == 0.1
    last = front.reasons[-1]
    assert last.startswith("candidate 1 (alpha = 0.1) promoted: mean reward 0.")
    story = reasons(settings)
    assert "candidate 1 (alpha = 0.1) decides 50% of the decisions: narrower" in story
    assert story.count(last) == 1
    assert found.trying is not None
    state = Trials(trying=replaced_test(found))
    for record in world.records[: sum(found.offsets.values())]:
        rows = rows_of(feedback.decode(record), None)
        assert rows is not None
        state, _ = judged_rows(state, rows, bounds=(0.0, 1.0), audit_share=0.0, audited=False, least=None)
        if state == Trials(trying=found.trying, audit=found.audit):
            break
    assert (state.trying, state.audit) == (found.trying, found.audit)
    with publishing(settings) as third:  # who comes later explores as was promoted
        tick(third)
        until(third, lambda: third.ready()[1] == "leading")
        assert third._policies["front"].trials.exploring.rates["alpha"] == 0.1


def replaced_test(found: Trials) -> Any:
    """The candidate before any row."""
    assert found.trying is not None
    return replace(found.trying, test=trial(1, share=0.5))


def test_a_worse_candidate_is_rolled_back_and_a_frozen_verdict_waits(settings: Settings) -> None:
    """Frozen, the verdict stands and nothing happens; released, it counts."""
    with proposed(settings) as (publisher, before):
        world = World(settings, canary=0.05, incumbent=0.15)
        say(settings, "front", Word(kind="freeze", reason="a holiday"))
        until(publisher, lambda: state_of(publisher).frozen)
        for _ in range(40):
            world.step(before)
            judged_all(publisher, world)
            trying = state_of(publisher).trying
            assert trying is not None
            if trying.test.verdict:
                break
        tick(publisher, 3)
        assert newest(settings).canary is not None
        shown = until(publisher, lambda: (one := told(settings, "front"))["candidate"]["verdict"] and one, timeout_s=30)
        assert (shown["candidate"]["verdict"], shown["frozen"]) == ("roll back", True)
        say(settings, "front", Word(kind="unfreeze"))
        front = until(publisher, lambda: (one := newest(settings)).canary is None and one)
    assert front.rates["alpha"] == 0.3
    story = reasons(settings)
    assert "frozen: verdicts wait until it is released: a holiday" in story
    assert any(one.startswith("candidate 1 (alpha = 0.1) rolled back: mean reward 0.0") for one in story)


def test_lost_rows_of_the_canary_raise_an_alarm(settings: Settings) -> None:
    """Two of five impressions of the canary do not arrive: its share is too small, and the history says so."""
    with proposed(settings) as (publisher, before):
        world = World(settings, canary=0.15, incumbent=0.15, lost=0.4)
        for _ in range(12):
            world.step(before)
            judged_all(publisher, world)
        tick(publisher, 2)
        alarms = state_of(publisher).audit.alarms
        assert alarms >= 1
        sample = publisher._metrics.registry.get_sample_value
        assert sample("clickloop_audit_alarms_total", {"policy": "front"}) == alarms
    told_of = "alarm: candidate 1 got "
    wait_for(lambda: any(one.startswith(told_of) and "50.0% are meant" in one for one in reasons(settings)))


def test_a_held_snapshot_has_no_canary_and_a_release_brings_it_back(settings: Settings) -> None:
    """Who holds a version wants that version; the test goes on afterwards with the rows that it had."""
    learners = Learners(settings)
    with proposed(settings, learners) as (publisher, before):
        world = World(settings, canary=0.15, incumbent=0.15)
        world.step(before)
        judged_all(publisher, world)
        seen = state_of(publisher).trying
        until(publisher, lambda: decode_trials(read_published(settings)[1]["front"][None, KIND]).trying == seen)
        rollback(settings, "front", before.version)
        wait_for(lambda: newest(settings).canary is None)
        learners.commit(0, dyadic(12, 60))
        until(publisher, lambda: publisher.ready()[1] != "leading")  # it notices when it wants to publish
        tick(publisher, 3)
        assert newest(settings).canary is None
        rollback(settings, "front", 0)
        again = until(publisher, lambda: (one := newest(settings)).canary and one)
        assert again.canary == before.canary
        assert state_of(publisher).trying == seen


def test_the_commands_say_it_and_the_history_tells(
    bootstrap: str, prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Propose, promote, roll back, override and freeze through the command line; what makes no sense is refused before it is written."""
    config = tmp_path / "clickloop.toml"
    config.write_text("meta_interval_s = 3600\n[policies.front]\ndimension = 3\nintercept = 0\n")
    settings = settings_of(bootstrap, prefix)
    topics.create(settings)
    where = ["front", "--bootstrap", bootstrap, "--config", str(config)]
    Learners(settings).commit(0, dyadic(11, 90))
    with pytest.MonkeyPatch.context() as patch, publishing(settings) as publisher:
        patch.setenv("CLICKLOOP_PREFIX", prefix)
        until(publisher, lambda: read_snapshots(settings))

        def run(verb: str, *more: str, code: int = 0) -> str:
            assert cli.run(["policy", verb, *where, *more]) == code, capsys.readouterr().err
            return capsys.readouterr().err

        assert "there is no candidate" in run("promote", "--yes", code=1)
        assert "nothing was promoted" in run("rollback", "--yes", code=1)
        assert "has no rate 'tau'" in run("propose", "--set", "tau=1", code=1)
        assert "it is what decides already" in run("propose", "--set", "alpha=0.3", code=1)
        assert "must be NAME=VALUE" in run("propose", "--set", "alpha", code=1)
        run("propose", "--set", "alpha=0.2", "--canary", "0.1", "--reason", "less is more")
        assert "is being tried" in run("propose", "--set", "alpha=0.1", code=1)  # although nobody has heeded it yet
        until(publisher, lambda: newest(settings).canary)
        assert "nobody" not in run("promote", code=1)  # nobody answers the question
        run("promote", "--yes")
        until(publisher, lambda: newest(settings).rates["alpha"] == 0.2)
        run("propose", "--set", "explorer=softmax", "--set", "tau=0.05")
        until(publisher, lambda: newest(settings).canary)
        run("rollback", "--yes", "--reason", "second thoughts")
        until(publisher, lambda: newest(settings).canary is None)
        run("rollback", "--yes")
        until(publisher, lambda: newest(settings).rates["alpha"] == 0.3)
        run("override", "--set", "alpha=0.9", "--yes")
        until(publisher, lambda: any("refused" in one for one in reasons(settings)))
        run("override", "--set", "alpha=0.9", "--yes", "--force")
        until(publisher, lambda: newest(settings).rates["alpha"] == 0.9)
        run("override", "--yes")
        until(publisher, lambda: newest(settings).rates["alpha"] == 0.3)
        run("freeze")
        until(publisher, lambda: state_of(publisher).frozen)

        def shown() -> Any:
            assert cli.run(["policy", "trials", *where, "--json"]) == 0
            return json.loads(capsys.readouterr().out)

        wait_for(lambda: shown()["frozen"] is True)
    story = [one for one in reasons(settings) if "prior" not in one and "arm" not in one.split()]
    assert story == [
        "candidate 1 (alpha = 0.2) decides 10% of the decisions: less is more",
        f"candidate 1 (alpha = 0.2) promoted by hand: {NOTHING_SEEN}, 32.9 needed",
        "candidate 2 (explorer thompson -> softmax, tau = 0.05) decides 10% of the decisions",
        f"candidate 2 (explorer thompson -> softmax, tau = 0.05) rolled back by hand: {NOTHING_SEEN}, 132 needed: second thoughts",
        "rolled back by hand: alpha 0.2 -> 0.3",
        "override refused: 0 matured decisions are known here, 32 are needed to tell what changes. Propose it as a candidate, or force it",
        "overridden by hand: alpha 0.3 -> 0.9",
        "override ended, the settings decide: alpha 0.9 -> 0.3",
        "frozen: verdicts wait until it is released",
    ]


def test_words_are_heeded_once_and_what_says_nothing_is_passed_over(settings: Settings) -> None:
    """A new leader does not propose again; a topic that was made anew is heard from its beginning."""
    producer = Producer(settings.librdkafka())
    producer.produce(settings.topics.controls, key=word_key("front", "x"), value=b'{"v": 1, "kind": "sing"}')
    producer.flush(10)
    with proposed(settings) as (publisher, _):
        assert len(read_words(settings).since("front", 0)) == 1
        say(settings, "front", Word(kind="rollback"))
        until(publisher, lambda: newest(settings).canary is None)
    with publishing(settings) as second:
        until(second, lambda: second.ready()[1] == "leading")
        tick(second, 3)
        assert (newest(settings).canary, state_of(second).candidates) == (None, 1)
    words = Words()
    words.end = 3
    words.add(word_key("front", "y"), encode_word(Word(kind="freeze")), 1)
    assert [offset for offset, _ in words.since("front", 0)] == [1]
    assert words.since("front", 2) == []
    assert [offset for offset, _ in words.since("front", 9)] == [1]
    assert not words.add(msgspec.msgpack.encode(["front", "arm"]), b"", 2)
    assert read_key(word_key("front", "y")) == ("front", None, "y")
    with pytest.raises(BadWord, match="v = None"):
        decode_word(b"{}")
    with pytest.raises(WordRefused, match="once a name"):
        overrides(["alpha=1", "alpha=2"])


class Frozen(PolicyClient):
    """A client whose snapshot is given."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__(Settings(bootstrap="127.0.0.1:1"), rng=np.random.default_rng(1), clock=lambda: 5.0)
        self._snapshots = {"front": snapshot}


def test_a_client_shares_decisions_out_and_logs_the_marginal_propensity() -> None:
    """Groups are as large as meant and can be told again; arms are drawn by the group's law, and logged by the mixture."""
    canary = Canary(number=1, share=0.3, salt="s", explorer="thompson", rates={"alpha": 3.0, "epsilon": 0.0})
    front, x = replace(snapshot(3), canary=canary, audit_share=0.1), np.array([1.0, 0.5])
    arms = front.names
    laws = {
        "incumbent": law(front, x),
        "canary": law(exploring(front, canary.explorer, canary.rates), x),
        "random": np.full(len(arms), 1 / len(arms)),
    }
    share = {"random": 0.1, "canary": 0.27, "incumbent": 0.63}
    mixture = np.sum([share[group] * one for group, one in laws.items()], axis=0)
    assert np.abs(laws["canary"] - laws["incumbent"]).max() > 0.05
    with Frozen(front) as client:
        made = [client.decide("front", x, slot="s", decision_id=f"d{i}") for i in range(6000)]
        assert list(client.propensities("front", x).values()) == pytest.approx(mixture.tolist(), abs=1e-12)
    for group, p in laws.items():
        own = [one for one in made if one.group == group]
        assert len(own) == pytest.approx(6000 * share[group], rel=0.12)
        shown = np.array([sum(one.arm == arm for one in own) for arm in arms]) / len(own)
        assert shown == pytest.approx(p, abs=4 * np.sqrt(0.25 / len(own)))
    chance = dict(zip(arms, mixture.tolist(), strict=True))
    assert [one.propensity for one in made] == pytest.approx([chance[one.arm] for one in made], abs=1e-12)
    assert all(group_of(f"{one.decision_id}\0s", canary, 0.1) == one.group for one in made)


def test_a_sticky_random_share_keeps_its_visitors() -> None:
    """Of a visitor all decisions of a period are random or none; of many as many as meant; the propensity is the mixture's as before."""
    front = replace(snapshot(3), audit_share=0.2, audit_sticky_s=60)
    x = np.array([1.0, 0.5])
    by_unit: dict[str, set[Any]] = {}
    with Frozen(front) as client:
        for i in range(3_000):
            made = client.decide("front", x, slot="s", decision_id=f"d{i}", unit=f"u{i % 1000}")
            by_unit.setdefault(f"u{i % 1000}", set()).add(made.group)
        alone = {client.decide("front", x, slot="s", decision_id=f"d{i}").group for i in range(60)}
        mixture = 0.8 * law(front, x) + 0.2 / len(front.names)
        assert list(client.propensities("front", x).values()) == pytest.approx(mixture.tolist(), abs=1e-12)
        assert made.propensity == pytest.approx(mixture[front.names.index(made.arm)], abs=1e-12)
    assert alone == {"random", "rest"}  # nobody's decisions are drawn each by itself
    assert {len(groups) for groups in by_unit.values()} == {1}
    assert sum(groups == {"random"} for groups in by_unit.values()) == pytest.approx(200, abs=4 * np.sqrt(1000 * 0.16))
    later = [group_of("d", None, 0.2, Visit(7, 60_000 * period), audit_sticky_s=60) for period in range(200)]
    assert {"random", "rest"} == set(later)  # drawn anew in each period


def test_a_sticky_random_share_is_published_and_not_audited(bootstrap: str, prefix: str) -> None:
    """Snapshots say it; decisions of one visitor are not independent, so that nobody follows the topic to test them."""
    made = settings_of(bootstrap, prefix, policies={"front": LINEAR | {"audit_share": 0.2, "audit_sticky_s": 3600}})
    topics.create(made)
    Learners(made).commit(0, dyadic(11, 90))
    with publishing(made) as publisher:
        front = until(publisher, lambda: read_snapshots(made).get("front"))
        assert (front.audit_share, front.audit_sticky_s) == (0.2, 3600)
        assert not publisher._policies["front"].trials.follows
    for wrong in ({"audit_sticky_s": 60}, {"audit_sticky_s": 60, "audit_share": 0.1, "audit": True}):
        with pytest.raises(ValueError, match="audit_sticky_s = 60 with"):
            PolicySettings.model_validate(LINEAR | wrong)


def test_the_service_shares_decisions_out() -> None:
    """Answers and impressions say who decided; the propensity is the mixture of the groups' laws."""
    canary = Canary(number=1, share=0.5, salt="s", explorer="thompson", rates={"alpha": 3.0, "epsilon": 0.0})
    front = replace(snapshot(3), canary=canary)
    body = {"policy": "front", "slot": "one", "context": [1.0, 0.5]}
    with Serving(Kafka(front)) as serving:
        answers = [serving.decide(body | {"decision_id": f"d{i}"})["slots"][0] for i in range(40)]
        logged = [(one.slot, one.arm, one.propensity, one.group) for one in serving.kafka.impressions]
    assert [(one["slot"], one["arm"], one["propensity"], one["group"]) for one in answers] == logged
    assert {one["group"] for one in answers} == {"canary", "incumbent"}
    x = np.array([1.0, 0.5])
    both = 0.5 * law(front, x) + 0.5 * law(exploring(front, canary.explorer, canary.rates), x)
    expected = [both[front.names.index(one["arm"])] for one in answers]
    assert [one["propensity"] for one in answers] == pytest.approx(expected)


def test_an_audit_share_is_published_and_audited(bootstrap: str, prefix: str) -> None:
    """From the settings into the snapshot; its size and the propensities are looked at, and the means can be read."""
    made = settings_of(bootstrap, prefix, policies={"front": LINEAR | {"audit_share": 0.2, "audit": True}})
    topics.create(made)
    Learners(made).commit(0, dyadic(11, 90))
    with publishing(made) as publisher:
        front = until(publisher, lambda: read_snapshots(made).get("front"))
        assert front.audit_share == 0.2
        world = World(made, canary=0.1, incumbent=0.1)
        for _ in range(3):
            world.step(front)
            judged_all(publisher, world)
        due(publisher)
        tick(publisher)
        wait_for(lambda: told(made, "front")["audited_rows"] == 3 * A_STEP)
        shown = told(made, "front")
    assert shown["propensities"] == pytest.approx({"a": 1.0, "b": 1.0}, abs=0.02)
    assert shown["shares"]["the random share"]["of"] == 3 * A_STEP
    assert shown["alarms"] == 0


def test_another_audit_share_is_tested_on_its_own_decisions(bootstrap: str, prefix: str) -> None:
    """Rows of the share before mature still when the next leader publishes another one, and one after it knows which count."""
    shares = (0.01, 0.3)
    one, other = (
        settings_of(bootstrap, prefix, policies={"front": LINEAR | {"audit_share": share}}) for share in shares
    )
    topics.create(one)
    Learners(one).commit(0, dyadic(11, 90))
    with publishing(one) as publisher:
        before = until(publisher, lambda: read_snapshots(one).get("front"))
        world = World(one, canary=0.1, incumbent=0.1)
        world.step(before)
        judged_all(publisher, world)
    for _ in range(2):
        with publishing(other) as publisher:
            world.step(before)
            after = until(publisher, lambda: (found := newest(other)).audit_share == 0.3 and found)
            until(publisher, lambda: publisher.ready()[1] == "leading")
            for snapshot in (before, after):
                for _ in range(4):
                    world.step(snapshot)
            judged_all(publisher, world)
            state = state_of(publisher)
            assert (state.random_since, state.audit.alarms) == (before.version + 1, 0)
            due(publisher)
            tick(publisher)
    tested = state.audit.shares["the random share"]
    assert (tested.share, tested.inside + tested.outside) == (0.3, 8 * A_STEP)


def test_an_override_is_judged_by_rows_that_nobody_followed(settings: Settings) -> None:
    """By the newest of the topic, read when it is heard, by each leader; other records lie behind them."""
    Learners(settings).commit(0, dyadic(11, 90))
    for alpha in (0.31, 0.32):
        with publishing(settings) as publisher:
            front = until(publisher, lambda: read_snapshots(settings).get("front"))
            until(publisher, lambda: publisher.ready()[1] == "leading")
            world = World(settings, canary=0.1, incumbent=0.1)
            world.step(front)
            world.writer.commit([Message("feedback", None, b"of somebody else")] * 100)
            say(settings, "front", Word(kind="override", rates={"alpha": alpha}))
            until(publisher, lambda: newest(settings).rates["alpha"] == alpha)  # noqa: B023 - read at once
            assert publisher._feedback is None
    assert "overridden by hand: alpha 0.31 -> 0.32" in reasons(settings)


def test_words_start_from_the_rate_that_roll_outs_found(bootstrap: str, prefix: str) -> None:
    """Proposing the settings' rate is a change then, and proposing the one that decides is none."""
    made = settings_of(bootstrap, prefix, policies={"front": LINEAR | {"explore": "roll-outs"}})
    topics.create(made)
    learners = Learners(made)
    learners.commit(0, dyadic(11, 90))
    with publishing(made) as publisher:
        until(publisher, lambda: read_snapshots(made).get("front"))
        exploring = publisher._policies["front"].meta.exploring
        exploring.state = replace(exploring.state, alpha=0.5)
        learners.commit(0, dyadic(12, 60))
        until(publisher, lambda: newest(made).rates["alpha"] == 0.5)
        wait_for(lambda: told(made, "front")["rates"]["alpha"] == 0.5)
        with pytest.raises(WordRefused, match=r"it is what decides already: thompson, alpha = 0\.5"):
            say(made, "front", Word(kind="propose", rates={"alpha": 0.5}))
        assert "alpha = 0.3" in say(made, "front", Word(kind="propose", rates={"alpha": 0.3}))["meant"]
        front = until(publisher, lambda: (one := newest(made)).canary and one)
    assert (front.rates["alpha"], front.canary.rates["alpha"]) == (0.5, 0.3)


@pytest.mark.parametrize(
    ("explore", "adopted", "reason", "starts", "decides"),
    [
        ("fixed", (), "", 0.3, 0.3),
        ("roll-outs", (), "", 0.5, 0.5),
        ("top-layer", (), "", 0.3, 0.5),
        ("roll-outs", (OVERRIDDEN,), "", 0.3, 2.0),
        ("roll-outs", (), "held: a look at it", 0.3, 0.3),
    ],
)
def test_what_was_published_tells_what_decides(
    monkeypatch: pytest.MonkeyPatch,
    explore: str,
    adopted: tuple[Exploring, ...],
    reason: str,
    starts: float,
    decides: float,
) -> None:
    """Where roll-outs or the top layer move it; a choice of the top layer is drawn for one snapshot, so that no word starts from it."""
    made = Settings(bootstrap="127.0.0.1:1", policies={"front": LINEAR | {"explore": explore}})
    rates = {"alpha": decides if adopted else 0.5, "epsilon": 0.005}
    front = replace(snapshot(7), rates=rates, reasons=(reason,))
    state = Trials(adopted=adopted)
    words: list[Word] = []
    monkeypatch.setattr(
        promotion,
        "read_published",
        lambda _: ({"front": front}, {"front": {(None, KIND): encode_trials("front", state)}}),
    )
    monkeypatch.setattr(promotion, "read_words", lambda _: Words())
    monkeypatch.setattr(promotion, "write_word", lambda _, __, word: words.append(word))
    assert told(made, "front")["rates"]["alpha"] == decides
    if not adopted:
        with pytest.raises(WordRefused, match="it is what decides already"):
            say(made, "front", Word(kind="propose", rates={"alpha": starts}))
    say(made, "front", Word(kind="propose", rates={"alpha": 1.5}))
    assert [word.rates for word in words] == [{"alpha": 1.5}]
