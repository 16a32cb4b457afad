"""A partition's state: what a checkpoint holds, whatever the fetches it came in, and that Kafka takes its records."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from policies.model import MODELS, make_model
from streams import feedback
from streams.columns import encode_impressions
from streams.dead_letters import LETTER_BYTES, letters
from streams.decode import Decoder
from streams.decoded import Dead
from streams.events import LARGEST, Codec, Impression, Outcome, encode
from streams.feedback import RECORD_BYTES
from streams.join import Window
from streams.messages import Message
from streams.reading import SimpleRecord
from streams.recovery import StateMismatchError, rebuild, restore
from streams.rules import rules
from streams.settings import PolicySettings, Settings
from streams.state import Fetched, PartitionState, Rules

NOW = 1_700_000_000_000


def state(dimension: int, *policies: str) -> PartitionState:
    names = policies or ("p",)
    policy = PolicySettings(dimension=dimension, window_s=1, grace_s=1)
    window = Window(window_ms=1000, early_ms=0, grace_ms=1000, outcomes={"click": 1.0})
    rules = Rules(
        decoder=Decoder(dict.fromkeys(names, policy), kinds=["click"]),
        windows=dict.fromkeys(names, window),
        models={name: make_model("linear", dimension=dimension, half_life_s=0.0) for name in names},
        matured_share=dict.fromkeys(names, 1.0),
        topics={"impressions": "impressions", "clicks": "clicks"},
    )
    return PartitionState(0, rules=rules)


def impression(number: int, x: list[float], **changes: object) -> Impression:
    fields = {
        "decision_id": f"d{number}",
        "slot": "s",
        "policy": "p",
        "arm": "a",
        "propensity": 0.5,
        "context": x,
        "ts": NOW,
    }
    return Impression(**{**fields, "snapshot": 1, **changes})  # type: ignore[arg-type]


def dead(found: list[Message]) -> list[Message]:
    return [message for message in found if message.topic == "dead_letters"]


def header(message: Message, name: str) -> bytes | None:
    return dict(message.headers).get(name)


def test_a_record_with_many_bad_rows_is_one_letter() -> None:
    """3,000 bad rows of a record of 800 kB are one letter that names them all, not 2.6 GB; counts count rows."""
    batch = encode_impressions([impression(i, [0.0, 1.0], propensity=2.0 if i % 2 else 0.5) for i in range(3000)])
    partition = state(2)
    partition.take(Fetched("impressions", 0, 0, 1, [SimpleRecord(0, NOW, None, batch, [])]))
    (letter,) = dead(partition.freeze(None))
    assert letter.value == batch
    assert header(letter, "__clickloop.errors.row") == ",".join(map(str, range(1, 3000, 2))).encode()
    reason = header(letter, "__connect.errors.exception.message") or b""
    assert reason.startswith(b"row 1: propensity is 2.0")
    assert reason.endswith(b"and 1495 rows more")
    assert partition.impressions["dead"] == 1500


def test_a_record_that_came_compressed_goes_in_parts() -> None:
    """Larger than the topic takes: parts in order, each with all headers, that give the bytes when put together."""
    value = bytes(range(256)) * 40_000
    parts = list(letters("impressions", 3, [Dead(SimpleRecord(7, NOW, b"k", value, [("trace", b"1")]), "why")]))
    assert b"".join(part.value or b"" for part in parts) == value
    assert [header(part, "__clickloop.errors.part") for part in parts] == [b"1/3", b"2/3", b"3/3"]
    assert {header(part, "trace") for part in parts} == {b"1"}
    assert max(len(part.value or b"") for part in parts) == LETTER_BYTES


def test_a_reason_is_not_as_long_as_the_record() -> None:
    """A policy's name of a megabyte is not repeated in the headers."""
    record = SimpleRecord(0, NOW, None, encode(impression(0, [0.0], policy="x" * 1_000_000)), [])
    partition = state(1)
    partition.take(Fetched("impressions", 0, 0, 1, [record]))
    (letter,) = dead(partition.freeze(None))
    assert len(header(letter, "__connect.errors.exception.message") or b"") < 3000


