"""One policy's meta-state in the publisher: rows that learn, cuts after alarms and announcements, the records that it writes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from policies.arms import Control, Roster, roster
from policies.batch import Batch
from policies.meta_records import baseline_key, decode_baseline, meta_key, read_key
from policies.meta_state import Rows
from policies.prior import BetaPrior
from streams.meta_feedback import Record, rows_of
from streams.meta_policy import PolicyMeta
from streams.settings import PolicySettings

START_MS = 1_700_000_000_000
PRIOR = BetaPrior(a=1.0, b=9.0)


def policy(**more: Any) -> PolicySettings:
    return PolicySettings(model="beta", window_s=10.0, grace_s=6.0, **more)


def sums_of(meta: PolicyMeta, n: int = 100, clicks: int = 10) -> dict[float, dict[str, Any]]:
    """Of arm a under every track."""
    ts, nothing = np.full(n, START_MS), np.zeros((n, 0))
    batch = Batch(
        arms=("a",), arm=np.zeros(n, np.intp), x=nothing, ts=ts, reward_arm=np.zeros(clicks, np.intp),
        reward_x=nothing[:clicks], reward_ts=ts[:clicks], reward=np.ones(clicks), square=np.ones(clicks),
    )  # fmt: skip
    return {half_life: model.update({}, batch) for half_life, model in meta.models.items()}


def record(next_offset: int, reward: float, *, n: int = 1000, name: str = "front") -> Record:
    rows = Rows(arm=["a"] * n, ts=np.full(n, START_MS + 1), x=np.zeros((n, 0)), reward=np.full(n, reward))
    return Record(0, next_offset, name, rows, n)


@pytest.mark.parametrize(("drift", "alarms", "left"), [("off", 0, 100.0), ("alarm", 1, 100.0), ("reset", 1, 5.0)])
def test_an_alarm_cuts_the_arm_only_where_the_settings_say_so(drift: str, alarms: int, left: float) -> None:
    """A thousand rows with a click each where a tenth was expected; several alarms of one record cut once."""
    meta = PolicyMeta("front", policy(drift=drift))
    tracks = sums_of(meta)
    meta.remember(tracks, PRIOR, START_MS)
    if drift != "off":
        meta.judge(record(1, 1.0))
    changed, reasons = meta.settle(tracks, START_MS)
    assert meta.alarms == alarms
    assert meta.read("a", tracks[0.0]["a"], now_ms=START_MS).n_eff == pytest.approx(left)
    assert (changed, reasons) == (({"a"}, ("arm 'a' changed: 5% kept",)) if drift == "reset" else (set(), ()))


def test_an_announced_change_is_written_and_read_back() -> None:
    """The arm is its prior at once and for the next leader, without any feedback; a removed arm's record goes."""
    meta = PolicyMeta("front", policy())
    tracks = sums_of(meta)
    assert (meta.follows, meta.messages()) == (False, [])
    meta.announce("a", START_MS + 5)
    assert meta.settle(tracks, START_MS) == ({"a"}, ("arm 'a' reset by an announced change",))
    written = {message.key: message.value for message in meta.messages()}
    assert set(written) == {meta_key("front"), baseline_key("front", "a")}
    found = {(arm, kind): value for (_, arm, kind), value in ((read_key(k), v) for k, v in written.items()) if value}  # type: ignore[misc]
    after = PolicyMeta("front", policy())
    after.restore(found)
    for one in (meta, after):
        assert one.read("a", tracks[0.0]["a"], now_ms=START_MS + 9).n_eff == 0.0
        assert one.state.since_ms == {"a": START_MS + 5}
    meta.written()
    assert meta.messages() == []
    meta.forget("a")
    assert {message.key: message.value is None for message in meta.messages()}[baseline_key("front", "a")]
    assert meta.state.since_ms == {}
    assert decode_baseline(written[baseline_key("front", "a")] or b"").keys() == {0.0}


def test_records_before_the_position_and_of_other_policies_change_nothing() -> None:
    """The position moves over them; what was judged before is not judged twice."""
    meta = PolicyMeta("front", policy(drift="alarm"))
    meta.place({0: 5})
    meta.judge(record(5, 0.0))
    assert (meta.state.unscored, meta.state.offsets) == (0, {0: 5})
    meta.judge(record(6, 0.0, name="other"))
    assert (meta.state.unscored, meta.state.offsets) == (0, {0: 6})
    meta.judge(record(7, 0.0))
    meta.judge(record(7, 0.0))
    assert (meta.state.unscored, meta.state.offsets) == (1000, {0: 7})


