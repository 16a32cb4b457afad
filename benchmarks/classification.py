"""Classification as a bandit, beside `vowpalwabbit --cbify`: one class is shown, and the reward is 1 if it is right.

    python -m benchmarks.classification [--data iris digits ...] [--systems linear vw-squarecb ...] [--seeds 0 1 ... 9] [--json]

Ours (`linear`, `hybrid`, `student`, `logistic`: a policy's models, each with default settings otherwise) and the explorers
of vowpalwabbit, untuned and tuned (options in benchmarks/cbify.py), meet the same rows in the same orders, one order for each
seed; features have mean 0 and standard deviation 1. The loss is progressive: the share of rows whose class was wrong when it
was chosen, before the row was learned from.

A win is significant if the 95% interval of the mean difference in loss, paired over orders (Student's t), excludes zero. It
speaks of orders and draws of one data set, not of other data.

Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from benchmarks import cbify
from benchmarks.labelled import DATA, Labelled, Labels
from benchmarks.regret import interval
from benchmarks.regret_ours import Clickloop
from benchmarks.worlds import play
from streams.settings import PolicySettings

OURS = ("linear", "hybrid", "student", "logistic")
SYSTEMS = (*OURS, *cbify.EXPLORERS)

Losses = dict[str, dict[str, list[float]]]
Outcomes = dict[str, dict[str, dict[str, list[str]]]]


def main() -> None:
    """Measure what is asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=tuple(DATA), default=list(DATA), help="sets (default all)")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="who (default all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)), help="of the orders and the draws")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
    given = parser.parse_args()
    losses: Losses = {}
    for name in given.data:
        data = DATA[name]()
        losses[name] = {}
        for system in given.systems:
            began = time.perf_counter()
            losses[name][system] = [round(loss(system, data, seed=seed), 5) for seed in given.seeds]
            mean, half = interval(losses[name][system])
            took = time.perf_counter() - began
            print(f"{name} {system}: {mean:.4f} ± {half:.4f} in {took:.0f} s", flush=True)
    found = outcomes(losses)
    print(table(losses))
    print(tally(found))
    if given.json:
        print(json.dumps({"losses": losses, "outcomes": found}))


def loss(system: str, data: Labels, *, seed: int) -> float:
    """Progressive validation loss of a system, in one order."""
    world = Labelled(data, seed=seed)
    if system not in OURS:
        options = cbify.EXPLORERS[system]
        return float(cbify.wrong(world, classes=data.classes, options=options, seed=seed).mean())
    policy = PolicySettings.model_validate({"model": system, "dimension": world.contexts.shape[1], "intercept": 0})
    learner = Clickloop(policy, seed=seed)
    return float(play(world, learner, rounds=len(world.y), arms=data.classes, block=1).mean())


def outcomes(losses: Losses) -> Outcomes:
    """Sets in which each of ours wins or loses against each peer significantly, or neither.

    >>> outcomes({"iris": {"linear": [0.1, 0.1, 0.2], "vw-cover": [0.3, 0.3, 0.5]}})
    {'linear': {'vw-cover': {'wins': ['iris'], 'losses': [], 'neither': []}}}
    """
    systems = next(iter(losses.values()))
    found: Outcomes = {}
    for mine in [system for system in systems if system in OURS]:
        found[mine] = {}
        for peer in [system for system in systems if system not in OURS]:
            found[mine][peer] = {"wins": [], "losses": [], "neither": []}
            for name, by_system in losses.items():
                found[mine][peer][outcome(by_system[mine], by_system[peer])].append(name)
    return found


def outcome(mine: list[float], peers: list[float]) -> str:
    """Whether losses in the same orders differ significantly: "wins", "losses" or "neither".

    >>> outcome([0.3, 0.4], [0.1, 0.9])
    'neither'
    """
    mean, half = interval((np.array(mine) - np.array(peers)).tolist())
    if abs(mean) <= half:
        return "neither"
    return "wins" if mean < 0.0 else "losses"


def table(losses: Losses) -> str:
    """Mean losses, a line for each system and a column for each data set; the least of a column is marked by *."""
    means = {name: {system: float(np.mean(each)) for system, each in row.items()} for name, row in losses.items()}
    lines = [f"{'':18}" + "".join(f"{name:>15}" for name in means)]
    for system in next(iter(means.values())):
        cells = [f"{row[system]:.4f}{'*' if row[system] == min(row.values()) else ' '}" for row in means.values()]
        lines.append(f"{system:18}" + "".join(f"{cell:>15}" for cell in cells))
    return "\n".join(lines)


def tally(found: Outcomes) -> str:
    """Significant wins and losses of each of ours against each peer, and where the losses are."""
    lines = []
    for mine, peers in found.items():
        for peer, sets in peers.items():
            where = f": loses on {', '.join(sets['losses'])}" if sets["losses"] else ""
            lines.append(f"{mine} against {peer}: {len(sets['wins'])} won, {len(sets['losses'])} lost{where}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
