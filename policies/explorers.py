"""Explorers as probability vectors: the chance of every arm, computed first, so that the arm can be drawn from it.

What is logged is then exact by construction; an error of the quadrature only perturbs the policy. EXPLORERS lists them,
each with its one rate; over any of them lies the floor (1 - epsilon) p + epsilon/K.

Sources: Thompson sampling, Agrawal & Goyal 2013; UCB, Li et al. 2010; SquareCB, Foster & Rakhlin 2020, section 3;
explore-first, Lattimore & Szepesvari 2020, chapter 6; the others in policies/closed_forms.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from policies.closed_forms import best, inverse_gap, normed, softmax, uncertainty
from policies.thompson import thompson
from policies.thompson_batch import thompson_batch
from policies.thompson_student import thompson_student

if TYPE_CHECKING:
    from policies.batch import FloatArray

LARGEST = 1e30
"""What a rate may be at most, so that products with it stay finite."""
NO_RATES: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What an explorer knows of K arms, for one context or for n at once.

    Attributes:
        mean: (K,) or (n, K) expected reward of each arm, in the reward's unit; on the logit scale of a logistic model.
        sd: (K,) or (n, K) standard deviation of each expectation, zero or more.
        count: number of impressions that the policy has learned from, undecayed.
        noise_sd: standard deviation of one reward around its expectation, above zero.
        dof: (K,) degrees of freedom of expectations that are Student t; None if they are normal.
    """

    mean: FloatArray
    sd: FloatArray
    count: float = 0.0
    noise_sd: float = 1.0
    dof: FloatArray | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explorer:
    """How an explorer makes probabilities of scores.

    Attributes:
        law: (scores, rate) -> probabilities, (K,) or (n, K) as the scores.
        rate: name of its one scalar; "epsilon" where the floor is all it has.
        default: what the scalar is unless told.
        positive: whether 0 is not allowed.
    """

    law: Callable[[Scores, float], FloatArray]
    rate: str
    default: float
    positive: bool = False


def squarecb(scores: Scores, gamma_scale: float) -> FloatArray:
    """(..., K) inverse gap weighting with gamma = gamma_scale sqrt(count)/noise_sd, so that the rate has no unit.

    >>> import numpy as np
    >>> squarecb(Scores(mean=np.array([0.0, 0.2]), sd=np.ones(2), count=100.0, noise_sd=1.0), 1.0).tolist()
    [0.25, 0.75]
    """
    return inverse_gap(scores.mean, gamma_scale * math.sqrt(scores.count) / scores.noise_sd)


def explore_first(scores: Scores, first: float) -> FloatArray:
    """(..., K) uniform until `first` impressions have been learned from, the best arms from then on.

    >>> import numpy as np
    >>> explore_first(Scores(mean=np.array([0.1, 0.2]), sd=np.ones(2), count=9.0), 10.0).tolist()
    [0.5, 0.5]
    """
    return normed(np.ones(scores.mean.shape)) if scores.count < first else best(scores.mean)


def _thompson(scores: Scores, alpha: float) -> FloatArray:
    if scores.dof is not None:
        return _thompson_student(scores, scores.dof, alpha)
    law = thompson if scores.mean.ndim == 1 else thompson_batch
    return law(scores.mean, alpha * scores.sd)


def _thompson_student(scores: Scores, dof: FloatArray, alpha: float) -> FloatArray:
    if scores.mean.ndim == 1:
        return thompson_student(scores.mean, alpha * scores.sd, dof)
    rows = zip(scores.mean, alpha * scores.sd, strict=True)
    return np.array([thompson_student(mean, sd, dof) for mean, sd in rows]).reshape(scores.mean.shape)


EXPLORERS: Mapping[str, Explorer] = MappingProxyType(
    {
        "thompson": Explorer(law=_thompson, rate="alpha", default=0.3),
        "ucb": Explorer(law=lambda at, alpha: best(at.mean + alpha * at.sd), rate="alpha", default=1.0),
        "epsilon-greedy": Explorer(law=lambda at, _: best(at.mean), rate="epsilon", default=0.0),
        "softmax": Explorer(law=lambda at, tau: softmax(at.mean, tau), rate="tau", default=0.02, positive=True),
        "squarecb": Explorer(law=squarecb, rate="gamma_scale", default=10.0),
        "explore-first": Explorer(law=explore_first, rate="first", default=1000.0),
        "uncertainty": Explorer(law=lambda at, power: uncertainty(at.sd, power), rate="power", default=1.0),
    }
)
"""The explorers by name. Their rates, in the settings and in a snapshot's `rates`:

    thompson, ucb   alpha        width in posterior standard deviations; 0 is greedy. Thompson's default of 0.3 is what
                                 measured best: at 1 the regret is 1.7 times as large (benchmarks/regret.py);
                                 with 0.2 fifty arms lose less early, but three arms more (docs/models.md)
    epsilon-greedy  epsilon      the floor's share, 0 to 1
    softmax         tau          temperature in the reward's unit; towards 0 greedy. 0.02 suits clicks; set it for others
    squarecb        gamma_scale  greediness, gamma = gamma_scale sqrt(count)/noise_sd; 0 is uniform. From 10 to 30 the
                                 regret was least at click rates of 50% and of 10%
    explore-first   first        number of impressions before it is greedy
    uncertainty     power        of the standard deviation; 0 is uniform
"""


