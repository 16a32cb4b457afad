"""Roll-outs and priors by group through a broker: leader changes, the story in the history, and `clickloop meta prior`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from policies.batch import Batch
from policies.exploration_records import encode_exploration
from policies.meta_state import Rows
from streams import cli, topics
from streams.checkpoint import UnknownOutcomeError
from streams.metrics import Metrics
from streams.policy_exploring import PolicyExploring
from streams.posteriors import Place
from streams.published import read_published, read_snapshots
from streams.publisher import Publisher
from streams.rules import tracks
from streams.settings import Settings
from streams.snapshots import history

D, N = 2, 3000
START_MS = 1_700_000_000_000
ADS = {"a1": "spring", "a2": "spring", "b1": "autumn", "b2": "autumn", "new": "autumn"}
RATES = {"a1": 0.02, "a2": 0.03, "b1": 0.2, "b2": 0.22}


class World:
    """Stands in for learners: sums of arms that were shown N times each."""

    def __init__(self, settings: Settings) -> None:
        self.models = tracks(settings.policies["front"])
        self.by_track: dict[float, dict[str, Any]] = {0.0: {}}
        self.changed: set[str] = set()
        self.place = Place()
        self.error: str | None = None
        self.rng = np.random.default_rng(1)

    def step(self, number: int) -> None:
        names = tuple(RATES)
        arm = np.repeat(np.arange(len(names)), N)
        x = np.column_stack([np.ones(len(arm)), self.rng.standard_normal(len(arm))])
        hit = np.flatnonzero(self.rng.random(len(arm)) < np.array(list(RATES.values()))[arm])
        ts = np.full(len(arm), START_MS + 1000 * number)
        batch = Batch(
            arms=names, arm=arm, x=x, ts=ts, reward_arm=arm[hit], reward_x=x[hit], reward_ts=ts[hit],
            reward=np.ones(len(hit)), square=np.ones(len(hit)),
        )  # fmt: skip
        self.by_track = {0.0: self.models[0.0].update(self.by_track[0.0], batch)}
        offsets = {0: {"impressions": (number + 1) * len(arm), "clicks": number + 1}}
        self.changed, self.place = set(names), Place({0: int(ts[0])}, offsets, int(ts[0]))

    def start(self) -> None: ...

    def close(self) -> None: ...

    def everything_changed(self) -> None:
        self.changed = set(self.by_track[0.0])

    def take(self, policy: str) -> tuple[dict[float, dict[str, Any]], set[str], Place]:
        changed, self.changed = self.changed, set()
        return self.by_track, changed, self.place


@pytest.fixture
def settings(bootstrap: str, prefix: str) -> Settings:
    front = {
        "model": "hybrid",
        "dimension": D,
        "intercept": 0,
        "arms": ["new"],
        "alpha": 1.0,
        "explore": "roll-outs",
        "group_by": "campaign",
        "ads": {arm: {"campaign": group} for arm, group in ADS.items()},
        "slots": {"side": {"position": 0.5}},
    }
    made = Settings(bootstrap=bootstrap, prefix=prefix, partitions=1, policies={"front": front}, meta_interval_s=0.01)
    topics.create(made)
    return made


@contextmanager
def leading(settings: Settings, world: World) -> Iterator[Publisher]:
    publisher = Publisher(settings, metrics=Metrics(CollectorRegistry()), leads=lambda: True)
    publisher._posteriors = world  # type: ignore[assignment]
    asyncio.run(publisher.follow())
    try:
        yield publisher
    finally:
        asyncio.run(publisher.close())


def exploring(publisher: Publisher) -> PolicyExploring:
    return publisher._policies["front"].meta.exploring


def tick(publisher: Publisher, *, error: str = "") -> None:
    end = time.monotonic() + 90.0
    asyncio.run(publisher.tick())
    while publisher.ready()[1].endswith("been read yet") and time.monotonic() < end:
        time.sleep(0.02)
        asyncio.run(publisher.tick())
    assert publisher.ready() == ((False, error) if error else (True, "leading"))


def contexts(publisher: Publisher) -> None:
    """As if matured rows had brought them."""
    x = np.random.default_rng(2).standard_normal((64, D))
    exploring(publisher).take(Rows(arm=["new"] * 64, ts=np.zeros(64, np.int64), x=x, reward=np.zeros(64)))


def record(settings: Settings) -> bytes:
    return read_published(settings)[1]["front"][None, "exploration"]


def test_a_roll_out_s_rate_is_published_with_its_reason_and_survives_a_leader(settings: Settings) -> None:
    """Snapshots go on while it plays; a leader that dies in the transaction loses the decision, and the next one, cutting there, makes it."""
    world = World(settings)
    with leading(settings, world) as publisher:
        tick(publisher)
        contexts(publisher)
        world.step(0)
        tick(publisher)
        assert read_snapshots(settings)["front"].rates["alpha"] == 1.0
        assert exploring(publisher).wait(60.0)
        assert publisher._writer is not None

        def dies(messages: Any) -> None:
            raise UnknownOutcomeError("the broker went away")

        publisher._writer.commit = dies  # type: ignore[method-assign]
        tick(publisher, error="the broker went away")
        lost = encode_exploration("front", exploring(publisher).state)
        assert exploring(publisher).state.alpha < 1.0
    assert read_snapshots(settings)["front"].rates["alpha"] == 1.0
    with leading(settings, world) as publisher:
        world.everything_changed()
        tick(publisher)
        assert exploring(publisher)._job is not None
        assert exploring(publisher).wait(60.0)
        tick(publisher)
        front = read_snapshots(settings)["front"]
        assert front.rates["alpha"] == exploring(publisher).state.alpha < 1.0
        assert record(settings) == encode_exploration("front", exploring(publisher).state) == lost
        sample = publisher._metrics.registry.get_sample_value
        assert sample("clickloop_exploration_rate", {"policy": "front"}) == front.rates["alpha"]
    told = [reason for head in history(settings, "front") for reason in head["reasons"]]
    assert sum(reason.startswith("alpha 1 -> ") and "roll-outs" in reason for reason in told) == 1
    with leading(settings, world) as publisher:
        tick(publisher)
        assert publisher._policies["front"].trials.exploring.rates["alpha"] == front.rates["alpha"]


def test_meta_prior_tells_what_is_new_starts_from(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By group and slot; an arm without rows is published with its group's mean, one of no group would start from that of all."""
    world = World(settings)
    with leading(settings, world) as publisher:
        world.step(0)
        tick(publisher)
    config = tmp_path / "clickloop.toml"
    front = settings.policies["front"]
    config.write_text(
        f'bootstrap = "{settings.bootstrap}"\nprefix = "{settings.prefix}"\npartitions = 1\n[policies.front]\nmodel = "hybrid"\n'
        f"dimension = {front.dimension}\nintercept = 0\n[policies.front.slots.side]\nposition = 0.5\n"
    )
    assert cli.run(["meta", "prior", "front", "--json", "--config", str(config)]) == 0
    record: dict[str, Any] = json.loads(capsys.readouterr().out)
    arms, slots = record["arms"], record["slots"]
    assert set(arms) == {"(none)", "spring", "autumn"}
    assert arms["spring"]["mean"] < 0.06 < 0.15 < arms["autumn"]["mean"]
    assert arms["spring"]["mean"] < arms["(none)"]["mean"] < arms["autumn"]["mean"]
    assert arms["(none)"]["sd"] > arms["autumn"]["sd"] > 0.0
    assert slots["side"]["mean"] == pytest.approx(0.5 * slots["(new)"]["mean"])
    new = read_snapshots(settings)["front"].arms["new"]
    assert float(new.mean[0]) == pytest.approx(arms["autumn"]["mean"], rel=1e-6)  # type: ignore[union-attr]
    assert cli.run(["meta", "prior", "front", "--vector", "1,0,0", "--config", str(config)]) == 1
    assert "the context has 3 numbers" in capsys.readouterr().err
    assert cli.run(["meta", "prior", "front", "--config", str(config)]) == 0
    assert "autumn" in capsys.readouterr().out
