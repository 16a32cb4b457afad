"""`clickloop meta rehearse`: roll-outs over a log, as the leader would have played them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from policies.empirical_bayes import fit
from policies.exploration import Now, decided, first_exploration, make_cut
from policies.meta_rules import Rules
from policies.model import make_model
from policies.sums import Effective
from streams.cli import run
from streams.meta_rehearsal import rehearse
from streams.settings import PolicySettings, Settings, SettingsError

NOBODY = "127.0.0.1:1"
ARMS = 20


def log_file(path: Path, n: int) -> tuple[Path, np.ndarray, np.ndarray]:
    """Uniform play of arms of very different rates, one row a second: file, arms (n,), clicks (n,)."""
    rng = np.random.default_rng(1)
    rates = rng.beta(1.0, 9.0, ARMS)
    arm = rng.integers(0, ARMS, n)
    click = rng.random(n) < rates[arm]
    rows = [
        {"ts": 1_700_000_000_000 + 1000 * i, "arm": f"a{arm[i]:02d}", "propensity": 1 / ARMS, "click": bool(click[i])}
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path, arm, click


def settings(**policy: object) -> Settings:
    own = PolicySettings.model_validate({"model": "beta", "explore_every": 1000, **policy})
    return Settings(bootstrap=NOBODY, policies={"front": own})


def test_a_cut_is_that_of_the_leader(tmp_path: Path) -> None:
    """The first one against the parts that it is made of; the rate goes on from cut to cut, and the same log tells the same."""
    path, arm, click = log_file(tmp_path / "log.jsonl", 3_500)
    found = rehearse(settings(alpha=2.0), "front", newest=10_000, file=path)
    assert [one["impressions"] for one in found["steps"]] == [1000, 2000, 3000]
    assert found == rehearse(settings(alpha=2.0), "front", newest=10_000, file=path)
    arms = {}
    for i in range(ARMS):
        shown, clicked = float((arm[:1000] == i).sum()), float(click[:1000][arm[:1000] == i].sum())
        arms[f"a{i:02d}"] = Effective(n_eff=shown, count=shown, reward=clicked, square=clicked)
    model = make_model("beta", dimension=0)
    now = Now(
        arms=arms,
        prior=fit(arms, model="beta", dimension=0, intercept=None),
        count=1000.0,
        now_ms=1_700_000_999_000,
        announced={},
        offsets={0: {"impressions": 1000}},
    )
    rules = Rules(model=model.name, dimension=0, explore="roll-outs", every=1000)
    state, told = decided(make_cut(first_exploration(found["given"], dimension=0), now, policy="front", rules=rules))
    assert found["steps"][0] == {"impressions": 1000, "arms": ARMS, "alpha": state.alpha, "reason": told}
    assert told.startswith("alpha 2 -> 0.1: ahead by")
    assert (found["given"], found["alpha"]) == (2.0, 0.1)  # it went on from there, and nothing else led surely


def test_what_cannot_be_rehearsed_is_refused(tmp_path: Path) -> None:
    """A model that roll-outs cannot play for, and a log shorter than the first stretch."""
    path, _, _ = log_file(tmp_path / "log.jsonl", 300)
    with pytest.raises(SettingsError, match=r"300 matured impressions .* a roll-out is played every 1000"):
        rehearse(settings(), "front", newest=10_000, file=path)
    logistic = settings(model="logistic", dimension=1)
    with pytest.raises(SettingsError, match="cannot explore by roll-outs"):
        rehearse(logistic, "front", newest=10_000, file=path, columns={"context": "intercept"})


def test_the_command_prints_every_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a table and as JSON, without a broker."""
    path, _, _ = log_file(tmp_path / "log.jsonl", 400)
    asked = ["meta", "rehearse", "front", "--file", str(path), "--every", "200", "--bootstrap", NOBODY]
    assert run([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["impressions"] for one in found["steps"]] == [200, 400]
    assert run(asked) == 0
    assert "impressions ┃ arms ┃ alpha" in capsys.readouterr().out
    assert run(["meta", "rehearse", "front", "--map", "arm=x", "--bootstrap", NOBODY]) == 2
