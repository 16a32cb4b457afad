"""`clickloop evaluate`: from the feedback topic of a real loop, and the parts that need none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from policies.evaluation import Decided, anytime, foresee, learned, scored, under
from policies.guardrails import effective_share
from policies.model import make_model
from policies.ope import LoggedRows, ips, support
from streams.cli import run
from streams.evaluate import compare, variant
from streams.evaluate_file import read_file
from streams.events import Impression, Outcome
from streams.matured import Rows
from streams.settings import PolicySettings, Settings, SettingsError
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
    greedy, uniform = (
        under(
            foresee(learned(first, model, explorer="epsilon-greedy", rates={"epsilon": share}, intercept=0), rest), rest
        )
        for share in (0.0, 1.0)
    )
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
    taught = learned(first, model, explorer="epsilon-greedy", rates={"epsilon": 1.0}, intercept=0)
    rows = under(foresee(taught, rest), rest)
    assert rows.value is not None
    assert rows.value.mean() == pytest.approx(0.2, abs=0.06 if name == "logistic" else 0.03)


def test_rows_are_kept_by_event_time() -> None:
    """The newest of several records, those of a fixed choice left out, whatever order the partitions were read in."""
    rows = Rows(1)
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
    rows.take({"context": np.ones((3, 2)), "reward": np.zeros(3)})
    assert (rows.left_out, len(rows)) == (3, 4)
    assert Rows(0).decided().arms == ()


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
    assert linear["anytime"]["low"] < linear["ips"]["value"] < linear["anytime"]["high"]
    assert linear["scores"]["auc"] > beta["scores"]["auc"] + 0.05
    assert linear["scores"]["log_loss"] < beta["scores"]["log_loss"]
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_predictions_are_scored_on_what_they_were_not_learned_from() -> None:
    """A model that knows the slopes beats one that does not; what is cut by the declared bounds is told."""
    first, rest = logged(5, 12_000).split(0.5)
    linear, beta = (
        foresee(
            learned(
                first, make_model(name, dimension=2), explorer="epsilon-greedy", rates={"epsilon": 0.1}, intercept=0
            ),
            rest,
        )
        for name in ("linear", "beta")
    )
    good, plain = scored(linear, rest, k=1), scored(beta, rest, k=1)
    assert good.auc is not None
    assert plain.auc is not None
    assert good.auc == pytest.approx(0.708, abs=0.03)  # pairs of rows with chances 0.35, 0.05 and 0.2, as many of each
    assert abs(plain.auc - 0.5) < 0.03
    assert good.calibration_error < 0.03
    assert good.mae < 0.02
    rows = under(linear, rest)
    whole, cut = (anytime(rows, bounds=(0.0, 1.0), weight_cap=cap) for cap in (10.0, 1.0))
    assert whole.cut == 0.0
    assert whole.low < 0.34 < whole.high
    assert cut.cut > 0.3
    assert cut.high < 0.34


def log_file(path: Path, rows: Decided, *, more: str = "") -> Path:
    """The log as CSV."""
    lines = [
        f"{int(ts)},{ARMS[arm]},{float(p)!r},{float(x[1])!r},{int(r)}"
        for ts, arm, p, x, r in zip(rows.ts, rows.arm, rows.propensity, rows.x, rows.reward, strict=True)
    ]
    path.write_text("\n".join(["ts,arm,propensity,side,click", *lines]) + "\n" + more)
    return path


def test_evaluation_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a broker and without settings of the policy: what the feedback topic would tell of the same rows."""
    rows = logged(3, 4_000, start_ms=1_700_000_000_000)
    path = log_file(tmp_path / "log.csv", rows)
    asked = ["--file", str(path), "--map", "context=intercept,side", "--model", "linear", "--model", "beta"]
    nobody = ["--bootstrap", "127.0.0.1:1"]
    picture = tmp_path / "picture.image"
    assert run(["evaluate", "front", *asked, *nobody, "--json", "--plot", str(picture)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows_learned"], found["rows_evaluated"], found["source"]) == (2_000, 2_000, str(path))
    own, linear, beta = found["policies"].values()
    assert own["ips"]["value"] == rows.reward[2_000:].mean()
    assert linear["dr"]["low"] > own["ips"]["value"]
    assert linear["scores"]["auc"] > beta["scores"]["auc"]
    assert 0.0 <= linear["exposure_gini"] < 0.67
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert run(["evaluate", "front", *asked, *nobody]) == 0
    shown = capsys.readouterr().out
    assert "calibration error" in shown
    assert "at any time" in shown


def test_a_file_s_rows_earn_what_the_learner_would_say(tmp_path: Path) -> None:
    """Outcomes of one impression in several rows, one twice, one too late; rows of certain choices are left out; any order."""
    path = tmp_path / "log.jsonl"
    row = {"decision_id": "d", "ts": 1_000_000, "arm": "a", "propensity": 0.5, "context": [1.0, 2.0], "click": 1}
    rows = [
        row | {"decision_id": "e", "ts": 2_000_000, "click": 0},
        row | {"kind": "buy", "value": 2, "outcome_id": "1"},
        row | {"kind": "buy", "value": 2, "outcome_id": "1"},
        row | {"outcome_id": "2", "click_ts": 1_009_999},
        row | {"outcome_id": "3", "click_ts": 1_010_000},
        row | {"decision_id": "f", "propensity": 1.0},
    ]
    path.write_text(
        "".join(
            json.dumps({"kind": "click", "value": 1, "outcome_id": "", "click_ts": one["ts"]} | one) + "\n"
            for one in rows
        ).replace('"outcome_id": ""', '"outcome_id": "0"')
    )
    own = PolicySettings(dimension=2, window_s=10.0, outcomes={"click": 1.0, "buy": 5.0})
    settings = Settings(bootstrap="127.0.0.1:1", policies={"front": own})
    _, found = read_file(settings, "front", path, columns={}, newest=100, skip_bad=False)
    decided = found.decided()
    assert decided.ts.tolist() == [1_000_000, 2_000_000]
    assert decided.reward.tolist() == [11.0, 0.0]


def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bad rows are named and can be left out; no file, too few rows, options that do not go together."""
    rows = logged(3, 400, start_ms=1_700_000_000_000)
    path = log_file(tmp_path / "log.csv", rows, more="1700000000000,a,1.5,1.0,0\nyesterday,a,0.5,1.0,0\n")
    asked = ["evaluate", "front", "--bootstrap", "127.0.0.1:1", "--map", "context=intercept,side"]
    assert run([*asked, "--file", str(path)]) == 1
    told = capsys.readouterr().err
    assert "row 401: propensity" in told
    assert "2 of 402 rows cannot be used and nothing was evaluated" in told
    assert run([*asked, "--file", str(path), "--skip-bad"]) == 0
    capsys.readouterr()
    assert run([*asked, "--file", str(tmp_path / "none.csv")]) == 1
    assert "does not exist" in capsys.readouterr().err
    short = log_file(tmp_path / "short.csv", logged(3, 50, start_ms=1_700_000_000_000))
    assert run([*asked, "--file", str(short)]) == 1
    assert "has 50 matured impressions" in capsys.readouterr().err
    assert run(asked) == 2
    assert "--map and --skip-bad are for a file" in capsys.readouterr().err


def test_what_is_learned_from_is_cut_as_the_learner_cuts_it(tmp_path: Path) -> None:
    """Wild contexts among the rows do not change what a policy with a feature limit learns."""
    rows = logged(4, 6_000, start_ms=1_700_000_000_000)
    wild = rows.x.copy()
    wild[::50, 1] = 1e4
    path = log_file(tmp_path / "log.csv", replace(rows, x=wild))

    def worth(**limit: float) -> float:
        own = PolicySettings(dimension=2, intercept=0, **limit)
        found = compare(
            Settings(bootstrap="127.0.0.1:1", policies={"front": own}),
            "front",
            models=(),
            explorers=("epsilon-greedy",),
            newest=20_000,
            share=0.5,
            seed=0,
            file=path,
            columns={"context": "intercept,side"},
        )
        return float(found["policies"]["linear epsilon-greedy"]["snips"]["value"])

    assert worth(feature_limit=1.0) > worth() + 0.05


def test_a_tiny_propensity_is_a_doubt_and_no_error() -> None:
    """Weights are finite, whatever was logged; the effective sample size says that a single row decides."""
    rows = LoggedRows(reward=np.ones(100), propensity=np.array([5e-324, *[0.5] * 99]), target=np.full(100, 0.5))
    found = support(rows)
    assert found.ess == pytest.approx(1.0)
    assert found.doubts[0].startswith("effective sample size 1 of 100 rows")
    assert np.isfinite(ips(rows)).all()
    assert effective_share(np.array([np.inf, 1.0])) == pytest.approx(0.5)
