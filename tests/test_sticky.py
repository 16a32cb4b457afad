"""Sticky canaries from the ad server to the verdict: who decides for whom, units in matured rows, and leaders that die within a period."""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.canary import CODES, Canary, Visit
from policies.decide import law
from policies.snapshot import Snapshot, exploring
from policies.sticky import SLACK_MS
from policies.trials import Trials, Word
from streams import cli, feedback, topics
from streams.checkpoint import UnknownOutcomeError, Writer
from streams.client import PolicyClient
from streams.decoded import GROUP_SHIFT, Names
from streams.events import Codec, encode
from streams.failpoints import failpoints
from streams.messages import Message
from streams.meta_feedback import rows_of
from streams.policy_trials import PolicyTrials
from streams.policy_words import write_word
from streams.promotion import told
from streams.published import read_snapshots
from streams.publisher import Publisher
from streams.reading import SimpleRecord
from streams.rules import rules
from streams.settings import Settings
from streams.state import Fetched, PartitionState
from streams.unit_numbers import unit_numbers
from tests.policies.batches import dyadic
from tests.policies.test_sticky import Fold
from tests.serving import NOW_S, Kafka, Serving
from tests.test_client import snapshot
from tests.test_publisher import LINEAR, Learners, publishing, settings_of, tick, until
from tests.test_state import NOW, impression

HOUR_MS, START_MS = 3_600_000, 472_000 * 3_600_000
CANARY = Canary(
    number=1, share=0.4, salt="s", explorer="softmax", rates={"tau": 9.0, "epsilon": 0.0}, name="wide", sticky_s=3600
)  # fmt: skip
X = np.array([1.0, 0.5])
ASKED = {"policy": "front", "context": [1.0, 0.5], "deadline_ms": 10_000}
WORD = Word(kind="propose", rates={"alpha": 0.1}, share=0.5, sticky_s=3600)


class Timed(PolicyClient):
    """A client whose snapshot and clock are given."""

    def __init__(self, made: Snapshot) -> None:
        self.now_s = 5.0
        super().__init__(Settings(bootstrap="127.0.0.1:1"), rng=np.random.default_rng(1), clock=lambda: self.now_s)
        self._snapshots = {"front": made}


def group(unit: str, ts: int, canary: Canary = CANARY) -> str:
    """That a visit has, by its definition."""
    return "canary" if canary.decides("", Visit(int(unit_numbers([unit])[0]), ts)) else "incumbent"


def test_a_client_lets_units_keep_their_group_and_logs_the_marginal_propensity() -> None:
    """Over one slot and over pages, whose slots all tell it; the next period draws anew."""
    front = replace(snapshot(3), canary=CANARY)
    mixture = 0.6 * law(replace(front, canary=None), X) + 0.4 * law(exploring(front, "softmax", CANARY.rates), X)
    chance = dict(zip(front.names, mixture.tolist(), strict=True))
    changed = 0
    with Timed(front) as client:
        for number in range(60):
            client.now_s, unit = 5.0 + number, f"u{number}"
            made = [client.decide("front", X, slot="s", unit=unit) for _ in range(3)]
            page = client.decide_slots("front", X, slots=("top", "side"), unit=unit)
            assert {one.group for one in made} == set(page.groups) == {group(unit, 5_000)}
            assert [one.propensity for one in made] == pytest.approx([chance[one.arm] for one in made], abs=1e-12)
            client.now_s = 3600.0
            changed += client.decide("front", X, slot="s", unit=unit).group != made[0].group
    assert 15 <= changed <= 43  # 2 * 0.4 * 0.6 of 60, by 4 standard deviations


def test_a_page_of_a_policy_with_a_share_at_random_tells_the_group_once() -> None:
    """That share's audit counts pages."""
    with Timed(replace(snapshot(3), canary=CANARY, audit_share=0.2)) as client:
        pages = [client.decide_slots("front", X, slots=("top", "side"), unit=f"u{i}") for i in range(40)]
    assert {page.groups.count(None) for page in pages} == {1}


@pytest.mark.parametrize("unit", [None, ""])
def test_without_a_unit_the_incumbent_decides(unit: str | None) -> None:
    """By its own propensities; the page neither tells a group nor pays for the canary's law."""
    front = replace(snapshot(3), canary=CANARY)
    own = dict(zip(front.names, law(replace(front, canary=None), X).tolist(), strict=True))
    with Timed(front) as client:
        made = [client.decide("front", X, slot="s", unit=unit) for _ in range(30)]
        page = client.decide_slots("front", X, slots=("top", "side"), unit=unit)
    assert {one.group for one in made} == {None}
    assert [one.propensity for one in made] == pytest.approx([own[one.arm] for one in made], abs=1e-12)
    assert page.groups == (None, None)


