"""Expiry: what counts is a function of the log, however it was cut and whenever sums were dropped."""

from __future__ import annotations

from typing import Any

import numpy as np

from policies.batch import Batch
from policies.expiry import admit, expired
from policies.model import make_model

EXPIRE, HOLD = 1000, 300
MODEL = make_model("linear", dimension=1)
Row = tuple[int, float]


def log(seed: int, n: int = 400) -> tuple[list[str], list[int], list[Row]]:
    """Arms and times of impressions in the order of the log, late ones among them; and (row, reward) of clicks."""
    rng = np.random.default_rng(seed)
    arms = [str(rng.choice(["a", "b", "c", "rare"], p=[0.6, 0.3, 0.07, 0.03])) for _ in range(n)]
    clock = np.cumsum(rng.integers(0, 60, n))
    late = rng.integers(0, HOLD // 2, n) * (rng.random(n) < 0.2)
    clicks = [(int(i), float(rng.integers(1, 8)) / 4) for i in np.flatnonzero(rng.random(n) < 0.3)]
    return arms, (clock - late).tolist(), clicks


def batch(arms: list[str], ts: list[int], shown: list[int], clicks: list[Row]) -> Batch:
    """These impressions, and changes of reward of these rows; contexts are dyadic."""
    names = ("a", "b", "c", "rare")
    x = np.array([[(i % 16) / 8] for i in range(len(arms))])
    code = np.array([names.index(arm) for arm in arms])
    paid = [i for i, _ in clicks]
    reward = np.array([value for _, value in clicks])
    return Batch(
        arms=names, arm=code[shown], x=x[shown], ts=np.array(ts, np.int64)[shown], reward_arm=code[paid],
        reward_x=x[paid].reshape(len(paid), 1), reward_ts=np.array(ts, np.int64)[paid], reward=reward, square=reward**2,
    )  # fmt: skip


def lives(arms: list[str], ts: list[int], clicks: list[Row]) -> dict[str, tuple[float, float, float]]:
    """The oracle: each arm's n, reward and newest of its last life, row by row."""
    newest: dict[str, int] = {}
    floor: dict[str, int] = {}
    for arm, t in zip(arms, ts, strict=True):
        if arm in newest and t - newest[arm] > EXPIRE:
            floor[arm] = newest[arm]
        newest[arm] = max(newest.get(arm, t), t)
    result = {}
    for arm, last in newest.items():
        rows = [i for i in range(len(arms)) if arms[i] == arm and ts[i] > floor.get(arm, -(1 << 62))]
        result[arm] = (float(len(rows)), sum(value for i, value in clicks if i in set(rows)), float(last))
    return result


def learned(
    seed: int, step: int, *, delay: int, drop: bool, floors_kept: bool = True
) -> dict[str, tuple[float, float, float]]:
    """Sums after reading in batches of `step`; clicks come `delay` batches after their impressions."""
    arms, ts, clicks = log(seed)
    sums: dict[str, Any] = {}
    floors: dict[str, int] = {}
    starts = range(0, len(arms) + delay * step, step)
    for start in starts:
        shown = list(range(start, min(start + step, len(arms))))
        came = [row for row in clicks if start <= row[0] + delay * step < start + step]
        left = admit(sums, floors, batch(arms, ts, shown, came), expire_ms=EXPIRE)
        if floors_kept:
            floors |= left.floors
        sums = MODEL.update({arm: one for arm, one in sums.items() if arm not in left.floors}, left.batch)
        read = start + step - delay * step  # clicks are read up to here: the watermark stands there
        if drop and read > 0:
            for arm in expired(sums, watermark_ms=max(ts[: min(read, len(ts))]), expire_ms=EXPIRE, hold_ms=HOLD):
                del sums[arm]
                floors.pop(arm, None)
    return {arm: (one.n, one.reward, float(one.newest_ms)) for arm, one in sums.items()}


def test_any_cut_gives_the_oracle_s_sums() -> None:
    """Batches of 1, 7, 50 and the whole log, clicks at once or far behind: the last life of each arm, bit for bit."""
    for seed in range(6):
        truth = lives(*log(seed))
        for step, delay in ((1, 0), (7, 0), (7, 12), (50, 3), (400, 0), (400, 1)):
            assert learned(seed, step, delay=delay, drop=False) == truth, (seed, step, delay)


def test_dropping_the_sums_changes_nothing_of_what_comes() -> None:
    """With drops at every cut, the arms that are left have the oracle's sums, and what is missing had expired."""
    for seed in range(6):
        truth = lives(*log(seed))
        end = max(log(seed)[1])
        for step, delay in ((1, 0), (7, 12), (50, 3), (400, 1)):
            found = learned(seed, step, delay=delay, drop=True)
            late = {arm for arm in truth if truth[arm][2] + EXPIRE + HOLD < end}
            assert {arm: found.get(arm, truth[arm]) for arm in truth} == truth, (seed, step, delay)
            assert set(truth) - set(found) <= late


def test_without_floors_a_late_click_would_count() -> None:
    """The broken variant: a click of an old life is added when it is joined after the arm came back."""
    wrong = [
        seed for seed in range(6) if learned(seed, 7, delay=12, drop=False, floors_kept=False) != lives(*log(seed))
    ]
    assert wrong


def test_the_logs_do_have_arms_that_come_back() -> None:
    """Else the laws above would say nothing."""
    came_back = [seed for seed in range(6) if sum(n for n, _, _ in lives(*log(seed)).values()) < 400]
    assert len(came_back) >= 4
