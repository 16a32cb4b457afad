"""Filling slots: a policy's settings, a snapshot's terms and one request or many become arms with their propensities.

Used by the in-process client and by the service alike. One slot of a policy that has no terms is decided by
`policies.decide`, several by policies/allocation.py, where it says what is logged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from policies.allocation import allocate
from policies.decide import MANY, check_contexts, decide
from policies.decide_slots import BY_MEAN, decide_slots
from policies.decide_split import decide_split, split_key
from policies.explorers import Scores, explore
from policies.matching import EMPTY
from policies.offers import offer
from policies.slots_split import decide_slots_split
from policies.slots_together import allocate_together
from policies.stack import LinearStack
from streams.capping import CapBook
from streams.settings_slots import SlotPolicy
from streams.slot_plans import Book
from streams.visiting import visit_of

if TYPE_CHECKING:
    from policies.arm_contexts import ArmContexts
    from policies.batch import FloatArray
    from policies.canary import Group
    from policies.decide import Kind
    from policies.snapshot import Snapshot
    from policies.stack import Index
    from streams.slot_plans import Plan

NOTHING: Mapping[str, Any] = {}


class Place(Struct, frozen=True, kw_only=True):
    """What a request is for.

    Attributes:
        slots: names of the K slots.
        candidates: arms to choose from; None is all that there are.
        unit: who sees it, for caps and sticky canaries; None if that is not known.
        request: fields for eligibility rules.
        now_ms: time of the decision, ms UTC.
        key: the decision's id, by which a policy shares its decisions out.
    """

    slots: tuple[str, ...]
    candidates: tuple[str, ...] | None = None
    unit: str | None = None
    request: Mapping[str, Any] = NOTHING
    now_ms: int = 0
    key: str = ""


class Filled(Struct, frozen=True, kw_only=True):
    """What the slots show.

    Attributes:
        names: the N candidates that could have been chosen.
        arms: of each slot, None where it stays empty.
        propensity: marginal probability of each; of an empty slot, that it stays empty.
        kind: of the propensities.
        probabilities: (K, N) of every candidate in every slot, None where they were not kept.
        groups: who decided, where decisions are shared out, of the slots that tell it (policies/slots_split.py); else empty.
    """

    names: tuple[str, ...]
    arms: tuple[str | None, ...]
    propensity: tuple[float, ...]
    kind: Kind = "exact"
    probabilities: FloatArray | None = None
    groups: tuple[Group | None, ...] = ()


class Filler:
    """Fills slots by the policies' settings; safe to use from several threads.

    Args:
        policies: settings by name. A policy that is not among them has no terms of its own.

    >>> filler = Filler({})
    >>> found = filler.fall_back("front", None, Place(slots=("top", "side"), candidates=("a", "b")), rng=np.random.default_rng(1))
    >>> sorted(found.arms), found.propensity
    (['a', 'b'], (0.5, 0.5))
    """

    def __init__(self, policies: Mapping[str, SlotPolicy]) -> None:
        self.caps = CapBook(policies)
        self._books = {name: Book(settings) for name, settings in policies.items()}
        self._plain = Book(SlotPolicy())

    def governs(self, policy: str, snapshot: Snapshot | None) -> bool:
        """Whether settings or snapshot have terms, so that one slot is an allocation too."""
        return self._book(policy).governs or (snapshot is not None and bool(snapshot.allotment))

    def request(self, policy: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields of a request, checked. Raises ValueError."""
        return self._book(policy).request(given)

    def fill(
        self, policy: str, snapshot: Snapshot, x: FloatArray | ArmContexts, place: Place, *, rng: np.random.Generator
    ) -> Filled:
        """Fill the slots of one request by a snapshot; `x` is (d,), (K, d) where slots have features of their own, or differs between arms.

        Raises:
            ValueError: a context, candidates or a request that do not fit.
        """
        book = self._book(policy)
        by_slot = isinstance(x, np.ndarray) and x.ndim == 2
        if len(place.slots) == 1 and not by_slot and not self.governs(policy, snapshot):
            return _decided(snapshot, x, place, rng)
        plan = book.plan(snapshot, place.candidates)
        if not plan.names:
            return _empty(place)
        page = partial(
            decide_slots,
            context=x,
            candidates=plan.names,
            rows=plan.rows,
            kappa=book.kappa(snapshot, place.slots),
            rng=rng,
            terms=plan.terms,
            eligible=self._mask(policy, book, plan, place),
            reserve=book.reserve,
            mode=book.mode,
            repeat=book.repeat,
            swap_share=book.swap_share,
        )
        groups: tuple[Group | None, ...] = ()
        if snapshot.splits:
            visit = visit_of(snapshot, place.unit, place.now_ms)
            found, groups = decide_slots_split(snapshot, page, key=place.key, visit=visit)
        else:
            found = page(snapshot)
        return Filled(
            names=plan.names,
            arms=found.arms,
            propensity=found.propensity,
            kind=found.propensity_kind,
            probabilities=found.allocation.probabilities,
            groups=groups,
        )

    def fill_together(
        self,
        policy: str,
        snapshot: Snapshot,
        x: FloatArray,
        places: Sequence[Place],
        *,
        rngs: Sequence[np.random.Generator],
    ) -> list[Filled]:
        """As `fill`, for n requests that share slots and candidates: contexts (n, d) and a generator for each."""
        book, first = self._book(policy), places[0]
        one = len(first.slots) == 1 and not self.governs(policy, snapshot)
        swaps = book.swap_share > 0.0 and len(first.slots) > 1
        alone = swaps or snapshot.splits  # these need the whole law
        if alone or not isinstance(snapshot.stack, LinearStack) or snapshot.model == "logistic":
            return [
                self.fill(policy, snapshot, each, place, rng=rng)
                for each, place, rng in zip(x, places, rngs, strict=True)
            ]
        plan = book.plan(snapshot, first.candidates)
        if not plan.names:
            return [_empty(first)] * len(places)
        check_contexts(snapshot, x, (len(places), snapshot.dimension))
        if one and len(plan.names) > MANY:
            return [_decided(snapshot, *each) for each in zip(x, places, rngs, strict=True)]
        means, sds = _scores(snapshot.stack, x, plan.rows, narrow=snapshot.explorer in BY_MEAN)
        if one:
            return _one_each(snapshot, plan.names, means, sds, rngs)
        masks = [self._mask(policy, book, plan, place) for place in places] if plan.rules or plan.capped else None
        found = allocate_together(
            means,
            sds,
            kappa=book.kappa(snapshot, first.slots),
            explorer=snapshot.explorer,
            rates=snapshot.rates,
            rngs=rngs,
            terms=plan.terms,
            eligible=masks,
            reserve=book.reserve,
            mode=book.mode,
            repeat=book.repeat,
            count=snapshot.count,
            noise_sd=snapshot.noise_sd,
        )
        names = plan.names
        return [
            Filled(
                names=names,
                arms=tuple([None if arm == EMPTY else names[arm] for arm in shown.arms]),
                propensity=tuple(shown.propensity),
                kind=shown.kind,
            )
            for shown in found
        ]

    def fall_back(
        self,
        policy: str,
        snapshot: Snapshot | None,
        place: Place,
        *,
        rng: np.random.Generator,
        ranked: Sequence[str] | None = None,
    ) -> Filled:
        """Fill the slots without the policy's numbers; what a snapshot says of hidden arms and closed budgets holds all the same.

        Args:
            policy, place, rng: as `fill`.
            snapshot: the last one, which cannot be used.
            ranked: arms, the best first, each with the propensity 1; None draws candidates at random, slot by slot.
        """
        book = self._book(policy)
        plan = book.plan(snapshot, place.candidates)
        n, slots = len(plan.names), len(place.slots)
        if not n:
            return _empty(place)
        mask = self._mask(policy, book, plan, place)
        if ranked is not None:
            return _ranked(plan.names, mask, slots, ranked, repeat=book.repeat)
        kappa = book.kappa(snapshot, place.slots)
        asked = offer(np.zeros(n), np.zeros(n), kappa=kappa, eligible=mask)
        found = allocate(asked, explorer="epsilon-greedy", rates={"epsilon": 1.0}, rng=rng, repeat=book.repeat)
        return Filled(
            names=plan.names,
            arms=tuple(None if arm == EMPTY else plan.names[arm] for arm in found.arms.tolist()),
            propensity=tuple(found.propensity.tolist()),
            probabilities=found.probabilities,
        )

    def _book(self, policy: str) -> Book:
        return self._books.get(policy, self._plain)

    def _mask(self, policy: str, book: Book, plan: Plan, place: Place) -> Any:
        full = self.caps.full(policy, place.unit, now_ms=place.now_ms) if plan.capped else ()
        return book.mask(plan, place.slots, place.request, full)


