"""Reference weights: which version a row goes by, what Huber's rule makes of its reward, and what better points are worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from policies.batch import Batch, FloatArray
from policies.logistic import LogisticModel
from policies.model import make_model
from policies.references import Reference, References, decode, encode, refer
from policies.robust import huber, huber_changes
from policies.sums import RecordError


def references(*found: tuple[int, dict[str, list[float]]]) -> References:
    """By version and arm."""
    known = References()
    for version, means in found:
        known.add(Reference(version=version, means={arm: np.array(mean) for arm, mean in means.items()}))
    return known


def test_a_row_goes_by_the_last_meta_change_at_or_before_its_version() -> None:
    """Not by a later one, whatever order they were read in; arms and versions without one have none."""
    known = references((7, {"a": [7.0]}), (3, {"a": [3.0], "b": [30.0]}), (7, {"a": [7.0]}))
    points, index = known.points(
        np.array([2, 3, 6, 7, 99, 6, 7, -1]), np.array([0, 0, 0, 0, 0, 1, 1, 0]), ["a", "b"], 1
    )
    found = [None if i < 0 else points[i, 0] for i in index]
    assert found == [None, 3.0, 3.0, 7.0, 7.0, 30.0, None, None]
    known.keep(1)
    assert known.of(6) is None
    assert references().points(np.array([5]), np.array([0]), ["a"], 1)[1].tolist() == [-1]


def test_records_come_back_and_damaged_ones_are_refused() -> None:
    """Golden octets of version 1; a later version and cut ones say so."""
    one = Reference(version=5, means={"a": np.array([0.5, -2.0]), "b": np.array([1.0, 0.0])})
    data = encode("p", one)
    assert data.hex() == (
        "85a17601a6706f6c696379a170a776657273696f6e05a461726d7392a161a162a46d65616ec4100000003f000000c00000803f00000000"
    )
    back = decode(data)
    assert {arm: mean.tolist() for arm, mean in back.means.items()} == {"a": [0.5, -2.0], "b": [1.0, 0.0]}
    assert decode(encode("p", Reference(version=1, means={}))).means == {}
    with pytest.raises(RecordError, match="version 2, this reader knows 1"):
        decode(data.replace(b"\xa1v\x01", b"\xa1v\x02"))
    with pytest.raises(RecordError, match="cannot be read"):
        decode(data[:-3])


def test_a_reward_that_is_no_dyadic_number_begins_at_zero() -> None:
    """What an impression had before its first outcome is 0 to the last bit: it is not taken for an outcome's reward."""
    rng = np.random.default_rng(5)
    reward = rng.normal(size=1000)
    change, _ = huber_changes(np.zeros(1000), reward, np.full(1000, 5.0), 1.0)
    assert np.array_equal(change, huber(reward, np.full(1000, 5.0), 1.0))


def test_huber_is_a_function_of_the_final_reward() -> None:
    """Outcome after outcome, in any order, the changes add up to the pseudo-reward of the sum; zero stays zero."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        parts = rng.choice([0.0, 0.5, -0.5, 1.0, 8.0, 64.0], rng.integers(0, 5))
        m, limit = float(rng.choice([-1.0, 0.0, 0.25, 3.0])), 2.0
        total = change = square = 0.0
        for part in rng.permutation(parts):
            new = total + part
            moved = huber_changes(np.array([total]), np.array([new - total]), np.array([m]), limit)
            change, square, total = change + moved[0][0], square + moved[1][0], new
        (final,) = huber(np.array([total]), np.array([m]), limit)
        assert (change, square) == (final, final**2)
        assert final in (0.0, total) or abs(final - m) == limit


def test_more_reward_is_never_less_pseudo_reward() -> None:
    """Nor of the other sign, whatever was expected; nothing is moved away from 0."""
    reward = np.linspace(-9, 9, 73)
    for m in (-5.0, -0.5, 0.0, 0.5, 5.0):
        found = huber(reward, np.full(73, m), 1.0)
        assert (np.diff(found) >= 0).all()
        assert (np.abs(found) <= np.abs(reward)).all()


def test_a_version_that_nobody_published_has_no_reference() -> None:
    """However many there are below it: what is published later must not change what it is worth."""
    known = references((3, {"a": [3.0]})).copy(5)
    points, index = known.points(np.array([3, 5, 6]), np.zeros(3, np.intp), ["a"], 1)
    assert [None if i < 0 else points[i, 0] for i in index] == [3.0, 3.0, None]


def rows(x: FloatArray, reward: FloatArray) -> Batch:
    """One arm's rows."""
    n, hit = len(x), np.flatnonzero(reward)
    return Batch(
        arms=("a",),
        arm=np.zeros(n, np.intp),
        x=x,
        ts=np.zeros(n, np.int64),
        reward_arm=np.zeros(len(hit), np.intp),
        reward_x=x[hit],
        reward_ts=np.zeros(len(hit), np.int64),
        reward=reward[hit],
        square=reward[hit] ** 2,
    )


