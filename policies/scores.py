"""How good predictions are, and how even exposure is: figures that people know, beside the estimates of what a policy would earn.

Predictions are judged on rows that they were not learned from. A policy decides by the order of its arms, so what it earns
(`policies.ope`) counts; these tell where it is wrong. Definitions are those of scikit-learn's functions of the same names
(Hanley & McNeil 1982 for the area under the curve), the calibration error that of Naeini, Cooper & Hauskrecht 2015.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata

if TYPE_CHECKING:
    from policies.batch import FloatArray, IntArray

BINS = 10
LEAST_CHANCE = 1e-6
"""Predictions of a chance are cut to this and one minus this before a logarithm: a linear model's may lie outside of 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What predicted rewards are worth on rows that they were not learned from.

    Attributes:
        auc: chance that a row with a reward was predicted higher than one without; None unless rewards are 0 and 1 and both occur.
        log_loss: mean of -log of the chance given to what happened; None unless rewards are 0 and 1.
        calibration_error: mean distance of predicted and earned means over bins of equally many rows.
        mae: mean absolute error of the arms' predicted means.
        rmse: root of their mean squared error.
        k: how many arms `precision`, `recall` and `f1` take for the best.
        precision: share of the k arms that were predicted best which are among the k that earned most.
        recall: share of the k arms that earned most which are among those that were predicted best.
        f1: harmonic mean of both, 0 if both are.
    """

    auc: float | None
    log_loss: float | None
    calibration_error: float
    mae: float
    rmse: float
    k: int
    precision: float
    recall: float
    f1: float


def score(
    reward: FloatArray,
    predicted: FloatArray,
    *,
    arm_means: FloatArray,
    arm_predicted: FloatArray,
    k: int,
) -> Scores:
    """All of them.

    Args:
        reward: (n,) rewards of the rows, n > 0.
        predicted: (n,) predicted rewards of the rows.
        arm_means: (K,) what each arm earned on average, NaN for an arm that was not shown.
        arm_predicted: (K,) what it was predicted to earn.
        k: arms that are taken for the best, at least 1; fewer if there are not so many.

    >>> found = score(np.array([1.0, 0.0]), np.array([0.9, 0.2]), arm_means=np.array([0.5, 0.1]),
    ...     arm_predicted=np.array([0.4, 0.2]), k=1)
    >>> found.auc, round(found.log_loss, 3), round(found.calibration_error, 3), round(found.mae, 3), found.f1
    (1.0, 0.164, 0.15, 0.1, 1.0)
    """
    binary = bool(np.isin(reward, (0.0, 1.0)).all())
    known = np.isfinite(arm_means)
    wrong = arm_predicted[known] - arm_means[known]
    k = min(k, len(arm_means))
    precision, recall = top_k(arm_means, arm_predicted, k)
    return Scores(
        auc=auc(reward, predicted) if binary else None,
        log_loss=log_loss(reward, predicted) if binary else None,
        calibration_error=calibration_error(reward, predicted),
        mae=float(np.abs(wrong).mean()),
        rmse=float(np.sqrt((wrong**2).mean())),
        k=k,
        precision=precision,
        recall=recall,
        f1=2.0 * precision * recall / (precision + recall) if precision + recall > 0.0 else 0.0,
    )


def auc(reward: FloatArray, predicted: FloatArray) -> float | None:
    """Area under the ROC curve of rewards 0 and 1, ties counted half; None where one of them does not occur.

    >>> auc(np.array([0.0, 1.0, 1.0, 0.0]), np.array([0.1, 0.1, 0.8, 0.3]))
    0.625
    """
    good = reward == 1.0
    n, of = int(good.sum()), len(good)
    if n in (0, of):
        return None
    ranks = rankdata(predicted)
    return float((ranks[good].sum() - n * (n + 1) / 2) / (n * (of - n)))


def log_loss(reward: FloatArray, predicted: FloatArray) -> float:
    """Mean negative logarithm of the chance that was given to what happened, in nats.

    >>> log_loss(np.array([1.0, 0.0]), np.array([0.5, 0.5])) == np.log(2.0)
    np.True_
    """
    chance = np.clip(predicted, LEAST_CHANCE, 1.0 - LEAST_CHANCE)
    return float(-np.log(np.where(reward == 1.0, chance, 1.0 - chance)).mean())


def calibration_error(reward: FloatArray, predicted: FloatArray, *, bins: int = BINS) -> float:
    """Mean over rows of |mean prediction - mean reward| of their bin; bins hold equally many rows in the order of the predictions.

    Rows with the same prediction may fall into two bins, in the order in which they are given.

    >>> calibration_error(np.array([0.0, 1.0]), np.array([0.25, 0.5]), bins=1)
    0.125
    """
    order = np.argsort(predicted, kind="stable")
    gap = (predicted - reward)[order]
    return float(sum(abs(part.sum()) for part in np.array_split(gap, min(bins, len(gap)))) / len(gap))


def top_k(means: FloatArray, predicted: FloatArray, k: int) -> tuple[float, float]:
    """Precision and recall of "one of the k best arms"; NaN in ``means`` is an arm that is not known, which is not among the best.

    >>> top_k(np.array([0.3, 0.2, np.nan]), np.array([0.1, 0.2, 0.5]), 2)
    (0.5, 0.5)
    """
    best = set(np.argsort(-means, kind="stable")[: min(k, int(np.isfinite(means).sum()))].tolist())
    guessed = set(np.argsort(-predicted, kind="stable")[:k].tolist())
    hits = len(best & guessed)
    return hits / max(len(guessed), 1), hits / max(len(best), 1)


def gini(shares: FloatArray) -> float:
    """Gini coefficient of the arms' (K,) exposure: 0 if all get the same, (K - 1)/K if one gets all.

    >>> gini(np.array([1.0, 1.0])), gini(np.array([0.0, 0.0, 0.0, 1.0]))
    (0.0, 0.75)
    """
    n, total = len(shares), float(shares.sum())
    if total <= 0.0:
        return 0.0
    ranks = np.arange(1, n + 1)
    return float((2.0 * ranks - n - 1.0) @ np.sort(shares) / (n * total))


def arm_means(arm: IntArray, reward: FloatArray, propensity: FloatArray, arms: int) -> FloatArray:
    """(K,) mean reward that each arm would have had if it had been shown in every row: self-normalised by 1/p; NaN where never shown.

    >>> arm_means(np.array([0, 0]), np.array([1.0, 0.0]), np.array([0.5, 0.25]), 2).round(3).tolist()
    [0.333, nan]
    """
    weight = np.bincount(arm, 1.0 / propensity, minlength=arms)
    earned = np.bincount(arm, reward / propensity, minlength=arms)
    means: FloatArray = np.divide(earned, weight, out=np.full(arms, np.nan), where=weight > 0.0)
    return means
