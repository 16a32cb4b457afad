"""The picture of `clickloop evaluate`: each policy's estimates with their intervals. Needs matplotlib (the extra `local`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SHOWN = ("ips", "snips", "dm", "dr", "dr-os")
"""Estimates that are drawn; the table has all."""


def draw(record: Mapping[str, Any], path: Path) -> None:
    """Draw `streams.evaluate.compare`'s record into a PNG file."""
    from matplotlib.figure import Figure

    policies = record["policies"]
    figure = Figure(figsize=(8, 1.2 + 0.6 * len(policies)), layout="constrained")
    axes = figure.subplots()
    for shift, name in enumerate(SHOWN):
        at = [i + 0.14 * (shift - 2) for i, found in enumerate(policies.values()) if name in found]
        found = [one[name] for one in policies.values() if name in one]
        value = [one["value"] for one in found]
        ends = [[v - one["low"] for v, one in zip(value, found, strict=True)]]
        ends.append([one["high"] - v for v, one in zip(value, found, strict=True)])
        axes.errorbar(value, at, xerr=ends, fmt="o", markersize=4, capsize=2, label=name)
    axes.set_yticks(range(len(policies)), list(policies))
    axes.invert_yaxis()
    axes.set_xlabel(f"mean reward of {record['rows_evaluated']:,} impressions, 95% bootstrap intervals")
    axes.set_title(f"policy {record['policy']}, learned from {record['rows_learned']:,} rows before them")
    axes.legend(ncols=len(SHOWN), loc="upper center", bbox_to_anchor=(0.5, -0.25), frameon=False)
    figure.savefig(path, dpi=120, format="png")
