"""The learner goes by the versions that impressions name: published references, a learner killed in the middle, the oracle."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.batch import FloatArray
from policies.model import make_model
from policies.prior import Prior
from policies.references import Reference, References, decode, reference_key
from policies.snapshot import build, encode_head
from policies.snapshot_records import head_key
from streams.checkpoint import Writer
from streams.events import Impression, Outcome, encode
from streams.failpoints import failpoints
from streams.messages import Message
from streams.published import read_published
from streams.reading import ReadError, SimpleRecord
from streams.references import ReferenceReader, ReferenceWriter, ring
from streams.rules import rules
from streams.settings import Settings
from streams.snapshots import history as snapshots_of
from streams.state import Fetched, PartitionState
from streams.topics import create
from tests.loop import Loop
from tests.test_exactly_once import hour_ago_ms

ARMS = ("a", "b")
MEANS: dict[int, dict[str, list[float]]] = {
    3: {"a": [0.5, 0.0], "b": [1.0, 0.25]},
    8: {"a": [0.25, -0.5], "b": [-1.0, 0.5]},
}


def config(model: str, more: str = "") -> str:
    worth = 1.0 if model == "logistic" else 4.0
    return f"""
[policies.front]
model = "{model}"
dimension = 2
window_s = 60
grace_s = 10
outcomes = {{ click = {worth} }}
{more}
"""


def publish(settings: Settings, found: dict[int, dict[str, list[float]]]) -> None:
    """Heads and references, as a publisher commits them."""
    policy = settings.policies["front"]
    writer = Writer(
        settings.librdkafka(),
        transactional_id=settings.publisher_group,
        partition=0,
        topics={"policies": settings.topics.policies, "history": settings.topics.history},
        timeout_s=60.0,
        passing=failpoints(None),
    )
    writer.initialise()
    of = ReferenceWriter("front", ring(policy, settings.meta_interval_s))
    of.restore(read_published(settings)[1].get("front", {}))
    for version, means in found.items():
        writer.commit([*of.messages(reference(version, means)), head(version)])
    writer.commit([head(4 + max(found))])
    writer.close()


def head(version: int) -> Message:
    """Of a snapshot that changed nothing but its version; readers that want its arms wait for the next one."""
    prior = Prior(mean=np.zeros(2), tau2=np.ones(2), s2=1.0)
    made = build(
        "front",
        model=make_model("linear", dimension=2),
        sums={},
        prior=prior,
        version=version,
        previous=None,
        time_ms=0,
        now_ms=0,
    )
    return Message("policies", head_key("front"), encode_head(made))


def reference(version: int, means: dict[str, list[float]]) -> Reference:
    return Reference(version=version, means={arm: np.array(mean) for arm, mean in means.items()})


def events(seed: int, n: int) -> list[Impression | Outcome]:
    """Impressions that name versions 1 to 12, a third with a click, dyadic contexts."""
    rng = random.Random(seed)
    start, found = hour_ago_ms(), list[Impression | Outcome]()
    for i in range(n):
        ts = start + 10 * i
        context = [1.0, rng.randrange(-8, 9) / 8]
        found.append(
            Impression(
                decision_id=f"d{i}",
                slot="top",
                policy="front",
                snapshot=rng.randrange(1, 13),
                arm=rng.choice(ARMS),
                propensity=0.5,
                context=context,
                ts=ts,
            )
        )
        if rng.random() < 0.33:
            value = rng.choice([0.25, 1.0])
            found.append(Outcome(decision_id=f"d{i}", slot="top", outcome_id="o", value=value, ts=ts + 500))
    return found


def at(version: int, arm: str) -> FloatArray:
    """The reference that a row of this version goes by; zeros before the first."""
    of = max((known for known in MEANS if known <= version), default=None)
    return np.zeros(2) if of is None else np.array(MEANS[of][arm])


def logistic_truth(log: list[Impression | Outcome]) -> dict[str, Any]:
    """H and u of each arm, row by row."""
    sums = {arm: (np.zeros((2, 2)), np.zeros(2)) for arm in ARMS}
    shown = {one.decision_id: one for one in log if isinstance(one, Impression)}
    for one in shown.values():
        x = np.array(one.context)
        eta = x @ at(one.snapshot or 0, one.arm)
        p = 1.0 / (1.0 + np.exp(-eta))
        sums[one.arm][0][:] += p * (1 - p) * np.outer(x, x)
        sums[one.arm][1][:] += p * (1 - p) * eta * x - p * x
    for click in (one for one in log if isinstance(one, Outcome)):
        one = shown[click.decision_id]
        sums[one.arm][1][:] += click.value * np.array(one.context)
    return sums


def huber_truth(log: list[Impression | Outcome], limit: float) -> dict[str, FloatArray]:
    """B of each arm from pseudo-rewards."""
    sums = {arm: np.zeros(2) for arm in ARMS}
    shown = {one.decision_id: one for one in log if isinstance(one, Impression)}
    for click in (one for one in log if isinstance(one, Outcome)):
        one = shown[click.decision_id]
        x, reward = np.array(one.context), 4.0 * click.value
        if (one.snapshot or 0) >= min(MEANS):
            m = float(x @ at(one.snapshot or 0, one.arm))
            reward = float(np.clip(reward, min(m - limit, 0.0), max(m + limit, 0.0)))
        sums[one.arm] += reward * x
    return sums


@pytest.mark.parametrize("model", ["logistic", "linear"])
def test_rows_go_by_the_version_that_they_name(bootstrap: str, prefix: str, tmp_path: Path, model: str) -> None:
    """Points of the logistic model and limits of Huber's rule, with references that are published while events come, and a death."""
    more = "" if model == "logistic" else "huber = 0.5"
    log = events(4, 3_000)
    with Loop(bootstrap, prefix, tmp_path, config(model, more), checkpoint_interval_s=0.2) as loop:
        publish(loop.settings, {3: MEANS[3]})
        loop.start("one")
        old = [one for one in log if not isinstance(one, Impression) or (one.snapshot or 0) < 8]
        loop.send(one for one in old if isinstance(one, Impression))
        loop.flush()
        loop.wait_covered()
        publish(loop.settings, {8: MEANS[8]})
        loop.send(one for one in log if isinstance(one, Impression) and (one.snapshot or 0) >= 8)
        loop.flush()
        loop.kill("one")
        loop.start("one")
        loop.send(one for one in log if isinstance(one, Outcome))
        loop.flush()
        loop.wait_covered()
        found = loop.sums()["arms"]
        loop.stop("one")
    if model == "logistic":
        for arm, (h, u) in logistic_truth(log).items():
            assert np.allclose(found[arm]["A"], h, rtol=1e-12, atol=1e-12)
            assert np.allclose(found[arm]["b"], u, rtol=1e-12, atol=1e-10)
    else:
        for arm, b in huber_truth(log, 0.5).items():
            assert np.allclose(found[arm]["b"], b, rtol=1e-12)
            assert found[arm]["count"] == sum(isinstance(one, Impression) and one.arm == arm for one in log)


