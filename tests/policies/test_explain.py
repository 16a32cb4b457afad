"""Explanations add up to what was decided: means of contributions, propensities of what is greedy and what explores."""

from __future__ import annotations

import numpy as np
import pytest

from policies.decide import law
from policies.empirical_bayes import fit
from policies.explain import explain
from policies.explorers import EXPLORERS
from policies.model import MODELS, make_model
from policies.snapshot import build
from tests.policies.snapshots import PRIOR
from tests.policies.test_decide import CANDIDATES, X, snapshot


@pytest.mark.parametrize("candidates", [None, CANDIDATES], ids=["all", "some"])
@pytest.mark.parametrize("model", ["linear", "beta"])
@pytest.mark.parametrize("explorer", EXPLORERS)
def test_parts_add_up(explorer: str, model: str, candidates: tuple[str, ...] | None) -> None:
    """Contributions to the mean, prior and learned parts to contributions, greedy and exploration to the propensity."""
    front = snapshot(model, explorer)
    found = explain(front, X, candidates)
    assert [one.arm for one in found] == list(candidates or front.names)
    for one, p in zip(found, law(front, X, candidates), strict=True):
        assert one.mean == pytest.approx(one.contributions.sum(), abs=1e-15)
        assert one.prior + one.learned == pytest.approx(one.contributions, abs=1e-15)
        assert one.greedy + one.exploration == pytest.approx(one.propensity, abs=1e-15)
        assert one.propensity == p
        assert one.floor == pytest.approx(0.1 / len(found))
        assert one.bonus == pytest.approx(0.7 * one.sd if explorer in ("thompson", "ucb") else 0.0)
    assert sum(one.greedy for one in found) == pytest.approx(1.0)
    assert sum(one.exploration for one in found) == pytest.approx(0.0, abs=1e-12)


def test_contributions_are_weights_times_features() -> None:
    """A component of zero adds nothing; an arm's weight of one component shows in that one only."""
    front = snapshot("linear", "thompson")
    found = explain(front, [0.5, 0.0, 2.0], ("a",))[0]
    assert found.contributions.tolist() == pytest.approx((front.arms["a"].mean * [0.5, 0.0, 2.0]).tolist())  # type: ignore[union-attr]
    assert found.contributions[1] == 0.0


def test_an_arm_that_nobody_has_seen_is_all_prior() -> None:
    """Nothing learned, everything unknown; an arm with rows has learned something and is better known."""
    new, seen = explain(snapshot("linear", "thompson"), X, ("new", "a"))
    assert new.learned.tolist() == [0.0, 0.0, 0.0]
    assert new.prior.tolist() == pytest.approx((PRIOR.mean * X).tolist())
    assert new.unknown == 1.0
    assert np.abs(seen.learned).max() > 0.01
    assert seen.unknown < 0.5


def test_beta_arms_have_their_rate_as_the_only_part() -> None:
    """Prior Beta(1, 3): a quarter."""
    new, seen = explain(snapshot("beta", "thompson"), (), ("new", "a"))
    assert (new.contributions.tolist(), new.prior.tolist(), new.unknown) == ([0.25], [0.25], 1.0)
    assert seen.contributions[0] == pytest.approx(seen.mean)
    assert seen.unknown < 0.5


@pytest.mark.parametrize("name", MODELS)
def test_every_model_can_be_explained(name: str) -> None:
    """An arm of zero sums is the prior, whatever the model."""
    model = make_model(name, dimension=3)
    prior = fit({}, None, model=name, dimension=3, intercept=0)
    front = build(
        "front", model=model, sums={"a": model.zero()}, prior=prior, version=1, previous=None, time_ms=0, now_ms=0
    )
    found = explain(front, [1.0, 0.5, -1.0])[0]
    assert found.unknown == pytest.approx(1.0, rel=1e-5)
    assert found.learned == pytest.approx(np.zeros(len(found.learned)), abs=1e-6)
    assert found.propensity == 1.0


def test_words_name_the_largest_parts_first() -> None:
    """And add the others up."""
    found = explain(snapshot("linear", "ucb"), [0.5, -4.0, 0.25], ("a",))[0]
    line = found.words(["constant", "age", "price"], most=1)
    assert line.startswith(f"a: {found.mean:.3g} +- {found.sd:.2g} = age {found.contributions[1]:.3g} + 2 others ")
    assert line.endswith("shown 100%, greedy 100%")
    assert "x1 " in found.words()


def test_impossible_requests_are_refused() -> None:
    """Names that are not one for each component, and what `decide` refuses."""
    front = snapshot("linear", "ucb")
    with pytest.raises(ValueError, match="2 features are named, 3 contribute"):
        explain(front, X)[0].words(["one", "two"])
    with pytest.raises(ValueError, match=r"needs \(3,\)"):
        explain(front, [1.0])
    with pytest.raises(ValueError, match="no arm to choose"):
        explain(front, X, ())
