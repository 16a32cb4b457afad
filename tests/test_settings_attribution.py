"""Settings of attribution: what is impossible is refused at start, with the way out; topics are there where they are needed."""

from __future__ import annotations

from typing import Any

import pytest

from streams.attribution_rules import attribution_rules, touch_kinds
from streams.cli import run
from streams.settings import Settings, SettingsError, load
from streams.topic_specs import specs

OUTCOMES = {"click": 1.0, "view": 0.0, "purchase": 5.0, "lead": 2.0}
PLAIN: dict[str, Any] = {"model": "beta", "window_s": 600, "grace_s": 60, "outcomes": OUTCOMES}
GOOD: dict[str, Any] = {"kinds": ["purchase"], "window_s": 600}


def attributing(**values: Any) -> dict[str, Any]:
    """A policy with an attribution changed by these values."""
    return PLAIN | {"attribution": GOOD | values}


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"kinds": []}, ["attribution.kinds"]),
        ({"kinds": ["sale"]}, ["attribution.kinds has ['sale']", "among outcomes (click, lead, purchase, view)"]),
        ({"touch_kinds": ["tap"]}, ["attribution.touch_kinds has ['tap']", "add it there"]),
        ({"kinds": ["click"]}, ["both have ['click']", "would be a touch for the next conversion"]),
        ({"window_s": 601}, ["attribution.window_s = 601 is longer than window_s = 600", "always be late"]),
        ({"window_s": 0}, ["attribution.window_s", "greater than 0"]),
        ({"grace_s": 60}, ["attribution.grace_s = 60: must be below grace_s = 60", "still find its impression"]),
        ({"grace_s": -1}, ["attribution.grace_s"]),
        ({"rule": "linear"}, ["attribution.rule", "'last', 'first' or 'even'"]),
        ({"windows": 3}, ["attribution.windows"]),
    ],
)
def test_impossible_attribution_is_refused(values: dict[str, Any], parts: list[str]) -> None:
    """The text names the setting, the value and what to do."""
    with pytest.raises(SettingsError) as caught:
        load(overrides={"policies": {"front": attributing(**values)}})
    for part in parts:
        assert part in str(caught.value)


def test_policies_that_share_a_kind_share_the_rule() -> None:
    """A conversion that names no policy goes to the touches of all, so it needs one rule; other kinds may have another."""
    both = {"front": attributing(), "side": attributing(rule="even")}
    with pytest.raises(SettingsError, match=r"'front' and 'side' attribute 'purchase' by the rules 'last' and 'even'"):
        load(overrides={"policies": both})
    load(overrides={"policies": both | {"side": attributing(rule="even", kinds=["lead"])}})


def test_rules_are_in_milliseconds() -> None:
    """What the attributor and the learner work by; policies without attribution are left out."""
    chosen = attributing(window_s=1.5, grace_s=0.25, touch_kinds=["click", "view"])
    settings = Settings(policies={"front": chosen, "plain": PLAIN})
    rules = attribution_rules(settings)
    assert set(rules) == {"front"} == set(touch_kinds(settings))
    found = rules["front"]
    assert (found.how, found.window_ms, found.grace_ms, found.keep_ms) == ("last", 1_500, 250, 360_000)
    assert touch_kinds(settings)["front"] == {"click", "view"}


def test_topics_are_made_where_a_policy_attributes() -> None:
    """Conversions and touches have the partitions of the input and are kept for twice what is remembered."""
    without = {spec.name for spec in specs(Settings(policies={"front": PLAIN}))}
    day = attributing() | {"window_s": 86_400.0}
    day["attribution"] = GOOD | {"window_s": 86_400.0}
    found = {spec.name: spec for spec in specs(Settings(partitions=7, policies={"front": day}))}
    assert set(found) - without == {"conversions", "touches", "attribution"}
    assert {found[name].partitions for name in ("conversions", "touches", "attribution")} == {7}
    assert found["touches"].configs["retention.ms"] == str(2 * (86_400 + 60 + 300) * 1000)
    assert found["attribution"].cleanup == "compact"


def test_an_attributor_without_work_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """Asked for by name where no policy attributes: the text says which table is missing."""
    monkeypatch.setattr("streams.topics.check", lambda _: [])
    monkeypatch.setenv("CLICKLOOP_POLICIES__FRONT__DIMENSION", "2")
    assert run(["worker", "attributor"]) == 2
    assert "add a table [policies.NAME.attribution]" in capsys.readouterr().err
