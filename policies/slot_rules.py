"""The explorers in slots: what each one makes of an offer, one slot's probabilities, and many allocations drawn at once.

point    a score for each arm and slot, and the best allocation by it: epsilon-greedy (mean), UCB (mean + alpha sd),
         explore-first once it is greedy, Thompson sampling of no width.
normal   Thompson sampling: scores drawn from N(mean, alpha^2 sd^2); Student t and Beta arms enter by mean and sd.
weights  softmax, uncertainty sampling, explore-first while it is uniform: in turn, by the weights of the arms that are left.
gap      SquareCB: in turn, inverse gap weighting among the arms that are left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from policies.closed_forms import best
from policies.matching import EMPTY, Arms, Mask, Mode, assignments, solve
from policies.slot_gaps import gap_law
from policies.slot_laws import may_win
from policies.thompson import thompson

if TYPE_CHECKING:
    from policies.batch import FloatArray
    from policies.offers import Offer


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rule:
    """An explorer at one offer.

    Attributes:
        kind: see the module.
        at: (K, N) scores, means, or logarithms of weights.
        sd: (K, N) of "normal", above zero.
        gamma: (K,) of "gap", per worth.
    """

    kind: Literal["point", "normal", "weights", "gap"]
    at: FloatArray
    sd: FloatArray
    gamma: FloatArray


_NONE = np.zeros(0)


def rule_of(asked: Offer, explorer: str, rates: Mapping[str, float], *, count: float, noise_sd: float) -> Rule:
    """The rule of one of `policies.explorers.EXPLORERS` with complete rates."""
    M, S = asked.mean, asked.sd
    if explorer == "thompson" and rates["alpha"] > 0.0:
        wide = rates["alpha"] * S
        least = 1e-9 * float(wide.max())
        if least > 0.0:
            return Rule(kind="normal", at=M, sd=np.maximum(wide, least), gamma=_NONE)
    if explorer == "ucb":
        return Rule(kind="point", at=M + rates["alpha"] * S, sd=_NONE, gamma=_NONE)
    if explorer == "softmax":
        return Rule(kind="weights", at=M / rates["tau"], sd=_NONE, gamma=_NONE)
    if explorer == "uncertainty":
        return Rule(kind="weights", at=rates["power"] * np.log(np.maximum(S, 1e-300)), sd=_NONE, gamma=_NONE)
    if explorer == "explore-first" and count < rates["first"]:
        return Rule(kind="weights", at=np.zeros_like(M), sd=_NONE, gamma=_NONE)
    if explorer == "squarecb":
        unit = np.maximum(noise_sd * asked.scale, 1e-300)
        return Rule(kind="gap", at=M, sd=_NONE, gamma=rates["gamma_scale"] * math.sqrt(count) / unit)
    return Rule(kind="point", at=M, sd=_NONE, gamma=_NONE)


def one_slot(rule: Rule, slot: int, left: npt.NDArray[np.bool_]) -> FloatArray:
    """(..., N) probabilities of one slot, given the arms (..., N) that are left; zeros where none is."""
    at = rule.at[slot]
    p = np.zeros(left.shape)
    if not left.any():
        return p
    if rule.kind == "normal":
        where = left.nonzero()[0]
        p[where] = thompson(at[where], rule.sd[slot, where])
        return p
    if rule.kind == "point":
        return best(np.where(left, at, -np.inf)) * left
    if rule.kind == "weights":
        shifted = np.where(left, at, -np.inf)
        shifted -= shifted.max(axis=-1, keepdims=True, where=left, initial=-1e300)
        p = np.where(left, np.exp(np.maximum(shifted, -700.0)), 0.0)
        p /= np.maximum(p.sum(axis=-1, keepdims=True), 1e-300)
        return p
    return gap_law(at, left, float(rule.gamma[slot]))


def draw_many(rule: Rule, asked: Offer, *, mode: Mode, draws: int, rng: np.random.Generator, repeat: bool) -> Arms:
    """(J, K) independent allocations without the floor. Thompson sampling in turn draws scores anew for each slot."""
    if rule.kind == "normal" and mode != "sequential" and not repeat:
        return _jointly(rule, asked, mode, draws, rng)
    out = np.full((draws, len(asked.order)), EMPTY, np.intp)
    taken = np.zeros((draws, asked.eligible.shape[1]), bool)
    every = np.arange(draws)
    for slot in asked.order:
        left = asked.eligible[slot] & ~taken
        arm = _one_each(rule, int(slot), left, rng)
        some = left.any(axis=1)
        out[some, slot] = arm[some]
        if not repeat:
            taken[every[some], arm[some]] = True
    return out


def _one_each(rule: Rule, slot: int, left: Mask, rng: np.random.Generator) -> Arms:
    """(J,) arms of one slot, from those (J, N) that are left."""
    if rule.kind == "gap":
        cumulative = one_slot(rule, slot, left).cumsum(axis=1)
        at = rng.random((len(left), 1)) * cumulative[:, -1:]
        return np.asarray(np.minimum((cumulative <= at).sum(axis=1), left.shape[1] - 1), np.intp)
    scores = np.where(left, rule.at[slot], -np.inf)
    if rule.kind == "normal":
        scores += rule.sd[slot] * rng.standard_normal(left.shape)
    elif rule.kind == "weights":
        scores += rng.gumbel(size=left.shape)
    return np.asarray(scores.argmax(axis=1), np.intp)


def _jointly(rule: Rule, asked: Offer, mode: Mode, draws: int, rng: np.random.Generator) -> Arms:
    """One standard normal draw for each arm, the same in all slots."""
    where = contenders(rule.at, rule.sd, asked.eligible)
    if not len(where):
        return np.full((draws, len(asked.order)), EMPTY, np.intp)
    eligible = asked.eligible[:, where]
    z = rng.standard_normal((draws, 1, len(where)))
    scores = rule.at[:, where] + rule.sd[:, where] * z
    if mode == "assignment" and not asked.rank_one:
        arms = assignments(scores, eligible, reserve=asked.reserve)
    else:
        make = partial(solve, eligible=eligible, mode=mode, order=asked.order, rank_one=asked.rank_one)
        arms = np.array([make(one) for one in scores])
    return np.where(arms == EMPTY, EMPTY, where[arms])


def contenders(at: FloatArray, sd: FloatArray, eligible: Mask, *, alike: bool = False) -> Arms:
    """Arms that may be among the K best of some slot of (K, N), the first slot if all are `alike`."""
    slots, n = at.shape
    kept = np.zeros(n, bool)
    for slot in range(1 if alike else slots):
        some = eligible[slot].nonzero()[0]
        if len(some):
            kept[some[may_win(at[slot, some], sd[slot, some], slots=slots)]] = True
    return kept.nonzero()[0]
