"""What fills slots, compiled by numba: the laws of policies/slot_weights.py and slot_laws.py for up to three slots, request by request.

Imported through policies/compiled.py alone, as numba is an extra. The formulas are those of the modules named; here they are loops
without arrays of (n, n) or (n, q), and of a few microseconds. Compiled when imported (seconds), and kept on disk for the next
process where a folder can be written to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numba
import numpy as np
from numpy.polynomial.chebyshev import cheb2poly, chebinterpolate
from scipy.special import erfcx

from policies.slot_laws import COARSE, LEAST_F
from policies.slot_weights import SAFE
from policies.thompson import CROWD, MISSED, PRUNE, REACH

if TYPE_CHECKING:
    from policies.batch import FloatArray
    from policies.matching import Arms


def _scaled_tail(t: Any) -> Any:
    y = 4.0 * (1.0 + t) / (1.0 - t)
    return 0.5 * (1.0 + y) * erfcx(y * math.sqrt(0.5))


Function = TypeVar("Function", bound=Callable[..., Any])

types: Any = numba.types  # untyped
NUMBER, WHOLE = types.float64, types.int64
ROW, TABLE, TABLES = (types.Array(NUMBER, dimensions, "C", readonly=True) for dimensions in (1, 2, 3))
OUT, OUT_TABLE, ARMS = NUMBER[::1], NUMBER[:, ::1], WHOLE[::1]
"""What is taken may be read-only; what is filled may not."""

_LOG2_E, _LN2_HIGH, _LN2_LOW = 1.4426950408889634, 0.693147180369123816490, 1.90821492927058770002e-10
_EXP = np.array([1.0 / math.factorial(j) for j in range(13)][::-1])
_TAIL = cheb2poly(chebinterpolate(_scaled_tail, 18))[::-1].copy()

_SUMS = {"reassoc", "contract", "nsz"}
"""Lets sums run in parallel: their order is not that of the loop, and differs between processors in the last bits."""


def _compiled(result: Any, *taken: Any, fastmath: Any = False) -> Callable[[Function], Function]:
    def decorate(function: Function) -> Function:
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fastmath}
        try:
            made: Function = numba.njit(result(*taken), cache=True, **options)(function)
        except RuntimeError:  # no folder to keep it in
            made = numba.njit(result(*taken), **options)(function)
        return made

    return decorate


@_compiled(types.void, ROW, WHOLE, OUT)
def _scaled(log: FloatArray, slot: int, out: FloatArray) -> None:
    """Weights of one slot from logarithms, as `slot_weights.scaled_rows`; -inf is weight 0."""
    best, second, third = -np.inf, -np.inf, -np.inf
    for value in log:
        if value > best:
            best, second, third = value, best, second
        elif value > second:
            second, third = value, second
        elif value > third:
            third = value
    at = best if slot == 0 else second if slot == 1 else third
    for i in range(len(log)):
        out[i] = 0.0 if log[i] == -np.inf else math.exp(min(max(log[i] - at, -300.0), 300.0))


@_compiled(WHOLE, ROW)
def _argmax(w: FloatArray) -> int:
    top = 0
    for i in range(1, len(w)):
        if w[i] > w[top]:
            top = i
    return top


@_compiled(NUMBER, ROW, WHOLE, WHOLE, fastmath=_SUMS)
def _sum_without(w: FloatArray, one: int, other: int) -> float:
    """The sum of all but two, which is never a difference; -1 is none."""
    total = 0.0
    for i in range(len(w)):
        total += 0.0 if i in (one, other) else w[i]
    return total


@_compiled(types.void, ROW, OUT)
def _all_but_one(w: FloatArray, out: FloatArray) -> None:
    """As `slot_weights.all_but_one`, of one row."""
    top = _argmax(w)
    rest = _sum_without(w, top, -1)
    total = rest + w[top]
    for i in range(len(w)):
        out[i] = total - w[i]
    out[top] = rest


@_compiled(types.UniTuple(NUMBER, 3), ROW, ROW, ROW, NUMBER, NUMBER, OUT, fastmath=_SUMS)
def _pairs(
    f: FloatArray, w: FloatArray, t: FloatArray, total: float, without_top: float, held: FloatArray
) -> tuple[float, float, float]:
    """Sums over pairs b < c, but (0, 1), of (f_b w_c + f_c w_b)/(T - t_b - t_c): with arm 0, with arm 1, with neither.

    And in `held` (n,) of the pairs that an arm is in. t_0 >= t_1 >= the others.
    """
    held[:] = 0.0
    n = len(t)
    f_b, w_b, of_top, of_next, others = f[0], w[0], 0.0, 0.0, 0.0
    for c in range(2, n):
        v = (f_b * w[c] + w_b * f[c]) / (without_top - t[c])
        of_top += v
        held[c] += v
    held[0] = of_top
    for b in range(1, n - 1):
        f_b, w_b, left, row = f[b], w[b], total - t[b], 0.0
        for c in range(b + 1, n):
            v = (f_b * w[c] + w_b * f[c]) / (left - t[c])
            row += v
            held[c] += v
        held[b] += row
        if b == 1:
            of_next = row
        else:
            others += row
    return of_top, of_next, others


@_compiled(types.void, OUT, WHOLE, WHOLE)
def _exchanged(row: FloatArray, i: int, j: int) -> None:
    row[i], row[j] = row[j], row[i]


@_compiled(types.void, ROW, ROW, ROW, OUT)
def _third(over: FloatArray, second: FloatArray, third: FloatArray, out: FloatArray) -> None:
    """The third slot's law, as `slot_weights.laws_by_weights`, up to its sum."""
    n = len(third)
    f, w, t = over.copy(), second.copy(), third.copy()
    top = _argmax(t)
    _exchanged(f, 0, top)
    _exchanged(w, 0, top)
    _exchanged(t, 0, top)
    next_ = 1 + _argmax(t[1:])
    _exchanged(f, 1, next_)
    _exchanged(w, 1, next_)
    _exchanged(t, 1, next_)
    least = _sum_without(t, 0, 1)
    without_top = least + t[1]
    total = without_top + t[0]
    best = (f[0] * w[1] + f[1] * w[0]) / least
    held, rest = np.empty(n), np.empty(n)
    of_top, of_next, others = _pairs(f, w, t, total, without_top, held)
    whole = best + of_top + of_next + others
    rest[0], rest[1] = of_next + others, of_top + others
    for a in range(2, n):
        rest[a] = whole - held[a]
        if not rest[a] > SAFE * whole:  # what is left of a difference has too few digits
            f_a, w_a = f[a], w[a]
            f[a] = w[a] = 0.0
            of_top, of_next, others = _pairs(f, w, t, total, without_top, held.copy())
            rest[a] = (f[0] * w[1] + f[1] * w[0]) / least + of_top + of_next + others
            f[a], w[a] = f_a, w_a
    for a in range(n):
        out[a] = t[a] * rest[a]
    _exchanged(out, 1, next_)
    _exchanged(out, 0, top)


