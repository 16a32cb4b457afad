"""A partition's writer that is fenced in the middle of a checkpoint says so, and can be let go of without an error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from streams.checkpoint import FencedError, Writer
from streams.failpoints import failpoints
from streams.messages import Message
from streams.settings import Settings
from streams.topics import create

RECORD = Message("posteriors", b"key", b"value")


class Fenced(list[Message]):
    """Records before which another writer takes the partition, with time in between for the client's threads to notice."""

    def __init__(self, take: Callable[[], object], *, ends_well: bool = True) -> None:
        super().__init__([RECORD, RECORD])
        self._take = take
        self._ends_well = ends_well

    def __iter__(self) -> Iterator[Message]:
        self._take()
        for message in super().__iter__():
            yield message
            time.sleep(0.5)
            if not self._ends_well:
                raise InterruptedError


def a_writer(settings: Settings) -> Writer:
    """A writer of partition 0, initialised."""
    writer = Writer(
        settings.librdkafka(),
        transactional_id=f"{settings.prefix}writer",
        partition=0,
        topics={"posteriors": settings.topics.posteriors},
        timeout_s=10.0,
        passing=failpoints(None),
    )
    writer.initialise()
    return writer


def test_a_writer_that_is_fenced_while_it_produces(bootstrap: str, prefix: str) -> None:
    """The reason is that it was fenced, not an outcome unknown: whoever initialised again would fence the other in turn."""
    settings = Settings(bootstrap=bootstrap, prefix=prefix, partitions=1)
    create(settings)
    writer = a_writer(settings)
    writer.commit([RECORD])
    successors: list[Writer] = []
    with pytest.raises(FencedError, match="fenced"):
        writer.commit(Fenced(lambda: successors.append(a_writer(settings))))
    successors[0].commit([RECORD])
    for each in (writer, *successors):
        each.close()


def test_a_writer_that_nobody_has_told_yet(bootstrap: str, prefix: str) -> None:
    """An error that the client has found and not reported is no concern of somebody who lets it go."""
    settings = Settings(bootstrap=bootstrap, prefix=prefix, partitions=1)
    create(settings)
    writer = a_writer(settings)
    writer.commit([RECORD])
    successors: list[Writer] = []
    with pytest.raises(InterruptedError):
        writer.commit(Fenced(lambda: successors.append(a_writer(settings)), ends_well=False))
    writer.close()
    successors[0].close()
