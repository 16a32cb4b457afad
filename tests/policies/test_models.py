"""What sums do beyond the laws of test_conformance.py: widening, sorting, refusing."""

from __future__ import annotations

import numpy as np
import pytest

from policies.batch import Batch
from policies.model import make_model
from tests.policies.batches import START_MS, dyadic, take


def test_float32_contexts_are_widened_before_they_are_multiplied() -> None:
    """(1 + 2^-23)^2 needs 46 bits: a product in single precision would lose the last."""
    x = np.array([[1.0 + 2.0**-23]], np.float32)
    batch = Batch(
        arms=("a",),
        arm=np.zeros(1, np.intp),
        x=x,
        ts=np.array([START_MS]),
        reward_arm=np.zeros(1, np.intp),
        reward_x=x,
        reward_ts=np.array([START_MS]),
        reward=np.array([1 / 3]),
        square=np.array([1 / 9]),
    )
    model = make_model("linear", dimension=1)
    read = model.at(model.update({}, batch)["a"], now_ms=START_MS)
    assert read.A[0, 0] == (1.0 + 2.0**-23) ** 2
    assert read.b[0] == (1.0 + 2.0**-23) / 3


@pytest.mark.parametrize("arms", [3, 70_000])
def test_rows_are_sorted_by_arm_whatever_the_number_of_names(arms: int) -> None:
    """Indices beyond 16 bits are not cut."""
    codes = np.array([arms - 1, 0, arms - 1, 1])
    batch = Batch(
        arms=tuple(map(str, range(arms))),
        arm=codes,
        x=np.ones((4, 1)),
        ts=np.full(4, START_MS),
        reward_arm=codes[:1],
        reward_x=np.ones((1, 1)),
        reward_ts=np.full(1, START_MS),
        reward=np.ones(1),
        square=np.ones(1),
    )
    sums = make_model("linear", dimension=1).update({}, batch)
    assert {arm: one.count for arm, one in sums.items()} == {"0": 1.0, "1": 1.0, str(arms - 1): 2.0}
    assert sums[str(arms - 1)].reward == 1.0


def test_a_reward_without_its_impression_counts_as_reward_only() -> None:
    """A change that comes in a later batch than its impression touches no count."""
    model = make_model("linear", dimension=3)
    sums = model.update({}, take(dyadic(7, 90), [], slice(None)))
    assert sum(one.count for one in sums.values()) == 0
    assert sum(one.reward for one in sums.values()) == dyadic(7, 90).reward.sum()


def test_batches_that_do_not_fit_are_refused() -> None:
    """Columns of other lengths, indices outside the names, contexts of another length: each names what is wrong."""
    good = dyadic(8, 4)
    columns = {name: getattr(good, name) for name in Batch.__slots__}
    with pytest.raises(ValueError, match=r"4 impressions has columns of other lengths: \{'ts': 2\}"):
        Batch(**columns | {"ts": good.ts[:2]})
    for wrong in (-1, 4):
        with pytest.raises(ValueError, match="allowed: 0 to 3"):
            Batch(**columns | {"arm": np.full(4, wrong)})
    for wrong in (-2, 1):
        with pytest.raises(ValueError, match="into points"):
            Batch(**columns | {"points": np.zeros((1, 3)), "point": np.full(4, wrong)})
    with pytest.raises(ValueError, match=r"x has shape \(4, 3\); the model needs \(n, 2\)"):
        make_model("linear", dimension=2).update({}, good)
    with pytest.raises(ValueError, match="dimension = 0"):
        make_model("linear", dimension=0)
