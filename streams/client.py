"""What an ad server uses: decide from the newest snapshot, log what was shown and what followed.

    with PolicyClient(settings) as client:
        client.wait_ready(10)
        decision = client.decide("front", context, slot="top")
        client.log_impression(decision)
        client.log_click(decision.decision_id, "top")

A decision reads one attribute and computes; it never waits for Kafka. Without a snapshot, or with one that is too old,
the fallback decides. Deciding and logging never wait, so that a coroutine calls them as they are; what waits is awaited::

    async with PolicyClient(settings) as client:
        await client.wait_ready_async(10)
        shown = client.decide_slots("front", context, slots=["top", "side"], unit="u1")
        client.log_impressions(shown)
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from policies.arm_contexts import context_of
from policies.arms import showable
from policies.compiled import kernels
from policies.decide import Kind, decide
from policies.decide_split import decide_split, split_key, split_law
from policies.explain import explain
from streams.contexts import compiled
from streams.decisions import ALL_HIDDEN, Decision, NoSnapshot, NothingToShow, SlotsDecision
from streams.drawing import OfThreads
from streams.event_log import EventLog
from streams.events import Codec
from streams.filling import NOTHING, Filler, Place
from streams.following import Follower
from streams.modes import LOGGING, deciding, logs_only
from streams.producer import EventProducer
from streams.succession import Routes
from streams.texts import Compiled, Texts
from streams.token_issue import TokenDesk
from streams.visiting import visit_of

if TYPE_CHECKING:
    from types import TracebackType

    from policies.canary import Group
    from policies.explain import Explanation
    from policies.features import Value
    from policies.snapshot import Snapshot
    from streams.delivery import Delivery, Stats
    from streams.filling import Filled
    from streams.settings import Settings

__all__ = ["ALL_HIDDEN", "Decision", "NoSnapshot", "NothingToShow", "PolicyClient", "SlotsDecision"]

FloatArray = npt.NDArray[np.float64]
Fallback = Literal["uniform"] | Sequence[str]


class PolicyClient(EventLog):
    """Follows snapshots in a background thread and decides from the newest; safe to use from several threads.

    Args:
        settings: how the brokers are reached, the names of the topics, the policies' arms.
        fallback: what decides without a usable snapshot. "uniform": a random candidate, with its known propensity 1/K,
            which can be learned from. A ranked list of arms: the first that is a candidate, with propensity 1; such
            impressions stay out of the sums.
        max_age_s: age from which a snapshot is not used; None takes `settings.snapshot_max_age_s` (None there: never).
            Publishers publish what changed, so an idle site's snapshot grows old by itself.
        codec: how events are written: "json", "msgpack", or "columns" for many events in one record.
        queue_rows: bound on the events that wait for Kafka; see `EventProducer`.
        linger_ms: how long events are gathered before they are sent; longer takes less from who decides.
        clock: seconds since the epoch.
        rng: seeds the generators that draw the arms, one for each thread.
        new_id: gives decision ids; they must not repeat, in other processes either.
        on_snapshot: called in the background thread after a swap. Must not raise.
        on_delivery: see `EventProducer`.
        texts: makes features of texts; None asks Kafka for vectors where a policy needs them. Closed with the client.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        fallback: Fallback = "uniform",
        max_age_s: float | None = None,
        codec: Codec = "json",
        queue_rows: int = 100_000,
        linger_ms: float = 5.0,
        clock: Callable[[], float] = time.time,
        rng: np.random.Generator | None = None,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
        on_snapshot: Callable[[Snapshot], None] | None = None,
        on_delivery: Callable[[Delivery], None] | None = None,
        texts: Texts | None = None,
    ) -> None:
        if fallback != "uniform" and (isinstance(fallback, str) or not fallback):
            raise ValueError(f"fallback is {fallback!r}; allowed: 'uniform' or a list of arms, the best first")
        self._settings = settings
        self._fallback = fallback
        self._max_age_s = settings.snapshot_max_age_s if max_age_s is None else max_age_s
        self._codec: Codec = codec
        self._clock = clock
        self._draws = OfThreads(np.random.default_rng() if rng is None else rng)
        self._filler = Filler(settings.policies)
        self._new_id = new_id
        self._on_snapshot = on_snapshot
        self._tokens = TokenDesk(settings)
        self._routes = Routes(settings)
        self.texts = Texts(settings) if texts is None else texts
        self._snapshots: dict[str, Snapshot] = {}
        self._arrived = threading.Condition()
        self._producer = EventProducer(
            settings, codec=codec, linger_ms=linger_ms, queue_rows=queue_rows, on_delivery=on_delivery
        )
        self._follower = Follower(settings, on_snapshot=self._swap)

    def _swap(self, policy: str, snapshot: Snapshot | None) -> None:
        if snapshot is not None:
            _ = snapshot.stack, kernels()  # made and loaded here, so that the first decision does not wait for it
        with self._arrived:
            others = {name: kept for name, kept in self._snapshots.items() if name != policy}
            self._snapshots = others if snapshot is None else {**others, policy: snapshot}
            self._arrived.notify_all()
        if snapshot is not None and self._on_snapshot is not None:
            self._on_snapshot(snapshot)

    @property
    def healthy(self) -> bool:
        """Whether snapshots are being followed; `error` says why not. Deciding works either way."""
        return self._follower.error is None

    @property
    def error(self) -> str | None:
        """What keeps snapshots from being followed, None if nothing does."""
        return self._follower.error

    @property
    def stats(self) -> Stats:
        """How many events were taken, delivered, failed."""
        return self._producer.stats

    def snapshot(self, policy: str) -> Snapshot | None:
        """The newest snapshot, None if there was none yet."""
        return self._snapshots.get(policy)

    def age_s(self, policy: str) -> float | None:
        """Seconds since the newest snapshot was made, by the publisher's clock and ours; None without one."""
        snapshot = self._snapshots.get(policy)
        return None if snapshot is None else self._clock() - snapshot.time_ms / 1000

    def wait_ready(self, timeout_s: float, *, policy: str | None = None) -> None:
        """Wait until there is a snapshot of the policy (of any, if None).

        Raises:
            NoSnapshot: there is none after `timeout_s`, with the reason.
        """
        with self._arrived:
            wanted = self._arrived.wait_for(
                lambda: bool(self._snapshots) if policy is None else policy in self._snapshots, timeout_s
            )
        if not wanted:
            reason = self.error or "the topic holds none; is a publisher running, and did the learner commit?"
            name = "any policy" if policy is None else f"policy {policy!r}"
            topic = self._settings.topics.policies
            raise NoSnapshot(f"no snapshot of {name} on topic {topic!r} after {timeout_s:g} s: {reason}")

    def decide(
        self,
        policy: str,
        context: Sequence[float] | FloatArray | Mapping[str, Value],
        candidates: Sequence[str] | None = None,
        *,
        slot: str,
        unit: str | None = None,
        decision_id: str | None = None,
        request: Mapping[str, Value] = NOTHING,
    ) -> Decision:
        """Choose an arm for a slot.

        Arms that are paused, removed or renamed away are not chosen, and no propensity is spent on them. If that leaves
        none, the fallback chooses among the candidates as they were given, and `Decision.reason` says so: leave the
        place empty if such an arm must not be shown.

        Args:
            policy: whose snapshot decides; or the policy that has taken over from it, or learns from this decision
                (docs/encoder.md), which the decision names then.
            context: (d,) of the policy's dimension, logged as it is; or the values of the policy's features by name,
                which compile to it (see `policies.features`).
            candidates: arms to choose from; None is all that the snapshot has.
            slot: name of the place.
            unit: who sees it, if that is logged; a sticky canary goes by it.
            decision_id: None makes a new one. Decisions for several slots of one page may share it.
            request: as `decide_slots` takes it. A policy with terms of slots or arms, in the settings or the snapshot, decides one
                slot as it decides several.

        Raises:
            NothingToShow: such terms leave no arm for the slot.
            NoSnapshot: the fallback decides and has no arm to choose.
            FeatureError: a feature that the policy does not have, or that is missing; or the snapshot was learned from
                features other than those of the settings.
            ValueError: the context has another length or a number that is not finite; no candidate, or one twice; a number or name that
                has no place in a token.
        """
        name = self._new_id() if decision_id is None else decision_id
        asked, (policy, learns) = policy, self._routes.of(policy, name, self._snapshots.get)
        snapshot = deciding(self._settings, policy, self._snapshots.get)
        if request or self._filler.governs(policy, snapshot):
            return self._alone(
                self.decide_slots(
                    asked, context, candidates, slots=(slot,), unit=unit, request=request, decision_id=name
                )
            )
        now_s = self._clock()
        made = self._compiled(asked, policy, context, snapshot)
        x = made.context
        chances: FloatArray | None
        kind: Kind = "exact"
        group: Group | None = None
        reason = self._unusable(policy, snapshot, candidates, now_s)
        if snapshot is not None and reason is None:
            rng = self._draws.mine()
            if snapshot.splits:
                visit = visit_of(snapshot, unit, int(now_s * 1000))
                choice, group = decide_split(snapshot, x, candidates, key=split_key(name, slot), rng=rng, visit=visit)
            else:
                choice = decide(snapshot, x, candidates, rng=rng)
            arm, propensity = choice.arm, choice.propensity
            version = snapshot.version if snapshot.policy == policy else None
            among, chances, kind = choice.candidates, choice.probabilities, choice.propensity_kind
        else:
            among = self._known_arms(policy, candidates, snapshot)
            arm, chances = self._fall_back(policy, among, must=reason == ALL_HIDDEN)
            propensity, version = float(chances[among.index(arm)]), None
        if learns != policy:  # decided for another one, which has other features and versions
            policy, version, group, made = learns, None, None, self._compiled(asked, learns, context, None)
        x, ts = context_of(made.context, arm), int(now_s * 1000)
        token = self._tokens.token(
            policy,
            decision_id=name,
            slot=slot,
            arm=arm,
            propensity=propensity,
            estimated=kind == "estimate",
            snapshot=version,
            context=x,
            ts=ts,
        )
        return Decision(
            decision_id=name,
            policy=policy,
            slot=slot,
            arm=arm,
            propensity=propensity,
            snapshot=version,
            context=x,
            candidates=tuple(among),
            probabilities=chances,
            ts=ts,
            unit=unit,
            propensity_kind=kind,
            reason=reason,
            token=token,
            group=group,
            missing=made.missing,
        )

    def decide_slots(
        self,
        policy: str,
        context: Sequence[float] | FloatArray | Mapping[str, Value],
        candidates: Sequence[str] | None = None,
        *,
        slots: Sequence[str],
        unit: str | None = None,
        request: Mapping[str, Value] = NOTHING,
        decision_id: str | None = None,
    ) -> SlotsDecision:
        """Choose arms for the slots of a page together; a slot stays empty where nothing may be shown in it.

        Paused and gone arms, those that rules, caps and closed budgets take away, are never shown, by the fallback neither.

        Args:
            policy, candidates, decision_id: as `decide` takes them.
            context: as `decide` takes it, or (K, d) where slots have features of their own; each slot logs its own.
            slots: names of the K places, each once.
            unit: who sees them; needed for sticky canaries, and for frequency caps, which count what `log_impression` logs of this client.
            request: fields that eligibility rules compare, of the policy's `request_fields`.

        Raises:
            NoSnapshot: the fallback decides and knows no arm.
            FeatureError: as `decide`.
            ValueError: no slot or one twice, a field that is not declared, or what `decide` refuses.
        """
        now_s = self._clock()
        name = self._new_id() if decision_id is None else decision_id
        asked, (policy, learns) = policy, self._routes.of(policy, name, self._snapshots.get)
        snapshot = deciding(self._settings, policy, self._snapshots.get)
        made = self._compiled(asked, policy, context, snapshot)
        place = Place(
            slots=_distinct(slots),
            candidates=None if candidates is None else tuple(candidates),
            unit=unit,
            request=self._filler.request(policy, request),
            now_ms=int(now_s * 1000),
            key=name,
        )
        reason = self._unusable(policy, snapshot, None, now_s)
        reason = None if reason == ALL_HIDDEN else reason
        rng = self._draws.mine()
        if snapshot is not None and reason is None:
            filled = self._filler.fill(policy, snapshot, made.context, place, rng=rng)
        else:
            filled = self._fill_back(policy, snapshot, place, rng)
        own = snapshot is not None and reason is None and snapshot.policy == policy
        version, groups = snapshot.version if snapshot is not None and own else None, filled.groups
        if learns != policy:  # as in `decide`
            policy, version, groups, made = learns, None, (), self._compiled(asked, learns, context, None)
        tokens = self._tokens.of_slots(
            policy,
            decision_id=name,
            slots=place.slots,
            arms=filled.arms,
            propensity=filled.propensity,
            estimated=filled.kind == "estimate",
            snapshot=version,
            context=made.context,
            ts=place.now_ms,
        )
        return SlotsDecision(
            decision_id=name,
            policy=policy,
            slots=place.slots,
            arms=filled.arms,
            propensity=filled.propensity,
            snapshot=version,
            context=made.context,
            candidates=filled.names,
            probabilities=filled.probabilities,
            ts=place.now_ms,
            unit=unit,
            propensity_kind=filled.kind,
            reason=reason,
            tokens=tokens,
            groups=groups,
            missing=made.missing,
        )

    def _fill_back(self, policy: str, snapshot: Snapshot | None, place: Place, rng: np.random.Generator) -> Filled:
        among = self._known_arms(policy, place.candidates, snapshot)
        ranked = None if self._fallback == "uniform" else self._fallback
        if not among or not (ranked is None or set(ranked) & set(among)):
            raise NoSnapshot(
                f"policy {policy!r} has no usable snapshot ({self.error or 'none is recent enough'}) and the fallback "
                f"{self._fallback!r} finds no arm among {list(among)}; pass candidates, or list arms in the settings"
            )
        return self._filler.fall_back(policy, snapshot, replace(place, candidates=among), rng=rng, ranked=ranked)

    def _alone(self, decided: SlotsDecision) -> Decision:
        if not decided.decisions:
            raise NothingToShow(
                f"policy {decided.policy!r}, slot {decided.slots[0]!r}: paused arms, rules, caps, budgets or the reserve leave "
                "nothing to show; leave the slot empty"
            )
        return decided.decisions[0]

    def propensities(
        self,
        policy: str,
        context: Sequence[float] | FloatArray | Mapping[str, Value],
        candidates: Sequence[str] | None = None,
    ) -> dict[str, float]:
        """The exact probability of every candidate, floor included, whatever their number; arguments as `decide`.

        Also where a decision logs an estimate, for more work: as a function of the newest snapshot, however old. Under a sticky canary
        they are those of a decision for a unit that is not known yet.

        Raises:
            NoSnapshot: there is none; a fallback's decision has its law in `probabilities`.
            FeatureError, ValueError: as `decide`.
        """
        snapshot = self._followed(policy)
        names = snapshot.names if candidates is None else tuple(candidates)
        p = split_law(snapshot, self._compiled(policy, policy, context, snapshot).context, candidates)
        return dict(zip(names, p.tolist(), strict=True))

    def explain(
        self,
        policy: str,
        context: Sequence[float] | FloatArray | Mapping[str, Value],
        candidates: Sequence[str] | None = None,
    ) -> tuple[Explanation, ...]:
        """Why each candidate would be shown, in their order: see `policies.explain`; arguments as `decide`.

        `Explanation.words(features)` takes the names from `streams.contexts.components`.

        Raises:
            NoSnapshot: there is none.
            FeatureError, ValueError: as `decide`.
        """
        snapshot = self._followed(policy)
        return explain(snapshot, self._compiled(policy, policy, context, snapshot).context, candidates)

    def _followed(self, policy: str) -> Snapshot:
        snapshot = self._snapshots.get(policy)
        if snapshot is None:
            reason = self.error or "none has come yet; wait_ready waits for one"
            raise NoSnapshot(f"policy {policy!r} has no snapshot: {reason}")
        return snapshot

    def _unusable(
        self, policy: str, snapshot: Snapshot | None, candidates: Sequence[str] | None, now_s: float
    ) -> str | None:
        """Why the snapshot cannot decide, None if it can."""
        if logs_only(self._settings, policy, snapshot):
            return LOGGING
        if snapshot is None:
            return f"policy {policy!r} has no snapshot"
        if self._too_old(snapshot, now_s):
            return f"snapshot {snapshot.version} is older than {self._max_age_s} s"
        among = snapshot.names if candidates is None else candidates
        return ALL_HIDDEN if snapshot.hidden and among and not snapshot.showable(among) else None

    def _compiled(
        self,
        asked: str,
        policy: str,
        context: Sequence[float] | FloatArray | Mapping[str, Value],
        snapshot: Snapshot | None,
    ) -> Compiled:
        if isinstance(context, Mapping):
            context = self._routes.values(asked, policy, context)
        made = compiled(self._settings, policy, context, snapshot, self.texts)
        return Compiled(self._tokens.rounded_all(policy, made.context), made.missing)

    def _too_old(self, snapshot: Snapshot, now_s: float) -> bool:
        return self._max_age_s is not None and now_s - snapshot.time_ms / 1000 > self._max_age_s

    def _known_arms(self, policy: str, candidates: Sequence[str] | None, snapshot: Snapshot | None) -> tuple[str, ...]:
        if candidates is not None and len(set(candidates)) != len(candidates):
            raise ValueError(f"candidates are {list(candidates)}; each arm may be given once")
        if snapshot is not None:
            among = snapshot.names if candidates is None else tuple(candidates)
            return showable(among, snapshot.hidden) or among
        if candidates is not None:
            return tuple(candidates)
        known = self._settings.policies.get(policy)
        if known is not None and known.arms:
            return known.arms
        return () if self._fallback == "uniform" else tuple(self._fallback)

    def _fall_back(self, policy: str, among: tuple[str, ...], *, must: bool) -> tuple[str, FloatArray]:
        """An arm and the law; `must` takes any arm where a ranked list has none."""
        if self._fallback == "uniform" and among:
            return among[int(self._draws.mine().integers(len(among)))], np.full(len(among), 1 / len(among))
        for arm in () if self._fallback == "uniform" else self._fallback:
            if arm in among:
                return arm, np.array([float(other == arm) for other in among])
        if must:
            return among[0], np.array([float(other == among[0]) for other in among])
        raise NoSnapshot(
            f"policy {policy!r} has no usable snapshot ({self.error or 'none is recent enough'}) and the fallback "
            f"{self._fallback!r} finds no arm among {list(among)}; pass candidates, or list arms in the settings"
        )

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until all events are delivered. Raises NotDelivered if some were not."""
        self._producer.flush(timeout_s)

    def close(self, timeout_s: float = 10.0) -> None:
        """Deliver what is queued and end the threads. Raises NotDelivered if something was not delivered."""
        try:
            self._producer.close(timeout_s)
        finally:
            self._follower.close()
            self.texts.close()

    async def wait_ready_async(self, timeout_s: float, *, policy: str | None = None) -> None:
        """`wait_ready` for coroutines."""
        await asyncio.to_thread(self.wait_ready, timeout_s, policy=policy)

    async def flush_async(self, timeout_s: float = 30.0) -> None:
        """`flush` for coroutines."""
        await asyncio.to_thread(self.flush, timeout_s)

    async def close_async(self, timeout_s: float = 10.0) -> None:
        """`close` for coroutines."""
        await asyncio.to_thread(self.close, timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close_async()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _distinct(slots: Sequence[str]) -> tuple[str, ...]:
    if isinstance(slots, str) or not slots or len(set(slots)) != len(slots):
        raise ValueError(f"slots are {slots!r}; must be a list of at least one name, each once")
    return tuple(slots)
