"""Promotion: whether a changed policy earns more than the one that it would replace, judged while both run.

A canary decides a share beta of the decisions, chosen at random for each decision. With r in [0, 1] the reward of decision i::

    D_i = r_i/beta if the canary decided, else -r_i/(1 - beta)
    W_n = prod (1 + l_i D_i)        promote at W_n >= 1/a
    M_n = prod (1 - m_i D_i)        roll back at M_n >= 1/a

Given what came before, D_i has the mean of the difference in reward. Where the canary is not better, W is a nonnegative supermartingale:
the chance that it ever reaches 1/a is at most a, however often one looks (Ville 1939). The bets are predictable, made of the n - 1
decisions before, with sums S of D and Q of D^2::

    l_i = min(max(S/k, sqrt(v/k)/2)/v, (1 - beta)/2),   v = (Q + Q_0)/k,   k = i - 1 + 1000,   Q_0 = 1000 * 0.05/beta

and m_i with -S for S, at most beta/2. So no factor falls below 1/2. S/k over v is the plug-in Kelly bet (Waudby-Smith & Ramdas 2024,
appendix B); half a standard error beside it keeps the bet from being 0 where the first decisions went the other way: it costs
log(n)/8 nats, and the time to a promotion is a tenth shorter. The k-th candidate has a = level * 6/(pi^2 k^2), which sum to the level
over all candidates ever tried (alpha spending, Bonferroni).

**Where units keep their group** (a visitor always has the same policy) the D of a unit are not independent, and W is no martingale
over decisions. A unit is then one bet for each period, on its mean reward, when the period is over (policies/sticky.py): r_i is that mean.

States are functions of the decisions in their order, bit for bit however they are cut into batches: sums run one by one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from policies.batch import FloatArray

Verdict = Literal["", "promote", "roll back"]
Bits = npt.NDArray[np.bool_]

LEVEL = 0.05
START, START_SQUARE = 1000.0, 0.05
"""Decisions that the variance starts from, and their mean square reward."""
LEAST_BET = 0.5
"""Standard errors of the mean that are bet at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The test of one candidate.

    Attributes:
        number: k, from 1: how many candidates the policy has had, this one included.
        share: beta, of the decisions that the canary makes.
        level: over all candidates together.
        promote, roll_back: log W and log M.
        canary, incumbent: decisions of each.
        canary_reward, incumbent_reward: sums of their rewards in [0, 1].
        total, square: S and Q.
        verdict: "" while neither is reached; what comes after a verdict is not looked at.
    """

    number: int
    share: float
    level: float = LEVEL
    promote: float = 0.0
    roll_back: float = 0.0
    canary: int = 0
    incumbent: int = 0
    canary_reward: float = 0.0
    incumbent_reward: float = 0.0
    total: float = 0.0
    square: float = 0.0
    verdict: Verdict = ""

    @property
    def spent(self) -> float:
        """a, what this candidate may spend of the level."""
        return spending(self.number, level=self.level)


def trial(number: int, *, share: float, level: float = LEVEL) -> Trial:
    """Before any decision.

    Raises:
        ValueError: the number is below 1, or share or level not between 0 and 1.

    >>> trial(2, share=0.1).spent.__round__(5)
    0.0076
    """
    if number < 1:
        raise ValueError(f"number = {number}: candidates count from 1")
    for name, value in (("share", share), ("level", level)):
        if not 0.0 < value < 1.0:
            raise ValueError(f"{name} = {value}: must be between 0 and 1, neither included; for example 0.1")
    return Trial(number=number, share=share, level=level)


def spending(number: int, *, level: float = LEVEL) -> float:
    """What candidate k spends of the level, level * 6/(pi^2 k^2).

    >>> [round(spending(k), 4) for k in (1, 2, 3)]
    [0.0304, 0.0076, 0.0034]
    """
    return level * 6.0 / (math.pi * number) ** 2


def judged(state: Trial, canary: Bits, reward: FloatArray) -> Trial:
    """The test after n more matured decisions, up to the one that reached a verdict.

    Args:
        state: before these.
        canary: (n,) whether the canary decided.
        reward: (n,) in [0, 1], in the order in which they matured.

    Raises:
        ValueError: a reward outside [0, 1], or shapes differ.

    >>> rng = np.random.default_rng(1)
    >>> canary = rng.random(40_000) < 0.1
    >>> clicked = (rng.random(40_000) < np.where(canary, 0.08, 0.05)).astype(float)
    >>> judged(trial(1, share=0.1), canary, clicked).verdict
    'promote'
    """
    _check(canary, reward)
    if state.verdict or not len(reward):
        return state
    beta = state.share
    difference = np.where(canary, 1.0 / beta, -1.0 / (1.0 - beta)) * reward
    before, total = _running(state.total, difference)
    square_before, square = _running(state.square, difference * difference)
    rows = np.arange(len(reward), dtype=np.float64) + (state.canary + state.incumbent + START)
    _, promote = _running(state.promote, np.log1p(_bet(before, square_before, rows, beta, up=True) * difference))
    _, back = _running(state.roll_back, np.log1p(-_bet(before, square_before, rows, beta, up=False) * difference))
    needed = -math.log(state.spent)
    reached = np.flatnonzero((promote >= needed) | (back >= needed))
    n = int(reached[0]) + 1 if len(reached) else len(reward)
    verdict: Verdict = "" if not len(reached) else "promote" if promote[n - 1] >= needed else "roll back"
    ours = int(np.count_nonzero(canary[:n]))
    return replace(
        state,
        promote=float(promote[n - 1]),
        roll_back=float(back[n - 1]),
        canary=state.canary + ours,
        incumbent=state.incumbent + n - ours,
        canary_reward=float(_running(state.canary_reward, np.where(canary, reward, 0.0))[1][n - 1]),
        incumbent_reward=float(_running(state.incumbent_reward, np.where(canary, 0.0, reward))[1][n - 1]),
        total=float(total[n - 1]),
        square=float(square[n - 1]),
        verdict=verdict,
    )


def evidence(state: Trial, *, of: str = "decisions") -> str:
    """What the test has seen, in words; ``of``: what it bets on.

    >>> evidence(Trial(number=1, share=0.1, canary=1000, incumbent=9000, canary_reward=60.0, incumbent_reward=450.0, promote=1.2))
    'mean reward 0.06 of 1000 decisions against 0.05 of 9000 (+20.0%), wealth 3.32 to promote and 1 to roll back, 32.9 needed'
    """
    ours = state.canary_reward / state.canary if state.canary else math.nan
    theirs = state.incumbent_reward / state.incumbent if state.incumbent else math.nan
    lift = f" ({ours / theirs - 1.0:+.1%})" if theirs > 0.0 else ""
    return (
        f"mean reward {ours:.4g} of {state.canary} {of} against {theirs:.4g} of {state.incumbent}{lift}, "
        f"wealth {_wealth(state.promote)} to promote and {_wealth(state.roll_back)} to roll back, {1.0 / state.spent:.3g} needed"
    )


def _bet(total: FloatArray, square: FloatArray, rows: FloatArray, beta: float, *, up: bool) -> FloatArray:
    """(n,) bets of what came before each decision."""
    variance = (square + START * START_SQUARE / beta) / rows
    mean = (total if up else -total) / rows
    most = (1.0 - beta) / 2.0 if up else beta / 2.0
    bet: FloatArray = np.minimum(np.maximum(mean, LEAST_BET * np.sqrt(variance / rows)) / variance, most)
    return bet


def _running(start: float, terms: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(n,) sums before and after each term, added one by one: the same whatever the batches."""
    sums = np.cumsum(np.concatenate([[start], terms]))
    return sums[:-1], sums[1:]


def _wealth(log: float) -> str:
    return f"{math.exp(min(log, 700.0)):.3g}"


def _check(canary: Bits, reward: FloatArray) -> None:
    if canary.shape != reward.shape or reward.ndim != 1:
        raise ValueError(f"canary has shape {canary.shape}, reward {reward.shape}; both must be (n,)")
    wrong = ~((reward >= 0.0) & (reward <= 1.0))
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ValueError(f"reward {i} is {reward[i]}; rewards must be scaled into [0, 1] by bounds declared beforehand")
