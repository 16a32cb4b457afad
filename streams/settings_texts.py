"""The settings of a policy that are about texts of arms, and about the policy that it is to succeed.

[policies.front-2]
model = "hybrid"
arm_texts = 4                     # components of an arm's text that arms share by
succeeds = "front"                # learns beside it, then decides in its place
[policies.front-2.features]
projection = "pca16:0f3c..."      # as `clickloop encoder project` tells
match = "query"
[policies.front-2.features.texts]
query = 16
[policies.front-2.ads.ad-1]
title = "Two red shoes"
body = "Hand-made, for a walk in the rain."
category = "shoes"
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from policies.succession import most_enough
from streams.settings_slots import SlotPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streams.settings_policy import PolicySettings

TEXT_FIELDS = ("title", "body", "category")
"""Fields of an arm in `ads` that make its text, in this order."""


class TextPolicy(SlotPolicy):
    """The part of a policy's settings that is about texts and succession; see `streams.settings_policy.PolicySettings`."""

    arm_texts: int = Field(
        0,
        ge=0,
        le=256,
        description="model hybrid: components of arms' texts (ads: title, body, category) that arms share by, as arm_features",
    )
    succeeds: str | None = Field(
        None,
        min_length=1,
        description="policy that this one learns beside, and takes over from when it has enough data",
    )
    contends: str | None = Field(
        None,
        min_length=1,
        description="policy of whose decisions this one makes a share, by what it earns; both learn from their own",
    )
    succession_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="share of the other policy's decisions that this one learns from until then"
    )
    succession_enough: Annotated[float, Field(gt=0, le=1000)] = Field(
        0.5, description="how much data is enough: decayed impressions as a part of the other policy's"
    )
    succession_least: Annotated[float, Field(ge=1, le=1e15)] = Field(
        1000.0, description="decayed impressions that it needs at least to take over"
    )

    @property
    def arms_texts(self) -> dict[str, str]:
        """Texts of the arms that have one: title, body and category, a line each."""
        texts = {arm: text_of(ad.described) for arm, ad in self.ads.items()}
        return {arm: text for arm, text in texts.items() if text}


def text_of(described: Mapping[str, Any]) -> str:
    r"""An arm's text from its fields, empty if it has none.

    >>> text_of({"category": "shoes", "title": "Two red shoes", "size": "728x90"})
    'Two red shoes\nshoes'
    """
    parts = [described[name] for name in TEXT_FIELDS if name in described]
    return "\n".join(part for part in parts if isinstance(part, str) and part)


def unfit(policy: PolicySettings) -> str | None:
    """What is wrong with a policy's texts in words, None if nothing is."""
    features = None if policy.features is None else policy.features.features
    projection = None if features is None else features.projection
    if policy.arm_texts and (policy.model != "hybrid" or projection is None or policy.arm_features):
        return (
            f"arm_texts = {policy.arm_texts} with model = {policy.model!r}, projection = {projection!r} and arm_features of "
            f"{len(policy.arm_features)} arms: needs model = 'hybrid' and a projection in [features], and no arm_features beside it"
        )
    if (policy.arm_texts or (features is not None and features.match)) and not policy.arms_texts:
        return "no arm has a text: give ads a title, body or category (strings), or leave arm_texts and match out"
    most = 0 if features is None or projection is None else policy.features.length  # type: ignore[union-attr]
    if policy.arm_texts > most > 0:
        return f"arm_texts = {policy.arm_texts}: projection {projection!r} has {most} components; use at most these"
    if policy.succeeds is not None and policy.succession_enough >= most_enough(policy.succession_share):
        return (
            f"succession_enough = {policy.succession_enough}: with succession_share = {policy.succession_share} the data tends to "
            f"{most_enough(policy.succession_share):.6g} of the other policy's and never gets there; ask for less, or a larger share"
        )
    return None


def line_problem(policies: Mapping[str, PolicySettings]) -> str | None:
    """What is wrong with who succeeds whom in words, None if nothing is."""
    after: dict[str, str] = {}
    for name, policy in policies.items():
        old = policy.succeeds
        if old is None:
            continue
        where = f"policies.{name}.succeeds = {old!r}"
        if old not in policies:
            return f"{where}: there is no such policy; keep its table until this one has taken over, then leave succeeds out"
        if old in after:
            return f"{where}: {after[old]!r} succeeds it already; a policy has one successor at a time"
        after[old] = name
        if policy.features is None or policies[old].features is None:
            return f"{where}: both need [features], so that one request's values make the context of either"
        if policies[old].budgets or policies[old].caps or policy.mode != "online":
            return (
                f"{where}: budgets and caps count by policy and would not hold for both together, and mode = {policy.mode!r} does not decide; "
                "a policy with budgets or caps has no successor, and a successor is online"
            )
        if policies[old].epsilon == 0.0:
            return f"{where}: {old!r} needs epsilon above 0: what it decides with certainty cannot be learned from by another"
    for name in policies:
        before = name
        while (one := policies[before].succeeds) is not None:
            if one == name:
                return f"policies.{name}.succeeds = {policies[name].succeeds!r}: policies succeed each other in a circle; break it"
            before = one
    return None


def line_of(policies: Mapping[str, PolicySettings], policy: str) -> tuple[str, ...]:
    """A policy and those that succeed it, one after another."""
    after = {known.succeeds: name for name, known in policies.items() if known.succeeds is not None}
    line = [policy]
    while line[-1] in after:
        line.append(after[line[-1]])
    return tuple(line)
