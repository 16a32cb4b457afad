"""Classification as a bandit (Bietti, Agarwal & Langford 2021, "A contextual bandit bake-off", section 4): data and world.

A row's class is shown or not: the reward is 1 if the class that was chosen is the row's, else 0, and nothing is said of the
other classes. The data sets are those that scikit-learn and river carry in their packages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from policies.batch import FloatArray

MOST_ROWS = 5_000
"""Rows of a data set that one order takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """A data set.

    Attributes:
        x: (n, d) features, each with mean 0 and standard deviation 1 over the set.
        y: (n,) classes as numbers 0 <= y < classes.
        classes: K.
    """

    x: FloatArray
    y: npt.NDArray[np.int64]
    classes: int


class Labelled:
    """A data set in one order, as a world: the right class is clicked with certainty, the others never.

    The regret of a round is then 1 if the class was wrong, and its mean over rounds the progressive validation loss.

    Args:
        data: the set.
        seed: of the order; sets of more than MOST_ROWS rows give their first ones in it.

    Attributes:
        contexts: (n, d + 1), the intercept first.
        y: (n,) classes in this order.
        uniforms, delays: (n,) zero: what is clicked is clicked at once.

    >>> world = Labelled(Labels(x=np.array([[1.0], [-1.0]]), y=np.array([0, 1]), classes=2), seed=0)
    >>> world.contexts.shape, sorted(world.y.tolist())
    ((2, 2), [0, 1])
    """

    def __init__(self, data: Labels, *, seed: int) -> None:
        order = np.random.default_rng(3000 + seed).permutation(len(data.y))[:MOST_ROWS]
        self.y = data.y[order]
        self.contexts: FloatArray = np.hstack([np.ones((len(order), 1)), data.x[order]])
        self.uniforms: FloatArray = np.zeros(len(order))
        self.delays: FloatArray = np.zeros(len(order))
        self._classes = data.classes

    def probabilities(self, round_: int, contexts: FloatArray) -> FloatArray:
        """(n, K) ones for the classes of n rows from a round on."""
        right: FloatArray = np.eye(self._classes)[self.y[round_ : round_ + len(contexts)]]
        return right

    def replaced(self, start: int, stop: int) -> npt.NDArray[np.intp]:  # noqa: ARG002  # classes stay
        """None."""
        return np.zeros(0, np.intp)


def labels(x: npt.ArrayLike, y: npt.ArrayLike) -> Labels:
    """Scale features by the set's own means and deviations, drop constant ones, and number the classes.

    >>> data = labels([[1.0, 7.0], [3.0, 7.0]], ["cat", "ant"])
    >>> data.x.tolist(), data.y.tolist(), data.classes
    ([[-1.0], [1.0]], [1, 0], 2)
    """
    features = np.asarray(x, np.float64)
    sd = features.std(axis=0)
    told = sd > 0.0
    names, codes = np.unique(np.asarray(y), return_inverse=True)
    return Labels(
        x=(features[:, told] - features[:, told].mean(axis=0)) / sd[told],
        y=codes.astype(np.int64),
        classes=len(names),
    )


def _scikit_learn(name: str) -> Labels:
    from sklearn import datasets

    return labels(*getattr(datasets, f"load_{name}")(return_X_y=True))


def _river(name: str) -> Labels:
    from river import datasets

    rows = list(getattr(datasets, name)())
    return labels([list(row.values()) for row, _ in rows], [label for _, label in rows])


DATA: dict[str, Callable[[], Labels]] = {
    "iris": partial(_scikit_learn, "iris"),
    "wine": partial(_scikit_learn, "wine"),
    "breast_cancer": partial(_scikit_learn, "breast_cancer"),
    "digits": partial(_scikit_learn, "digits"),
    "segments": partial(_river, "ImageSegments"),
    "shuttle": partial(_river, "Shuttle"),
}
"""Loaders by name: four of scikit-learn, then river's ImageSegments and Shuttle (two classes, 7% of them the rare one)."""
