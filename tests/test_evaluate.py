"""`clickloop evaluate`: from the feedback topic of a real loop, and the parts that need none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from policies.evaluation import Decided, learned, under
from policies.model import make_model
from streams.cli import run
from streams.evaluate import Rows, variant
from streams.events import Impression, Outcome
from streams.settings import PolicySettings, SettingsError
from tests.loop import Loop
from tests.test_exactly_once import hour_ago_ms

ARMS = ("a", "b", "c")
SLOPES = np.array([[0.2, 0.15], [0.2, -0.15], [0.2, 0.0]])
"""Expected reward of each arm: 0.2 and a slope in the second feature, which is -1 or 1: the best earns 0.35, uniform play 0.2."""
CONFIG = """
[policies.front]
model = "linear"
dimension = 2
intercept = 0
window_s = 20
grace_s = 10
outcomes = { click = 1.0 }
"""


def logged(seed: int, n: int, *, start_ms: int = 0) -> Decided:
    """Uniform play in that world, one row every 10 ms."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(n), rng.choice([-1.0, 1.0], n)])
    arm = rng.integers(0, 3, n)
    reward = (rng.random(n) < (x * SLOPES[arm]).sum(axis=1)).astype(float)
    ts = start_ms + 10 * np.arange(n)
    return Decided(arms=ARMS, arm=arm, x=x, ts=ts, propensity=np.full(n, 1 / 3), reward=reward)


def events(rows: Decided) -> list[Impression | Outcome]:
    """The log as events, a click 50 ms after what it belongs to."""
    found: list[Impression | Outcome] = []
    for i in range(len(rows.arm)):
        ts = int(rows.ts[i])
        found.append(
            Impression(
                decision_id=f"d{i}",
                slot="top",
                policy="front",
                snapshot=1,
                arm=rows.arms[rows.arm[i]],
                propensity=1 / 3,
                context=rows.x[i].tolist(),
                ts=ts,
            )
        )
        if rows.reward[i]:
            found.append(Outcome(decision_id=f"d{i}", slot="top", outcome_id="o", ts=ts + 50))
    return found


def test_a_policy_is_worth_what_it_would_earn() -> None:
    """Learned from half the log, evaluated on the rest: near the best for greedy play, uniform play's for uniform play."""
    first, rest = logged(1, 12_000).split(0.5)
    model = make_model("linear", dimension=2)
    greedy = under(learned(first, model, explorer="epsilon-greedy", rates={"epsilon": 0.0}, intercept=0), rest)
    uniform = under(learned(first, model, explorer="epsilon-greedy", rates={"epsilon": 1.0}, intercept=0), rest)
    assert (greedy.weight * greedy.reward).mean() == pytest.approx(0.35, abs=0.04)
    assert greedy.value is not None
    assert greedy.value.mean() == pytest.approx(0.35, abs=0.05)
    assert np.allclose(uniform.weight, 1.0)
    assert uniform.predicted is not None
    assert np.abs(uniform.predicted - (rest.x * SLOPES[rest.arm]).sum(axis=1)).max() < 0.05


@pytest.mark.parametrize("name", ["hybrid", "student", "logistic", "beta"])
def test_every_model_predicts_rewards(name: str) -> None:
    """Expectations are rewards, of the logistic model too (roughly: it is linearised far off): their mean is the log's."""
    first, rest = logged(2, 8_000).split(0.5)
    model = make_model(name, dimension=2)
    rows = under(learned(first, model, explorer="epsilon-greedy", rates={"epsilon": 1.0}, intercept=0), rest)
    assert rows.value is not None
    assert rows.value.mean() == pytest.approx(0.2, abs=0.06 if name == "logistic" else 0.03)


def test_rows_are_kept_by_event_time() -> None:
    """The newest of several records, those of a fixed choice left out, whatever order the partitions were read in."""
    rows = Rows()
    for start in (4, 0):
        rows.add(
            {
                "impression_ts": np.arange(start, start + 4),
                "propensity": np.array([0.5, 1.0, 0.5, 0.5]),
                "reward": np.arange(4.0),
                "context": np.ones((4, 1), np.float32),
                "arm": ["b", "z", "a", "b"],
            }
        )
    rows.keep(4)
    found = rows.decided()
    assert found.ts.tolist() == [3, 4, 6, 7]
    assert [found.arms[code] for code in found.arm] == ["b", "b", "a", "b"]
    assert found.reward.tolist() == [3.0, 0.0, 2.0, 3.0]
    assert Rows().decided().arms == ()


def test_what_does_not_go_together_is_refused() -> None:
    """An explorer that there is not, a model that the settings do not allow."""
    own = PolicySettings(dimension=2, outcomes={"buy": 5.0})
    with pytest.raises(SettingsError, match="there is no explorer 'best'; choose among thompson"):
        variant(own, "linear", "best")
    with pytest.raises(SettingsError, match="model 'logistic' does not go with the policy's settings"):
        variant(own, "logistic", "thompson")
    hybrid = PolicySettings(dimension=2, model="hybrid", arm_features={"a": (1.0,), "b": (2.0,)})
    assert variant(hybrid, "linear", "ucb").arm_features == {}
    assert variant(hybrid, "hybrid", "ucb").arm_features == hybrid.arm_features
    with pytest.raises(ValueError, match="1 rows cannot be cut"):
        logged(0, 1).split(0.5)


def test_evaluation_of_a_running_loop(
    bootstrap: str, prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through Kafka: the log's own mean, models worth more than it, doubly robust estimates with intervals, and a picture."""
    rows = logged(3, 8_000, start_ms=hour_ago_ms())
    with Loop(bootstrap, prefix, tmp_path, CONFIG) as loop:
        assert run(["evaluate", "front", "--config", str(loop.config)]) == 1
        assert "has 0 matured impressions of policy 'front'" in capsys.readouterr().err
        loop.start("one")
        loop.send(events(rows))
        loop.flush()
        loop.wait_covered()
        loop.stop("one")
        asked = ["--model", "linear", "--model", "beta", "--explorer", "thompson", "--rows", "4000"]
        picture = tmp_path / "evaluated.png"
        assert run(["evaluate", "front", *asked, "--plot", str(picture), "--json", "--config", str(loop.config)]) == 0
        found = json.loads(capsys.readouterr().out)
        assert run(["evaluate", "nobody", "--config", str(loop.config)]) == 2
    assert (found["rows_learned"], found["rows_evaluated"]) == (2_000, 2_000)
    own, linear, beta = found["policies"].values()
    assert own["ips"]["value"] == pytest.approx(0.2, abs=0.04)
    assert linear["dr"]["low"] > own["ips"]["value"]
    assert linear["dr"]["low"] < 0.34 < linear["dr"]["high"] + 0.05
    assert beta["dr"]["high"] < linear["dr"]["value"]
    assert linear["doubts"] == []
    assert picture.read_bytes()[:4] == b"\x89PNG"