def test_the_service_goes_by_the_unit() -> None:
    """Answers and impressions tell the visit's group; without a unit none."""
    with Serving(Kafka(replace(snapshot(3), canary=CANARY))) as serving:
        for slots in ({"slot": "one"}, {"slots": ["one", "two"]}):
            for number in range(12):
                body = ASKED | {"unit": f"u{number}"} | slots
                answer = serving.decide(body)
                assert answer["ts"] == NOW_S * 1000
                assert {one["group"] for one in answer["slots"]} == {group(f"u{number}", answer["ts"])}
        assert serving.kafka.impressions[0].group == group("u0", int(NOW_S * 1000))
        answer = serving.decide(ASKED | {"slot": "one"})
        assert "group" not in answer["slots"][0]


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_matured_rows_tell_whose_they_are_where_the_policy_says_so(codec: Codec) -> None:
    """By the number that deciding goes by, 0 without a unit; other policies' rows have the columns that they had."""
    kept = {"dimension": 2, "window_s": 1.0, "grace_s": 1.0, "sticky_canaries": True}
    made = Settings(bootstrap="127.0.0.1:1", policies={"p": kept, "q": kept | {"sticky_canaries": False}})
    partition = PartitionState(0, rules=rules(made))
    units = ["u1", None, "u2", "u1"]
    shown = [impression(i, [0.5, 1.0], unit=unit) for i, unit in enumerate(units)]
    shown.append(impression(9, [0.5, 1.0], unit="u1", policy="q"))
    records = [SimpleRecord(i, NOW, None, encode(one, codec), []) for i, one in enumerate(shown)]
    partition.take(Fetched("impressions", 0, 0, len(records), records))
    values = [message.value or b"" for message in partition.freeze(NOW + 10_000) if message.topic == "feedback"]
    found = {one["policy"]: one for one in map(feedback.decode, values)}
    assert found["p"]["unit"].tolist() == unit_numbers(units).tolist()
    assert "unit" not in found["q"]
    rows = rows_of(found["p"], None)
    assert rows is not None
    assert rows.unit is not None
    assert rows.unit.tolist() == unit_numbers(units).tolist()