def test_a_publisher_writes_the_reference_with_its_snapshot(bootstrap: str, prefix: str, tmp_path: Path) -> None:
    """Of the first meta-change on, in the compacted topic, with the means that the history has for that version."""
    with Loop(bootstrap, prefix, tmp_path, config("logistic")) as loop:
        loop.start("one")
        loop.start("p", "publisher")
        loop.send(events(1, 200))
        loop.flush()
        until = time.monotonic() + 120
        found: dict[int, Reference] = {}
        learned = 0.0
        while not found or learned < 200:
            assert time.monotonic() < until, (found, learned)
            time.sleep(0.3)
            snapshots, others = read_published(loop.settings)
            if "front" in snapshots:
                snapshot = snapshots["front"]
                learned = sum(arm.count for arm in snapshot.arms.values())
                of = [
                    decode(value)
                    for (_, kind), value in others.get("front", {}).items()
                    if kind.startswith("reference ")
                ]
                found = {one.version: one for one in of}
        loop.stop("p")
        history = {head["version"]: head for head in snapshots_of(loop.settings, "front")}
    assert min(found) == min(history)
    assert max(found) <= snapshot.version
    for version, one in found.items():
        assert history[version]["reasons"]
        assert set(one.means) == set(ARMS)
    newest = found[max(found)]
    same = [arm for arm in ARMS if snapshot.arms[arm].version == newest.version]
    for arm in same:
        assert newest.means[arm].tolist() == snapshot.arms[arm].mean.astype(float).tolist()  # type: ignore[union-attr]


