"""What new arms should start from: the empirical-Bayes prior, or an initialisation that Reptile learned for a neural head.

    python -m benchmarks.reptile [--seeds 10] [--json]

The stationary world of `benchmarks.environments` (d = 17, click rate 4%) with 100 arms. 60 have 2,000 rows each; 40 are new. Measured is
the expected log loss of a new arm beyond that of the true rates, in 1e-4 nats a row, after n rows of its own:

    prior        what clickloop does: linear sums, `policies.empirical_bayes.fit` over the old arms, the posterior's mean
    logistic     the same with logistic sums around each arm's own posterior mean, five times over
    reptile      Reptile (Nichol, Achiam & Schulman 2018): an initialisation from which ten steps on a hundred rows of any old arm end
                 well, then full-batch gradient steps on the new arm's rows; the head is logistic, or has one hidden layer of 16
    scratch      the same head and steps from the usual rate alone

Reptile and scratch take the best in hindsight of a grid of step sizes, numbers of steps and (Reptile) inner step sizes, at each n, on the
very arms that they are measured by: no way of choosing them could do better.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the repository is not on the path, and http.py would hide Python's own
    sys.path[0] = str(Path(__file__).parents[1])

import numpy as np
import torch
from scipy.special import expit, logit

from benchmarks.decide import batch_of
from benchmarks.decide_peers import Rows
from benchmarks.environments import Changing
from benchmarks.regret import interval
from policies.empirical_bayes import fit
from policies.model import make_model
from policies.posterior import posterior

OLD, NEW, ROWS, RATE = 60, 40, 2_000, 0.04
FEW = (20, 100, 500, 2_000)
TEST_ROWS = 4_000
STEPS, SIZES = (0, 1, 5, 20, 100), (0.01, 0.03, 0.1, 0.3, 1.0)
INNER, OUTER, ROUNDS, BATCH = 10, 0.2, 1_000, 100
RELINEARISED = 5
HEADS = {"logistic head": 0, "hidden layer": 16}

Array = np.ndarray[Any, np.dtype[np.float64]]
Head = list[torch.Tensor]
Log = tuple[Array, Array]


class World:
    """Old arms' rows, new arms' rows, and test contexts with the true rates of the new arms."""

    def __init__(self, seed: int) -> None:
        env = Changing("stationary", seed=seed, arms=OLD + NEW, rounds=20_000)
        rng = np.random.default_rng(seed)

        def rows(arm: int) -> Log:
            x = env.contexts[rng.integers(len(env.contexts), size=ROWS)]
            return x, (rng.random(ROWS) < env.probabilities(0, x)[:, arm]).astype(np.float64)

        self.old = [rows(arm) for arm in range(OLD)]
        self.new = [rows(arm) for arm in range(OLD, OLD + NEW)]
        self.test = env.contexts[rng.integers(len(env.contexts), size=TEST_ROWS)]
        self.true: Array = env.probabilities(0, self.test)[:, OLD:].T

    def excess(self, p: Array) -> float:
        """Expected log loss of predictions p (NEW, TEST_ROWS) beyond that of the true rates, 1e-4 nats a row."""
        p = np.clip(p, 0.002, 0.998)
        loss = -(self.true * np.log(p) + (1.0 - self.true) * np.log1p(-p))
        best = -(self.true * np.log(self.true) + (1.0 - self.true) * np.log1p(-self.true))
        return 1e4 * float((loss - best).mean())


def by_prior(world: World, name: str) -> Callable[[int], float]:
    """Excess of the posterior's mean after n rows, from the prior that is fitted to the old arms."""
    d = world.test.shape[1]
    usual = np.r_[logit(RATE), np.zeros(d - 1)]

    def sums(arms: Sequence[Log], points: Sequence[Array]) -> dict[str, Any]:
        return {str(i): _sums(name, log, point) for i, (log, point) in enumerate(zip(arms, points, strict=True))}

    def learned(arms: Sequence[Log], prior: Any = None) -> tuple[Any, list[Array]]:
        """The prior, fitted unless given, and the arms' posterior means; logistic ones are linearised where they are found."""
        fitted, means = prior, [usual if prior is None else prior.mean for _ in arms]
        for _ in range(RELINEARISED if name == "logistic" else 1):
            found = sums(arms, means)
            fitted = fit(found, fitted, model=name, dimension=d, intercept=0) if prior is None else prior
            means = [posterior(fitted, one).mean for one in found.values()]  # type: ignore[union-attr]
        return fitted, means

    prior, _ = learned(world.old)

    def excess(n: int) -> float:
        _, means = learned([(x[:n], y[:n]) for x, y in world.new], prior)
        scores: Array = np.array(means) @ world.test.T
        return world.excess(expit(scores) if name == "logistic" else scores)

    return excess


