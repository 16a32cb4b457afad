"""Where decisions are made: requests that came in the same turn of the event loop are decided together.

A job waits in a queue until the loop's next turn. If its deadline has passed by then, or no snapshot can be used, the
fallback decides, at random with known propensities, and the answer says why. All jobs of a batch that share a policy and
its candidates are decided from one snapshot, which is looked up once: none sees half of a swap. Where a policy has frequency
caps, jobs of one unit are decided one after another, each of which counts for the next.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from msgspec import UNSET, Struct
from msgspec.structs import replace

from policies.arm_contexts import ArmContexts, context_of
from policies.features import FeatureError
from streams.events import Impression, packed
from streams.filling import NOTHING, Filled, Filler, Place
from streams.modes import deciding, logs_only
from streams.serve_messages import Answer, Ask, BadRequest, Shown
from streams.settings_errors import did_you_mean
from streams.succession import Routes
from streams.texts import Compiled, Texts
from streams.token_issue import TokenDesk

if TYPE_CHECKING:
    from policies.batch import FloatArray
    from policies.canary import Group
    from policies.snapshot import Snapshot
    from streams.events import Codec
    from streams.settings import Settings

Reason = Literal["no snapshot", "stale", "deadline", "logging"]

TOGETHER = 64
"""Jobs of one batch at most; larger ones gain little and make the first wait."""


class Source(Protocol):
    """Where snapshots come from: a `PolicyClient`, or a stand-in."""

    def snapshot(self, policy: str) -> Snapshot | None: ...  # noqa: D102
    def age_s(self, policy: str) -> float | None: ...  # noqa: D102


@dataclass(slots=True)
class Job:
    """One decision to make.

    Attributes:
        x: (d,) context, (s, d) one for each slot, or one that differs between arms.
        rng: the randomness; nothing else is drawn, so that the same generator decides the same.
        until: when it is too late, on the desk's clock.
        done: called with what was decided, or the error.
        learns: policy that the decision belongs to if it is not `ask.policy`, whose snapshot decides; `seen` is its context.
        missing: texts that have no vector yet.
    """

    ask: Ask
    places: tuple[str, ...]
    x: FloatArray | ArmContexts
    decision_id: str
    rng: np.random.Generator
    until: float
    done: Callable[[Made | Exception], None]
    learns: str | None = None
    seen: FloatArray | ArmContexts | None = None
    missing: tuple[str, ...] = ()

    @property
    def policy(self) -> str:
        """Name of the policy that the decision belongs to."""
        return self.ask.policy if self.learns is None else self.learns

    @property
    def logged(self) -> FloatArray | ArmContexts:
        """The context as impressions have it."""
        return self.x if self.seen is None else self.seen

    def context(self, arm: str, slot: int) -> FloatArray:
        """(d,) what the impression of an arm in a slot carries."""
        return context_of(self.logged, arm, slot)


class Made(Struct, frozen=True):
    """What was decided for a job. ``tokens``: one for each slot, None where it is empty or the policy has none."""

    job: Job
    filled: Filled
    snapshot: int | None
    reason: Reason | None
    ts: int
    tokens: tuple[str | None, ...]

    @property
    def groups(self) -> tuple[Group | None, ...]:
        """Who decided, by slot, for the tests of the policy that decided; empty if nothing is shared out."""
        return self.filled.groups if self.job.learns is None else ()

    def impressions(self, codec: Codec) -> list[Impression]:
        """One for each slot that was filled."""
        job, filled = self.job, self.filled
        groups, logged = self.groups, job.logged
        shared = packed(logged, codec) if isinstance(logged, np.ndarray) and logged.ndim == 1 else None
        return [
            Impression(
                decision_id=job.decision_id,
                slot=slot,
                policy=job.policy,
                snapshot=self.snapshot,
                arm=arm,
                propensity=propensity,
                propensity_kind=None if filled.kind == "exact" else filled.kind,
                group=groups[place] if groups else None,
                context=packed(job.context(arm, place), codec) if shared is None else shared,
                ts=self.ts,
                unit=job.ask.unit,
            )
            for place, (slot, arm, propensity) in enumerate(
                zip(job.places, filled.arms, filled.propensity, strict=True)
            )
            if arm is not None
        ]

    def answer(self, *, context: bool) -> Answer:
        """As it is told; with the context where who asked logs the impressions."""
        job, kind = self.job, self.filled.kind
        groups = self.groups or (None,) * len(job.places)
        logged = job.logged
        own = context and isinstance(logged, ArmContexts)
        shown = [
            Shown(slot=slot, arm=None, propensity=None, propensity_kind=None)
            if arm is None
            else Shown(
                slot=slot,
                arm=arm,
                propensity=propensity,
                propensity_kind=kind,
                token=UNSET if token is None else token,
                group=UNSET if group is None else group,
                context=job.context(arm, place).tolist() if own else UNSET,
            )
            for place, (slot, arm, propensity, token, group) in enumerate(
                zip(job.places, self.filled.arms, self.filled.propensity, self.tokens, groups, strict=True)
            )
        ]
        return Answer(
            decision_id=job.decision_id,
            policy=job.policy,
            snapshot=self.snapshot,
            ts=self.ts,
            reason=self.reason,
            slots=shown,
            unit=UNSET if job.ask.unit is None else job.ask.unit,
            context=logged.tolist() if context and isinstance(logged, np.ndarray) and logged.ndim == 1 else UNSET,
            contexts=logged.tolist() if context and isinstance(logged, np.ndarray) and logged.ndim == 2 else UNSET,
            missing=list(job.missing) if job.missing else UNSET,
        )


class Desk:
    """Decides in batches, in the event loop.

    Args:
        settings: the policies' dimensions, features and arms, and the age up to which a snapshot is used.
        source: gives snapshots.
        clock: seconds since the epoch.
        monotonic: seconds that only grow; deadlines are on it.
        texts: makes features of texts.
    """

    def __init__(
        self,
        settings: Settings,
        source: Source,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        texts: Texts | None = None,
    ) -> None:
        self._settings = settings
        self._source = source
        self._clock = clock
        self._monotonic = monotonic
        self.tokens = TokenDesk(settings)
        self.filler = Filler(settings.policies)
        self._routes = Routes(settings)
        self._texts = Texts(settings) if texts is None else texts
        self._capped = frozenset(name for name, known in settings.policies.items() if known.caps)
        self._waiting: deque[Job] = deque()
        self._scheduled = False

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._waiting)

    def job(
        self,
        ask: Ask,
        places: tuple[str, ...],
        *,
        decision_id: str,
        rng: np.random.Generator,
        until: float,
        done: Callable[[Made | Exception], None],
    ) -> Job:
        """What is asked as a job, its context checked. Raises BadRequest: no such policy, another length, wrong features."""
        route = self._routes.of(ask.policy, decision_id, self._source.snapshot)
        made, chosen = self._rounded(ask, route.decides)
        self._check(chosen)
        seen, _ = self._rounded(ask, route.learns) if route.apart else (None, ask)
        return Job(
            chosen,
            places,
            made.context,
            decision_id,
            rng,
            until,
            done,
            learns=route.learns if route.apart else None,
            seen=None if seen is None else seen.context,
            missing=made.missing if seen is None else seen.missing,
        )

    def _rounded(self, asked: Ask, policy: str) -> tuple[Compiled, Ask]:
        """The context of what was asked as a policy has it, and the same asked of that policy."""
        ask = asked if policy == asked.policy else replace(asked, policy=policy)
        if isinstance(asked.features, Mapping):
            values = self._routes.values(asked.policy, policy, asked.features)
            ask = ask if values is asked.features else replace(ask, features=dict(values))
        try:
            made = self._compiled(ask)
            return Compiled(self.tokens.rounded_all(policy, made.context), made.missing), ask
        except ValueError as error:
            raise error if isinstance(error, BadRequest) else BadRequest(str(error)) from error

    def _compiled(self, ask: Ask) -> Compiled:
        known, snapshot = self._settings.policies.get(ask.policy), self._source.snapshot(ask.policy)
        if known is None and snapshot is None:
            raise BadRequest(f"there is no policy {ask.policy!r}; {did_you_mean(ask.policy, self._settings.policies)}")
        dimension = known.dimension if known is not None else 0 if snapshot is None else snapshot.dimension
        if isinstance(ask.features, Mapping):
            if isinstance(ask.context, list) or isinstance(ask.contexts, list):
                raise BadRequest("give `context` (numbers) or `features` (values by name), and not both")
            if known is None or known.features is None:
                raise BadRequest(f"policy {ask.policy!r} has no named features; give `context`, {dimension} numbers")
            try:
                return self._texts.compiled(ask.policy, known.features.features, ask.features)
            except FeatureError as error:
                raise BadRequest(f"features: {error}") from error
        if isinstance(ask.contexts, list):
            return Compiled(_for_each_slot(ask, ask.contexts, dimension))
        given = ask.context if isinstance(ask.context, list) else []
        if len(given) != dimension:
            raise BadRequest(f"context has {len(given)} numbers; policy {ask.policy!r} needs {dimension}")
        return Compiled(np.array(given, np.float64))

    def _check(self, ask: Ask) -> None:
        """Raises BadRequest if the request's fields do not suit the policy's rules."""
        if isinstance(ask.request, dict):
            try:
                self.filler.request(ask.policy, ask.request)
            except ValueError as error:
                raise BadRequest(str(error)) from error

    def add(self, jobs: list[Job]) -> None:
        """Queue jobs; they are decided in the loop's next turn."""
        self._waiting.extend(jobs)
        self._schedule()

    def _schedule(self) -> None:
        if self._waiting and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        now = self._monotonic()
        groups: dict[tuple[str, tuple[str, ...], tuple[str, ...] | None, bool, bool], list[Job]] = {}
        for _ in range(min(TOGETHER, len(self._waiting))):
            job = self._waiting.popleft()
            key = (
                job.ask.policy,
                job.places,
                job.ask.candidates,
                now > job.until,
                isinstance(job.x, np.ndarray) and job.x.ndim == 1,
            )
            groups.setdefault(key, []).append(job)
        for (policy, _, among, late, shared), jobs in groups.items():
            for part in self._parts(policy, jobs):
                self._decide(policy, among, part, late=late, shared=shared)
        self._schedule()

    def _parts(self, policy: str, jobs: list[Job]) -> list[list[Job]]:
        """Jobs that may be decided together, one part after the other: where there are caps, a unit has one job in a part."""
        if policy not in self._capped:
            return [jobs]
        parts: list[list[Job]] = []
        units: Counter[str] = Counter()
        for job in jobs:
            unit = job.ask.unit
            number = 0 if unit is None else units[unit]
            if unit is not None:
                units[unit] += 1
            if number == len(parts):
                parts.append([])
            parts[number].append(job)
        return parts

    def _decide(self, policy: str, among: tuple[str, ...] | None, jobs: list[Job], *, late: bool, shared: bool) -> None:
        snapshot, ts = deciding(self._settings, policy, self._source.snapshot), int(self._clock() * 1000)
        reason = self._why_not(policy, snapshot, late=late)
        version: int | None = None
        places = [
            Place(
                slots=job.places,
                candidates=among,
                unit=job.ask.unit,
                request=self.filler.request(policy, job.ask.request) if isinstance(job.ask.request, dict) else NOTHING,
                now_ms=ts,
                key=job.decision_id,
            )
            for job in jobs
        ]
        try:
            if reason is not None or snapshot is None:
                arms = self._arms(policy, among, snapshot)
                found = [
                    self.filler.fall_back(policy, snapshot, replace(place, candidates=arms), rng=job.rng)
                    for place, job in zip(places, jobs, strict=True)
                ]
            elif shared:
                version = snapshot.version if snapshot.policy == policy else None
                x, rngs = np.array([job.x for job in jobs]), [job.rng for job in jobs]
                found = self.filler.fill_together(policy, snapshot, x, places, rngs=rngs)
            else:
                version = snapshot.version if snapshot.policy == policy else None
                found = [
                    self.filler.fill(policy, snapshot, job.x, place, rng=job.rng)
                    for place, job in zip(places, jobs, strict=True)
                ]
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody waits for ever
            refused = isinstance(error, ValueError) and not isinstance(error, BadRequest)
            if refused and len(jobs) > 1:  # what is wrong with one is nobody else's error
                for job in jobs:
                    self._decide(policy, among, [job], late=late, shared=shared)
                return
            for job in jobs:
                job.done(BadRequest(str(error)) if refused else error)
            return
        for job, filled in zip(jobs, found, strict=True):
            try:
                tokens = self._tokens(job, filled, version, ts)
            except ValueError as error:
                job.done(BadRequest(str(error)))
                continue
            if self._capped:
                self._count(job, filled, ts)
            job.done(Made(job, filled, version if job.learns is None else None, reason, ts, tokens))

    def _count(self, job: Job, filled: Filled, ts: int) -> None:
        """Count what was decided for the frequency caps of who decided and of who learns, before the unit's next job is decided."""
        for policy in {job.ask.policy, job.policy}:
            for arm in filled.arms:
                if arm is not None:
                    self.filler.caps.shown(policy, job.ask.unit, arm, ts=ts)

    def _tokens(self, job: Job, filled: Filled, snapshot: int | None, ts: int) -> tuple[str | None, ...]:
        return self.tokens.of_slots(
            job.policy,
            decision_id=job.decision_id,
            slots=job.places,
            arms=filled.arms,
            propensity=filled.propensity,
            estimated=filled.kind == "estimate",
            snapshot=snapshot if job.learns is None else None,
            context=job.logged,
            ts=ts,
        )

    def _why_not(self, policy: str, snapshot: Snapshot | None, *, late: bool) -> Reason | None:
        if logs_only(self._settings, policy, snapshot):
            return "logging"
        if snapshot is None:
            return "no snapshot"
        known, most_s, age_s = (
            self._settings.policies.get(policy),
            self._settings.snapshot_max_age_s,
            self._source.age_s(snapshot.policy),
        )
        if known is not None and known.fingerprint is not None and snapshot.encoder != known.fingerprint:
            return "no snapshot"  # none of these features
        if most_s is not None and age_s is not None and age_s > most_s:
            return "stale"
        return "deadline" if late else None

    def _arms(self, policy: str, among: tuple[str, ...] | None, snapshot: Snapshot | None) -> tuple[str, ...]:
        if among is not None:
            if len(set(among)) != len(among):
                twice = sorted({name for name in among if among.count(name) > 1})
                raise BadRequest(f"candidates hold {twice} more than once; each arm may be given once")
            return among
        known = self._settings.policies.get(policy)
        arms = snapshot.names if snapshot is not None else known.arms if known is not None else ()
        if not arms:
            raise BadRequest(f"policy {policy!r} has no snapshot and no arms in the settings; give `candidates`")
        return tuple(arms)


def _for_each_slot(ask: Ask, contexts: list[list[float]], dimension: int) -> FloatArray:
    """(s, d) contexts of the slots."""
    if isinstance(ask.context, list):
        raise BadRequest("give `context` (numbers) or `contexts` (numbers for each slot), and not both")
    slots = len(ask.places())
    lengths = sorted({len(one) for one in contexts})
    if len(contexts) != slots or lengths != [dimension]:
        raise BadRequest(
            f"contexts has {len(contexts)} lists of {', '.join(map(str, lengths))} numbers; policy {ask.policy!r} needs "
            f"{dimension} numbers for each of {slots} slots"
        )
    return np.array(contexts, np.float64)