def test_a_reader_looks_when_a_row_names_a_newer_version_and_not_else(
    bootstrap: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for each newer version; what is known is answered without the broker, what was never published has the newest before it."""
    policy = {"model": "logistic", "dimension": 2}
    settings = Settings(bootstrap=bootstrap, prefix=prefix, partitions=1, policies={"front": policy})
    create(settings)
    reader, looks = ReferenceReader(settings), 0
    catch_up = reader._catch_up

    def counted() -> None:
        nonlocal looks
        looks += 1
        catch_up()

    monkeypatch.setattr(reader, "_catch_up", counted)

    def up_to(version: int) -> float | None:
        reader.look_up({"front": reader.unknown("front", [np.array([version])])})
        points, index = reader.of("front").points(np.array([version]), np.array([0]), ["a"], 2)
        return None if index[0] < 0 else points[0, 0]

    assert up_to(5) is None
    publish(settings, {3: MEANS[3]})
    for version, first in ((5, None), (7, 0.5), (3, 0.5), (2, None), (99, None), (99, None), (8, None)):
        assert up_to(version) == first
    assert looks == 4
    publish(settings, {8: MEANS[8]})
    assert [up_to(9), up_to(7), up_to(99)] == [0.25, 0.5, None]
    assert looks == 5


def test_the_ring_goes_on_where_it_was() -> None:
    """A new leader writes after the newest record, and the oldest is overwritten."""
    writer = ReferenceWriter("p", 3)
    records: dict[tuple[str | None, str], bytes] = {}

    def write(one: ReferenceWriter, version: int) -> None:
        (message,) = one.messages(reference(version, MEANS[3]))
        kind = (message.key or b"").split(b"reference ")[1].decode()
        records[None, f"reference {kind}"] = message.value or b""

    for version in (4, 9, 12, 13):
        write(writer, version)
    successor = ReferenceWriter("p", 3)
    successor.restore(records)
    write(successor, 20)
    assert sorted(decode(value).version for value in records.values()) == [12, 13, 20]


def test_snapshots_give_their_means() -> None:
    """Of a model with weights; the logistic one's are on the logit scale, as its points are."""
    from policies.prior import BetaPrior
    from policies.references import reference_of

    model = make_model("logistic", dimension=1)
    prior = Prior(mean=np.array([-2.0]), tau2=np.ones(1), s2=1.0)
    made = build("p", model=model, sums={"a": model.zero()}, prior=prior, version=6, previous=None, time_ms=0, now_ms=0)
    one = reference_of(made)
    assert (one.version, one.means["a"].tolist()) == (6, [-2.0])
    beta = make_model("beta", dimension=0)
    other = build(
        "p",
        model=beta,
        sums={"a": beta.zero()},
        prior=BetaPrior(a=1.0, b=1.0),
        version=1,
        previous=None,
        time_ms=0,
        now_ms=0,
    )
    with pytest.raises(ValueError, match="has no weights"):
        reference_of(other)
    assert References().of(1) is None


class Unreachable:
    """References behind a broker that does not answer."""

    def of(self, policy: str) -> References:
        return References(newest=0)

    def unknown(self, policy: str, versions: Any) -> set[int]:
        return {version for column in versions for version in column.tolist()}

    def look_up(self, versions: Any) -> None:
        raise ReadError("no broker")


def test_a_checkpoint_that_cannot_look_up_changes_nothing() -> None:
    """Neither watermark nor rows: the next one is what this would have been."""
    settings = Settings(policies={"front": {"model": "logistic", "dimension": 2, "window_s": 1, "grace_s": 1}})
    working = rules(settings)
    log = [one for one in events(1, 20) if isinstance(one, Impression)]
    shown = [SimpleRecord(i, one.ts, None, encode(one, "json"), []) for i, one in enumerate(log)]
    partition = PartitionState(0, rules=replace(working, references=Unreachable()))
    partition.take(Fetched("impressions", 0, 0, len(shown), shown))
    with pytest.raises(ReadError):
        partition.freeze(log[-1].ts)
    assert partition.join.watermark is None
    assert partition.join.pending.rows == len(log)
    partition.rules = working
    assert partition.freeze(log[-1].ts)
    assert sum(one.count for one in partition.sums["front"].values()) == len(log)


def test_a_reference_that_the_topic_does_not_take_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The snapshot is published without it, and the next one takes its place in the ring."""
    writer = ReferenceWriter("p", 3)
    monkeypatch.setattr("streams.references.RECORD_BYTES", 10)
    assert writer.messages(reference(4, MEANS[3])) == []
    monkeypatch.undo()
    (message,) = writer.messages(reference(5, MEANS[3]))
    assert message.key == reference_key("p", 0)
