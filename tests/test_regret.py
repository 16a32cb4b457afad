"""The loop that regret is measured in, with learners whose regret is known."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks import regret as regret_benchmark
from benchmarks.environments import Changing, Static
from benchmarks.regret import at_marks, interval, make_learner, measure
from benchmarks.regret_ours import Clickloop
from benchmarks.worlds import Index, Log, News, play
from policies.batch import FloatArray
from policies.explorers import EXPLORERS
from policies.model import MODELS
from streams.settings import PolicySettings


class Fixed:
    """Always the candidate at one place; keeps what it hears."""

    def __init__(self, place: int = 0) -> None:
        self.place = place
        self.heard: list[News] = []
        self.candidates: list[list[int]] = []

    def choose(self, contexts: FloatArray, candidates: Sequence[int]) -> Index:
        self.candidates.append(list(candidates))
        return np.full(len(contexts), self.place)

    def learn(self, log: Log, news: News) -> None:
        self.heard.append(news)


def test_regret_is_the_distance_to_the_best_arm() -> None:
    """Of a learner that always chooses arm 3, by hand."""
    env = Static(seed=2, rounds=50)
    p = env.probabilities(0, env.contexts)
    regret = play(env, Fixed(3), rounds=50, arms=50, block=1)
    assert regret == pytest.approx(p.max(axis=1) - p[:, 3])


def test_clicks_at_once_are_labels_of_the_same_round() -> None:
    """Every round is settled in its block, and clicked rows are those with the label 1."""
    env, learner = Static(seed=2, rounds=60), Fixed()
    play(env, learner, rounds=60, arms=50, block=20)
    for news in learner.heard:
        assert sorted(news.settled) == sorted(news.shown)
        assert sorted(news.clicked) == sorted(news.settled[news.labels == 1.0])


def test_late_clicks_come_when_they_are_due_and_labels_once() -> None:
    """A click is heard of after its delay; a label without one after three mean delays; no round twice."""
    env, learner = Changing("stationary", seed=3, rounds=6000), Fixed()
    play(env, learner, rounds=6000, arms=30, block=100, mean_delay=1000.0)
    for news in learner.heard:
        due = news.clicked + env.delays[news.clicked]
        assert ((news.now - 100 <= due) & (due < news.now)).all()
        assert (news.settled[news.labels == 0.0] < news.now - 2900).all()
    settled = np.concatenate([news.settled for news in learner.heard])
    assert len(set(settled.tolist())) == len(settled)
    assert set(range(2900)) <= set(settled.tolist())


def test_an_arm_that_replaces_another_has_a_number_of_its_own() -> None:
    """Under churn three candidates change after 5,000 rounds."""
    env, learner = Changing("churn", seed=3, rounds=5200), Fixed()
    play(env, learner, rounds=5200, arms=30, block=100, mean_delay=1000.0)
    before, after = learner.candidates[49], learner.candidates[50]
    assert before == list(range(30))
    assert sorted(set(after) - set(before)) == [30, 31, 32]


@pytest.mark.parametrize("delays_s", [(), (1000.0,)])
def test_clickloop_learns_in_both_worlds(delays_s: tuple[float, ...]) -> None:
    """In a small world its later regret is below half of the uniform policy's; with delays it runs."""
    env = Static(seed=5, rounds=600, arms=4, dimension=3)
    policy = PolicySettings(dimension=3, intercept=0, delays_s=delays_s)
    regret = play(env, Clickloop(policy, seed=1), rounds=600, arms=4, block=10)
    p = env.probabilities(0, env.contexts)
    if not delays_s:
        assert regret[300:].sum() < 0.5 * (p.max(axis=1) - p.mean(axis=1))[300:].sum()


def test_figures_are_sums_up_to_their_marks() -> None:
    """Names in thousands where they are whole."""
    assert at_marks(np.ones(2500), [2000, 2500]) == {"regret_2k": 2000.0, "regret_2500": 2500.0}


def test_one_seed_has_no_interval() -> None:
    """Its half width is infinite."""
    assert interval([3.0]) == (3.0, float("inf"))


def test_a_run_ends_with_one_object_and_draws_its_curves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Thirty rounds of ours and of the uniform policy, two seeds."""
    pytest.importorskip("matplotlib", reason="matplotlib comes with the extra local")
    picture = tmp_path / "regret.png"
    asked = [
        "--systems",
        "clickloop",
        "uniform",
        "--seeds",
        "0",
        "1",
        "--rounds",
        "30",
        "--plot",
        str(picture),
        "--json",
    ]
    monkeypatch.setattr(sys, "argv", ["regret", *asked])
    regret_benchmark.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {system: set(seeds) for system, seeds in found.items()} == {"clickloop": {"0", "1"}, "uniform": {"0", "1"}}
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_place_that_cannot_be_written_is_refused_before_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It is a folder."""
    pytest.importorskip("matplotlib", reason="matplotlib comes with the extra local")
    monkeypatch.setattr(sys, "argv", ["regret", "--plot", str(tmp_path)])
    with pytest.raises(SystemExit):
        regret_benchmark.main()
    assert "choose another place" in capsys.readouterr().err


@pytest.mark.parametrize("explorer", sorted(EXPLORERS))
def test_clickloop_explores_as_it_is_told(explorer: str) -> None:
    """Every explorer decides in a world; that of the settings is the one that was asked for."""
    regret = measure("clickloop", "static", seed=0, rounds=20, ours={"explorer": explorer})
    assert regret.shape == (20,)
    learner = make_learner("clickloop", Static(seed=0, rounds=20), seed=0, ours={"explorer": explorer})
    assert isinstance(learner, Clickloop)
    assert learner._settings.explorer == explorer


@pytest.mark.parametrize("model", MODELS)
def test_clickloop_learns_as_it_is_told(model: str) -> None:
    """Every model decides in a world; that of the settings is the one that was asked for."""
    regret = measure("clickloop", "static", seed=0, rounds=20, ours={"model": model})
    assert np.isfinite(regret).all()
    learner = make_learner("clickloop", Static(seed=0, rounds=20), seed=0, ours={"model": model})
    assert isinstance(learner, Clickloop)
    assert learner._settings.model == model


def test_clickloop_explores_as_widely_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The width is that of the settings; left out it is the explorer's, and one below zero is refused."""
    for alpha, width in ((0.2, 0.2), (None, EXPLORERS["thompson"].default)):
        learner = make_learner("clickloop", Static(seed=0, rounds=20), seed=0, ours={"alpha": alpha})
        assert isinstance(learner, Clickloop)
        assert learner._settings.rates["alpha"] == width
    monkeypatch.setattr(sys, "argv", ["regret", "--alpha", "-1"])
    with pytest.raises(SystemExit):
        regret_benchmark.main()