@_compiled(types.void, OUT)
def _normed(p: FloatArray) -> None:
    total = _sum_without(p, -1, -1)
    for i in range(len(p)):
        p[i] /= total


@_compiled(WHOLE, ROW, NUMBER)
def _drawn(w: FloatArray, u: float) -> int:
    """As `slot_laws.drawn`, from a uniform number."""
    total = 0.0
    for value in w:
        total += value
    at, sum_ = u * total, 0.0
    for i in range(len(w)):
        sum_ += w[i]
        if sum_ > at:
            return i
    return len(w) - 1


@_compiled(types.void, TABLE, ROW, ARMS, OUT_TABLE)
def _page(logs: FloatArray, u: FloatArray, arms: Arms, p: FloatArray) -> None:
    """Fills arms (K,) where they are below 0, and the law p (K, n)."""
    slots, n = logs.shape
    weights = np.empty((slots, n))
    for i in range(slots):
        _scaled(logs[i], i, weights[i])
    p[0] = weights[0]
    _normed(p[0])
    if slots > 1:
        left, over = np.empty(n), np.empty(n)
        _all_but_one(weights[1], left)
        for a in range(n):
            over[a] = p[0, a] / left[a]
        _all_but_one(over, left)
        for a in range(n):
            p[1, a] = weights[1, a] * left[a]
        _normed(p[1])
        if slots > 2:
            _third(over, weights[1], weights[2], p[2])
            _normed(p[2])
    for i in range(slots):
        if arms[i] < 0:
            for before in range(i):
                weights[i, arms[before]] = 0.0
            arms[i] = _drawn(weights[i], u[i])


