"""The settings of a policy's named features; what they mean is in policies/features.py."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from policies.features import Cross, Features, Numeric
from policies.projection import length_of

Constant = Annotated[float, Field(allow_inf_nan=False)]
Buckets = Annotated[int, Field(ge=1, le=4096)]
Components = Annotated[int, Field(ge=1, le=1024)]


class NumericSettings(BaseModel):
    """Constants by which a number is standardised."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: Constant = Field(0.0, description="what is subtracted, in the value's unit")
    sd: Constant = Field(1.0, gt=0, description="what it is divided by then, in the value's unit")


class CrossSettings(BaseModel):
    """A product of features."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    of: tuple[str, ...] = Field(description="names of two or more features")
    buckets: Buckets | None = Field(None, description="columns for its categories; left out if all are numeric")


class FeatureSettings(BaseModel):
    """Named features of a policy.

    >>> settings = FeatureSettings.model_validate({"numeric": {"hour": {"mean": 12, "sd": 6}}, "categorical": {"device": 4}})
    >>> settings.features.dimension
    6
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    intercept: bool = Field(True, description="whether the vector begins with a constant 1")
    numeric: dict[str, NumericSettings] = Field(default_factory=dict, description="numbers, by name")
    categorical: dict[str, Buckets] = Field(default_factory=dict, description="words, by name: their number of buckets")
    crosses: tuple[CrossSettings, ...] = Field((), description="products of features")
    texts: dict[str, Components] = Field(
        default_factory=dict, description="texts, by name: how many components of their vectors"
    )
    projection: str | None = Field(
        None, description="name of the projection that makes these, as clickloop encoder project tells"
    )
    match: str | None = Field(
        None, description="text that arms' texts (ads: title, body, category) are matched with, as one more feature"
    )

    @model_validator(mode="after")
    def _can_be_made(self) -> Self:
        _ = self.features
        most = max(self.texts.values(), default=0)
        if self.projection is not None and not most <= self.length:
            raise ValueError(
                f"texts = {self.texts}: projection {self.projection!r} has {self.length} components; use at most these"
            )
        return self

    @property
    def length(self) -> int:
        """Number of components that the projection has, 0 without one. Raises FeatureError if it has no such name."""
        return 0 if self.projection is None else length_of(self.projection)

    @cached_property
    def features(self) -> Features:
        """The definition. Raises FeatureError if it makes no sense."""
        return Features(
            numeric={name: Numeric(mean=of.mean, sd=of.sd) for name, of in self.numeric.items()},
            categorical=self.categorical,
            crosses=tuple(Cross(of=cross.of, buckets=cross.buckets) for cross in self.crosses),
            intercept=self.intercept,
            texts=self.texts,
            projection=self.projection,
            match=self.match,
        )
