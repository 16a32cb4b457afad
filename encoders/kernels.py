"""What a CPU computes for each text and token between the products with weights: attention and layer norm, compiled by numba.

torch's attention is made for long texts: at 24 tokens it reaches a tenth of what the processor can do. Here the keys of one text and
head are transposed, so that sixteen of them are one value (encoders/lanes.py), and four queries at a time go through scores, softmax and
the sum of values in the processor's first cache. All is computed in float32; what is read and written may be bfloat16. Imported through
encoders/compiled.py alone, as numba may be missing.
"""

from __future__ import annotations

import math
from hashlib import sha256
from pathlib import Path
from typing import Any

import numba
import numpy as np

from encoders import lanes
from encoders.lanes import (
    LEAST,
    WIDE,
    add,
    exp2,
    fma,
    head,
    larger,
    largest,
    load,
    mul,
    prefetch,
    splat,
    store,
    sub,
    total,
    turn,
)

types: Any = numba.types  # untyped
_HOW: Any = {"nogil": True, "error_model": "numpy"}
_LANES_ARE = sha256(Path(lanes.__file__).read_bytes()).hexdigest()[:12]
_ONE, _ZERO, _NAN = np.float32(1.0), np.float32(0.0), np.float32(math.nan)
_LEAST, _LOG2_E = np.float32(LEAST), np.float32(math.log2(math.e))


def _part(function: Any) -> Any:
    return numba.njit(function, **_HOW)


def attention(*, half: bool) -> Any:
    """`attend` for bfloat16 (as uint16) if `half`, else for float32."""
    numbers, whole = _numbers(half=half), types.Array(types.int64, 1, "C", readonly=True)
    return _compiled(attend, types.void(numbers, types.intp, types.intp, whole, whole, numbers))


def norm(*, half: bool) -> Any:
    """`normalise`, likewise."""
    known = types.Array(types.float32, 1, "C", readonly=True)
    return _compiled(normalise, types.void(_numbers(half=half), known, known, types.float32))


def _compiled(function: Any, signature: Any) -> Any:
    """Two seconds for attention, or read from where it was kept; it is kept under a name that tells what lanes.py was."""
    function.__qualname__ = f"{function.__name__}.{_LANES_ARE}"
    try:
        return numba.njit(signature, cache=True, **_HOW)(function)
    except RuntimeError:  # no folder to keep it in
        return numba.njit(signature, **_HOW)(function)


def _numbers(*, half: bool) -> Any:
    return (types.uint16 if half else types.float32)[::1]


def attend(qkv: Any, heads: int, size: int, starts: Any, lengths: Any, out: Any) -> None:
    """Attention of texts, each within itself.

    Args:
        qkv: (T * 3 * heads * size,) of all tokens: queries, keys and values of one after the other.
        heads: of each token.
        size: numbers of a head, a multiple of `WIDE`.
        starts: first tokens (n,) of the texts.
        lengths: tokens (n,) of the texts.
        out: (T * heads * size,), filled for the tokens of these texts.
    """
    width = heads * size
    row = 3 * width
    room = _lanes(lengths.max())
    keys = np.empty(size * room, np.float32)
    weights, queries = np.empty(4 * room, np.float32), np.empty(4 * size, np.float32)
    scale = splat(_LOG2_E / np.float32(math.sqrt(size)))
    for text in range(len(starts)):
        tokens, across = lengths[text], _lanes(lengths[text])
        for number in range(heads):
            place = starts[text] * row + number * size
            for first in range(0, tokens, WIDE):
                for part in range(0, size, WIDE):
                    at = place + width + first * row + part
                    turn(qkv, at, row, tokens - first, keys, part * across + first, across)
            _fetch(qkv, place + size if number + 1 < heads else (starts[text] + tokens) * row, row, tokens, size)
            for query in range(0, tokens, 4):
                a, b, c, d = query, min(query + 1, tokens - 1), min(query + 2, tokens - 1), min(query + 3, tokens - 1)
                for part in range(0, size, WIDE):
                    store(queries, part, mul(scale, load(qkv, place + a * row + part)))
                    store(queries, part + size, mul(scale, load(qkv, place + b * row + part)))
                    store(queries, part + 2 * size, mul(scale, load(qkv, place + c * row + part)))
                    store(queries, part + 3 * size, mul(scale, load(qkv, place + d * row + part)))
                over = _softmax(weights, room, across, _scores(queries, size, keys, tokens, across, weights, room))
                for part in range(0, size, WIDE):
                    u, v, w, x = _values(qkv, place + 2 * width + part, row, tokens, weights, room)
                    to = starts[text] * width + number * size + part
                    store(out, to + a * width, mul(over[0], u))
                    store(out, to + b * width, mul(over[1], v))
                    store(out, to + c * width, mul(over[2], w))
                    store(out, to + d * width, mul(over[3], x))


