"""How a policy takes its share of conversions: those that name a unit and no decision (docs/attribution.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streams.settings_policy import PolicySettings

TEN_YEARS_S = 315_360_000.0

Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]


class AttributionSettings(BaseModel):
    """The rule by which a conversion of a unit goes to decisions that the unit touched; frozen.

    >>> AttributionSettings(kinds=("purchase",), window_s=300).rule
    'last'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: Literal["last", "first", "even"] = Field(
        "last", description="who gets a conversion: the unit's last or first touched decision, or all of them evenly"
    )
    window_s: float = Field(
        gt=0,
        le=TEN_YEARS_S,
        allow_inf_nan=False,
        description="seconds after a touch a conversion counts for it",
    )
    grace_s: float = Field(
        10.0,
        ge=0,
        le=TEN_YEARS_S,
        allow_inf_nan=False,
        description="seconds of event time that a conversion waits for touches which arrive after it",
    )
    touch_kinds: Names = Field(("click",), description="kinds of outcomes that touch a unit")
    kinds: Names = Field(description="kinds of conversions that are attributed")


def refused(policy: PolicySettings) -> str | None:
    """Why a policy's attribution cannot be, None if it can or there is none."""
    mine = policy.attribution
    if mine is None:
        return None
    listed = ", ".join(sorted(policy.outcomes))
    for name in ("kinds", "touch_kinds"):
        strange = sorted(set(getattr(mine, name)) - set(policy.outcomes))
        if strange:
            return f"attribution.{name} has {strange}: every kind must be among outcomes ({listed}); add it there, with what it is worth"
    both = sorted(set(mine.kinds) & set(mine.touch_kinds))
    if both:
        return (
            f"attribution.kinds and attribution.touch_kinds both have {both}: what is attributed would be a touch for the "
            "next conversion; take it out of one of them"
        )
    if mine.window_s > max(policy.window_s, policy.token_window_s):
        tokens = f" and than token_window_s = {policy.token_window_s:g}" if policy.token_window_s else ""
        return (
            f"attribution.window_s = {mine.window_s:g} is longer than window_s = {policy.window_s:g}{tokens}: such an outcome comes after "
            "its impression has left the join and would always be late; raise window_s (pending impressions take memory for it), "
            "or attribute less far back"
        )
    if mine.grace_s >= policy.grace_s:
        return (
            f"attribution.grace_s = {mine.grace_s:g}: must be below grace_s = {policy.grace_s:g}, because an outcome that is attributed after "
            "the conversion has waited must still find its impression; lower it, or raise grace_s"
        )
    return None


def rules_differ(policies: Mapping[str, PolicySettings]) -> str | None:
    """Why the policies cannot share their conversions: one of a kind is given out by one rule. None if they can.

    >>> rules_differ({}) is None
    True
    """
    first: dict[str, tuple[str, str]] = {}
    for name, policy in policies.items():
        if policy.attribution is None:
            continue
        rule = policy.attribution.rule
        for kind in policy.attribution.kinds:
            other, theirs = first.setdefault(kind, (name, rule))
            if theirs != rule:
                return (
                    f"policies {other!r} and {name!r} attribute {kind!r} by the rules {theirs!r} and {rule!r}: a conversion that names no "
                    "policy goes to the touches of both, so their rules must be equal; choose one, or give them kinds of their own"
                )
    return None
