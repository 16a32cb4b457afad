"""Thompson sampling in slots: how likely each arm is shown in each slot, over all that may happen in the others.

Thompson sampling, with draws N(m_a, s_a^2), densities f and distribution functions F; G_a = f_a/F_a, E_a = 1/F_a, Q = prod F:

ranks       one draw for each arm, the l-th largest goes to the l-th slot. Arm a has r arms above it with the probability
            int G_a Q e_r du, e_r the elementary symmetric polynomial of the odds (1 - F_b)/F_b of all but a.
in turn     new draws for each slot, over the arms that are left. Without the arms H, arm a wins with the probability
            int G_a Q prod_{h in H} E_h du, so sums over histories are products of matrices: two slots before at most.

Integrals by the rule of policies/thompson.py. "in turn" draws from what it computes, so that its probabilities are exact
by construction; with "ranks" the arms' scores are drawn, and the probabilities are those of the integral (error about 1e-6). F is
taken as at least 1e-60, which changes no probability by more than that. Explorers in closed form: policies/slot_weights.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from policies.closed_forms import normed
from policies.compiled import MOST_SLOTS, kernels
from policies.thompson import CROWD, FEW, MISSED, PRUNE, REACH, STEP, breakpoints, gauss_legendre, unit_rule

if TYPE_CHECKING:
    from policies.batch import FloatArray

Arms = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]

LEAST_F = 1e-60
COARSE = np.linspace(0.0, 1.0, 9)
_OFFSETS = np.array([-6.0, -4.5, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.5, 6.0])
_ROOT_TWO_PI = np.sqrt(2.0 * np.pi)


def drawn(p: FloatArray, rng: np.random.Generator) -> int:
    """Index drawn from p (N,), which need not sum to one."""
    return at_share(p, rng.random())


def at_share(p: FloatArray, u: float) -> int:
    """Index at which the sum of p (N,) passes the share u."""
    cumulative = p.cumsum()
    return min(int(cumulative.searchsorted(u * cumulative[-1], side="right")), len(p) - 1)


def may_win(mean: FloatArray, sd: FloatArray, *, slots: int) -> Arms:
    """Indices of the arms of (N,) that may be among the best `slots`: see `policies.thompson.contenders`.

    >>> may_win(np.array([0.0, 1.0, 0.9]), np.full(3, 0.1), slots=1).tolist()
    [1, 2]
    """
    if slots >= len(mean):
        return np.arange(len(mean))
    fast = kernels()
    if fast is not None and slots <= MOST_SLOTS:
        found: Arms = fast.may_win(_plain(mean), _plain(sd), slots)
        return found
    rival = int(np.argpartition(2.0 * sd - mean, slots - 1)[slots - 1])
    kept: Mask = mean[rival] - mean <= PRUNE * np.sqrt(sd * sd + sd[rival] * sd[rival])
    return kept.nonzero()[0]


def _rule(m: FloatArray, s: FloatArray, without: int) -> tuple[FloatArray, FloatArray]:
    """Nodes and weights (q,) for the largest of the arms, `without` of them gone."""
    fast = kernels()
    if fast is not None and without < MOST_SLOTS:
        lo, hi, narrow = fast.range_of(_plain(m), _plain(s), without)
    else:
        lo, hi, narrow = _range(m, s, without)
    steps = (hi - lo) / (STEP * narrow)
    if steps >= FEW:
        edges = breakpoints((m[:, None] + s[:, None] * _OFFSETS).ravel(), lo, hi)
        if steps >= len(edges) - 1:
            return gauss_legendre(edges)
    u, weights = unit_rule(int(np.ceil(steps)))
    return lo + (hi - lo) * u, (hi - lo) * weights


def _range(m: FloatArray, s: FloatArray, without: int) -> tuple[float, float, float]:
    """Ends of the integral and the narrowest sd."""
    low = m - REACH * s
    place = len(m) - 1 - min(without, len(m) - 1)
    lo, hi = float(np.partition(low, place)[place]), float((m + REACH * s).max())
    return _raised(m, s, lo, hi, without) if len(m) >= CROWD else lo, hi, float(s.min())


def _raised(m: FloatArray, s: FloatArray, lo: float, hi: float, without: int) -> float:
    """A higher lower end, where more than `without` of the arms lie above but with a chance of MISSED (n^without/1000 at most of it)."""
    F = ndtr((lo + (hi - lo) * COARSE - m[:, None]) / s[:, None])
    every = np.arange(F.shape[1])
    for _ in range(without):
        F[F.argmin(axis=0), every] = 1.0
    sure = int(np.count_nonzero(F.prod(axis=0) < 1e-3 * MISSED))
    return lo + (hi - lo) * float(COARSE[max(sure - 1, 0)])


class _Grid:
    """G, E (n, q) and the weights times Q (q,) of n arms; E is 1 and G 0 for arms that do not take part."""

    def __init__(self, m: FloatArray, s: FloatArray, *, without: int, eligible: Mask | None = None) -> None:
        part = (m, s) if eligible is None or eligible.all() else (m[eligible], s[eligible])
        u, weights = _rule(*part, without)
        z = (u - part[0][:, None]) / part[1][:, None]
        F = np.maximum(ndtr(z), LEAST_F)
        self.Qw = F.prod(axis=0) * weights
        z *= z
        z *= -0.5
        np.exp(z, out=z)
        z /= F
        z /= part[1][:, None] * _ROOT_TWO_PI
        self.F, self.G, self.E = F, z, 1.0 / F
        if part[0] is not m and eligible is not None:
            G, E = np.zeros((len(m), len(u))), np.ones((len(m), len(u)))
            G[eligible], E[eligible] = self.G, self.E
            self.G, self.E = G, E


def ranks(mean: FloatArray, sd: FloatArray, *, slots: int) -> FloatArray:
    """(K, n) probability that arm a's draw is the l-th largest, of N(mean, sd^2) with every sd above zero, K <= n.

    >>> ranks(np.array([0.0, 1.0]), np.ones(2), slots=2).round(5).tolist()  # Phi(-1/sqrt 2) = 0.23975
    [[0.23975, 0.76025], [0.76025, 0.23975]]
    """
    fast = kernels()
    if fast is not None and slots <= MOST_SLOTS:
        u, weights = _rule(mean, sd, slots - 1)
        found: FloatArray = fast.ranks(u, weights, _plain(mean), _plain(sd), slots)
        return found
    return ranks_by_arrays(mean, sd, slots=slots)


def ranks_by_arrays(mean: FloatArray, sd: FloatArray, *, slots: int) -> FloatArray:
    """`ranks` by numpy alone."""
    grid = _Grid(mean, sd, without=slots - 1)
    terms, odds = grid.G * grid.Qw, grid.E - 1.0
    above = _few_above(odds, slots) if slots <= MOST_SLOTS else _above(odds, slots)
    return normed(np.array([np.einsum("aq,aq->a", terms, one) for one in above]))


def _plain(row: FloatArray) -> FloatArray:
    """As compiled functions take it."""
    return np.ascontiguousarray(row, np.float64)


def _few_above(odds: FloatArray, degrees: int) -> list[FloatArray]:
    """`_above` up to degree 2: differences, but for the largest odds of a node, beside which the others would vanish."""
    top, node = odds.argmax(axis=0), np.arange(odds.shape[1])
    others = odds.copy()
    others[top, node] = 0.0
    others = others.sum(axis=0)
    one = others + odds[top, node] - odds
    one[top, node] = others
    two = odds * one
    return [np.ones_like(odds), one, 0.5 * two.sum(axis=0) - two][:degrees]


def _above(odds: FloatArray, degrees: int) -> list[FloatArray]:
    """(n, q) elementary symmetric polynomials of degree 0, 1, ... of all odds but each: sums of positive terms."""
    before = _symmetric(odds, degrees)
    after = [part[::-1] for part in _symmetric(odds[::-1], degrees)]
    return [np.sum([before[i] * after[r - i] for i in range(r + 1)], axis=0) for r in range(degrees)]


def _symmetric(odds: FloatArray, degrees: int) -> list[FloatArray]:
    """(n, q) elementary symmetric polynomials of degree 0, 1, ... of the odds in the rows before each."""
    out = [np.ones_like(odds)]
    for _ in range(1, degrees):
        part = np.zeros_like(odds)
        np.cumsum((odds * out[-1])[:-1], axis=0, out=part[1:])
        out.append(part)
    return out


def normals_in_turn(
    mean: FloatArray, sd: FloatArray, eligible: Mask, *, rng: np.random.Generator, alike: bool = False
) -> tuple[Arms, FloatArray]:
    """Arms (K,) drawn in turn and their marginal probabilities (K, n), for K up to 3.

    Args:
        mean, sd: (K, n) of the slots in the order in which they are filled, every sd above zero.
        eligible: (K, n) with at least K arms in each slot.
        rng: advanced by K draws.
        alike: all slots have the same mean, sd and eligible arms.

    >>> arms, p = normals_in_turn(np.zeros((2, 3)), np.ones((2, 3)), np.ones((2, 3), bool), rng=np.random.default_rng(1))
    >>> p.round(6).tolist()
    [[0.333333, 0.333333, 0.333333], [0.333333, 0.333333, 0.333333]]
    """
    slots = len(mean)
    if alike:
        grids = [_Grid(mean[0], sd[0], without=slots - 1, eligible=eligible[0])] * slots
    else:
        grids = [_Grid(mean[i], sd[i], without=i, eligible=eligible[i]) for i in range(slots)]
    p = np.empty(mean.shape)
    p[0] = grids[0].G @ grids[0].Qw
    p[0] /= p[0].sum()
    arms = np.empty(slots, np.intp)
    arms[0] = drawn(p[0], rng)
    if slots > 1:
        second = (grids[1].E * grids[1].Qw) @ grids[1].G.T
        np.fill_diagonal(second, 0.0)
        second /= second.sum(axis=1, keepdims=True)
        arms[1] = drawn(second[arms[0]], rng)
        p[1] = p[0] @ second
    if slots > 2:
        third = grids[2]
        p[2] = _after_two(third, p[0][:, None] * second)
        left = third.G @ (third.Qw * third.E[arms[0]] * third.E[arms[1]])
        left[arms[:2]] = 0.0
        arms[2] = drawn(left, rng)
    return arms, p


def _after_two(grid: _Grid, before: FloatArray) -> FloatArray:
    """(n,) probabilities of the third slot, of those (n, n) of the first two; the diagonal is zero.

    With V = before / (what is left of the integral without both), the sum over b, c != a of V_bc E_b E_c.
    """
    G, E, Qw = grid.G, grid.E, grid.Qw
    EG = E * G
    one = (EG * Qw) @ E.T
    left = (E * (Qw * G.sum(axis=0))) @ E.T
    left -= one
    left -= one.T
    V = np.divide(before, left, out=np.zeros_like(before), where=left > 0.0)
    np.fill_diagonal(V, 0.0)
    Y = V @ E
    both = (Y * E).sum(axis=0)
    Y += V.T @ E
    Y *= E
    p: FloatArray = np.maximum(np.einsum("aq,aq->a", G * Qw, both - Y), 0.0)
    return normed(p)
