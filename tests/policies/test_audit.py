"""Audits: true propensities and shares raise no alarm at any moment, false ones do, and batches do not matter."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from policies.audit import LEVEL, Audit, propensities_audited, share_audited
from policies.batch import FloatArray

ARMS = ("a", "b", "c", "d")


def shown(rng: np.random.Generator, rows: int, truth: Any = None) -> tuple[list[str], FloatArray]:
    """Arms drawn from laws that change from row to row with a floor, and the probabilities; `truth` draws them instead."""
    laws = 0.9 * rng.dirichlet(np.full(len(ARMS), 0.3), rows) + 0.1 / len(ARMS)
    real = laws if truth is None else truth(laws)
    arm = np.minimum((real.cumsum(axis=1) <= rng.random(rows)[:, None]).sum(axis=1), len(ARMS) - 1)
    return [ARMS[i] for i in arm.tolist()], laws[np.arange(rows), arm]


def test_true_propensities_raise_no_alarm() -> None:
    """In 200 logs, looked at after every row, at most the level's part; both sides."""
    rng = np.random.default_rng(1)
    alarmed = sum(bool(propensities_audited(Audit(), *shown(rng, 4000), least=0.025)[1]) for _ in range(200))
    assert alarmed <= 200 * LEVEL + 3 * np.sqrt(200 * LEVEL)


def test_the_means_are_near_one() -> None:
    """Of each arm, over what came after its first row."""
    state, _ = propensities_audited(Audit(), *shown(np.random.default_rng(2), 40_000))
    assert [state.mean(arm) for arm in ARMS] == pytest.approx([1.0] * 4, abs=0.05)


def sharper(laws: FloatArray) -> FloatArray:
    """What is drawn is not what is logged: the best arm more often."""
    sharp = laws**2
    return np.asarray(sharp / sharp.sum(axis=1, keepdims=True), np.float64)


def never_d(laws: FloatArray) -> FloatArray:
    """Three of four times that d is meant, another is shown."""
    left = laws.copy()
    left[:, 3] *= 0.25
    return np.asarray(left / left.sum(axis=1, keepdims=True), np.float64)


@pytest.mark.parametrize(("truth", "words"), [(sharper, "too large"), (never_d, "of arm 'd' are too large")])
def test_propensities_that_are_not_true_raise_alarms(truth: Any, words: str) -> None:
    """Told with the arm, and which way."""
    _, alarms = propensities_audited(Audit(), *shown(np.random.default_rng(3), 20_000, truth), least=0.025)
    assert any(words in alarm for alarm in alarms)


def test_one_for_every_row_is_caught() -> None:
    """The commonest mistake: the chosen arm is logged with propensity 1."""
    rng = np.random.default_rng(4)
    arm, _ = shown(rng, 2000)
    _, alarms = propensities_audited(Audit(), arm, np.ones(2000), least=0.025)
    assert any("too large" in alarm for alarm in alarms)


def test_without_a_least_propensity_absent_arms_are_no_alarm() -> None:
    """An arm that is a candidate of every tenth decision only has a mean of 0.1, and nothing is wrong."""
    rng = np.random.default_rng(5)
    arm = np.where((rng.random(20_000) < 0.1) & (rng.random(20_000) < 0.5), "b", "a")
    p = np.where(
        arm == "b", 0.5, 1.0
    )  # a is logged as 1 where it was alone, and as 1 where it was one of two: too large
    assert not propensities_audited(Audit(), arm.tolist(), p)[1]


def test_batches_do_not_matter() -> None:
    """Bit for bit, with alarms within batches and arms that come late; the same alarms in the same words."""
    rng = np.random.default_rng(6)
    arm, p = shown(rng, 8000, sharper)
    arm[:2000] = ["a" if one == "d" else one for one in arm[:2000]]
    whole, told = propensities_audited(Audit(), arm, p, least=0.025)
    assert len(told) > 1
    for seed in range(3):
        state, alarms = Audit(), tuple[str, ...]()
        cuts = np.sort(np.random.default_rng(seed).integers(0, 8000, 50)).tolist()
        for start, end in pairwise([0, *cuts, 8000]):
            state, more = propensities_audited(state, arm[start:end], p[start:end], least=0.025)
            alarms += more
        assert (state, alarms) == (whole, told)


def test_shares_as_meant_raise_no_alarm_and_others_do() -> None:
    """300 logs of 20,000 decisions; half a percent too many are found in 100,000."""
    rng = np.random.default_rng(7)
    false = sum(bool(share_audited(Audit(), "canary", rng.random(20_000) < 0.1, share=0.1)[1]) for _ in range(300))
    assert false <= 300 * LEVEL + 3 * np.sqrt(300 * LEVEL)
    state, alarms = share_audited(Audit(), "canary", rng.random(100_000) < 0.105, share=0.1)
    assert alarms
    assert "where 10.0% are meant" in alarms[0]
    assert state.alarms == len(alarms)


def test_shares_do_not_depend_on_batches() -> None:
    """Alarms fall on the same decision."""
    inside = np.random.default_rng(8).random(30_000) < 0.13
    whole, told = share_audited(Audit(), "canary", inside, share=0.1)
    state, alarms = Audit(), tuple[str, ...]()
    for part in np.array_split(inside, 77):
        state, more = share_audited(state, "canary", part, share=0.1)
        alarms += more
    assert (state, alarms) == (whole, told)
    assert len(told) > 1
    changed, _ = share_audited(whole, "canary", inside[:1], share=0.2)
    assert (changed.shares["canary"].share, changed.shares["canary"].turn) == (0.2, whole.shares["canary"].turn + 1)


@pytest.mark.parametrize(
    ("p", "least", "message"),
    [(0.0, None, "propensity 0 is 0.0"), (1.5, 0.2, "propensity 0 is 1.5"), (0.5, 0.0, "least = 0.0")],
)
def test_impossible_propensities_are_refused(p: float, least: float | None, message: str) -> None:
    """They would end the guarantee."""
    with pytest.raises(ValueError, match=message):
        propensities_audited(Audit(), ["a"], np.array([p]), least=least)
    with pytest.raises(ValueError, match=r"share = 1\.0"):
        share_audited(Audit(), "canary", np.ones(1, np.bool_), share=1.0)