@_compiled(types.Tuple((ARMS, OUT_TABLE)), TABLE, ROW)
def page_by_weights(logs: FloatArray, u: FloatArray) -> tuple[Arms, FloatArray]:
    """Arms (K,) drawn in turn by weights and their marginal probabilities (K, n), for K up to 3.

    Args:
        logs: (K, n) logarithms of weights, of the slots in the order in which they are filled; -inf is not eligible, at least K are.
        u: (K,) uniform numbers.
    """
    slots, n = logs.shape
    arms, p = np.full(slots, -1, np.int64), np.empty((slots, n))
    _page(logs, u, arms, p)
    return arms, p


@_compiled(OUT_TABLE, TABLES, TABLE, WHOLE[:, ::1])
def pages_by_weights(logs: FloatArray, u: FloatArray, arms: Arms) -> FloatArray:
    """(m, K) marginal probabilities of what m pages show; fills arms (m, K) where they are below 0. Logs (K, m, n), u (m, K)."""
    slots, m, n = logs.shape
    out, p, one = np.empty((m, slots)), np.empty((slots, n)), np.empty((slots, n))
    for row in range(m):
        for i in range(slots):
            one[i] = logs[i, row]
        _page(one, u[row], arms[row], p)
        for i in range(slots):
            out[row, i] = p[i, arms[row, i]]
    return out


@_compiled(NUMBER, NUMBER)
def _below(z: float) -> float:
    return max(0.5 * math.erfc(-z * math.sqrt(0.5)), LEAST_F)


@_compiled(ARMS, ROW, ROW, WHOLE)
def may_win(mean: FloatArray, sd: FloatArray, slots: int) -> Arms:
    """As `slot_laws.may_win`, for slots up to 3 and below the number of arms."""
    best = np.full(slots, np.inf)
    rivals = np.zeros(slots, np.int64)
    for i in range(len(mean)):
        value = 2.0 * sd[i] - mean[i]
        if value < best[slots - 1]:
            at = slots - 1
            while at > 0 and value < best[at - 1]:
                best[at], rivals[at] = best[at - 1], rivals[at - 1]
                at -= 1
            best[at], rivals[at] = value, i
    rival = rivals[slots - 1]
    m, s2 = mean[rival], sd[rival] * sd[rival]
    kept = np.empty(len(mean), np.int64)
    number = 0
    for i in range(len(mean)):
        if m - mean[i] <= PRUNE * math.sqrt(sd[i] * sd[i] + s2):
            kept[number] = i
            number += 1
    return kept[:number].copy()


@_compiled(types.UniTuple(NUMBER, 3), ROW, ROW, WHOLE)
def range_of(m: FloatArray, s: FloatArray, without: int) -> tuple[float, float, float]:
    """Ends of the integral for the largest of the arms, `without` (up to 2) of them gone, and the narrowest sd."""
    n = len(m)
    low = np.full(3, -np.inf)
    hi, narrow = -np.inf, np.inf
    for i in range(n):
        value = m[i] - REACH * s[i]
        if value > low[0]:
            low[2], low[1], low[0] = low[1], low[0], value
        elif value > low[1]:
            low[2], low[1] = low[1], value
        elif value > low[2]:
            low[2] = value
        hi = max(hi, m[i] + REACH * s[i])
        narrow = min(narrow, s[i])
    lo = low[min(without, n - 1)]
    if n < CROWD:
        return lo, hi, narrow
    sure = 0
    for share in COARSE:
        at, product = lo + (hi - lo) * share, 1.0
        least = np.ones(3)
        for i in range(n):
            F = _below((at - m[i]) / s[i])
            if least[0] > F:
                least[2], least[1], least[0] = least[1], least[0], F
            elif least[1] > F:
                least[2], least[1] = least[1], F
            elif least[2] > F:
                least[2] = F
            product *= F
        for gone in range(without):
            product /= least[gone]
        if not product < 1e-3 * MISSED:
            break
        sure += 1
    return lo + (hi - lo) * COARSE[max(sure - 1, 0)], hi, narrow


