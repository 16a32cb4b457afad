"""The meta-update in changing worlds: what it costs to learn how much to explore and how fast to forget.

    python -m benchmarks.meta [--environments stationary abrupt ...] [--seeds 0 1 ...] [--systems clickloop fixed ...]
                              [--rounds N] [--plot FILE] [--save FILE] [--json]

Environments, of 30 arms with d = 17 over 100,000 rounds of clicks that come late: `stationary`, `abrupt`, `gradual` and `churn` with
a click rate of 4% and a mean delay of 1,000 rounds; `rare`, stationary at 0.8%; `late`, stationary with a mean delay of 5,000.
Decisions come in blocks of 100 from one snapshot; there is no floor. Told are d, where the intercept is and the mean delay.

Systems: `clickloop` is the library's default meta-update; `clickloop-fixed`, `clickloop-roll-outs` and `clickloop-top-layer` are its
ways to explore, of which the first is taken from the others. `fixed` are pairs of a rate (0.1 to 1) and a half-life (none to 6,000
rounds), with the library's fitted prior: the best of them in hindsight is what bars compare with.
"vowpalwabbit --bag 10 -l 0.1" is VowpalWabbit with these options. `textbook` is linear Thompson sampling with the prior N(0, I) and alpha = 1; `epsilon-greedy` draws 2% uniformly, after 1,000
rounds that all are; `exp3` chooses among the six rates. VowpalWabbit's variants need its package and are left out without it.

A regret is the sum over rounds of the best arm's click probability minus the chosen arm's. Bars are ratios of mean regrets over
paired seeds, with 95% intervals. --save keeps regrets in a JSON file and takes from it what it has, so that a long
measurement can be done in parts.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.environments import BLOCK, KINDS, Changing
from benchmarks.meta_bars import BARS, Held, Regrets, held, lines
from benchmarks.meta_kept import Kept
from benchmarks.meta_loop import Loop, Manner
from benchmarks.meta_manners import HALF_LIVES, Exp3, Fixed, Meta, Textbook
from benchmarks.meta_plot import draw
from benchmarks.regret import interval
from benchmarks.regret_peers import VowpalWabbit
from benchmarks.worlds import play
from policies.meta_rules import ALPHAS, Rules
from streams.demo_plot import PlotError, require_matplotlib, require_writable

if TYPE_CHECKING:
    from collections.abc import Callable

    from policies.batch import FloatArray

ARMS, DIMENSION, MOST_ROUNDS = 30, 17, 100_000
WORLDS: dict[str, tuple[str, float, float]] = {kind: (kind, 0.04, 1000.0) for kind in KINDS} | {
    "rare": ("stationary", 0.008, 1000.0),
    "late": ("stationary", 0.04, 5000.0),
}
"""Kind, click rate and mean delay of each environment."""

VW = "vowpalwabbit"
PEERS = {
    f"{VW}-squarecb": "--squarecb",
    f"{VW}-regcb": "--regcb",
    f"{VW}-bag": "--bag 5",
    f"{VW}-squarecb-tuned": "--squarecb --gamma_scale 100",
    f"{VW}-regcb-tuned": "--regcb --mellowness 0.0000001",
}
"""Defaults, and the best of a grid on seed 100 (docs/meta.md has it; of bag that is the default)."""
OURS = ("clickloop", "clickloop-fixed", "clickloop-roll-outs", "clickloop-top-layer")
DEFAULT_WAY = Rules(model="linear", dimension=DIMENSION).explore
SYSTEMS = (*OURS, "fixed", "textbook", "epsilon-greedy", "exp3", *PEERS)


def pair(alpha: float, half_life: float) -> str:
    """Name of a fixed pair.

    >>> pair(0.3, 0.0)
    'fixed 0.3, none'
    """
    return f"fixed {alpha:g}, {f'{half_life:g}' if half_life else 'none'}"


PAIRS = {
    pair(alpha, half_life): (alpha, half_life)
    for half_life in HALF_LIVES
    for alpha in ALPHAS
    if alpha < 0.6 or not half_life
}
"""All six rates without forgetting; with it those of up to 0.5, as larger ones never came near the best."""
HINDSIGHT = {"best pair": list(PAIRS), "best fixed alpha": [pair(alpha, 0.0) for alpha in ALPHAS]}


def manners(systems: list[str], *, seed: int, mean_delay: float) -> dict[str, Callable[[], Manner]]:
    """How to make each of the systems that play in the fast loop, by name; a meta-update draws with its own seed."""
    rules = partial(Rules, model="linear", dimension=DIMENSION, intercept=0, delay=mean_delay)
    found: dict[str, Callable[[], Manner]] = {}
    for system in systems:
        if system in OURS:
            way = DEFAULT_WAY if system == OURS[0] else system.removeprefix("clickloop-")
            found[system] = partial(_meta, rules(explore=way), seed)
        elif system == "fixed":
            for name, (alpha, half_life) in PAIRS.items():
                found[name] = partial(Fixed, alpha, half_life, dimension=DIMENSION)
        elif system == "textbook":
            found[system] = partial(Textbook, dimension=DIMENSION)
        elif system == "epsilon-greedy":
            found[system] = partial(Fixed, 0.0, dimension=DIMENSION, uniform=0.02, warm_up=1000)
        elif system == "exp3":
            found[system] = lambda: Exp3(dimension=DIMENSION, rng=np.random.default_rng(seed))
    return found


def _meta(rules: Rules, seed: int) -> Meta:
    return Meta(rules, rng=np.random.default_rng(seed))


def measure(environment: str, systems: list[str], *, seed: int, rounds: int) -> dict[str, FloatArray]:
    """Regret of each round (rounds,) of each system in one environment; those with as many tracks play together."""
    kind, base_rate, mean_delay = WORLDS[environment]
    world = Changing(kind, seed=seed, base_rate=base_rate, mean_delay=mean_delay)
    made = {name: make() for name, make in manners(systems, seed=seed, mean_delay=mean_delay).items()}
    found: dict[str, FloatArray] = {}
    for tracks in sorted({len(manner.half_lives) for manner in made.values()}):
        together = {name: manner for name, manner in made.items() if len(manner.half_lives) == tracks}
        loop = Loop(world, list(together.values()), mean_delay=mean_delay, seed=seed, arms=ARMS)
        found |= dict(zip(together, loop.play(rounds), strict=True))
    for name in systems:
        if name.startswith(VW):
            peer = VowpalWabbit(seed=seed, explorer=PEERS.get(name, name.removeprefix(f"{VW} ")))
            found[name] = play(world, peer, rounds=rounds, arms=ARMS, block=BLOCK, mean_delay=mean_delay)
    return found


def main() -> None:
    """Measure what is asked for and print it."""
    given = asked()
    kept = Kept(given.save, given.rounds, several={"fixed": tuple(PAIRS)})
    for seed in given.seeds:
        for environment in given.environments:
            began = time.perf_counter()
            todo = [one for one in given.systems if not kept.has(environment, one, seed)]
            same = f"clickloop-{DEFAULT_WAY}"
            alias = OURS[0] in todo and (same in todo or kept.has(environment, same, seed))
            if alias:
                todo.remove(OURS[0])
            for name, regret in measure(environment, todo, seed=seed, rounds=given.rounds).items():
                kept.put(environment, name, seed, regret.cumsum())
            if alias:
                kept.copy(environment, same, OURS[0], seed)
            kept.write()
            print(f"{environment} seed {seed}: {len(todo)} systems in {time.perf_counter() - began:.0f} s", flush=True)
    names = {name for one in given.systems for name in (PAIRS if one == "fixed" else (one,))}
    regrets = kept.of(given.environments, names, given.seeds)
    found = held(regrets, HINDSIGHT)
    print(table(regrets))
    print(lines(found))
    if given.plot is not None:
        draw(
            given.plot, kept.curves_of(given.environments, names, given.seeds), rounds=given.rounds, hindsight=HINDSIGHT
        )
    if given.json:
        print(json.dumps(record(regrets, found, given.rounds)))


def known(system: str) -> str:
    """A system's name, or "vowpalwabbit" and options of its own.

    >>> known("vowpalwabbit --bag 10 -l 0.1")
    'vowpalwabbit --bag 10 -l 0.1'
    """
    if system in SYSTEMS or system.startswith(f"{VW} --"):
        return system
    raise argparse.ArgumentTypeError(f"{system!r} is none of {', '.join(SYSTEMS)}, nor '{VW} --options'")


def asked() -> argparse.Namespace:
    """What the command line asks for; what cannot work is refused before anything runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", nargs="+", choices=tuple(WORLDS), default=list(WORLDS), help="where")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)), help="of the worlds and the draws")
    parser.add_argument("--systems", nargs="+", type=known, default=list(SYSTEMS), help="who (default all)")
    parser.add_argument("--rounds", type=int, default=MOST_ROUNDS, help="how many (default %(default)s)")
    parser.add_argument("--plot", type=Path, help="draw the curves of regret into this PNG file")
    parser.add_argument("--save", type=Path, help="keep regrets in this JSON file, and take from it what it has")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
    given = parser.parse_args()
    if not 1 <= given.rounds <= MOST_ROUNDS:
        parser.error(f"--rounds is {given.rounds}, allowed: 1 to {MOST_ROUNDS}")
    if min(given.seeds) < 0:
        parser.error(f"--seeds has {min(given.seeds)}, allowed: 0 or more")
    if given.plot is not None:
        try:
            require_matplotlib()
            require_writable(given.plot)
        except PlotError as error:
            parser.error(str(error))
    if importlib.util.find_spec(VW) is None and any(one.startswith(VW) for one in given.systems):
        print("vowpalwabbit is not installed (extra bench): its variants are left out", flush=True)
        given.systems = [one for one in given.systems if not one.startswith(VW)]
        if not given.systems:
            parser.error("--systems has none that can be measured without vowpalwabbit; install the extra bench")
    return given


