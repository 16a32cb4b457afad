"""Decisions: drawn with the propensity that is logged, and a function of snapshot, context, candidates and generator."""

from __future__ import annotations

import numpy as np
import pytest

from policies.decide import decide, law
from policies.explorers import EXPLORERS, probabilities
from policies.model import make_model
from policies.prior import BetaPrior
from policies.snapshot import Snapshot, build
from policies.snapshot_records import unpack_lower
from tests.policies.snapshots import PRIOR, only, two, two_sums

X = np.array([0.5, -1.0, 0.25])
CANDIDATES = ("a", "b", "new")
RATES = {
    "thompson": {"alpha": 0.7, "epsilon": 0.1},
    "ucb": {"alpha": 0.7, "epsilon": 0.1},
    "epsilon-greedy": {"epsilon": 0.1},
    "softmax": {"tau": 0.3, "epsilon": 0.1},
    "squarecb": {"gamma_scale": 0.7, "epsilon": 0.1},
    "explore-first": {"first": 50.0, "epsilon": 0.1},
    "uncertainty": {"power": 2.0, "epsilon": 0.1},
}


def snapshot(model: str, explorer: str) -> Snapshot:
    """A snapshot of arms a to d."""
    learned = make_model(model, dimension=3)
    _, sums = two_sums(learned)
    prior = BetaPrior(a=1.0, b=3.0) if model == "beta" else PRIOR
    return build(
        "front",
        model=learned,
        sums=sums,
        prior=prior,
        version=4,
        previous=None,
        time_ms=0,
        now_ms=0,
        explorer=explorer,
        rates=RATES[explorer],
    )


def test_decisions_follow_their_propensities() -> None:
    """The logged propensity is the share with which an arm is drawn, an unknown arm's too."""
    _, second = two()
    rng = np.random.default_rng(13)
    p = law(second, X, CANDIDATES)
    drawn = [decide(second, X, CANDIDATES, rng=rng) for _ in range(4000)]
    share = np.array([sum(one.arm == name for one in drawn) for name in CANDIDATES]) / len(drawn)
    assert np.abs(share - p).max() < 0.035
    assert all(one.propensity == p[one.candidates.index(one.arm)] for one in drawn[:50])
    assert (drawn[0].snapshot, drawn[0].candidates) == (2, CANDIDATES)


@pytest.mark.parametrize("explorer", EXPLORERS)
def test_the_law_is_the_explorers_at_the_posterior(explorer: str) -> None:
    """Mean x^T m and width ||W x|| of each candidate, of the prior for an arm that nobody has seen."""
    front = snapshot("linear", explorer)
    mean, sd = [], []
    for name in CANDIDATES:
        arm = front.arms.get(name)
        weights = PRIOR.mean if arm is None else arm.mean  # type: ignore[union-attr]
        factor = np.diag(np.sqrt(PRIOR.tau2)) if arm is None else unpack_lower(arm.factor, 3)  # type: ignore[union-attr]
        mean.append(float(X @ weights))
        sd.append(float(np.linalg.norm(factor @ X)))
    count = 90.0 + len(only(0))
    expected = probabilities(
        np.array(mean), np.array(sd), explorer=explorer, rates=RATES[explorer], count=count, noise_sd=0.5
    )
    assert law(front, X, CANDIDATES) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("model", ["linear", "beta"])
@pytest.mark.parametrize("explorer", EXPLORERS)
def test_a_decision_can_be_replayed(model: str, explorer: str) -> None:
    """The same generator draws the same arm; another seed, sooner or later, another."""
    front = snapshot(model, explorer)
    arms = [decide(front, X, rng=np.random.default_rng(seed)).arm for seed in range(60)]
    assert arms == [decide(front, X, rng=np.random.default_rng(seed)).arm for seed in range(60)]
    assert len(set(arms)) > 1


@pytest.mark.parametrize("explorer", EXPLORERS)
def test_the_order_and_number_of_candidates_do_not_change_an_arms_score(explorer: str) -> None:
    """Few candidates go another way through the arrays than many: the laws agree."""
    front = snapshot("linear", explorer)
    all_four = law(front, X, ("d", "c", "b", "a"))
    assert law(front, X) == pytest.approx(all_four[::-1], abs=2e-6)
    assert law(front, X, ("c",)).tolist() == [1.0]


def test_laws_of_beta_arms_are_kept_by_candidates() -> None:
    """The context does not matter, other candidates do, and what is kept cannot be changed from outside."""
    front = snapshot("beta", "thompson")
    first = law(front, [], CANDIDATES)
    assert law(front, X, CANDIDATES) is first
    assert law(front, [], ("b", "a", "new")).tolist() == pytest.approx(first[[1, 0, 2]].tolist(), abs=1e-6)
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1.0


@pytest.mark.parametrize(
    ("context", "candidates", "reason"),
    [
        ([0.5, 1.0], None, r"the context has shape \(2,\); policy 'front' needs \(3,\)"),
        ([0.5, np.nan, 1.0], None, "not finite"),
        (X, (), "no arm to choose"),
        (X, ("a", "b", "a"), r"candidates hold \['a'\] more than once"),
    ],
)
def test_impossible_requests_are_refused(context: object, candidates: tuple[str, ...] | None, reason: str) -> None:
    """With the policy's name and what it needs."""
    _, second = two()
    with pytest.raises(ValueError, match=reason):
        law(second, context, candidates)  # type: ignore[arg-type]
