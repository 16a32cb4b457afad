"""What every track expected of every arm at a time, kept so that a row can be scored by what was known before it was shown.

A label that has entered the sums makes their mean agree with it, and the shortest memory most of all: scored by such means, it
would win always. So means are taken at intervals of event time, `KEPT` of them are held, and a row of time ts is
predicted by the newest that was taken strictly before ts. With `at_ms` the newest impression in the sums, no label of a
later row is in them. Memory: KEPT x G tracks x (K + 1) arms x d float32, 9 MB for 4 tracks of 1,000 arms at d = 32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from policies.arm_features import prior_of
from policies.posterior import BetaPosterior, posterior, unseen
from policies.prior import AnyPrior, BetaPrior

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from policies.batch import FloatArray
    from policies.sums import Effective

INTERVALS = 16
"""Parts of the time that a row takes to mature, after each of which means are taken."""
KEPT = INTERVALS + 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Means:
    """Expectations at one time.

    Attributes:
        at_ms: event time of the newest impression that any of the sums held.
        row: number of each arm's row.
        mean: (G, K + 1, d) posterior means; (G, K + 1, 1) rates for beta. The last row is the prior's, for other arms.
        model: name of the model.
    """

    at_ms: int
    row: Mapping[str, int]
    mean: npt.NDArray[np.float32]
    model: str

    @property
    def tracks(self) -> int:
        """G."""
        return len(self.mean)

    def predict(self, arm: Sequence[str], x: npt.NDArray[np.floating]) -> FloatArray:
        """(n, G) expected rewards of arms (n,) in contexts (n, d)."""
        rows = np.array([self.row.get(name, -1) for name in arm], np.intp)
        mean = self.mean[:, rows].astype(np.float64)
        if self.model == "beta":
            return np.ascontiguousarray(mean[:, :, 0].T)
        scores: FloatArray = np.einsum("gnd,nd->ng", mean, x.astype(np.float64))
        return np.asarray(expit(scores)) if self.model == "logistic" else scores


def take_means(effective: Sequence[Mapping[str, Effective]], prior: AnyPrior, *, model: str, at_ms: int) -> Means:
    """Means of the arms under every track's sums (G of them, each by arm), with the prior that snapshots have.

    >>> from policies.sums import Effective
    >>> seen = {"a": Effective(n_eff=8.0, count=8.0, reward=3.0, square=3.0)}
    >>> take_means([seen], BetaPrior(a=1.0, b=1.0), model="beta", at_ms=5).predict(["a", "b"], np.zeros((2, 0))).tolist()
    [[0.4000000059604645], [0.5]]
    """
    names = sorted({name for arms in effective for name in arms})
    start = _mean(prior)
    mean = np.array(
        [
            [
                *(
                    _mean(prior_of(prior, name)) if name not in arms else _of(prior_of(prior, name), arms[name])
                    for name in names
                ),
                start,
            ]
            for arms in effective
        ],
        np.float32,
    )
    return Means(at_ms=at_ms, row={name: i for i, name in enumerate(names)}, mean=mean, model=model)


def _of(prior: AnyPrior, effective: Effective) -> FloatArray:
    found = posterior(prior, effective)
    return np.array([found.a / (found.a + found.b)]) if isinstance(found, BetaPosterior) else found.mean


def _mean(prior: AnyPrior) -> FloatArray:
    return np.array([prior.a / (prior.a + prior.b)]) if isinstance(prior, BetaPrior) else unseen(prior).mean


def due(kept: Sequence[Means], newest_ms: int, *, hold_ms: int) -> bool:
    """Whether means are to be taken again: a sixteenth of the window and its grace has passed.

    >>> due((), 5, hold_ms=600_000)
    True
    """
    return not kept or newest_ms - kept[-1].at_ms >= max(1, hold_ms // INTERVALS)
