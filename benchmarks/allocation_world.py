"""A world of requests for slots with budgets, and the best that can be had of it: a linear program.

Requests are of C kinds, each with its own click probabilities for N arms; the arms' impressions cost, and campaigns of two arms have
budgets. As requests of one kind are alike, the offline optimum over T of them needs one variable for each kind, slot and arm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

if TYPE_CHECKING:
    from policies.batch import FloatArray, IntArray

KAPPA = np.array([1.0, 0.6, 0.35])
KINDS, ARMS, PER_CAMPAIGN = 200, 30, 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class World:
    """theta (C, N) click probabilities, value (N,) of a click, cost (N,) of an impression, budget (B,), request (T,) kinds."""

    theta: FloatArray
    value: FloatArray
    cost: FloatArray
    budget: FloatArray
    request: IntArray

    @property
    def campaign(self) -> IntArray:
        """(N,) campaign of each arm."""
        return np.arange(len(self.value)) // PER_CAMPAIGN

    def worth(self, kind: int) -> FloatArray:
        """(K, N) expected value of an impression."""
        out: FloatArray = np.outer(KAPPA, self.value * self.theta[kind])
        return out


def world(seed: int, *, requests: int, share: float = 0.4) -> World:
    """Budgets of `share` of what would be spent without any, campaign by campaign, so that many run out early."""
    rng = np.random.default_rng(seed)
    base = rng.normal(-3.0, 0.4, ARMS)
    theta = 1.0 / (1.0 + np.exp(-(base + rng.normal(0.0, 0.7, (KINDS, ARMS)))))
    value, cost = rng.uniform(0.5, 1.5, ARMS), rng.uniform(0.005, 0.02, ARMS)
    request = rng.integers(0, KINDS, requests)
    made = World(theta=theta, value=value, cost=cost, budget=np.full(ARMS // PER_CAMPAIGN, np.inf), request=request)
    wanted = np.zeros(ARMS)
    for kind, number in enumerate(np.bincount(request, minlength=KINDS)):
        wanted[np.argsort(-made.worth(kind)[0])[: len(KAPPA)]] += number
    spent = np.bincount(made.campaign, wanted * cost)
    budget = np.maximum(share * spent, 0.1 * share * spent.mean())
    return World(theta=theta, value=value, cost=cost, budget=budget, request=request)


def optimum(made: World) -> float:
    """Largest total value within the budgets, fractions of impressions allowed: no policy has more."""
    number = np.bincount(made.request, minlength=KINDS).astype(float)
    slots, size = len(KAPPA), KINDS * len(KAPPA) * ARMS
    kind, slot, arm = (part.ravel() for part in np.indices((KINDS, slots, ARMS)))
    one, every = np.ones(size), np.arange(size)
    in_slot = sparse.csr_matrix((one, (kind * slots + slot, every)))
    of_arm = sparse.csr_matrix((one, (kind * ARMS + arm, every)))
    of_campaign = sparse.csr_matrix((made.cost[arm], (made.campaign[arm], every)))
    found = linprog(
        -(KAPPA[slot] * made.value[arm] * made.theta[kind, arm]),
        A_ub=sparse.vstack([in_slot, of_arm, of_campaign]),
        b_ub=np.concatenate([np.repeat(number, slots), np.repeat(number, ARMS), made.budget]),
        method="highs",
    )
    assert found.success, found.message
    return -float(found.fun)
