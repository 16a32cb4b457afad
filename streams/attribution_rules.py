"""From settings to the rules that conversions are attributed by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.attribution import Rule
from streams.validation import AHEAD_MS

if TYPE_CHECKING:
    from streams.settings import Settings


def touch_kinds(settings: Settings) -> dict[str, frozenset[str]]:
    """Of every policy that attributes, the kinds of outcomes that touch a unit."""
    return {
        name: frozenset(policy.attribution.touch_kinds)
        for name, policy in settings.attributing.items()
        if policy.attribution is not None
    }


def attribution_rules(settings: Settings) -> dict[str, Rule]:
    """Of every policy that attributes, by which rule, in whole milliseconds.

    What is needed is kept for the grace of the policy's impressions and as long as a clock may be ahead: one that is moves the
    watermark with it, and must not make late what others send.
    """
    return {
        name: Rule(
            how=policy.attribution.rule,
            window_ms=round(policy.attribution.window_s * 1000),
            grace_ms=round(policy.attribution.grace_s * 1000),
            keep_ms=round(policy.grace_s * 1000) + AHEAD_MS,
            kinds=frozenset(policy.attribution.kinds),
        )
        for name, policy in settings.attributing.items()
        if policy.attribution is not None
    }