@_compiled(types.void, ROW, ROW, OUT, fastmath=_SUMS)
def _polynomial(coefficients: FloatArray, x: FloatArray, out: FloatArray) -> None:
    """Horner's rule for all of x at once, which processors do several at a time; the highest power first."""
    out[:] = coefficients[0]
    for j in range(1, len(coefficients)):
        c = coefficients[j]
        for i in range(len(x)):
            out[i] = out[i] * x[i] + c


@_compiled(types.void, ROW, OUT, OUT, OUT_TABLE, fastmath=_SUMS)
def _normal(z: FloatArray, f: FloatArray, F: FloatArray, work: FloatArray) -> None:
    """exp(-z^2/2) and the standard normal distribution function, to a relative 1e-13, several at a time.

    exp(x) = 2^k exp(r), |r| <= ln(2)/2, by Taylor's series; (1 + y) erfcx(y/sqrt 2)/2 as a polynomial of (y - 4)/(y + 4), y = |z|.
    """
    n = len(z)
    x: FloatArray
    x, r, value, power = work[0], work[1], work[2], work[3].view(np.int64)
    for i in range(n):
        x[i] = max(-0.5 * z[i] * z[i], -690.0)
        k = np.int32(x[i] * _LOG2_E - 0.5)
        r[i] = (x[i] - k * _LN2_HIGH) - k * _LN2_LOW
        power[i] = (np.int64(k) + 1023) << 52
    _polynomial(_EXP, r, value)
    scale = work[3]
    for i in range(n):
        f[i] = value[i] * scale[i]
        y = abs(z[i])
        x[i] = (y - 4.0) / (y + 4.0)
    _polynomial(_TAIL, x, value)
    for i in range(n):
        tail = f[i] * value[i] / (1.0 + abs(z[i]))
        F[i] = max(tail if z[i] < 0.0 else 1.0 - tail, LEAST_F)


@_compiled(OUT_TABLE, ROW, ROW, ROW, ROW, WHOLE, fastmath=_SUMS)
def ranks(u: FloatArray, weights: FloatArray, m: FloatArray, s: FloatArray, slots: int) -> FloatArray:
    """(K, n) as `slot_laws.ranks` for K up to 3, by the rule (u, weights) (q,)."""
    n, nodes = len(m), len(u)
    p, narrow = np.zeros((slots, n)), 1.0 / s
    z, all_G, all_odds = np.empty(nodes * n), np.empty(nodes * n), np.empty(nodes * n)
    for q in range(nodes):
        for a in range(n):
            z[q * n + a] = (u[q] - m[a]) * narrow[a]
    _normal(z, all_G, all_odds, np.empty((4, nodes * n)))
    for q in range(nodes):
        Qw = weights[q]
        G, odds = all_G[q * n : (q + 1) * n], all_odds[q * n : (q + 1) * n]
        for a in range(n):
            Qw *= odds[a]
            odds[a] = 1.0 / odds[a]
            G[a] *= narrow[a] * odds[a]
            odds[a] -= 1.0
        for a in range(n):
            G[a] *= Qw
            p[0, a] += G[a]
        if slots == 1:
            continue
        top = _argmax(odds)
        largest, of_top = odds[top], G[top]
        odds[top] = G[top] = 0.0
        one, squares = 0.0, 0.0
        for a in range(n):
            one += odds[a]
            squares += odds[a] * odds[a]
        for a in range(n):
            p[1, a] += G[a] * (one - odds[a] + largest)
        p[1, top] += of_top * one
        if slots > 2:
            two = 0.5 * (one * one - squares)
            for a in range(n):
                p[2, a] += G[a] * (two + (largest - odds[a]) * (one - odds[a]))
            p[2, top] += of_top * two
    for i in range(slots):
        for a in range(n):
            p[i, a] = max(p[i, a], 0.0)
        _normed(p[i])
    return p