def test_feedback_of_wide_contexts_fits_kafka_s_limit() -> None:
    """Rows that mature together are cut by bytes as well as by number; all of them are there."""
    rng = np.random.default_rng(0)
    events = [impression(i, rng.standard_normal(64).tolist()) for i in range(3000)]
    clicks = [Outcome(decision_id=event.decision_id, slot="s", outcome_id="o" * 500, ts=NOW) for event in events]
    partition = state(64)
    shown = [SimpleRecord(i, NOW, None, encode(event, "msgpack"), []) for i, event in enumerate(events)]
    partition.take(Fetched("impressions", 0, 0, len(shown), shown))
    followed = [SimpleRecord(i, NOW, None, encode(click, "msgpack"), []) for i, click in enumerate(clicks)]
    partition.take(Fetched("clicks", 0, 0, len(followed), followed))
    values = [message.value or b"" for message in partition.freeze(NOW + 10_000) if message.topic == "feedback"]
    assert max(map(len, values)) <= RECORD_BYTES
    decoded = [feedback.decode(value) for value in values]
    for kind in ("joined", "matured"):
        assert sum(record["n"] for record in decoded if record["type"] == kind) == 3000


def test_numbers_that_would_end_the_sums_are_dead() -> None:
    """The square of a context's number stays finite, or the policy could never be read again."""
    partition = state(1)
    good, bad = impression(0, [LARGEST]), impression(1, [1e31])
    records = [SimpleRecord(i, NOW, None, encode(event), []) for i, event in enumerate((good, bad))]
    partition.take(Fetched("impressions", 0, 0, 2, records))
    (letter,) = dead(partition.freeze(None))
    assert b"context[0] is 1e+31" in (header(letter, "__connect.errors.exception.message") or b"")
    assert partition.impressions["accepted"] == 1


def test_each_bad_row_of_a_small_record_has_its_letter() -> None:
    """The whole original record and the row's number, once for each bad row."""
    batch = encode_impressions([impression(i, [0.0, 1.0], propensity=2.0 if i in (3, 7) else 0.5) for i in range(10)])
    partition = state(2)
    partition.take(Fetched("impressions", 0, 0, 1, [SimpleRecord(0, NOW, None, batch, [])]))
    found = dead(partition.freeze(None))
    assert [header(letter, "__clickloop.errors.row") for letter in found] == [b"3", b"7"]
    assert {letter.value for letter in found} == {batch}


def test_the_first_copy_counts_however_the_log_is_fetched() -> None:
    """Copies of a decision under other policies, codecs and types of number: the same sums from any cut into fetches."""
    rng = np.random.default_rng(4)
    codecs: list[Codec] = ["json", "msgpack"]
    records, differ = [], 0
    for offset in range(300):
        number = int(rng.integers(120))
        event = impression(number, [float(rng.integers(8) / rng.choice([8, 10]))], policy=str(rng.choice(["p", "q"])))
        value = encode_impressions([event]) if rng.random() < 0.3 else encode(event, codecs[offset % 2])
        records.append(SimpleRecord(offset, NOW, None, value, []))
    found = []
    for step in (1, 7, 60, 300):
        partition = state(1, "p", "q")
        for start in range(0, 300, step):
            partition.take(Fetched("impressions", 0, start, start + step, records[start : start + step]))
        partition.freeze(None)
        differ += partition.impressions["duplicate"]
        found.append({policy: (arms["a"].count, arms["a"].n) for policy, arms in partition.sums.items()})
    assert found[1:] == found[:-1]
    assert differ > 0