def fitted(sums: object, model: object) -> FloatArray:
    """Weights of least squares with a weak prior."""
    read = model.at(sums["a"], now_ms=0)  # type: ignore[attr-defined, index]
    weights: FloatArray = np.linalg.solve(read.A + 0.01 * np.eye(len(read.A)), read.b)
    return weights


def test_an_outlier_does_not_move_the_weights_further_than_the_limit() -> None:
    """One reward of 10,000 among ordinary ones: with the rule the weights stay, without they are lost."""
    rng = np.random.default_rng(1)
    x = np.column_stack([np.ones(2000), rng.normal(size=2000)])
    truth = np.array([2.0, 0.5])
    reward = x @ truth + 0.1 * rng.normal(size=2000)
    reward[7] = 10_000.0
    model, known = make_model("linear", dimension=2), references((1, {"a": [2.1, 0.4]}))
    batch = rows(x, reward)
    version = np.ones(len(batch.reward), np.int64)
    cut = refer(batch, known, np.ones(2000, np.int64), version, np.zeros(len(version)), linearised=False, limit=2.0)
    assert np.abs(fitted(model.update({}, cut), model) - truth).max() < 0.05
    assert np.abs(fitted(model.update({}, batch), model) - truth).max() > 1.0
    unknown = refer(
        batch, known, np.zeros(2000, np.int64), 0 * version, np.zeros(len(version)), linearised=False, limit=2.0
    )
    assert np.array_equal(unknown.reward, batch.reward)


def test_better_points_bring_the_logistic_model_to_its_maximum_likelihood() -> None:
    """Rows around published weights near the truth give what exact iteration gives; around zero they do not."""
    rng = np.random.default_rng(2)
    x = np.column_stack([np.ones(20_000), rng.normal(size=20_000)])
    truth = np.array([-3.0, 1.0])
    click = (rng.random(20_000) < expit(x @ truth)).astype(np.float64)
    exact = minimize(lambda w: np.logaddexp(0.0, x @ w).sum() - click @ (x @ w) + 0.005 * (w @ w), np.zeros(2)).x
    model = LogisticModel(dimension=2)
    batch, near = rows(x, click), references((4, {"a": [-2.8, 0.9]}))
    told = refer(batch, near, np.full(20_000, 9), np.zeros(0, np.int64), np.zeros(0), linearised=True, limit=None)
    assert np.abs(fitted(model.update({}, told), model) - exact).max() < 0.03
    assert np.abs(fitted(model.update({}, batch), model) - exact).max() > 0.5


def test_rows_of_different_points_add_in_any_order() -> None:
    """Two halves with points of their own: merged sums are those of the whole, to rounding."""
    rng = np.random.default_rng(3)
    x, click = rng.normal(size=(400, 2)), (rng.random(400) < 0.3).astype(np.float64)
    known = references((1, {"a": [0.5, 0.0]}), (2, {"a": [-1.0, 0.25]}))
    version = rng.integers(0, 3, 400)
    model = LogisticModel(dimension=2)
    whole = refer(rows(x, click), known, version, np.zeros(0, np.int64), np.zeros(0), linearised=True, limit=None)
    first = np.arange(400) < 150
    hit = np.flatnonzero(click)
    parts = [whole.only(first, first[hit]), whole.only(~first, ~first[hit])]
    one = model.update({}, whole)["a"]
    other = model.update({}, parts[1])["a"]
    merged = model.merge(other, model.update({}, parts[0])["a"])
    assert np.allclose(merged.A, one.A, rtol=1e-12)
    assert np.allclose(merged.b, one.b, rtol=1e-12)
    alone = model.update({}, replace(whole, points=None, point=None))["a"]
    assert not np.allclose(alone.A, one.A)
