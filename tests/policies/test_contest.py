"""Policies that compete: decisions are shared out by what they earn, and states come back from their records."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from policies.contest import (
    contender,
    credited,
    decode_contest,
    encode_contest,
    first_contest,
    led,
    shares_of,
)
from policies.sums import RecordError
from policies.top_layer import matured

NAMES = ("front", "text", "deep")


def play(rates: dict[str, float], decisions: int = 60_000, late: int = 2000) -> list[str]:
    """Who decided each of so many decisions, whose rewards mature so many decisions later."""
    state, rng, who, reward = first_contest(tuple(rates), bound=1.0), np.random.default_rng(1), [], []
    for step in range(0, decisions, 500):
        shares = shares_of(state)
        found = [contender(f"d{step + i}", shares) or next(iter(rates)) for i in range(500)]
        who += found
        reward += (rng.random(500) < np.array([rates[name] for name in found])).astype(float).tolist()
        if step >= late:
            for name in rates:
                rows = [r for n, r in zip(who[step - late :], reward[step - late :], strict=True) if n == name]
                rows = rows[: max(1, len(rows) // 5)]
                state = credited(state, name, np.array(rows))
    return who


def test_the_policy_that_earns_most_gets_the_decisions() -> None:
    """The others keep 5% each, by which a change would be seen."""
    who = play({"front": 0.04, "text": 0.04, "deep": 0.08})[-10_000:]
    assert who.count("deep") > 8_000
    assert who.count("front") > 300
    assert who.count("text") > 300


def test_where_none_earns_more_the_policy_that_is_asked_for_keeps_most() -> None:
    """It is left only as far as the evidence goes."""
    assert play({"front": 0.04, "text": 0.04}).count("front") > 36_000


def test_shares_are_how_often_each_decides() -> None:
    """Within five standard errors; the same id always falls to the same policy."""
    shares = {"text": 0.3, "deep": 0.05}
    found = [contender(f"d{i}", shares) for i in range(40_000)]
    for name, share in shares.items():
        assert abs(found.count(name) / 40_000 - share) < 5 * np.sqrt(share * (1 - share) / 40_000)
    assert found == [contender(f"d{i}", shares) for i in range(40_000)]


def test_rows_are_credited_to_their_policy_and_cut_to_the_bound() -> None:
    """As the top layer counts them one by one."""
    state = first_contest(NAMES, bound=2.0)
    layer = matured(state.layer, np.array([2, 2]), np.array([0.0, 2.0]))
    assert credited(state, "deep", np.array([-1.0, 5.0])).layer == layer


def test_states_come_back_and_policies_may_come_and_go() -> None:
    """Counts of those that stay, stay; what is damaged is refused."""
    state = first_contest(NAMES, bound=1.0)
    for name, reward in (("front", 0.0), ("text", 0.0), ("deep", 1.0)):
        state = credited(state, name, np.full(900, reward))
    state, words = led(state)
    assert words.startswith("'front' -> 'deep': ")
    data = encode_contest("front", state)
    assert decode_contest(data, first_contest(NAMES, bound=1.0)) == state
    fewer = decode_contest(data, first_contest(("front", "deep", "new"), bound=1.0))
    assert (fewer.layer.S[1], fewer.layer.S[2], fewer.leader) == (state.layer.S[2], 1.0, 1)
    record = msgspec.msgpack.decode(data, strict=False)
    for wrong in ({"v": 9}, {"S": [1.0]}, {"offsets": 3}):
        with pytest.raises(RecordError):
            decode_contest(msgspec.msgpack.encode(record | wrong), first_contest(NAMES, bound=1.0))
