"""How long a decision and an update take, beside peers in the same process.

    python -m benchmarks.decide [--systems gittins vowpalwabbit mabwiser river] [--rows 3000] [--json]

Contexts of 32 with the intercept, rewards of benchmarks/environments.py's `Static`; every system first learns the same
uniformly shown rows. Times are medians in microseconds, on one thread; inputs are made beforehand in each system's form.
Thompson sampling at alpha = 1, so that nearly all arms may win: pruning helps more once a policy has settled.

decide      ours: a plain Thompson draw (policies/draw.py). Peers: their call for one context, which gives the chosen arm's
            probability too in gittins and vowpalwabbit
propensity  ours: probabilities of all arms, the arm drawn from them (policies/decide.py). Above 100 arms that may win the
            chosen arm's is estimated
batch       ours: 1,000 contexts in one call, without and with propensities, per context. Peers: where they have such a call
update      one impression's label, ours in batches of 1,000; peers in their cheapest way

matrix      --matrix: 50, 1,000 and 10,000 arms in 8 dimensions, every model and explorer: a decision with its propensity, and the
            snapshot of 1,000 arms in 32 dimensions for every model. Compare numbers of one run; nothing else may run beside it

Peers come with the extra `bench`. What is not installed is an error: name those that are by --systems.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

if not __package__:  # run as a file: the repository is not on the path, and http.py would hide Python's own
    sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.decide_peers import PEERS, Rows
from benchmarks.environments import Static
from policies import Batch, make_model
from policies.decide import decide
from policies.decide_batch import decide_batch
from policies.draw import draw, draw_batch
from policies.empirical_bayes import fit
from policies.explorers import EXPLORERS
from policies.model import MODELS
from policies.snapshot import Snapshot, build
from policies.stack import BetaStack, stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from policies.batch import FloatArray
    from policies.sums import Model, Sums

ARMS, DIMENSION, NARROW = 50, 32, 8
MANY = (1_000, 10_000)
TOGETHER = 1_000
BUDGET_S = 1.5
"""Time that one median is taken over."""


def median_us(calls: Iterator[Callable[[], object]], *, per: int = 1) -> float:
    """Median time of calls in us, divided by `per`; the first is left out."""
    next(calls)()
    times: list[float] = []
    end = time.perf_counter() + BUDGET_S
    while time.perf_counter() < end or len(times) < 3:
        call = next(calls)
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e6 / per


def rows_of(env: Static, n: int, *, arms: int, seed: int) -> Rows:
    """Rows of a log that showed arms uniformly; arm a pays like arm a modulo the environment's arms."""
    rng = np.random.default_rng(seed)
    x = env.contexts[rng.integers(0, len(env.contexts), n)]
    arm = rng.integers(0, arms, n)
    p = env.probabilities(0, x)[np.arange(n), arm % ARMS]
    return Rows(x=x, arm=arm, reward=(rng.random(n) < p).astype(np.float64))


def batch_of(rows: Rows, names: tuple[str, ...]) -> Batch:
    """The rows as a policy's model takes them; only clicks change a reward."""
    hit, ts = np.flatnonzero(rows.reward), np.zeros(len(rows.arm), np.int64)
    ones = np.ones(len(hit))
    return Batch(
        arms=names,
        arm=rows.arm,
        x=rows.x,
        ts=ts,
        reward_arm=rows.arm[hit],
        reward_x=rows.x[hit],
        reward_ts=ts[hit],
        reward=ones,
        square=ones,
    )


def learned(
    rows: Rows, names: tuple[str, ...], *, name: str = "linear"
) -> tuple[Model, dict[str, Sums], Callable[..., Snapshot]]:
    """Model, sums, and a function that builds a snapshot of them."""
    dimension = rows.x.shape[1]
    model = make_model(name, dimension=dimension)
    sums: dict[str, Sums] = model.update({}, batch_of(rows, names))
    effective = {arm: model.at(one, now_ms=0) for arm, one in sums.items()}
    prior = fit(effective, None, model=name, dimension=dimension, intercept=0)
    first = partial(build, "front", version=1, previous=None, time_ms=0, now_ms=0)
    return model, sums, partial(first, model=model, sums=sums, prior=prior)


