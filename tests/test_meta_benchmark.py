"""The loop of benchmarks/meta.py: its sums are the library's, its policies do what they say, and bars are ratios."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import meta as meta_benchmark
from benchmarks.environments import BLOCK, Changing
from benchmarks.meta_bars import held, paired
from benchmarks.meta_loop import PATIENCE, Loop, Matured
from benchmarks.meta_manners import Exp3, Fixed, Meta, Textbook
from benchmarks.meta_sums import Tracks
from policies.batch import Batch
from policies.linear import LinearModel
from policies.meta_rules import ALPHAS, Rules
from policies.posterior import linear_posterior

D, ARMS = 3, 4


class Watched(Fixed):
    """Keeps what it heard."""

    def __init__(self, alpha: float, half_life: float = 0.0) -> None:
        super().__init__(alpha, half_life, dimension=D)
        self.rows: list[Matured] = []

    def heard(self, rows: Matured) -> None:
        self.rows.append(rows)


def world(rounds: int = 5000, kind: str = "stationary") -> Changing:
    """Small, with many clicks."""
    return Changing(kind, seed=5, rounds=rounds, arms=ARMS, dimension=D - 1, base_rate=0.3, mean_delay=500.0)


def test_the_sums_are_those_of_the_linear_model() -> None:
    """Of a policy in the loop, with forgetting and late clicks: n, b, A as `LinearModel.at` has them."""
    rounds, half_life = 5000, 700.0
    env = world(rounds)
    loop = Loop(env, [Watched(0.5, half_life)], mean_delay=500.0, seed=1, arms=ARMS)
    loop.play(rounds)
    model = LinearModel(dimension=D, half_life_s=half_life, delays_s=(500.0,))
    ends = (np.arange(rounds) // BLOCK + 1) * BLOCK
    clicked = np.flatnonzero(loop._due[0] < rounds)
    batch = Batch(
        arms=tuple(str(k) for k in range(ARMS)),
        arm=loop._arm[0],
        x=env.contexts[:rounds],
        ts=ends * 1000,
        reward_arm=loop._arm[0, clicked],
        reward_x=env.contexts[clicked],
        reward_ts=ends[clicked] * 1000,
        reward=np.ones(len(clicked)),
        square=np.ones(len(clicked)),
    )
    sums, ours = model.update({}, batch), loop.tracks.effective(0, 0)
    assert len(clicked) > 500
    for name, one in sums.items():
        expected = model.at(one, now_ms=rounds * 1000)
        assert np.allclose(ours[name].A, expected.A)
        assert np.allclose(ours[name].b, expected.b)
        assert ours[name].n_eff == pytest.approx(expected.n_eff)
        assert ours[name].reward == pytest.approx(expected.reward)


def test_sums_without_forgetting_are_others() -> None:
    """The comparison above can tell."""
    kept, forgot = (Tracks(np.array([[one]]), arms=1, dimension=1, mean_delay=0.0) for one in (0.0, 100.0))
    for sums in (kept, forgot):
        sums.show(np.ones((1, 1)), np.zeros((1, 1), np.intp))
        sums.pass_time(100.0)
    assert (kept.n.item(), forgot.n.item()) == (1.0, 0.5)


def test_posteriors_are_the_librarys() -> None:
    """All arms at once as `linear_posterior` has each."""
    loop = Loop(world(), [Watched(0.5)], mean_delay=500.0, seed=1, arms=ARMS)
    loop.play(3000)
    mean, V = loop._posteriors()
    for name, one in loop.tracks.effective(0, 0).items():
        expected = linear_posterior(loop.priors[0], one)
        assert np.allclose(mean[0, 0, int(name)], expected.mean)
        assert np.allclose(V[0, int(name)], expected.factor.T @ expected.factor)


def test_rows_mature_once_with_their_label() -> None:
    """In the order of rounds, three mean delays later; a click that comes later is none."""
    env, manner = world(), Watched(0.5)
    loop = Loop(env, [manner], mean_delay=500.0, seed=1, arms=ARMS)
    loop.play(5000)
    labels = np.concatenate([one.reward for one in manner.rows])
    wait = int(PATIENCE * 500.0)
    assert len(labels) == 5000 - wait
    rounds = np.arange(len(labels))
    assert np.array_equal(labels, (loop._due[0, : len(labels)] <= rounds + wait).astype(float))
    assert 0.0 < labels.mean() < 1.0


def test_policies_with_the_same_settings_meet_the_same_luck() -> None:
    """Beside others or alone, and with any number of tracks that are not used."""
    alone = Loop(world(), [Watched(0.3)], mean_delay=500.0, seed=1, arms=ARMS).play(2000)
    beside = Loop(world(), [Watched(1.0), Watched(0.3)], mean_delay=500.0, seed=1, arms=ARMS).play(2000)
    rules = Rules(model="linear", dimension=D, intercept=0)
    meta = Meta(rules, rng=np.random.default_rng(1), half_lives=(0.0,))
    other = Loop(world(), [meta], mean_delay=500.0, seed=1, arms=ARMS).play(2000)
    assert np.array_equal(alone[0], beside[1])
    assert not np.array_equal(alone[0], beside[0])
    assert np.array_equal(alone[0], other[0])


def test_arms_that_are_replaced_start_anew() -> None:
    """What was known of them is gone, and clicks that still come for the old ones do not count."""
    env = Changing("churn", seed=5, rounds=6000, arms=ARMS, dimension=D - 1, base_rate=0.3, mean_delay=500.0)
    loop = Loop(env, [Watched(0.5)], mean_delay=500.0, seed=1, arms=ARMS)
    loop.play(5100)
    new = env.replaced(5000, 5001)
    shown = np.bincount(loop._arm[0, 5000:5100], minlength=ARMS)
    pending = loop.tracks.p[0, 0]
    assert len(new) == 3
    assert np.allclose(loop.tracks.n[0, 0, new], shown[new])
    assert np.allclose(pending[new], shown[new])
    old = np.setdiff1d(np.arange(ARMS), new)
    assert (loop.tracks.n[0, 0, old] > shown[old]).all()
    later = (loop._due[0] < 5100) & (np.arange(len(loop._due[0])) >= 5000)
    assert loop.tracks.c[0, 0, new].sum() == np.isin(loop._arm[0][later], new).sum()


def test_regret_is_the_distance_to_the_best_arm() -> None:
    """Of uniform choices, by hand within five standard errors; the textbook starts near it."""
    env = world(2000)
    uniform = Fixed(0.3, dimension=D, warm_up=10_000)
    regret = Loop(env, [uniform, Textbook(dimension=D)], mean_delay=500.0, seed=1, arms=ARMS).play(2000)
    p = env.probabilities(0, env.contexts)
    gaps = p.max(axis=1, keepdims=True) - p
    assert abs(regret[0].mean() - gaps.mean()) < 5.0 * gaps.std() / 2000**0.5
    assert 0.5 < regret[1, :200].mean() / gaps.mean() < 1.5


def test_exp3_goes_to_the_rate_that_earns() -> None:
    """With labels that come a block later."""
    manner = Exp3(dimension=D, rng=np.random.default_rng(1))
    for _ in range(300):
        _, choice = manner.widths(100)
        manner.heard(Matured(predicted=np.zeros((100, 1)), choice=choice, reward=(choice == 2).astype(float)))
    assert manner._law().argmax() == 2
    assert manner._law()[2] > 0.9
    assert manner._law().min() == pytest.approx(0.05 / len(ALPHAS), rel=0.01)


def test_bars_are_ratios_to_the_best_in_hindsight() -> None:
    """Of the means over seeds that all were measured on; the interval is that of paired differences."""
    regrets = {
        "stationary": {"clickloop": {0: 11.0, 1: 9.0, 2: 99.0}, "a": {0: 10.0, 1: 9.0}, "b": {0: 5.0, 1: 20.0}},
    }
    found = held(regrets, {"best fixed alpha": ["a", "b"], "best pair": ["a", "b"]})
    assert [one.bar.number for one in found] == [1, 7]
    first = found[0]
    assert (first.rival, first.seeds, first.holds) == ("a", (0, 1), True)
    assert first.ratio == pytest.approx(20.0 / 19.0)
    rare = {"rare": {"clickloop": {0: 10.0, 1: 10.2, 2: 10.1}, "a": {0: 10.1, 1: 10.0, 2: 10.0}}}
    (close,) = held(rare, {"best fixed alpha": ["a"]})
    assert close.ratio > 1.0 > close.low
    assert close.holds  # not worse, as far as three seeds tell
    (worse,) = held({"rare": rare["rare"] | {"a": {0: 5.0, 1: 5.1, 2: 5.0}}}, {"best fixed alpha": ["a"]})
    assert not worse.holds


def test_intervals_of_ratios_cover() -> None:
    """95 of a hundred, where luck is shared and where it is not."""
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(400):
        luck = rng.normal(size=10)
        rival = 10.0 + luck + 0.3 * rng.normal(size=10)
        ours = 12.0 + 1.2 * luck + 0.3 * rng.normal(size=10)
        _, low, high = paired(ours.tolist(), rival.tolist())
        covered += low < 1.2 < high
    assert 0.92 < covered / 400 < 0.98


def test_it_ends_with_json_and_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A value for each bar that both sides were measured for, environment and seed; a second run takes the first's."""
    saved = tmp_path / "regret.json"
    arguments = ["--environments", "abrupt", "--rounds", "400", "--save", str(saved), "--json"]

    def run(*more: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["meta", *arguments, *more])
        meta_benchmark.main()
        found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return found

    once = run("--systems", "clickloop", "textbook", "--seeds", "3")
    assert once["regret"]["abrupt"].keys() == {"clickloop", "textbook"}
    both = run("--systems", "clickloop", "textbook", "--seeds", "3", "4")
    assert both["regret"]["abrupt"]["clickloop"]["3"] == once["regret"]["abrupt"]["clickloop"]["3"]
    assert both["regret"]["abrupt"]["clickloop"].keys() == {"3", "4"}
    assert [bar["bar"] for bar in both["bars"]] == [5]
    with pytest.raises(SystemExit, match="use another file"):
        run("--systems", "textbook", "--seeds", "3", "--rounds", "500")


def test_what_cannot_be_measured_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what is allowed."""
    monkeypatch.setattr(sys, "argv", ["meta", "--rounds", "0"])
    with pytest.raises(SystemExit):
        meta_benchmark.asked()
    assert "allowed: 1 to 100000" in capsys.readouterr().err
