"""Allocation of arms to slots: one request, K slots, N candidates, and the probabilities of what is shown.

Order: eligibility (policies/eligibility.py), frequency caps (caps.py), budgets (budgets.py: closed ones leave, open ones
have a price), exposure floors (exposure.py: a bonus); these make the offer (offers.py). Then the assignment under the explorer's randomness
(slot_rules.py), and over it the floor: with probability epsilon the whole request is filled at random, slot by slot from
the eligible arms that are left. No arm is shown twice unless `repeat`.

**What is logged.** For each slot the *marginal* probability that its arm is shown in it, all that may happen in the other
slots summed or averaged over, as `propensity`; with `propensity_kind`:

exact     "marginal": by a formula or a sum over histories (slot_marginals.py). All explorers with one slot, or whose allocation is
          certain but for the floor; softmax, uncertainty sampling, SquareCB and Thompson sampling in turn up to 3 slots; Thompson sampling by
          assignment where sorting solves it, for any number of slots.
exact     "mixture", for the rest: J allocations are drawn and one of them, picked evenly, is shown, so that given the J the
          probability of an arm in a slot is the share of the J that have it there. Nothing is estimated: 1/p is unbiased whatever J
          is, as p is the law that the arm was drawn from. A finite J costs variance, not bias, and arms that none of the
          J shows are reached by the floor alone: epsilon must be above zero for evaluation.
estimate  "estimate", only if asked for: the share of J *other* allocations. Unbiased for p, but 1/p is not: an arm that is shown with p
          = 0.02 appears in none of 32 draws every other time, and then weighs as if only the floor showed it.

The *conditional* probability given the arms in the slots before (`conditional`) is exact as well and cheaper, but evaluating with it
answers another question: where arm a already stands in an earlier slot it cannot be shown, so the mean of 1{a in l} r/p is
r(a) P(a not before l), not r(a). Measured by benchmarks/allocation.py (3 slots, 12 arms, floor of 5%, J = 32; a narrower policy's value
from logs of Thompson sampling in turn): standard deviation of a row in units of the value 1.45 marginal, 1.58 mixture, 3.97 estimate, 1.35
conditional; bias none in the first two, +35% and -9% in the others. So the first two are logged as exact, and the others are not logged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from policies.explorers import NO_RATES, check
from policies.matching import EMPTY, MODES, Arms, Mode
from policies.positions import swapped, swapped_law
from policies.slot_marginals import marginal
from policies.slot_rules import Rule, draw_many, one_slot, rule_of
from policies.slot_weights import uniform

if TYPE_CHECKING:
    from policies.batch import FloatArray
    from policies.decide import Kind
    from policies.offers import Offer

Method = Literal["marginal", "mixture", "estimate"]

DRAWS = 32
"""J, allocations that a mixture is made of."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Allocation:
    """What is shown, and the law that it came from.

    Attributes:
        arms: (K,) index of the arm in each slot, EMPTY (-1) where no eligible arm was left.
        propensity: (K,) marginal probability of each; of an empty slot, that it stays empty.
        propensity_kind: see the module.
        method: how it was computed.
        probabilities: (K, N) marginal probability of every arm in every slot.
    """

    arms: Arms
    propensity: FloatArray
    propensity_kind: Kind
    method: Method
    probabilities: FloatArray


def allocate(
    asked: Offer,
    *,
    explorer: str = "thompson",
    rates: Mapping[str, float] = NO_RATES,
    mode: Mode = "assignment",
    rng: np.random.Generator,
    count: float = 0.0,
    noise_sd: float = 1.0,
    method: Method | None = None,
    draws: int = DRAWS,
    repeat: bool = False,
) -> Allocation:
    """Fill the slots of an offer.

    Args:
        asked: see `policies.offers.offer`.
        explorer, rates: see `policies.explorers.EXPLORERS`; tau is in units of worth.
        mode: see `policies.matching`. Thompson sampling draws an arm's score once for all slots, but in the mode "sequential" anew for
            each; the other random explorers fill slots in turn in any mode.
        rng: advanced.
        count, noise_sd: of the snapshot.
        method: None is "marginal" where there is a formula, "mixture" elsewhere.
        draws: J of a mixture or an estimate.
        repeat: whether an arm may stand in several slots; these are then drawn independently.

    Raises:
        ValueError: unknown mode, explorer or rate, or no formula for "marginal".

    >>> from policies.offers import offer
    >>> asked = offer(np.array([0.1, 0.3, 0.2]), np.zeros(3), kappa=np.array([0.5, 1.0]))
    >>> shown = allocate(asked, explorer="epsilon-greedy", rates={"epsilon": 0.03}, rng=np.random.default_rng(1))
    >>> shown.arms.tolist(), shown.propensity.round(4).tolist(), shown.propensity_kind
    ([2, 1], [0.98, 0.98], 'exact')
    """
    if mode not in MODES:
        raise ValueError(f"mode = {mode!r}: must be one of {', '.join(MODES)}")
    complete = check(explorer, rates)
    rule = rule_of(asked, explorer, complete, count=count, noise_sd=noise_sd)
    epsilon = complete["epsilon"]
    found = marginal(rule, asked, mode=mode, repeat=repeat, rng=rng) if method in (None, "marginal") else None
    if found is None:
        if method == "marginal":
            raise ValueError(
                f"explorer {explorer!r}, mode {mode!r}, {len(asked.order)} slots: there is no formula for the marginal "
                "probabilities; leave method out, or give 'mixture'"
            )
        method = "estimate" if method == "estimate" else "mixture"
        found = _averaged(rule, asked, mode, method, draws, repeat, rng)
    arms, p = found
    if epsilon > 0.0:
        even = _even(asked, repeat)
        p = (1.0 - epsilon) * p + epsilon * even
        if rng.random() < epsilon:
            arms = _at_random(asked, repeat, rng)
    return Allocation(
        arms=arms,
        propensity=_of(p, arms),
        propensity_kind="estimate" if method == "estimate" else "exact",
        method=method or "marginal",
        probabilities=p,
    )


