"""Texts through the device, in threads: tokenise, make the next batch, compute.

    submit -> [texts] -> tokenise (threads) -> [window] -> assemble (thread) -> [one batch] -> compute (thread) -> on_done

A batch closes when it is full, or when the device has nothing else to do: no timer. While the device computes, the next batch is
made as soon as there are enough tokens for a whole one; if there are not, texts that come meanwhile still get into it. What is
submitted is not bounded here: whoever submits looks at `texts` and waits. Every text submitted gets an answer, a vector or an
error, unless `on_fatal` is called: the device itself is broken then, and nothing further is answered.

When memory runs out for several texts, later batches are half as large, but no smaller than one text of the greatest length, which
has to fit anyway, or than an eighth of what was asked for. A text for which memory ran out alone is tried once more after the device.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
import torch

from encoders.batching import Batch, Outcome, Tokenised, Vectors, Window, isolate
from encoders.errors import TextError
from encoders.model import Encoder, Prepared
from encoders.tokens import Tokenizer

CHUNK, CHUNK_CHARACTERS = 256, 1_000_000
"""Texts that one thread tokenises at a time, and their length together: a character takes some forty bytes until it is done."""
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Job:
    """A text and whose it is."""

    text: str
    tag: Any
    since: float = field(default_factory=time.monotonic)


Done = Callable[[list[tuple[Any, Outcome]]], None]
Answers = list[tuple[Tokenised, Outcome]]


class Watch:
    """What wants to know how it goes; this one does not. Called in the pipeline's threads; times in seconds."""

    def tokenised(self, texts: int, took_s: float) -> None:
        """A thread tokenised so many texts."""

    def computed(self, *, texts: int, tokens: int, fill: float, waited_s: float, took_s: float) -> None:
        """A batch was computed; `fill` is its share of the budget, `waited_s` how long its oldest text had waited."""

    def budget(self, tokens: int) -> None:
        """Memory ran out, and the budget is so many tokens now."""


