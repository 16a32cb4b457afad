"""Propensities and explanations on request: from the client for every explorer and model, and from the command line."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.batch import Batch
from policies.decide import law
from policies.empirical_bayes import fit
from policies.explain import explain
from policies.explorers import EXPLORERS
from policies.features import FeatureError
from policies.model import MODELS, make_model
from policies.snapshot import Snapshot, build
from streams import cli
from streams.client import NoSnapshot, PolicyClient
from streams.settings import Settings
from tests.test_client import publish
from tests.test_named_features import NOBODY, POLICY, VALUES, snapshot_of

X = [1.0, -0.5]
CANDIDATES = ("c", "a", "new")


def front(model: str, explorer: str, arms: str = "abcd") -> Snapshot:
    """A snapshot of sixty rows, with a floor of 8%."""
    rng, made = np.random.default_rng(3), make_model(model, dimension=2)
    x, arm = rng.normal(size=(60, 2)), rng.integers(0, len(arms), 60)
    hit = np.flatnonzero(rng.random(60) < 0.4)
    ones, ts = np.ones(len(hit)), np.zeros(60, np.int64)
    batch = Batch(
        arms=tuple(arms),
        arm=arm,
        x=x,
        ts=ts,
        reward_arm=arm[hit],
        reward_x=x[hit],
        reward_ts=ts[hit],
        reward=ones,
        square=ones,
    )
    sums = made.update({}, batch)
    prior = fit({name: made.at(one, now_ms=0) for name, one in sums.items()}, model=model, dimension=2)
    return build(
        "front",
        model=made,
        sums=sums,
        prior=prior,
        version=2,
        previous=None,
        time_ms=0,
        now_ms=0,
        explorer=explorer,
        rates={"epsilon": 0.08},
    )


def following(snapshot: Snapshot | None) -> Any:
    client = PolicyClient(Settings(bootstrap=NOBODY), rng=np.random.default_rng(0))
    if snapshot is not None:
        client._swap("front", snapshot)
    return closing(client)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("explorer", EXPLORERS)
def test_every_candidates_propensity_is_told_on_request(explorer: str, model: str) -> None:
    """It is that of the law and of the decision, keeps the floor, and sums to one; and an explanation has it too."""
    snapshot = front(model, explorer)
    with following(snapshot) as client:
        p = client.propensities("front", X, CANDIDATES)
        assert list(p) == list(CANDIDATES)
        assert list(p.values()) == law(snapshot, X, CANDIDATES).tolist()
        assert sum(p.values()) == pytest.approx(1.0, abs=1e-12)
        assert min(p.values()) >= 0.08 / 3 * (1 - 1e-12)
        decision = client.decide("front", X, CANDIDATES, slot="top")
        assert (decision.propensity, decision.propensity_kind) == (p[decision.arm], "exact")
        assert decision.probabilities.tolist() == list(p.values())
        assert [one.propensity for one in client.explain("front", X, CANDIDATES)] == list(p.values())
        assert list(client.propensities("front", X)) == list(snapshot.names)


def test_asking_draws_nothing() -> None:
    """Decisions are the same with and without questions between them."""
    arms = []
    for asking in (False, True):
        with following(front("linear", "thompson")) as client:
            for _ in range(20):
                if asking:
                    client.propensities("front", X)
                    client.explain("front", X)
                arms.append(client.decide("front", X, slot="top").arm)
    assert arms[:20] == arms[20:]


def test_without_a_snapshot_nothing_can_be_told() -> None:
    """The message names the policy."""
    with following(None) as client:
        for ask in (client.propensities, client.explain):
            with pytest.raises(NoSnapshot, match="policy 'front' has no snapshot"):
                ask("front", X)


def test_named_features_compile_here_too() -> None:
    """As when deciding; unknown names are refused."""
    settings = Settings(bootstrap=NOBODY, policies={"front": POLICY})
    with closing(PolicyClient(settings)) as client:
        client._swap("front", snapshot_of(POLICY))
        found = client.explain("front", VALUES)
        assert len(found[0].contributions) == POLICY.dimension
        with pytest.raises(FeatureError, match="no feature 'age'"):
            client.explain("front", {"age": 3.0})


def command(bootstrap: str, prefix: str, folder: Path, policy: str) -> list[str]:
    """Arguments that reach this broker, after topics were made."""
    config = folder / "clickloop.toml"
    config.write_text(f'prefix = "{prefix}"\n[policies.front]\n{policy}')
    assert cli.run(["topics", "create", "--config", str(config), "--bootstrap", bootstrap]) == 0
    return ["--config", str(config), "--bootstrap", bootstrap]


def test_the_command_prints_what_the_snapshot_explains(
    local_broker: str, prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In JSON for programs, in tables for people; what cannot be explained is one message."""
    where = command(local_broker, prefix, tmp_path, "dimension = 2\n")
    snapshot = front("linear", "thompson")
    publish(Settings(bootstrap=local_broker, prefix=prefix), snapshot)
    capsys.readouterr()
    asked = ["policy", "explain", "front", "--vector", "1,-0.5", "--candidates", "a", "--candidates", "new", *where]
    assert cli.run([*asked, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    first, new = explain(snapshot, X, ("a", "new"))
    assert (record["version"], record["explorer"], list(record["arms"])) == (2, "thompson", ["a", "new"])
    told = record["arms"]["a"]
    assert told["propensity"] == pytest.approx(first.propensity, abs=1e-12)
    assert told["contributions"] == pytest.approx(dict(zip(("x0", "x1"), first.contributions.tolist(), strict=True)))
    assert record["arms"]["new"]["unknown"] == new.unknown == 1.0
    assert cli.run(asked) == 0
    printed = capsys.readouterr().out
    assert "front, version 2: linear, thompson" in printed
    assert "what each feature adds to the mean" in printed
    assert cli.run(["policy", "explain", "front", "--vector", "1", *where]) == 1
    assert "the context has shape (1,)" in capsys.readouterr().err
    assert cli.run(["policy", "explain", "front", "--context", '{"age": 3}', *where]) == 1
    assert "has no named features in the settings" in capsys.readouterr().err
    assert cli.run(["policy", "explain", "other", "--vector", "1,2", *where]) == 1
    assert "policy 'other' has no snapshot" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--vector", "1,two"], "could not convert string to float"),
        (["--context", "[1, 2]"], "takes a JSON object"),
        (["--context", "{"], "numbers between commas"),
        (["--context", "{}", "--vector", "1"], "not both"),
    ],
)
def test_contexts_that_are_none_are_refused_before_the_broker_is_asked(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With exit code 2, and what is allowed."""
    assert cli.run(["policy", "explain", "front", *arguments, "--bootstrap", NOBODY]) == 2
    assert reason in " ".join(capsys.readouterr().err.replace("│", " ").split())
