"""Decisions for several slots at once: a function of snapshot, contexts, candidates and a generator.

As policies/decide.py for one slot, with policies/allocation.py in place of drawing one arm; what is logged is said there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from policies.allocation import DRAWS, Allocation, Method, allocate, swap
from policies.arm_contexts import ArmContexts
from policies.beta_thompson import beta_moments
from policies.decide import Kind, check_contexts, rows_of, scores_of
from policies.matching import EMPTY, Mask, Mode
from policies.offers import NO_TERMS, Terms, offer
from policies.stack import BetaStack, LinearStack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.batch import FloatArray
    from policies.snapshot import Snapshot
    from policies.stack import Index


BY_MEAN = frozenset({"epsilon-greedy", "softmax", "squarecb", "explore-first"})
"""Explorers to which standard deviations say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotDecision:
    """What is shown in K slots, to be logged with each.

    Attributes:
        arms: what to show in each slot, None where nothing may be shown.
        propensity: marginal probability of each.
        propensity_kind: see `policies.allocation`.
        snapshot: version decided from.
        candidates: the N arms that could have been chosen.
        allocation: the law; its indices are into `candidates`.
    """

    arms: tuple[str | None, ...]
    propensity: tuple[float, ...]
    propensity_kind: Kind
    snapshot: int
    candidates: tuple[str, ...]
    allocation: Allocation


def decide_slots(
    snapshot: Snapshot,
    context: npt.ArrayLike | ArmContexts,
    candidates: Sequence[str] | None = None,
    *,
    kappa: FloatArray,
    rng: np.random.Generator,
    terms: Terms = NO_TERMS,
    eligible: Mask | None = None,
    reserve: float | None = None,
    mode: Mode = "assignment",
    method: Method | None = None,
    draws: int = DRAWS,
    repeat: bool = False,
    rows: Index | None = None,
    swap_share: float = 0.0,
) -> SlotDecision:
    """Fill K slots by a policy's snapshot.

    Args:
        snapshot: the policy; its explorer, rates and floor apply to the worths.
        context: (d,), or (K, d) where slots have features of their own, or one that differs between arms.
        candidates: arms to choose from, each once; None is all that the snapshot has.
        kappa: (K,) position effects of the slots.
        rng: advanced.
        terms, eligible, reserve: see `policies.offers.offer`, in the candidates' order.
        mode, method, draws, repeat: see `policies.allocation.allocate`.
        swap_share: of decisions in which two slots, drawn at random, exchange what they show (`policies.positions.swapped`), where every
            arm may stand in every slot or in none; the propensities are those after it.
        rows: of the candidates in the snapshot's arrays, from `policies.decide.rows_of`, if they were looked up before.

    Raises:
        ValueError: no candidates or one twice, a context that does not fit, or terms that do not.

    >>> import numpy as np
    >>> from policies.model import make_model
    >>> from policies.prior import Prior
    >>> from policies.snapshot import build
    >>> model = make_model("linear", dimension=1)
    >>> front = build("front", model=model, sums={name: model.zero() for name in "abc"}, version=1, previous=None, time_ms=0,
    ...     now_ms=0, prior=Prior(mean=np.array([0.1]), tau2=np.array([0.01]), s2=0.1))
    >>> shown = decide_slots(front, [1.0], kappa=np.array([1.0, 0.5]), rng=np.random.default_rng(1))
    >>> len(set(shown.arms)), [round(p, 4) for p in shown.propensity]
    (2, [0.3333, 0.3333])
    """
    if rows is None and candidates is not snapshot.names:
        rows = rows_of(snapshot, candidates)
    names = snapshot.names if candidates is None else tuple(candidates)
    mean, sd = expectations(snapshot, context, rows, slots=len(kappa), names=names)
    shown = allocate(
        offer(mean, sd, kappa=kappa, terms=terms, eligible=eligible, reserve=reserve),
        explorer=snapshot.explorer,
        rates=snapshot.rates,
        mode=mode,
        rng=rng,
        count=snapshot.count,
        noise_sd=snapshot.noise_sd,
        method=method,
        draws=draws,
        repeat=repeat,
    )
    if swap_share and (eligible is None or (eligible == eligible[0]).all()):
        shown = swap(shown, swap_share, rng)
    return SlotDecision(
        arms=tuple(None if arm == EMPTY else names[arm] for arm in shown.arms.tolist()),
        propensity=tuple(shown.propensity.tolist()),
        propensity_kind=shown.propensity_kind,
        snapshot=snapshot.version,
        candidates=names,
        allocation=shown,
    )


def expectations(
    snapshot: Snapshot,
    context: npt.ArrayLike | ArmContexts,
    rows: Index | None,
    *,
    slots: int,
    names: Sequence[str] | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of the expected reward: (N,), or (K, N) for contexts (K, d).

    Linear arms under an explorer that goes by means alone have zeros for the standard deviations.

    Logistic arms, whose scores are logits, to first order: sigma(m) and sigma(m) (1 - sigma(m)) sd.

    Raises:
        ValueError: the context is neither (d,) nor (K, d), or has numbers that cannot be used.
    """
    arms = snapshot.stack
    if isinstance(arms, BetaStack):
        which = np.arange(len(arms.row)) if rows is None else rows
        return beta_moments(arms.a[which], arms.b[which])
    if isinstance(context, ArmContexts):
        return _rates(snapshot, *scores_of(snapshot, context, rows, snapshot.names if names is None else names))
    x = np.asarray(context, np.float64)
    check_contexts(snapshot, x, (slots, snapshot.dimension) if x.ndim == 2 else (snapshot.dimension,))
    if isinstance(arms, LinearStack) and snapshot.explorer in BY_MEAN and snapshot.model != "logistic":
        only = arms.means(x.T, rows).T
        return only, np.zeros(only.shape)
    mean, sd = arms.scores(np.ascontiguousarray(x.T), rows)
    return _rates(snapshot, mean.T, sd.T)


def _rates(snapshot: Snapshot, mean: FloatArray, sd: FloatArray) -> tuple[FloatArray, FloatArray]:
    """What scores say of expected rewards."""
    if snapshot.model == "logistic":
        p = expit(mean)
        return p, p * (1.0 - p) * sd
    return mean, sd
