"""Off-policy evaluation: what a policy would have earned, from what another one logged.

A row i was shown with the logged propensity p_i and earned r_i; the policy that is evaluated would have shown its arm
with the probability pi_i. With w_i = pi_i/p_i, a prediction q_i of r_i and the predicted value of the row under the policy,
v_i = sum_a pi(a|x_i) q(x_i, a), each estimate is a mean over rows (Dudik et al. 2014; Wang, Agarwal & Dudik 2017; Su et
al. 2020; Metelli, Russo & Restelli 2021)::

    ips        w r                          switch-dr  v + 1{w <= tau} w (r - q)
    snips      w r / mean(w)                dr-os      v + u (r - q),   u = lambda w/(w^2 + lambda)
    dm         v                            sg-ips     g r,             g = w/(1 - lambda + lambda w)
    dr         v + w (r - q)                sg-dr      v + g (r - q)
    sndr       v + w (r - q) / mean(w)

ips and dr are unbiased if the logged propensities are true and nothing that the policy plays was impossible for the logger;
what `support` says is to be read first. Reading an estimate without its `Support` is how people fool themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from policies.batch import FloatArray


LARGEST_WEIGHT = 1e100
"""So that squares of weights and their sums are finite, whatever tiny propensity was logged; the effective sample size tells of it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoggedRows:
    """n logged decisions and what the evaluated policy would have done in them.

    Attributes:
        reward: (n,) what each earned.
        propensity: (n,) probability with which the logger showed the arm, in (0, 1].
        target: (n,) probability with which the evaluated policy shows that arm.
        predicted: (n,) q_i, predicted reward of the arm that was shown; None without a model.
        value: (n,) v_i, predicted reward under the evaluated policy; None without a model.

    Raises:
        ValueError: lengths differ, a number is not finite, or a probability is out of range.

    >>> rows = LoggedRows(reward=np.array([1.0, 0.0]), propensity=np.array([0.5, 0.5]), target=np.array([1.0, 0.0]))
    >>> rows.weight.tolist()
    [2.0, 0.0]
    """

    reward: FloatArray
    propensity: FloatArray
    target: FloatArray
    predicted: FloatArray | None = None
    value: FloatArray | None = None

    def __post_init__(self) -> None:
        n = len(self.reward)
        for name in ("reward", "propensity", "target", "predicted", "value"):
            column = getattr(self, name)
            if column is None:
                continue
            if column.shape != (n,):
                raise ValueError(f"{name} has shape {column.shape}; it must be ({n},), one number for each row")
            if not np.isfinite(column).all():
                raise ValueError(f"{name}[{int(np.argmin(np.isfinite(column)))}] is not finite; leave such rows out")
        _within("propensity", self.propensity, self.propensity > 0.0, "above 0 and at most 1, as it was logged")
        _within("target", self.target, self.target >= 0.0, "between 0 and 1")
        if (self.predicted is None) != (self.value is None):
            raise ValueError("predicted and value belong together: give both, or neither")

    @property
    def weight(self) -> FloatArray:
        """(n,) w = pi/p, at most `LARGEST_WEIGHT`."""
        with np.errstate(over="ignore"):
            weight: FloatArray = np.minimum(self.target / self.propensity, LARGEST_WEIGHT)
        return weight

    def of(self, rows: npt.NDArray[np.intp]) -> LoggedRows:
        """The rows at these positions, which may repeat."""
        return replace(
            self,
            reward=self.reward[rows],
            propensity=self.propensity[rows],
            target=self.target[rows],
            predicted=None if self.predicted is None else self.predicted[rows],
            value=None if self.value is None else self.value[rows],
        )


def _within(name: str, column: FloatArray, above: npt.NDArray[np.bool_], allowed: str) -> None:
    wrong = ~(above & (column <= 1.0))
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ValueError(f"{name}[{i}] is {column[i]}; it must be {allowed}")


