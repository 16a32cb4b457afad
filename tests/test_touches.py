"""A learner writes a touch for each click that counts of an impression with a unit, in the transaction that counts it."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from streams.columns import encode_impressions
from streams.events import EventError, Impression, Outcome, encode
from streams.partition import partition_for
from streams.pending import CHUNK_ROWS
from streams.reading import SimpleRecord
from streams.rules import rules
from streams.settings import Settings
from streams.state import Fetched, PartitionState, Side
from streams.touches import read_touch
from streams.unit_numbers import LONG, partition_of, unit_numbers
from tests.token_traffic import KEYS, token_of

PARTITIONS = 5
NOW = 10**12
ATTRIBUTION = {"kinds": ["purchase"], "window_s": 300, "touch_kinds": ["click", "view"]}
OUTCOMES = {"click": 1.0, "view": 0.0, "purchase": 5.0}


def settings(**policy: Any) -> Settings:
    """One policy that attributes purchases, one that attributes nothing."""
    plain: dict[str, Any] = {"model": "beta", "window_s": 600, "outcomes": OUTCOMES}
    policies: Any = {"front": plain | {"attribution": ATTRIBUTION} | policy, "plain": plain}
    secrets: Any = {7: KEYS.secrets[7].decode()}
    return Settings(partitions=PARTITIONS, policies=policies, token_keys=secrets)


def shown(number: int, unit: str | None, policy: str = "front") -> Impression:
    """An impression at second ``number``."""
    return Impression(
        decision_id=f"d{number}",
        slot="top",
        policy=policy,
        snapshot=1,
        arm="a",
        propensity=0.5,
        ts=number * 1000,
        unit=unit,
    )


def happened(number: int, kind: str = "click", after_s: int = 1) -> Outcome:
    """An outcome of the decision shown at that second."""
    return Outcome(decision_id=f"d{number}", slot="top", outcome_id=kind, kind=kind, ts=(number + after_s) * 1000)


def records(values: list[bytes], first: int = 0) -> list[SimpleRecord]:
    """Records of these values."""
    return [SimpleRecord(first + i, NOW, b"", value, []) for i, value in enumerate(values)]


def fetched(side: Side, values: list[bytes]) -> Fetched:
    """All of a side."""
    return Fetched(side, 3, 0, len(values), records(values))


def touched(state: PartitionState) -> list[Any]:
    """(unit, source, touch) of the messages of a checkpoint; each lies where its unit's name would go."""
    messages = [message for message in state.freeze(None) if message.topic == "touches"]
    found = [read_touch(message.value) for message in messages]
    for message, (unit, _, _) in zip(messages, found, strict=True):
        assert message.partition == partition_of(unit, PARTITIONS)
        assert message.key == f"{unit:016x}".encode()
    return found


@pytest.mark.parametrize("codec", ["json", "msgpack", "columns"])
@pytest.mark.parametrize("limit", [0, 1], ids=["", "limited"])
def test_clicks_of_units_are_touches(codec: Any, limit: int) -> None:
    """In every codec, with and without a limit per unit: the kinds that touch, of impressions with a unit, that count."""
    state = PartitionState(3, rules=rules(settings(unit_limit=limit)))
    impressions = [
        shown(1, "u1"),
        shown(2, None),
        shown(3, "u1"),
        shown(4, "u2", "plain"),
        shown(5, ""),
        shown(6, "Ünï"),
    ]
    if codec == "columns":
        of = [[one for one in impressions if one.policy == policy] for policy in ("front", "plain")]
        values = [encode_impressions(some) for some in of]
    else:
        values = [encode(one, codec) for one in impressions]
    state.take(fetched("impressions", values))
    clicks = [
        *(happened(i) for i in range(1, 7)),
        happened(1),  # a duplicate
        happened(3, "purchase"),
        happened(6, "view"),
        happened(1, "view", after_s=600),  # late
    ]
    state.take(fetched("clicks", [encode(one) for one in clicks]))
    found = touched(state)
    numbers = dict(zip(("u1", "Ünï"), unit_numbers(["u1", "Ünï"]).tolist(), strict=True))
    assert sorted((unit, source, t.decision_id, t.ts, t.until) for unit, source, t in found) == sorted(
        [
            (numbers["u1"], 3, "d1", 2_000, 601_000),
            (numbers["u1"], 3, "d3", 4_000, 603_000),
            (numbers["Ünï"], 3, "d6", 7_000, 606_000),
            (numbers["Ünï"], 3, "d6", 7_000, 606_000),
        ]
    )
    assert {(t.policy, t.slot) for _, _, t in found} == {("front", "top")}


