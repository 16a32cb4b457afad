"""Eligibility rules equal their predicates arm by arm, and what nobody declared is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.eligibility import OPERATORS, Eligibility, Fields, rules_from

FIELDS = Fields(
    arm=frozenset({"sizes", "tags", "age"}), slot=frozenset({"size", "blocked"}), request=frozenset({"age"})
)
SETTINGS = [
    {"arm": "sizes", "has": "slot.size"},
    {"arm": "tags", "none_of": "slot.blocked"},
    {"arm": "age", "at_most": "request.age"},
]
WORDS = st.lists(st.sampled_from("abc"), max_size=2)
ARMS = st.fixed_dictionaries({}, optional={"sizes": WORDS, "tags": WORDS, "age": st.integers(0, 40)})
SLOTS = st.fixed_dictionaries({}, optional={"size": st.sampled_from("abc"), "blocked": WORDS})


def by_hand(arm: dict[str, Any], slot: dict[str, Any], request: dict[str, Any]) -> bool:
    """The three rules of SETTINGS."""
    if arm.get("sizes") and "size" in slot and slot["size"] not in arm["sizes"]:
        return False
    if set(arm.get("tags", ())) & set(slot.get("blocked", ())):
        return False
    return not ("age" in arm and "age" in request and arm["age"] > request["age"])


@settings(max_examples=150)
@given(
    st.lists(ARMS, min_size=1, max_size=5),
    st.lists(SLOTS, min_size=1, max_size=3),
    st.fixed_dictionaries({}, optional={"age": st.integers(0, 40)}),
)
def test_masks_are_the_predicates(
    arms: list[dict[str, Any]], slots: list[dict[str, Any]], request: dict[str, Any]
) -> None:
    """For every arm and slot; 0 is an age."""
    mask = Eligibility(rules_from(SETTINGS, FIELDS), arms=arms, fields=FIELDS).mask(slots, request)
    assert mask.tolist() == [[by_hand(arm, slot, request) for arm in arms] for slot in slots]


@pytest.mark.parametrize(
    ("operator", "value", "wanted"),
    [
        ("has", "a", [True, False, True]),
        ("lacks", "a", [False, True, True]),
        ("any_of", ["a", "c"], [True, False, True]),
        ("none_of", ["b", "c"], [False, False, True]),
        ("none_of", "b", [False, False, True]),
        ("any_of", "a", [True, False, True]),
        ("any_of", "ab", [False, False, True]),
        ("any_of", ["a.b", "a"], [True, False, True]),
    ],
)
def test_each_operator_on_lists(operator: str, value: Any, wanted: list[bool]) -> None:
    """Arms with [a, b], [b] and nothing, compared with a constant; a word is one value and not its letters."""
    rules = rules_from([{"arm": "tags", operator: value}], FIELDS)
    found = Eligibility(rules, arms=[{"tags": ["a", "b"]}, {"tags": "b"}, {}]).mask([{}], {})
    assert found.tolist() == [wanted]


def test_each_operator_on_numbers() -> None:
    """Both ends are included."""
    arms = [{"age": 18}, {"age": 19}, {}]
    for operator, wanted in (("at_least", [False, True, True]), ("at_most", [True, True, True])):
        rules = rules_from([{"arm": "age", operator: 19}], FIELDS)
        assert Eligibility(rules, arms=arms).mask([{}], {})[0].tolist() == wanted
    assert set(OPERATORS) == {"has", "lacks", "any_of", "none_of", "at_least", "at_most"}


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"arm": "size", "has": "slot.size"}, "field 'size' of an arm; there are: age, sizes, tags"),
        ({"arm": "sizes", "has": "slot.width"}, "field 'width' of a slot; there are: blocked, size"),
        ({"arm": "sizes", "has": "request.size"}, "field 'size' of a request; there are: age"),
        ({"arm": "sizes", "is": "slot.size"}, "rule 0 has 'is'; a rule has 'arm' and one of has, "),
        ({"arm": "sizes"}, "exactly one of"),
        ({"arm": "sizes", "has": "a", "lacks": "b"}, "exactly one of"),
        ({"arm": "tags", "lacks": "requests.age"}, "rule 0 compares with 'requests.age'; there is slot.FIELD"),
        ({"arm": "sizes", "has": ["a", "b"]}, r"rule 0: has is \['a', 'b'\]; allowed: a string or a number,"),
        ({"arm": "sizes", "lacks": {"a": 1}}, "lacks is {'a': 1}"),
        ({"arm": "sizes", "any_of": None}, "any_of is None; allowed: a string or a number or a list"),
        ({"arm": "sizes", "none_of": [["a"]]}, r"none_of is \[\['a'\]\]"),
        ({"arm": "age", "at_most": "old"}, "at_most is 'old'; allowed: a finite number"),
        ({"arm": "age", "at_least": float("nan")}, "at_least is nan"),
        ({"arm": "age", "at_least": 10**400}, "at_least is 1000"),
        ({"arm": "age", "at_least": [18]}, r"at_least is \[18\]"),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(rule: dict[str, Any], says: str) -> None:
    """With the name and what there is."""
    with pytest.raises(ValueError, match=says):
        rules_from([rule], FIELDS)


def test_metadata_that_cannot_be_meant_is_refused() -> None:
    """A field that was not declared, and a word where a number is needed."""
    rules = rules_from(SETTINGS, FIELDS)
    with pytest.raises(ValueError, match="arm 0 has the field 'sise'"):
        Eligibility(rules, arms=[{"sise": ["a"]}], fields=FIELDS)
    with pytest.raises(ValueError, match="'age' is 'old'"):
        Eligibility(rules, arms=[{"age": "old"}])
    with pytest.raises(ValueError, match=r"'tags' is \{\}"):
        Eligibility(rules, arms=[{"tags": {}}])


def test_masks_do_not_share_memory() -> None:
    """Changing one changes no later one."""
    compiled = Eligibility(rules_from(SETTINGS, FIELDS), arms=[{}, {}])
    compiled.mask([{}], {})[:] = False
    assert compiled.mask([{}], {}).all()
    assert compiled.mask([{}], {}).dtype == np.bool_