@pytest.mark.parametrize("codec", ["json", "msgpack", "columns"])
@pytest.mark.parametrize("rebuilt", [False, True])
def test_feedback_says_what_is_an_estimate_who_decided_and_how_old_the_first_outcome_was(
    codec: Codec, rebuilt: bool
) -> None:
    """In both kinds of rows, whatever the codec, and after a rebuild; outcomes outside the window have no age."""
    kinds = [None, "estimate", "estimate", None]
    groups = ["canary", None, "incumbent", "random"]
    events = [impression(i, [1.0, 0.0], propensity_kind=kinds[i], group=groups[i]) for i in range(4)]
    values = [encode_impressions(events)] if codec == "columns" else [encode(event, codec) for event in events]
    shown = [SimpleRecord(i, NOW, None, value, []) for i, value in enumerate(values)]
    ages = [(0, 700), (0, 300), (0, 900), (1, -50), (1, 4), (2, 10_000)]
    clicks = [Outcome(decision_id=f"d{i}", slot="s", outcome_id=f"o{age}", ts=NOW + age) for i, age in ages]
    followed = [SimpleRecord(i, NOW, None, encode(click), []) for i, click in enumerate(clicks)]
    given = {"delays_s": (), "window_s": 1.0, "early_s": 0.1}
    partition = PartitionState(0, rules=rules_of(**given))
    partition.take(Fetched("impressions", 0, 0, len(shown), shown))
    partition.take(Fetched("clicks", 0, 0, len(followed), followed))
    messages = partition.freeze(NOW - 1000)
    if rebuilt:
        stored = {one.key or b"": one.value or b"" for one in messages if one.topic == "posteriors"}
        both = {"impressions": shown, "clicks": followed}
        restored = restore(0, stored, rules_of(**given))
        partition = rebuild(restored, lambda side, start, end: iter([both[side][start:end]]), lambda: None)
    found = [
        feedback.decode(one.value or b"")
        for one in [*messages, *partition.freeze(NOW + 10**6)]
        if one.topic == "feedback"
    ]
    joined, matured = (next(one for one in found if one["type"] == kind) for kind in ("joined", "matured"))
    assert dict(zip(joined["outcome_id"], joined["propensity_kind"].tolist(), strict=True)) == {
        "o700": 0,
        "o300": 0,
        "o900": 0,
        "o-50": 1,
        "o4": 1,
    }
    assert matured["propensity_kind"].tolist() == [0, 1, 1, 0]
    assert matured["group"].tolist() == [2, 0, 1, 3]
    assert matured["outcomes"].tolist() == [3, 2, 0, 0]
    assert matured["age_ms"].tolist() == [300, 0, -1, -1]


def committed(**policy: object) -> tuple[PartitionState, dict[bytes, bytes]]:
    """A partition with a policy of these settings after eight impressions and a click, and its records by key."""
    partition = PartitionState(0, rules=rules_of(**policy))
    events = [impression(i, [1.0, i / 4], arm="ab"[i % 2]) for i in range(8)]
    shown = [SimpleRecord(i, NOW, None, encode(event), []) for i, event in enumerate(events)]
    partition.take(Fetched("impressions", 0, 0, 8, shown))
    click = encode(Outcome(decision_id="d3", slot="s", outcome_id="o", ts=NOW))
    partition.take(Fetched("clicks", 0, 0, 1, [SimpleRecord(0, NOW, None, click, [])]))
    messages = partition.freeze(NOW)
    return partition, {
        message.key or b"": message.value or b"" for message in messages if message.topic == "posteriors"
    }


def rules_of(**policy: object) -> Rules:
    """Rules of one policy over two features, with forgetting and a delay."""
    given = {"dimension": 2, "half_life_s": 64.0, "delays_s": (30.0,), **policy}
    return rules(Settings(policies={"p": PolicySettings.model_validate(given)}))


@pytest.mark.parametrize("name", MODELS)
def test_every_models_sums_come_back_from_their_records(name: str) -> None:
    """What a learner committed is what the next one starts from, to the last bit, and the click is in it."""
    partition, records = committed(model=name)
    model = partition.rules.models["p"]
    state = restore(0, records, rules_of(model=name)).state
    assert {arm: model.encode(one) for arm, one in state.sums["p"].items()} == {
        arm: model.encode(one) for arm, one in partition.sums["p"].items()
    }
    assert sum(one.reward for one in state.sums["p"].values()) > 0.0
    written = [msgspec.msgpack.decode(value) for value in records.values()]
    assert {record["model"] for record in written if "model" in record} == {model.family}


def test_a_policy_changes_between_models_of_the_same_sums_without_learning_anew() -> None:
    """Linear, hybrid and student read each other's records; other sums, another encoder or point are refused."""
    partition, records = committed(model="linear", encoder="text-7c")
    for name in ("hybrid", "student"):
        state = restore(0, records, rules_of(model=name, encoder="text-7c")).state
        assert state.sums["p"]["a"].n == partition.sums["p"]["a"].n
    with pytest.raises(StateMismatchError, match=r"has model 'logistic' .* and 'linear' in the stored sums"):
        restore(0, records, rules_of(model="logistic", encoder="text-7c"))
    with pytest.raises(StateMismatchError, match="encoder = 'text-7c', the policy has encoder = 'text-80'"):
        restore(0, records, rules_of(model="linear", encoder="text-80"))
    _, around = committed(model="logistic", point=(-2.0, 0.0))
    with pytest.raises(StateMismatchError, match=r"around the point \[-2.0, 0.0\], the policy has \[0.0, 0.0\]"):
        restore(0, around, rules_of(model="logistic"))
