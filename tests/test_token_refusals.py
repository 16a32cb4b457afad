"""What becomes of single outcomes that come with tokens: which count, which are refused, why, and what is kept of them."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from benchmarks.tokens import measure
from policies.linear_sums import LinearSums
from streams.cli import app
from streams.columns import encode_outcomes
from streams.events import Codec, Impression, Outcome, encode
from streams.feedback import decode
from streams.partition import partition_for
from streams.posteriors import Posteriors
from streams.reading import SimpleRecord
from streams.recovery import rebuild, restore
from streams.rules import rules
from streams.settings import Settings, SettingsError, load
from streams.state import Fetched, PartitionState, Side
from streams.table import read_key
from streams.token_parts import FAN, RECORD_BYTES, SEEN
from streams.token_store import HOUR_MS, TokenStore, hashes
from streams.tokens import Keys, Signed, half, sign
from tests.oracle import POLICY
from tests.test_budget import Committed
from tests.test_token_outcomes import LIFE, SECRETS, Run, rules_of
from tests.token_traffic import KEYS, START_MS, outcome_of, shown_at, token_of

SHOWN = shown_at(random.Random(1), "d1", START_MS)
GOOD = outcome_of(SHOWN, "o1", 60_000, value=2.0, token=token_of(SHOWN))
OLD = Keys(signing=7, secrets={7: SECRETS[7].encode()})
NEW = Keys(signing=8, secrets={7: SECRETS[7].encode(), 8: SECRETS[8].encode()})


def taken(state: PartitionState, *events: Impression | Outcome, codec: Codec = "json") -> None:
    """Let a learner read events, each as a fetch of its own."""
    for event in events:
        side: Side = "impressions" if isinstance(event, Impression) else "clicks"
        start = state.positions[side]
        if codec == "columns" and isinstance(event, Outcome):
            value = encode_outcomes([event])
        else:
            value = encode(event, "json" if codec == "columns" else codec)
        record = SimpleRecord(start, START_MS + 10 * HOUR_MS, None, value, [])
        state.take(Fetched(side, 0, start, start + 1, [record]))


def settled(*events: Impression | Outcome, codec: Codec = "json", **more: Any) -> PartitionState:
    """A learner that has read these events and cut a checkpoint."""
    state = PartitionState(0, rules=rules_of(**LIFE | more))
    taken(state, *events, codec=codec)
    state.freeze(None)
    return state


def letters_of(messages: Sequence[Any]) -> list[str]:
    """Reasons of the dead letters."""
    return [
        dict(one.headers)["__connect.errors.exception.message"].decode()
        for one in messages
        if one.topic == "dead_letters"
    ]


def counted(state: PartitionState) -> dict[str, int]:
    """What became of the outcomes."""
    return {name: value for name, value in state.counts.items() if value}


@pytest.mark.parametrize("codec", ["json", "msgpack", "columns"])
def test_an_outcome_with_a_token_needs_no_impression(codec: Codec) -> None:
    """In every codec it is counted from its token alone; the same again is a duplicate."""
    state = settled(GOOD, GOOD, replace(GOOD, outcome_id="o2"), codec=codec)
    assert counted(state) == {"joined": 2, "duplicate": 1}
    (arm,) = state.sums[POLICY].values()
    assert isinstance(arm, LinearSums)
    assert (arm.reward, arm.count) == (4.0, 0)
    assert arm.b.tolist() == (4.0 * np.array(SHOWN.context)).tolist()


FOREIGN = shown_at(random.Random(2), "d2", START_MS)


@pytest.mark.parametrize(
    ("event", "what", "text"),
    [
        (replace(GOOD, token=(GOOD.token or "")[:-1] + "A"), "forged", "not signed by key 7"),
        (replace(GOOD, token="no token"), "forged", "base64"),
        (replace(GOOD, token=""), "forged", "base64"),
        (replace(GOOD, token=token_of(SHOWN, NEW)), "unknown_key", r"key 8; known here: \[7\]"),
        (replace(GOOD, token=token_of(FOREIGN)), "unusable", "of decision 'd2'"),
        (replace(GOOD, slot="side"), "unusable", "slot 'top'"),
        (replace(GOOD, token=token_of(replace(SHOWN, context=[1.0]))), "unusable", "dimension 4"),
        (replace(GOOD, token=token_of(replace(SHOWN, ts=START_MS + 11 * HOUR_MS))), "expired", "5 minutes"),
        (replace(GOOD, kind="sale"), None, "kind is 'sale'"),
    ],
)
def test_what_cannot_be_used_is_a_dead_letter_with_the_reason(event: Outcome, what: str | None, text: str) -> None:
    """Forged, of a key that is not known, of another decision, from the future: counted by kind, and not joined instead."""
    state = PartitionState(0, rules=rules_of(**LIFE))
    taken(state, SHOWN, event)
    (reason,) = letters_of(state.freeze(None))
    assert re.search(text, reason)
    assert counted(state) == {"dead": 1}
    tokens = {name: value for name, value in state.join.tokens.counts.items() if value}
    assert tokens == ({} if what is None else {what: 1})


def test_keys_rotate_without_a_lost_outcome() -> None:
    """Both keys are read while the new one signs; what only the new one signs is refused by who does not have it yet."""
    by_old, by_new = (
        replace(GOOD, token=token_of(SHOWN, OLD)),
        replace(GOOD, token=token_of(SHOWN, NEW), outcome_id="o2"),
    )
    assert counted(settled(by_old, by_new, secrets=SECRETS)) == {"joined": 2}
    assert counted(settled(by_old, by_new, secrets={8: SECRETS[8]})) == {"joined": 1, "dead": 1}
    assert counted(settled(replace(by_new, outcome_id="o1"), by_old, secrets=SECRETS)) == {"joined": 1, "duplicate": 1}


@pytest.mark.parametrize(
    ("delay_ms", "what"),
    [(-2_001, "late"), (-2_000, "joined"), (HOUR_MS - 1, "joined"), (HOUR_MS, "late")],
)
def test_an_outcome_counts_from_early_s_before_to_token_window_s_after(delay_ms: int, what: str) -> None:
    """To the millisecond; late ones are late again, because nothing is kept of them."""
    event = outcome_of(SHOWN, "o1", delay_ms, token=token_of(SHOWN))
    assert counted(settled(event)) == {what: 1}
    assert counted(settled(event, event)) == ({"late": 2} if what == "late" else {"joined": 1, "duplicate": 1})


def test_a_token_expires_as_the_watermark_passes_its_life() -> None:
    """Then what it counted is not known any more; a longer window set later does not bring it back."""
    life_ms = HOUR_MS + 30_000
    last = START_MS - START_MS % HOUR_MS + HOUR_MS - 1 + life_ms
    state = settled(GOOD)
    for watermark, what in ((START_MS + life_ms - 1, "duplicate"), (START_MS + life_ms, "expired"), (last, "expired")):
        state.freeze(watermark)
        before = dict(state.join.tokens.counts)
        taken(state, GOOD)
        assert state.join.tokens.counts == before | {what: before[what] + 1}
    assert state.join.tokens.store.rows == 0
    committed = Committed()
    committed.add(state.freeze(last + 1))
    longer = rebuild(restore(0, committed.records, rules_of(token_window_s=1e6)), lambda *_: iter(()), lambda: None)
    taken(longer, GOOD)
    assert longer.join.tokens.counts["joined"] == 1
    assert longer.join.tokens.counts["expired"] == 3


def test_an_outcome_on_the_wrong_partition_does_not_count() -> None:
    """A producer that partitions otherwise could send a copy to each of two partitions, whose memories do not know each other."""
    home = partition_for(GOOD.decision_id.encode(), 2)
    settings = Settings(
        partitions=2,
        token_keys={7: SECRETS[7]},
        policies={POLICY: {"dimension": 4, "window_s": 20, "token_window_s": 3600, "grace_s": 30}},
    )
    found = []
    for number in range(2):
        state = PartitionState(number, rules=rules(settings))
        taken(state, GOOD)
        found.append((number == home, state.counts["joined"], state.join.tokens.counts["unusable"]))
    assert sorted(found) == [(False, 0, 1), (True, 1, 0)]


def test_where_tokens_are_off_an_outcome_is_joined_as_if_it_had_none() -> None:
    """A learner that is told of no tokens, or of none for this policy, does not look at them, forged ones included."""
    near = outcome_of(SHOWN, "o1", 5_000, token="whatever")
    assert counted(settled(SHOWN, near, token_window_s=0)) == {"joined": 1}
    assert counted(settled(near, token_window_s=0)) == {"waiting": 1}


@pytest.mark.parametrize(("propensity", "learns"), [(1.0, False), (0.5, True)])
def test_a_fallback_is_counted_and_learns_only_if_it_was_random(propensity: float, learns: bool) -> None:
    """As the join has it: a fallback's outcome is joined and in the feedback, and only with a known law in the sums."""
    shown = replace(SHOWN, snapshot=None, propensity=propensity)
    state = PartitionState(0, rules=rules_of(**LIFE))
    taken(state, replace(GOOD, token=token_of(shown)))
    assert [message.topic for message in state.freeze(None)].count("feedback") == 1
    assert counted(state) == {"joined": 1}
    assert bool(state.sums[POLICY]) is learns


