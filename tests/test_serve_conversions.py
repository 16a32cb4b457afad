"""Outcomes over HTTP that name a unit and no decision are conversions; what no attributor could use is refused with words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streams.conversions import Conversion
from streams.events import Outcome
from streams.serve_messages import BadRequest, reports
from streams.serve_openapi import description
from streams.serve_spill import Spill
from tests.serving import FRONT, NOW_S, Kafka, Serving

NOW_MS = int(NOW_S * 1000)
ATTRIBUTION = {"kinds": ["purchase"], "window_s": 300}
POLICIES: Any = {
    "front": FRONT | {"outcomes": {"click": 1.0, "purchase": 5.0}, "attribution": ATTRIBUTION},
    "side": FRONT | {"outcomes": {"click": 1.0}},
}


def test_a_unit_instead_of_a_decision() -> None:
    """What is left out is 1 for the value and now for the time; conversions and outcomes may come in one list."""
    kafka = Kafka(None)
    bought = {"unit": "u1", "conversion_id": "c1", "kind": "purchase"}
    clicked = {"decision_id": "d1", "slot": "top"}
    with Serving(kafka, policies=POLICIES) as serving:
        assert serving.call("POST", "/v1/outcomes", bought)[0] == 202
        more = bought | {"conversion_id": "c2", "value": 0.0, "ts": 0, "policy": "front"}
        assert serving.call("POST", "/v1/outcomes", [more, clicked])[0] == 202
    assert kafka.conversions == [
        Conversion(unit="u1", conversion_id="c1", kind="purchase", value=1.0, ts=NOW_MS),
        Conversion(unit="u1", conversion_id="c2", kind="purchase", value=0.0, ts=0, policy="front"),
    ]
    assert [outcome.decision_id for outcome in kafka.outcomes] == ["d1"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"kind": "click"}, "kind is 'click', which is not attributed; allowed: purchase"),
        ({"policy": "side"}, "policy is 'side', which attributes no conversions; those that do: front"),
        ({"ts": NOW_MS + 300_001}, "at most 5 minutes from now"),
        ({"unit": ""}, "at `$.unit`"),
        ({"slot": "top"}, "unknown field `slot`"),
        ({"decision_id": "d1"}, "unknown field `unit`"),
    ],
)
def test_refusals(change: dict[str, Any], why: str) -> None:
    """Nothing of a request is taken if one of its outcomes is refused; the text names which."""
    kafka = Kafka(None)
    good = {"unit": "u1", "conversion_id": "c1", "kind": "purchase"}
    with Serving(kafka, policies=POLICIES) as serving:
        status, _, body = serving.call("POST", "/v1/outcomes", [good, good | change])
    assert status == 422
    assert why in body["error"]
    assert "outcome 1" in body["error"]
    assert kafka.conversions == []


def test_without_a_policy_that_attributes() -> None:
    """The text says what is missing: a decision, or the setting."""
    with Serving(Kafka(None)) as serving:
        body = {"unit": "u1", "conversion_id": "c1", "kind": "click"}
        status, _, body = serving.call("POST", "/v1/outcomes", body)
    assert status == 422
    assert "no policy attributes conversions; give decision_id and slot, or set attribution" in body["error"]


@pytest.mark.parametrize("body", [b'{"unit": 3', b'[3, {"unit": "u"}]', b'[{"unit": "u"}, null]'])
def test_bodies_that_are_no_reports(body: bytes) -> None:
    """Whatever has the word in it and is something else is a bad request."""
    with pytest.raises(BadRequest):
        reports(body)


def test_conversions_survive_on_disk(tmp_path: Path) -> None:
    """What finds no room goes to the folder and comes back as it was."""
    spill = Spill(tmp_path, most_bytes=1 << 22)
    bought = Conversion(unit="u1", conversion_id="c1", kind="purchase", value=2.0, ts=5, policy="front")
    assert spill.add(bought)
    assert spill.add(Outcome(decision_id="d1", slot="top", outcome_id="o", ts=4))
    taken = spill.take()
    assert taken is not None
    assert taken[1] == [bought, Outcome(decision_id="d1", slot="top", outcome_id="o", ts=4)]


def test_a_full_buffer_spills_them(tmp_path: Path) -> None:
    """A conversion is accepted when the buffer is full and there is a folder."""
    kafka, spill = Kafka(None, room=0), Spill(tmp_path, most_bytes=1 << 22)
    with Serving(kafka, spill=spill, policies=POLICIES) as serving:
        body = {"unit": "u1", "conversion_id": "c1", "kind": "purchase"}
        assert serving.call("POST", "/v1/outcomes", body)[0] == 202
    assert spill.bytes > 0


def test_both_are_described() -> None:
    """The description names the two kinds of outcomes, one or many."""
    schema = description()["paths"]["/v1/outcomes"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    one = {"oneOf": [{"$ref": "#/components/schemas/Report"}, {"$ref": "#/components/schemas/ConversionReport"}]}
    assert schema["oneOf"][0] == one
    assert schema["oneOf"][1]["items"] == one
    assert set(description()["components"]["schemas"]["ConversionReport"]["required"]) == {
        "unit",
        "conversion_id",
        "kind",
    }
