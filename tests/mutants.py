"""Deliberately broken learners. Each breaks one rule of the checkpoint; tests/test_mutants.py shows that each is caught.

Run as a worker: ``python -c "from tests.mutants import run; run('NAME')" worker learner ...``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

from confluent_kafka import Producer

from streams.checkpoint import FencedError, Writer
from streams.decoded import Record
from streams.learner import Learner
from streams.lifecycle import Lifecycle
from streams.messages import Message
from streams.state import Fetched, PartitionState, Side


def offsets_outside() -> Any:
    """The offsets are written after the sums' transaction, not in it."""
    inside = Writer.commit

    def commit(self: Writer, messages: Sequence[Message]) -> None:
        inside(self, messages[:-1])
        self.passing("checkpoint.offsets")
        plain = Producer({"bootstrap.servers": self.bootstrap})  # type: ignore[attr-defined]
        plain.produce(
            self.topics["posteriors"], key=messages[-1].key, value=messages[-1].value, partition=self.partition
        )
        plain.flush(10)

    def remember_bootstrap(init: Callable[..., None]) -> Callable[..., None]:
        def wrapped(self: Writer, client: Any, **more: Any) -> None:
            init(self, client, **more)
            self.bootstrap = client["bootstrap.servers"]  # type: ignore[attr-defined]

        return wrapped

    return mock.patch.multiple(Writer, commit=commit, __init__=remember_bootstrap(Writer.__init__))


def rebuild_adds() -> Any:
    """What is read again to know what is pending is added to the sums as well."""

    def remember(self: PartitionState, side: Side, records: Sequence[Record], waited: Any) -> None:
        if side == "impressions":
            self._impressions(records)
        else:
            self._clicks(records)

    return mock.patch.object(PartitionState, "remember", remember)


def no_contiguity() -> Any:
    """A batch is added whatever offsets it starts at."""
    checked = PartitionState.take

    def take(self: PartitionState, batch: Fetched) -> Any:
        self.positions[batch.side] = batch.start
        return checked(self, batch)

    return mock.patch.object(PartitionState, "take", take)


def fenced_initialises_again() -> Any:
    """A fenced worker takes its transactional id back instead of giving the partition up."""

    async def fenced(self: Learner, lifecycle: Lifecycle, error: FencedError) -> None:
        await self._forget(lifecycle)
        await self._recover(lifecycle, "fenced")
        self._start(lifecycle)

    return mock.patch.object(Learner, "_fenced", fenced)


MUTANTS: dict[str, Callable[[], Any]] = {
    "offsets-outside": offsets_outside,
    "rebuild-adds": rebuild_adds,
    "no-contiguity": no_contiguity,
    "fenced-initialises-again": fenced_initialises_again,
}


@contextmanager
def mutant(name: str | None) -> Iterator[None]:
    """Break the rule for a while; None breaks nothing."""
    if name is None:
        yield
        return
    with MUTANTS[name]():
        yield


def run(name: str) -> None:
    """The command line, with a rule broken."""
    from streams.cli import main

    with mutant(name):
        main()