def test_the_feedback_row_says_what_the_token_said() -> None:
    """As if it had been joined, but for the impression's place in the log, which is not known."""
    signed = Signed(
        decision_id="d1",
        policy=POLICY,
        slot="top",
        arm="ad-9",
        propensity=0.125,
        context=half(list(SHOWN.context)),
        ts=START_MS,
        snapshot=17,
        estimated=True,
    )
    state = PartitionState(0, rules=rules_of(**LIFE))
    taken(state, replace(GOOD, token=sign(signed, KEYS)))
    (row,) = [decode(message.value or b"") for message in state.freeze(None) if message.topic == "feedback"]
    assert (row["arm"], row["slot"], row["decision_id"], row["outcome_id"]) == (["ad-9"], ["top"], ["d1"], ["o1"])
    assert (row["snapshot"].item(), row["propensity"].item(), row["propensity_kind"].item()) == (17, 0.125, 1)
    assert (row["impression_ts"].item(), row["impression_offset"].item()) == (START_MS, -1)
    assert (row["reward"].item(), row["change"].item()) == (2.0, 2.0)
    assert row["context"].tolist() == [list(SHOWN.context)]


PLAIN = outcome_of(SHOWN, "o1", 5_000, value=2.0)
BY_TOKEN = replace(PLAIN, token=token_of(SHOWN))


