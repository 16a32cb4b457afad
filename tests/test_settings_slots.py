"""Settings of slots, arms, budgets, caps and rules."""

from typing import Any

import pytest
from pydantic import ValidationError

from streams.policy_terms import wanted
from streams.settings_policy import PolicySettings

GOOD: dict[str, Any] = {
    "dimension": 2,
    "slots": {"top": {"size": "728x90"}, "side": {"position": 0.5}},
    "ads": {"a": {"sizes": ["728x90"], "budget": "spring", "cap": "daily"}},
    "budgets": {"spring": {"amount": 100}},
    "caps": {"daily": {"limit": 3}},
    "eligibility": [{"arm": "sizes", "has": "slot.size"}],
}


def test_fields_beside_the_settings_are_for_rules() -> None:
    """A slot's or an arm's further fields are what rules may name."""
    policy = PolicySettings.model_validate(GOOD)
    assert policy.ads["a"].described == {"sizes": ["728x90"]}
    assert [rule.key for rule in policy.rules] == ["size"]
    assert policy.slots["side"].position == 0.5


@pytest.mark.parametrize(("said", "pacing"), [({}, "dual"), ({"pacing": "dual"}, "dual"), ({"pacing": "none"}, "none")])
def test_a_budget_is_paced_unless_told_otherwise(said: dict[str, Any], pacing: str) -> None:
    """What the settings say is what the publisher steps prices by."""
    policy = PolicySettings.model_validate(GOOD | {"budgets": {"spring": {"amount": 100, **said}}})
    assert wanted(policy)["spring"].pacing == pacing


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ads": {"a": {"budget": "sprnig"}}}, "budget = 'sprnig'"),
        ({"ads": {"a": {"cap": "dialy"}}}, "cap = 'dialy'"),
        ({"ads": {"a": {"floor": 0.5, "ceiling": 0.1}}}, "above ceiling"),
        ({"ads": {"a": {"floor": 0.7}, "b": {"floor": 0.7}}}, "at most 1"),
        ({"ads": {"a": {"sizes": {"w": 1}}}}, "must be a string"),
        ({"eligibility": [{"arm": "size", "has": "slot.size"}]}, "names the field 'size'"),
        ({"eligibility": [{"arm": "sizes", "is": "slot.size"}]}, "'is'"),
        ({"budgets": {"spring": {"amount": -1}}}, "greater than or equal"),
        ({"budgets": {"spring": {"amount": 1, "period": 3}}}, "Extra inputs"),
        ({"budgets": {"spring": {"amount": 1, "pacing": "even"}}}, "'dual' or 'none'"),
        ({"eligibility": [{"arm": "sizes", "has": ["728x90"]}]}, "rule 0: has is"),
        (
            {"ads": {"a": {"age": "old"}}, "eligibility": [{"arm": "age", "at_least": 18}]},
            "ads: 'a': .* 'age' is 'old'",
        ),
        ({"slots": {"top": {"size": ["728x90"]}}}, r"slots: 'top': slot.size = \['728x90'\]"),
        ({"caps": {"daily": {"limit": -1}}}, "greater than or equal"),
        ({"caps": {"daily": {"limit": 10**19}}}, "less than or equal"),
        ({"allocation": "best"}, "assignment"),
    ],
)
def test_what_cannot_work_is_refused(change: dict[str, Any], says: str) -> None:
    """The error names the value and what is allowed."""
    with pytest.raises(ValidationError, match=says):
        PolicySettings.model_validate(GOOD | change)
