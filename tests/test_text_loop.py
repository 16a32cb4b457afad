"""Texts through the loop on a broker: vectors and projections from the topic to decisions, and a policy that takes over."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer
from prometheus_client import CollectorRegistry

from encoders.keys import key_of
from policies.arm_contexts import ArmContexts
from policies.arm_features import FeaturedPrior
from policies.features import Value
from policies.projection import added, no_moments, principal
from policies.snapshot import Snapshot
from streams import cli, projections, topics
from streams.checkpoint import Writer
from streams.client import PolicyClient
from streams.embedding_client import EmbeddingClient, NotEncoded
from streams.embedding_events import (
    ENCODER_HEADER,
    Announcement,
    EmbeddingRequest,
    announcement_key,
    decode_request,
    encode_announcement,
    pack_vector,
    vector_headers,
)
from streams.events import Impression, encode
from streams.failpoints import failpoints
from streams.metrics import Metrics
from streams.projections import ProjectionError, decode_projection, encode_projection, moments_of
from streams.published import read_snapshots
from streams.publisher import Publisher
from streams.reading import SimpleRecord, bounds, partition_count, read, reader
from streams.rules import rules
from streams.settings import Settings
from streams.snapshots import history
from streams.state import Fetched, PartitionState
from streams.texts import Texts
from tests.vectors import D, projection, vector_of
from tests.waiting import wait_for

START_MS = 1_700_000_000_000
TEXTS = [f"text {i}" for i in range(200)]
REASON = "__connect.errors.exception.message"
ADS: dict[str, Any] = {"shoes": {"title": "Two red shoes"}, "hat": {"title": "A hat"}, "coat": {"title": "A coat"}}


class Encoder:
    """Stands in for an encoder worker: vectors that are functions of the text, under a fingerprint."""

    def __init__(self, settings: Settings, *, fingerprint: str = "e1", seed: int = 0, beside: bool = False) -> None:
        self.settings, self.fingerprint, self.seed = settings, fingerprint, seed
        self.producer = Producer(settings.librdkafka() | {"partitioner": "murmur2_random", "log_level": 2})
        mark = Announcement(fingerprint=fingerprint, dimension=D, precision="fp32", max_length=9, model="table")
        self.write(announcement_key(fingerprint, beside=beside), encode_announcement(mark))

    def write(self, key: bytes, value: bytes) -> None:
        headers: Any = vector_headers(self.fingerprint, D)
        self.producer.produce(self.settings.topics.embeddings, key=key, value=value, headers=headers)
        assert self.producer.flush(30) == 0

    def encode(self, texts: Iterable[str], *, seed: int | None = None) -> None:
        for text in texts:
            vector = vector_of(text, seed=self.seed if seed is None else seed)
            headers: Any = vector_headers(self.fingerprint, D)
            self.producer.produce(
                self.settings.topics.embeddings, key=key_of(self.fingerprint, text), value=pack_vector(vector),
                headers=headers,
            )  # fmt: skip
        assert self.producer.flush(30) == 0

    def requested(self) -> set[str]:
        """Texts that were asked for until now."""
        return {one.text for one in self.requests()}

    def requests(self) -> list[EmbeddingRequest]:
        """What was asked until now."""
        topic, client = self.settings.topics.embedding_requests, self.settings.librdkafka()
        found: list[EmbeddingRequest] = []
        with reader(client) as consumer:
            for number in range(partition_count(client, topic)):
                low, high = bounds(consumer, topic, number, timeout_s=10)
                for batch in read(consumer, topic, number, low, None, timeout_s=10) if high > low else ():
                    found += [decode_request(one.value, [], most_bytes=1000) for one in batch]
        return found


def settings_of(bootstrap: str, prefix: str, **policies: Any) -> Settings:
    """With the encoder's topics, whether a policy needs them yet or not."""
    values: Any = {"encoder": {"model": "nowhere"}, "policies": policies}
    return Settings(bootstrap=bootstrap, prefix=prefix, partitions=2, meta_interval_s=0.1, **values)


def front(name: str, **changes: Any) -> dict[str, Any]:
    features = {"numeric": {"hour": {}}, "texts": {"query": 3}, "projection": name, "match": "query"}
    return {"model": "hybrid", "features": features, "ads": ADS, "arms": [*ADS], "arm_texts": 2} | changes