@pytest.mark.parametrize("cuts", [False, True], ids=["at once", "cut by cut"])
@pytest.mark.parametrize(
    "order",
    list(itertools.permutations([SHOWN, PLAIN, BY_TOKEN])),
    ids=lambda o: "".join(type(e).__name__[0] + ("t" if getattr(e, "token", None) else "") for e in o),
)
def test_one_outcome_reported_with_and_without_token_counts_once(order: list[Impression | Outcome], cuts: bool) -> None:
    """In any order of impression, plain report and report with token; and the matured row has its reward."""
    state = PartitionState(0, rules=rules_of(**LIFE))
    for event in order:
        taken(state, event)
        if cuts:
            state.freeze(None)
    assert counted(state) == {"joined": 1, "duplicate": 1}
    state.freeze(None)
    (arm,) = state.sums[POLICY].values()
    assert (arm.reward, arm.square, arm.count) == (2.0, 4.0, 1)
    (matured,) = state.join.advance(START_MS + 10 * HOUR_MS)
    assert (matured.reward.tolist(), matured.outcomes.tolist(), matured.age_ms.tolist()) == ([2.0], [1], [5_000])


def test_matured_rows_hold_what_lies_in_the_join_window() -> None:
    """Whether an outcome came by token or not; what a token brings later is in the sums alone."""
    state = settled(SHOWN, BY_TOKEN, replace(BY_TOKEN, outcome_id="o2", ts=START_MS + 20_000))
    (matured,) = state.join.advance(START_MS + 10 * HOUR_MS)
    assert (matured.reward.tolist(), matured.outcomes.tolist()) == ([2.0], [1])
    (arm,) = state.sums[POLICY].values()
    assert (arm.reward, arm.square) == (4.0, 16.0)