def ours(env: Static, rows: Rows, *, arms: int) -> dict[str, float]:
    """Times of this project with so many arms; `build_ms` and `load_ms` are a snapshot's, for publisher and reader."""
    names = tuple(f"arm-{i}" for i in range(arms))
    model, sums, built = learned(rows, names)
    snapshot = partial(built, rates={"alpha": 1.0})
    front, rng, x = snapshot(), np.random.default_rng(1), env.contexts
    some = batch_of(rows_of(env, TOGETHER, arms=arms, seed=3), names)
    together = TOGETHER if arms == ARMS else 100

    def load() -> None:
        stack(front.arms, front.prior)

    def one_by_one(call: Callable[..., object]) -> Iterator[Callable[[], object]]:
        return (partial(call, front, one, rng=rng) for one in itertools.cycle(x))

    def batches(call: Callable[..., object]) -> Iterator[Callable[[], object]]:
        starts = itertools.cycle(range(0, len(x), together))
        return (partial(call, front, x[first : first + together], rng=rng) for first in starts)

    return {
        "decide_us": median_us(one_by_one(draw)),
        "decide_propensity_us": median_us(one_by_one(decide)),
        "batch_us": median_us(batches(draw_batch), per=together),
        "batch_propensity_us": median_us(batches(decide_batch), per=together),
        "update_us": median_us(itertools.repeat(partial(model.update, sums, some)), per=TOGETHER),
        "build_ms": median_us(itertools.repeat(snapshot)) / 1e3,
        "load_ms": median_us(itertools.repeat(load)) / 1e3,
    }


def matrix(env: Static) -> dict[str, float]:
    """Times of a decision with its propensity for every model, explorer and number of arms; and of building a snapshot."""
    found: dict[str, float] = {}
    for name in MODELS:
        for arms in (ARMS, *MANY):
            wide = rows_of(env, 20 * arms, arms=arms, seed=2)
            names = tuple(f"arm-{i}" for i in range(arms))
            if arms == MANY[0]:
                _, _, snapshot = learned(wide, names, name=name)
                found[f"matrix_{name}_{arms}_build_ms"] = median_us(itertools.repeat(snapshot)) / 1e3
            narrow = Rows(x=np.ascontiguousarray(wide.x[:, :NARROW]), arm=wide.arm, reward=wide.reward)
            _, _, snapshot = learned(narrow, names, name=name)
            line = {}
            for explorer in EXPLORERS:
                front, rng = snapshot(explorer=explorer), np.random.default_rng(1)
                calls = (partial(decide_anew, front, x, rng) for x in itertools.cycle(narrow.x[:100]))
                line[f"{explorer}_us"] = median_us(calls)
            show(f"{name}, {arms:,} arms", line)
            found |= {f"matrix_{name}_{arms}_{key}": value for key, value in line.items()}
    return found


def decide_anew(front: Snapshot, x: FloatArray, rng: np.random.Generator) -> object:
    """A decision as the first of its snapshot: the laws that Beta arms keep are forgotten."""
    if isinstance(front.stack, BetaStack):
        front.stack.laws.clear()
    return decide(front, x, rng=rng)


def peer(name: str, env: Static, rows: Rows) -> dict[str, float]:
    """Times of one peer with 50 arms."""
    system = PEERS[name](arms=ARMS, rows=rows)
    further = rows_of(env, 20_000, arms=ARMS, seed=4)
    found = {
        "decide_us": median_us(system.decisions(further)),
        "update_us": median_us(system.updates(further), per=system.updates_together),
    }
    batches = system.batches(further, TOGETHER)
    return found if batches is None else found | {"batch_us": median_us(batches, per=TOGETHER)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="*", choices=tuple(PEERS), default=list(PEERS), help="peers to measure")
    parser.add_argument("--rows", type=int, default=3000, help="rows that every system learns beforehand")
    parser.add_argument(
        "--matrix", action="store_true", help="measure every model and explorer too; about five minutes"
    )
    parser.add_argument("--json", action="store_true", help="print all numbers as one JSON object on the last line")
    asked = parser.parse_args()
    env = Static(seed=0)
    rows = rows_of(env, asked.rows, arms=ARMS, seed=2)
    numbers: dict[str, float] = {}
    with threadpool_limits(1):
        print(f"{ARMS} arms, d = {DIMENSION}, us each")
        for name in ["ours", *asked.systems]:
            found = ours(env, rows, arms=ARMS) if name == "ours" else peer(name, env, rows)
            show(name, found)
            numbers |= {f"{name}_{key}": value for key, value in found.items()}
        for arms in MANY:
            found = ours(env, rows_of(env, 20 * arms, arms=arms, seed=2), arms=arms)
            show(f"ours, {arms:,} arms", found)
            numbers |= {f"ours_{arms}_{key}": value for key, value in found.items()}
        if asked.matrix:
            numbers |= matrix(env)
    if asked.json:
        print(json.dumps({key: round(value, 3) for key, value in numbers.items()}))


def show(name: str, found: dict[str, float]) -> None:
    """One line of the table."""
    values = "  ".join(f"{key.rsplit('_', 1)[0]} {value:,.2f} {key.rsplit('_', 1)[1]}" for key, value in found.items())
    print(f"{name:<18}{values}", flush=True)


if __name__ == "__main__":
    main()
