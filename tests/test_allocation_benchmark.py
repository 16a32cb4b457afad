"""The benchmark of allocation runs, and prints the numbers that it is read for."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from benchmarks import allocation
from benchmarks.allocation_world import KAPPA, KINDS, World, optimum, world
from policies.matching import assignment


def test_the_last_line_is_one_object(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With few of everything."""
    monkeypatch.setattr(allocation, "CASES", 5)
    monkeypatch.setattr(allocation, "LOGGED", 20)
    monkeypatch.setattr(allocation, "TIMED", 3)
    monkeypatch.setattr(sys, "argv", ["allocation", "--seeds", "0", "1", "--requests", "300", "--json"])
    allocation.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"paced_share", "unpaced_share", "floor_cost_share", "assignment_us", "thompson_p99_us"} <= set(found)
    assert 0.0 < found["unpaced_share"] <= 1.0


def test_the_linear_program_without_budgets_is_the_assignment() -> None:
    """Then every request may have its best allocation."""
    made = world(1, requests=500)
    free = World(theta=made.theta, value=made.value, cost=made.cost, budget=made.budget * 1e6, request=made.request)
    every = np.ones((len(KAPPA), len(made.value)), bool)
    best = sum(
        made.worth(kind)[np.arange(len(KAPPA)), assignment(made.worth(kind), every)].sum() * number
        for kind, number in enumerate(np.bincount(made.request, minlength=KINDS))
    )
    assert optimum(free) == pytest.approx(best)
    assert optimum(made) < 0.9 * best