def test_a_column_of_tokens_has_a_value_for_each_row() -> None:
    """Another length makes the batch unusable as a whole; null is an outcome without."""
    columns = msgspec.msgpack.decode(encode_outcomes([GOOD, PLAIN])[4:])
    assert columns["token"] == [GOOD.token, None]
    value = b"CLC1" + msgspec.msgpack.encode(columns | {"token": [GOOD.token]})
    clicks, (dead,) = rules_of(**LIFE).decoder.clicks([SimpleRecord(0, GOOD.ts, None, value, [])])
    assert (clicks, dead.reason, dead.rows) == ([], "column 'token' has 1 values, n is 2", 2)


def test_followers_of_the_sums_pass_over_what_is_remembered() -> None:
    """Its records are no checkpoint: what came before them in the transaction is not committed by them."""
    given = Settings(partitions=1, policies={POLICY: {"dimension": 4}})
    followed = Posteriors(given, {POLICY: rules_of().tracks[POLICY]})
    state = PartitionState(0, rules=rules_of(**LIFE))
    taken(state, GOOD)
    messages = [message for message in state.freeze(None) if message.topic == "posteriors"]
    assert [read_key(message.key or b"")[2] for message in messages] == [SHOWN.arm, SEEN, None]
    for message in messages[:-1]:
        followed.add(0, message.key, message.value)
    followed.add(0, messages[1].key, None)
    assert followed.take(POLICY)[0] == {0.0: {}}
    followed.add(0, messages[2].key, messages[2].value)
    assert list(followed.take(POLICY)[0][0.0]) == [SHOWN.arm]


# -- what is kept


def parts(committed: Committed) -> list[bytes]:
    """Records of remembered outcomes."""
    return [value for key, value in committed.records.items() if read_key(key)[2] == SEEN]


def test_small_records_of_an_hour_become_few() -> None:
    """After 600 checkpoints with an outcome each there are no more than the levels of merging leave, and none is lost."""
    state, committed = PartitionState(0, rules=rules_of(**LIFE)), Committed()
    for i in range(600):
        taken(state, replace(GOOD, outcome_id=f"o{i}"))
        committed.add(state.freeze(None))
    assert len(parts(committed)) <= 3 * FAN
    assert sum(msgspec.msgpack.decode(value)["n"] for value in parts(committed)) == 600
    successor = restore(0, committed.records, rules_of(**LIFE)).state
    successor = rebuild(restore(0, committed.records, rules_of(**LIFE)), lambda *_: iter(()), lambda: None)
    taken(successor, *(replace(GOOD, outcome_id=f"o{i}") for i in range(600)))
    assert successor.join.tokens.counts["duplicate"] == 600


def test_records_stay_below_the_brokers_limit() -> None:
    """An hour with 100,000 outcomes in one checkpoint is written as several records of 900 kB at most."""
    store = filled(100_000)
    messages = list(
        store.records(0, cut={"impressions": 0, "clicks": 1}, base={"impressions": 0, "clicks": 1}, watermark=None)
    )
    assert [len(message.value or b"") < RECORD_BYTES + 100 for message in messages] == [True] * 3


def test_records_are_deleted_with_their_hour() -> None:
    """Once the watermark has passed the life of the hour's tokens, its records have tombstones."""
    run = Run([], **LIFE)
    taken(run.state, GOOD)
    run.committed.add(run.state.freeze(None))
    assert len(parts(run.committed)) == 1
    run.committed.add(run.state.freeze(START_MS + 3 * HOUR_MS))
    assert parts(run.committed) == []