def conditional(
    asked: Offer,
    arms: Arms,
    *,
    explorer: str,
    rates: Mapping[str, float] = NO_RATES,
    count: float = 0.0,
    noise_sd: float = 1.0,
) -> FloatArray:
    """(K,) probability of each slot's arm given the arms in the slots filled before it, for the mode "sequential".

    >>> from policies.offers import offer
    >>> asked = offer(np.zeros(3), np.ones(3), kappa=np.ones(2))
    >>> conditional(asked, np.array([2, 0]), explorer="thompson").round(6).tolist()
    [0.333333, 0.5]
    """
    complete = check(explorer, rates)
    rule = rule_of(asked, explorer, complete, count=count, noise_sd=noise_sd)
    epsilon = complete["epsilon"]
    left = asked.eligible.copy()
    by_rule, even, out = 1.0, 1.0, np.ones(len(arms))
    for slot in asked.order:
        arm = arms[slot]
        if arm == EMPTY:
            continue
        before = (1.0 - epsilon) * by_rule + epsilon * even
        by_rule *= float(one_slot(rule, int(slot), left[slot])[arm])
        even /= np.count_nonzero(left[slot])
        out[slot] = ((1.0 - epsilon) * by_rule + epsilon * even) / before
        left[:, arm] = False
    return out


def swap(shown: Allocation, share: float, rng: np.random.Generator) -> Allocation:
    """The allocation after `policies.positions.swapped`, with the probabilities that it then has.

    >>> from policies.offers import offer
    >>> asked, rng = offer(np.array([0.1, 0.3]), np.zeros(2), kappa=np.array([1.0, 0.5])), np.random.default_rng(1)
    >>> best = allocate(asked, explorer="epsilon-greedy", rates={"epsilon": 0.0}, rng=rng)
    >>> swap(best, 0.1, rng).probabilities.round(4).tolist()
    [[0.1, 0.9], [0.9, 0.1]]
    """
    arms, p = swapped(shown.arms, share=share, rng=rng), swapped_law(shown.probabilities, share=share)
    return replace(shown, arms=arms, propensity=_of(p, arms), probabilities=p)


def _of(p: FloatArray, arms: Arms) -> FloatArray:
    """(K,) probabilities of what is shown."""
    found: FloatArray = p[np.arange(len(arms)), arms]
    empty = arms == EMPTY
    if empty.any():
        found[empty] = 1.0 - p[empty].sum(axis=1)
    return found


def _even(asked: Offer, repeat: bool) -> FloatArray:
    if repeat:
        return np.array([uniform(row[None])[0] for row in asked.eligible])
    return uniform(asked.eligible[asked.order])[np.argsort(asked.order)]


def _at_random(asked: Offer, repeat: bool, rng: np.random.Generator) -> Arms:
    """(K,) arms in turn, any eligible one that is left."""
    left = asked.eligible.copy()
    arms = np.full(len(left), EMPTY, np.intp)
    for slot in asked.order:
        some = left[slot].nonzero()[0]
        if len(some):
            arms[slot] = some[rng.integers(len(some))]
            if not repeat:
                left[:, arms[slot]] = False
    return arms


def _averaged(
    rule: Rule,
    asked: Offer,
    mode: Mode,
    method: Method,
    draws: int,
    repeat: bool,
    rng: np.random.Generator,
) -> tuple[Arms, FloatArray]:
    """One of J allocations and their mean; for an estimate, one more and the mean of the others."""
    other = int(method == "estimate")
    many = draw_many(rule, asked, mode=mode, draws=draws + other, rng=rng, repeat=repeat)
    picked = many[0] if other else many[rng.integers(draws)]
    slots, n = asked.mean.shape
    p = np.empty((slots, n))
    for slot in range(slots):
        column = many[other:, slot]
        p[slot] = np.bincount(column[column != EMPTY], minlength=n) / draws
    return picked, p
