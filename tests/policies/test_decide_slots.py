"""Decisions for several slots by a snapshot: one slot is what `decide` does, and a day of requests keeps caps, floors and budgets."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy.special import expit

from policies.budgets import budget, charged, is_open, stepped
from policies.caps import Cap, Caps, hashed
from policies.decide import law
from policies.decide_slots import decide_slots, expectations
from policies.eligibility import Eligibility, Fields, rules_from
from policies.explorers import EXPLORERS, check
from policies.exposure import counted, exposure
from policies.model import make_model
from policies.offers import Terms
from policies.prior import BetaPrior
from policies.snapshot import Snapshot, build
from tests.policies.snapshots import two

X = np.array([1.0, 0.5, -0.25])
ONE = np.ones(1)


def by(explorer: str) -> Snapshot:
    """The snapshot of `tests.policies.snapshots` under an explorer."""
    return replace(two()[1], explorer=explorer, rates=check(explorer, {"epsilon": 0.02}))


@pytest.mark.parametrize("explorer", sorted(EXPLORERS))
def test_one_slot_has_the_law_of_one_decision(explorer: str) -> None:
    """For every explorer, to the quadrature's error."""
    snapshot = by(explorer)
    found = decide_slots(snapshot, X, kappa=ONE, rng=np.random.default_rng(1))
    assert found.allocation.probabilities[0] == pytest.approx(law(snapshot, X), abs=3e-6)
    assert found.snapshot == 2
    assert found.propensity_kind == "exact"


def test_contexts_of_slots_are_scored_each() -> None:
    """(K, d) gives each slot the scores of its own context; and one context those of all."""
    snapshot = by("ucb")
    contexts = np.array([X, -X])
    mean, sd = expectations(snapshot, contexts, None, slots=2)
    for slot in range(2):
        one = expectations(snapshot, contexts[slot], None, slots=2)
        assert mean[slot] == pytest.approx(one[0])
        assert sd[slot] == pytest.approx(one[1])


def test_logits_become_probabilities() -> None:
    """Worths of logistic arms are between 0 and the value."""
    snapshot = replace(by("thompson"), model="logistic")
    mean, sd = expectations(snapshot, X, None, slots=1)
    logit, width = expectations(by("thompson"), X, None, slots=1)
    assert mean == pytest.approx(expit(logit))
    assert sd == pytest.approx(expit(logit) * expit(-logit) * width)


def test_beta_arms_enter_by_mean_and_sd() -> None:
    """Without a context."""
    model = make_model("beta", dimension=0)
    make = partial(build, "front", model=model, version=1, previous=None, time_ms=0, now_ms=0)
    snapshot = make(sums={"a": model.zero(), "b": model.zero()}, prior=BetaPrior(a=1.0, b=3.0))
    found = decide_slots(snapshot, [], ("a", "b", "new"), kappa=np.ones(2), rng=np.random.default_rng(1))
    assert found.allocation.probabilities == pytest.approx(1 / 3, abs=1e-6)


@pytest.mark.parametrize(
    ("context", "kappa", "says"),
    [
        (X[:2], np.ones(2), "context has shape"),
        (np.ones((3, 3)), np.ones(2), "context has shape"),
        (X, np.ones(0), "above 0"),
    ],
)
def test_what_does_not_fit_is_refused(context: np.ndarray, kappa: np.ndarray, says: str) -> None:
    """With the shape that is needed."""
    with pytest.raises(ValueError, match=says):
        decide_slots(by("thompson"), context, kappa=kappa, rng=np.random.default_rng(1))


def test_a_day_of_requests_keeps_caps_floors_and_budgets() -> None:
    """In the order of the parts: eligibility, caps, budgets, floors, allocation; every rule is checked on what was shown."""
    snapshot, rng = by("thompson"), np.random.default_rng(3)
    names = (*snapshot.names, "x", "y", "z")
    n, cost, day_s = len(names), 0.1, 1000.0
    fields = Fields(arm=frozenset({"tags"}), slot=frozenset({"blocked"}))
    ads = [{"tags": ["games"]} if i % 2 else {} for i in range(n)]
    rules = Eligibility(rules_from([{"arm": "tags", "none_of": "slot.blocked"}], fields), arms=ads, fields=fields)
    caps, queues = Caps(Cap(limit=4, window_s=day_s)), exposure(np.full(n, 0.02))
    budgets = [budget(20.0, period_s=day_s, now_ms=0) for _ in names]
    seen: dict[tuple[int, str], int] = {}
    shown, total = np.zeros(n), 0
    for i in range(800):
        now, unit = i * 1000, hashed(str(i % 60))
        open_ = np.array([is_open(one, now_ms=now) for one in budgets])
        mask = rules.mask([{"blocked": ["games"]}, {}], {}) & caps.allowed(unit, names, now_ms=now) & open_
        terms = Terms(price=np.array([one.price * cost for one in budgets]), bonus=queues.bonus)
        found = decide_slots(
            snapshot, X, names, kappa=np.array([1.0, 0.6]), rng=rng, terms=terms, eligible=mask, reserve=-1.0
        )
        arms = [names.index(name) for name in found.arms if name is not None]
        assert len(set(arms)) == len(arms)
        assert found.arms[0] is None or not names.index(found.arms[0]) % 2
        assert all(0.0 < p <= 1.0 + 1e-9 for p in found.propensity)
        for arm in arms:
            seen[unit, names[arm]] = seen.get((unit, names[arm]), 0) + 1
            caps.shown(unit, names[arm], ts=now)
            budgets[arm] = charged(budgets[arm], cost, ts=now)
        queues = counted(queues, np.bincount(arms, minlength=n).astype(float), pbar=0.3)
        budgets = [stepped(one, now_ms=now, eta=5.0) for one in budgets]
        shown += np.bincount(arms, minlength=n)
        total += len(arms)
    assert max(seen.values()) <= 4
    assert max(one.spent for one in budgets) < 20.0 + cost
    assert (shown >= 0.02 * total - queues.low / (0.003 * 0.3) - 1e-6).all()
    assert total > 400
