"""The pipeline answers every text once, with its own vector, and says so when it cannot."""

from __future__ import annotations

from tests.encoders import tiny
from tests.waiting import wait_for

# isort: split

import threading
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoders import worker
from encoders.batching import Outcome
from encoders.errors import ModelError, TextError
from encoders.model import Encoder, Prepared, load
from encoders.worker import Job, Pipeline, Watch, is_out_of_memory


class Answers:
    """What a pipeline answers, by tag; an error of the device; the batches."""

    def __init__(self) -> None:
        self.outcomes: dict[Any, list[Outcome]] = {}
        self.fatal: list[BaseException] = []
        self.ended = threading.Event()

    def done(self, answers: list[tuple[Any, Outcome]]) -> None:
        for tag, outcome in answers:
            self.outcomes.setdefault(tag, []).append(outcome)

    def broken(self, error: BaseException) -> None:
        self.fatal.append(error)
        self.ended.set()


class Recorded(Watch):
    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []
        self.budgets: list[int] = []

    def computed(self, *, texts: int, tokens: int, fill: float, waited_s: float, took_s: float) -> None:
        self.batches.append((texts, tokens))

    def budget(self, tokens: int) -> None:
        self.budgets.append(tokens)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder with a word that gives NaN and one that has no row."""
    return tiny.make(tmp_path_factory.mktemp("model"), poisoned=True)


@pytest.fixture
def encoder(folder: Path) -> Encoder:
    """It, loaded for one test."""
    return load(str(folder), dtype="fp32", device="cpu")


def started(encoder: Encoder, answers: Answers, *, watch: Watch | None = None, **more: Any) -> Pipeline:
    given: dict[str, Any] = {"budget_tokens": 200, "window_tokens": 2_000, "threads": 2} | more
    return Pipeline(encoder, on_done=answers.done, on_fatal=answers.broken, watch=watch, **given)


def test_everybody_is_answered_once(encoder: Encoder) -> None:
    """Texts that come in pieces from several threads: each gets one vector, its own."""
    texts, answers, watch = tiny.texts(600), Answers(), Recorded()
    pipeline = started(encoder, answers, watch=watch)
    pieces = [list(enumerate(texts))[i::3] for i in range(3)]

    def submit(piece: list[tuple[int, str]]) -> None:
        for tag, text in piece:
            pipeline.submit([Job(text, tag)])

    threads = [threading.Thread(target=submit, args=(piece,)) for piece in pieces]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pipeline.wait(0, 60)
    pipeline.close()
    assert {tag: len(found) for tag, found in answers.outcomes.items()} == dict.fromkeys(range(600), 1)
    found = np.array([answers.outcomes[tag][0] for tag in range(600)])
    assert np.abs(found - encoder.encode(texts)).max() < 1e-6
    assert sum(texts for texts, _ in watch.batches) == 600
    assert max(tokens for _, tokens in watch.batches) <= 200
    assert answers.fatal == []


def test_poison_fails_alone_with_its_reason(encoder: Encoder) -> None:
    """One text gives NaN, one makes the whole forward fail: both get their error, all others their vector."""
    texts = [*tiny.texts(40), f"red {tiny.POISON}", f"{tiny.OUTSIDE} hat", *tiny.texts(40, seed=1)]
    answers = Answers()
    pipeline = started(encoder, answers)
    pipeline.submit([Job(text, tag) for tag, text in enumerate(texts)])
    assert pipeline.wait(0, 60)
    pipeline.close()
    failed = {tag: found[0] for tag, found in answers.outcomes.items() if isinstance(found[0], Exception)}
    assert set(failed) == {40, 41}
    assert isinstance(failed[40], TextError)
    assert isinstance(failed[41], IndexError)
    assert len(answers.outcomes) == len(texts)


class ShortOfMemory:
    """A device that computes batches of up to so many tokens, and says of larger ones that memory ran out."""

    def __init__(self, encoder: Encoder, most: int) -> None:
        self.encoder, self.most = encoder, most
        self.forward_of = encoder.forward

    def __call__(self, prepared: Prepared) -> Any:
        if len(prepared.ids) > self.most:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")
        return self.forward_of(prepared)


def test_out_of_memory_halves_the_budget_and_goes_on(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody loses a vector, the budget falls until batches fit, and later ones are made to it."""
    texts, answers, watch = tiny.texts(300), Answers(), Recorded()
    monkeypatch.setattr(encoder, "forward", ShortOfMemory(encoder, 100))
    pipeline = started(encoder, answers, watch=watch, budget_tokens=800, window_tokens=1_000)
    pipeline.submit([Job(text, tag) for tag, text in enumerate(texts)])
    assert pipeline.wait(0, 60)
    pipeline.submit([Job(text, 1_000 + tag) for tag, text in enumerate(texts)])
    assert pipeline.wait(0, 60)
    pipeline.close()
    assert not any(isinstance(found[0], Exception) for found in answers.outcomes.values())
    assert len(answers.outcomes) == 600
    assert watch.budgets == sorted(watch.budgets, reverse=True)
    assert 25 <= watch.budgets[-1] <= 100
    assert max(tokens for _, tokens in watch.batches[-5:]) <= 100