class Estimator(Protocol):
    """Terms whose mean is the estimate."""

    def __call__(self, rows: LoggedRows) -> FloatArray:
        """(n,) terms. Raises ValueError if the estimate needs a model and there is none, or there is no row."""
        ...


def ips(rows: LoggedRows) -> FloatArray:
    """Inverse propensity scores: w r (Horvitz & Thompson 1952).

    >>> ips(_TWO).tolist()
    [2.0, 0.0]
    """
    terms: FloatArray = rows.weight * rows.reward
    return terms


def snips(rows: LoggedRows) -> FloatArray:
    """Self-normalised: w r/mean(w), with a bias that vanishes and a spread that does not explode (Swaminathan & Joachims 2015).

    >>> snips(_TWO).mean()
    np.float64(1.0)
    """
    terms: FloatArray = normalised(rows.weight) * rows.reward
    return terms


def dm(rows: LoggedRows) -> FloatArray:
    """Direct method: v, what the model predicts, whatever was earned."""
    return _model(rows)[1]


def dr(rows: LoggedRows) -> FloatArray:
    """Doubly robust: v + w (r - q) (Dudik, Langford & Li 2011).

    >>> dr(replace(_TWO, predicted=np.array([0.5, 0.5]), value=np.array([0.5, 0.5]))).tolist()
    [1.5, 0.5]
    """
    return _corrected(rows, rows.weight)


def sndr(rows: LoggedRows) -> FloatArray:
    """Doubly robust, self-normalised: v + w (r - q)/mean(w)."""
    return _corrected(rows, normalised(rows.weight))


@dataclass(frozen=True, slots=True)
class SwitchDR:
    """v + 1{w <= tau} w (r - q): the model alone where weights are large (Wang, Agarwal & Dudik 2017)."""

    tau: float = 10.0

    def __call__(self, rows: LoggedRows) -> FloatArray:
        """(n,) terms."""
        weight = rows.weight
        return _corrected(rows, np.where(weight <= self.tau, weight, 0.0))


@dataclass(frozen=True, slots=True)
class ShrunkDR:
    """v + u (r - q) with u = lambda w/(w^2 + lambda): optimistic shrinkage (Su et al. 2020).

    >>> rows = replace(_TWO, predicted=np.zeros(2), value=np.zeros(2))
    >>> ShrunkDR(strength=4.0)(rows).tolist()  # 4 * 2/(4 + 4)
    [1.0, 0.0]
    """

    strength: float = 100.0

    def __call__(self, rows: LoggedRows) -> FloatArray:
        """(n,) terms; lambda = `strength`, 0 is the model alone, infinity is dr."""
        weight = rows.weight
        return _corrected(
            rows, weight if np.isinf(self.strength) else self.strength * weight / (weight**2 + self.strength)
        )


@dataclass(frozen=True, slots=True)
class SubGaussian:
    """g r, or v + g (r - q) with a model; g = w/(1 - lambda + lambda w) <= 1/lambda (Metelli, Russo & Restelli 2021).

    `strength` None takes lambda = min(1, sqrt(2 log(1/delta)/(3 n))) with delta 0.05, the order at which bias and spread balance.
    """

    strength: float | None = None
    model: bool = False

    def __call__(self, rows: LoggedRows) -> FloatArray:
        """(n,) terms."""
        weight = rows.weight
        n = max(len(weight), 1)
        strength = min(1.0, np.sqrt(2.0 * np.log(20.0) / (3.0 * n))) if self.strength is None else self.strength
        shrunk: FloatArray = weight / (1.0 - strength + strength * weight)
        if self.model:
            return _corrected(rows, shrunk)
        terms: FloatArray = shrunk * rows.reward
        return terms


OFF_POLICY: Mapping[str, Estimator] = {
    "ips": ips,
    "snips": snips,
    "dm": dm,
    "dr": dr,
    "sndr": sndr,
    "switch-dr": SwitchDR(),
    "dr-os": ShrunkDR(),
    "sg-ips": SubGaussian(),
    "sg-dr": SubGaussian(model=True),
}
"""Estimators by name, with their defaults."""