def filled(n: int) -> TokenStore:
    """A memory of n outcomes of one hour."""
    store = TokenStore(life_ms=3 * 24 * HOUR_MS)
    for i in range(n):
        decision, outcome = hashes(f"d{i}", "top", "click")
        store.add(START_MS, decision, outcome, 1.0)
    return store


def test_an_outcome_takes_some_dozens_of_bytes() -> None:
    """Between 44 and 90, as the table behind it doubles; an impression that waits as long takes its context and 80 more."""
    for n in (10_000, 50_000, 120_000):
        store = filled(n)
        list(store.records(0, cut={"clicks": 1}, base={"clicks": 1}, watermark=None))
        assert 28 <= store.nbytes / n <= 90


def test_the_benchmark_measures_what_it_says() -> None:
    """Few records, 24 bytes of each outcome in the topic, more written than kept."""
    found = measure(20_000, 4)
    assert found["topic_bytes"] < found["written_bytes"] < 4 * found["topic_bytes"]
    assert found["records"] <= 4 * 2 * FAN
    assert found["memory_bytes"] < 90
    assert min(found.values()) > 0


# -- settings


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"aggregate": "max"}, "aggregate = 'max'"),
        ({"unit_limit": 3}, "unit_limit = 3"),
        ({"token_window_s": 10}, "at least window_s = 20"),
        ({"counts_on": "viewable"}, "wait to be seen"),
        ({"retraction_window_s": 40}, "cannot be taken back"),
        ({"expire_s": 60}, r"token_window_s \+ grace_s = 3630"),
    ],
)
def test_what_cannot_go_with_tokens_is_refused_at_start(more: dict[str, Any], text: str) -> None:
    """With the setting to change."""
    with pytest.raises(ValueError, match=text):
        rules_of(**LIFE | more)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "needs token_keys"),
        ({"token_keys": {1: "short"}}, "token_keys.1 has 5 bytes"),
        ({"token_keys": {1: SECRETS[7], 2: SECRETS[8]}}, "name the one that signs"),
        ({"token_keys": {1: SECRETS[7]}, "token_key": 2}, r"token_key = 2: not among token_keys, which has \[1\]"),
    ],
)
def test_tokens_need_keys(given: dict[str, Any], text: str) -> None:
    """That are long enough, one of which signs; the complaint holds no secret."""
    with pytest.raises(ValueError, match=text) as caught:
        Settings(policies={"front": {"dimension": 2, "token_window_s": 3600}}, **given)
    assert SECRETS[7] not in str(caught.value)


def test_keys_come_from_where_secrets_do_and_do_not_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in secrets_dir, the environment over it; settings, `config show` and complaints mask them."""
    (tmp_path / "clickloop_token_keys").write_text(f'{{"1": "{SECRETS[7]}"}}')
    monkeypatch.setenv("CLICKLOOP_TOKEN_KEYS__2", SECRETS[8])
    monkeypatch.setenv("CLICKLOOP_TOKEN_KEY", "2")
    config = tmp_path / "clickloop.toml"
    config.write_text(f'secrets_dir = "{tmp_path}"\n')
    settings = load(config)
    assert settings.keys == Keys(signing=2, secrets={1: SECRETS[7].encode(), 2: SECRETS[8].encode()})
    shown = CliRunner().invoke(app, ["config", "show", "--config", str(config)]).output
    assert "token_keys.1" in shown
    for text in (repr(settings), shown, repr(settings.keys)):
        assert not any(secret in text for secret in SECRETS.values())
    for wrong in (SECRETS[7], {"300": SECRETS[7]}, {"1": [SECRETS[7]]}):
        with pytest.raises(SettingsError) as caught:
            load(overrides={"token_keys": wrong})
        assert "token_keys" in str(caught.value)
        assert SECRETS[7] not in str(caught.value)
