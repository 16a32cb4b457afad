"""From a policy's settings and a snapshot's published terms to what allocation takes: which arms, worth what, in which slots.

Order of what takes arms away: paused and gone ones (the snapshot), eligibility rules, frequency caps, closed budgets; what is
left has the prices of open budgets and the floors' bonus in its worth::

    worth in slot l = kappa_l (value - lambda click_cost) theta - lambda cost + bonus        lambda: price of the arm's budget

Arms that the settings do not name have the value 1, no budget and no cap. What does not depend on the request is made once for
each snapshot and set of candidates.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from policies.allotment import NO_ALLOTMENT, Allotment
from policies.decide import rows_of
from policies.eligibility import Eligibility, Mask, Rule
from policies.offers import NO_TERMS, Terms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from policies.batch import FloatArray
    from policies.matching import Mode
    from policies.snapshot import Snapshot
    from policies.stack import Index
    from streams.settings_slots import AdSettings, SlotPolicy

KEPT = 256
"""Sets of candidates, and lists of slots, that are kept for a snapshot; the rest are made again each time."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """What a snapshot and a set of candidates make, whatever the request.

    Attributes:
        names: the N candidates that may be shown at all.
        rows: of them in the snapshot's arrays; None is all, or there is no snapshot.
        terms: of the worths.
        rules: eligibility of the candidates; None if no rule speaks of them.
        capped: (N,) which of them each cap is of.
        masks: (K, N) by the slots' names, where no rule asks for a field of the request.
    """

    names: tuple[str, ...]
    rows: Index | None
    terms: Terms = NO_TERMS
    rules: Eligibility | None = None
    capped: Mapping[str, Mask] = field(default_factory=dict)
    masks: dict[tuple[str, ...], Mask] = field(default_factory=dict)


Plans = dict["tuple[str, ...] | None", Plan]


class Book:
    """One policy's settings of slots and arms, ready for decisions; safe to use from several threads.

    >>> from streams.settings_slots import SlotPolicy
    >>> book = Book(SlotPolicy(slots={"side": {"position": 0.5}}))
    >>> book.kappa(None, ("top", "side")).tolist(), book.plan(None, ("a", "b")).names
    ([1.0, 0.5], ('a', 'b'))
    """

    def __init__(self, settings: SlotPolicy) -> None:
        self._settings = settings
        self._rules: tuple[Rule, ...] = settings.rules
        self._asks = any(rule.source == "request" for rule in self._rules)
        self._slots = {name: fitting(self._rules, "slot", slot.described) for name, slot in settings.slots.items()}
        self._fields = frozenset(settings.request_fields)
        self._described = {name: ad.described for name, ad in settings.ads.items()}
        self._plans_of: WeakKeyDictionary[Snapshot, Plans] = WeakKeyDictionary()
        self._plans_of_none: Plans = {}
        self.mode: Mode = settings.allocation
        self.repeat = settings.repeat
        self.swap_share = settings.swap_share
        self.reserve = 0.0 if settings.reserve is None and settings.budgets else settings.reserve
        self.governs = bool(
            settings.slots or settings.ads or settings.budgets or settings.caps or settings.eligibility
        ) or (settings.reserve is not None)

    def kappa(self, snapshot: Snapshot | None, slots: Sequence[str]) -> FloatArray:
        """(K,) position effects: those published, else the settings' own, 1 for slots that they do not name."""
        published = allotment_of(snapshot).kappa
        known = self._settings.slots
        return np.array(
            [published.get(slot, known[slot].position if slot in known else 1.0) for slot in slots], np.float64
        )

    def plan(self, snapshot: Snapshot | None, candidates: tuple[str, ...] | None) -> Plan:
        """What the snapshot makes of the candidates; None is all that it has.

        Raises:
            ValueError: no candidates, or one twice.
        """
        plans = self._plans(snapshot)
        found = plans.get(candidates)
        if found is None:
            found = self._made(snapshot, candidates)
            if len(plans) < KEPT:
                plans[candidates] = found
        return found

    def _plans(self, snapshot: Snapshot | None) -> Plans:
        if snapshot is None:
            return self._plans_of_none
        plans = self._plans_of.get(snapshot)
        if plans is None:
            plans = self._plans_of[snapshot] = {}
        return plans

    def _made(self, snapshot: Snapshot | None, candidates: tuple[str, ...] | None) -> Plan:
        if snapshot is None:
            names, rows = candidates or (), None
        else:
            rows_of(snapshot, candidates)  # complains of what is wrong
            names = snapshot.names if candidates is None else candidates
        allotment = allotment_of(snapshot)
        hidden = frozenset[str]() if snapshot is None else snapshot.hidden
        ads = self._settings.ads
        shut = {arm for arm, ad in ads.items() if ad.budget is not None and ad.budget in allotment.closed}
        whole = names
        if hidden or shut:
            names = tuple(name for name in names if name not in hidden and name not in shut)
        if snapshot is not None:
            everything = candidates is None and len(names) == len(whole)
            rows = None if everything or not names else rows_of(snapshot, names)
            names = snapshot.names if everything else names
        known = [ads.get(name) for name in names]
        described = [self._described.get(name, {}) for name in names]
        limited = self._rules and any(described)
        caps = {ad.cap for ad in known if ad is not None and ad.cap is not None}
        return Plan(
            names=names,
            rows=rows,
            terms=terms_of(names, known, allotment),
            rules=Eligibility(self._rules, arms=described) if limited else None,
            capped={cap: np.array([ad is not None and ad.cap == cap for ad in known], bool) for cap in caps},
        )

    def request(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The request's fields as rules take them. Raises ValueError: a field that is not declared, or of a wrong type."""
        if not given:
            return given
        unknown = sorted(set(given) - self._fields)
        if unknown:
            raise ValueError(
                f"request has the field {unknown[0]!r}; the policy's request_fields are: {', '.join(sorted(self._fields)) or 'none'}"
            )
        return fitting(self._rules, "request", given)

    def mask(
        self, plan: Plan, slots: tuple[str, ...], request: Mapping[str, Any], full: Sequence[str] = ()
    ) -> Mask | None:
        """(K, N) what may be shown in which slot, by rules and caps; None is everything.

        Args:
            plan: from `plan`.
            slots: names of the slots; those that the settings do not name have no fields.
            request: from `request`.
            full: caps that the unit has used up.
        """
        out: Mask | None = None
        if plan.rules is not None:
            out = plan.masks.get(slots)
            if out is None:
                out = plan.rules.mask([self._slots.get(slot, {}) for slot in slots], request)
                if not self._asks and len(plan.masks) < KEPT:
                    plan.masks[slots] = out
        for cap in full:
            capped = plan.capped.get(cap)
            if capped is not None:
                out = np.broadcast_to(~capped, (len(slots), len(plan.names))) if out is None else out & ~capped
        return out


def fitting(rules: Sequence[Rule], source: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a slot or a request as the rules take them: one value where a list is compared becomes a list of it.

    Raises:
        ValueError: a list where a rule compares one value, or no number where it compares numbers.

    >>> fitting((Rule(field="tags", operator="none_of", source="slot", key="blocked"),), "slot", {"blocked": "games"})
    {'blocked': ['games']}
    """
    out = dict(given)
    for rule in rules:
        value = given.get(rule.key) if rule.source == source else None
        if value is None:
            continue
        if rule.operator in ("any_of", "none_of"):
            value = out[rule.key] = list(value) if isinstance(value, list | tuple) else [value]
            good = all(isinstance(one, str | int | float) for one in value)
        elif rule.operator in ("at_least", "at_most"):
            good = isinstance(value, int | float)
        else:
            good = isinstance(value, str | int | float)
        if not good:
            raise ValueError(
                f"{source}.{rule.key} = {given[rule.key]!r}: the rule {rule.operator!r} compares it with the arms' {rule.field!r}, "
                f"and takes {_TAKES.get(rule.operator, 'a string or a number')}"
            )
    return out


_TAKES = {"any_of": "a list of strings or numbers", "none_of": "a list of strings or numbers"} | dict.fromkeys(
    ("at_least", "at_most"), "a number"
)


def terms_of(names: Sequence[str], ads: Sequence[AdSettings | None], allotment: Allotment) -> Terms:
    """Terms of the arms: what is the same for all, as if nothing had been said, is None.

    >>> from policies.allotment import Allotment
    >>> from streams.settings_slots import AdSettings
    >>> terms_of(("a",), [AdSettings(budget="b", cost=0.5)], Allotment(price={"b": 2.0})).price.tolist()
    [1.0]
    """
    price = [0.0 if ad is None or ad.budget is None else allotment.price.get(ad.budget, 0.0) for ad in ads]
    value = np.array([1.0 if ad is None else ad.value for ad in ads])
    cost = np.array([0.0 if ad is None else one * ad.cost for ad, one in zip(ads, price, strict=True)])
    click = np.array([0.0 if ad is None else one * ad.click_cost for ad, one in zip(ads, price, strict=True)])
    bonus = np.array([allotment.bonus.get(name, 0.0) for name in names])
    return Terms(
        value=None if (value == 1.0).all() else value,
        click_price=click if click.any() else None,
        price=cost if cost.any() else None,
        bonus=bonus if bonus.any() else None,
    )


def allotment_of(snapshot: Snapshot | None) -> Allotment:
    """The published terms; none without a snapshot."""
    return NO_ALLOTMENT if snapshot is None else snapshot.allotment
