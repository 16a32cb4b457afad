"""Laws that the sums of every model obey."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.batch import Batch
from policies.model import MODELS, make_model
from tests.policies.batches import ARMS, START_MS, bits, dyadic, shown, take

if TYPE_CHECKING:
    from policies.batch import FloatArray, IntArray
    from policies.sums import Sums

NOW_MS = START_MS + 45_000


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("half_life_s", [0.0, 1.0])
@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), parts=st.integers(1, 6), cross=st.booleans())
def test_sums_are_a_function_of_the_set_of_rows(
    name: str, half_life_s: float, seed: int, parts: int, cross: bool
) -> None:
    """Any split, order, and tree of updates and merges gives the same bits, also across a move of the landmark."""
    model = make_model(name, dimension=3, half_life_s=half_life_s)
    start_ms = START_MS // 256_000 * 256_000 + (236_000 if cross else 0)
    batch = dyadic(seed, 120, start_ms=start_ms)
    rng = np.random.default_rng(seed)
    whole = model.update({}, batch)
    pieces: list[dict[str, Sums]] = []
    rows = np.array_split(rng.permutation(len(batch.arm)), parts)
    rewards = np.array_split(rng.permutation(len(batch.reward)), parts)
    for one, two in zip(rows, rewards, strict=True):
        base = pieces.pop() if pieces and rng.random() < 0.5 else {}
        pieces.append(model.update(base, take(batch, one.tolist(), two.tolist())))
    for arm, expected in whole.items():
        total = model.zero()
        for piece in pieces:
            total = model.merge(total, piece[arm]) if arm in piece else total
        now_ms = start_ms + 50_000
        assert bits(model.at(total, now_ms=now_ms)) == bits(model.at(expected, now_ms=now_ms))
        assert model.encode(total) == model.encode(expected)


def kept(ts: IntArray, half_life_s: float) -> FloatArray:
    """Weight of rows at NOW_MS by forgetting alone."""
    weights: FloatArray = np.exp2(-(NOW_MS - ts) / (1000 * half_life_s)) if half_life_s else np.ones(len(ts))
    return weights


@pytest.mark.parametrize("half_life_s", [0.0, 7.0])
@pytest.mark.parametrize("delays_s", [(), (5.0,), (2.0, 30.0)])
def test_linear_sums_are_the_closed_form(half_life_s: float, delays_s: tuple[float, ...]) -> None:
    """Weights are 2^(-age/H) times the mean over delays of 1 - exp(-age/mu); rewards are weighted by forgetting alone."""
    model = make_model("linear", dimension=3, half_life_s=half_life_s, delays_s=delays_s)
    batch = dyadic(3, 400)
    first = model.update({}, take(batch, slice(150), slice(9)))
    sums = model.update(first, take(batch, slice(150, None), slice(9, None)))
    age_s = (NOW_MS - batch.ts) / 1000
    arrived = np.mean([1 - np.exp(-age_s / delay) for delay in delays_s], axis=0) if delays_s else 1.0
    for code, arm in enumerate(ARMS):
        read = model.at(sums[arm], now_ms=NOW_MS)
        w = kept(batch.ts, half_life_s) * arrived * (batch.arm == code)
        v = kept(batch.reward_ts, half_life_s) * (batch.reward_arm == code)
        assert read.n_eff == pytest.approx(w.sum(), rel=1e-12)
        assert np.allclose(read.A, (batch.x * w[:, None]).T @ batch.x, rtol=0, atol=1e-12 * w.sum())
        assert np.allclose(read.b, (v * batch.reward) @ batch.reward_x, rtol=0, atol=1e-12 * v.sum())
        assert read.reward == pytest.approx((v * batch.reward).sum(), rel=1e-12)
        assert read.square == pytest.approx((v * batch.reward**2).sum(), rel=1e-12)
        assert read.count == np.count_nonzero(batch.arm == code)


def test_beta_reads_the_same_scalars_as_linear() -> None:
    """Both models count, forget and wait alike."""
    batch = dyadic(4, 200)
    read = {}
    for name in MODELS:
        model = make_model(name, dimension=3, half_life_s=11.0, delays_s=(4.0, 9.0))
        read[name] = [model.at(one, now_ms=NOW_MS) for one in model.update({}, batch).values()]
    for beta, linear in zip(read["beta"], read["linear"], strict=True):
        assert [beta.n_eff, beta.count, beta.reward, beta.square] == pytest.approx(
            [linear.n_eff, linear.count, linear.reward, linear.square], rel=1e-13
        )


@pytest.mark.parametrize("name", MODELS)
def test_update_leaves_its_input_alone(name: str) -> None:
    """Old sums keep their numbers, untouched arms their objects, and a batch of nothing changes nothing."""
    model = make_model(name, dimension=3, half_life_s=5.0)
    first = model.update({}, dyadic(5, 60))
    before = {arm: model.encode(one) for arm, one in first.items()}
    second = model.update(first, shown("a", [START_MS], [[1.0, 2.0, 3.0]]))
    assert {arm: model.encode(one) for arm, one in first.items()} == before
    assert [second[arm] is first[arm] for arm in ARMS] == [False, True, True, True]
    assert all(model.update(first, take(dyadic(6, 9), [], []))[arm] is first[arm] for arm in ARMS)


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
    with pytest.raises(ValueError, match=r"x has shape \(4, 3\); the model needs \(n, 2\)"):
        make_model("linear", dimension=2).update({}, good)
    with pytest.raises(ValueError, match="dimension = 0"):
        make_model("linear", dimension=0)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("half_life_s", [0.0, 1.0])
def test_one_row_less_gives_other_bits(name: str, half_life_s: float) -> None:
    """The comparison of bits notices a single impression or reward that was lost or came twice."""
    model = make_model(name, dimension=3, half_life_s=half_life_s)
    batch = dyadic(1, 300)
    whole = model.update({}, batch)
    everything = slice(None)
    for shown_, rewarded in ((slice(1, None), everything), (everything, slice(1, None))):
        fewer = model.update({}, take(batch, shown_, rewarded))
        twice = model.update(whole, take(batch, [0], []) if rewarded is everything else take(batch, [], [0]))
        for other in (fewer, twice):
            assert any(
                bits(model.at(other[arm], now_ms=NOW_MS)) != bits(model.at(whole[arm], now_ms=NOW_MS)) for arm in ARMS
            )