class Pipeline:
    """Texts in, answers out, by threads of its own.

    Args:
        encoder: whose vectors.
        budget_tokens: tokens of a batch at most.
        window_tokens: tokens that are sorted by length together.
        threads: that tokenise.
        on_done: called with (tag, vector or error) of every text of a batch, in the device's thread.
        on_fatal: called once with the error when the device, or this program, is broken.
        watch: told how it goes.
        check_s: seconds without work after which the device is tried.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        budget_tokens: int,
        window_tokens: int,
        threads: int,
        on_done: Done,
        on_fatal: Callable[[BaseException], None],
        watch: Watch | None = None,
        check_s: float = 10.0,
    ) -> None:
        self._encoder, self._on_done, self._on_fatal = encoder, on_done, on_fatal
        self._watch = watch or Watch()
        self._check_s = check_s
        self._least_tokens = max(1, min(encoder.max_length, budget_tokens // 8))
        self._window = Window(budget_tokens=budget_tokens, window_tokens=window_tokens, padded=encoder.padded)
        self._jobs: deque[Job] = deque()
        self._slot: tuple[Batch, Prepared] | None = None
        self._changed = threading.Condition()
        self._computing = self._closing = False
        self._pulse = time.monotonic()
        self.texts = 0
        loops = [self._assemble, self._compute]
        self._threads = [threading.Thread(target=self._guarded, args=(loop,), daemon=True) for loop in loops]
        for _ in range(threads):
            tokenizer = encoder.tokenizer.clone()
            self._threads.append(threading.Thread(target=self._guarded, args=(self._tokenise, tokenizer), daemon=True))
        for thread in self._threads:
            thread.start()

    @property
    def silent_s(self) -> float:
        """Seconds since the device last did something; it is tried when there is no work."""
        return time.monotonic() - self._pulse

    def submit(self, jobs: Sequence[Job]) -> None:
        """Have texts encoded."""
        with self._changed:
            self._jobs.extend(jobs)
            self.texts += len(jobs)
            self._changed.notify_all()

    def wait(self, most_texts: int, timeout_s: float) -> bool:
        """Wait until no more than so many texts are unanswered; whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: self.texts <= most_texts, timeout_s)

    def close(self) -> None:
        """End the threads; what is unanswered stays so."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=30)

    def _guarded(self, loop: Callable[..., None], *given: Any) -> None:
        try:
            loop(*given)
        except BaseException as error:  # noqa: BLE001 - a thread that ended unseen would leave its callers waiting
            with self._changed:
                first, self._closing = not self._closing, True
                self._changed.notify_all()
            if first:
                self._on_fatal(error)

    def _tokenise(self, tokenizer: Tokenizer) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closing)
                if self._closing:
                    return
                jobs = next_chunk(self._jobs)
            began = time.monotonic()
            good, bad = tokenised(tokenizer, jobs)
            self._watch.tokenised(len(jobs), time.monotonic() - began)
            with self._changed:
                self._window.add(good)
                self._changed.notify_all()
            if bad:
                self._answer(bad)

    def _assemble(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._may_assemble())
                if self._closing:
                    return
                batch = self._window.take()
            prepared = self._encoder.prepare(batch)
            with self._changed:
                self._slot = (batch, prepared)
                self._changed.notify_all()

    def _may_assemble(self) -> bool:
        return self._slot is None and (self._window.full or (len(self._window) > 0 and not self._computing))

    def _compute(self) -> None:
        while True:
            with self._changed:
                came = self._changed.wait_for(lambda: self._slot or self._closing, self._check_s)
                if self._closing:
                    return
                (batch, prepared), self._slot = self._slot or ([], None), None
                self._computing = bool(batch)
                self._changed.notify_all()
            if came and prepared is not None:
                self._compute_one(batch, prepared)
            else:
                self._encoder.check()
            self._pulse = time.monotonic()

    def _compute_one(self, batch: Batch, prepared: Prepared) -> None:
        began = time.monotonic()
        waiting: list[Prepared] = [prepared]

        def forward(part: Batch) -> Vectors:
            try:
                return self._encoder.forward(waiting.pop() if waiting else self._encoder.prepare(part))
            except Exception as error:
                if is_out_of_memory(error):
                    self._less_memory(part)
                raise

        answers = isolate(batch, forward)
        self._tell(batch, began)
        if any(_unclear(outcome) for _, outcome in answers):
            answers = self._tried(answers, forward)
        with self._changed:
            self._computing = False
            self._changed.notify_all()
        self._answer([(item.tag.tag, outcome) for item, outcome in answers])

    def _tried(self, answers: Answers, forward: Callable[[Batch], Vectors]) -> Answers:
        """Answers when it is known whether an error is one text's fault or the device's, and whether memory is still short."""
        self._encoder.check()
        later = [isolate([item], forward)[0] if _lacks_memory(found) else (item, found) for item, found in answers]
        if any(_lacks_memory(before) and _unclear(now) for (_, before), (_, now) in zip(answers, later, strict=True)):
            self._encoder.check()
        return later

    def _tell(self, batch: Batch, began: float) -> None:
        tokens = sum(item.tokens for item in batch)
        self._watch.computed(
            texts=len(batch),
            tokens=tokens,
            fill=tokens / self._window.budget_tokens,
            waited_s=began - min(item.tag.since for item in batch),
            took_s=time.monotonic() - began,
        )

    def _less_memory(self, part: Batch) -> None:
        tokens = sum(item.tokens for item in part)
        if self._encoder.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(part) == 1:
            log.warning("memory ran out for one text", tokens=tokens)
            return
        with self._changed:
            self._window.lower(max(self._least_tokens, tokens // 2))
            budget = self._window.budget_tokens
        self._watch.budget(budget)
        log.warning("memory ran out; batches are made smaller", tokens=tokens, budget_tokens=budget)

    def _answer(self, answers: list[tuple[Any, Outcome]]) -> None:
        self._on_done(answers)
        with self._changed:
            self.texts -= len(answers)
            self._changed.notify_all()


def next_chunk(jobs: deque[Job]) -> list[Job]:
    """Take the jobs that are tokenised together: at least one, and no more than `CHUNK` of `CHUNK_CHARACTERS` in all.

    >>> waiting = deque([Job("x" * 600_000, 1), Job("x" * 600_000, 2), Job("hat", 3)])
    >>> [[job.tag for job in next_chunk(waiting)] for _ in range(2)]
    [[1], [2, 3]]
    """
    chunk = [jobs.popleft()]
    room = CHUNK_CHARACTERS - len(chunk[0].text)
    while jobs and len(chunk) < CHUNK and len(jobs[0].text) <= room:
        chunk.append(jobs.popleft())
        room -= len(chunk[-1].text)
    return chunk


def tokenised(tokenizer: Tokenizer, jobs: Sequence[Job]) -> tuple[list[Tokenised], list[tuple[Any, Outcome]]]:
    """Jobs as token ids, and (tag, error) of those that cannot be tokenised."""
    try:
        found = tokenizer([job.text for job in jobs])
    except Exception as error:  # noqa: BLE001 - the tokenizers raise whatever their parts raise
        if len(jobs) == 1:
            return [], [(jobs[0].tag, TextError(f"it cannot be tokenised: {error}"))]
        parts = [tokenised(tokenizer, [job]) for job in jobs]
        return [one for good, _ in parts for one in good], [one for _, bad in parts for one in bad]
    good = [Tokenised(ids, job) for ids, job in zip(found, jobs, strict=True) if ids]
    empty = [(job.tag, TextError("it has no tokens")) for ids, job in zip(found, jobs, strict=True) if not ids]
    return good, [*empty]


def _unclear(outcome: Outcome) -> bool:
    """Whether it may be the device's fault."""
    return isinstance(outcome, Exception) and not isinstance(outcome, TextError)


def _lacks_memory(outcome: Outcome) -> bool:
    return isinstance(outcome, Exception) and is_out_of_memory(outcome)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
