"""Arms by plain Thompson draws, without their propensities: for simulations, and where nothing is evaluated off-policy.

score_a = x^T m_a + alpha sqrt(x^T V_a x) z_a with an independent z_a for each arm and context, and the largest is shown:
the same law as sampling theta_a ~ N(m_a, alpha^2 V_a), and as `policies.decide.decide`. Student arms draw z_a from their t. Explorers other than Thompson
sampling have probabilities in closed form, and arms are drawn from those; so they are for Student t laws.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from policies.decide import check_contexts, decide, rows_of
from policies.decide_batch import decide_batch
from policies.stack import BetaStack, Index, LinearStack, StudentStack, dof_of

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
    if not _plain(snapshot):
        return decide(snapshot, context, candidates, rng=rng).arm
    candidates = snapshot.showable(candidates)
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
    z = _draws(arms, rows, sd.shape, rng)
    return names[int(_largest(mean, sd, z, snapshot.rates["alpha"]))]


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
    shown = snapshot.showable(candidates)
    if shown is not candidates:
        names = snapshot.names if candidates is None else candidates
        place = np.array([i for i, name in enumerate(names) if name not in snapshot.hidden], np.intp)
        return place[draw_batch(snapshot, contexts, shown, rng=rng)]
    arms = snapshot.stack
    if not _plain(snapshot):
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
            drawn[part] = _gaussian(arms, x[part], rows, snapshot.rates["alpha"], rng)
    epsilon = snapshot.rates["epsilon"]
    if epsilon > 0.0:
        at_random = np.flatnonzero(rng.random(len(x)) < epsilon)
        drawn[at_random] = rng.integers(0, len(snapshot.names if rows is None else rows), len(at_random))
    return drawn


def _plain(snapshot: Snapshot) -> bool:
    """Whether draws decide; without a width ties would have to be split."""
    return snapshot.explorer == "thompson" and snapshot.rates["alpha"] > 0.0


def _gaussian(
    arms: LinearStack | StudentStack, x: FloatArray, rows: Index | None, alpha: float, rng: np.random.Generator
) -> Index:
    linear = arms.linear if isinstance(arms, StudentStack) else arms
    mean, sd = linear.rough_scores(np.ascontiguousarray(x.T), rows)
    return np.asarray(_largest(mean, sd, _draws(arms, rows, sd.shape, rng), alpha), np.intp)


def _draws(
    arms: LinearStack | StudentStack, rows: Index | None, shape: tuple[int, ...], rng: np.random.Generator
) -> Any:
    """(C,) or (C, n) draws with the mean 0 and the variance 1: normal, or Student t of each arm's degrees of freedom."""
    dof = dof_of(arms, rows)
    if dof is None:
        return rng.standard_normal(shape, dtype=np.float32)
    dof = dof.reshape(-1, *[1] * (len(shape) - 1))
    return rng.standard_t(np.broadcast_to(dof, shape)) * np.sqrt((dof - 2.0) / dof)


def _largest(mean: FloatArray, sd: npt.NDArray[np.floating], z: Any, alpha: float) -> Any:
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