class ShortForAMoment:
    """A device on which memory runs out for a number of forwards, and then there is enough of it."""

    def __init__(self, encoder: Encoder, times: int) -> None:
        self.times, self.forward_of = times, encoder.forward

    def __call__(self, prepared: Prepared) -> Any:
        self.times -= 1
        if self.times >= 0:
            raise MemoryError
        return self.forward_of(prepared)


def test_memory_that_is_short_for_a_moment_costs_no_text(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Down to single texts nothing fits: they are tried once more, and the budget stays one that batches can be made of."""
    answers, watch = Answers(), Recorded()
    monkeypatch.setattr(encoder, "forward", ShortForAMoment(encoder, 15))  # 8 texts, halved: 1 + 2 + 4 + 8 forwards
    pipeline = started(encoder, answers, watch=watch, budget_tokens=100_000, window_tokens=100_000, threads=1)
    pipeline.submit([Job("red hat", tag) for tag in range(8)])
    assert pipeline.wait(0, 60)
    pipeline.close()
    assert [type(found[0]) for found in answers.outcomes.values()] == [np.ndarray] * 8
    assert watch.budgets == [tiny.MAX_LENGTH] * 7  # of those with more than one text
    assert answers.fatal == []


def test_a_text_that_never_fits_is_an_error_of_its_own(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried twice; the texts beside it have their vectors, and the budget is not blamed for a text alone."""
    answers, watch = Answers(), Recorded()
    forward, tried = encoder.forward, []

    def short(prepared: Prepared) -> Any:
        if max(tokens for _, tokens in prepared.runs) == tiny.MAX_LENGTH:
            tried.append(prepared.runs)
            raise MemoryError
        return forward(prepared)

    monkeypatch.setattr(encoder, "forward", short)
    pipeline = started(encoder, answers, watch=watch, budget_tokens=30)
    pipeline.submit([Job("red " * tiny.MAX_LENGTH, 0), Job("hat " * 10, 1)])
    assert pipeline.wait(0, 60)
    pipeline.close()
    assert isinstance(answers.outcomes[0][0], MemoryError)
    assert not isinstance(answers.outcomes[1][0], Exception)
    assert tried == [[(1, tiny.MAX_LENGTH)]] * 2
    assert watch.budgets == []


def test_a_chunk_is_bounded_by_its_characters_too() -> None:
    """Long texts are tokenised few at a time, one that is too long alone, short ones many; none is left out."""
    half = worker.CHUNK_CHARACTERS // 2
    lengths = [half, half, 1, 3 * half, 2, *[1] * 300]
    waiting = deque(Job("x" * length, tag) for tag, length in enumerate(lengths))
    chunks = []
    while waiting:
        chunks.append([job.tag for job in worker.next_chunk(waiting)])
    assert [len(chunk) for chunk in chunks] == [2, 1, 1, worker.CHUNK, 301 - worker.CHUNK]
    assert [tag for chunk in chunks for tag in chunk] == list(range(len(lengths)))


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried"), True),
        (RuntimeError("shape"), False),
        (ValueError(), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, memory: bool) -> None:
    """By type, or by torch's words."""
    assert is_out_of_memory(error) == memory


def test_a_broken_device_is_nobody_s_poison(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """When known texts fail too, it is the device: no text is blamed, and the owner is told once."""
    answers = Answers()
    pipeline = started(encoder, answers)

    def fails(_: Prepared) -> Any:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(encoder, "forward", fails)
    pipeline.submit([Job("red hat", tag) for tag in range(5)])
    assert answers.ended.wait(30)
    pipeline.close()
    assert answers.outcomes == {}
    assert [type(error) for error in answers.fatal] == [ModelError]
    assert "illegal memory access" in str(answers.fatal[0])


def test_an_idle_device_is_tried(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any text the device is run all the same, so that a broken one is found before somebody needs it."""
    answers = Answers()
    pipeline = started(encoder, answers, check_s=0.05)
    monkeypatch.setattr(encoder, "forward", lambda _: np.zeros((3, tiny.DIMENSION), np.float32))
    assert answers.ended.wait(30)
    pipeline.close()
    assert "other vectors than at the start" in str(answers.fatal[0])


def test_a_text_alone_does_not_wait(encoder: Encoder) -> None:
    """A batch closes when the device is free, however little is in it: there is no timer to wait for."""
    answers = Answers()
    pipeline = started(encoder, answers, budget_tokens=1_000_000, window_tokens=1_000_000)
    pipeline.submit([Job("red hat", 0)])
    assert pipeline.wait(0, 60)
    pipeline.close()
    assert not isinstance(answers.outcomes[0][0], Exception)


def test_texts_that_come_while_the_device_works_share_a_batch(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second batch is not closed before the device is free or it is full: what comes late gets into it."""
    answers, watch = Answers(), Recorded()
    began, go = threading.Event(), threading.Event()
    forward = encoder.forward

    def slow(prepared: Prepared) -> Any:
        began.set()
        assert go.wait(60)
        return forward(prepared)

    pipeline = started(encoder, answers, watch=watch, threads=1)
    monkeypatch.setattr(encoder, "forward", slow)
    pipeline.submit([Job("red", 0)])
    assert began.wait(60)
    for tag in range(1, 6):
        pipeline.submit([Job("hat", tag)])
    wait_for(lambda: len(pipeline._window) == 5)  # until they wait for the device
    go.set()
    assert pipeline.wait(0, 60)
    pipeline.close()
    assert [texts for texts, _ in watch.batches] == [1, 5]


def test_a_full_batch_is_made_while_the_device_works(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """With enough tokens for a whole batch the next one is ready before the device is."""
    answers = Answers()
    began, go, prepared_twice = threading.Event(), threading.Event(), threading.Event()
    forward, prepare, calls = encoder.forward, encoder.prepare, []

    def slow(prepared: Prepared) -> Any:
        began.set()
        assert go.wait(60)
        return forward(prepared)

    def counted(batch: Any) -> Prepared:
        calls.append(len(batch))
        if len(calls) == 2:
            prepared_twice.set()
        return prepare(batch)

    monkeypatch.setattr(encoder, "forward", slow)
    monkeypatch.setattr(encoder, "prepare", counted)
    pipeline = started(encoder, answers, budget_tokens=12, window_tokens=12)
    pipeline.submit([Job("red", 0)])
    assert began.wait(60)
    pipeline.submit([Job("hat", tag) for tag in range(1, 9)])
    assert prepared_twice.wait(30)
    assert not go.is_set()
    go.set()
    assert pipeline.wait(0, 60)
    pipeline.close()
    assert len(answers.outcomes) == 9
