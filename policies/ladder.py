"""How fast to forget: tracks of different half-lives side by side, scored by what they predicted.

Full information, not a bandit: when the label of an impression matures, every track's prediction of it is scored, whichever
track decided. With p_g the click rate that track g had predicted when the row was shown (Dawid 1984, prequential log-loss)::

    L_g <- f L_g + (1 - f) prior_g + log Bern(r; clip(p_g, .002, .998))
    f = 0.9999,   prior = 0, -1.5, -3, -4.5, ... from the longest half-life to the shortest

(1 - f) prior_g holds L_g to prior_g where the rows do not tell the tracks apart, so that the longest memory wins ties. After
a burn-in of 1,000 rows the track changes to the best one, if that leads by more than 1 nat. For rewards that are not 0/1 the
score is the logarithm of the normal density of the reward around p_g with the variance s2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from policies.batch import FloatArray

MEMORY = 0.9999
"""f: a score remembers about 10,000 rows."""
STEP = -1.5
"""From one prior to that of the next shorter half-life, in nats."""
BURN_IN, LEAD = 1000, 1.0
LEAST, MOST = 0.002, 0.998


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """Scores of G tracks.

    Attributes:
        half_lives_s: (G,) from the longest to the shortest; 0 first, if one forgets nothing.
        scores: (G,) L_g in nats.
        rows: number of rows that were scored.
        chosen: the track that decides now.
    """

    half_lives_s: tuple[float, ...]
    scores: tuple[float, ...]
    rows: int = 0
    chosen: int = 0

    @property
    def half_life_s(self) -> float:
        """Half-life of the track that decides; 0 forgets nothing."""
        return self.half_lives_s[self.chosen]


def ladder(half_lives_s: tuple[float, ...]) -> Ladder:
    """Scores before any row: the priors.

    Raises:
        ValueError: no half-life, or they do not go from the longest (0 is none) to the shortest.

    >>> ladder((0.0, 86400.0, 3600.0)).scores
    (0.0, -1.5, -3.0)
    """
    lengths = [np.inf if one == 0.0 else one for one in half_lives_s]
    if not lengths or min(lengths) < 0.0 or any(one <= two for one, two in pairwise(lengths)):
        raise ValueError(
            f"half_lives_s = {half_lives_s}: must go from the longest to the shortest, with 0 (none) only as the first"
        )
    return Ladder(half_lives_s=half_lives_s, scores=tuple((STEP * np.arange(len(lengths)) + 0.0).tolist()))


def scored(state: Ladder, predicted: FloatArray, reward: FloatArray, *, s2: float | None = None) -> tuple[Ladder, str]:
    """The ladder after n more matured rows, and in words why the track changed ("" if it did not).

    The track is judged once, after all rows: pass them in batches of a fixed rule if it must not depend on how they came.

    Args:
        state: before these rows.
        predicted: (n, G) expected reward under each track when the row was shown.
        reward: (n,) final rewards, in the order in which they matured; 0/1 unless `s2` is given.
        s2: variance of one reward, above zero, for rewards that are not 0/1.

    Raises:
        ValueError: shapes do not fit, a number is not finite, or a reward is not 0 or 1 without `s2`.

    >>> before = ladder((0.0, 3600.0))
    >>> after, reason = scored(before, np.tile([0.1, 0.5], (2000, 1)), np.tile([0.0, 1.0], 1000))
    >>> after.chosen, reason
    (1, 'half-life none -> 3600 s: ahead by 924.6 nats over 2000 labels')
    """
    tracks, n = len(state.scores), len(reward)
    if predicted.shape != (n, tracks) or reward.ndim != 1:
        raise ValueError(
            f"predicted has shape {predicted.shape}, reward {reward.shape}; must be (n, {tracks}) and (n,)"
        )
    if not (np.isfinite(predicted).all() and np.isfinite(reward).all()):
        raise ValueError("a prediction or a reward is not finite")
    faded = MEMORY**n
    prior = STEP * np.arange(tracks)
    new = MEMORY ** np.arange(n - 1, -1, -1) @ log_scores(predicted, reward, s2=s2)
    scores = faded * np.array(state.scores) + (1.0 - faded) * prior + new
    return _judged(replace(state, scores=tuple(scores.tolist()), rows=state.rows + n))


def log_scores(predicted: FloatArray, reward: FloatArray, *, s2: float | None = None) -> FloatArray:
    """(n, G) log probability (density, with `s2`) of each reward under each prediction.

    >>> log_scores(np.array([[0.5, 0.25]]), np.array([1.0])).round(3).tolist()
    [[-0.693, -1.386]]
    """
    r = reward[:, None]
    nats: FloatArray
    if s2 is not None:
        if not 0.0 < s2 < np.inf:
            raise ValueError(f"s2 = {s2}: the variance of a reward must be finite and above zero")
        nats = -0.5 * ((r - predicted) ** 2 / s2 + np.log(2.0 * np.pi * s2))
        return nats
    if not np.isin(reward, (0.0, 1.0)).all():
        raise ValueError("a reward is neither 0 nor 1; give s2, the variance of one reward, to score it")
    p = np.clip(predicted, LEAST, MOST)
    nats = np.where(r == 1.0, np.log(p), np.log1p(-p))
    return nats


def _judged(state: Ladder) -> tuple[Ladder, str]:
    best = int(np.argmax(state.scores))
    lead = state.scores[best] - state.scores[state.chosen]
    if state.rows < BURN_IN or lead <= LEAD:
        return state, ""
    names = [f"{one:g} s" if one else "none" for one in state.half_lives_s]
    reason = f"half-life {names[state.chosen]} -> {names[best]}: ahead by {lead:.1f} nats over {state.rows} labels"
    return replace(state, chosen=best), reason
