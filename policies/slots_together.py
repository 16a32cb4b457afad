"""Slots of many requests at once, which share policy, slots and candidates: what is shown, and the marginal probability of it.

As policies/allocation.py, request by request. Where slots are filled in turn by weights (softmax, uncertainty sampling,
explore-first while it is uniform), up to three slots and without rules or reserve, the requests are computed together; of the
law only the probabilities of what is shown are kept.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from policies.allocation import allocate
from policies.compiled import kernels
from policies.matching import EMPTY
from policies.offers import NO_TERMS, Terms, added_of, offer, per_unit
from policies.slot_laws import may_win, ranks
from policies.slot_marginals import HISTORIES, MANY
from policies.slot_weights import laws_by_weights, scaled_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from policies.batch import FloatArray
    from policies.decide import Kind
    from policies.matching import Mask, Mode

BY_WEIGHTS = frozenset({"softmax", "uncertainty", "explore-first"})


class Shown(NamedTuple):
    """What one request's K slots show: indices of arms (EMPTY for none), their marginal probabilities, and of which kind these are."""

    arms: list[int]
    propensity: list[float]
    kind: Kind = "exact"


def allocate_together(
    means: FloatArray,
    sds: FloatArray,
    *,
    kappa: FloatArray,
    explorer: str,
    rates: Mapping[str, float],
    rngs: Sequence[np.random.Generator],
    terms: Terms = NO_TERMS,
    eligible: Sequence[Mask | None] | None = None,
    reserve: float | None = None,
    mode: Mode = "assignment",
    repeat: bool = False,
    count: float = 0.0,
    noise_sd: float = 1.0,
) -> list[Shown]:
    """Fill K slots of each of n requests.

    Args:
        means, sds: (n, N), or (n, K, N) where slots have features of their own.
        rngs: one for each request; they may be one and the same.
        eligible: a mask for each request, as `policies.offers.offer` takes them; None is everything for all.
        kappa, terms, reserve, explorer, rates, mode, repeat, count, noise_sd: as `offer` and `allocate` take them; rates complete.

    >>> found = allocate_together(np.zeros((2, 4)), np.zeros((2, 4)), kappa=np.ones(3), explorer="softmax",
    ...     rates={"tau": 0.02, "epsilon": 0.1}, rngs=[np.random.default_rng(1)] * 2)
    >>> [len(set(one.arms)) for one in found], [round(p, 6) for p in found[1].propensity]
    ([3, 3], [0.25, 0.25, 0.25])
    """
    n, slots, arms = len(means), len(kappa), means.shape[-1]
    done: list[Shown | None] = [None] * n
    plain = eligible is None and reserve is None and not repeat
    if plain and explorer in BY_WEIGHTS and 1 < slots <= min(HISTORIES, arms) and arms <= MANY:
        order = np.argsort(-kappa, kind="stable")
        logs = _log_weights(means, sds, kappa[order], order, terms, explorer, rates, count)
        if logs is not None:
            done = _by_weights(logs, order, rates["epsilon"], rngs)
    elif plain and explorer == "thompson" and mode != "sequential" and means.ndim == 2 and 1 < slots <= arms:
        done = _by_ranks(means, sds, kappa, terms, rates, rngs)
    for i, one in enumerate(done):
        if one is None:
            mask = None if eligible is None else eligible[i]
            found = allocate(
                offer(means[i], sds[i], kappa=kappa, terms=terms, eligible=mask, reserve=reserve),
                explorer=explorer,
                rates=rates,
                mode=mode,
                rng=rngs[i],
                count=count,
                noise_sd=noise_sd,
                repeat=repeat,
            )
            done[i] = Shown(found.arms.tolist(), found.propensity.tolist(), found.propensity_kind)
    return [one for one in done if one is not None]


def _log_weights(
    means: FloatArray,
    sds: FloatArray,
    kappa: FloatArray,
    order: npt.NDArray[np.intp],
    terms: Terms,
    explorer: str,
    rates: Mapping[str, float],
    count: float,
) -> list[FloatArray] | None:
    """Logarithms of weights (n, N) of the slots as they are filled, one array for all where they are the same; None for no weights."""
    if explorer == "explore-first":
        return None if count >= rates["first"] else [np.zeros((len(means), means.shape[-1]))] * len(kappa)
    if not math.isfinite(float(means.sum()) + float(sds.sum())):
        return None  # `offer` says what is wrong
    per, added = per_unit(terms, means.shape[-1]), added_of(terms, means.shape[-1])

    def of(i: int) -> FloatArray:
        mean, sd = (means, sds) if means.ndim == 2 else (means[:, order[i]], sds[:, order[i]])
        if explorer == "uncertainty":
            logs: FloatArray = rates["power"] * np.log(np.maximum(kappa[i] * np.abs(per) * sd, 1e-300))
            return logs
        worth: FloatArray = (kappa[i] / rates["tau"]) * per * mean
        return worth if added is None else worth + added / rates["tau"]

    alike = means.ndim == 2 and bool((kappa == kappa[0]).all())
    return [of(0)] * len(kappa) if alike else [of(i) for i in range(len(kappa))]


