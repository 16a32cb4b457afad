"""Classification as a bandit: the world that a data set makes, and the comparison; the real data need the extra `bench`."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from benchmarks import cbify, classification
from benchmarks.classification import OURS, SYSTEMS, loss, outcome, outcomes, table, tally
from benchmarks.labelled import DATA, MOST_ROWS, Labelled, Labels, labels


def clusters(n: int, *, seed: int = 0) -> Labels:
    """Three classes around corners that are far apart."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    return labels(3.0 * np.eye(3)[y] + rng.normal(size=(n, 3)), y)


def test_only_the_right_class_is_clicked() -> None:
    """Rows keep their classes through the shuffle; the features alone tell which row it is."""
    data = clusters(50)
    world = Labelled(data, seed=4)
    rows = [int(np.flatnonzero((data.x == x).all(axis=1))[0]) for x in world.contexts[:, 1:]]
    assert sorted(rows) == list(range(50))
    p = world.probabilities(10, world.contexts[10:30])
    assert p.sum(axis=1) == pytest.approx(1.0)
    assert p.argmax(axis=1).tolist() == data.y[rows[10:30]].tolist()


def test_an_order_is_its_seed() -> None:
    """The same seed gives the same order, another seed another; large sets give their first rows."""
    data = clusters(200)
    assert (Labelled(data, seed=1).y == Labelled(data, seed=1).y).all()
    assert (Labelled(data, seed=1).contexts != Labelled(data, seed=2).contexts).any()
    assert len(Labelled(clusters(MOST_ROWS + 1), seed=1).y) == MOST_ROWS


@pytest.mark.parametrize("model", OURS)
def test_every_model_learns_classes_that_are_far_apart(model: str) -> None:
    """At random two thirds would be wrong."""
    assert loss(model, clusters(400), seed=1) < 0.3


def test_outcomes_are_paired_over_orders() -> None:
    """A difference that is the same in every order counts, however far the orders are apart; one order tells nothing."""
    orders = [0.1, 0.5, 0.3]
    assert outcome([each + 0.01 + 1e-4 * each for each in orders], orders) == "losses"
    assert outcome(orders, [each + 0.01 + 1e-4 * each for each in orders]) == "wins"
    assert outcome([0.1, 0.5, 0.3], [0.5, 0.1, 0.3]) == "neither"
    assert outcome([0.1], [0.9]) == "neither"


def test_tables_name_the_best_and_where_we_lose() -> None:
    """The least loss of a set is marked; lost sets are named."""
    losses = {
        "iris": {"linear": [0.1, 0.1, 0.2], "vw-cover": [0.3, 0.3, 0.5]},
        "wine": {"linear": [0.3, 0.3, 0.5], "vw-cover": [0.1, 0.1, 0.2]},
    }
    assert [line.count("*") for line in table(losses).splitlines()] == [0, 1, 1]
    assert tally(outcomes(losses)) == "linear against vw-cover: 1 won, 1 lost: loses on wine"


def test_the_last_line_is_one_object(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With ours alone on data made here; without peers there is nothing to win against."""
    monkeypatch.setitem(DATA, "iris", lambda: clusters(60))
    monkeypatch.setattr(
        sys, "argv", ["classification", "--data", "iris", "--systems", "linear", "--seeds", "0", "1", "--json"]
    )
    classification.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(found["losses"]["iris"]["linear"]) == 2
    assert found["outcomes"] == {"linear": {}}


@pytest.mark.parametrize("system", [system for system in SYSTEMS if system not in OURS])
def test_peers_meet_the_same_rows(system: str) -> None:
    """Every explorer runs, and what it missed is 0 or 1 for each row."""
    pytest.importorskip("vowpalwabbit", reason="vowpalwabbit comes with the extra bench")
    world = Labelled(clusters(60), seed=1)
    missed = cbify.wrong(world, classes=3, options=cbify.EXPLORERS[system], seed=1)
    assert missed.shape == (60,)
    assert set(missed.tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize(("name", "package"), [("iris", "sklearn"), ("segments", "river")])
def test_packages_carry_the_data(name: str, package: str) -> None:
    """One set of each package, scaled."""
    pytest.importorskip(package, reason=f"{package} comes with the extra bench")
    data = DATA[name]()
    assert data.x.std(axis=0) == pytest.approx(1.0)
    assert set(data.y.tolist()) == set(range(data.classes))
