"""Words about a policy as a whole on the controls topic: candidates proposed, promoted, rolled back; overrides; freezing.

Key: MessagePack ``[policy, null, id]``, with an id of its own for each word, so that compaction keeps all of them. Value: one map, JSON (it
begins with ``{``) or MessagePack::

    v            1
    kind         "propose", "promote", "rollback", "override", "freeze" or "unfreeze"
    explorer, rates, share, sticky_s, name, force, reason, time_ms      see `policies.trials.Word`; left out where they do not matter

The publisher heeds each word once, in the order of the topic: the next offset is part of its state. Readers of before pass over these
keys. What cannot be read is logged and passed over.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from confluent_kafka import Producer

from policies.meta_records import read_key
from policies.trials import Word
from streams.reading import QUIET, bounds, read, reader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streams.settings import Settings

log = structlog.get_logger(__name__)

VERSION = 1
TIMEOUT_S = 10.0


class BadWord(ValueError):  # noqa: N818 - reads as what it says
    """A record that says nothing that could be done."""

    retriable = False


class WordNotWritten(RuntimeError):  # noqa: N818 - reads as what it says
    """The broker did not take a word in time."""

    retriable = True


def word_key(policy: str, identity: str) -> bytes:
    """Kafka key of a word.

    >>> word_key("p", "i").hex()
    '93a170c0a169'
    """
    return msgspec.msgpack.encode([policy, None, identity])


def encode_word(word: Word) -> bytes:
    """Value of a record.

    >>> decode_word(encode_word(Word(kind="propose", rates={"alpha": 0.2}))).rates
    {'alpha': 0.2}
    """
    return msgspec.msgpack.encode({"v": VERSION, "kind": word.kind, **msgspec.to_builtins(word)})


def decode_word(value: bytes) -> Word:
    """Word from a record's value. Raises BadWord.

    >>> decode_word(b'{"v": 1, "kind": "freeze", "reason": "audit"}').reason
    'audit'
    """
    codec: Any = msgspec.json if value[:1] == b"{" else msgspec.msgpack
    try:
        found = codec.decode(value)
        version = found.get("v") if isinstance(found, dict) else None
        if version != VERSION:
            raise BadWord(f"a word must be a map with v = {VERSION}, this has v = {version!r}: {value[:80]!r}")
        return msgspec.convert(found, Word)
    except msgspec.MsgspecError as error:
        raise BadWord(f"a word cannot be read: {error}; its first bytes are {value[:80]!r}") from error


class Words:
    """The words on each policy by offset, and where the topic ended when it was first looked at."""

    def __init__(self) -> None:
        self.end = 0
        self._policies: dict[str, dict[int, Word]] = {}

    def add(self, key: bytes | None, value: bytes | None, offset: int) -> bool:
        """Take a record, if it is a word's; whether it is. Raises BadWord if it cannot be read."""
        named = read_key(key)
        if named is None or named[1] is not None:
            return False
        of = self._policies.setdefault(named[0], {})
        if value is not None:
            of[offset] = decode_word(value)
        return True

    def since(self, policy: str, heard: int) -> Sequence[tuple[int, Word]]:
        """Words from an offset on, in order; all of them if the topic ends before it: then it is not the topic that was heard."""
        of = self._policies.get(policy, {})
        if heard > max(self.end, *of, 0):
            heard = 0
        return [(offset, of[offset]) for offset in sorted(of) if offset >= heard]


def read_words(settings: Settings) -> Words:
    """All words that the topic has now. Raises ReadError."""
    found, topic = Words(), settings.topics.controls
    with reader(settings.librdkafka()) as consumer:
        low, found.end = bounds(consumer, topic, 0, timeout_s=TIMEOUT_S)
        for batch in read(consumer, topic, 0, low, None, timeout_s=TIMEOUT_S) if found.end > low else ():
            for record in batch:
                try:
                    found.add(record.key, record.value, record.offset)
                except BadWord as error:
                    log.warning("a word was passed over", offset=record.offset, why=str(error))
    return found


def write_word(settings: Settings, policy: str, word: Word) -> None:
    """Say something of a policy. Raises WordNotWritten."""
    problems: list[str] = []
    config = settings.librdkafka() | {"enable.idempotence": True, "log_level": QUIET}
    producer = Producer(config | {"message.timeout.ms": int(TIMEOUT_S * 1000)})
    producer.produce(
        settings.topics.controls,
        partition=0,
        key=word_key(policy, uuid.uuid4().hex),
        value=encode_word(word),
        on_delivery=lambda error, _: problems.append(error.str()) if error is not None else None,
    )
    left = producer.flush(TIMEOUT_S)
    if left or problems:
        raise WordNotWritten(
            f"{settings.topics.controls} at {settings.bootstrap} did not take it: {'; '.join(problems) or 'no answer in time'}"
        )