def _scores(stack: LinearStack, x: FloatArray, rows: Index | None, *, narrow: bool) -> tuple[FloatArray, FloatArray]:
    """(n, N) means and standard deviations for contexts (n, d); zeros for these if `narrow`."""
    if narrow:
        only = np.ascontiguousarray(stack.means(x.T, rows).T)
        return only, np.zeros_like(only)
    if len(x) == 1:
        mean, sd = stack.scores(x[0], rows)
        return mean[None], sd[None]
    by_arm, sd_by_arm = stack.scores(np.ascontiguousarray(x.T), rows)
    return np.ascontiguousarray(by_arm.T), np.ascontiguousarray(sd_by_arm.T)


def _decided(snapshot: Snapshot, x: FloatArray | ArmContexts, place: Place, rng: np.random.Generator) -> Filled:
    """One slot by the policy's law alone."""
    if snapshot.hidden and not snapshot.showable(place.candidates):
        return _empty(place)
    groups: tuple[Group | None, ...] = ()
    if snapshot.splits:
        key = split_key(place.key, place.slots[0])
        visit = visit_of(snapshot, place.unit, place.now_ms)
        choice, group = decide_split(snapshot, x, place.candidates, key=key, rng=rng, visit=visit)
        groups = (group,)
    else:
        choice = decide(snapshot, x, place.candidates, rng=rng)
    p = choice.probabilities
    return Filled(
        names=choice.candidates,
        arms=(choice.arm,),
        propensity=(choice.propensity,),
        kind=choice.propensity_kind,
        probabilities=None if p is None else p[None],
        groups=groups,
    )


