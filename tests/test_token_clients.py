"""Handing tokens out and taking them back: the client in an ad server, and the service over HTTP."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from streams import client as client_module
from streams.client import PolicyClient
from streams.decode import Decoder
from streams.delivery import Stats
from streams.events import LARGEST_RECORD, Impression, Outcome, encode
from streams.gathering import Row, batches
from streams.reading import SimpleRecord
from streams.rules import rules
from streams.settings import Settings
from streams.state import Fetched, PartitionState, Side
from streams.token_issue import TokenDesk
from streams.tokens import authentic, half
from tests.serving import ASK, NOW_S, Kafka, Serving, context_of
from tests.test_client import NOBODY, snapshot

SECRET = "0123456789abcdef"
FRONT = {"dimension": 2, "arms": ("a", "b", "c"), "token_window_s": 86_400.0}
POLICIES = {"front": FRONT, "plain": {"dimension": 2, "arms": ("a",)}}
NOW_MS = int(NOW_S * 1000)
DAY_MS = 86_400_000


class Events:
    """In place of the producer: keeps what it was given."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.impressions: list[Impression] = []
        self.outcomes: list[Outcome] = []
        self.stats = Stats()

    def impression(self, event: Impression, *, tag: object) -> None:
        self.impressions.append(event)

    def outcome(self, event: Outcome, *, tag: object) -> None:
        self.outcomes.append(event)

    def close(self, timeout_s: float) -> None:
        pass


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Events:
    kept = Events()
    monkeypatch.setattr(client_module, "EventProducer", lambda *_, **__: kept)
    return kept


def settings(**more: Any) -> Settings:
    return Settings(bootstrap=NOBODY, partitions=1, policies=POLICIES, token_keys={3: SECRET}, **more)


def learned(*events: Impression | Outcome) -> PartitionState:
    """A learner that has read the events."""
    state = PartitionState(0, rules=rules(settings()))
    for event in events:
        side: Side = "impressions" if isinstance(event, Impression) else "clicks"
        start = state.positions[side]
        record = SimpleRecord(start, event.ts, None, encode(event, "msgpack"), [])
        state.take(Fetched(side, 0, start, start + 1, [record]))
    state.freeze(None)
    return state


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_token_and_impression_agree_bit_for_bit(events: Events, codec: Any) -> None:
    """The context is rounded before the decision; the token says all that the impression says, and the sums are the same by either."""
    with PolicyClient(settings(), codec=codec, clock=lambda: NOW_S, rng=np.random.default_rng(1)) as client:
        client._swap("front", snapshot(17))
        decision = client.decide("front", [0.1, -0.7], slot="top")
        client.log_impression(decision)
        client.log_click(decision.decision_id, "top", token=decision.token)
        assert client.propensities("front", [0.1, -0.7])[decision.arm] == decision.propensity
    (shown,), (clicked,) = events.impressions, events.outcomes
    assert decision.context.tolist() == half([0.1, -0.7]).tolist() != [0.1, -0.7]
    signed = authentic(decision.token or "", settings().keys)  # type: ignore[arg-type]
    (group,), dead = Decoder(settings().policies, kinds=["click"]).impressions(
        [SimpleRecord(0, NOW_MS, None, encode(shown, codec), [])]
    )
    assert dead == []
    assert group.x[0].astype(np.float64).tobytes() == signed.context.tobytes()
    assert (signed.decision_id, signed.policy, signed.slot, signed.arm) == (
        shown.decision_id,
        "front",
        "top",
        shown.arm,
    )
    assert (signed.propensity, signed.ts, signed.snapshot) == (shown.propensity, shown.ts, 17)
    assert clicked.token == decision.token
    by_token, by_join = learned(shown, clicked), learned(shown, msgspec.structs.replace(clicked, token=None))
    sums = [state.rules.models["front"].encode(state.sums["front"][shown.arm]) for state in (by_token, by_join)]
    assert sums[0] == sums[1]
    assert by_token.join.tokens.counts["joined"] == 1


def test_a_policy_without_tokens_is_as_it_was(events: Events) -> None:
    """No token, and the context as it was given; nor without keys."""
    with PolicyClient(settings(), clock=lambda: NOW_S) as client:
        decision = client.decide("plain", [0.1, -0.7], slot="top")
    assert decision.token is None
    assert decision.context.tolist() == [0.1, -0.7]


def test_a_fallback_comes_with_a_token_too(events: Events) -> None:
    """It names no snapshot, so that whether it learns follows as for its impression."""
    with PolicyClient(settings(), clock=lambda: NOW_S, fallback=["a"]) as client:
        decision = client.decide("front", [0.5, 1.0], slot="top")
    signed = authentic(decision.token or "", settings().keys)  # type: ignore[arg-type]
    assert (signed.snapshot, signed.propensity) == (None, 1.0)


def test_what_no_token_can_say_is_refused_when_deciding(events: Events) -> None:
    """A number beyond half precision, a name beyond 254 bytes."""
    with PolicyClient(settings(), clock=lambda: NOW_S) as client:
        with pytest.raises(ValueError, match="half precision"):
            client.decide("front", [70_000.0, 0.0], slot="top")
        with pytest.raises(ValueError, match="255 bytes"):
            client.decide("front", [0.5, 0.0], slot="x" * 255)