@pytest.fixture(autouse=True)
def _known_salt(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the groups are the same in every run."""
    monkeypatch.setattr(secrets, "token_hex", lambda _: "salt")


class Visitors:
    """Stands in for ad servers and learners: matured rows of units in two partitions of the feedback topic."""

    def __init__(self, settings: Settings, canary: Canary, version: int) -> None:
        self.canary, self.version, self.settings = canary, version, settings
        self.rng = np.random.default_rng(3)
        self.log: list[tuple[int, int, bytes]] = []
        self.written = [0, 0]
        self.writers = []
        for number in range(2):
            writer = Writer(
                settings.librdkafka(),
                transactional_id=f"{settings.prefix}feedback-{number}",
                partition=number,
                topics={"feedback": settings.topics.feedback},
                timeout_s=60.0,
                passing=failpoints(None),
            )
            writer.initialise()
            self.writers.append(writer)

    def step(self, ts: int, partitions: tuple[int, ...] = (0, 1), rows: int = 60) -> None:
        """Rows of units that come back, a record for each partition in a transaction of its own."""
        for number in partitions:
            unit = np.array([f"u{i}" for i in self.rng.integers(0, 80, rows)])
            at = ts + self.rng.integers(0, 60_000, rows)
            groups = [group(one, int(t), self.canary) for one, t in zip(unit, at, strict=True)]
            value = matured(groups, unit_numbers(unit.tolist()), self.rng.random(rows), at, self.version)
            self.writers[number].commit([Message("feedback", None, value)])
            self.log.append((number, self.written[number], value))
            self.written[number] += 2  # a transaction ends with a marker


def matured(groups: list[str], unit: Any, reward: Any, ts: Any, version: int) -> bytes:
    """A record of matured rows of one arm."""
    names, slots, n = Names(), Names(), len(groups)
    names["a"], slots["top"]
    flags = np.array([CODES[one] << GROUP_SHIFT for one in groups], np.uint8)
    more = {
        "reward": reward.astype("<f8").tobytes(), "outcomes": np.zeros(n, "<u4").tobytes(), "share": 1.0,
        "unit": unit.astype("<u8").tobytes(),
    }  # fmt: skip
    return feedback._record(
        "matured", 0, "front", names, slots, arm=np.zeros(n, np.int64), slot=np.zeros(n, np.int64),
        snapshot=np.full(n, version), propensity=np.full(n, 0.5), impression_ts=ts,
        impression_offset=np.arange(n), impression_row=np.zeros(n), flags=flags, x=np.zeros((n, 3)), more=more,
    )  # fmt: skip


def state_of(publisher: Publisher) -> Trials:
    return publisher._policies["front"].trials.state


def judged_all(publisher: Publisher, world: Visitors) -> None:
    """Tick until what was written is judged, and partitions were seen to have ended."""
    ends = {number: offset + 1 for number, offset, _ in world.log}
    until(publisher, lambda: all(state_of(publisher).offsets.get(n, 0) >= end for n, end in ends.items()))
    tick(publisher, 3)


def over_a_death(bootstrap: str, prefix: str) -> tuple[Trials, Fold, Any]:
    """What the second leader ends with after the first died within a period, what one thread does with all records, and what is told."""
    settings = settings_of(bootstrap, prefix, policies={"front": LINEAR | {"sticky_canaries": True, "audit": True}})
    topics.create(settings)
    Learners(settings).commit(0, dyadic(11, 90))
    with publishing(settings) as publisher:
        until(publisher, lambda: read_snapshots(settings))
        write_word(settings, "front", WORD)
        before = until(publisher, lambda: (one := read_snapshots(settings)["front"]).canary and one)
        begun = state_of(publisher)
        world = Visitors(settings, before.canary, before.version)
        for minute in (0, 20, 40, 70):
            world.step(START_MS + 60_000 * minute)
            judged_all(publisher, world)
        known = publisher._policies["front"]
        known.meta_at = known.trials._written_at = -1e18
        tick(publisher)  # written within the second period, the first one settled
        known.meta_at = known.trials._written_at = 1e18  # and nothing by the clock
        assert begun.trying is not None
        middle = state_of(publisher).trying
        assert middle is not None
        assert middle.test.canary > 10
        assert set(middle.periods.first) == {START_MS // HOUR_MS + 1}
        world.step(START_MS + 60_000 * 80)
        judged_all(publisher, world)
        assert publisher._writer is not None

        def dies(messages: Any) -> None:
            raise UnknownOutcomeError("the broker went away")

        publisher._writer.commit = dies  # type: ignore[method-assign]
        known.meta_at = known.trials._written_at = -1e18
        until(publisher, lambda: publisher.ready() == (False, "the broker went away"))
    world.step(START_MS + 60_000 * 90, (1,))  # nobody leads
    with publishing(settings) as publisher:
        until(publisher, lambda: publisher.ready()[1] == "leading")
        assert publisher._policies["front"].trials.state.trying is not None
        judged_all(publisher, world)
        world.step(START_MS + 2 * HOUR_MS + SLACK_MS, (0,))  # the other partition is idle
        judged_all(publisher, world)
        found = state_of(publisher)
        known = publisher._policies["front"]
        known.meta_at = known.trials._written_at = -1e18
        tick(publisher)
        shown = told(settings, "front")
    fold = Fold(begun)
    for partition, offset, value in world.log:
        rows = rows_of(feedback.decode(value), None)
        assert rows is not None
        fold.take(rows, offset, partition=partition)
        fold.settle()
    return found, fold, shown


def test_a_leader_that_dies_within_a_period_changes_nothing(bootstrap: str, prefix: str) -> None:
    """The next one reads the open period's records again, counts nothing twice, and bets the same bits as one thread that read all."""
    found, fold, shown = over_a_death(bootstrap, prefix)
    assert found.trying is not None
    assert fold.state.trying is not None
    assert found.trying == fold.state.trying
    assert found.trying.test.canary > 40
    assert found.audit.shares == fold.state.audit.shares
    assert found.audit.rows == 0  # whose arms depend on each other are not audited by the decision
    assert shown["candidate"]["sticky_s"] == 3600
    assert "visits against" in shown["candidate"]["evidence"]
    assert (shown["candidate"]["late_rows"], shown["candidate"]["stray_rows"]) == (0, 0)


def test_a_leader_that_reads_on_where_the_other_stopped_bets_on_less(
    bootstrap: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken variant: what the dead leader had gathered of the period is missing."""
    monkeypatch.setattr(PolicyTrials, "reads_from", property(lambda self: self.state.offsets))
    found, fold, _ = over_a_death(bootstrap, prefix)
    assert found.trying is not None
    assert fold.state.trying is not None
    assert found.trying.periods.over == fold.state.trying.periods.over
    assert found.trying.test != fold.state.trying.test


def test_the_command_needs_the_setting(
    bootstrap: str, prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused with the way out; with it, the snapshot has the canary, and the history tells."""
    monkeypatch.setenv("CLICKLOOP_PREFIX", prefix)
    config = tmp_path / "clickloop.toml"
    text = "meta_interval_s = 3600\n[policies.front]\ndimension = 3\nintercept = 0\n"
    settings = settings_of(bootstrap, prefix, policies={"front": LINEAR | {"sticky_canaries": True}})
    topics.create(settings)
    Learners(settings).commit(0, dyadic(11, 90))
    given = ["policy", "propose", "front", "--bootstrap", bootstrap, "--config", str(config)]
    given += ["--set", "alpha=0.2", "--canary", "0.1", "--sticky", "86400", "--json"]
    with publishing(settings) as publisher:
        until(publisher, lambda: read_snapshots(settings))
        config.write_text(text)
        assert cli.run(given) == 1
        assert "set sticky_canaries = true" in " ".join(capsys.readouterr().err.split())
        config.write_text(text + "sticky_canaries = true\n")
        assert cli.run(given) == 0
        meant = json.loads(capsys.readouterr().out)["meant"]
        front = until(publisher, lambda: (one := read_snapshots(settings)["front"]).canary and one)
    assert meant == "candidate 1 (alpha = 0.2) decides 10% of the decisions, those of a visitor alike for 86400 s"
    assert (front.canary.sticky_s, front.canary.share) == (86_400, 0.1)
    assert meant in front.reasons
