"""Sums of one arm of the linear models as a value: adding, taking back, writing and reading them.

Symmetric matrices are held as their upper triangle row by row, d (d + 1)/2 numbers. The record is that of
policies/records.py with b (d numbers), A, and an A in every pending accumulator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from policies import records
from policies.batch import FloatArray
from policies.sums import VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policies.decay import Decay


class Waiting(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Pending rows of one arm, at a landmark of their own: n = sum w, A = sum w x x^T (upper triangle)."""

    landmark_ms: int
    n: float
    A: FloatArray


class LinearSums(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Sums of one arm; see `policies.sums.Sums`.

    b: (d,), A: (d (d + 1)/2,); `pending` has one entry for each delay; `encoder` is the fingerprint of what made x.
    """

    n: float
    count: float
    reward: float
    square: float
    landmark_ms: int
    newest_ms: int
    b: FloatArray
    A: FloatArray
    pending: tuple[Waiting, ...] = ()
    encoder: str | None = None


def merge(left: LinearSums, right: LinearSums, *, decay: Decay, waits: tuple[Decay, ...]) -> LinearSums:
    """Sums of the rows of both, at the later landmark; the encoder is the left's."""
    landmark_ms = max(left.landmark_ms, right.landmark_ms)
    p = decay.weight(since_ms=left.landmark_ms - landmark_ms)
    q = decay.weight(since_ms=right.landmark_ms - landmark_ms)
    return LinearSums(
        n=p * left.n + q * right.n,
        count=left.count + right.count,
        reward=p * left.reward + q * right.reward,
        square=p * left.square + q * right.square,
        landmark_ms=landmark_ms,
        newest_ms=max(left.newest_ms, right.newest_ms),
        b=_sum(p, left.b, q, right.b),
        A=_sum(p, left.A, q, right.A),
        pending=tuple(map(_merge_waiting, waits, left.pending, right.pending)),
        encoder=left.encoder,
    )


def negative(sums: LinearSums) -> LinearSums:
    """What takes these rows back when it is merged; times stay as they are."""
    return msgspec.structs.replace(
        sums,
        n=-sums.n,
        count=-sums.count,
        reward=-sums.reward,
        square=-sums.square,
        b=-sums.b,
        A=-sums.A,
        pending=tuple(Waiting(landmark_ms=p.landmark_ms, n=-p.n, A=-p.A) for p in sums.pending),
    )


def encode(sums: LinearSums, settings: Mapping[str, Any]) -> dict[str, object]:
    """Sums as a map that MessagePack can hold, with the model's settings, of which None is left out."""
    return {
        "v": VERSION,
        **{name: value for name, value in settings.items() if value is not None},
        "landmark_ms": sums.landmark_ms,
        "newest_ms": sums.newest_ms,
        "n": sums.n,
        "count": sums.count,
        "reward": sums.reward,
        "square": sums.square,
        "b": records.to_bytes(sums.b),
        "A": records.to_bytes(sums.A),
        "pending": [{"landmark_ms": p.landmark_ms, "n": p.n, "A": records.to_bytes(p.A)} for p in sums.pending],
    }


def decode(record: Mapping[str, object], settings: Mapping[str, Any], *, dimension: int) -> LinearSums:
    """Read what `encode` wrote under the same settings; unknown keys are ignored. Raises RecordError."""
    read = records.read(record, settings)
    triangle = dimension * (dimension + 1) // 2
    return LinearSums(
        n=read.n,
        count=read.count,
        reward=read.reward,
        square=read.square,
        landmark_ms=read.landmark_ms,
        newest_ms=read.newest_ms,
        b=records.from_bytes(read.b, dimension, what="b"),
        A=records.from_bytes(read.A, triangle, what="A"),
        pending=tuple(
            Waiting(landmark_ms=p.landmark_ms, n=p.n, A=records.from_bytes(p.A, triangle, what="pending A"))
            for p in read.pending
        ),
        encoder=read.encoder,
    )


def _sum(p: float, left: FloatArray, q: float, right: FloatArray) -> FloatArray:
    return (left if p == 1.0 else p * left) + (right if q == 1.0 else q * right)


def _merge_waiting(wait: Decay, left: Waiting, right: Waiting) -> Waiting:
    landmark_ms = max(left.landmark_ms, right.landmark_ms)
    p = wait.weight(since_ms=left.landmark_ms - landmark_ms)
    q = wait.weight(since_ms=right.landmark_ms - landmark_ms)
    return Waiting(landmark_ms=landmark_ms, n=p * left.n + q * right.n, A=_sum(p, left.A, q, right.A))