def test_batches_of_long_tokens_stay_below_what_a_record_may_take() -> None:
    """A token of a wide context is long: then fewer outcomes share a record, and none is lost."""
    one = Outcome(decision_id="d1", slot="top", outcome_id="o", ts=NOW_MS, token="x" * 3_000)
    rows: list[Row] = [(msgspec.structs.replace(one, outcome_id=f"o{i}"), i) for i in range(1_000)]
    found = list(batches(rows, partitions=1))
    assert [tag for _, _, part in found for _, tag in part] == list(range(1_000))
    assert max(len(value) for _, value, _ in found) < LARGEST_RECORD


# -- over HTTP


def serving(**more: Any) -> Serving:
    return Serving(Kafka(snapshot(1)), policies=POLICIES, token_keys={3: SECRET}, **more)


def test_each_slot_has_its_token_and_an_outcome_needs_no_more() -> None:
    """The token brings decision and slot along; what is logged agrees with it."""
    ask = {"policy": "front", "slots": ["top", "side"], "context": [0.1, 0.5]}
    with serving() as service:
        status, _, answer = service.call("POST", "/v1/decisions", ask)
        assert status == 200
        tokens = [one["token"] for one in answer["slots"]]
        reports = [{"token": token, "kind": "click"} for token in tokens]
        assert service.call("POST", "/v1/outcomes", reports)[::2] == (202, {"accepted": 2})
        plain = service.call("POST", "/v1/decisions", {"policy": "plain", "slot": "top", "context": [0.1, 0.5]})[2]
    assert "token" not in plain["slots"][0]
    found = service.kafka.outcomes
    assert [(one.decision_id, one.slot, one.token) for one in found] == [
        (answer["decision_id"], slot, token) for slot, token in zip(("top", "side"), tokens, strict=True)
    ]
    for decision, token in zip(service.kafka.impressions[:2], tokens, strict=True):
        signed = authentic(token, settings().keys)  # type: ignore[arg-type]
        assert (signed.arm, signed.propensity, signed.ts, signed.slot) == (
            decision.arm,
            decision.propensity,
            decision.ts,
            decision.slot,
        )
        assert signed.context.tolist() == context_of(decision)


GOOD = TokenDesk(settings()).token(
    "front",
    decision_id="d1",
    slot="top",
    arm="a",
    propensity=0.5,
    estimated=False,
    snapshot=1,
    context=half([0.5, 1.0]),
    ts=NOW_MS,
)


@pytest.mark.parametrize(
    ("report", "text"),
    [
        ({"token": "nonsense"}, "outcome 0: token: "),
        ({"token": f"{GOOD}"[:-2] + "AA"}, "not signed by key 3"),
        ({"token": GOOD, "decision_id": "d2"}, "decision_id is 'd2' and the token is of 'd1'"),
        ({"token": GOOD, "slot": "side"}, "slot is 'side'"),
        ({"token": ""}, "$.token"),
        ({"slot": "top"}, "`decision_id` is missing"),
        ({}, "`decision_id`, `slot` is missing"),
    ],
)
def test_a_token_that_cannot_be_used_is_refused_at_once(report: dict[str, Any], text: str) -> None:
    """With 422 and what was wrong; nothing is taken."""
    with serving() as service:
        status, _, answer = service.call("POST", "/v1/outcomes", report)
        assert status == 422
        assert text in answer["error"]
        assert service.call("POST", "/v1/outcomes", {"token": GOOD, "decision_id": "d1"})[0] == 202
        assert len(service.kafka.outcomes) == 1


def test_an_expired_token_is_refused_at_once() -> None:
    """By the time of the outcome, to the millisecond: late reports of outcomes that were in time are taken."""
    old = TokenDesk(settings()).token(
        "front",
        decision_id="d1",
        slot="top",
        arm="a",
        propensity=0.5,
        estimated=False,
        snapshot=1,
        context=half([0.5, 1.0]),
        ts=1,
    )
    with serving() as service:
        service.service._clock = lambda: (DAY_MS + 1) / 1000
        status, _, answer = service.call("POST", "/v1/outcomes", {"token": old})
        assert (status, "token_window_s = 86400 s" in answer["error"]) == (422, True)
        assert service.call("POST", "/v1/outcomes", {"token": old, "ts": DAY_MS})[0] == 202


def test_a_service_without_keys_says_so() -> None:
    """A token that nobody can check is not let through."""
    with Serving(Kafka(snapshot(1))) as service:
        status, _, answer = service.call("POST", "/v1/outcomes", {"token": GOOD})
    assert status == 422
    assert "no token_keys" in answer["error"]


def test_the_description_knows_tokens() -> None:
    """Outcomes need decision and slot, or a token; the decisions that come without one are as they were."""
    with serving() as service:
        schemas = service.call("GET", "/openapi.json")[2]["components"]["schemas"]
        assert service.call("POST", "/v1/decisions", ASK)[0] == 200
    assert schemas["Report"]["anyOf"] == [{"required": ["decision_id", "slot"]}, {"required": ["token"]}]
    assert "token" in schemas["Shown"]["properties"]
