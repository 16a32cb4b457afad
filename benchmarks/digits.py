"""Off-policy estimates on scikit-learn's digits, a classification task seen as a bandit: the example of obp (Saito et al. 2021).

Thirty splits of the data, 30% to train and 70% to log. The logger follows a logistic regression with probability 0.4, the policy that is
evaluated a random forest with 0.9, and otherwise both show any class alike; the reward is 1 for the right class. Rewards are predicted by
gradient boosting on context and class, fitted crosswise on three folds. The figure is the mean relative error over the splits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from policies.batch import FloatArray, IntArray
from policies.ope import OFF_POLICY, LoggedRows

RUNS, SEED, FOLDS = 30, 12345, 3
EVALUATED = 0.7
LOGGER, TARGET = 0.4, 0.9
PUBLISHED = {"ips": 0.030288, "snips": 0.022764, "dr": 0.016156}
"""Mean relative errors in the README of obp's example."""


def relative_errors(runs: int = RUNS) -> dict[str, float]:
    """Mean relative error of `PUBLISHED`'s estimators. Raises ImportError without scikit-learn."""
    errors: dict[str, list[float]] = {name: [] for name in PUBLISHED}
    for run in range(runs):
        rows, truth = logged(run)
        for name, found in errors.items():
            found.append(abs(float(OFF_POLICY[name](rows).mean()) - truth) / truth)
    return {name: float(np.mean(found)) for name, found in errors.items()}


def logged(run: int) -> tuple[LoggedRows, float]:
    """Rows that the logger left in one split, and what the evaluated policy would have earned in them."""
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split

    X, y = load_digits(return_X_y=True)
    classes = int(y.max()) + 1
    X_train, X_seen, y_train, y_seen = train_test_split(X, y, test_size=EVALUATED, random_state=run)
    forest = RandomForestClassifier(n_estimators=30, max_depth=5, min_samples_leaf=10, random_state=SEED)
    regression = LogisticRegression(max_iter=10_000, C=100, random_state=SEED)
    logger = mixed(regression.fit(X_train, y_train).predict(X_seen), classes, LOGGER)
    target = mixed(forest.fit(X_train, y_train).predict(X_seen), classes, TARGET)
    every = np.arange(len(y_seen))
    drawn = np.random.RandomState(run).uniform(size=len(y_seen))
    shown = (logger.cumsum(axis=1) > drawn[:, None]).argmax(axis=1)
    reward = (shown == y_seen).astype(np.float64)
    q = predicted(X_seen, shown, reward, classes)
    rows = LoggedRows(
        reward=reward,
        propensity=logger[every, shown],
        target=target[every, shown],
        predicted=q[every, shown],
        value=(target * q).sum(axis=1),
    )
    return rows, float(target[every, y_seen].mean())


def mixed(best: IntArray, classes: int, share: float) -> FloatArray:
    """(n, classes) the law that shows the best with probability `share`, and otherwise any class alike.

    >>> mixed(np.array([1]), 2, 0.5).tolist()
    [[0.25, 0.75]]
    """
    law = np.full((len(best), classes), (1.0 - share) / classes)
    law[np.arange(len(best)), best] += share
    return law


def predicted(X: FloatArray, shown: IntArray, reward: FloatArray, classes: int) -> FloatArray:
    """(n, classes) predicted rewards, each row's by a model that has not seen it."""
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.model_selection import KFold

    one_hot: Any = np.eye(classes, dtype=int)
    q = np.zeros((len(X), classes))
    for train, test in KFold(n_splits=FOLDS, shuffle=True, random_state=SEED).split(X):
        model = GradientBoostingClassifier(
            n_estimators=30, learning_rate=0.01, max_depth=5, min_samples_leaf=10, random_state=SEED
        )
        model.fit(np.c_[X[train], one_hot[shown[train]]], reward[train])
        for arm in range(classes):
            rows = np.c_[X[test], one_hot[np.full(len(test), arm)]]
            q[test, arm] = model.predict_proba(rows)[:, 1]
    return q
