"""What the demo shows: a table that lives while it runs, and the summary."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_BARS = "▁▂▃▄▅▆▇█"


@dataclass(slots=True, kw_only=True)
class Status:
    """What is known at one moment; times in seconds, None where nothing is known yet."""

    elapsed_s: float = 0.0
    seconds: float = 0.0
    events: int = 0
    rate: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)
    ctr: float | None = None
    ctr_uniform: float | None = None
    ctr_best: float | None = None
    share: float | None = None
    share_fixed: float | None = None
    drift_s: float | None = None
    shares: Sequence[float] = ()
    version: int | None = None
    age_s: float | None = None
    fresh_p50_s: float | None = None
    fresh_p99_s: float | None = None
    client: str = ""
    addresses: Sequence[tuple[str, str]] = ()


def table(status: Status) -> Table:
    """The live table."""
    grid = Table(title=_title(status), title_justify="left", show_header=False, min_width=76)
    grid.add_column(style="bold")
    grid.add_column()
    counts = status.counts
    grid.add_row("events in", f"{status.events:,} ({status.rate:,.0f} a second)")
    known = "   ".join(f"{name} {counts.get(name, 0):,}" for name in ("joined", "late", "waiting", "unmatched", "dead"))
    grid.add_row("clicks", known)
    grid.add_row("click rate", _rates(status))
    grid.add_row("of what is possible", f"{_percent(status.share)}  {sparkline(status.shares)}")
    drift = "" if status.drift_s is None else f"   (the arms have changed at {status.drift_s:.0f} s)"
    grid.add_row("without meta-updates", f"{_percent(status.share_fixed)}{drift}")
    grid.add_row(
        "snapshot", f"version {_plain(status.version)}, {_seconds(status.age_s)} old   {status.client}".rstrip()
    )
    delays = f"p50 {_seconds(status.fresh_p50_s)}, p99 {_seconds(status.fresh_p99_s)}"
    grid.add_row("click to snapshot", delays)
    for name, url in status.addresses:
        grid.add_row(f"{name} metrics", url)
    return grid


def sparkline(values: Sequence[float], most: int = 40) -> str:
    """The last values from 0 to 1 as a row of little bars.

    >>> sparkline([0.0, 0.5, 1.0])
    '▁▄█'
    """
    return "".join(_BARS[min(7, max(0, int(value * 7.999)))] for value in values[-most:])


def summary(report: Mapping[str, object]) -> Table:
    """The end's table: the report as it is in JSON, in words."""
    grid = Table(title="clickloop demo: what happened", title_justify="left", show_header=False, min_width=76)
    grid.add_column(style="bold")
    grid.add_column()
    for name, value in report.items():
        grid.add_row(name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else _words(value))
    return grid


def _words(value: object) -> str:
    if isinstance(value, list):
        return "\n".join(str(one) for one in value) or "-"
    return f"{value:,}" if isinstance(value, int) else _plain(value)


def _title(status: Status) -> str:
    return f"clickloop demo: {status.elapsed_s:.0f} of {status.seconds:.0f} s (Ctrl-C ends it)"


def _rates(status: Status) -> str:
    chosen, uniform, best = _percent(status.ctr), _percent(status.ctr_uniform), _percent(status.ctr_best)
    return f"[bold cyan]{chosen}[/] shown   {uniform} uniform random   {best} best possible"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def _plain(value: object) -> str:
    return "-" if value is None else str(value)