def test_a_touch_with_a_token_hands_it_on_and_lasts_as_long_as_it() -> None:
    """Of a click that came with its decision's token while the impression was pending; without it the window ends the touch."""
    found_rules = rules(settings(attribution=ATTRIBUTION | {"window_s": 3600}, token_window_s=7200))
    state = PartitionState(3, rules=dataclasses.replace(found_rules, partitions=None))
    impressions = [shown(1, "u1"), shown(2, "u1"), shown(3, None)]
    state.take(fetched("impressions", [encode(one) for one in impressions]))
    clicks = [replace(happened(one), token=token_of(impressions[one - 1])) for one in (1, 3)]
    state.take(fetched("clicks", [encode(one) for one in [*clicks, happened(2)]]))
    found = {touch.decision_id: (touch.until, touch.token) for _, _, touch in touched(state)}
    assert found == {"d1": (1_000 + 7_200_000, clicks[0].token), "d2": (602_000, None)}
    assert touched(state) == []


def test_what_is_read_again_touches_nothing() -> None:
    """A rebuild and a replay of cuts write no touch a second time; a click after them finds the unit."""
    working = rules(settings())
    state = PartitionState(3, rules=working)
    state.remember("impressions", records([encode(shown(1, "u1"))]), set())
    state.remember("clicks", records([encode(happened(1))]), set())
    state.settled()
    assert touched(state) == []
    state.take(fetched("clicks", [encode(happened(1, "view"))]))
    assert [(unit, t.decision_id) for unit, _, t in touched(state)] == [(int(unit_numbers(["u1"])[0]), "d1")]


def test_only_policies_that_attribute_pay_for_it() -> None:
    """A pending row takes 8 bytes more where conversions are attributed, and none elsewhere."""
    sizes = {}
    for policy in ("front", "plain"):
        state = PartitionState(3, rules=rules(settings()))
        state.take(fetched("impressions", [encode(shown(1, "u1", policy))]))
        sizes[policy] = state.join.pending.nbytes
    assert sizes["front"] - sizes["plain"] == 8 * CHUNK_ROWS


def test_without_attribution_nothing_is_written() -> None:
    """No policy attributes: no units are read, no touch is written."""
    state = PartitionState(3, rules=rules(settings(attribution=None)))
    state.take(fetched("impressions", [encode(shown(1, "u1"))]))
    state.take(fetched("clicks", [encode(happened(1))]))
    assert touched(state) == []


@pytest.mark.parametrize("name", ["u1", "a" * LONG, "a" * (LONG + 1), "b" * 5_000, "Ünï"])
def test_numbers_tell_the_partition(name: str) -> None:
    """The number's partition is that of the name as a Kafka key, whatever else is hashed with it."""
    among = ["x", name, "y" * 3_000]
    number = int(unit_numbers(among)[1])
    assert number == int(unit_numbers([name])[0]) > 0
    for partitions in (1, 4, 7, 100):
        assert partition_of(number, partitions) == partition_for(name.encode(), partitions)


def test_numbers_differ() -> None:
    """A hundred thousand names in a row have as many numbers."""
    names: list[str | None] = [f"user-{i}" for i in range(100_000)]
    assert len(set(unit_numbers(names).tolist())) == 100_000


def test_no_touch() -> None:
    """What is no touch says so."""
    for value in (None, b"", b"{}", b"[1]", msgspec.json.encode({"unit": "zz"})):
        with pytest.raises(EventError, match="no touch"):
            read_touch(value)
