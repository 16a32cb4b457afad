"""Which of a few choices pays: discounted Beta-Thompson sampling over exploration rates, or over whole policies.

Choice j (of J) is drawn for each event and logged; when the event's reward r in [0, 1] matures, all J counts fade and the
choice's own grow (Raj & Kalyani 2017, discounted Thompson sampling)::

    S_j = 1 + d (S_j - 1) + r [j was drawn],    F_j = 9 + d (F_j - 9) + (1 - r) [j was drawn],    d = 0.9999

Counts that remember 10^4 events tell rates apart badly: over six rates the relative standard error is 12% at a click rate of
4%. So traffic leaves the default only as far as the evidence goes. With M1 the marginal likelihood of the counts when every
choice has a rate of its own, and M0 when all share one,

    M1 = prod_j B(S_j, F_j)/B(1, 9),    M0 = B(1 + sum (S_j - 1), 9 + sum (F_j - 9))/B(1, 9)
    e = M1/(M0 + M1),    q = k + (1 - J k) [(1 - e) default + e Thompson(S, F)]

k = 0.05 is what each choice keeps. Differences that are not evident have e near zero. The events that choices learn from
are shared (what one explores, all exploit), so the layer sees less of what exploring is worth than there is; rewards of the
choices are compared as they are, so it must not be fed with off-policy values of logged rewards.

An arm's propensity is that of the mixture, sum_j q_j p^(j), whichever j was drawn (`mixed`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.special import betaln, expit

from policies.beta_thompson import thompson_beta

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.batch import FloatArray

MEMORY = 0.9999
KEPT = 0.05
"""Share of traffic that each choice keeps, so that a change is seen."""
START_S, START_F = 1.0, 9.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TopLayer:
    """Discounted counts of J choices.

    Attributes:
        S, F: (J,) counts of reward and of its absence, with their starts 1 and 9.
        default: index of the choice that is made until others are evidently better.
        bound: largest reward of one event; rewards are counted as shares of it.
        kept: share of events that each choice keeps.
        memory: d, weight of the counts after one more event.

    Raises:
        ValueError: a setting that cannot work.
    """

    S: tuple[float, ...]
    F: tuple[float, ...]
    default: int
    bound: float = 1.0
    kept: float = KEPT
    memory: float = MEMORY

    def __post_init__(self) -> None:
        J = len(self.S)
        if J < 1 or len(self.F) != J:
            raise ValueError(f"S has {J} counts, F {len(self.F)}; both must have one for each choice, at least one")
        if not 0 <= self.default < J:
            raise ValueError(f"default = {self.default}: must be the index of one of the {J} choices")
        if not 0.0 < self.bound < np.inf:
            raise ValueError(f"bound = {self.bound}: must be the largest reward of one event, finite and above zero")
        if not 0.0 <= self.kept * J <= 1.0:
            raise ValueError(f"kept = {self.kept}: must be between 0 and 1/{J}, as each of {J} choices keeps it")
        if not 0.0 < self.memory <= 1.0:
            raise ValueError(f"memory = {self.memory}: must be above 0, and at most 1, which forgets nothing")


def top_layer(
    choices: int, *, default: int, bound: float = 1.0, kept: float = KEPT, memory: float = MEMORY
) -> TopLayer:
    """The layer before any event.

    >>> law(top_layer(3, default=1, kept=0.0)).round(2).tolist()[1] > 0.5
    True
    """
    return TopLayer(
        S=(START_S,) * choices, F=(START_F,) * choices, default=default, bound=bound, kept=kept, memory=memory
    )


def evidence(state: TopLayer) -> float:
    """e, the posterior probability that choices differ, with even odds beforehand: M1/(M0 + M1).

    >>> round(evidence(TopLayer(S=(201.0, 1.0), F=(809.0, 1009.0), default=0)), 6)  # 200 of 1,000 against none
    1.0
    >>> evidence(TopLayer(S=(41.0, 41.0), F=(969.0, 969.0), default=0)) < 0.2  # 40 of 1,000, both
    True
    """
    S, F = np.array(state.S), np.array(state.F)
    own = float((betaln(S, F) - betaln(START_S, START_F)).sum())
    shared = betaln(START_S + (S - START_S).sum(), START_F + (F - START_F).sum()) - betaln(START_S, START_F)
    return float(expit(own - shared))


def law(state: TopLayer) -> FloatArray:
    """(J,) q, the probability of each choice; sums to one.

    >>> state = top_layer(2, default=0)
    >>> state = matured(state, np.repeat([0, 1], 2000), np.repeat([0.0, 1.0], 2000))
    >>> law(state).round(3).tolist()
    [0.05, 0.95]
    """
    J, e = len(state.S), evidence(state)
    inner = e * thompson_beta(np.array(state.S), np.array(state.F))
    inner[state.default] += 1.0 - e
    q: FloatArray = state.kept + (1.0 - J * state.kept) * inner
    q /= q.sum()
    return q


def draw(state: TopLayer, rng: np.random.Generator, size: int) -> npt.NDArray[np.intp]:
    """(size,) choices drawn from `law`, independent of each other.

    >>> draw(top_layer(1, default=0), np.random.default_rng(1), 3).tolist()
    [0, 0, 0]
    """
    q = law(state)
    drawn: npt.NDArray[np.intp] = rng.choice(len(q), size=size, p=q).astype(np.intp)
    return drawn


def matured(state: TopLayer, choice: npt.NDArray[np.integer], reward: FloatArray) -> TopLayer:
    """The layer after n more events whose rewards are final, in the order in which they matured.

    Args:
        state: before.
        choice: (n,) index of the choice that was drawn for each event.
        reward: (n,) final rewards, between 0 and the bound.

    Raises:
        ValueError: lengths differ, a choice is unknown, or a reward lies outside the declared bound.

    >>> after = matured(top_layer(2, default=0, memory=0.5), np.array([0, 1]), np.array([1.0, 0.0]))
    >>> after.S, after.F  # 1 + 1/2, 9 + 1
    ((1.5, 1.0), (9.0, 10.0))
    """
    J, n = len(state.S), len(reward)
    if choice.shape != (n,) or reward.ndim != 1:
        raise ValueError(f"choice has shape {choice.shape}, reward {reward.shape}; both must be (n,)")
    if not ((choice >= 0) & (choice < J)).all():
        raise ValueError(f"choices lie between {choice.min()} and {choice.max()}; they must be indices of {J} choices")
    if not ((reward >= 0.0) & (reward <= state.bound)).all():
        raise ValueError(
            f"rewards lie between {reward.min()} and {reward.max()}; the bound that was declared allows 0 to "
            f"{state.bound:g}: declare a larger one, or clip them"
        )
    share, weights = reward / state.bound, state.memory ** np.arange(n - 1, -1, -1)
    kept = state.memory**n
    S = START_S + kept * (np.array(state.S) - START_S) + np.bincount(choice, weights * share, minlength=J)
    F = START_F + kept * (np.array(state.F) - START_F) + np.bincount(choice, weights * (1.0 - share), minlength=J)
    return replace(state, S=tuple(S.tolist()), F=tuple(F.tolist()))


def mixed(q: FloatArray, laws: FloatArray) -> FloatArray:
    """(..., K) propensities sum_j q_j p^(j) of arms when the choice j is drawn first; q (J,), laws (J, ..., K).

    Raises:
        ValueError: q is not a probability for each law.

    >>> mixed(np.array([0.25, 0.75]), np.array([[1.0, 0.0], [0.0, 1.0]])).tolist()
    [0.25, 0.75]
    """
    if q.shape != laws.shape[:1] or not np.isclose(q.sum(), 1.0) or q.min() < 0.0:
        raise ValueError(f"q = {q} for {len(laws)} laws: must hold one probability for each, which sum to one")
    p: FloatArray = np.tensordot(q, laws, axes=1)
    return p


def told(before: TopLayer, after: TopLayer, names: Sequence[str]) -> str:
    """In words, which choice most events go to now and why; "" where it is the same as before.

    >>> before = top_layer(2, default=0)
    >>> told(before, matured(before, np.repeat([0, 1], 2000), np.repeat([0.0, 1.0], 2000)), ["0.3", "1"])
    '0.3 -> 1: 95% of events; that the choices differ has the probability 1.00'
    """
    return moved(after, int(law(before).argmax()), names)[1]


def moved(state: TopLayer, leader: int, names: Sequence[str], *, of: str = "events") -> tuple[int, str]:
    """Index of the choice that most events (or what `of` says) go to, and in words what changed since another led, "" if nothing did.

    >>> moved(top_layer(2, default=0), 0, ["0.3", "1"])
    (0, '')
    """
    q = law(state)
    new = int(q.argmax())
    if new == leader:
        return leader, ""
    return new, (
        f"{names[leader]} -> {names[new]}: {q[new]:.0%} of {of}; that the choices differ has the probability {evidence(state):.2f}"
    )
