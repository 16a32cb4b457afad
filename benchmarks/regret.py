"""Regret against peers in simulated worlds: what exploring cost, and what was learned for it.

    python -m benchmarks.regret [--world static] [--seeds 0 1 2 3 4] [--systems clickloop gittins ...] [--rounds N]
                                [--explorer thompson] [--model linear] [--alpha A] [--plot FILE] [--json]

Worlds: `static` (50 arms, d = 32, 20,000 rounds, clicks at once, a decision at a time) and, over 100,000 rounds of rare
clicks that come late, in blocks of 100 decisions: `stationary`, `abrupt`, `gradual`, `churn`. Clickloop runs with the
default settings of a policy, but for the explorer, its width and the model where one is named; of the world it is told d, where the intercept is and, where clicks are late, their mean
delay. Peers' untuned and tuned variants were tuned in the static world. A regret is the sum over rounds of the best arm's
click probability minus the chosen arm's; intervals hold the mean over seeds with 95% (Student's t).

Needs the extra `bench`, and `local` for a plot.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import t as student

from benchmarks.environments import BLOCK, KINDS, Changing, Environment, Static
from benchmarks.regret_ours import Clickloop
from benchmarks.regret_peers import Gittins, Mabwiser, Uniform, VowpalWabbit
from benchmarks.regret_plot import draw
from benchmarks.worlds import Learner, play
from policies.explorers import EXPLORERS, LARGEST
from policies.model import MODELS
from streams.demo_plot import PlotError, require_matplotlib, require_writable
from streams.settings import PolicySettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from policies.batch import FloatArray

WORLDS = ("static", *KINDS)
MEAN_DELAY = 1000.0
MARKS: dict[str, tuple[int, ...]] = {"static": (2_000, 20_000)} | dict.fromkeys(KINDS, (10000, 50000, 100000))

PEERS: dict[str, Callable[..., Learner]] = {
    "gittins": Gittins,
    "vowpalwabbit": partial(VowpalWabbit, explorer="--squarecb"),
    "vowpalwabbit-regcb": partial(VowpalWabbit, explorer="--regcb"),
    "mabwiser-lints": partial(Mabwiser, policy="LinTS", alpha=1.0),
    "mabwiser-lints-tuned": partial(Mabwiser, policy="LinTS", alpha=0.05),
    "mabwiser-linucb": partial(Mabwiser, policy="LinUCB", alpha=1.0),
    "mabwiser-linucb-tuned": partial(Mabwiser, policy="LinUCB", alpha=0.25),
    "uniform": Uniform,
}
SYSTEMS = ("clickloop", *PEERS)

Record = dict[str, dict[str, dict[str, float]]]


def main() -> None:
    """Measure what is asked for and print it."""
    given = asked()
    record: Record = {}
    curves: dict[str, list[FloatArray]] = {}
    for system in given.systems:
        record[system], curves[system] = {}, []
        for seed in given.seeds:
            began = time.perf_counter()
            ours = {"explorer": given.explorer, "model": given.model, "alpha": given.alpha}
            regret = measure(system, given.world, seed=seed, rounds=given.rounds, ours=ours)
            figures = at_marks(regret, [*(mark for mark in MARKS[given.world] if mark < len(regret)), len(regret)])
            record[system][str(seed)] = figures
            curves[system].append(regret.cumsum())
            took = time.perf_counter() - began
            print(f"{system} {given.world} seed {seed}: {figures} in {took:.0f} s", flush=True)
    print(table(record))
    if given.plot is not None:
        draw(given.plot, curves, world=given.world)
    if given.json:
        print(json.dumps(record))


def asked() -> argparse.Namespace:
    """What the command line asks for; what cannot work is refused before anything runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=WORLDS, default="static", help="where (default %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="of the world and the draws")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="who (default all)")
    parser.add_argument("--rounds", type=int, help="how many (default: all of the world's)")
    parser.add_argument(
        "--explorer", choices=tuple(EXPLORERS), default="thompson", help="of clickloop (default %(default)s)"
    )
    parser.add_argument("--model", choices=MODELS, default="linear", help="of clickloop (default %(default)s)")
    parser.add_argument("--alpha", type=float, help="of clickloop's thompson or ucb (default: the explorer's)")
    parser.add_argument("--plot", type=Path, help="draw the curves of regret into this PNG file")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
    given = parser.parse_args()
    most = MARKS[given.world][-1]
    if given.rounds is not None and not 1 <= given.rounds <= most:
        parser.error(f"--rounds is {given.rounds}, allowed in this world: 1 to {most}")
    if given.alpha is not None and not 0.0 <= given.alpha <= LARGEST:
        parser.error(f"--alpha is {given.alpha}, allowed: 0 to {LARGEST:g}")
    if given.plot is not None:
        try:
            require_matplotlib()
            require_writable(given.plot)
        except PlotError as error:
            parser.error(str(error))
    return given


def measure(
    system: str, world: str, *, seed: int, rounds: int | None, ours: Mapping[str, str | float | None]
) -> FloatArray:
    """Regret of each round of one run; `ours` are settings of clickloop's policy."""
    total = MARKS[world][-1] if rounds is None else rounds
    environment: Environment = Static(seed=seed) if world == "static" else Changing(world, seed=seed)
    static = isinstance(environment, Static)
    learner = make_learner(system, environment, seed=seed, ours=ours)
    return play(
        environment,
        learner,
        rounds=total,
        arms=50 if static else 30,
        block=1 if static else BLOCK,
        mean_delay=0.0 if static else MEAN_DELAY,
    )


def make_learner(
    system: str, environment: Environment, *, seed: int, ours: Mapping[str, str | float | None]
) -> Learner:
    """The system of that name, new; `ours` are settings of clickloop's policy."""
    if system != "clickloop":
        return PEERS[system](seed=seed)
    delays_s = () if isinstance(environment, Static) else (MEAN_DELAY,)
    dimension = environment.contexts.shape[1]
    policy = PolicySettings.model_validate({"dimension": dimension, "intercept": 0, "delays_s": delays_s, **ours})
    return Clickloop(policy, seed=seed)


def at_marks(regret: FloatArray, marks: list[int]) -> dict[str, float]:
    """Cumulative regret by the number of rounds.

    >>> at_marks(np.ones(2000), [500, 2000])
    {'regret_500': 500.0, 'regret_2k': 2000.0}
    """
    total = regret.cumsum()
    names = [f"{mark // 1000}k" if mark % 1000 == 0 else str(mark) for mark in marks]
    return {f"regret_{name}": round(float(total[mark - 1]), 1) for name, mark in zip(names, marks, strict=True)}


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half the width of its 95% interval, by Student's t; infinite for one value.

    >>> mean, half = interval([1.0, 2.0, 3.0])
    >>> mean, round(half, 3)
    (2.0, 2.484)
    """
    n = len(values)
    mean = float(np.mean(values))
    if n < 2:
        return mean, float("inf")
    return mean, float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5)


def table(record: Record) -> str:
    """One line for each system: mean regret over seeds with its interval, at each mark."""
    lines = []
    for system, seeds in record.items():
        cells = []
        for name in next(iter(seeds.values())):
            mean, half = interval([figures[name] for figures in seeds.values()])
            cells.append(f"{name.removeprefix('regret_'):>5}: {mean:8.0f} ± {half:<6.0f}")
        lines.append(f"{system:22} " + "  ".join(cells))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
