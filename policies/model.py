"""The models by name: how an arm's part of the log becomes sums. Types are in policies/sums.py."""

from __future__ import annotations

from policies.beta import BetaModel
from policies.linear import LinearModel
from policies.logistic import LogisticModel
from policies.sums import Effective, Model, RecordError, Sums

__all__ = ["MODELS", "Effective", "Model", "RecordError", "Sums", "make_model"]

MODELS = ("beta", "linear", "hybrid", "logistic")
"""Names that `make_model` knows."""


def make_model(
    name: str,
    *,
    dimension: int,
    half_life_s: float = 0.0,
    delays_s: tuple[float, ...] = (),
    point: tuple[float, ...] = (),
) -> Model:
    """Return the model of that name.

    Args:
        name: "beta" (no context), "linear" (one linear regression for each arm), "hybrid" (these regressions share a part:
            policies/hybrid.py) or "logistic" (one logistic regression for each arm)
        dimension: d, length of the context; beta does not use it.
        half_life_s: half-life of old rows in seconds; 0 forgets nothing.
        delays_s: grid of mean delays in seconds, for the share of rows that are still pending; () corrects nothing.
        point: (d,) linearisation point of "logistic", () for zeros; see policies/logistic.py.

    Raises:
        ValueError: no such model, or a setting that cannot work.

    >>> make_model("linear", dimension=3, half_life_s=3600.0).timeless
    False
    >>> make_model("probit", dimension=3)
    Traceback (most recent call last):
    ValueError: there is no model 'probit'; choose one of beta, linear, hybrid, logistic
    """
    if point and name != "logistic":
        raise ValueError(f"point = {point}: only the model 'logistic' is linearised, {name!r} is not; leave it out")
    if name == "beta":
        return BetaModel(dimension=dimension, half_life_s=half_life_s, delays_s=delays_s)
    if name == "logistic":
        return LogisticModel(dimension=dimension, half_life_s=half_life_s, delays_s=delays_s, point=point)
    if name in ("linear", "hybrid"):
        return LinearModel(dimension=dimension, half_life_s=half_life_s, delays_s=delays_s, name=name)
    raise ValueError(f"there is no model {name!r}; choose one of {', '.join(MODELS)}")
