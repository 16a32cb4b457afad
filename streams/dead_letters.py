"""Dead letters: what could not be used, with its original bytes and the reason in Kafka Connect's header names.

One letter for a record, or for each bad row of a columnar record, whose number is in ``__clickloop.errors.row``. Where that would
multiply a large record beyond `LETTERS_BYTES`, one letter names all its bad rows ("3,7"). A record that is larger than a topic
takes, which had come compressed, goes in parts: ``__clickloop.errors.part`` says "1/3".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from streams.decoded import Dead
from streams.messages import Message

LETTER_BYTES = 4_000_000
LETTERS_BYTES = 8_000_000
SHOWN_ROWS, SHOWN_CHARACTERS = 5, 2_000


def letters(topic: str, partition: int, rows: Sequence[Dead]) -> Iterator[Message]:
    """Letters for all that one record of an input topic did wrong."""
    size = len(rows[0].record.value or b"")
    if len(rows) * size <= LETTERS_BYTES:
        for row in rows:
            yield from _letter(topic, partition, [row])
    else:
        yield from _letter(topic, partition, rows)


def _letter(topic: str, partition: int, rows: Sequence[Dead]) -> Iterator[Message]:
    record, numbers = rows[0].record, [row.row for row in rows if row.row is not None]
    headers = [
        *(record.headers or ()),
        ("__connect.errors.topic", topic.encode()),
        ("__connect.errors.partition", str(partition).encode()),
        ("__connect.errors.offset", str(record.offset).encode()),
        ("__connect.errors.connector.name", b"clickloop"),
        ("__connect.errors.task.id", str(partition).encode()),
        ("__connect.errors.stage", b"VALUE_CONVERTER"),
        ("__connect.errors.class.name", b"streams.decode.Decoder"),
        ("__connect.errors.exception.class.name", b"streams.events.EventError"),
        ("__connect.errors.exception.message", _reason(rows).encode()),
    ]
    if numbers:
        headers.append(("__clickloop.errors.row", ",".join(map(str, numbers)).encode()))
    value = record.value
    if value is None or len(value) <= LETTER_BYTES:
        yield Message("dead_letters", record.key, value, headers)
        return
    parts = -(-len(value) // LETTER_BYTES)
    for i in range(parts):
        part = ("__clickloop.errors.part", f"{i + 1}/{parts}".encode())
        yield Message("dead_letters", record.key, value[i * LETTER_BYTES : (i + 1) * LETTER_BYTES], [*headers, part])


def _reason(rows: Sequence[Dead]) -> str:
    reasons = [row.reason if row.row is None else f"row {row.row}: {row.reason}" for row in rows[:SHOWN_ROWS]]
    if len(rows) > SHOWN_ROWS:
        reasons.append(f"and {len(rows) - SHOWN_ROWS} rows more")
    return "; ".join(one[:SHOWN_CHARACTERS] for one in reasons)
