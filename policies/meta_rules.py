"""Settings of the meta-update, checked when a program starts; see policies/meta.py."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from policies.rollout_plan import Plan

WAYS = ("fixed", "roll-outs", "top-layer")
ALPHAS = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
"""Rates that are compared, in calibrated standard deviations; 0 is left out."""
DEFAULT = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a meta-update does: settings, fixed while a policy runs.

    Attributes:
        model: of the policy; see `policies.model.MODELS`.
        dimension: d, 0 for beta.
        intercept: index of the context's constant, None without one.
        explore: "fixed" keeps `alphas[default]`; "roll-outs" and "top-layer" move from it.
        alphas: grid of rates.
        default: index of the rate that a policy begins with.
        every: events between roll-outs.
        sure: standard errors by which another rate must lead before it is taken.
        plan: how roll-outs are played; hazards and lag are put in from what is observed.
        delay: mean delay of a click in events, for the lag of roll-outs.

    Raises:
        ValueError: a setting that cannot work.

    >>> Rules(model="logistic", dimension=2, explore="roll-outs")
    Traceback (most recent call last):
    ValueError: explore = 'roll-outs' with the model 'logistic': roll-outs play with rewards, its numbers are logits; use 'fixed' or 'top-layer'
    """

    model: str
    dimension: int
    intercept: int | None = None
    explore: str = "fixed"
    alphas: tuple[float, ...] = ALPHAS
    default: int = ALPHAS.index(DEFAULT)
    every: int = 5000
    sure: float = 2.0
    plan: Plan = field(default_factory=Plan)
    delay: float = 0.0

    def __post_init__(self) -> None:
        if self.explore not in WAYS:
            raise ValueError(f"explore = {self.explore!r}: there is no such way; choose one of {', '.join(WAYS)}")
        if self.explore == "roll-outs" and self.model == "logistic":
            raise ValueError(
                "explore = 'roll-outs' with the model 'logistic': roll-outs play with rewards, its numbers are logits; "
                "use 'fixed' or 'top-layer'"
            )
        if not self.alphas or not all(0.0 < alpha < math.inf for alpha in self.alphas):
            raise ValueError(f"alphas = {self.alphas}: must be one rate or more, finite and above zero")
        if not 0 <= self.default < len(self.alphas):
            raise ValueError(f"default = {self.default}: must be the index of one of {len(self.alphas)} rates")
        if self.every < 1 or self.sure < 0.0 or not 0.0 <= self.delay < math.inf:
            raise ValueError(
                f"every = {self.every}, sure = {self.sure}, delay = {self.delay}: at least 1, 0 and 0, and finite"
            )
