"""Allocation of arms to slots: pacing against the offline optimum, floors' price, ways of assigning, propensities, times.

    python -m benchmarks.allocation [--seeds 0 1 2 3 4] [--requests 20000] [--json]

Click probabilities are known, so that what is measured is allocation and not learning. Value is expected value.

paced     share of the linear program's optimum (benchmarks/allocation_world.py) with budgets and dual prices, the price moving every 20
          requests; paced_again: in a second period that starts with the prices of the first; unpaced: with budgets that just
          close when they are spent
floors    value lost by a floor of 1% of all slots for each of 30 arms, without budgets
ways      assignment, sequential and sort where slots have features of their own: value, and microseconds of the solver
logs      evaluating another policy by inverse propensities from logs of Thompson sampling in turn: bias and standard deviation
          with each kind of propensity of policies/allocation.py
times     a decision in process, 3 slots and 100 candidates at d = 32: medians and 99th percentiles on one thread

Intervals are 95%, over seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

if not __package__:  # run as a file: the repository is not on the path, and http.py would hide Python's own
    sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.allocation_world import ARMS, KAPPA, World, optimum, world
from benchmarks.decide import learned, rows_of
from benchmarks.environments import Static
from policies.allocation import allocate, conditional
from policies.budgets import budget, charged, is_open, stepped
from policies.decide_slots import decide_slots
from policies.explorers import check
from policies.exposure import counted, exposure
from policies.matching import EMPTY, MODES, solve
from policies.offers import Terms, offer

if TYPE_CHECKING:
    from collections.abc import Callable

    from policies.batch import FloatArray

PERIOD_S, EVERY = 1000.0, 20
CASES, LOGGED, TIMED = 500, 3000, 1000
FLOOR = 0.01


def value_with_budgets(
    made: World, *, paced: bool, seed: int, prices: list[float] | None = None
) -> tuple[float, float, list[float]]:
    """Total value of the requests in order, the largest share of a budget that was overspent, and the last prices."""
    rng = np.random.default_rng(seed)
    states = [budget(float(one), period_s=PERIOD_S, now_ms=0) for one in made.budget]
    if prices is not None:
        states = [replace(one, price=price) for one, price in zip(states, prices, strict=True)]
    per_cost = (made.theta * made.value / made.cost).mean(axis=0)
    units = np.bincount(made.campaign, per_cost) / np.bincount(made.campaign)
    eta = 0.5 * len(made.request) ** 0.5
    total, nothing = 0.0, np.zeros(ARMS)
    for i, kind in enumerate(made.request.tolist()):
        now = int(i * PERIOD_S * 1000 / len(made.request))
        if paced and i % EVERY == 0:
            states = [
                stepped(one, now_ms=now, eta=eta, unit=float(unit)) for one, unit in zip(states, units, strict=True)
            ]
        open_ = np.array([is_open(one, now_ms=now) for one in states])[made.campaign]
        price = np.array([one.price for one in states])[made.campaign] * made.cost
        asked = offer(
            made.theta[kind],
            nothing,
            kappa=KAPPA,
            terms=Terms(value=made.value, price=price),
            eligible=open_,
            reserve=0.0,
        )
        arms = allocate(asked, explorer="epsilon-greedy", rng=rng).arms
        for slot, arm in enumerate(arms.tolist()):
            if arm != EMPTY:
                total += KAPPA[slot] * made.value[arm] * made.theta[kind, arm]
                campaign = int(made.campaign[arm])
                states[campaign] = charged(states[campaign], float(made.cost[arm]), ts=now)
    return total, max(one.overspent / one.amount for one in states), [one.price for one in states]


def floors_price(made: World, *, seed: int) -> tuple[float, float]:
    """Share of the value that a floor for each arm costs, and the least share of slots that an arm got."""
    rng, shown = np.random.default_rng(seed), np.zeros(ARMS)
    queues = exposure(np.full(ARMS, FLOOR))
    pbar = float(np.mean([made.worth(kind).max(axis=1).mean() for kind in range(20)]))
    with_floor = without = 0.0
    for kind in made.request.tolist():
        worth = made.worth(kind)
        without += float(np.sort(worth[0])[::-1][: len(KAPPA)] @ KAPPA)
        terms = Terms(value=made.value, bonus=queues.bonus)
        asked = offer(made.theta[kind], np.zeros(ARMS), kappa=KAPPA, terms=terms)
        arms = allocate(asked, explorer="epsilon-greedy", rng=rng).arms
        with_floor += float(worth[np.arange(len(KAPPA)), arms].sum())
        shown[arms] += 1.0
        queues = counted(queues, np.bincount(arms, minlength=ARMS).astype(float), pbar=pbar)
    return 1.0 - with_floor / without, float(shown.min() / shown.sum())


def ways(*, seed: int) -> dict[str, float]:
    """Share of assignment's value and microseconds, of each way, for 4 slots with features of their own and 30 arms."""
    rng = np.random.default_rng(seed)
    kappa, order, every = np.array([1.0, 0.7, 0.5, 0.35]), np.arange(4), np.ones((4, 30), bool)
    out: dict[str, float] = {}
    cases = kappa[:, None] * np.exp(rng.normal(-3.0, 0.5, (CASES, 1, 30)) + rng.normal(0.0, 0.4, (CASES, 4, 30)))
    for mode in MODES:
        total, start = 0.0, time.perf_counter()
        for worth in cases:
            total += float(worth[order, solve(worth, every, mode=mode, order=order)].sum())
        out[f"{mode}_us"] = (time.perf_counter() - start) * 1e6 / CASES
        out[f"{mode}_share"] = total
    return out | {f"{mode}_share": out[f"{mode}_share"] / out["assignment_share"] for mode in MODES}