def table(regrets: Regrets) -> str:
    """Mean regret of each system over seeds with its 95% interval, by environment; of fixed pairs the best two of each kind."""
    rows = []
    for environment, systems in regrets.items():
        means = {name: interval(list(seeds.values())) for name, seeds in systems.items() if seeds}
        shown = [name for name in means if name not in PAIRS]
        for kind, names in HINDSIGHT.items():
            measured = [name for name in names if name in means]
            if measured:
                best = min(measured, key=lambda name: means[name][0])
                rows.append((environment, means[best], f"{kind} in hindsight: {best}"))
        rows += [(environment, means[name], name) for name in shown]
    return "\n".join(f"{environment:11} {mean:7.0f} ± {half:<6.0f} {name}" for environment, (mean, half), name in rows)


def record(regrets: Regrets, found: list[Held], rounds: int) -> dict[str, object]:
    """Everything, for --json."""
    return {
        "rounds": rounds,
        "regret": regrets,
        "bars": [
            {
                "bar": one.bar.number,
                "environment": one.bar.environment,
                "against": one.bar.against,
                "rival": one.rival,
                "ratio": one.ratio,
                "low": one.low,
                "high": one.high,
                "limit": one.bar.limit,
                "holds": one.holds,
                "seeds": list(one.seeds),
            }
            for one in found
        ],
        "not_measured": len(BARS) - len(found),
    }


if __name__ == "__main__":
    main()