def _one_each(
    snapshot: Snapshot, names: tuple[str, ...], means: FloatArray, sds: FloatArray, rngs: Sequence[np.random.Generator]
) -> list[Filled]:
    """An arm for the one slot of each request, by their laws computed together."""
    at = Scores(mean=means, sd=sds, count=snapshot.count, noise_sd=snapshot.noise_sd)
    p = explore(at, snapshot.explorer, snapshot.rates)
    cumulative = p.cumsum(axis=1)
    u = np.array([rng.random() for rng in rngs])
    arm = np.minimum((cumulative <= (u * cumulative[:, -1])[:, None]).sum(axis=1), len(names) - 1)
    chance = p[np.arange(len(p)), arm]
    return [
        Filled(names=names, arms=(names[one],), propensity=(propensity,))
        for one, propensity in zip(arm.tolist(), chance.tolist(), strict=True)
    ]


def _ranked(names: tuple[str, ...], mask: Any, slots: int, ranked: Sequence[str], *, repeat: bool) -> Filled:
    index = {name: i for i, name in enumerate(names)}
    arms: list[str | None] = []
    for slot in range(slots):
        free = (arm for arm in ranked if arm in index and (repeat or arm not in arms))
        arms.append(next((arm for arm in free if mask is None or mask[slot, index[arm]]), None))
    p = np.zeros((slots, len(names)))
    for slot, arm in enumerate(arms):
        if arm is not None:
            p[slot, index[arm]] = 1.0
    return Filled(names=names, arms=tuple(arms), propensity=(1.0,) * slots, probabilities=p)


def _empty(place: Place) -> Filled:
    """Nothing may be shown, which is certain."""
    slots = len(place.slots)
    return Filled(names=(), arms=(None,) * slots, propensity=(1.0,) * slots, probabilities=np.zeros((slots, 0)))
