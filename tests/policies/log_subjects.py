"""Estimators that read logs, for the conformance table: off-policy values and click delays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np

from policies.batch import FloatArray, IntArray
from policies.delay import mean_delay_s, mixture, no_ages, with_ages
from policies.ope import OFF_POLICY, LoggedRows
from policies.positions import Counts, counts
from policies.positions import estimate as positions
from tests.policies.estimator_laws import Subject

ROWS = 40_000
RATES, LOGGER, TARGET = np.array([0.1, 0.3, 0.5]), np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.3, 0.6])
VALUE = float(RATES @ TARGET)
WINDOW_S = 600.0
DELAYS_S, SHARES = (20.0, 200.0), np.array([0.7, 0.3])
KAPPA = np.array([1.0, 0.6, 0.3])


@cache
def logged() -> LoggedRows:
    """Arms with known rates, and a model that knows them."""
    rng = np.random.default_rng(8)
    arm = rng.choice(3, ROWS, p=LOGGER)
    return LoggedRows(
        reward=(rng.random(ROWS) < RATES[arm]).astype(np.float64),
        propensity=LOGGER[arm],
        target=TARGET[arm],
        predicted=RATES[arm],
        value=np.full(ROWS, VALUE),
    )


def value(name: str, rows: LoggedRows) -> FloatArray:
    """The estimate (1,)."""
    return np.array([OFF_POLICY[name](rows).mean()])


def eightfold(rows: LoggedRows, numbers: FloatArray) -> tuple[LoggedRows, FloatArray]:
    """Rewards in a unit 8 times smaller."""
    assert rows.predicted is not None
    assert rows.value is not None
    return replace(rows, reward=8 * rows.reward, predicted=8 * rows.predicted, value=8 * rows.value), 8 * numbers


@cache
def ages() -> IntArray:
    """Ages in ms of clicks from a mixture of two exponentials that came within the window."""
    rng = np.random.default_rng(9)
    drawn = rng.exponential(np.array(DELAYS_S)[rng.choice(2, ROWS, p=SHARES)])
    return (1000 * drawn[drawn < WINDOW_S]).astype(np.int64)


@cache
def ages_of_one() -> IntArray:
    """The same of one exponential, of 200 s."""
    drawn = np.random.default_rng(10).exponential(200.0, ROWS)
    return (1000 * drawn[drawn < WINDOW_S]).astype(np.int64)


def by_ages(read: Callable[[Any], FloatArray], age_ms: IntArray) -> FloatArray:
    """An estimate from the histogram of ages."""
    return read(with_ages(no_ages(round(1000 * WINDOW_S)), age_ms, np.zeros(len(age_ms), np.int64)))


@cache
def slots() -> Counts:
    """Clicks of 40 groups in three slots whose effects are KAPPA."""
    rng = np.random.default_rng(11)
    slot, group = rng.integers(0, 3, ROWS * 5), rng.integers(0, 40, ROWS * 5)
    m = np.linspace(0.1, 0.4, 40)[group]
    click = (rng.random(len(slot)) < KAPPA[slot] * m).astype(np.float64)
    return counts(slot, group, click, slots=3, groups=40, predicted=m)


def other_order(rows: LoggedRows) -> LoggedRows:
    """The rows the other way round."""
    return rows.of(np.arange(ROWS)[::-1])


within = float(np.sum(SHARES * -np.expm1(-WINDOW_S / np.array(DELAYS_S))))
SUBJECTS = {
    name: Subject(
        run=partial(value, name),
        data=logged,
        truth=np.array([VALUE]),
        error=np.array([0.035]),
        shuffled=other_order,
        scaled=eightfold,
    )
    for name in OFF_POLICY
} | {
    "mean_delay_s": Subject(
        run=partial(by_ages, lambda one: np.array([mean_delay_s(one.mean_age_s, WINDOW_S)])),
        data=ages_of_one,
        truth=np.array([200.0]),
        error=np.array([6.0]),
        shuffled=lambda age_ms: age_ms[::-1],
    ),
    "mixture": Subject(
        run=partial(by_ages, lambda one: mixture(one.counts, DELAYS_S, WINDOW_S)),
        data=ages,
        truth=SHARES * -np.expm1(-WINDOW_S / np.array(DELAYS_S)) / within,
        error=np.array([0.02, 0.02]),
        shuffled=lambda age_ms: age_ms[::-1],
    ),
    "kappa": Subject(
        run=lambda seen: positions(seen).kappa,
        data=slots,
        truth=KAPPA,
        error=np.array([0.0, 0.03, 0.02]),
        shuffled=lambda seen: Counts(
            shown=seen.shown[:, ::-1], clicks=seen.clicks[:, ::-1], predicted=seen.predicted[:, ::-1]
        ),
    ),
}
"""By their names in `OFF_POLICY`, those of policies/delay.py, and the effects of slots of policies/positions.py."""
