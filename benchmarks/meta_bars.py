"""The bars of benchmarks/meta.py: ratios of regrets over paired seeds, with their intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import t as student

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Regrets = dict[str, dict[str, dict[int, float]]]
"""By environment, system and seed."""

OURS = "clickloop"
DRIFTING = ("stationary", "abrupt", "gradual", "churn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A bar: in `environment`, regret of clickloop over that of `against` is at most `limit`.

    `against` is a system, or "best fixed alpha" or "best pair": those with the least mean regret over the seeds measured.
    `not_worse`: it is enough that the interval reaches the limit.
    """

    number: int
    environment: str
    against: str
    limit: float
    not_worse: bool = False


BARS = (
    Bar(number=1, environment="stationary", against="best fixed alpha", limit=1.10),
    Bar(number=2, environment="abrupt", against="best fixed alpha", limit=0.90),
    Bar(number=2, environment="abrupt", against="best pair", limit=1.05),
    Bar(number=3, environment="gradual", against="best pair", limit=1.10),
    Bar(number=4, environment="rare", against="best fixed alpha", limit=1.00, not_worse=True),
    *(Bar(number=5, environment=one, against="textbook", limit=0.50) for one in DRIFTING),
    *(Bar(number=6, environment=one, against="vowpalwabbit-squarecb", limit=0.75) for one in DRIFTING),
    *(Bar(number=7, environment=one, against="best pair", limit=1.15) for one in DRIFTING),
)
"""Those of the project, 10 paired seeds, no floor. 7 is the worst case: each environment must hold it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What was measured of a bar.

    Attributes:
        bar: which.
        rival: the system that `against` is.
        ratio, low, high: of mean regrets, and its 95% interval over paired seeds; infinite for one seed.
        seeds: measured for both.
    """

    bar: Bar
    rival: str
    ratio: float
    low: float
    high: float
    seeds: tuple[int, ...]

    @property
    def holds(self) -> bool:
        """Whether the ratio, or where not being worse is enough its interval's low end, is at most the limit."""
        return (self.low if self.bar.not_worse else self.ratio) <= self.bar.limit


def held(regrets: Regrets, fixed: Mapping[str, Sequence[str]], *, ours: str = OURS) -> list[Held]:
    """The bars for which both sides were measured, over the seeds that both have.

    Args:
        regrets: see `Regrets`.
        fixed: systems of "best fixed alpha" and of "best pair".
        ours: the system that is judged.

    >>> found = held({"stationary": {"clickloop": {0: 9.0, 1: 11.0}, "a": {0: 10.0, 1: 10.0}}}, {"best fixed alpha": ["a"]})
    >>> [(one.bar.number, one.ratio, one.holds) for one in found]
    [(1, 1.0, True)]
    """
    results = []
    for bar in BARS:
        systems = regrets.get(bar.environment, {})
        mine = systems.get(ours, {})
        rivals = [one for one in fixed.get(bar.against, [bar.against]) if systems.get(one)]
        seeds = tuple(sorted(set(mine).intersection(*(systems[one] for one in rivals)))) if rivals else ()
        if not seeds:
            continue
        rival = min(rivals, key=lambda one: sum(systems[one][seed] for seed in seeds))
        ratio, low, high = paired([mine[seed] for seed in seeds], [systems[rival][seed] for seed in seeds])
        results.append(Held(bar=bar, rival=rival, ratio=ratio, low=low, high=high, seeds=seeds))
    return results


def paired(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Ratio of the means of paired values, and its 95% interval by Student's t of ours - ratio theirs (delta method).

    >>> paired([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    (2.0, 2.0, 2.0)
    """
    mine, rival = np.array(ours), np.array(theirs)
    n, ratio = len(mine), float(mine.mean() / rival.mean())
    if n < 2:
        return ratio, -np.inf, np.inf
    error = float(np.std(mine - ratio * rival, ddof=1) / n**0.5 / rival.mean())
    half = float(student.ppf(0.975, n - 1)) * error
    return ratio, ratio - half, ratio + half


def lines(found: Sequence[Held]) -> str:
    """One line for each bar."""
    return "\n".join(
        f"bar {one.bar.number} {one.bar.environment:11} {one.ratio:5.2f} [{one.low:5.2f}, {one.high:5.2f}] of "
        f"{one.bar.against + ('' if one.bar.against == one.rival else f' ({one.rival})'):42} {'not above' if one.bar.not_worse else 'at most'} {one.bar.limit:.2f}: "
        f"{'holds' if one.holds else 'FAILS'} ({len(one.seeds)} seeds)"
        for one in found
    )
