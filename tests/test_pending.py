"""Pending rows against a list: whatever arrives and leaves, each row is found under its number until it has left."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streams.blocks import Blocks
from streams.decoded import Impressions
from streams.outcomes import Seen
from streams.pending import CHUNK_ROWS, Pending

HOLD_MS = {"front": 10_000, "side": 3_000}
BUCKET_MS = {"front": 1_000, "side": 700}
COLUMNS = ("key", "ts", "offset", "row", "arm", "slot", "snapshot", "propensity", "flags", "x")


def arrivals(rng: np.random.Generator, n: int, *, first: int, now_ms: int, policy: str, dtype: Any) -> Impressions:
    """A batch of n impressions with random columns, offsets from `first` on, times around `now_ms`."""
    return Impressions(
        policy=policy,
        key=rng.integers(0, 2**64, n, dtype=np.uint64),
        slot=rng.integers(0, 3, n).astype(np.int32),
        arm=rng.integers(0, 9, n).astype(np.int32),
        ts=np.maximum(0, now_ms + rng.integers(-1500, 1500, n)),
        offset=first + np.arange(n),
        row=rng.integers(0, 9, n).astype(np.int32),
        snapshot=rng.integers(-1, 5, n).astype(np.int32),
        propensity=rng.random(n),
        flags=rng.integers(0, 4, n).astype(np.uint8),
        x=rng.normal(size=(n, 2 if policy == "front" else 5)).astype(dtype),
    )


def stored(pending: Pending, number: int) -> list[Any]:
    """A row's columns."""
    chunk, position = pending.row(number)
    return [getattr(chunk, name)[position].tolist() for name in COLUMNS]


def given(batch: Impressions, i: int) -> list[Any]:
    """The same columns of a batch's row."""
    return [getattr(batch, name)[i].tolist() for name in COLUMNS]


def append(pending: Pending, batch: Impressions, rows: np.ndarray[Any, np.dtype[np.int64]]) -> list[int]:
    """Store rows of a batch, in the buckets that the join would choose. Returns their numbers."""
    bucket = (batch.ts[rows] + HOLD_MS[batch.policy]) // BUCKET_MS[batch.policy]
    numbers: list[int] = pending.append(batch, rows, bucket).tolist()
    return numbers


@pytest.mark.parametrize("ceiling", [None, 0, 200_000])
@pytest.mark.parametrize("seed", range(4))
def test_rows_stay_under_their_number_until_they_leave(seed: int, ceiling: int | None) -> None:
    """Two policies, both types of context, rows out of order; watermarks that cut through buckets and that jump; files."""
    rng = np.random.default_rng(seed)
    blocks = Blocks(ceiling_bytes=ceiling)
    pending, model = Pending(blocks), dict[int, tuple[str, list[Any]]]()
    now_ms = first = moved = 0
    rounds, most = (150, 700) if ceiling is None else (30, 4_000)
    for _ in range(rounds):
        policy = ["front", "side"][rng.integers(2)]
        dtype = [np.float32, np.float64][rng.integers(2)]
        batch = arrivals(rng, int(rng.integers(1, most)), first=first, now_ms=now_ms, policy=policy, dtype=dtype)
        first += len(batch.ts)
        rows = np.flatnonzero(rng.random(len(batch.ts)) < 0.9)
        if len(rows):
            numbers = append(pending, batch, rows)
            assert not set(numbers) & set(model)
            model |= {number: (policy, given(batch, i)) for number, i in zip(numbers, rows.tolist(), strict=True)}
        now_ms += int(rng.choice([0, 100, 333, 2000, 9000], p=[0.2, 0.3, 0.3, 0.15, 0.05]))
        if rng.random() < 0.5:
            check_leaving(pending, model, now_ms)
        assert pending.rows == len(model)
        moved += pending.file_bytes
    for number, (_, row) in model.items():
        assert stored(pending, number) == row
    check_leaving(pending, model, now_ms + 100_000)
    assert (pending.rows, list(pending.chunks()), pending.nbytes, pending.file_bytes) == (0, [], 0, 0)
    assert (moved > 0) == (ceiling is not None)
    assert list(pending.leave(now_ms + 100_001, hold_ms=HOLD_MS, bucket_ms=BUCKET_MS)) == []
    assert blocks.file_bytes == 0


