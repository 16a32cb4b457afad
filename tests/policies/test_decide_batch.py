"""Decisions and draws for many contexts: the laws of single decisions, drawn with the propensities that are returned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from policies.batch import FloatArray
from policies.decide import law
from policies.decide_batch import decide_batch, law_batch
from policies.draw import draw, draw_batch
from policies.empirical_bayes import fit
from policies.explorers import EXPLORERS
from policies.model import MODELS, make_model
from policies.snapshot import build
from tests.policies import test_monte_carlo as many
from tests.policies.batches import dyadic
from tests.policies.test_decide import CANDIDATES, X, snapshot

CONTEXTS = np.random.default_rng(1).normal(size=(40, 3))
N = 20_000


@pytest.mark.parametrize("candidates", [None, CANDIDATES, ("c",)], ids=["all", "some", "one"])
@pytest.mark.parametrize("model", ["linear", "beta"])
@pytest.mark.parametrize("explorer", EXPLORERS)
def test_laws_are_those_of_single_decisions(explorer: str, model: str, candidates: tuple[str, ...] | None) -> None:
    """For every context, whatever stands beside it."""
    front = snapshot(model, explorer)
    expected = np.array([law(front, x, candidates) for x in CONTEXTS])
    assert law_batch(front, CONTEXTS, candidates) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("model", ["linear", "beta"])
@pytest.mark.parametrize("explorer", EXPLORERS)
def test_arms_are_drawn_with_the_propensities_that_are_returned(explorer: str, model: str) -> None:
    """Shares of 20,000 decisions in one context, and the arms of plain draws too."""
    front, rng = snapshot(model, explorer), np.random.default_rng(2)
    p = law(front, X, CANDIDATES)
    decided = decide_batch(front, np.tile(X, (N, 1)), CANDIDATES, rng=rng)
    assert (decided.candidates, decided.snapshot) == (CANDIDATES, 4)
    assert not decided.estimated.any()
    assert decided.propensity == pytest.approx(p[decided.arm], abs=2e-6)
    drawn = draw_batch(front, np.tile(X, (N, 1)), CANDIDATES, rng=rng)
    for arms in (decided.arm, drawn):
        share = np.bincount(arms, minlength=3) / N
        assert (np.abs(share - p) <= 5 * np.sqrt(p * (1 - p) / N) + 1e-6).all()


@pytest.mark.parametrize("name", MODELS)
def test_every_model_draws_by_its_law(name: str) -> None:
    """Single laws, laws in batches, and the shares of plain draws agree."""
    model = make_model(name, dimension=3)
    sums = model.update({}, dyadic(11, 90))
    prior = fit(
        {arm: model.at(one, now_ms=0) for arm, one in sums.items()}, None, model=name, dimension=3, intercept=None
    )
    front = build("front", model=model, sums=sums, prior=prior, version=1, previous=None, time_ms=0, now_ms=0)
    assert law_batch(front, CONTEXTS) == pytest.approx(np.array([law(front, x) for x in CONTEXTS]), abs=2e-6)
    p, drawn = law(front, X), draw_batch(front, np.tile(X, (N, 1)), rng=np.random.default_rng(8))
    share = np.bincount(drawn, minlength=4) / N
    assert (np.abs(share - p) <= 5 * np.sqrt(p * (1 - p) / N) + 2e-6).all()
    singly = [draw(front, X, rng=np.random.default_rng(seed)) for seed in range(300)]
    for arm, chance in zip(front.names, p, strict=True):
        assert singly.count(arm) / 300 == pytest.approx(chance, abs=5 * np.sqrt(chance * (1 - chance) / 300) + 1e-6)


def test_shares_would_tell_another_law() -> None:
    """A width that is a fifth too large is seen in the shares."""
    front, rng = snapshot("linear", "thompson"), np.random.default_rng(2)
    p = law(front, X, CANDIDATES)
    other = replace(front, rates={"alpha": 0.84, "epsilon": 0.1})
    wider = draw_batch(other, np.tile(X, (N, 1)), CANDIDATES, rng=rng)
    share = np.bincount(wider, minlength=3) / N
    assert (np.abs(share - p) > 5 * np.sqrt(p * (1 - p) / N) + 1e-6).any()


@pytest.mark.parametrize("model", ["linear", "beta"])
def test_single_draws_follow_the_law(model: str) -> None:
    """4,000 of them, the floor included."""
    front, rng = snapshot(model, "thompson"), np.random.default_rng(3)
    p = law(front, X, CANDIDATES)
    drawn = [CANDIDATES.index(draw(front, X, CANDIDATES, rng=rng)) for _ in range(4000)]
    share = np.bincount(drawn, minlength=3) / 4000
    assert (np.abs(share - p) <= 5 * np.sqrt(p * (1 - p) / 4000)).all()


def test_contexts_that_float32_cannot_score_are_scored_in_float64() -> None:
    """Two features that are all but the same, and a context along their difference."""
    front = snapshot("linear", "thompson")
    stack = front.stack
    x = np.array([[0.5, -1.0, 0.25], [1e-12, 0.0, 0.0], [0.0, 0.0, 0.0], [1e25, 1.0, -1e25]]).T
    mean, sd = stack.rough_scores(x, None)  # type: ignore[union-attr]
    exact_mean, exact_sd = stack.scores(x, None)  # type: ignore[union-attr]
    assert mean == pytest.approx(exact_mean, rel=1e-12)
    assert sd == pytest.approx(exact_sd, rel=1e-3)


def test_a_context_of_zeros_does_not_always_show_the_first_arm() -> None:
    """All arms are alike then, and their shares too."""
    front = snapshot("linear", "thompson")
    drawn = draw_batch(front, np.zeros((4000, 3)), rng=np.random.default_rng(4))
    assert np.bincount(drawn, minlength=4) / 4000 == pytest.approx(law(front, np.zeros(3)), abs=0.04)


def test_rows_with_too_many_arms_that_may_win_are_estimated() -> None:
    """And marked; the others are not."""
    front, rng = many.snapshot(), np.random.default_rng(5)
    decided = decide_batch(front, np.tile(many.X, (30, 1)), rng=rng)
    assert decided.estimated.all()
    assert decided.propensity.mean() == pytest.approx(1 / many.K, rel=0.2)
    few = decide_batch(front, np.tile(many.X, (30, 1)), front.names[:90], rng=rng)
    assert not few.estimated.any()
    assert few.propensity == pytest.approx(np.full(30, 1 / 90), abs=1e-6)


def test_batches_can_be_replayed() -> None:
    """The same generator gives the same arms."""
    front = snapshot("linear", "thompson")
    for seed, other in ((6, 6), (7, 8)):
        one, two = np.random.default_rng(seed), np.random.default_rng(other)
        decided, drawn = decide_batch(front, CONTEXTS, rng=one), draw_batch(front, CONTEXTS, rng=one)
        assert (decided.arm.tolist() == decide_batch(front, CONTEXTS, rng=two).arm.tolist()) == (seed == other)
        assert (drawn.tolist() == draw_batch(front, CONTEXTS, rng=two).tolist()) == (seed == other)


@pytest.mark.parametrize(
    ("contexts", "candidates", "reason"),
    [
        (np.zeros((2, 4)), None, r"shape \(2, 4\); policy 'front' needs \(2, 3\)"),
        (np.zeros(3), None, r"shape \(3,\)"),
        (np.full((1, 3), np.inf), None, "not finite"),
        (CONTEXTS, (), "no arm to choose"),
        (CONTEXTS, ("a", "a"), "more than once"),
    ],
)
def test_impossible_requests_are_refused(contexts: FloatArray, candidates: tuple[str, ...] | None, reason: str) -> None:
    """By all of them, in the same words."""
    front = snapshot("linear", "thompson")
    for function in (decide_batch, draw_batch):
        with pytest.raises(ValueError, match=reason):
            function(front, contexts, candidates, rng=np.random.default_rng(1))
    with pytest.raises(ValueError, match=reason):
        law_batch(front, contexts, candidates)