def _sums(name: str, log: Log, point: Array) -> Any:
    """The sums of one arm, of logistic ones those around the point (d,)."""
    x, y = log
    model = make_model(name, dimension=len(point), point=tuple(point.tolist()) if name == "logistic" else ())
    batch = batch_of(Rows(x=x, arm=np.zeros(len(y), np.intp), reward=y), ("0",))
    return model.at(model.update({}, batch)["0"], now_ms=0)


def start(d: int, hidden: int, seed: int) -> Head:
    """A head that says the usual rate."""
    base = float(logit(RATE))
    if not hidden:
        w = torch.zeros(d, dtype=torch.float64)
        w[0] = base
        return [w]
    made = torch.Generator().manual_seed(seed)
    first = torch.randn(d, hidden, generator=made, dtype=torch.float64) / d**0.5
    return [first, torch.zeros(hidden, dtype=torch.float64), torch.tensor([base], dtype=torch.float64)]


def score(heads: Head, x: torch.Tensor) -> torch.Tensor:
    """(a, n) logits of the heads of a arms for x (a, n, d), or (n, d) for all."""
    if len(heads) == 1:
        return (x @ heads[0][:, :, None])[:, :, 0]
    return (torch.tanh(x @ heads[0]) @ heads[1][:, :, None])[:, :, 0] + heads[2]


def stepped(heads: Head, x: torch.Tensor, y: torch.Tensor, *, size: float, steps: int) -> Head:
    """The heads of a arms after full-batch gradient steps on x (a, n, d) and y (a, n), each arm by itself."""
    for _ in range(steps):
        heads = [one.detach().requires_grad_(True) for one in heads]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(score(heads, x), y, reduction="none")
        slopes = torch.autograd.grad(loss.mean(dim=1).sum(), heads)
        heads = [one.detach() - size * slope for one, slope in zip(heads, slopes, strict=True)]
    return heads


def reptile(world: World, hidden: int, size: float, seed: int) -> Head:
    """An initialisation that has moved towards where the old arms' steps end."""
    rng, head = np.random.default_rng(seed), start(world.test.shape[1], hidden, seed)
    for number in range(ROUNDS):
        x, y = world.old[int(rng.integers(OLD))]
        rows = rng.integers(0, ROWS, BATCH)
        given = torch.from_numpy(x[rows])[None], torch.from_numpy(y[rows])[None]
        ended = stepped([one[None] for one in head], *given, size=size, steps=INNER)
        share = OUTER * (1.0 - number / ROUNDS)
        head = [(1.0 - share) * one + share * after[0] for one, after in zip(head, ended, strict=True)]
    return head


def by_steps(world: World, inits: Sequence[Head]) -> Callable[[int], float]:
    """The least excess after n rows over initialisations, step sizes and numbers of steps."""
    x = torch.from_numpy(np.array([x for x, _ in world.new]))
    y = torch.from_numpy(np.array([y for _, y in world.new]))
    test = torch.from_numpy(world.test)

    def excess(n: int) -> float:
        least = np.inf
        for head in inits:
            for size in SIZES:
                heads, done = [one.expand(NEW, *one.shape) for one in head], 0
                for steps in STEPS:
                    heads, done = stepped(heads, x[:, :n], y[:, :n], size=size, steps=steps - done), steps
                    least = min(least, world.excess(expit(score(heads, test).numpy())))
        return float(least)

    return excess


def measured(seed: int) -> dict[str, dict[int, float]]:
    """Excess loss by who and by the number of rows, one seed."""
    world = World(seed)
    d = world.test.shape[1]
    ways = {"prior": by_prior(world, "linear"), "logistic": by_prior(world, "logistic")}
    for name, hidden in HEADS.items():
        ways[f"reptile, {name}"] = by_steps(world, [reptile(world, hidden, size, seed) for size in SIZES[1:4]])
        ways[f"scratch, {name}"] = by_steps(world, [start(d, hidden, seed)])
    return {who: {n: excess(n) for n in FEW} for who, excess in ways.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="worlds (default 10)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    runs = [measured(seed) for seed in range(given.seeds)]
    print(f"excess log loss in 1e-4 nats a row, {given.seeds} worlds; rows of the new arm: {', '.join(map(str, FEW))}")
    for who in runs[0]:
        cells = [interval([run[who][n] for run in runs]) for n in FEW]
        print(f"{who:24}" + "  ".join(f"{mean:7.1f} ± {half:5.1f}" for mean, half in cells))
    if given.json:
        print(json.dumps({"excess": {who: {str(n): [run[who][n] for run in runs] for n in FEW} for who in runs[0]}}))


if __name__ == "__main__":
    main()
