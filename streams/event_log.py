"""What an ad server logs through the policy client: impressions, outcomes, conversions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.conversions import Conversion
from streams.events import Impression, Outcome, packed
from streams.outcomes import back_reason, default_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streams.decisions import Decision, SlotsDecision
    from streams.events import Codec
    from streams.filling import Filler
    from streams.producer import EventProducer


class EventLog:
    """Queues events for Kafka; the part of a `PolicyClient` that logs."""

    _producer: EventProducer
    _filler: Filler
    _codec: Codec
    _clock: Callable[[], float]

    def log_impression(
        self, decision: Decision, *, ts: int | None = None, cost: float | None = None, tag: object = None
    ) -> None:
        """Queue the impression of a decision that was shown.

        Args:
            decision: from `decide`.
            ts: event time in ms UTC; None is the time of the decision, which its token says, too, and by whose period a sticky canary
                decided: a row of another period may be left out of its test.
            cost: what it costs, 0 to 1e30, as an auction has it; None is what the settings say (docs/budgets.md).
            tag: given back by `on_delivery`.

        Raises:
            QueueFull: it was not taken; the caller decides whether to try again.
        """
        event = _impression(decision, packed(decision.context, self._codec), ts=ts, cost=cost)
        self._producer.impression(event, tag=tag)
        shown_ms = decision.ts if ts is None else ts
        self._filler.caps.shown(decision.policy, decision.unit, decision.arm, ts=shown_ms)

    def log_page(self, page: Sequence[Impression]) -> bool:
        """Queue impressions of one policy and dimension as they are, each as its own tag, without a count of caps: for servers that count.

        False, and none was taken, if there is no room for all, or they share no records: other codecs than columns.
        """
        return self._codec == "columns" and self._producer.impressions(page, tags=page)

    def log_event(self, event: Impression | Outcome | Conversion, *, tag: object = None) -> None:
        """Queue an event as it is, without a count of caps.

        Raises:
            QueueFull: it was not taken; the caller decides whether to try again.
        """
        if isinstance(event, Impression):
            self._producer.impression(event, tag=tag)
        elif isinstance(event, Outcome):
            self._producer.outcome(event, tag=tag)
        else:
            self._producer.conversion(event, tag=tag)

    def log_impressions(self, decided: SlotsDecision, *, ts: int | None = None, tag: object = None) -> None:
        """Queue an impression for each slot that is filled; arguments as `log_impression`.

        Raises:
            QueueFull: some were not taken; logging all of them again is harmless, as an impression counts once.
        """
        for decision in decided.decisions:
            self.log_impression(decision, ts=ts, tag=tag)

    def log_click(
        self,
        decision_id: str,
        slot: str,
        outcome_id: str | None = None,
        value: float = 1.0,
        kind: str = "click",
        ts: int | None = None,
        *,
        cost: float | None = None,
        of: str | None = None,
        token: str | None = None,
        tag: object = None,
    ) -> None:
        """Queue an outcome of a decision.

        Args:
            decision_id: of the decision.
            slot: of the decision.
            outcome_id: outcomes with the same id count once; None is the kind, so that one of each kind counts, or with `of`
                one of each kind for that outcome.
            value: multiplied by the policy's worth of the kind; of a refund, how much of the other outcome's value it takes back.
            kind: one of the policy's `outcomes`, its viewable event, or "retraction", "refund", "invalid" (docs/outcomes.md).
            ts: event time in ms UTC; None is now.
            cost: what it costs, 0 to 1e30; None is what the settings say (docs/budgets.md).
            of: `outcome_id` of the outcome that a retraction or a refund takes back.
            token: that came with the decision, so that the outcome counts though its impression is forgotten.
            tag: given back by `on_delivery`.

        Raises:
            QueueFull: it was not taken; the caller decides whether to try again.
            ValueError: a retraction or a refund of nothing, of itself, or of less than 0.
        """
        outcome_id = default_id(kind, of) if outcome_id is None else outcome_id
        wrong = back_reason(kind, outcome_id, of, value)
        if wrong is not None:
            raise ValueError(wrong)
        self._producer.outcome(
            Outcome(
                decision_id=decision_id,
                slot=slot,
                outcome_id=outcome_id,
                kind=kind,
                value=value,
                ts=int(self._clock() * 1000) if ts is None else ts,
                cost=cost,
                of=of,
                token=token,
            ),
            tag=tag,
        )

    def log_conversion(
        self,
        unit: str,
        conversion_id: str,
        kind: str,
        value: float = 1.0,
        ts: int | None = None,
        *,
        policy: str | None = None,
        tag: object = None,
    ) -> None:
        """Queue something that a unit did, without saying after which decision: `attribution` of the policies decides that.

        Args:
            unit: as it was given to `decide`.
            conversion_id: conversions with the same id count once.
            kind: one of the `attribution.kinds` of a policy.
            value: multiplied by the policy's worth of the kind.
            ts: event time in ms UTC; None is now.
            policy: the only one whose decisions may get it; None is any that attributes the kind.
            tag: given back by `on_delivery`.

        Raises:
            QueueFull: it was not taken; the caller decides whether to try again.
        """
        self._producer.conversion(
            Conversion(
                unit=unit,
                conversion_id=conversion_id,
                kind=kind,
                value=value,
                ts=int(self._clock() * 1000) if ts is None else ts,
                policy=policy,
            ),
            tag=tag,
        )


def _impression(
    decision: Decision, context: list[float] | bytes, *, ts: int | None = None, cost: float | None = None
) -> Impression:
    return Impression(
        decision_id=decision.decision_id,
        slot=decision.slot,
        policy=decision.policy,
        snapshot=decision.snapshot,
        arm=decision.arm,
        propensity=decision.propensity,
        propensity_kind=None if decision.propensity_kind == "exact" else decision.propensity_kind,
        group=decision.group,
        context=context,
        ts=decision.ts if ts is None else ts,
        unit=decision.unit,
        cost=cost,
    )
