"""One request after the other through the flow: encoded once, known, failed; settled only when its answer is safe."""

from __future__ import annotations

from tests.encoders import tiny  # noqa: F401 - it skips without the extra

# isort: split

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from encoders.errors import TextError
from encoders.keys import key_of
from encoders.seen import Seen
from encoders.worker import Job
from streams.decoded import Dead
from streams.embedding_events import EmbeddingRequest, encode_request
from streams.encoder_flow import Flow
from streams.encoder_metrics import EncoderMetrics
from streams.reading import SimpleRecord

MARK = "f0"


class Written:
    """Takes the place of the output: keeps what is written, and acknowledges it when told to."""

    def __init__(self) -> None:
        self.vectors: list[tuple[bytes, Any]] = []
        self.letters: list[tuple[int, Dead]] = []
        self.open: list[Callable[[float], None]] = []

    def vector(self, key: bytes, vector: Any, safe: Callable[[float], None]) -> None:
        self.vectors.append((key, vector))
        self.open.append(safe)

    def dead(self, topic: str, partition: int, rows: Sequence[Dead], safe: Callable[[float], None]) -> None:
        self.letters += [(partition, row) for row in rows]
        self.open.append(safe)

    def acknowledge(self) -> None:
        waiting, self.open = self.open, []
        for safe in waiting:
            safe(0.01)


class Submitted:
    """Takes the place of the pipeline."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def submit(self, jobs: Sequence[Job]) -> None:
        self.jobs += jobs


class World:
    """A flow with stand-ins around it."""

    def __init__(self) -> None:
        self.seen, self.output, self.pipeline = Seen(most_bytes=10_000), Written(), Submitted()
        self.metrics = EncoderMetrics(CollectorRegistry(), budget_tokens=1)
        output: Any = self.output
        self.flow = Flow(
            fingerprint=MARK,
            topic="embedding-requests",
            most_text_bytes=50,
            seen=self.seen,
            output=output,
            metrics=self.metrics,
        )

    def take(self, *texts: str | bytes, first: int = 0, again: bool = False) -> None:
        records = []
        for offset, text in enumerate(texts, first):
            value = text if isinstance(text, bytes) else encode_request(EmbeddingRequest(text=text, again=again))
            records.append((0, SimpleRecord(offset, 0, None, value, [])))
        self.flow.take(records, self.pipeline)

    def answer(self, *outcomes: Any) -> None:
        jobs, self.pipeline.jobs = self.pipeline.jobs, []
        self.flow.answered([(job.tag, outcome) for job, outcome in zip(jobs, outcomes, strict=True)])

    def count(self, outcome: str) -> float:
        name = "clickloop_encoder_requests_total"
        return self.metrics.registry.get_sample_value(name, {"outcome": outcome}) or 0.0


VECTOR = np.ones(2, np.float32)


@pytest.fixture
def world() -> World:
    return World()


def test_an_answer_counts_when_it_is_safe(world: World) -> None:
    """Taken, encoded, safe: only the last lets its offset be committed, its memory be free and its key be known."""
    world.take("red")
    assert world.flow.octets > 0
    world.answer(VECTOR)
    assert world.flow.committable() == {}
    assert not world.seen.has([key_of(MARK, "red")])[0]
    world.output.acknowledge()
    assert world.flow.committable() == {0: 1}
    assert world.flow.octets == 0
    assert world.seen.has([key_of(MARK, "red")])[0]
    assert [key for key, _ in world.output.vectors] == [key_of(MARK, "red")]


def test_equal_texts_in_flight_are_encoded_once(world: World) -> None:
    """Three ask, one is encoded, one vector is written, all three are settled with it; also one that comes before it is safe."""
    world.take("red", "hat", "red")
    assert [job.text for job in world.pipeline.jobs] == ["red", "hat"]
    world.answer(VECTOR, VECTOR)
    world.take("red", first=3)
    assert world.pipeline.jobs == []
    world.output.acknowledge()
    assert len(world.output.vectors) == 2
    assert world.flow.committable() == {0: 4}
    assert (world.count("encoded"), world.count("joined")) == (2, 2)


def test_what_is_in_the_topic_is_not_encoded(world: World) -> None:
    """A known text is settled at once and nothing is written; `again` has it encoded all the same."""
    world.seen.add([key_of(MARK, "red")])
    world.take("red")
    assert world.pipeline.jobs == []
    assert world.flow.committable() == {0: 1}
    assert world.count("cached") == 1
    world.take("red", first=1, again=True)
    assert [job.text for job in world.pipeline.jobs] == ["red"]


def test_an_unusable_request_is_a_dead_letter(world: World) -> None:
    """It holds nobody up, keeps its bytes, and is settled when its letter is safe."""
    world.take("red", b"nonsense", "x" * 51)
    world.answer(VECTOR)
    assert world.output.letters[0][1].record.value == b"nonsense"
    assert ["first byte" in row.reason or "at most 50" in row.reason for _, row in world.output.letters] == [True, True]
    assert world.flow.committable() == {}
    world.output.acknowledge()
    assert world.flow.committable() == {0: 3}
    assert world.flow.octets == 0


@pytest.mark.parametrize(
    ("error", "words"),
    [(TextError("its vector is not finite"), "its vector is not finite"), (IndexError("row 9"), "IndexError: row 9")],
)
def test_a_text_that_cannot_be_encoded_is_a_dead_letter_for_each(world: World, error: Exception, words: str) -> None:
    """Everybody who asked for it gets a letter of their own; it is not known, and tried again when asked again."""
    world.take("bad", "good", "bad")
    world.answer(error, VECTOR)
    world.output.acknowledge()
    assert [row.record.offset for _, row in world.output.letters] == [0, 2]
    assert all(row.reason == f"the text cannot be encoded: {words}" for _, row in world.output.letters)
    assert world.flow.committable() == {0: 3}
    world.take("bad", first=3)
    assert [job.text for job in world.pipeline.jobs] == ["bad"]


def test_what_was_taken_away_is_answered_and_not_committed(world: World) -> None:
    """After a rebalance the vector is still written; the offset is the other worker's."""
    world.take("red")
    world.flow.forget([0])
    world.answer(VECTOR)
    world.output.acknowledge()
    assert len(world.output.vectors) == 1
    assert world.flow.committable() == {}
    assert world.flow.octets == 0


def test_room_is_waited_for(world: World) -> None:
    """There is no room while answers are not safe, and there is when they are."""
    world.take("red", "hat")
    assert not world.flow.wait(0, 0.01)
    world.answer(VECTOR, VECTOR)
    world.output.acknowledge()
    assert world.flow.wait(0, 0.01)
