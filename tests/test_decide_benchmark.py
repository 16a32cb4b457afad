"""The benchmark of deciding runs, and prints the numbers that it is read for; how large they are is no test's concern."""

from __future__ import annotations

import itertools
import json
import sys

import pytest

from benchmarks import decide
from benchmarks.decide_peers import PEERS
from benchmarks.environments import Static
from policies.explorers import EXPLORERS
from policies.model import MODELS


def test_the_last_line_is_one_object_with_our_times(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a budget of no time, no peers and 120 arms for the growth."""
    monkeypatch.setattr(decide, "BUDGET_S", 0.0)
    monkeypatch.setattr(decide, "MANY", (120,))
    monkeypatch.setattr(sys, "argv", ["decide", "--rows", "200", "--json", "--systems"])
    decide.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    wanted = {
        "decide_us",
        "decide_propensity_us",
        "batch_us",
        "batch_propensity_us",
        "update_us",
        "build_ms",
        "load_ms",
    }
    assert set(found) == {f"{who}_{what}" for who in ("ours", "ours_120") for what in wanted}
    assert min(found.values()) > 0


def test_the_matrix_has_every_model_and_explorer(monkeypatch: pytest.MonkeyPatch) -> None:
    """For each number of arms, and the snapshot that each model builds."""
    monkeypatch.setattr(decide, "BUDGET_S", 0.0)
    monkeypatch.setattr(decide, "MANY", (120,))
    found = decide.matrix(Static(seed=0))
    decisions = {f"matrix_{m}_{k}_{e}_us" for m in MODELS for k in (50, 120) for e in EXPLORERS}
    assert set(found) == decisions | {f"matrix_{m}_120_build_ms" for m in MODELS}


def test_peers_have_the_names_that_keys_begin_with() -> None:
    """`PEER_decide_us`."""
    assert set(PEERS) == {"gittins", "vowpalwabbit", "mabwiser", "river"}


def test_medians_leave_the_first_call_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is not timed, at least three are."""
    calls: list[int] = []
    monkeypatch.setattr(decide, "BUDGET_S", 0.0)
    decide.median_us((lambda: calls.append(1) for _ in itertools.count()), per=2)
    assert len(calls) == 4
