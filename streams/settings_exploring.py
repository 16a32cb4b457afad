"""Which settings of exploration and of groups of arms go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.explorers import check

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streams.settings_policy import PolicySettings
    from streams.settings_slots import AdSettings

GROUPS_BYTES = 64_000_000
"""What the priors of all groups may take."""
PLAYED = ("linear", "hybrid", "student", "beta")
"""Models that roll-outs can play."""


def groups_of(ads: Mapping[str, AdSettings], field: str) -> dict[str, str]:
    """The group of each arm that has the field, as text.

    >>> from streams.settings_slots import AdSettings
    >>> groups_of({"ad-1": AdSettings.model_validate({"campaign": "spring"}), "ad-2": AdSettings()}, "campaign")
    {'ad-1': 'spring'}
    """
    found = {
        arm: getattr(ad, field) if field in ("budget", "cap") else ad.described.get(field) for arm, ad in ads.items()
    }
    return {arm: str(value) for arm, value in found.items() if value is not None}


def unfit_exploration(policy: PolicySettings) -> str | None:
    """What is wrong with a policy's `explore` and `group_by`, and the way out; None if nothing is."""
    if policy.choices and policy.explore != "top-layer":
        return f"choices with explore = {policy.explore!r}: nothing chooses; set explore = 'top-layer', or leave choices out"
    if policy.explore == "top-layer":
        wrong = _unfit_choices(policy)
        if wrong is not None:
            return wrong
    if policy.explore == "roll-outs":
        if policy.explorer != "thompson" or policy.model not in PLAYED:
            return (
                f"explore = 'roll-outs' with explorer = {policy.explorer!r} and model = {policy.model!r}: roll-outs play Thompson sampling "
                f"with rewards; set explorer = 'thompson' and one of the models {', '.join(PLAYED)}, or explore = 'fixed'"
            )
        if policy.rates["alpha"] == 0.0:
            return "explore = 'roll-outs' with alpha = 0.0: a rate to begin with must be above zero; leave alpha out"
    return None if policy.group_by is None else _unfit_groups(policy, policy.group_by)


def earning_nothing(policy: PolicySettings) -> str:
    """Which setting says that no reward is above zero, so that nothing can be chosen by what it earns; "" if one may be."""
    if policy.reward_bounds is not None:
        return "" if policy.reward_bounds[1] > 0.0 else f"reward_bounds = {list(policy.reward_bounds)}"
    return "" if max(policy.outcomes.values()) > 0.0 else f"outcomes = {policy.outcomes}"


def _unfit_choices(policy: PolicySettings) -> str | None:
    if policy.mode != "online":
        return (
            f"explore = 'top-layer' with mode = {policy.mode!r}: its snapshots decide nothing, so that no choice earns anything; set mode = "
            "'online', or explore = 'fixed'"
        )
    nothing = earning_nothing(policy)
    if nothing:
        return (
            f"explore = 'top-layer' with {nothing}: choices are compared by rewards from 0 to the largest one, which must be above 0; give an outcome "
            "that is worth more than 0, and reward_bounds that allow it, or set explore = 'fixed'"
        )
    if not policy.choices:
        if policy.explorer == "thompson" and policy.rates["alpha"] > 0.0:
            return None
        return (
            f"explore = 'top-layer' with explorer = {policy.explorer!r} and no choices: the usual ones are rates of Thompson sampling with alpha "
            "above zero; give choices, for example [{explorer = 'thompson', alpha = 0.3}]"
        )
    for number, one in enumerate(policy.choices):
        rates = {name: value for name, value in one.items() if name != "explorer"}
        try:
            check(str(one.get("explorer", policy.explorer)), {name: float(value) for name, value in rates.items()})
        except ValueError as error:
            return f"choices[{number}] = {one}: {error}"
    return None


def _unfit_groups(policy: PolicySettings, field: str) -> str | None:
    features = "arm_features" if policy.arm_features else "arm_texts" if policy.arm_texts else ""
    if policy.model != "hybrid" or features:
        return (
            f"group_by = {field!r} with model = {policy.model!r}{features and f' and {features}'}: arms start from their group with the "
            "model 'hybrid' without arm_features and arm_texts (its sums are those of 'linear'); set it, or leave group_by out"
        )
    fields = sorted({name for ad in policy.ads.values() for name in ad.described} | {"budget", "cap"})
    if not policy.group_of:
        return f"group_by = {field!r}: no arm under ads has this field; there are: {', '.join(fields)}"
    wrong = sorted(arm for arm, ad in policy.ads.items() if isinstance(ad.described.get(field), list | tuple))
    if wrong:
        return f"group_by = {field!r}: {wrong} have a list there; an arm is in one group, so give a string or a number"
    size = 8 * policy.dimension * (policy.dimension + 5) // 2
    groups = len(set(policy.group_of.values()))
    if size > 7_500_000 or groups * size > GROUPS_BYTES:
        return (
            f"group_by = {field!r} makes {groups} groups of {size} bytes with dimension = {policy.dimension}: at most 7500000 each and "
            f"{GROUPS_BYTES} together; use fewer groups or dimensions"
        )
    return None