def _by_weights(
    logs: Sequence[FloatArray], order: npt.NDArray[np.intp], epsilon: float, rngs: Sequence[np.random.Generator]
) -> list[Shown | None]:
    """What is shown by weights in turn."""
    n, arms = logs[0].shape
    slots, every = len(logs), np.arange(n)
    u = np.array([rng.random(slots + 1) for rng in rngs])
    chosen = np.full((n, slots), EMPTY, np.intp)
    if epsilon > 0.0:
        for row in (u[:, slots] < epsilon).nonzero()[0].tolist():
            chosen[row] = _at_random(arms, slots, rngs[row])
    fast = kernels()
    if fast is not None:
        p = fast.pages_by_weights(np.array(logs), u, chosen)
    else:
        weights = scaled_rows(logs)
        _draw(weights, u, chosen)
        p = np.stack([law[every, arm] for law, arm in zip(laws_by_weights(weights), chosen.T, strict=True)], axis=1)
    if epsilon > 0.0:
        p = (1.0 - epsilon) * p + epsilon / arms
    back = np.argsort(order)
    return [Shown(*one) for one in zip(chosen[:, back].tolist(), p[:, back].tolist(), strict=True)]


def _draw(weights: Sequence[FloatArray], u: FloatArray, chosen: npt.NDArray[np.intp]) -> None:
    """Arms (n, K) by weights in turn, of the rows that have none."""
    n, arms = weights[0].shape
    every, free = np.arange(n), chosen[:, 0] == EMPTY
    for i, w in enumerate(weights):
        left = w.copy()
        for before in range(i):
            left[every, chosen[:, before]] = 0.0
        cumulative = left.cumsum(axis=1)
        at = u[:, i] * cumulative[:, -1]
        drawn = np.minimum((cumulative <= at[:, None]).sum(axis=1), arms - 1)
        chosen[free, i] = drawn[free]


def _by_ranks(
    means: FloatArray,
    sds: FloatArray,
    kappa: FloatArray,
    terms: Terms,
    rates: Mapping[str, float],
    rngs: Sequence[np.random.Generator],
) -> list[Shown | None]:
    """What is shown by one draw for each arm, sorted into the slots; the draws are those of `allocate`. None where that must do it."""
    n, arms = means.shape
    slots, order = len(kappa), np.argsort(-kappa, kind="stable")
    per, added = per_unit(terms, arms), added_of(terms, arms)
    at, width = kappa[order[0]] * (means * per), rates["alpha"] * (kappa[order[0]] * (sds * np.abs(per)))
    if added is not None:
        at = at + added
    alike = added is None or bool((kappa == kappa[0]).all())
    if not alike or not kappa.min() >= 0.0 or not math.isfinite(float(at.sum()) + float(width.sum())):
        return [None] * n
    widest, epsilon = width.max(axis=1).tolist(), rates["epsilon"]
    out: list[Shown | None] = []
    for m, s, most, rng in zip(at, width, widest, rngs, strict=True):
        if not 1e-9 * most > 0.0:
            out.append(None)
            continue
        s = np.maximum(s, 1e-9 * most)
        kept = may_win(m, s, slots=slots)
        if len(kept) < arms:
            m, s = m[kept], s[kept]
        score = m + s * rng.standard_normal(len(m))
        best = np.argsort(-score)[:slots]
        shown, p = kept[best], np.zeros(slots)
        if epsilon > 0.0 and rng.random() < epsilon:
            shown = np.array(_at_random(arms, slots, rng))
            best = kept.searchsorted(shown).clip(max=len(kept) - 1)
        may = kept[best] == shown
        p[may] = ranks(m, s, slots=slots)[np.arange(slots), best][may]
        p = (1.0 - epsilon) * p + epsilon / arms
        out.append(Shown(_placed(shown, order), _placed(p, order)))
    return out


def _placed(row: npt.NDArray[Any], order: npt.NDArray[np.intp]) -> list[Any]:
    """What the slots have, in their own order, from the order in which they are filled."""
    out = np.empty_like(row)
    out[order] = row
    placed: list[Any] = out.tolist()
    return placed


def _at_random(arms: int, slots: int, rng: np.random.Generator) -> list[int]:
    left = list(range(arms))
    return [left.pop(int(rng.integers(len(left)))) for _ in range(slots)]
