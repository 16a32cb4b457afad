"""Batches for tests: dyadic numbers, so that sums are exact whatever their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from policies.batch import Batch
from policies.sums import Effective

if TYPE_CHECKING:
    from policies.batch import FloatArray

START_MS = 1_700_000_000_000
ARMS = ("a", "b", "c", "d")


def dyadic(seed: int, n: int, *, d: int = 3, span_s: int = 40, start_ms: int = START_MS) -> Batch:
    """Make n impressions at whole seconds within `span_s`, in eighths; about a third of them with a reward of 1 to 3."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-8, 9, (n, d)) / 8
    arm, ts = rng.integers(0, len(ARMS), n), start_ms + 1000 * rng.integers(0, span_s, n)
    hit = np.flatnonzero(rng.random(n) < 0.3)
    reward = rng.integers(1, 4, len(hit)).astype(np.float64)
    return Batch(
        arms=ARMS,
        arm=arm,
        x=x,
        ts=ts,
        reward_arm=arm[hit],
        reward_x=x[hit],
        reward_ts=ts[hit],
        reward=reward,
        square=reward**2,
    )


def take(batch: Batch, shown: list[int] | slice, rewarded: list[int] | slice) -> Batch:
    """Some rows of a batch."""
    one = np.arange(len(batch.arm))[shown]
    two = np.arange(len(batch.reward))[rewarded]
    return Batch(
        arms=batch.arms,
        arm=batch.arm[one],
        x=batch.x[one],
        ts=batch.ts[one],
        reward_arm=batch.reward_arm[two],
        reward_x=batch.reward_x[two],
        reward_ts=batch.reward_ts[two],
        reward=batch.reward[two],
        square=batch.square[two],
    )


def shown(arm: str, ts: list[int], x: list[list[float]] | None = None) -> Batch:
    """Impressions of one arm at these times (ms), without rewards; a context of one constant unless told."""
    contexts = np.ones((len(ts), 1)) if x is None else np.array(x)
    return Batch(
        arms=(arm,),
        arm=np.zeros(len(ts), np.intp),
        x=contexts,
        ts=np.array(ts, np.int64),
        reward_arm=np.zeros(0, np.intp),
        reward_x=contexts[:0],
        reward_ts=np.zeros(0, np.int64),
        reward=np.zeros(0),
        square=np.zeros(0),
    )


def clicks(arm: str, ts: list[int], x: FloatArray, reward: list[float]) -> Batch:
    """Rewards of one arm for impressions at these times (ms) with these contexts, which are not in the batch."""
    rewards = np.array(reward)
    return Batch(
        arms=(arm,),
        arm=np.zeros(0, np.intp),
        x=x[:0],
        ts=np.zeros(0, np.int64),
        reward_arm=np.zeros(len(ts), np.intp),
        reward_x=x,
        reward_ts=np.array(ts, np.int64),
        reward=rewards,
        square=rewards**2,
    )


def bits(read: Effective) -> bytes:
    """All numbers of an arm, to compare to the last bit."""
    scalars = np.array([read.n_eff, read.count, read.reward, read.square])
    return scalars.tobytes() + read.b.tobytes() + read.A.tobytes()


def regression(theta: FloatArray, n: int, s2: float, rng: np.random.Generator) -> Effective:
    """Sums of n rows of one arm: a constant and standard normal features, rewards x^T theta with noise variance s2."""
    x = np.column_stack([np.ones(n), rng.normal(size=(n, len(theta) - 1))])
    r = x @ theta + rng.normal(0, np.sqrt(s2), n)
    return Effective(
        n_eff=float(n), count=float(n), reward=float(r.sum()), square=float((r**2).sum()), b=x.T @ r, A=x.T @ x
    )
