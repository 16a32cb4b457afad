"""Reading what is encoded already: which keys count, where it goes on, and that it can be watched and ended."""

from __future__ import annotations

from tests.encoders import tiny  # noqa: F401 - it skips without the extra

# isort: split

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import pytest

from encoders.keys import key_of
from streams import encoder_known
from streams.decoded import Dead
from streams.embedding_events import ANNOUNCEMENT_KEY, vector_headers
from streams.encoder_input import Input
from streams.encoder_known import Known
from streams.encoder_output import Output
from streams.reading import SimpleRecord
from streams.settings import Settings

NOWHERE = "127.0.0.1:1"
MARK = "f0"
BATCH = 2


class Topic:
    """Stands in for the topic of vectors: partitions of records, read in batches of two."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *partitions: list[SimpleRecord]) -> None:
        self.partitions = partitions
        self.known = Known(Settings(bootstrap=NOWHERE), fingerprint=MARK)
        for name in ("partition_count", "bounds", "read"):
            monkeypatch.setattr(encoder_known, name, getattr(self, name))
        monkeypatch.setattr(encoder_known, "reader", lambda *_, **__: nullcontext())

    def partition_count(self, *_: Any, **__: Any) -> int:
        return len(self.partitions)

    def bounds(self, consumer: Any, topic: str, partition: int, **_: Any) -> tuple[int, int]:
        return 0, len(self.partitions[partition])

    def read(
        self, consumer: Any, topic: str, partition: int, start: int, end: None, **_: Any
    ) -> Iterator[list[SimpleRecord]]:
        records = self.partitions[partition]
        for first in range(start, len(records), BATCH):
            yield records[first : first + BATCH]

    def has(self, texts: Sequence[str]) -> list[bool]:
        found: list[bool] = self.known.seen.has([key_of(MARK, text) for text in texts]).tolist()
        return found


def partition(*texts: str | bytes, value: bytes | None = b"\0\0\0\0") -> list[SimpleRecord]:
    """Vectors of texts; bytes are the value of an announcement."""
    headers = vector_headers(MARK, 1)
    return [
        SimpleRecord(offset, 0, ANNOUNCEMENT_KEY, text, headers)
        if isinstance(text, bytes)
        else SimpleRecord(offset, 0, key_of(MARK, text), value, headers)
        for offset, text in enumerate(texts)
    ]


def allowed(times: int) -> Callable[[], bool]:
    """Goes on so many times."""
    answers = iter([True] * times)
    return lambda: next(answers, False)


def test_reading_ends_when_it_is_told_to_and_goes_on_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a batch or before a partition; nothing is read twice, and nothing is left out."""
    topic = Topic(monkeypatch, partition("a", "b", "c", "d", "e"), partition("f", "g", "h"))
    known = topic.known
    assert [known.catch_up(allowed(2)) for _ in range(4)] == [4, 1, 2, 1]
    assert all(topic.has("abcdefgh"))
    assert known.catch_up(allowed(9)) == 0


def test_an_announcement_that_is_none_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nested too deeply or not UTF-8: the vectors after it are read."""
    topic = Topic(monkeypatch, partition(b'{"v":1,"x":' + b"[" * 100_000, b'{"v":1,"model":"\xff"}', "a"))
    assert topic.known.catch_up(allowed(9)) == 1
    assert topic.known.announced is None


def test_a_worker_that_reads_for_long_is_alive_and_can_be_ended() -> None:
    """Each batch is a sign of life, and the first one after the signal is the last."""
    ended = threading.Event()
    beats: list[float] = []
    told: list[bool] = []

    def catch_up(goes_on: Callable[[], bool]) -> None:
        for number in range(3):
            source.beat = 0.0
            if number == 2:
                ended.set()
            told.append(goes_on())
            beats.append(source.beat)

    nothing: Any = None
    source = Input(Settings(bootstrap=NOWHERE), nothing, nothing, catch_up=catch_up, ended=ended, fatal=nothing)
    source._be_up_to_date()
    source.close()
    assert told == [True, True, False]
    assert min(beats) > 0.0


def test_a_dead_letter_says_which_encoder_wrote_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its fingerprint stands last, after headers of the request that may have the same name."""
    written: list[list[tuple[str, bytes]]] = []
    output = Output(Settings(bootstrap=NOWHERE), fingerprint=MARK, dimension=1, fatal=lambda _: None)
    monkeypatch.setattr(output, "_produce", lambda *given: written.append(given[3]))
    request = SimpleRecord(0, 0, b"k", b"nonsense", [("__clickloop.errors.encoder", b"older")])
    output.dead("embedding-requests", 0, [Dead(request, "why")], lambda _: None)
    output.close()
    assert dict(written[0])["__clickloop.errors.encoder"] == MARK.encode()