def logs(*, seed: int, arms: int = 12) -> dict[str, tuple[float, float]]:
    """Relative error of a narrower policy's value from a log of expected rewards, and a row's standard deviation with clicks."""
    rng = np.random.default_rng(seed)
    kinds = ("marginal", "mixture", "estimate", "conditional")
    expected: dict[str, list[float]] = {kind: [] for kind in kinds}
    clicked: dict[str, list[float]] = {kind: [] for kind in kinds}
    truth = 0.0
    rates = {"alpha": 1.0, "epsilon": 0.05}
    for _ in range(LOGGED):
        mean, sd = rng.normal(0.3, 0.05, arms), rng.uniform(0.03, 0.1, arms)
        asked = offer(mean, sd, kappa=KAPPA)
        other = allocate(asked, rates=rates | {"alpha": 0.3}, mode="sequential", rng=rng).probabilities
        truth += float((other * asked.mean).sum())
        for kind in kinds:
            method = None if kind == "conditional" else kind
            shown = allocate(asked, rates=rates, mode="sequential", rng=rng, method=method)  # type: ignore[arg-type]
            p = shown.propensity
            if kind == "conditional":
                p = conditional(asked, shown.arms, explorer="thompson", rates=rates)
            at = np.arange(len(KAPPA)), shown.arms
            weight, click = other[at] / p, rng.random(len(KAPPA)) < asked.mean[at]
            expected[kind].append(float((weight * asked.mean[at]).sum()))
            clicked[kind].append(float((weight * click).sum()))
    return {kind: (sum(expected[kind]) / truth - 1.0, float(np.std(clicked[kind])) * LOGGED / truth) for kind in kinds}


def times() -> dict[str, float]:
    """Microseconds of `decide_slots` for explorers in closed form and for Thompson sampling, with and without prices."""
    env, rng = Static(seed=0), np.random.default_rng(1)
    _, _, snapshot = learned(rows_of(env, 20_000, arms=100, seed=2), tuple(f"arm-{i}" for i in range(100)))
    front, price = snapshot(), Terms(price=rng.uniform(0.0, 0.02, 100))
    out: dict[str, float] = {}
    for name, explorer, rates in (
        ("greedy", "epsilon-greedy", {"epsilon": 0.01}),
        ("softmax", "softmax", {"epsilon": 0.01}),
        ("squarecb", "squarecb", {"epsilon": 0.01}),
        ("thompson", "thompson", {"alpha": 0.3, "epsilon": 0.01}),
        ("thompson_wide", "thompson", {"alpha": 1.0, "epsilon": 0.01}),
    ):
        policy = replace(front, explorer=explorer, rates=check(explorer, rates))
        out |= _quantiles(name, lambda x, at=policy: decide_slots(at, x, kappa=KAPPA, rng=rng), env.contexts)  # type: ignore[misc]
        out |= _quantiles(
            f"{name}_in_turn_priced",
            lambda x, at=policy: decide_slots(at, x, kappa=KAPPA, rng=rng, terms=price, mode="sequential"),  # type: ignore[misc]
            env.contexts,
        )
    return out


def _quantiles(name: str, call: Callable[[FloatArray], object], contexts: FloatArray) -> dict[str, float]:
    for x in contexts[:20]:
        call(x)
    taken = []
    for i in range(TIMED):
        start = time.perf_counter()
        call(contexts[i % len(contexts)])
        taken.append((time.perf_counter() - start) * 1e6)
    return {f"{name}_p50_us": float(np.median(taken)), f"{name}_p99_us": float(np.quantile(taken, 0.99))}


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half width of the 95% interval."""
    return float(np.mean(values)), 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="worlds to measure")
    parser.add_argument("--requests", type=int, default=20_000, help="T, requests in the budgets' period")
    parser.add_argument("--json", action="store_true", help="print all numbers as one JSON object on the last line")
    asked = parser.parse_args()
    rows: list[dict[str, float]] = []
    with threadpool_limits(1):
        for seed in asked.seeds:
            rows.append(measured(seed, asked.requests))
            print(f"seed {seed}: " + "  ".join(f"{key} {value:.4g}" for key, value in rows[-1].items()), flush=True)
        found = times()
    numbers: dict[str, float] = {}
    print("\nmean over seeds, half width of the 95% interval")
    for key in rows[0]:
        numbers[key], half = interval([row[key] for row in rows])
        numbers[f"{key}_half_width"] = half
        print(f"{key:<24}{numbers[key]:10.4f} +- {half:.4f}")
    for key, value in found.items():
        print(f"{key:<36}{value:10.1f}")
    if asked.json:
        print(json.dumps({key: round(value, 6) for key, value in (numbers | found).items()}))


def measured(seed: int, requests: int) -> dict[str, float]:
    """All numbers of one seed but the times."""
    made = world(seed, requests=requests)
    best = optimum(made)
    paced, over, prices = value_with_budgets(made, paced=True, seed=seed)
    again, _, _ = value_with_budgets(made, paced=True, seed=seed, prices=prices)
    unpaced, _, _ = value_with_budgets(made, paced=False, seed=seed)
    lost, least = floors_price(made, seed=seed)
    out = {
        "paced_share": paced / best,
        "paced_again_share": again / best,
        "unpaced_share": unpaced / best,
        "overspent_share": over,
        "floor_cost_share": lost,
        "floor_least_share": least,
    }
    for kind, (bias, sd) in logs(seed=seed).items():
        out |= {f"{kind}_bias": bias, f"{kind}_sd": sd}
    return out | ways(seed=seed)


if __name__ == "__main__":
    main()
