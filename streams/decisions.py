"""What the policy client answers: a decision for a slot or for a page, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from policies.arm_contexts import context_of

if TYPE_CHECKING:
    from policies.arm_contexts import ArmContexts
    from policies.batch import FloatArray
    from policies.canary import Group
    from policies.decide import Kind

ALL_HIDDEN = "every candidate is paused or gone"
"""Reason of a decision that had no arm to choose."""


class NothingToShow(RuntimeError):  # noqa: N818 - as NoSnapshot
    """Rules, caps or budgets leave no arm for the slot: leave it empty. `decide_slots` returns an empty slot instead."""

    retriable = False


class NoSnapshot(RuntimeError):  # noqa: N818 - reads as what it says: except NoSnapshot
    """There is no snapshot to decide from, and no fallback that could."""

    retriable = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """An arm for a slot, and all that its impression has to say.

    Attributes:
        propensity: the probability with which `arm` was drawn.
        propensity_kind: "exact", or "estimate" where so many arms could win that it was estimated without bias.
        snapshot: version decided from, None for a fallback, or where another policy decided.
        context: (d,) as it was given; rounded to half precision where the policy has tokens.
        candidates: the K arms that could have been chosen.
        probabilities: (K,) the law that the arm was drawn from; None beside an estimate.
        ts: time of the decision in ms UTC.
        reason: why the fallback decided, None where the snapshot did.
        token: to send back with outcomes, so that they count after the impression is forgotten; None where the policy has none.
        group: who decided where decisions are shared out (policies/canary.py); `propensity` and `probabilities` are marginal over it.
        missing: texts that have no vector yet, so that their features are at the mean; of arms as "ads.NAME".
    """

    decision_id: str
    policy: str
    slot: str
    arm: str
    propensity: float
    snapshot: int | None
    context: FloatArray
    candidates: tuple[str, ...]
    probabilities: FloatArray | None
    ts: int
    unit: str | None = None
    propensity_kind: Kind = "exact"
    reason: str | None = None
    token: str | None = None
    group: Group | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotsDecision:
    """Arms for K slots of one page, and all that their impressions have to say; see `policies.allocation` for what is logged.

    Attributes:
        slots: names of the slots.
        arms: of each, None where it stays empty.
        propensity: marginal probability of each slot's arm, whatever the others show; of an empty slot, that it stays empty.
        propensity_kind: of all of them.
        snapshot: version decided from, None for a fallback.
        context: (d,), (K, d) where slots have features of their own, or one that differs between arms.
        candidates: the N arms that could have been chosen.
        probabilities: (K, N) marginal probability of every arm in every slot, None beside an estimate.
        ts: time of the decision in ms UTC.
        reason: why the fallback decided, None where the snapshot did.
        tokens: of each slot, None where it is empty or the policy has none; empty without any.
        groups: who decided, where decisions are shared out, of the slot that tells it (policies/slots_split.py); empty else.
        missing: texts that have no vector yet, so that their features are at the mean; of arms as "ads.NAME".
    """

    decision_id: str
    policy: str
    slots: tuple[str, ...]
    arms: tuple[str | None, ...]
    propensity: tuple[float, ...]
    snapshot: int | None
    context: FloatArray | ArmContexts
    candidates: tuple[str, ...]
    probabilities: FloatArray | None
    ts: int
    unit: str | None = None
    propensity_kind: Kind = "exact"
    reason: str | None = None
    tokens: tuple[str | None, ...] = ()
    groups: tuple[Group | None, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """One for each slot that is filled."""
        return tuple(self._of(place, arm) for place, arm in enumerate(self.arms) if arm is not None)

    def _of(self, place: int, arm: str) -> Decision:
        return Decision(
            decision_id=self.decision_id,
            policy=self.policy,
            slot=self.slots[place],
            arm=arm,
            propensity=self.propensity[place],
            snapshot=self.snapshot,
            context=context_of(self.context, arm, place),
            candidates=self.candidates,
            probabilities=None if self.probabilities is None else self.probabilities[place],
            ts=self.ts,
            unit=self.unit,
            propensity_kind=self.propensity_kind,
            reason=self.reason,
            token=self.tokens[place] if self.tokens else None,
            group=self.groups[place] if self.groups else None,
            missing=self.missing,
        )
