"""The benchmark of initialisations measures what it says."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch comes with the extra encoder")

from benchmarks import reptile as benchmark  # noqa: E402


def test_an_excess_is_nothing_for_the_true_rates_alone() -> None:
    """The true rates lose next to nothing; half of them, and the usual rate for all, lose something."""
    world = benchmark.World(0)
    assert abs(world.excess(world.true)) < 0.1  # rates are cut at 0.002
    assert world.excess(world.true / 2.0) > 10.0
    assert world.excess(np.full_like(world.true, benchmark.RATE)) > 10.0


@pytest.mark.parametrize("hidden", [0, 4])
def test_arms_take_their_steps_apart(hidden: int) -> None:
    """Steps of many arms at once are those of each, and they lessen the loss of its rows."""
    rng = np.random.default_rng(1)
    x, y = torch.from_numpy(rng.normal(size=(3, 50, 5))), torch.from_numpy((rng.random((3, 50)) < 0.3).astype(float))
    heads = [one.expand(3, *one.shape) for one in benchmark.start(5, hidden, 0)]
    together = benchmark.stepped(heads, x, y, size=0.3, steps=4)
    for arm in range(3):
        alone = benchmark.stepped(
            [one[arm : arm + 1] for one in heads], x[arm : arm + 1], y[arm : arm + 1], size=0.3, steps=4
        )
        for one, other in zip(together, alone, strict=True):
            assert torch.allclose(one[arm], other[0], atol=1e-12)

    def loss(of: benchmark.Head) -> float:
        found = torch.nn.functional.binary_cross_entropy_with_logits(benchmark.score(of, x), y)
        return float(found)

    assert loss(together) < loss(heads)
