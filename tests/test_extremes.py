"""One record with numbers of absurd size must not end what all others need."""

from __future__ import annotations

import numpy as np
import pytest

from policies.empirical_bayes import fit
from policies.posterior import ArmPosterior, posterior
from policies.prior import Prior
from policies.sums import Effective


def shown(x: list[float], *, times: float, reward: float) -> Effective:
    """Sums of one context shown so often, with `reward` in all."""
    context = np.array(x)
    return Effective(
        n_eff=times,
        count=times,
        reward=reward,
        square=abs(reward),
        b=reward * context,
        A=times * np.outer(context, context),
    )


@pytest.mark.parametrize("size", [1e8, 1e15, 1e30])
def test_an_arm_with_a_huge_context_leaves_a_usable_prior(size: float) -> None:
    """The prior is finite, and the posteriors of the other arms are as sharp as their data."""
    effective = {
        "huge": shown([size, -size, 1.0], times=1.0, reward=1.0),
        "plain": shown([1.0, 0.0, 0.0], times=1000.0, reward=100.0),
    }
    prior = fit(effective, model="linear", dimension=3)
    assert isinstance(prior, Prior)
    found = posterior(prior, effective["plain"])
    assert isinstance(found, ArmPosterior)
    assert not found.alarm
    assert found.mean[0] == pytest.approx(0.1, rel=0.1)
    assert np.isfinite(found.factor).all()