@_part
def _lanes(tokens: Any) -> Any:
    return (tokens + WIDE - 1) // WIDE * WIDE


@_part
def _fetch(qkv: Any, place: Any, row: Any, tokens: Any, size: Any) -> None:
    """Have queries, keys and values of the text's next head, or of the next text's first, on their way."""
    for token in range(place, place + tokens * row, row):
        for kind in range(token, token + row, row // 3):
            for line in range(kind, kind + size, WIDE):
                prefetch(qkv, line)


@_part
def _four(value: Any) -> Any:
    return value, value, value, value


@_part
def _plus(sums: Any, scalars: Any, place: Any, step: Any, value: Any) -> Any:
    """Four sums plus a scalar of each of four rows times a value."""
    return (
        fma(splat(scalars[place]), value, sums[0]),
        fma(splat(scalars[place + step]), value, sums[1]),
        fma(splat(scalars[place + 2 * step]), value, sums[2]),
        fma(splat(scalars[place + 3 * step]), value, sums[3]),
    )


@_part
def _scores(queries: Any, size: Any, keys: Any, tokens: Any, across: Any, weights: Any, room: Any) -> Any:
    """Write products of four queries with all keys to `weights`, and give the largest of each, in every lane."""
    most = _four(splat(_LEAST))
    for first in range(0, across, WIDE):
        sums = _four(splat(_ZERO))
        for number in range(size):
            sums = _plus(sums, queries, number, size, load(keys, number * across + first))
        a, b, c, d = (
            head(sums[0], tokens - first),
            head(sums[1], tokens - first),
            head(sums[2], tokens - first),
            head(sums[3], tokens - first),
        )
        _keep(weights, first, room, a, b, c, d)
        most = larger(most[0], a), larger(most[1], b), larger(most[2], c), larger(most[3], d)
    return _largest(most[0]), _largest(most[1]), _largest(most[2]), _largest(most[3])


@_part
def _largest(most: Any) -> Any:
    """In every lane the largest; no number where no score is one, or all are minus infinity."""
    found = largest(most)
    return splat(found if found > _LEAST else _NAN)


@_part
def _keep(weights: Any, place: Any, room: Any, a: Any, b: Any, c: Any, d: Any) -> None:
    store(weights, place, a)
    store(weights, place + room, b)
    store(weights, place + 2 * room, c)
    store(weights, place + 3 * room, d)


@_part
def _softmax(weights: Any, room: Any, across: Any, most: Any) -> Any:
    """Turn scores into weights that are not divided by their sum yet, and give one over that."""
    sums = _four(splat(_ZERO))
    for place in range(0, across, WIDE):
        a = exp2(sub(load(weights, place), most[0]))
        b = exp2(sub(load(weights, place + room), most[1]))
        c = exp2(sub(load(weights, place + 2 * room), most[2]))
        d = exp2(sub(load(weights, place + 3 * room), most[3]))
        _keep(weights, place, room, a, b, c, d)
        sums = add(sums[0], a), add(sums[1], b), add(sums[2], c), add(sums[3], d)
    return (
        splat(_ONE / total(sums[0])),
        splat(_ONE / total(sums[1])),
        splat(_ONE / total(sums[2])),
        splat(_ONE / total(sums[3])),
    )


@_part
def _values(qkv: Any, place: Any, row: Any, tokens: Any, weights: Any, room: Any) -> Any:
    """Sums of the values of all tokens, by the weights of four queries."""
    sums = _four(splat(_ZERO))
    for token in range(tokens):
        sums = _plus(sums, weights, token, room, load(qkv, place + token * row))
    return sums


def normalise(rows: Any, weight: Any, bias: Any, eps: Any) -> None:
    """Layer norm in place (Ba et al. 2016): of each row less its mean, by its standard deviation, times `weight`, plus `bias`.

    Args:
        rows: (n * d,), d a multiple of `WIDE`.
        weight: (d,).
        bias: (d,).
        eps: added to the variance.
    """
    width = len(weight)
    share = _ONE / np.float32(width)
    for row in range(0, len(rows), width):
        sums = splat(_ZERO)
        for place in range(row, row + width, WIDE):
            sums = add(sums, load(rows, place))
        mean = splat(total(sums) * share)
        squares = splat(_ZERO)
        for place in range(row, row + width, WIDE):
            apart = sub(load(rows, place), mean)
            squares = fma(apart, apart, squares)
        by = splat(_ONE / np.float32(math.sqrt(total(squares) * share + eps)))
        for place in range(0, width, WIDE):
            apart = mul(by, sub(load(rows, row + place), mean))
            store(rows, row + place, fma(apart, load(weight, place), load(bias, place)))
