"""Texts through a real encoder worker with a tiny random model: asked by an ad server, encoded, projected, decided by."""

from __future__ import annotations

from tests.encoders import tiny

# isort: split

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoders.model import load
from policies.arm_contexts import ArmContexts
from policies.features import Value
from streams import projections
from streams.client import PolicyClient
from streams.processes import WorkerProcess
from streams.settings import Settings
from streams.texts import Texts
from streams.topics import create
from tests.waiting import wait_for

ADS = {"shoes": {"title": "two red shoes", "category": "sale"}, "hat": {"title": "a warm hat"}}
QUERIES = [f"{size} {colour} {thing}" for size in ("small", "large", "one", "two", "three")
           for colour in ("red", "blue", "green") for thing in ("shoes", "hat", "coat")]  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two encoders with different weights."""
    base = tmp_path_factory.mktemp("models")
    return tiny.make(base / "old"), tiny.make(base / "new", seed=1)


def settings_of(bootstrap: str, prefix: str, folder: Path, *, name: str | None = None, **policies: Any) -> Settings:
    encoder = {
        "model": str(folder),
        "dtype": "fp32",
        "device": "cpu",
        "threads": 1,
        "tokenizer_threads": 1,
        "name": name,
    }
    values: Any = {"encoder": encoder, "policies": policies}
    return Settings(bootstrap=bootstrap, prefix=prefix, partitions=2, session_timeout_s=6.0, **values)


def test_texts_of_arms_and_contexts_are_features_by_the_worker_s_own_vectors(
    bootstrap: str, prefix: str, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    """Of an encoder at work and of one beside it, which has a group and keys of its own and answers the same requests."""
    plain = settings_of(bootstrap, prefix, folders[0])
    assert create(plain).problems == ()
    encoders = [load(str(folder), dtype="fp32", device="cpu") for folder in folders]
    workers = []
    try:
        for folder, name in zip(folders, (None, "next"), strict=True):
            logs = tmp_path / str(name)
            logs.mkdir()
            workers.append(WorkerProcess(settings_of(bootstrap, prefix, folder, name=name), "encoder", folder=logs))
        for worker in workers:
            worker.wait_ready(120.0)
        ask(plain, [*QUERIES, "two red shoes\nsale", "a warm hat"])
        for encoder in encoders:
            projection = wait_for(partial(enough, plain, encoder.fingerprint))
            projections.published(plain, projection)
            features = {"texts": {"query": 4}, "projection": projection.name, "match": "query"}
            known = settings_of(bootstrap, prefix, folders[0], front={"features": features, "ads": ADS, "arms": [*ADS]})
            check(known, encoder, projection)
        with PolicyClient(known) as client:  # a text that nobody has asked for before
            fresh: dict[str, Value] = {"query": "a light coat for a child"}
            assert "query" in client.decide("front", fresh, slot="top").missing
            wait_for(lambda: not client.decide("front", fresh, slot="top").missing)
    finally:
        for worker in workers:
            worker.stop()


def ask(settings: Settings, texts: list[str]) -> None:
    from streams.embedding_client import EmbeddingClient

    with EmbeddingClient(settings) as client:
        client.request(texts)


def enough(settings: Settings, fingerprint: str) -> Any:
    """A projection, once all texts are encoded."""
    try:
        found = projections.made(settings, length=6, encoder=fingerprint)
    except projections.ProjectionError:
        return None
    return found if found.texts == len(QUERIES) + 2 else None


def check(settings: Settings, encoder: Any, projection: Any) -> None:
    """The context is that of vectors which this process computes."""
    query, shoes, hat = encoder.encode(["small red shoes", "two red shoes\nsale", "a warm hat"])
    features = settings.policies["front"].features
    assert features is not None
    with Texts(settings) as texts:

        def made() -> Any:
            return texts.compiled("front", features.features, {"query": "small red shoes"})

        assert texts.wait(lambda: not made().missing, 60.0)
        found = made().context
    assert isinstance(found, ArmContexts)
    z = projection.components(query, 4)
    for arm, vector in (("shoes", shoes), ("hat", hat)):
        wanted = [1.0, *z, projection.match(query, vector)]
        assert np.allclose(found.of(arm), wanted, atol=2e-3)
