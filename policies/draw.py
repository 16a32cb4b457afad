"""Arms by plain Thompson draws, without their propensities: for simulations, and where nothing is evaluated off-policy.

score_a = x^T m_a + alpha sqrt(x^T V_a x) z_a with an independent z_a for each arm and context, and the largest is shown:
the same law as sampling theta_a ~ N(m_a, alpha^2 V_a), and as `policies.decide.decide`. Explorers other than Thompson
sampling have probabilities in closed form, and arms are drawn from those; so they are for Student t laws.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from policies.decide import check_contexts, decide, rows_of
from policies.decide_batch import decide_batch
from policies.stack import BetaStack, Index, LinearStack, StudentStack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.batch import FloatArray
    from policies.snapshot import Snapshot

TOGETHER = 512
"""Contexts that are scored at a time: their products fit a processor's cache."""

LEAST = 1e-30
"""Width that every draw has, so that a context of zeros does not always show the first arm."""


def draw(
    snapshot: Snapshot, context: npt.ArrayLike, candidates: Sequence[str] | None = None, *, rng: np.random.Generator
) -> str:
    """Draw one arm; arguments and errors are those of `policies.decide.decide`.

    >>> import numpy as np
    >>> from policies.model import make_model
    >>> from policies.prior import Prior
    >>> from policies.snapshot import build
    >>> model = make_model("linear", dimension=1)
    >>> prior = Prior(mean=np.array([0.1]), tau2=np.array([0.01]), s2=0.1)
    >>> front = build("front", model=model, sums={"a": model.zero(), "b": model.zero()}, prior=prior, version=1,
    ...     previous=None, time_ms=0, now_ms=0)
    >>> draw(front, [1.0], rng=np.random.default_rng(1)) in front.names
    True
    """
    arms = snapshot.stack
    if isinstance(arms, StudentStack) or not _plain(snapshot):
        return decide(snapshot, context, candidates, rng=rng).arm
    rows = rows_of(snapshot, candidates)
    names = snapshot.names if candidates is None else candidates
    epsilon = snapshot.rates["epsilon"]
    if epsilon > 0.0 and rng.random() < epsilon:
        return names[int(rng.integers(len(names)))]
    if isinstance(arms, BetaStack):
        return names[int(_beta(snapshot, arms, rows, 1, rng)[0])]
    x = np.asarray(context, np.float64)
    check_contexts(snapshot, x, (snapshot.dimension,))
    mean, sd = arms.scores(x, rows)
    return names[int(_largest(mean, sd, rng.standard_normal(len(sd)), snapshot.rates["alpha"]))]


def draw_batch(
    snapshot: Snapshot, contexts: npt.ArrayLike, candidates: Sequence[str] | None = None, *, rng: np.random.Generator
) -> Index:
    """(n,) indices into the candidates (into `snapshot.names`, if None) of arms drawn for contexts (n, d).

    Raises:
        ValueError: as `policies.decide.decide`.

    >>> import numpy as np
    >>> from policies.model import make_model
    >>> from policies.prior import BetaPrior
    >>> from policies.snapshot import build
    >>> model = make_model("beta", dimension=0)
    >>> front = build("front", model=model, sums={}, prior=BetaPrior(a=1.0, b=9.0), version=1, previous=None, time_ms=0,
    ...     now_ms=0)
    >>> draw_batch(front, np.zeros((4, 0)), ("a", "b"), rng=np.random.default_rng(1)).shape
    (4,)
    """
    arms = snapshot.stack
    if isinstance(arms, StudentStack) or not _plain(snapshot):
        return decide_batch(snapshot, contexts, candidates, rng=rng).arm
    rows = rows_of(snapshot, candidates)
    x = np.asarray(contexts, np.float64)
    if isinstance(arms, BetaStack):
        drawn = _beta(snapshot, arms, rows, len(x), rng)
    else:
        check_contexts(snapshot, x, (len(x), snapshot.dimension))
        drawn = np.empty(len(x), np.intp)
        for first in range(0, len(x), TOGETHER):
            part = slice(first, first + TOGETHER)
            drawn[part] = _linear(arms, x[part], rows, snapshot.rates["alpha"], rng)
    epsilon = snapshot.rates["epsilon"]
    if epsilon > 0.0:
        at_random = np.flatnonzero(rng.random(len(x)) < epsilon)
        drawn[at_random] = rng.integers(0, len(snapshot.names if rows is None else rows), len(at_random))
    return drawn


def _plain(snapshot: Snapshot) -> bool:
    """Whether draws decide; without a width ties would have to be split."""
    return snapshot.explorer == "thompson" and snapshot.rates["alpha"] > 0.0


def _linear(arms: LinearStack, x: FloatArray, rows: Index | None, alpha: float, rng: np.random.Generator) -> Index:
    mean, sd = arms.rough_scores(np.ascontiguousarray(x.T), rows)
    return np.asarray(_largest(mean, sd, rng.standard_normal(sd.shape, dtype=np.float32), alpha), np.intp)


def _largest(mean: FloatArray, sd: npt.NDArray[np.floating], z: npt.NDArray[np.floating], alpha: float) -> Any:
    """Index along the first axis of the largest mean + alpha sd z; z is changed."""
    z *= alpha
    z *= np.maximum(sd, LEAST)
    return (mean + z).argmax(axis=0)


def _beta(snapshot: Snapshot, arms: BetaStack, rows: Index | None, n: int, rng: np.random.Generator) -> Index:
    """(n,) arms whose draw from Beta(a/alpha^2, b/alpha^2) is the largest."""
    rows = np.arange(len(arms.row)) if rows is None else rows
    shrunk = 1.0 / snapshot.rates["alpha"] ** 2
    drawn: Index = rng.beta(arms.a[rows] * shrunk, arms.b[rows] * shrunk, (n, len(rows))).argmax(axis=1)
    return drawn
