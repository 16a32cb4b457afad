"""What cannot be used goes to the dead-letter topic with its bytes untouched and the reason; the rest goes on."""

from __future__ import annotations

from pathlib import Path

from streams.columns import encode_impressions
from streams.events import Outcome, encode
from tests.loop import Loop, assert_exact
from tests.oracle import CONFIG, fold, traffic
from tests.test_exactly_once import hour_ago_ms

POISON = {
    b"": "the value is empty",
    b"\x00\x00\x00\x00\x01x": "first byte is 0x00",
    b'{"v":1}': "decision_id",
    b"{not json": "cannot be decoded",
    b"CLC1\x81": "truncated",
    b'{"v":2,"decision_id":"d","slot":"s","policy":"front","arm":"a","propensity":0.5,"context":[0,0,0,0],"ts":1}': "v is 2",
    b'{"v":1,"decision_id":"d","slot":"s","policy":"front","arm":"a","propensity":1.5,"context":[0,0,0,0],"ts":1}': "propensity is 1.5",
    b'{"v":1,"decision_id":"d","slot":"s","policy":"front","arm":"a","propensity":0.5,"context":[0],"ts":1}': "dimension 4",
    b'{"v":1,"decision_id":"d","slot":"s","policy":"gone","arm":"a","propensity":0.5,"context":[],"ts":1}': "policy is 'gone'",
    b'{"v":1,"decision_id":"","slot":"s","policy":"front","arm":"a","propensity":0.5,"context":[0,0,0,0],"ts":1}': "decision_id is empty",
    b'{"v":1,"decision_id":"d","slot":"s","policy":"front","arm":"a","propensity":0.5,"context":[0,0,0,0],"ts":9999999999999}': "ts is 9999999999999",
}


def test_poison_is_set_aside_with_its_reason(bootstrap: str, prefix: str, tmp_path: Path) -> None:
    """Every poisonous record is a dead letter once, byte for byte, and the sums are those of the good ones."""
    events = traffic(21, 300, start_ms=hour_ago_ms()).events
    with Loop(bootstrap, prefix, tmp_path, CONFIG, partitions=1) as loop:
        names = loop.settings.topics
        for value in POISON:
            loop.producer.produce(names.impressions, key=b"k", value=value, headers=[("trace", b"7")])
        unlisted = encode(Outcome(decision_id="d0", slot="top", outcome_id="o", kind="hover", ts=hour_ago_ms()))
        loop.producer.produce(names.clicks, key=b"d0", value=unlisted)
        loop.send(events)
        loop.flush()
        loop.start("one")
        loop.wait_covered()
        letters = {record.value: dict(record.headers) for record in loop.dead_letters()}
        assert set(letters) == {*POISON, unlisted}
        assert len(loop.dead_letters()) == len(letters)
        for value, reason in POISON.items():
            assert reason in letters[value]["__connect.errors.exception.message"].decode(), value
            assert letters[value]["__connect.errors.topic"] == names.impressions.encode()
            assert letters[value]["trace"] == b"7"
        assert b"hover" in letters[unlisted]["__connect.errors.exception.message"]
        assert_exact(loop, *fold(events))
        assert loop.sums()["counts"]["dead"] == 1
        assert loop.sums()["impressions"]["dead"] == len(POISON)


def test_columnar_batches_count_their_rows(bootstrap: str, prefix: str, tmp_path: Path) -> None:
    """A columnar record is as many events as it has rows, and its sums are theirs."""
    events = [event for event in traffic(22, 200, start_ms=hour_ago_ms()).events if not isinstance(event, Outcome)]
    with Loop(bootstrap, prefix, tmp_path, CONFIG, partitions=1) as loop:
        loop.producer.produce(loop.settings.topics.impressions, value=encode_impressions(events), partition=0)
        loop.flush()
        loop.start("one")
        loop.wait_covered()
        assert_exact(loop, *fold(list(events)))
        assert sum(loop.sums()["impressions"].values()) == len(events)
