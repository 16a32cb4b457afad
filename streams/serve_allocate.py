"""Arms for the slots of many requests at once, slot after slot, from one snapshot.

A request's first slot draws from the policy's law over all candidates, each further one from the law over those that are
left. What is returned beside an arm is therefore the exact probability of that draw given the draws before it, and their
product is that of the whole row. Means and standard deviations are computed once for all requests and slots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from policies.canary import group_of
from policies.decide import MANY, check_contexts, law, many_of, rows_of
from policies.decide_split import drawn_from, laws, split_key
from policies.explorers import Scores, explore
from policies.monte_carlo import draw_estimated
from policies.stack import BetaStack, dof_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.batch import FloatArray
    from policies.canary import Group
    from policies.snapshot import Snapshot


class Drawn(NamedTuple):
    """An arm by its place among the candidates, its probability, whether that is an estimate, and who decided where it is shared out."""

    place: int
    propensity: float
    estimated: bool = False
    group: Group | None = None


def allocate(
    snapshot: Snapshot, contexts: FloatArray, candidates: Sequence[str] | None, u: FloatArray
) -> list[list[Drawn]]:
    """Draw an arm for each of s slots of n requests; a request has fewer where no candidate is left that may be shown.

    Args:
        snapshot: the policy.
        contexts: (n, d) of the requests, which share their candidates.
        candidates: K arms to choose from; None is all that the snapshot has.
        u: (n, s) uniform on [0, 1): the randomness. Nothing else is drawn, so that the same numbers decide the same.

    Raises:
        ValueError: no candidates or one twice, or contexts of another shape or with numbers that are not finite.
    """
    shown = snapshot.showable(candidates)
    if shown is not candidates:
        whole = snapshot.names if candidates is None else tuple(candidates)
        places = [whole.index(name) for name in shown or ()]
        drawn = allocate(snapshot, contexts, shown, u) if shown else [[] for _ in u]
        return [[one._replace(place=places[one.place]) for one in some] for some in drawn]
    rows = rows_of(snapshot, candidates)
    names = snapshot.names if candidates is None else tuple(candidates)
    stack = snapshot.stack
    if isinstance(stack, BetaStack):
        return [_beta(snapshot, names, one) for one in u]
    check_contexts(snapshot, contexts, (len(contexts), snapshot.dimension))
    dof = dof_of(stack, rows)
    if len(contexts) == 1:
        mean, sd = stack.scores(contexts[0], rows)
        return [_each(snapshot, mean, sd, dof, u[0])]
    by_arm, sd_by_arm = stack.scores(np.ascontiguousarray(contexts.T), rows)
    means, sds = np.ascontiguousarray(by_arm.T), np.ascontiguousarray(sd_by_arm.T)
    if dof is not None or (snapshot.explorer == "thompson" and len(names) > MANY):
        return [_each(snapshot, mean, sd, dof, one) for mean, sd, one in zip(means, sds, u, strict=True)]
    return _together(snapshot, means, sds, u)


def allocate_split(
    snapshot: Snapshot,
    contexts: FloatArray,
    candidates: Sequence[str] | None,
    u: FloatArray,
    *,
    decision_ids: Sequence[str],
    slots: Sequence[Sequence[str]],
) -> list[list[Drawn]]:
    """`allocate` where decisions are shared out: each slot is assigned by itself, and draws from its group's law over the arms left."""
    whole = snapshot.names if candidates is None else tuple(candidates)
    shown = tuple(snapshot.showable(candidates) or ()) if snapshot.hidden else whole
    return [
        _split(snapshot, x, whole, list(shown), numbers.tolist(), decision_id, places)
        for x, numbers, decision_id, places in zip(contexts, u, decision_ids, slots, strict=True)
    ]


