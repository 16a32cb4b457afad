"""The settings of one policy: its model, its window, what its outcomes are worth, how it explores."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from policies.arm_features import Features, standardised
from policies.explorers import EXPLORERS
from streams.outcomes import TAKING_BACK
from streams.settings_attribution import AttributionSettings, refused
from streams.settings_errors import SettingsError, did_you_mean
from streams.settings_exploring import groups_of, unfit_exploration
from streams.settings_features import FeatureSettings
from streams.settings_texts import TextPolicy
from streams.settings_texts import unfit as texts_unfit
from streams.settings_tokens import unfit

if TYPE_CHECKING:
    from collections.abc import Iterable

TEN_YEARS_S = 315_360_000.0
"""Longer spans are mistakes (milliseconds, most likely), and their ends do not fit what Kafka keeps times in."""
LEAST_S = 0.001
"""Event time is in whole milliseconds."""
ARM_RECORD_BYTES = 7_500_000
"""What an arm's sums may take: they are one record of a topic that takes 8 MiB."""
MOST_SHARED = 4096
"""Weights that arms may share at most, (1 + features) dimension: their covariance is inverted with each fit."""

Seconds = Annotated[float, Field(ge=0, le=TEN_YEARS_S, allow_inf_nan=False)]
Span = Annotated[float, Field(gt=0, le=TEN_YEARS_S, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, le=1e30, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=-1e30, le=1e30, allow_inf_nan=False)]


