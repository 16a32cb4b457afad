"""The settings of a policy's slots, of what is known of its arms, of budgets, caps and eligibility.

[policies.home]
allocation = "assignment"
[policies.home.slots.top]
size = "728x90"
[policies.home.slots.side]
position = 0.6
[policies.home.budgets.spring]
amount = 100.0
period_s = 86400
[policies.home.ads.ad-1]
budget = "spring"
click_cost = 0.2
sizes = ["728x90"]
[[policies.home.eligibility]]
arm = "sizes"
has = "slot.size"
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from policies.caps import MOST
from policies.eligibility import Eligibility, Fields, Rule, rules_from
from policies.terms import Pacing
from streams.slot_plans import fitting

Amount = Annotated[float, Field(ge=0, le=1e30, allow_inf_nan=False)]
Span = Annotated[float, Field(gt=0, le=315_360_000.0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Described(BaseModel):
    """Settings, and beside them fields of any name that eligibility rules go by: a string, a number or a list of these."""

    model_config = ConfigDict(frozen=True, extra="allow")

    @model_validator(mode="after")
    def _fields_are_plain(self) -> Any:
        for name, value in self.described.items():
            whole = value if isinstance(value, list | tuple) else (value,)
            if not all(isinstance(one, str | int | float) for one in whole):
                raise ValueError(f"{name} = {value!r}: must be a string, a number, or a list of these")
        return self

    @property
    def described(self) -> dict[str, Any]:
        """The fields that are no settings."""
        return dict(self.model_extra or {})


class SlotSettings(_Described):
    """One slot: its position effect until it is learned, and fields for eligibility.

    >>> SlotSettings.model_validate({"position": 0.5, "size": "728x90"}).described
    {'size': '728x90'}
    """

    position: Amount = Field(1.0, description="click rate of the slot against the first one's, until it is learned")


class AdSettings(_Described):
    """What is known of one arm beside its posterior, and fields for eligibility."""

    budget: str | None = Field(None, min_length=1, description="budget that its costs draw on")
    value: Amount = Field(1.0, description="worth of a unit of its reward")
    cost: Amount = Field(0.0, description="of an impression, where the event does not say it")
    click_cost: Amount = Field(0.0, description="of an outcome that counts, where the event does not say it")
    cap: str | None = Field(None, min_length=1, description="cap that its impressions count for")
    floor: Share = Field(0.0, description="least share of the shown slots")
    ceiling: Share = Field(1.0, description="largest share of the shown slots")


class BudgetSettings(BaseModel):
    """What may be spent in a period; periods follow each other by event time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    amount: Amount = Field(description="what may be spent in a period, in the unit of costs")
    period_s: Span = Field(86_400.0, description="length of a period in seconds")
    anchor_ms: int = Field(0, description="where a period begins, ms UTC")
    margin: Amount = Field(0.0, description="what is held back: the budget closes this much before it is spent")
    pacing: Pacing = Field("dual", description="whether a price spreads it over the period, or it only closes (none)")


class CapSettings(BaseModel):
    """How often a unit may see the arms of a cap, together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: int = Field(ge=0, le=MOST, description="impressions of a unit in the window")
    window_s: Span = Field(86_400.0, description="seconds that an impression counts")


class SlotPolicy(BaseModel):
    """The part of a policy's settings that is about slots; see `streams.settings_policy.PolicySettings`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    allocation: Literal["assignment", "sequential", "sort"] = Field(
        "assignment", description="how several slots are filled: the best together, in turn, or by sorting"
    )
    positions: Literal["fixed", "learn"] = Field(
        "fixed",
        description="whether position effects are those of the settings or learned from clicks; both scale contexts in the sums",
    )
    swap_share: Share = Field(
        0.0,
        description="share of decisions in which two slots exchange their arms, so that position and merit can be told apart",
    )
    repeat: bool = Field(False, description="whether one arm may stand in several slots of a decision")
    reserve: float | None = Field(
        None,
        allow_inf_nan=False,
        description="arms worth less than this in a slot leave it empty; left out: 0 with budgets, and without them no slot stays empty",
    )
    slots: dict[str, SlotSettings] = Field(default_factory=dict, description="what is known of slots, by name")
    ads: dict[str, AdSettings] = Field(default_factory=dict, description="what is known of arms, by name")
    budgets: dict[str, BudgetSettings] = Field(default_factory=dict, description="budgets by name")
    cost_kinds: tuple[str, ...] = Field(("click",), description="outcomes that cost an arm's click_cost")
    caps: dict[str, CapSettings] = Field(default_factory=dict, description="frequency caps of a unit by name")
    eligibility: tuple[dict[str, Any], ...] = Field((), description="rules on fields of arms, slots and requests")
    request_fields: tuple[str, ...] = Field((), description="names of fields that requests may bring for the rules")

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        for arm, ad in self.ads.items():
            for kind, name, known in (("budget", ad.budget, self.budgets), ("cap", ad.cap, self.caps)):
                if name is not None and name not in known:
                    raise ValueError(
                        f"ads: {arm!r} has {kind} = {name!r}, which {kind}s do not list; there are: {', '.join(sorted(known)) or 'none'}"
                    )
        return self

    @model_validator(mode="after")
    def _positions_can_be_learned(self) -> Self:
        if self.positions == "learn" and len(self.slots) < 2:
            raise ValueError(
                f"positions = 'learn' with slots {sorted(self.slots)}: effects are learned against the first slot; list two or more"
            )
        return self

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        for arm, ad in self.ads.items():
            if ad.floor > ad.ceiling:
                raise ValueError(f"ads: {arm!r} has floor = {ad.floor} above ceiling = {ad.ceiling}")
        total = sum(ad.floor for ad in self.ads.values())
        if total > 1.0 + 1e-12:
            raise ValueError(f"ads: floors add up to {total}; they are shares of the same slots: at most 1")
        return self

    @model_validator(mode="after")
    def _rules_can_be_made(self) -> Self:
        rules = self.rules
        slots = []
        for name, slot in self.slots.items():
            try:
                slots.append(fitting(rules, "slot", slot.described))
            except ValueError as error:
                raise ValueError(f"slots: {name!r}: {error}") from error
        for name, ad in self.ads.items():
            try:
                Eligibility(rules, arms=[ad.described]).mask(slots, {})
            except ValueError as error:
                raise ValueError(f"ads: {name!r}: {error}") from error
        return self

    @property
    def kappa(self) -> dict[str, float]:
        """Position effects of the settings by slot, those of 1 left out."""
        return {name: slot.position for name, slot in self.slots.items() if slot.position != 1.0}

    @property
    def positioned(self) -> bool:
        """Whether contexts enter the sums scaled by position effects."""
        return self.positions == "learn" or bool(self.kappa)

    @property
    def rule_fields(self) -> Fields:
        """Names that eligibility rules may use."""
        return Fields(
            arm=frozenset(name for ad in self.ads.values() for name in ad.described),
            slot=frozenset(name for slot in self.slots.values() for name in slot.described),
            request=frozenset(self.request_fields),
        )

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The eligibility rules. Raises ValueError if one makes no sense."""
        return rules_from(self.eligibility, self.rule_fields)