def probabilities(
    mean: FloatArray,
    sd: FloatArray,
    *,
    explorer: str,
    rates: Mapping[str, float] = NO_RATES,
    count: float = 0.0,
    noise_sd: float = 1.0,
) -> FloatArray:
    """(K,) probability of each arm; not negative, sums to one.

    Args:
        mean, sd, count, noise_sd: see `Scores`.
        explorer: one of EXPLORERS.
        rates: the explorer's rate by its name, and "epsilon", the share of decisions drawn uniformly; what is not given
            is the default, 0 for epsilon.

    Raises:
        ValueError: unknown explorer or rate, no arms, a number that is not finite, or one out of its range.

    >>> import numpy as np
    >>> greedy = probabilities(np.array([0.1, 0.3, 0.3]), np.zeros(3), explorer="epsilon-greedy", rates={"epsilon": 0.1})
    >>> greedy.round(4).tolist()
    [0.0333, 0.4833, 0.4833]
    >>> probabilities(np.array([0.0, 0.0]), np.array([1.0, 2.0]), explorer="thompson").round(6).tolist()
    [0.5, 0.5]
    """
    complete = check(explorer, rates)
    if mean.ndim != 1 or mean.shape != sd.shape or not len(mean):
        raise ValueError(f"mean has shape {mean.shape}, sd {sd.shape}; both must be (K,) with at least one arm")
    if not (np.isfinite(mean).all() and np.isfinite(sd).all() and sd.min() >= 0.0):
        raise ValueError(f"means must be finite, sds finite and not negative: mean = {mean}, sd = {sd}")
    if not (0.0 <= count < math.inf and 0.0 < noise_sd < math.inf):
        raise ValueError(f"count = {count}, noise_sd = {noise_sd}: both must be finite, noise_sd above zero")
    return explore(Scores(mean=mean, sd=sd, count=count, noise_sd=noise_sd), explorer, complete)


def explore(scores: Scores, explorer: str, rates: Mapping[str, float]) -> FloatArray:
    """`probabilities` of what has been checked, (K,) or (n, K); `rates` holds the explorer's and epsilon.

    >>> import numpy as np
    >>> explore(Scores(mean=np.array([0.1, 0.2]), sd=np.ones(2)), "ucb", {"alpha": 1.0, "epsilon": 0.5}).tolist()
    [0.25, 0.75]
    """
    chosen = EXPLORERS[explorer]
    return floor(chosen.law(scores, rates[chosen.rate]), rates["epsilon"])


def check(explorer: str, rates: Mapping[str, float]) -> dict[str, float]:
    """The explorer's rate and epsilon, complete. Raises ValueError if one is unknown or out of range.

    >>> check("ucb", {"epsilon": 0.01})
    {'alpha': 1.0, 'epsilon': 0.01}
    >>> check("probability-matching", {})
    Traceback (most recent call last):
    ValueError: there is no explorer 'probability-matching'; choose one of thompson, ucb, epsilon-greedy, ...
    """
    return dict(_checked(explorer, tuple(rates.items())))


@lru_cache(maxsize=256)
def _checked(explorer: str, rates: tuple[tuple[str, float], ...]) -> dict[str, float]:
    if explorer not in EXPLORERS:
        raise ValueError(f"there is no explorer {explorer!r}; choose one of {', '.join(EXPLORERS)}")
    chosen = EXPLORERS[explorer]
    complete = {chosen.rate: chosen.default, "epsilon": 0.0}
    unknown = [name for name, _ in rates if name not in complete]
    if unknown:
        raise ValueError(f"explorer {explorer!r} has no rate {unknown[0]!r}; it has {', '.join(complete)}")
    complete |= {name: float(value) for name, value in rates}
    own, epsilon = complete[chosen.rate], complete["epsilon"]
    if not 0.0 <= epsilon <= 1.0:
        raise ValueError(f"epsilon = {epsilon}: must be between 0 and 1, both included")
    if not 0.0 <= own <= LARGEST or (chosen.positive and own == 0.0):
        raise ValueError(
            f"{chosen.rate} = {own}: must be {'above zero' if chosen.positive else 'not negative'}, at most {LARGEST:g}"
        )
    return complete


def check_known(explorer: str, rates: Mapping[str, float]) -> None:
    """Raise ValueError unless `explore` can use what a record says; rates that a later writer has added are passed over.

    >>> check_known("ucb", {"alpha": 1.0, "epsilon": 0.0, "later": 7.0})
    >>> check_known("ucb", {"epsilon": 0.0})
    Traceback (most recent call last):
    ValueError: explorer 'ucb' needs alpha and epsilon; its rates are {'epsilon': 0.0}
    """
    needed = {EXPLORERS[explorer].rate, "epsilon"} if explorer in EXPLORERS else set()
    if not needed <= rates.keys():
        raise ValueError(f"explorer {explorer!r} needs {' and '.join(sorted(needed))}; its rates are {dict(rates)}")
    check(explorer, {name: rates[name] for name in needed})


def floor(p: FloatArray, epsilon: float) -> FloatArray:
    """(1 - epsilon) p + epsilon/K: every arm keeps at least epsilon/K.

    >>> import numpy as np
    >>> floor(np.array([1.0, 0.0]), 0.5).tolist()
    [0.75, 0.25]
    """
    return p if epsilon == 0.0 else (1.0 - epsilon) * p + epsilon / p.shape[-1]
