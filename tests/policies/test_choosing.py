"""The top layer in a running policy: rows are credited to the choice of their snapshot, and snapshots go to what earns most."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from policies import choosing
from policies.choosing import MOST_RUNS, NONE, Choosing, credited, drawn, first_choosing, led, of_versions, with_run
from policies.choosing_records import decode_choosing, encode_choosing
from policies.sums import RecordError
from policies.top_layer import MEMORY, law, matured


def after(versions: int, *, choices: int = 3, per: float = 100.0) -> Choosing:
    """A choice for each of so many versions, from 1 on."""
    state = first_choosing(choices, default=0, bound=1.0)
    for version in range(1, versions + 1):
        state = drawn(state, policy="p", version=version, count=per * version)
    return state


def test_rows_are_credited_to_the_choice_of_their_version_as_one_by_one() -> None:
    """Rows of versions that no choice decided, or that nobody knows, change nothing; rewards are cut to the bound."""
    state = with_run(after(40), 41, NONE)
    rng = np.random.default_rng(1)
    version, reward = rng.integers(-1, 60, 500), rng.uniform(-0.5, 1.5, 500)
    chosen = dict(enumerate(of_versions(state, np.arange(60)).tolist()))
    layer = state.layer
    for one, r in zip(version.tolist(), reward.tolist(), strict=True):
        if one >= 1 and chosen[one] != NONE:
            layer = matured(layer, np.array([chosen[one]]), np.array([min(max(r, 0.0), 1.0)]))
    found = credited(state, version, reward).layer
    assert pytest.approx(layer.S) == found.S
    assert pytest.approx(layer.F) == found.F
    assert {chosen[number] for number in range(41, 60)} == {NONE}


def test_choices_are_drawn_by_the_law_and_the_same_for_a_version() -> None:
    """Within five standard errors; another policy's are others."""
    state = credited(after(30), np.arange(1, 31).repeat(20), np.tile([1.0] + [0.0] * 19, 30))
    q = law(state.layer)
    index = [drawn(state, policy="p", version=version, count=0.0).runs[-1][1] for version in range(100, 3100)]
    share = np.bincount(index, minlength=3) / 3000
    assert (np.abs(share - q) <= 5 * np.sqrt(q * (1 - q) / 3000)).all()
    assert index[:50] == [drawn(state, policy="p", version=v, count=0.0).runs[-1][1] for v in range(100, 150)]
    assert index[:50] != [drawn(state, policy="q", version=v, count=0.0).runs[-1][1] for v in range(100, 150)]


def play(rates: list[float], *, snapshots: int, events: int, late: int = 5) -> list[int]:
    """The choice of each snapshot, whose events mature `late` snapshots later, from as many choices as rates."""
    state, rng, shown = first_choosing(len(rates), default=0, bound=1.0), np.random.default_rng(3), []
    for version in range(1, snapshots + 1):
        state = drawn(state, policy="p", version=version, count=float(events * version))
        shown.append(int(of_versions(state, np.array([version]))[0]))
        if version > late:
            reward = (rng.random(events) < rates[shown[version - late - 1]]).astype(float)
            state = credited(state, np.full(events, version - late), reward)
    return shown


@pytest.mark.parametrize("events", [20, 200, 20_000])
def test_snapshots_go_to_the_choice_that_earns_most_and_stay_where_none_does(events: int) -> None:
    """Whatever the traffic: with 20,000 events a snapshot too, of which 10,000 are half a snapshot."""
    better = play([0.04, 0.04, 0.08], snapshots=600, events=events)
    assert np.mean(np.array(better[-100:]) == 2) > 0.75
    alike = play([0.04, 0.04, 0.04], snapshots=600, events=events)
    assert np.mean(np.array(alike) == 0) > 0.5


def test_counts_that_remember_half_a_snapshot_would_know_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken variant: what the last snapshot earned is all that is left, and the others are guesses."""
    monkeypatch.setattr(choosing, "SNAPSHOTS", 0)
    better = play([0.04, 0.04, 0.08], snapshots=600, events=20_000)
    assert np.mean(np.array(better[-100:]) == 2) < 0.75


def test_memory_is_that_of_the_top_layer_where_traffic_is_light() -> None:
    """10^4 events."""
    assert credited(after(50, per=10.0), np.array([1]), np.zeros(1)).layer.memory == MEMORY
    assert credited(after(50, per=1e4), np.array([1]), np.zeros(1)).layer.memory == pytest.approx(1.0 - 1e-6, rel=1e-5)


def test_runs_are_bounded() -> None:
    """The oldest go first."""
    state = first_choosing(2, default=0, bound=1.0)
    for version in range(1, MOST_RUNS + 100):
        state = with_run(state, version, version % 2)
    assert len(state.runs) == MOST_RUNS
    assert of_versions(state, np.array([1, 99, MOST_RUNS + 50])).tolist() == [NONE, NONE, 0]


def test_records_bring_everything_back() -> None:
    """Other choices in the settings begin anew; what is damaged is refused."""
    names = ("a", "b", "c")
    state = led(credited(after(300), np.arange(1, 301).repeat(30), np.tile([1.0] + [0.0] * 29, 300)), names)[0]
    state = with_run(state, 301, NONE)
    data = encode_choosing("p", state, names)
    start = first_choosing(3, default=0, bound=1.0)
    assert decode_choosing(data, start, names) == state
    assert len(data) < 3000
    assert decode_choosing(data, start, ("a", "b", "d")) == start
    record = msgspec.msgpack.decode(data)
    for wrong in ({"v": 2}, {"index": b"\x00"}, {"S": [1.0]}, {"memory": 2.0}, {"names": 3}):
        with pytest.raises(RecordError):
            decode_choosing(msgspec.msgpack.encode(record | wrong), start, names)


def test_a_choice_that_leads_is_told_once() -> None:
    """In words, with its share and the evidence."""
    state = replace(after(1, choices=2), runs=((1, 0), (2, 1)))
    state, words = led(credited(state, np.repeat([1, 2], 2000), np.repeat([0.0, 1.0], 2000)), ("x", "y"))
    assert words.startswith("x -> y: 95% of snapshots")
    assert led(state, ("x", "y"))[1] == ""
