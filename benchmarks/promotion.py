"""Promotion by canary: false promotions, power, and how long it takes; and what sticky units do to bets on single decisions.

    python -m benchmarks.promotion --json

A canary makes 10% of the decisions, the base click rate is 5%. The test looks after every decision, up to --rows of them, in --runs
simulated streams each: without a lift, with one of 1.2 times, and with a loss of 0.8 times. "first" is what the first candidate of a policy
gets (it spends 3.04% of the level of 5%), "whole" a test that spends all of it. Then ten candidates without a lift one after another.

Sticky: visitors keep their group (half of them the canary's) and click at rates of their own, Beta(0.5, 9.5), without a lift. Bets on single
decisions of 1, 5 and 20 thousand visitors, against one bet for each visitor on the mean reward when the visitor's time is up.

Visits (`--only visits`): the same visitors, drawn anew in each of ten periods, and one bet for each visitor and period, as
`clickloop policy propose --sticky` does; against bets on single decisions of the same streams.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace

import numpy as np

from policies.batch import FloatArray
from policies.promotion import LEVEL, Bits, Trial, judged, spending, trial
from policies.visits import tally

SHARE, RATE = 0.1, 0.05
CANDIDATES = 10
UNITS = (1_000, 5_000, 20_000)
PERIODS = 10
DECISIONS = 200_000
"""Of all visitors of a sticky stream together."""


def main() -> None:
    """Run all and print them; with --json one object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="streams of each kind")
    parser.add_argument("--rows", type=int, default=200_000, help="decisions of a stream")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--only", choices=["visits"], help="nothing else")
    options = parser.parse_args()
    found: dict[str, float] = {"runs": options.runs, "rows": options.rows}
    if options.only is None:
        rng = np.random.default_rng(options.seed)
        found |= canaries(rng, options.runs, options.rows)
        found |= {"ten_candidates_false": campaigns(rng, options.runs, options.rows // CANDIDATES)}
        found |= sticky(rng, options.runs)
    found |= visits(np.random.default_rng([options.seed, 1]), options.runs)
    for name, value in found.items():
        print(f"{name:36} {value:.4g}")
    if options.json:
        print(json.dumps(found))


def whole(share: float) -> Trial:
    """A test that spends the whole level."""
    return replace(trial(1, share=share), level=LEVEL / spending(1, level=1.0))


def canaries(rng: np.random.Generator, runs: int, rows: int) -> dict[str, float]:
    """Shares of streams promoted and rolled back, and the median time, by lift and what may be spent."""
    found: dict[str, float] = {}
    for lift in (1.0, 1.2, 0.8):
        done: dict[str, list[Trial]] = {"first": [], "whole": []}
        for _ in range(runs):
            canary, reward = stream(rng, rows, lift)
            done["first"].append(judged(trial(1, share=SHARE), canary, reward))
            done["whole"].append(judged(whole(SHARE), canary, reward))
        for spends, tests in done.items():
            for verdict in ("promote", "roll back"):
                times = [one.canary + one.incumbent if one.verdict == verdict else math.inf for one in tests]
                name = f"{spends}_{lift:g}x_{verdict.replace(' ', '_')}"
                found[name] = float(np.mean(np.isfinite(times)))
                if np.isfinite(np.median(times)):
                    found[f"{name}_median_events"] = float(np.median(times))
    return found


def stream(rng: np.random.Generator, rows: int, lift: float) -> tuple[Bits, FloatArray]:
    """Whether the canary decided (n,), and whether it was clicked (n,)."""
    canary = rng.random(rows) < SHARE
    return canary, (rng.random(rows) < np.where(canary, RATE * lift, RATE)).astype(np.float64)


def campaigns(rng: np.random.Generator, runs: int, rows: int) -> float:
    """Share of policies that ever promote one of ten candidates without a lift."""
    return float(np.mean([any_promoted(rng, rows) for _ in range(runs)]))


def any_promoted(rng: np.random.Generator, rows: int) -> bool:
    """Whether one of ten is."""
    tests = (judged(trial(k, share=SHARE), *stream(rng, rows, 1.0)) for k in range(1, CANDIDATES + 1))
    return any(one.verdict == "promote" for one in tests)


def sticky(rng: np.random.Generator, runs: int) -> dict[str, float]:
    """False promotions of visitors that keep their group, by their number: bets on decisions, and one bet each; and its power."""
    found: dict[str, float] = {}
    for units in UNITS:
        by_decision, by_unit, better = 0, 0, 0
        for _ in range(runs):
            group, rate = rng.random(units) < 0.5, rng.beta(0.5, 9.5, units)
            unit = rng.integers(0, units, DECISIONS)
            by_decision += promoted(group[unit], (rng.random(DECISIONS) < rate[unit]).astype(np.float64))
            each = np.bincount(unit, minlength=units)
            seen = each > 0
            clicks = rng.binomial(each, rate)
            by_unit += promoted(group[seen], clicks[seen] / each[seen])
            clicks = rng.binomial(each, np.minimum(np.where(group, 1.2 * rate, rate), 1.0))
            better += promoted(group[seen], clicks[seen] / each[seen])
        found[f"sticky_{units}_by_decision_false"] = by_decision / runs
        found[f"sticky_{units}_by_unit_false"] = by_unit / runs
        found[f"sticky_{units}_by_unit_1.2x"] = better / runs
    return found


def visits(rng: np.random.Generator, runs: int) -> dict[str, float]:
    """Verdicts on visitors that are drawn anew in each of ten periods, by their number: bets on visits, with and without a lift, and on decisions."""
    found: dict[str, float] = {}
    for units in UNITS:
        done: dict[str, int] = dict.fromkeys(("by_decision_false", "by_visit_false", "by_visit_1.2x"), 0)
        for _ in range(runs):
            rate, group = rng.beta(0.5, 9.5, units), rng.random(PERIODS * units) < 0.5
            unit, period = rng.integers(0, units, DECISIONS), np.sort(rng.integers(0, PERIODS, DECISIONS))
            visit, u = period * units + unit, rng.random(DECISIONS)
            for name, lift in (("by_visit_false", 1.0), ("by_visit_1.2x", 1.2)):
                reward = (u < np.where(group[visit], lift, 1.0) * rate[unit]).astype(np.float64)
                one = tally(visit.astype(np.uint64), group[visit], reward)
                done[name] += promoted(one.canary, one.means)
                if lift == 1.0:
                    done["by_decision_false"] += promoted(group[visit], reward)
        found |= {f"visits_{units}_{name}": times / runs for name, times in done.items()}
    return found


def promoted(canary: Bits, reward: FloatArray) -> bool:
    """By a test that spends the whole level, half of the traffic being the canary's."""
    return judged(whole(0.5), canary, reward).verdict == "promote"


if __name__ == "__main__":
    main()
