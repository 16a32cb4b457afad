"""The log that the benchmarks read: impressions at 1,000 a second of event time, clicks on 3% of them, and the sums they give.

Contexts are multiples of 1/64 in [-1, 1], so that every float32 is exact and the learner's sums can be compared bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streams.columns import ImpressionColumns, OutcomeColumns, names
from streams.events import Codec, Impression, Outcome

ARMS = 100
DIMENSION = 32
CLICK_RATE = 0.03
MEAN_DELAY_MS = 30_000
LONGEST_DELAY_MS = 590_000
IMPRESSIONS_PER_S = 1_000
WINDOW_S = 600
GRACE_S = 60
POLICY = "front"
SLOT = "top"
PROPENSITY = 1 / ARMS
SNAPSHOT = 17
ARM_NAMES = [f"ad-{i}" for i in range(ARMS)]

Ints = npt.NDArray[np.int64]
Sums = dict[str, dict[str, object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """n impressions in order of event time, m clicks in order of theirs; times in ms UTC."""

    ts: Ints  # (n,)
    arm: npt.NDArray[np.int8]  # (n,) position in ARM_NAMES
    context: npt.NDArray[np.int8]  # (n, DIMENSION) in units of 1/64
    clicked: Ints  # (m,) the impression clicked on
    click_ts: Ints  # (m,)

    @property
    def events(self) -> int:
        """Impressions and clicks together."""
        return len(self.ts) + len(self.clicked)

    def x(self, rows: slice) -> npt.NDArray[np.float32]:
        """Contexts of some impressions, (rows, DIMENSION)."""
        return self.context[rows].astype(np.float32) / np.float32(64)

    def impressions(self, rows: slice, codec: Codec) -> Iterator[Impression]:
        """Some impressions as events; the context as the codec carries it."""
        x = self.x(rows)
        contexts = x.tolist() if codec == "json" else [row.tobytes() for row in x.astype("<f4")]
        for i, context in zip(range(rows.start, rows.stop), contexts, strict=True):
            yield Impression(
                decision_id=decision_id(i),
                slot=SLOT,
                policy=POLICY,
                snapshot=SNAPSHOT,
                arm=ARM_NAMES[self.arm[i]],
                propensity=PROPENSITY,
                context=context,
                ts=int(self.ts[i]),
            )

    def clicks(self, rows: slice) -> Iterator[Outcome]:
        """Some clicks as events."""
        for row, ts in zip(self.clicked[rows].tolist(), self.click_ts[rows].tolist(), strict=True):
            yield Outcome(decision_id=decision_id(row), slot=SLOT, outcome_id="click", ts=ts)

    def impression_columns(self, rows: Ints) -> ImpressionColumns:
        """Impressions (k,) of one partition as a columnar batch."""
        arms, arm = names([ARM_NAMES[i] for i in self.arm[rows].tolist()])
        n = len(rows)
        return ImpressionColumns(
            type="impression",
            n=n,
            decision_id=[decision_id(i) for i in rows.tolist()],
            slots=[SLOT],
            slot=np.zeros(n, "<u4").tobytes(),
            policy=POLICY,
            arms=arms,
            arm=arm,
            propensity=np.full(n, PROPENSITY, "<f8").tobytes(),
            snapshot=np.full(n, SNAPSHOT, "<i8").tobytes(),
            ts=self.ts[rows].astype("<i8").tobytes(),
            dimension=DIMENSION,
            context=(self.context[rows].astype("<f4") / np.float32(64)).tobytes(),
        )

    def click_columns(self, rows: Ints) -> OutcomeColumns:
        """Clicks (k,) of one partition as a columnar batch."""
        n = len(rows)
        return OutcomeColumns(
            type="outcome",
            n=n,
            decision_id=[decision_id(i) for i in self.clicked[rows].tolist()],
            slots=[SLOT],
            slot=np.zeros(n, "<u4").tobytes(),
            outcome_id=["click"] * n,
            kinds=["click"],
            kind=np.zeros(n, "<u4").tobytes(),
            value=np.ones(n, "<f8").tobytes(),
            ts=self.click_ts[rows].astype("<i8").tobytes(),
        )

    def sums(self) -> Sums:
        """What the learner has to find for each arm, by one pass of numpy: n, reward, b (DIMENSION,), A (DIMENSION, DIMENSION)."""
        found: Sums = {}
        rewarded = np.zeros(len(self.ts), np.bool_)
        rewarded[self.clicked] = True
        for code, name in enumerate(ARM_NAMES):
            rows = np.flatnonzero(self.arm == code)
            if not len(rows):
                continue
            x = self.context[rows].astype(np.float64) / 64
            reward = rewarded[rows].astype(np.float64)
            found[name] = {
                "n": float(len(rows)),
                "reward": float(reward.sum()),
                "b": (reward @ x).tolist(),
                "A": (x.T @ x).tolist(),
            }
        return found


def decision_id(row: int) -> str:
    """A name of 16 characters, different for each row.

    >>> decision_id(1)
    '9e3779b97f4a7c15'
    """
    return f"{row * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF:016x}"


def make_past(impressions: int, *, end_ms: int) -> Workload:
    """A log of so many impressions, 1,000 a second, whose last click lies before `end_ms`."""
    return make(impressions, start_ms=end_ms - LONGEST_DELAY_MS - impressions - 1)


def make(
    impressions: int,
    *,
    start_ms: int,
    per_s: float = IMPRESSIONS_PER_S,
    mean_delay_ms: int = MEAN_DELAY_MS,
    seed: int = 0,
) -> Workload:
    """A log of so many impressions from a time on, `per_s` a second, with their clicks `mean_delay_ms` later on average."""
    rng = np.random.default_rng(seed)
    ts = start_ms + (np.arange(impressions) * (1000 / per_s)).astype(np.int64)
    clicked = np.flatnonzero(rng.random(impressions) < CLICK_RATE)
    delay = np.minimum(rng.exponential(mean_delay_ms, len(clicked)).astype(np.int64), LONGEST_DELAY_MS)
    click_ts = ts[clicked] + delay
    order = np.argsort(click_ts, kind="stable")
    return Workload(
        ts=ts,
        arm=rng.integers(0, ARMS, impressions, dtype=np.int8),
        context=rng.integers(-64, 65, (impressions, DIMENSION), dtype=np.int8),
        clicked=clicked[order],
        click_ts=click_ts[order],
    )