def check_leaving(pending: Pending, model: dict[int, tuple[str, list[Any]]], watermark: int) -> None:
    """Exactly those leave whose time is up, and they can be read until the next call."""
    due = {n: row for n, (policy, row) in model.items() if row[1] + HOLD_MS[policy] <= watermark}
    for number in due:
        del model[number]
    left = list(pending.leave(watermark, hold_ms=HOLD_MS, bucket_ms=BUCKET_MS))
    found = [[getattr(chunk, name)[i].tolist() for name in COLUMNS] for chunk, rows in left for i in rows.tolist()]
    assert sorted(found) == sorted(due.values())
    assert list(pending.leave(watermark, hold_ms=HOLD_MS, bucket_ms=BUCKET_MS)) == []


@pytest.mark.parametrize(("watermark", "gone"), [(10_999, 0), (11_000, 1), (11_001, 2), (11_002, 3)])
def test_a_row_leaves_when_the_watermark_reaches_its_time_and_hold(watermark: int, gone: int) -> None:
    """Not a millisecond before, although rows of one second share a bucket."""
    rng = np.random.default_rng(1)
    batch = arrivals(rng, 3, first=0, now_ms=0, policy="front", dtype=np.float32)
    batch.ts[:] = [1000, 1001, 1002]
    pending = Pending()
    append(pending, batch, np.arange(3))
    left = list(pending.leave(watermark, hold_ms=HOLD_MS, bucket_ms=BUCKET_MS))
    assert [i for _, rows in left for i in rows.tolist()] == list(range(gone))
    assert pending.rows == 3 - gone


def test_what_left_can_be_read_while_new_rows_come() -> None:
    """Memory is used again, but not that of the rows in the last answer."""
    rng = np.random.default_rng(2)
    pending = Pending()
    for round_ in range(6):
        now_ms = 100_000 * round_
        batch = arrivals(rng, 3000, first=3000 * round_, now_ms=now_ms, policy="front", dtype=np.float32)
        append(pending, batch, np.arange(3000))
        left = list(pending.leave(now_ms + 50_000, hold_ms=HOLD_MS, bucket_ms=BUCKET_MS))
        after = arrivals(rng, 3000, first=10**6, now_ms=now_ms + 90_000, policy="front", dtype=np.float32)
        append(pending, after, np.arange(3000))
        contexts = {int(chunk.offset[i]): chunk.x[i].tolist() for chunk, rows in left for i in rows.tolist()}
        assert all(contexts[int(o)] == x for o, x in zip(batch.offset, batch.x.tolist(), strict=True))


def test_outcomes_seen_of_a_row_do_not_pass_to_the_next_in_its_place() -> None:
    """A chunk whose memory is used again begins without outcomes, and a row that left takes its own along."""
    rng = np.random.default_rng(3)
    pending = Pending()
    for round_ in range(4):
        batch = arrivals(rng, 500, first=0, now_ms=100_000 * round_, policy="front", dtype=np.float32)
        batch.ts[:] = 100_000 * round_
        numbers = append(pending, batch, np.arange(500))
        chunk, _ = pending.row(numbers[0])
        assert (chunk.seen, chunk.oldest_click, chunk.n) == ({}, None, 500)
        chunk.seen[3] = [Seen("o", 0, 1.0, 0)]
        chunk.oldest_click = 7
        list(pending.leave(100_000 * round_ + 50_000, hold_ms=HOLD_MS, bucket_ms=BUCKET_MS))
        list(pending.leave(100_000 * round_ + 50_001, hold_ms=HOLD_MS, bucket_ms=BUCKET_MS))


def test_memory_is_that_of_the_chunks() -> None:
    """49 bytes and the context for each place, whether it is taken or not; an empty store takes none."""
    rng = np.random.default_rng(4)
    for dtype, size in ((np.float32, 4), (np.float64, 8)):
        pending = Pending()
        assert pending.nbytes == 0
        batch = arrivals(rng, CHUNK_ROWS + 1, first=0, now_ms=0, policy="front", dtype=dtype)
        batch.ts[:] = 5
        append(pending, batch, np.arange(CHUNK_ROWS + 1))
        assert pending.nbytes == 2 * CHUNK_ROWS * (49 + 2 * size)


def test_contexts_of_both_types_keep_every_bit() -> None:
    """float64 rows are not put into a float32 chunk of their bucket."""
    pending = Pending()
    rng = np.random.default_rng(5)
    numbers, expected = [], []
    for i, dtype in enumerate([np.float32, np.float64] * 3):
        batch = arrivals(rng, 2, first=2 * i, now_ms=0, policy="front", dtype=dtype)
        batch.ts[:] = 5
        numbers += append(pending, batch, np.arange(2))
        expected += batch.x.astype(np.float64).tolist()
    assert [stored(pending, number)[-1] for number in numbers] == expected
    assert len(list(pending.chunks())) == 2