class PolicySettings(TextPolicy):
    """How one policy learns and explores; frozen, and refused as a whole if a value makes no sense.

    >>> PolicySettings(dimension=8).window_s
    600.0
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Literal["linear", "hybrid", "student", "logistic", "beta"] = Field(
        "linear", description="what is learned for each arm"
    )
    dimension: int = Field(0, ge=0, le=4096, description="length d of the context vector; 0 only for model beta")
    window_s: Span = Field(600.0, description="seconds after an impression a click counts")
    early_s: Seconds = Field(60.0, description="seconds before its impression a click counts, for clocks that disagree")
    token_window_s: Seconds = Field(
        0.0, description="seconds after a decision an outcome counts that brings the decision's token; 0 for no tokens"
    )
    grace_s: Seconds = Field(60.0, description="seconds of event time that a row is kept beyond its window")
    half_life_s: Seconds = Field(0.0, description="half-life of old data in seconds; 0 forgets nothing")
    half_lives_s: tuple[Seconds, ...] = Field(
        (),
        description="half-lives in seconds to learn with side by side, from the longest (0, nothing is forgotten) to the shortest",
    )
    delays_s: tuple[Span, ...] = Field(
        (), description="grid of mean click delays in seconds; empty for no correction of pending impressions"
    )
    drift: Literal["off", "alarm", "reset"] = Field(
        "off",
        description="whether each arm's click rate is tested for changes, and after an alarm its sums count 5% (reset); needs the feedback",
    )
    outcomes: dict[str, Weight] = Field(
        default_factory=lambda: {"click": 1.0}, description="what an outcome of each kind is worth; at least one"
    )
    aggregate: Literal["sum", "max", "min", "earliest", "count"] = Field(
        "sum", description="how several outcomes of one impression become its reward"
    )
    counts_on: Literal["impression", "viewable"] = Field(
        "impression", description="whether each impression counts, or only once a viewable event came for it"
    )
    viewable_kind: str = Field(
        "viewable", min_length=1, description="kind of the viewable event; one that is not among outcomes earns nothing"
    )
    retraction_window_s: Seconds = Field(
        0.0,
        description="seconds after an impression its outcomes can be taken back; rows are kept so long; 0 is as long as window_s",
    )
    reward_bounds: tuple[Weight, Weight] | None = Field(
        None, description="least and largest reward of one impression, 0 among them; rewards beyond are cut to these"
    )
    feature_limit: Rate | None = Field(
        None,
        gt=0,
        description="contexts enter the sums with each component cut to this on either side of 0; left out: as they are",
    )
    huber: Rate | None = Field(
        None,
        gt=0,
        description="rewards that lie farther from what was expected are cut to this distance, in the reward's unit; left out: none are",
    )
    unit_limit: int = Field(
        0,
        ge=0,
        le=1_000_000_000,
        description="impressions of one unit that learn in unit_window_s, for each partition; 0 for any number",
    )
    unit_window_s: Annotated[float, Field(ge=1, le=TEN_YEARS_S, allow_inf_nan=False)] = Field(
        3600.0, description="seconds of event time of which each stretch counts by itself for unit_limit"
    )
    expire_s: Seconds = Field(
        0.0,
        description="seconds of event time after an arm's last impression when its sums are dropped; 0 keeps them for ever",
    )
    explorer: Literal["thompson", "ucb", "epsilon-greedy", "softmax", "squarecb", "explore-first", "uncertainty"] = (
        Field("thompson", description="how arms are chosen")
    )
    alpha: Rate | None = Field(
        None,
        description="width of the exploration; 0 is greedy; left out, it is 0.3 for thompson and 1 for ucb",
    )
    explore: Literal["fixed", "roll-outs", "top-layer"] = Field(
        "fixed",
        description="whether alpha stays, or Bayesian roll-outs beside the stream move it (thompson only), or the top layer draws one of the "
        "choices for each snapshot and moves by what they earn",
    )
    choices: tuple[dict[str, str | float], ...] = Field(
        (),
        max_length=19,
        description="explore top-layer: ways to explore beside the policy's own, each a table of explorer and its rates; left out, usual alphas",
    )
    explore_every: int = Field(5000, ge=1, description="impressions between two roll-outs at least")
    group_by: str | None = Field(
        None,
        min_length=1,
        description="model hybrid: field of arms under ads (budget, cap or a field of your own) by which they are grouped: new ones start "
        "from their group",
    )
    tau: Rate = Field(0.02, gt=0, description="temperature of softmax, in the reward's unit; towards 0 it is greedy")
    gamma_scale: Rate = Field(10.0, description="greediness of squarecb; 0 is uniform")
    first: Rate = Field(1000.0, description="impressions that explore-first shows at random before it is greedy")
    power: Rate = Field(1.0, description="power of the standard deviation that uncertainty goes by; 0 is uniform")
    epsilon: Share = Field(0.005, description="share of decisions drawn uniformly")
    mode: Literal["online", "apprentice", "logging"] = Field(
        "online",
        description="who decides: the policy itself; the policy that it follows, while it learns beside it (apprentice); the fallback (logging)",
    )
    follows: str | None = Field(None, min_length=1, description="mode apprentice: the policy that decides")
    audit_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of decisions drawn uniformly for ever and told apart, as a yardstick; its size is audited",
    )
    audit_sticky_s: int = Field(
        0,
        ge=0,
        le=31 * 86_400,
        description="seconds for which a unit stays in the random share or out of it; 0 draws it for each decision. Its size is not audited "
        "then, as decisions of one unit are not independent",
    )
    audit: bool = Field(
        False,
        description="whether logged propensities are audited: alarms where arms are shown more often than they say",
    )
    audit_least: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="the least propensity of any arm, where every decision chooses among all arms: then the audit also finds arms shown "
        "too rarely; 0 where some decisions have other candidates",
    )
    sticky_canaries: bool = Field(
        False,
        description="whether pending impressions keep their unit (8 bytes each) and matured rows tell it, so that visitors can keep the "
        "group of a canary (policy propose --sticky)",
    )
    matured_share: Share = Field(1.0, description="share of matured impressions written to the feedback topic")
    intercept: int | None = Field(None, ge=0, description="index of the constant in the context, if there is one")
    encoder: str | None = Field(
        None,
        min_length=1,
        description="fingerprint of the encoder that makes the contexts; sums of another are refused",
    )
    point: tuple[Weight, ...] = Field(
        (), description="model logistic: weights, one for each feature, around which it is linearised; empty for zeros"
    )
    features: FeatureSettings | None = Field(
        None, description="named features that make the context; dimension and intercept follow from them"
    )
    arms: tuple[str, ...] = Field((), description="arms that exist before any impression")
    arm_features: dict[str, tuple[Weight, ...]] = Field(
        default_factory=dict,
        description="model hybrid: numbers that tell what arms have in common, by arm, as many for each; arms without any "
        "start from the mean arm",
    )
    attribution: AttributionSettings | None = Field(
        None, description="conversions that name a unit and no decision: how they are given to its touched decisions"
    )

    @model_validator(mode="before")
    @classmethod
    def _dimension_of_features(cls, given: Any) -> Any:
        """What features imply, where it is not given; features that are wrong are left to their own errors."""
        if not isinstance(given, dict) or given.get("features") is None:
            return given
        try:
            features = FeatureSettings.model_validate(given["features"]).features
        except ValidationError:
            return given
        return {"dimension": features.dimension, "intercept": 0 if features.intercept else None} | given

    @field_validator("window_s", "half_life_s", "half_lives_s", "delays_s")
    @classmethod
    def _whole_milliseconds(cls, value: float | tuple[float, ...], info: ValidationInfo) -> float | tuple[float, ...]:
        spans = value if isinstance(value, tuple) else (value,)
        short = [span for span in spans if 0 < span < LEAST_S]
        if short:
            raise ValueError(
                f"{info.field_name} = {value}: {short[0]} s is shorter than the least, {LEAST_S} s; set more"
            )
        if len(set(spans)) < len(spans):
            raise ValueError(f"{info.field_name} = {value}: must be distinct; remove the surplus ones")
        return value

    @model_validator(mode="after")
    def _half_lives_are_a_ladder(self) -> Self:
        lengths = [half_life or float("inf") for half_life in self.half_lives_s]
        if any(longer <= shorter for longer, shorter in pairwise(lengths)):
            raise ValueError(
                f"half_lives_s = {list(self.half_lives_s)}: must go from the longest to the shortest, with 0 (nothing is forgotten) only "
                "as the first; for example [0, 86400, 3600]"
            )
        if self.half_lives_s and self.half_life_s:
            raise ValueError(
                f"half_life_s = {self.half_life_s} beside half_lives_s = {list(self.half_lives_s)}: one of them says what is "
                "forgotten; put it among half_lives_s"
            )
        return self

    @field_validator("outcomes")
    @classmethod
    def _outcomes_not_empty(cls, outcomes: dict[str, float]) -> dict[str, float]:
        if not outcomes:
            raise ValueError('outcomes = {}: must list at least one kind and its worth, for example {"click": 1.0}')
        if "" in outcomes:
            raise ValueError(f"outcomes = {outcomes}: a kind must not be the empty string; give it a name or remove it")
        reserved = sorted(outcomes.keys() & TAKING_BACK.keys())
        if reserved:
            raise ValueError(
                f"outcomes lists {reserved}: these kinds take other outcomes back and are worth nothing themselves; "
                "remove them, or give yours another name"
            )
        return outcomes

    @field_validator("viewable_kind")
    @classmethod
    def _viewable_takes_nothing_back(cls, kind: str) -> str:
        if kind in TAKING_BACK:
            raise ValueError(
                f"viewable_kind = {kind!r}: this kind takes outcomes back; give the viewable event another name"
            )
        return kind

    @field_validator("reward_bounds")
    @classmethod
    def _bounds_hold_zero(cls, bounds: tuple[float, float] | None) -> tuple[float, float] | None:
        if bounds is not None and not (bounds[0] <= 0.0 <= bounds[1] and bounds[0] < bounds[1]):
            raise ValueError(
                f"reward_bounds = {list(bounds)}: must be the least and the largest reward with 0 among them, "
                "because an impression without an outcome has the reward 0; for example [0, 5]"
            )
        return bounds

    @field_validator("arms")
    @classmethod
    def _arms_distinct(cls, arms: tuple[str, ...]) -> tuple[str, ...]:
        wrong = sorted({arm for arm in arms if arms.count(arm) > 1 or not arm})
        if wrong:
            raise ValueError(f"arms: {wrong} must be distinct and not empty; remove the surplus ones")
        return arms

    @model_validator(mode="after")
    def _arm_features_fit(self) -> Self:
        if self.arm_features and self.model != "hybrid":
            raise ValueError(
                f"arm_features with model = {self.model!r}: only the model 'hybrid' learns what arms share; "
                "set model = 'hybrid' or leave arm_features out"
            )
        try:
            features = self.features_of_arms
        except ValueError as error:
            raise ValueError(f"arm_features: {error}") from error
        most = MOST_SHARED // max(self.dimension, 1) - 1
        given = self.arm_texts if features is None else features.length - 1
        if given > most:
            raise ValueError(
                f"{'arm_texts' if features is None else 'arm_features'} has {given} numbers for each arm: with dimension = {self.dimension} at most "
                f"{max(most, 0)} are allowed, because a prior of (1 + features) dimension weights is fitted; use fewer features"
            )
        return self

    @model_validator(mode="after")
    def _dimension_fits(self) -> Self:
        if self.model != "beta" and self.dimension < 1:
            raise ValueError(
                f"dimension = {self.dimension}: must be at least 1 for the {self.model} model; "
                "set it to the length of the context vector, or set model = 'beta' to learn without a context"
            )
        size = 4 * self.dimension * (self.dimension + 2) * (1 + len(self.delays_s))
        if self.model != "beta" and size > ARM_RECORD_BYTES:
            raise ValueError(
                f"dimension = {self.dimension} with {len(self.delays_s)} delays_s: the sums of an arm would take {size} bytes, "
                f"and a record of them may take {ARM_RECORD_BYTES}; project the context to fewer dimensions, or name fewer delays"
            )
        if self.encoder is not None and self.model == "beta":
            raise ValueError(
                f"encoder = {self.encoder!r}: the model beta has no context to encode; set another model or leave it out"
            )
        if self.intercept is not None and self.intercept >= self.dimension:
            raise ValueError(
                f"intercept = {self.intercept}: must be below dimension = {self.dimension}; "
                "name the index of the context's constant or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _apprentices_follow(self) -> Self:
        if (self.mode == "apprentice") != (self.follows is not None):
            raise ValueError(
                f"mode = {self.mode!r} with follows = {self.follows!r}: an apprentice, and no other, follows a policy; give both or neither"
            )
        return self

    @model_validator(mode="after")
    def _sticks_alone(self) -> Self:
        if self.audit_sticky_s and (self.audit or not self.audit_share):
            raise ValueError(
                f"audit_sticky_s = {self.audit_sticky_s} with audit_share = {self.audit_share:g} and audit = {self.audit}: it needs a share "
                "to stick to, and the audit of propensities takes decisions for independent; set audit_share above 0 and leave audit out"
            )
        return self

    @model_validator(mode="after")
    def _huber_fits(self) -> Self:
        if self.huber is not None and self.model in ("logistic", "beta"):
            raise ValueError(
                f"huber = {self.huber} with model = {self.model!r}: its rewards lie between 0 and 1 and cannot be outliers; leave huber out, "
                "or set model = 'linear', 'hybrid' or 'student'"
            )
        return self

    @model_validator(mode="after")
    def _positions_fit(self) -> Self:
        if self.positioned and self.model in ("logistic", "beta"):
            raise ValueError(
                f"model = {self.model!r} with position effects (positions = {self.positions!r}, {self.kappa}): they scale contexts, which this "
                "model cannot take; set model = 'linear', 'hybrid' or 'student', or leave positions out"
            )
        return self

    @model_validator(mode="after")
    def _retractions_have_time(self) -> Self:
        if 0 < self.retraction_window_s < self.window_s:
            raise ValueError(
                f"retraction_window_s = {self.retraction_window_s}: must be 0 or at least window_s = {self.window_s}, "
                "because what counts can be taken back as long as it counts; set more or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _expiry_is_longer_than_the_window(self) -> Self:
        if 0 < self.expire_s < self.kept_s:
            raise ValueError(
                f"expire_s = {self.expire_s}: must be 0 (never) or at least {self.longest_window} + grace_s = {self.kept_s}, "
                "because clicks on the arm's last impressions still come; set more"
            )
        return self

    @model_validator(mode="after")
    def _tokens_fit(self) -> Self:
        reason = unfit(self) or texts_unfit(self)
        if reason is not None:
            raise ValueError(reason)
        return self

    @model_validator(mode="after")
    def _logistic_fits(self) -> Self:
        if self.point and (self.model != "logistic" or len(self.point) != self.dimension):
            raise ValueError(
                f"point has {len(self.point)} numbers and the model is {self.model}: allowed with model = 'logistic' only, "
                f"one for each of dimension = {self.dimension} features; or leave it out"
            )
        outside = {kind: worth for kind, worth in self.outcomes.items() if not 0 <= worth <= 1}
        if self.model == "logistic" and outside:
            raise ValueError(
                f"outcomes = {outside}: must lie between 0 and 1 for the logistic model, which learns a chance; "
                "scale them, or set model = 'linear'"
            )
        return self

    @model_validator(mode="after")
    def _features_fit(self) -> Self:
        if self.features is None:
            return self
        features = self.features.features
        wanted = {"dimension": features.dimension, "intercept": 0 if features.intercept else None}
        wrong = [name for name, value in wanted.items() if getattr(self, name) != value]
        if wrong:
            name = wrong[0]
            raise ValueError(f"{name} = {getattr(self, name)}: the features make it {wanted[name]}; leave {name} out")
        if self.model == "beta" or self.encoder is not None:
            raise ValueError(
                f"features with model = {self.model!r} and encoder = {self.encoder!r}: allowed are models with a context, "
                "and no other encoder, because the features' own fingerprint stands there; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _exploration_fits(self) -> Self:
        why_not = unfit_exploration(self)
        if why_not is not None:
            raise ValueError(why_not)
        return self

    @model_validator(mode="after")
    def _attribution_fits(self) -> Self:
        why_not = refused(self)
        if why_not is not None:
            raise ValueError(why_not)
        return self

    @property
    def fingerprint(self) -> str | None:
        """Of what makes the contexts, features or encoder; None if nothing is declared."""
        return self.encoder if self.features is None else self.features.features.fingerprint

    @property
    def features_of_arms(self) -> Features | None:
        """The declared features of arms, standardised; None if there are none."""
        return standardised(self.arm_features)

    @property
    def group_of(self) -> dict[str, str]:
        """The group of each arm that has one."""
        return {} if self.group_by is None else groups_of(self.ads, self.group_by)

    @property
    def rates(self) -> dict[str, float]:
        """The explorer's rate by its name, and "epsilon"."""
        explorer = EXPLORERS[self.explorer]
        given = getattr(self, explorer.rate)
        return {explorer.rate: explorer.default if given is None else given, "epsilon": self.epsilon}

    @property
    def kept_s(self) -> float:
        """Seconds of event time that an impression is needed for: its window, for clicks or retractions, and the grace."""
        return max(self.window_s, self.retraction_window_s) + self.grace_s

    @property
    def longest_window(self) -> str:
        """The name of the setting that says how long an impression is needed."""
        return "retraction_window_s" if self.retraction_window_s > self.window_s else "window_s"

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds of outcomes that the policy can use, those that take others back left out."""
        return frozenset(self.outcomes) | ({self.viewable_kind} if self.counts_on == "viewable" else frozenset())

    @property
    def counted_s(self) -> float:
        """Seconds of event time after an impression in which an outcome can still count, by the join or by a token, and the grace."""
        return max(self.window_s, self.token_window_s) + self.grace_s

    @property
    def reread_s(self) -> float:
        """Seconds of event time that a rebuild reads: `kept_s`, and where units are limited the stretch that they are counted in."""
        return self.kept_s + (self.unit_window_s if self.unit_limit else 0.0)


class UnknownPolicyError(SettingsError):
    """No policy of that name; the text lists those that there are.

    >>> raise UnknownPolicyError("hom", known=["home"])
    Traceback (most recent call last):
    streams.settings_policy.UnknownPolicyError: there is no policy 'hom' in the settings; did you mean home?
    """

    def __init__(self, name: str, *, known: Iterable[str]) -> None:
        known = tuple(known)
        hint = did_you_mean(name, known) if known else "the settings have none: name their file by --config"
        super().__init__(f"there is no policy {name!r} in the settings; {hint}")
