"""Where decisions are made: requests that came in the same turn of the event loop are decided together.

A job waits in a queue until the loop's next turn. If its deadline has passed by then, or no snapshot can be used, the
fallback decides, at random with known propensities, and the answer says why. All jobs of a batch that share a policy and
its candidates are decided from one snapshot, which is looked up once: none sees half of a swap.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from msgspec import UNSET

from policies.features import FeatureError
from streams.client import Decision
from streams.modes import deciding, logs_only
from streams.serve_allocate import Drawn, allocate, allocate_split, uniform
from streams.serve_messages import Answer, Ask, BadRequest, Shown
from streams.settings_errors import did_you_mean

if TYPE_CHECKING:
    from policies.batch import FloatArray
    from policies.snapshot import Snapshot
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
        x: (d,) context.
        u: (s,) random numbers, one for each slot.
        until: when it is too late, on the desk's clock.
        done: called with what was decided, or the error.
    """

    ask: Ask
    places: tuple[str, ...]
    x: FloatArray
    decision_id: str
    u: FloatArray
    until: float
    done: Callable[[Made | Exception], None]


@dataclass(frozen=True, slots=True)
class Made:
    """What was decided for a job."""

    job: Job
    names: tuple[str, ...]
    drawn: list[Drawn]
    snapshot: int | None
    reason: Reason | None
    ts: int

    def decisions(self) -> list[Decision]:
        """One for each slot that was filled, as they are logged: without the candidates, which would wait in the queue."""
        job = self.job
        return [
            Decision(
                decision_id=job.decision_id,
                policy=job.ask.policy,
                slot=slot,
                arm=self.names[one.place],
                propensity=one.propensity,
                snapshot=self.snapshot,
                context=job.x,
                candidates=(),
                probabilities=None,
                ts=self.ts,
                unit=job.ask.unit,
                propensity_kind="estimate" if one.estimated else "exact",
                group=one.group,
            )
            for slot, one in zip(job.places, self.drawn, strict=False)
        ]

    def answer(self, *, context: bool) -> Answer:
        """As it is told; with the context where who asked logs the impressions."""
        job, left = self.job, len(self.job.places) - len(self.drawn)
        shown = [
            Shown(
                slot=slot,
                arm=self.names[one.place],
                propensity=one.propensity,
                propensity_kind="estimate" if one.estimated else "exact",
                group=UNSET if one.group is None else one.group,
            )
            for slot, one in zip(job.places, self.drawn, strict=False)
        ]
        if left:
            shown += [Shown(slot=slot, arm=None, propensity=None, propensity_kind=None) for slot in job.places[-left:]]
        return Answer(
            decision_id=job.decision_id,
            policy=job.ask.policy,
            snapshot=self.snapshot,
            ts=self.ts,
            reason=self.reason,
            slots=shown,
            unit=UNSET if job.ask.unit is None else job.ask.unit,
            context=job.x.tolist() if context else UNSET,
        )


class Desk:
    """Decides in batches, in the event loop.

    Args:
        settings: the policies' dimensions, features and arms, and the age up to which a snapshot is used.
        source: gives snapshots.
        clock: seconds since the epoch.
        monotonic: seconds that only grow; deadlines are on it.
    """

    def __init__(
        self, settings: Settings, source: Source, *, clock: Callable[[], float], monotonic: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._source = source
        self._clock = clock
        self._monotonic = monotonic
        self._waiting: deque[Job] = deque()
        self._scheduled = False

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._waiting)

    def vector(self, ask: Ask) -> FloatArray:
        """(d,) context of what is asked, checked. Raises BadRequest: no such policy, another length, wrong features."""
        known, snapshot = self._settings.policies.get(ask.policy), self._source.snapshot(ask.policy)
        if known is None and snapshot is None:
            raise BadRequest(f"there is no policy {ask.policy!r}; {did_you_mean(ask.policy, self._settings.policies)}")
        dimension = known.dimension if known is not None else 0 if snapshot is None else snapshot.dimension
        if isinstance(ask.features, Mapping):
            if isinstance(ask.context, list):
                raise BadRequest("give `context` (numbers) or `features` (values by name), and not both")
            if known is None or known.features is None:
                raise BadRequest(f"policy {ask.policy!r} has no named features; give `context`, {dimension} numbers")
            try:
                return known.features.features.vector(ask.features)
            except FeatureError as error:
                raise BadRequest(f"features: {error}") from error
        given = ask.context if isinstance(ask.context, list) else []
        if len(given) != dimension:
            raise BadRequest(f"context has {len(given)} numbers; policy {ask.policy!r} needs {dimension}")
        return np.array(given, np.float64)

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
        groups: dict[tuple[str, int, tuple[str, ...] | None, bool], list[Job]] = {}
        for _ in range(min(TOGETHER, len(self._waiting))):
            job = self._waiting.popleft()
            among = None if job.ask.candidates is None else tuple(job.ask.candidates)
            groups.setdefault((job.ask.policy, len(job.places), among, now > job.until), []).append(job)
        for (policy, _, among, late), jobs in groups.items():
            self._decide(policy, among, jobs, late=late)
        self._schedule()

    def _decide(self, policy: str, among: tuple[str, ...] | None, jobs: list[Job], *, late: bool) -> None:
        snapshot, ts = deciding(self._settings, policy, self._source.snapshot), int(self._clock() * 1000)
        reason = self._why_not(policy, snapshot, late=late)
        version: int | None = None
        try:
            if reason is None and snapshot is not None:
                names, version = among or snapshot.names, snapshot.version if snapshot.policy == policy else None
                drawn = self._drawn(snapshot, among, jobs)
            else:
                names = self._arms(policy, among, snapshot)
                drawn = [uniform(len(names), job.u) for job in jobs]
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody waits for ever
            refused = isinstance(error, ValueError) and not isinstance(error, BadRequest)
            for job in jobs:
                job.done(BadRequest(str(error)) if refused else error)
            return
        for job, one in zip(jobs, drawn, strict=True):
            job.done(Made(job, names, one, version, reason, ts))

    def _drawn(self, snapshot: Snapshot, among: tuple[str, ...] | None, jobs: list[Job]) -> list[list[Drawn]]:
        x, u = np.array([job.x for job in jobs]), np.array([job.u for job in jobs])
        if not snapshot.splits:
            return allocate(snapshot, x, among, u)
        ids, places = [job.decision_id for job in jobs], [job.places for job in jobs]
        return allocate_split(snapshot, x, among, u, decision_ids=ids, slots=places)

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
            return tuple(among if snapshot is None else snapshot.showable(among) or ())
        known = self._settings.policies.get(policy)
        arms = snapshot.names if snapshot is not None else known.arms if known is not None else ()
        if not arms:
            raise BadRequest(f"policy {policy!r} has no snapshot and no arms in the settings; give `candidates`")
        return tuple(arms if snapshot is None else snapshot.showable(arms) or ())