def _split(
    snapshot: Snapshot,
    x: FloatArray,
    whole: Sequence[str],
    left: list[str],
    u: Sequence[float],
    decision_id: str,
    slots: Sequence[str],
) -> list[Drawn]:
    drawn = []
    for one, slot in zip(u, slots, strict=True):
        if not left:
            break
        group = group_of(split_key(decision_id, slot), snapshot.canary, snapshot.audit_share)
        place, propensity = drawn_from(laws(snapshot, x, left), group, one)
        drawn.append(Drawn(whole.index(left.pop(place)), propensity, group=group))
    return drawn


def uniform(among: int, u: FloatArray) -> list[Drawn]:
    """Slots filled at random from `among` candidates, none twice: what decides where the policy cannot.

    >>> uniform(2, np.array([0.6, 0.1, 0.9]))
    [Drawn(place=1, propensity=0.5, estimated=False), Drawn(place=0, propensity=1.0, estimated=False)]
    """
    left, drawn = list(range(among)), []
    for one in u.tolist()[:among]:
        drawn.append(Drawn(left[int(one * len(left))], 1.0 / len(left)))
        left.remove(drawn[-1].place)
    return drawn


def _together(snapshot: Snapshot, means: FloatArray, sds: FloatArray, u: FloatArray) -> list[list[Drawn]]:
    n, arms = means.shape
    every = np.arange(n)
    left = np.broadcast_to(np.arange(arms), (n, arms))
    drawn: list[list[Drawn]] = [[] for _ in range(n)]
    for slot in range(min(u.shape[1], arms)):
        at = Scores(mean=means, sd=sds, count=snapshot.count, noise_sd=snapshot.noise_sd)
        p = explore(at, snapshot.explorer, snapshot.rates)
        cumulative = p.cumsum(axis=1)
        chosen = (cumulative <= (u[:, slot] * cumulative[:, -1])[:, None]).sum(axis=1)
        chosen = np.minimum(chosen, p.shape[1] - 1)
        for one, place, propensity in zip(drawn, left[every, chosen].tolist(), p[every, chosen].tolist(), strict=True):
            one.append(Drawn(place, propensity))
        if slot + 1 < min(u.shape[1], arms):
            stays = np.ones(p.shape, np.bool_)
            stays[every, chosen] = False
            shape = (n, p.shape[1] - 1)
            left, means, sds = left[stays].reshape(shape), means[stays].reshape(shape), sds[stays].reshape(shape)
    return drawn


def _each(snapshot: Snapshot, mean: FloatArray, sd: FloatArray, dof: FloatArray | None, u: FloatArray) -> list[Drawn]:
    left = np.arange(len(mean))
    drawn: list[Drawn] = []
    for one in u.tolist()[: len(mean)]:
        at = Scores(
            mean=mean[left],
            sd=sd[left],
            count=snapshot.count,
            noise_sd=snapshot.noise_sd,
            dof=None if dof is None else dof[left],
        )
        many = many_of(snapshot, at)
        if many is not None:
            rng = np.random.default_rng(int(one * 2**53))
            i, propensity = draw_estimated(many, rng=rng, epsilon=snapshot.rates["epsilon"])
            drawn.append(Drawn(int(left[i]), float(propensity), estimated=True))
        else:
            i, propensity = _draw(explore(at, snapshot.explorer, snapshot.rates), one)
            drawn.append(Drawn(int(left[i]), propensity))
        left = np.delete(left, i)
    return drawn


def _beta(snapshot: Snapshot, names: Sequence[str], u: FloatArray) -> list[Drawn]:
    left = list(range(len(names)))
    drawn: list[Drawn] = []
    for one in u.tolist()[: len(names)]:
        i, propensity = _draw(law(snapshot, (), [names[place] for place in left]), one)
        drawn.append(Drawn(left.pop(i), propensity))
    return drawn


def _draw(p: FloatArray, u: float) -> tuple[int, float]:
    cumulative = p.cumsum()
    i = min(int(cumulative.searchsorted(u * cumulative[-1], side="right")), len(p) - 1)
    return i, float(p[i])