def run(config: Path, *arguments: str, capsys: pytest.CaptureFixture[str]) -> Any:
    assert cli.run([*arguments, "--config", str(config), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_a_command_fits_a_projection_to_the_vectors_that_are_there(
    bootstrap: str, prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one encoder's, each text once, the first that came; every reader then has the same numbers."""
    known = settings_of(bootstrap, prefix)
    topics.create(known)
    config = tmp_path / "clickloop.toml"
    config.write_text(f'bootstrap = "{bootstrap}"\nprefix = "{prefix}"\npartitions = 2\n')
    with pytest.raises(ProjectionError, match="no encoder has announced itself"):
        projections.made(known, length=4)
    encoder = Encoder(known)
    with pytest.raises(ProjectionError, match="has no vectors of encoder e1"):
        projections.made(known, length=4)
    encoder.encode(TEXTS)
    encoder.encode(TEXTS[:50], seed=9)  # later vectors of the same texts do not count
    Encoder(known, fingerprint="e2", seed=5, beside=True).encode(TEXTS)
    dry = run(config, "encoder", "project", "--components", "4", "--dry-run", capsys=capsys)
    assert dry["published"] is False
    told = run(config, "encoder", "project", "-r", "4", capsys=capsys)
    assert (told["projection"], told["encoder"], told["texts"]) == (dry["projection"], "e1", 200)
    whole = principal(added(no_moments(D), [vector_of(text) for text in TEXTS]), length=4, encoder="e1")
    with EmbeddingClient(known) as client:
        found = wait_for(lambda: client.projection(told["projection"]))
        assert np.allclose(found.components(vector_of("new")), whole.components(vector_of("new")), atol=1e-4)
        assert client.encoder is not None
        assert client.encoder.fingerprint == "e1"  # an encoder beside it does not take its place
        other = projections.made(known, length=3, encoder="e2")
        assert other.name != found.name
        projections.published(known, other)
        assert wait_for(lambda: client.projection(other.name)).encoder == "e2"
    assert cli.run(["encoder", "project", "-r", "9", "--config", str(config)]) == 1
    assert "allowed are 1 to 6" in capsys.readouterr().err


def vector_records(texts: Iterable[str], *, fingerprint: str = "e1") -> list[SimpleRecord]:
    headers = vector_headers(fingerprint, D)
    return [SimpleRecord(0, 0, key_of(fingerprint, text), pack_vector(vector_of(text)), headers) for text in texts]


@pytest.mark.parametrize("place", [1, 2, 3])
def test_a_partition_without_new_vectors_takes_nothing_away(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    """Wherever it stands: empty, of another encoder, or with texts that were there before."""
    parts = [vector_records(TEXTS[:80]), vector_records(TEXTS[80:150]), vector_records(TEXTS[150:])]
    for nothing in ([], vector_records(TEXTS, fingerprint="e2"), parts[0]):
        given = [*parts[:place], nothing, *parts[place:]]
        monkeypatch.setattr(projections, "_partitions", lambda _, given=given: iter(map(iter, given)))
        found = projections.made(Settings(), length=3, encoder="e1")
        assert found.texts == len(TEXTS)


def test_records_that_are_no_projection_are_passed_over() -> None:
    """Damaged, of another name, of a later version, nested too deeply."""
    one = projection()
    key, value = projections.key_of(one.name), encode_projection(one)
    assert decode_projection(key, value).name == one.name
    assert len(key) != 16
    for wrong_key, wrong in (
        (key, b"\xc1"),
        (key, value[:-3]),
        (projections.key_of(projection(seed=1).name), value),
        (key, encode_projection(projection(seed=1))),
        (key, value.replace(b"\xa1v\x01", b"\xa1v\x02")),
        (key, b"\x81\xa1x" + b"\x91" * 100_000),
    ):
        with pytest.raises(ProjectionError):
            decode_projection(wrong_key, wrong)
    records = [SimpleRecord(0, 0, key, value, []), SimpleRecord(1, 0, None, b"", [])]
    assert moments_of(records, encoder="e1", seen=set()) is None


def test_a_projection_that_no_record_can_hold_is_refused() -> None:
    """Before anything is published."""
    rng = np.random.default_rng(0)
    large = principal(added(no_moments(512), rng.normal(size=(600, 512))), length=500, encoder="e1")
    with pytest.raises(ProjectionError, match="ask for at most 437 components"):
        encode_projection(large)


def test_an_ad_server_asks_for_texts_and_decides_by_their_vectors_when_they_come(bootstrap: str, prefix: str) -> None:
    """Before that by the mean; nothing waits."""
    name = projection().name
    known = settings_of(bootstrap, prefix, front=front(name))
    topics.create(known)
    with PolicyClient(known, rng=np.random.default_rng(0)) as client:
        values: dict[str, Value] = {"hour": 0.5, "query": "red shoes"}
        first = client.decide("front", values, ["shoes", "hat"], slot="top")
        assert first.missing[0] == "query"
        assert first.context.tolist() == [1.0, 0.5, 0.0, 0.0, 0.0, 0.0]
        encoder = Encoder(known)
        projections.published(known, projection())
        wanted = {"red shoes", *(ad["title"] for ad in ADS.values())}

        def asked() -> bool:
            client.decide("front", values, ["shoes"], slot="top")
            return encoder.requested() >= wanted

        wait_for(asked)
        encoder.encode(encoder.requested())

        def complete() -> Any:
            one = client.decide("front", values, ["shoes"], slot="top")
            return None if one.missing else one

        one = wait_for(complete)
    z = projection().components(vector_of("red shoes"), 3)
    match = projection().match(vector_of("red shoes"), vector_of("Two red shoes"))
    assert np.allclose(one.context, [1.0, 0.5, *z, match], rtol=1e-6)


def letter(encoder: Encoder, text: str, *headers: tuple[str, bytes]) -> None:
    """A dead letter of a request for a text."""
    topics_ = encoder.settings.topics
    given: Any = [("__connect.errors.topic", topics_.embedding_requests.encode()), (REASON, b"poison"), *headers]
    encoder.producer.produce(topics_.dead_letters, key=key_of(encoder.fingerprint, text), value=b"", headers=given)
    assert encoder.producer.flush(30) == 0


def test_only_the_encoder_at_work_can_refuse_a_text(
    bootstrap: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A letter that names another one is passed over; one without a name, as before there were names, is not."""
    known = settings_of(bootstrap, prefix)
    topics.create(known)
    encoder, at_work, judged = Encoder(known), EmbeddingClient._at_work, []

    def noted(client: EmbeddingClient, name: bytes | None) -> bool:
        found = at_work(client, name)
        judged.append(name)
        return found

    monkeypatch.setattr(EmbeddingClient, "_at_work", noted)
    with EmbeddingClient(known) as client, ThreadPoolExecutor(1) as pool:

        def asked(text: str) -> Future[Any]:
            future = pool.submit(client.embed, [text], timeout_s=60.0)
            wait_for(lambda: text in encoder.requested())
            return future

        came = asked("red")
        letter(encoder, "red", (ENCODER_HEADER, b"e2"))
        wait_for(lambda: judged == [b"e2"])
        encoder.encode(["red"])
        assert np.array_equal(came.result()[0], vector_of("red"))
        for text, named in (("hat", [(ENCODER_HEADER, b"e1")]), ("coat", [])):
            failed = asked(text)
            letter(encoder, text, *named)
            with pytest.raises(NotEncoded, match="poison"):
                failed.result()


def test_what_was_taken_back_is_asked_for_again(bootstrap: str, prefix: str) -> None:
    """A worker may count it as answered, so the request says `again`; other requests do not."""
    known = settings_of(bootstrap, prefix)
    topics.create(known)
    encoder = Encoder(known)
    encoder.encode(["red", "hat"])
    encoder.producer.produce(known.topics.embeddings, key=key_of("e1", "red"), value=None)
    assert encoder.producer.flush(30) == 0
    with EmbeddingClient(known) as client:
        wait_for(lambda: client.get("hat") is not None and client._vectors.taken_back(key_of("e1", "red")))
        client.request(["red", "coat"])
        client.ask("red")
        found = wait_for(lambda: found if len(found := encoder.requests()) == 3 else None)
    assert sorted((one.text, one.again) for one in found) == [("coat", False), ("red", True), ("red", True)]


class Learner:
    """A partition whose checkpoints are committed as a learner's."""

    def __init__(self, settings: Settings) -> None:
        self.state = PartitionState(0, rules=rules(settings))
        roles = {"posteriors": settings.topics.posteriors, "feedback": settings.topics.feedback}
        self.writer = Writer(
            settings.librdkafka(), transactional_id=settings.prefix + "learner-0", partition=0, topics=roles,
            timeout_s=10.0, passing=failpoints(None),
        )  # fmt: skip
        self.writer.initialise()
        self.offset = 0

    def take(self, decisions: Iterable[Any]) -> None:
        """Impressions of these decisions, in a checkpoint of their own."""
        events = [
            Impression(
                decision_id=one.decision_id, slot=one.slot, policy=one.policy, snapshot=one.snapshot, arm=one.arm,
                propensity=one.propensity, context=one.context.tolist(), ts=START_MS,
            )
            for one in decisions
        ]  # fmt: skip
        found = [SimpleRecord(self.offset + i, START_MS, None, encode(event), []) for i, event in enumerate(events)]
        self.state.take(Fetched("impressions", 0, self.offset, self.offset + len(found), found))
        self.offset += len(found)
        self.writer.commit(self.state.freeze(START_MS))


def test_a_new_encoder_learns_beside_the_old_one_and_takes_over_without_a_gap(bootstrap: str, prefix: str) -> None:
    """From decisions to sums to snapshots and back, with another projection under another name; the history says why."""
    old, new = projection(), projection(encoder="e2", seed=1)
    policies = {
        "front": front(old.name),
        "front-2": front(new.name, succeeds="front", succession_least=100.0, succession_share=0.5),
    }
    known = settings_of(bootstrap, prefix, **policies)
    topics.create(known)
    for fingerprint, seed, made in (("e1", 0, old), ("e2", 1, new)):
        encoder = Encoder(known, fingerprint=fingerprint, seed=seed, beside=fingerprint == "e2")
        encoder.encode([*(ad["title"] for ad in ADS.values()), *TEXTS])
        projections.published(known, made)
    learner = Learner(known)
    publisher = Publisher(known, metrics=Metrics(CollectorRegistry()), leads=lambda: True)
    asyncio.run(publisher.follow())
    rng, counts = np.random.default_rng(2), {"front": 0, "front-2": 0}
    try:
        with PolicyClient(known, rng=rng) as client:

            def published(ready: Callable[[], Any]) -> Any:
                def tick() -> Any:
                    asyncio.run(publisher.tick())
                    return ready()

                return wait_for(tick)

            def snapshot(name: str) -> Snapshot | None:
                return client.snapshot(name)

            published(lambda: snapshot("front") and snapshot("front-2"))
            stages = []
            for number in range(60):
                shown = [
                    client.decide(
                        "front", {"hour": 0.1 * i, "query": TEXTS[(7 * number + i) % 200]}, slot="top",
                        decision_id=f"{number}-{i}",
                    )
                    for i in range(50)
                ]  # fmt: skip
                assert all(one.reason is None and one.propensity > 0.0 for one in shown)  # never a gap
                stages.append({(one.policy, one.snapshot is None) for one in shown})
                if stages[-1] == {("front-2", False)}:
                    break
                learner.take(shown)
                for one in shown:
                    counts[one.policy] += 1
                published(lambda: read_count(known, "front-2") == counts["front-2"] and up_to_date(client, known))
            assert stages[0] == {("front", False), ("front-2", True)}
            assert stages[-1] == {("front-2", False)}
            taken = client.snapshot("front-2")
        assert taken is not None
        assert taken.succeeds == "front"
        assert counts["front-2"] >= 100
        assert counts["front-2"] >= 0.5 * counts["front"]
        told = [why for row in history(known, "front-2") for why in row["reasons"] if "takes over" in why]
        assert len(told) == 1
        assert told[0].startswith(f"takes over from 'front': {counts['front-2']} decayed impressions")
        prior = publisher._policies["front-2"].prior
        assert isinstance(prior, FeaturedPrior)  # arms share by their texts' components under the new projection
        z = np.array([new.components(vector_of(ad["title"], seed=1), 2) for ad in ADS.values()])
        wanted = (z - z.mean(axis=0)) / z.std(axis=0)
        assert np.allclose([prior.features.of(arm)[1:] for arm in ADS], wanted, atol=1e-4)
    finally:
        asyncio.run(publisher.close())
    again = Publisher(known, metrics=Metrics(CollectorRegistry()), leads=lambda: True)
    asyncio.run(again.follow())
    try:  # a new leader keeps what was handed over

        def led() -> Any:
            asyncio.run(again.tick())
            return again._policies["front-2"].snapshot

        wait_for(led)
        assert read_snapshots(known)["front-2"].succeeds == "front"
    finally:
        asyncio.run(again.close())


def read_count(settings: Settings, policy: str) -> float:
    found = read_snapshots(settings).get(policy)
    return -1.0 if found is None else found.count


def up_to_date(client: PolicyClient, settings: Settings) -> bool:
    """Whether a client has what was published."""
    return all(
        (have := client.snapshot(name)) is not None and have.version == found.version
        for name, found in read_snapshots(settings).items()
    )


def test_an_explanation_waits_for_vectors(bootstrap: str, prefix: str) -> None:
    """For `clickloop policy explain`, a program that lives for one answer."""
    known = settings_of(bootstrap, prefix, front=front(projection().name))
    topics.create(known)
    Encoder(known).encode(["red shoes", *(ad["title"] for ad in ADS.values())])
    projections.published(known, projection())
    features = known.policies["front"].features
    assert features is not None
    with Texts(known) as texts:

        def made() -> Any:
            return texts.compiled("front", features.features, {"hour": 0.0, "query": "red shoes"})

        assert texts.wait(lambda: not made().missing, 90.0)
        assert isinstance(made().context, ArmContexts)
