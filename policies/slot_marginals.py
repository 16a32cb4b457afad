"""Marginal probabilities of an offer under a rule, where there is a formula: what is certain, one slot, ranks, slots in turn.

The formulas are in policies/slot_laws.py, slot_weights.py and slot_gaps.py; here arms that cannot win are left out before, and
slots are brought into the order in which they are filled.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from policies.matching import EMPTY, Arms, Mode, solve
from policies.slot_gaps import gaps_in_turn
from policies.slot_laws import drawn, may_win, normals_in_turn, ranks
from policies.slot_rules import Rule, contenders, one_slot
from policies.slot_weights import weights_in_turn

if TYPE_CHECKING:
    from policies.batch import FloatArray
    from policies.offers import Offer

HISTORIES = 3
"""Slots up to which sums over histories are cheap: they are products of (arms, arms) matrices."""
MANY = 128
"""Arms that may win above which they are not."""


def marginal(
    rule: Rule, asked: Offer, *, mode: Mode, repeat: bool, rng: np.random.Generator
) -> tuple[Arms, FloatArray] | None:
    """Arms (K,) and exact probabilities (K, N), without the floor; None where there is no formula.

    >>> from policies.offers import offer
    >>> from policies.slot_rules import rule_of
    >>> asked = offer(np.array([0.1, 0.3]), np.zeros(2), kappa=np.array([0.5, 1.0]))
    >>> rule = rule_of(asked, "epsilon-greedy", {"epsilon": 0.0}, count=0.0, noise_sd=1.0)
    >>> marginal(rule, asked, mode="sort", repeat=False, rng=np.random.default_rng(1))[1].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    slots = len(asked.order)
    if rule.kind == "point":
        return _certain(rule, asked, mode, repeat, rng)
    if repeat or slots == 1:
        p = np.array([one_slot(rule, slot, asked.eligible[slot]) for slot in range(slots)])
        return np.array([drawn(row, rng) if row.any() else EMPTY for row in p], np.intp), p
    numbers = None if asked.full and slots <= asked.mean.shape[1] else np.count_nonzero(asked.eligible, axis=1)
    if numbers is not None and numbers.min() < slots:
        few = bool(numbers.any()) and bool((asked.eligible == asked.eligible[0]).all())
        return _first_ones(rule, asked, int(numbers[0]), mode, rng) if few else None
    if rule.kind == "normal" and mode != "sequential":
        return _ranked(rule, asked, rng) if asked.rank_one else None
    if slots > HISTORIES:
        return None
    return _in_turn(rule, asked, rng)


def _first_ones(
    rule: Rule, asked: Offer, number: int, mode: Mode, rng: np.random.Generator
) -> tuple[Arms, FloatArray] | None:
    """All slots may show the same arms, of which there are fewer than slots: the first ones are filled, the others stay empty."""
    kept = asked.order[:number]
    part = replace(
        asked,
        mean=asked.mean[kept],
        sd=asked.sd[kept],
        eligible=asked.eligible[kept],
        full=False,
        order=np.arange(number),
        kappa=asked.kappa[kept],
    )
    of = replace(
        rule,
        at=rule.at[kept],
        sd=rule.sd[kept] if len(rule.sd) else rule.sd,
        gamma=rule.gamma[kept] if len(rule.gamma) else rule.gamma,
    )
    found = marginal(of, part, mode=mode, repeat=False, rng=rng)
    if found is None:
        return None
    arms, p = np.full(len(asked.order), EMPTY, np.intp), np.zeros(asked.mean.shape)
    arms[kept], p[kept] = found
    return arms, p


def _certain(
    rule: Rule,
    asked: Offer,
    mode: Mode,
    repeat: bool,
    rng: np.random.Generator,
) -> tuple[Arms, FloatArray]:
    """The best allocation; arms that are alike in every slot share its places evenly."""
    arms = solve(
        rule.at,
        asked.eligible,
        mode=mode,
        order=asked.order,
        rank_one=asked.rank_one,
        repeat=repeat,
        reserve=asked.reserve,
    )
    p = np.zeros(rule.at.shape)
    filled = (arms != EMPTY).nonzero()[0]
    p[filled, arms[filled]] = 1.0
    known: dict[int, Arms] = {}
    for slot in filled:
        arm = int(arms[slot])
        if np.count_nonzero(rule.at[slot] == rule.at[slot, arm]) == 1:
            continue
        alike = ((rule.at == rule.at[:, arm, None]) & (asked.eligible == asked.eligible[:, arm, None])).all(axis=0)
        group = alike.nonzero()[0]
        if len(group) > 1:
            p[slot] = alike / len(group)
            known.setdefault(int(group[0]), rng.permutation(group))
            turn = known[int(group[0])]
            arms[slot] = turn[rng.integers(len(turn))] if repeat else turn[0]
            known[int(group[0])] = turn if repeat else turn[1:]
    return arms, p


def _ranked(rule: Rule, asked: Offer, rng: np.random.Generator) -> tuple[Arms, FloatArray]:
    """One draw for each arm, sorted into the slots."""
    first, slots = int(asked.order[0]), len(asked.order)
    where = asked.eligible[first].nonzero()[0]
    m, s = rule.at[first, where], rule.sd[first, where]
    kept = may_win(m, s, slots=slots)
    m, s, where = m[kept], s[kept], where[kept]
    score = m + s * rng.standard_normal(len(m))
    arms = np.empty(slots, np.intp)
    arms[asked.order] = where[np.argsort(-score)[:slots]]
    p = np.zeros(rule.at.shape)
    p[asked.order[:, None], where] = ranks(m, s, slots=slots)
    return arms, p


def _in_turn(rule: Rule, asked: Offer, rng: np.random.Generator) -> tuple[Arms, FloatArray] | None:
    """New draws for each slot, by sums over histories."""
    order, normal = asked.order, rule.kind == "normal"
    if rule.kind == "weights":
        if rule.at.shape[1] > MANY:
            return None
        if asked.full and order.tolist() == list(range(len(order))):
            return weights_in_turn(rule.at, None, rng=rng)
        at, back = rule.at[order], order.argsort()
        arms, p = weights_in_turn(at, None if asked.full else asked.eligible[order], rng=rng)
        return arms[back], p[back]
    at, eligible = rule.at[order], asked.eligible[order]
    where = np.arange(at.shape[1])
    if normal:
        sd = rule.sd[order]
        where = contenders(at, sd, eligible, alike=asked.rank_one)
        sd = sd[:, where]
    if len(where) > MANY:
        return None
    at, eligible = at[:, where], eligible[:, where]
    if normal:
        arms, part = normals_in_turn(at, sd, eligible, rng=rng, alike=asked.rank_one)
    else:
        arms, part = gaps_in_turn(at, rule.gamma[order], eligible, rng=rng)
    out, p = np.empty(len(order), np.intp), np.zeros(rule.at.shape)
    out[order] = where[arms]
    p[order[:, None], where] = part
    return out, p