def test_fallback_decisions_are_passed_over_and_contexts_are_cut() -> None:
    """No snapshot and propensity 1; one drawn at random without a snapshot learns. Records without ages tell none."""
    columns = {
        "snapshot": np.array([-1, -1, 3, 3]),
        "propensity": np.array([1.0, 0.5, 1.0, 0.5]),
        "arm": ["a", "b", "c", "d"],
        "impression_ts": np.arange(4),
        "context": np.array([[9.0], [9.0], [-9.0], [1.0]]),
        "reward": np.arange(4.0),
    }
    rows = rows_of(columns, 2.0)
    assert rows is not None
    assert (rows.arm, rows.x.ravel().tolist(), rows.age_ms) == (["b", "c", "d"], [2.0, -2.0, 1.0], None)
    aged = rows_of(columns | {"age_ms": np.array([5, -1, 7, 8])}, None)
    assert aged is not None
    assert aged.age_ms is not None
    assert aged.age_ms.tolist() == [-1, 7, 8]
    assert rows_of({**columns, "snapshot": np.full(4, -1), "propensity": np.ones(4)}, None) is None


def test_learned_delays_tell_their_weights() -> None:
    """In words, once; they are in what is read from then on."""
    meta = PolicyMeta("front", policy(delays_s=(0.5, 5.0)))
    rng, n = np.random.default_rng(1), 3000
    ages = (1000 * rng.exponential(0.5, n)).astype(np.int64)
    rows = Rows(arm=["a"] * n, ts=np.full(n, START_MS), x=np.zeros((n, 0)), reward=np.ones(n), age_ms=ages)
    for following in (1, 2):
        meta.judge(Record(0, following, "front", rows, n))
    _, reasons = meta.settle(sums_of(meta), START_MS)
    assert len(reasons) == 1
    assert reasons[0].startswith("click delays: 0.5 s ")
    assert meta.state.weights is not None
    assert meta.state.weights[0] > 0.9
    assert meta.mean_delay_s == pytest.approx(0.5, rel=0.1)
    model, one = meta.model, sums_of(meta)[0.0]["a"]
    weighted = model.at(one, now_ms=START_MS + 1, weights=meta.state.weights)
    assert meta.read("a", one, now_ms=START_MS + 1).n_eff == weighted.n_eff != model.at(one, now_ms=START_MS + 1).n_eff


def said(tracks: dict[float, dict[str, Any]], meta: PolicyMeta, **controls: Control) -> tuple[Roster, dict[float, Any]]:
    """What a snapshot would be made of, and its sums by track."""
    rosters = {track: roster(meta.models[track], sums, controls, arms=()) for track, sums in tracks.items()}
    return rosters[0.0], {track: one.sums for track, one in rosters.items()}


def test_a_control_s_change_is_made_once_also_by_the_next_leader() -> None:
    """The control stays in the topic; only a newer time is another change."""
    meta = PolicyMeta("front", policy())
    tracks = sums_of(meta)
    standing, sums = said(tracks, meta, a=Control(changed_ms=7))
    meta.heed(standing, START_MS)
    assert meta.settle(sums, START_MS)[0] == {"a"}
    meta.heed(standing, START_MS)
    assert meta.settle(sums, START_MS) == (set(), ())
    written = {message.key: message.value or b"" for message in meta.messages()}
    successor = PolicyMeta("front", policy())
    successor.restore({key[1:]: value for raw, value in written.items() if (key := read_key(raw)) is not None})
    successor.heed(standing, START_MS)
    assert successor.settle(sums, START_MS) == (set(), ())
    assert successor.read("a", tracks[0.0]["a"], now_ms=START_MS).n_eff == 0.0
    successor.heed(said(tracks, meta, a=Control(changed_ms=8))[0], START_MS)
    assert successor.settle(sums, START_MS)[0] == {"a"}


def test_a_renamed_arm_takes_its_reset_along() -> None:
    """What was not to be believed under the old name is not under the new one, and two resets under one name add up."""
    meta = PolicyMeta("front", policy())
    tracks = sums_of(meta)
    tracks[0.0] = {**tracks[0.0], "b": tracks[0.0]["a"]}
    reset = {"a": Control(changed_ms=7), "b": Control(changed_ms=7)}
    standing, sums = said(tracks, meta, **reset)
    meta.heed(standing, START_MS)
    meta.settle(sums, START_MS)
    standing, sums = said(tracks, meta, a=Control(renamed_to="b", changed_ms=7), b=reset["b"])
    meta.heed(standing, START_MS)
    assert meta.settle(sums, START_MS) == (set(), ())
    assert sums[0.0]["b"].n == 200.0
    assert meta.read("b", sums[0.0]["b"], now_ms=START_MS).n_eff == 0.0
    gone = [message for message in meta.messages() if message.key == baseline_key("front", "a")]
    assert [message.value for message in gone] == [None]


def test_a_reset_does_not_outlive_the_sums_that_it_was_of() -> None:
    """An arm whose sums have expired and that comes back starts from its prior, not from less than nothing."""
    meta = PolicyMeta("front", policy())
    tracks = sums_of(meta)
    meta.announce("a", START_MS)
    meta.settle(tracks, START_MS)
    meta.settle({0.0: {}}, START_MS)  # taken out of the snapshots for a while
    assert meta.read("a", tracks[0.0]["a"], now_ms=START_MS).n_eff == 0.0
    few = sums_of(meta, 20, 2)
    meta.settle(few, START_MS)
    assert meta.read("a", few[0.0]["a"], now_ms=START_MS).n_eff == 20.0
    assert {message.key: message.value is None for message in meta.messages()}[baseline_key("front", "a")]
