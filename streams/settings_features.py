"""The settings of a policy's named features; what they mean is in policies/features.py."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from policies.features import Cross, Features, Numeric

Constant = Annotated[float, Field(allow_inf_nan=False)]
Buckets = Annotated[int, Field(ge=1, le=4096)]


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

    @model_validator(mode="after")
    def _can_be_made(self) -> Self:
        _ = self.features
        return self

    @cached_property
    def features(self) -> Features:
        """The definition. Raises FeatureError if it makes no sense."""
        return Features(
            numeric={name: Numeric(mean=of.mean, sd=of.sd) for name, of in self.numeric.items()},
            categorical=self.categorical,
            crosses=tuple(Cross(of=cross.of, buckets=cross.buckets) for cross in self.crosses),
            intercept=self.intercept,
        )