MODEL_FREE = ("ips", "snips", "sg-ips")
"""Those that need no model of the reward."""


def normalised(weight: FloatArray) -> FloatArray:
    """(n,) weights over their mean; zeros where all are zero.

    >>> normalised(np.array([1.0, 3.0])).tolist()
    [0.5, 1.5]
    """
    mean = weight.mean() if len(weight) else 0.0
    scaled: FloatArray = weight / mean if mean > 0.0 else np.zeros_like(weight)
    return scaled


def _model(rows: LoggedRows) -> tuple[FloatArray, FloatArray]:
    if rows.predicted is None or rows.value is None:
        raise ValueError(
            f"this estimate needs a model: give predicted and value for each row, or take one of {', '.join(MODEL_FREE)}"
        )
    return rows.predicted, rows.value


def _corrected(rows: LoggedRows, weight: FloatArray) -> FloatArray:
    predicted, value = _model(rows)
    terms: FloatArray = value + weight * (rows.reward - predicted)
    return terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Support:
    """Whether the log can tell anything of the policy.

    Attributes:
        n: rows.
        ess: effective sample size (sum w)^2/sum w^2.
        mean_weight: near 1 if the propensities are true and the log covers the policy; its standard error beside it.
        mean_weight_se: standard error of `mean_weight`.
        largest_weight: largest w.
        least_propensity: smallest p among the rows that the policy would have shown.
        unreached: share of the policy's probability on arms that the log never shows; None if it was not said.
    """

    n: int
    ess: float
    mean_weight: float
    mean_weight_se: float
    largest_weight: float
    least_propensity: float
    unreached: float | None = None

    @property
    def doubts(self) -> tuple[str, ...]:
        """What speaks against believing the estimates, in words."""
        found = []
        if self.ess < 0.05 * self.n:
            found.append(f"effective sample size {self.ess:.0f} of {self.n} rows: below 5%, a few rows decide")
        if abs(self.mean_weight - 1.0) > 4.0 * self.mean_weight_se + 1e-9:
            found.append(
                f"mean weight {self.mean_weight:.3f} is not 1 (standard error {self.mean_weight_se:.3f}): the logged propensities are "
                "not those that the arms were drawn with, or the log lacks arms that the policy shows"
            )
        if self.unreached:
            found.append(f"{100 * self.unreached:.1f}% of the policy's probability is on arms that the log never shows")
        return tuple(found)


def support(rows: LoggedRows, *, unreached: float | None = None) -> Support:
    """What the weights say.

    >>> support(_TWO).ess, support(_TWO).mean_weight
    (1.0, 1.0)
    """
    weight, n = rows.weight, len(rows.reward)
    square = float((weight**2).sum())
    shown = rows.propensity[rows.target > 0.0]
    return Support(
        n=n,
        ess=float(weight.sum()) ** 2 / square if square > 0.0 else 0.0,
        mean_weight=float(weight.mean()) if n else 0.0,
        mean_weight_se=float(weight.std(ddof=1) / np.sqrt(n)) if n > 1 else float("inf"),
        largest_weight=float(weight.max(initial=0.0)),
        least_propensity=float(shown.min(initial=1.0)),
        unreached=unreached,
    )


def bootstrap(
    rows: LoggedRows, estimator: Estimator, *, rng: np.random.Generator, times: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap of an estimate (Efron 1979): ends of the interval at ``level``, for one look at the data.

    >>> low, high = bootstrap(_TWO, ips, rng=np.random.default_rng(0), times=100)
    >>> low <= 1.0 <= high
    True
    """
    n = len(rows.reward)
    if n == 0:
        raise ValueError("there are no rows to evaluate")
    means = np.array([estimator(rows.of(rng.integers(0, n, n))).mean() for _ in range(times)])
    low, high = np.quantile(means, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


_TWO = LoggedRows(reward=np.array([1.0, 0.0]), propensity=np.array([0.5, 0.5]), target=np.array([1.0, 0.0]))
