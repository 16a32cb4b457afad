"""The models by name: how an arm's part of the log becomes sums. Types are in policies/sums.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policies.beta import BetaModel
from policies.linear import LinearModel
from policies.logistic import LogisticModel
from policies.sums import Effective, Model, RecordError, Sums

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policies.batch import Batch

__all__ = ["MODELS", "Effective", "Model", "RecordError", "Sums", "make_model", "retract"]

MODELS = ("beta", "linear", "hybrid", "student", "logistic")
"""Names that `make_model` knows."""


def make_model(
    name: str,
    *,
    dimension: int,
    half_life_s: float = 0.0,
    delays_s: tuple[float, ...] = (),
    encoder: str | None = None,
    point: tuple[float, ...] = (),
) -> Model:
    """Return the model of that name.

    Args:
        name: "beta" (no context), "linear" (one linear regression for each arm), "hybrid" (these regressions share a part:
            policies/hybrid.py), "student" (each has a noise of its own: policies/student.py) or "logistic" (one logistic regression for each arm)
        dimension: d, length of the context; beta does not use it.
        half_life_s: half-life of old rows in seconds; 0 forgets nothing.
        delays_s: grid of mean delays in seconds, for the share of rows that are still pending; () corrects nothing.
        encoder: fingerprint of the encoder that contexts come from, None if they are features; beta has no context.
        point: (d,) linearisation point of "logistic", () for zeros; see policies/logistic.py.

    Raises:
        ValueError: no such model, or a setting that cannot work.

    >>> make_model("linear", dimension=3, half_life_s=3600.0).timeless
    False
    >>> make_model("probit", dimension=3)
    Traceback (most recent call last):
    ValueError: there is no model 'probit'; choose one of beta, linear, hybrid, student, logistic
    """
    if point and name != "logistic":
        raise ValueError(f"point = {point}: only the model 'logistic' is linearised, {name!r} is not; leave it out")
    if name == "beta":
        return BetaModel(dimension=dimension, half_life_s=half_life_s, delays_s=delays_s)
    if name == "logistic":
        return LogisticModel(
            dimension=dimension, half_life_s=half_life_s, delays_s=delays_s, encoder=encoder, point=point
        )
    if name in ("linear", "hybrid", "student"):
        return LinearModel(dimension=dimension, half_life_s=half_life_s, delays_s=delays_s, encoder=encoder, name=name)
    raise ValueError(f"there is no model {name!r}; choose one of {', '.join(MODELS)}")


def retract(model: Model, sums: Mapping[str, Any], batch: Batch) -> dict[str, Any]:
    """Sums without the batch's rows, which were added before: invalid traffic that was found later.

    The negative is added, so a retraction is one more batch: it may come in any order, and merge with others. An arm's
    newest event stays what it was.

    >>> import numpy as np
    >>> from policies.batch import Batch
    >>> row = Batch(arms=("a",), arm=np.array([0]), x=np.zeros((1, 0)), ts=np.array([5]), reward_arm=np.array([0]),
    ...     reward_x=np.zeros((1, 0)), reward_ts=np.array([5]), reward=np.ones(1), square=np.ones(1))
    >>> model = make_model("beta", dimension=0)
    >>> left = retract(model, model.update({}, row), row)["a"]
    >>> left.n, left.count, left.reward
    (0.0, 0.0, 0.0)
    """
    taken = {name: model.negative(one) for name, one in model.update({}, batch).items()}
    return {**sums, **{name: model.merge(sums.get(name, model.zero()), one) for name, one in taken.items()}}
