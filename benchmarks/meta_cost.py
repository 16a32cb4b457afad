"""What one meta-update costs: CPU seconds of one core, and peak memory beside the sums.

    python -m benchmarks.meta_cost [--arms 1000] [--dimension 32] [--tracks 4] [--rows 20000] [--groups 20] [--repeat 3] [--json]

Set OMP_NUM_THREADS=1 for one core. Arms have 500 rows each of contexts and clicks at 5%; `rows` matured since the last update.
"""

from __future__ import annotations

import argparse
import json
import time
import tracemalloc

import numpy as np

from policies.meta import Statistics, first, update
from policies.meta_rules import WAYS, Rules
from policies.sums import Effective

ROWS_PER_ARM = 500
HALF_LIVES_S = (0.0, 604_800.0, 86_400.0, 21_600.0, 3_600.0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", type=int, default=1000)
    parser.add_argument("--dimension", type=int, default=32)
    parser.add_argument("--tracks", type=int, default=4, choices=range(1, len(HALF_LIVES_S) + 1))
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--groups", type=int, default=20, help="of arms, in the last line")
    parser.add_argument("--repeat", type=int, default=3, help="the least of so many is told")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
    given = parser.parse_args()
    rng = np.random.default_rng(1)
    arms, x = population(given.arms, given.dimension, rng)
    found: dict[str, dict[str, float]] = {}
    for name, way, groups in [
        *((way, way, 0) for way in WAYS),
        (f"fixed, {given.groups} groups", "fixed", given.groups),
    ]:
        rules = Rules(model="linear", dimension=given.dimension, intercept=0, explore=way)
        seen = Statistics(
            effective=[arms] * given.tracks,
            predicted=rng.uniform(0.04, 0.06, (given.rows, given.tracks)),
            reward=(rng.random(given.rows) < 0.05).astype(float),
            choice=rng.integers(0, len(rules.alphas), given.rows),
            contexts=x,
            events=given.rows,
            group_of={arm: str(i % groups) for i, arm in enumerate(arms)} if groups else {},
        )
        found[name] = cost(seen, rules, given.tracks, given.repeat)
        print(f"{name:18} {found[name]['cpu_s']:6.2f} s CPU, {found[name]['peak_mb']:6.0f} MB", flush=True)
    if given.json:
        print(json.dumps({"arms": given.arms, "dimension": given.dimension, "cost": found}))


def population(arms: int, d: int, rng: np.random.Generator) -> tuple[dict[str, Effective], np.ndarray]:
    """Arms with rows of their own, and recent contexts (500, d)."""
    found = {}
    for i in range(arms):
        x = np.column_stack([np.ones(ROWS_PER_ARM), rng.normal(size=(ROWS_PER_ARM, d - 1))])
        r = (rng.random(ROWS_PER_ARM) < rng.beta(5.0, 95.0)).astype(float)
        n, total = float(ROWS_PER_ARM), float(r.sum())
        found[str(i)] = Effective(n_eff=n, count=n, reward=total, square=total, b=r @ x, A=x.T @ x)
    return found, x


def cost(seen: Statistics, rules: Rules, tracks: int, repeat: int) -> dict[str, float]:
    """Least CPU seconds of `repeat` updates, and the peak of one in MB of 10^6 bytes."""
    before, times = first(rules, HALF_LIVES_S[:tracks]), []
    for seed in range(repeat):
        began = time.process_time()
        update(before, seen, rules=rules, rng=np.random.default_rng(seed))
        times.append(time.process_time() - began)
    tracemalloc.start()
    update(before, seen, rules=rules, rng=np.random.default_rng(0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {"cpu_s": round(min(times), 3), "peak_mb": round(peak / 1e6, 1)}


if __name__ == "__main__":
    main()
