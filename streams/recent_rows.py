"""The newest matured rows of one policy, read once from the end of the feedback topic: for guardrails where nobody follows it.

The last records of each partition are read, then more and more of them, until there are rows enough, or no records are left, or
`LOOK_S` have passed: a snapshot that waits for it waits no longer, and what was found until then counts.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import structlog

from policies.guardrails import Logged
from streams.meta_feedback import FeedbackFollower
from streams.reading import ReadError

if TYPE_CHECKING:
    from policies.meta_state import Rows
    from streams.settings import Settings

log = structlog.get_logger(__name__)

LOOK_S = 2.0
"""What it takes at most, once the brokers have said where the partitions end."""
FIRST, MORE, LAST = 32, 8, 16_384
"""Records of a partition that are read first, how many times as many next, and at most."""
WAIT_S = 0.005


class Newest:
    """The newest of the rows that were taken, by event time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._ts = np.zeros(0, np.int64)
        self.logged = Logged(arm=(), x=np.zeros((0, 0)), propensity=np.zeros(0))

    def take(self, rows: Rows) -> None:
        """Take more rows; of those of one time, the later ones are newer."""
        if rows.propensity is None or not len(rows.arm):
            return
        was, ts = self.logged, np.concatenate([self._ts, rows.ts])
        x = np.asarray(rows.x, np.float64)
        x = np.concatenate([was.x, x]) if len(was.arm) else x
        arm, propensity = [*was.arm, *rows.arm], np.concatenate([was.propensity, rows.propensity])
        kept = np.argsort(ts, kind="stable")[-self._most :]
        self._ts = ts[kept]
        self.logged = Logged(arm=[arm[i] for i in kept.tolist()], x=x[kept], propensity=propensity[kept])


def newest_rows(settings: Settings, policy: str, *, most: int) -> Logged:
    """The newest rows of a policy that learn, at most so many; fewer, or none, where there are no more or they cannot be read in time."""
    try:
        follower = FeedbackFollower(settings, limits={policy: settings.policies[policy].feature_limit})
    except ReadError as error:
        log.warning("matured rows cannot be read for a guardrail", policy=policy, error=str(error))
        return Newest(most).logged
    try:
        return _backwards(follower, most)
    except ReadError as error:
        log.warning("matured rows cannot be read for a guardrail", policy=policy, error=str(error))
        return Newest(most).logged
    finally:
        follower.close()


def _backwards(follower: FeedbackFollower, most: int) -> Logged:
    """Read from further and further back."""
    back, until = FIRST, time.monotonic() + LOOK_S
    while True:
        found = _since(follower, back, most, until)
        whole = all(high - back <= low for low, high in follower.bounds.values())
        if whole or len(found.arm) >= most or back >= LAST or time.monotonic() >= until:
            return found
        back *= MORE


def _since(follower: FeedbackFollower, back: int, most: int, until: float) -> Logged:
    """The newest rows of so many records of each partition."""
    found = Newest(most)
    follower.start({number: max(low, high - back) for number, (low, high) in follower.bounds.items()})
    while len(follower.ended) < len(follower.bounds) and time.monotonic() < until:
        for record in follower.records():
            if record.rows is not None:
                found.take(record.rows)
        time.sleep(WAIT_S)
    return found.logged
