"""Deliberately broken memories of outcomes by token; tests/test_token_outcomes.py shows that each is caught.

Patches hold while a learner runs, recoveries included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from streams import token_parts, token_store
from streams.messages import Message
from streams.token_store import TokenStore

FAR = 1 << 62


def hashes_are_not_persisted() -> Any:
    """A checkpoint writes nothing of what must not count again."""

    def records(*_: Any, **__: Any) -> Iterator[Message]:
        return iter(())

    return mock.patch.object(TokenStore, "records", records)


def later_cuts_are_known() -> Any:
    """What was remembered after the base of a recovery makes the replayed outcomes duplicates."""
    return mock.patch.object(token_store, "reached", return_value=True)


def hours_are_buried_at_once() -> Any:
    """An hour's records are deleted as its life ends, though a recovery may have to begin before that."""
    whole = TokenStore.records

    def records(self: TokenStore, partition: int, **more: Any) -> Iterator[Message]:
        return whole(self, partition, **more | {"watermark": FAR})

    return mock.patch.object(TokenStore, "records", records)


def parts_are_merged_early() -> Any:
    """Records are merged that a recovery takes cut by cut."""
    whole = token_parts.mergeable
    return mock.patch.object(
        token_store, "mergeable", lambda parts, _: whole(parts, {"impressions": FAR, "clicks": FAR})
    )


def a_replay_forgets_which_report_counted() -> Any:
    """Of two reports of one outcome the replay may take the other."""
    return mock.patch.object(TokenStore, "comes", return_value=False)


MUTANTS: dict[str, Callable[[], Any]] = {
    "not-persisted": hashes_are_not_persisted,
    "later-cuts-known": later_cuts_are_known,
    "buried-at-once": hours_are_buried_at_once,
    "merged-early": parts_are_merged_early,
    "replay-forgets": a_replay_forgets_which_report_counted,
}


@contextmanager
def mutant(name: str | None) -> Iterator[None]:
    """Break a rule for a while; None breaks nothing."""
    if name is None:
        yield
        return
    with MUTANTS[name]():
        yield
