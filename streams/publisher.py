"""The publisher: follows the committed sums of every partition, and while it leads, publishes snapshots.

A snapshot is one transaction: the arm records that changed, then the head; the history topic gets the head, and every arm
when the prior changed (a meta-change). Nothing is published that says what the snapshot before said. The transactional id
belongs to the publishers' group, so a leader that was replaced without noticing is refused; a rollback from outside takes it
too, and the leader then starts over from what was published. While a snapshot is held nothing is published that would notice,
so the leader looks at the topic now and then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from policies.arms import Roster, reasons, roster
from policies.empirical_bayes import fit
from policies.model import Model, Sums
from policies.prior import PRIORS, AnyPrior
from policies.snapshot import Snapshot, build, encode_head, records, republish
from policies.snapshot_records import head_key
from streams.checkpoint import FencedError, UnknownOutcomeError, Writer
from streams.controls import Controls
from streams.failpoints import failpoints
from streams.following import Collector
from streams.messages import Message
from streams.metrics import Metrics
from streams.posteriors import Posteriors
from streams.reading import ReadError, bounds, partition_count, read, reader
from streams.rules import model
from streams.settings import PolicySettings, Settings

log = structlog.get_logger(__name__)

TIMEOUT_S = 10.0

HELD_LOOK_S = 1.0
"""Seconds between two looks for the release of a snapshot that is held."""


@dataclass(slots=True)
class Published:
    """What the leader knows of one policy."""

    settings: PolicySettings
    model: Model
    snapshot: Snapshot | None = None
    prior: AnyPrior | None = None
    fitted_count: float = 0.0
    fitted_at: float = field(default=-1e18)
    taken_over: bool = False  # settings may have changed since the snapshot was published


class Publisher:
    """One process's publisher. ``leads`` says whether it is the leader now."""

    def __init__(self, settings: Settings, *, metrics: Metrics, leads: Callable[[], bool]) -> None:
        self._settings = settings
        self._metrics = metrics
        self._leads = leads
        self._policies = {name: Published(policy, model(policy)) for name, policy in settings.policies.items()}
        self._posteriors = Posteriors(settings, {name: known.model for name, known in self._policies.items()})
        self._controls = Controls(settings)
        self._writer: Writer | None = None
        self._busy = asyncio.Lock()
        self._looked = time.monotonic()
        self._beat = time.monotonic()
        self._status = (False, "starting")

    def live(self) -> tuple[bool, str]:
        """False when no tick has come for half a minute."""
        silent = time.monotonic() - self._beat
        return silent < 30, f"last tick {silent:.1f} s ago"

    def ready(self) -> tuple[bool, str]:
        """Whether it follows the sums, and leads or stands by."""
        return self._status

    async def follow(self) -> None:
        """Follow the posteriors and the controls in threads until closed."""
        self._posteriors.start()
        self._controls.start()

    async def tick(self) -> None:
        """Publish what changed, if this process leads."""
        self._beat = time.monotonic()
        self._ages()
        error = self._posteriors.error or self._controls.error
        if error is not None:
            self._status = (False, error)
            return
        if not self._leads():
            self._status = (True, "standing by")
            await self._resign()
            self._stand_by()
            return
        if self._busy.locked():
            return
        async with self._busy:
            try:
                await asyncio.to_thread(self._publish)
                self._status = (True, "leading")
            except (FencedError, UnknownOutcomeError, ReadError) as error:
                log.warning("not published, starting over", error=str(error))
                self._status = (False, str(error))
                await self._resign()

    async def close(self) -> None:
        """Stop following and let go of the producer."""
        self._posteriors.close()
        self._controls.close()
        await self._resign()

    async def _resign(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await asyncio.to_thread(writer.close)

    def _stand_by(self) -> None:
        """Tell no versions and ages: they are somebody else's now, and an age that nobody resets would raise an alarm."""
        for name, known in self._policies.items():
            if known.snapshot is not None:
                known.snapshot = None
                self._metrics.snapshot_version.remove(name)
                self._metrics.snapshot_age.remove(name)

    def _publish(self) -> None:
        writer = self._writer
        if writer is None or self._was_released():
            writer = self._take_over()
        for name, known in self._policies.items():
            self._publish_policy(name, known, writer)

    def _was_released(self) -> bool:
        """Whether another snapshot came after one that is held: looked up in the topic, every HELD_LOOK_S."""
        held = {
            name: known.snapshot.version
            for name, known in self._policies.items()
            if known.snapshot is not None and is_held(known.snapshot)
        }
        if not held or time.monotonic() - self._looked < HELD_LOOK_S:
            return False
        self._looked = time.monotonic()
        found = read_snapshots(self._settings)
        return any(name in found and found[name].version != version for name, version in held.items())

    def _take_over(self) -> Writer:
        """Fence the predecessor, then read what it published last."""
        settings = self._settings
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        topics = {"policies": settings.topics.policies, "history": settings.topics.history}
        writer = Writer(
            settings.librdkafka(),
            transactional_id=settings.publisher_group,
            partition=0,
            topics=topics,
            timeout_s=TIMEOUT_S,
            passing=failpoints(None),
        )
        writer.initialise()
        for name, snapshot in read_snapshots(settings).items():
            if name in self._policies:
                known = self._policies[name]
                known.snapshot = snapshot
                known.prior = snapshot.prior if isinstance(snapshot.prior, PRIORS[known.model.name]) else None
                known.fitted_count, known.fitted_at = 0.0, -1e18
                self._metrics.snapshot_version.labels(policy=name).set(snapshot.version)
        for known in self._policies.values():
            known.taken_over = True
        self._posteriors.everything_changed()
        self._writer = writer
        return writer

    def _publish_policy(self, name: str, known: Published, writer: Writer) -> None:
        if known.snapshot is not None and is_held(known.snapshot):
            self._control_held(name, known, known.snapshot, writer)
            return
        merged, touched, place = self._posteriors.take(name)
        controls, fresh = self._controls.take(name)
        standing = roster(known.model, merged, controls, arms=known.settings.arms)
        if not standing.sums and known.snapshot is None:
            return
        self._announce(known, standing, place.now_ms)
        told_of_arms = reasons(controls, known.snapshot, standing)
        why = (*told_of_arms, *self._meta(known, standing.sums, place.now_ms))
        if known.prior is None or not (known.snapshot is None or touched or fresh or why or known.taken_over):
            return
        anew = fresh or told_of_arms or known.taken_over or not known.model.timeless
        changed = None if anew else {standing.renamed.get(arm, arm) for arm in touched}
        snapshot = build(
            name,
            model=known.model,
            sums=standing.sums,
            prior=known.prior,
            version=1 if known.snapshot is None else known.snapshot.version + 1,
            previous=known.snapshot,
            time_ms=int(time.time() * 1000),
            now_ms=place.now_ms,
            explorer=known.settings.explorer,
            rates=known.settings.rates,
            reasons=why,
            encoder=known.model.encoder,
            watermark_ms=place.watermark_ms,
            offsets=place.offsets,
            changed=changed,
            paused=standing.paused,
            gone=standing.gone,
        )
        told = bool(touched) and not known.taken_over
        if known.snapshot is None or told or differ(known.snapshot, snapshot):
            writer.commit(messages(snapshot, full=bool(why)))
            known.snapshot = snapshot
        known.taken_over = False
        self._metrics.snapshot_version.labels(policy=name).set(known.snapshot.version)

    def _announce(self, known: Published, standing: Roster, now_ms: int) -> None:
        """Hook: tell the meta-state of announced changes (``standing.announced``) that it has not made yet."""

    def _control_held(self, name: str, known: Published, held: Snapshot, writer: Writer) -> None:
        """A snapshot that is held stays what it is, apart from which of its arms may be shown."""
        controls, _ = self._controls.take(name)
        standing = roster(known.model, {arm: known.model.zero() for arm in held.names}, controls, arms=())
        standing = replace(standing, sums={arm: one for arm, one in standing.sums.items() if arm in held.names})
        if (standing.paused, standing.gone) == (held.paused, held.gone):
            return
        snapshot = republish(
            held,
            version=held.version + 1,
            parent=held.version,
            time_ms=int(time.time() * 1000),
            reasons=(*(why for why in held.reasons if why.startswith(HELD)), *reasons(controls, held, standing)),
            paused=standing.paused,
            gone=standing.gone,
        )
        writer.commit(messages(snapshot, full=True))
        known.snapshot = snapshot
        self._metrics.snapshot_version.labels(policy=name).set(snapshot.version)

    def _meta(self, known: Published, sums: Mapping[str, Sums], now_ms: int) -> tuple[str, ...]:
        """Fit the prior when it is due: the interval has passed, or the data doubled. Returns the reasons in words."""
        if not sums:
            return ()
        count = sum(float(arm.count) for arm in sums.values())
        due = time.monotonic() - known.fitted_at >= self._settings.meta_interval_s
        if known.prior is not None and (count == known.fitted_count or not (due or count >= 2 * known.fitted_count)):
            return ()
        effective = {name: known.model.at(arm, now_ms=now_ms) for name, arm in sums.items()}
        policy = known.settings
        known.prior = fit(effective, None, model=policy.model, dimension=policy.dimension, intercept=policy.intercept)
        known.fitted_count, known.fitted_at = count, time.monotonic()
        return (f"prior and noise fitted to {count:.0f} impressions of {len(sums)} arms by empirical Bayes",)

    def _ages(self) -> None:
        for name, known in self._policies.items():
            if known.snapshot is not None:
                age_s = max(0.0, time.time() - known.snapshot.time_ms / 1000)
                self._metrics.snapshot_age.labels(policy=name).set(age_s)


def messages(snapshot: Snapshot, *, full: bool) -> list[Message]:
    """Records of one publication: arms and head to the policies topic, the head (and all arms if full) to the history."""
    history = records(snapshot, every_arm=True) if full else [(head_key(snapshot.policy), encode_head(snapshot))]
    return [
        *(Message("history", key, value) for key, value in history),
        *(Message("policies", key, value) for key, value in records(snapshot)),
    ]


def differ(old: Snapshot, new: Snapshot) -> bool:
    """Whether a snapshot says something that the one before does not; that it was made later does not count."""
    return bool(new.changed) or any(
        getattr(old, name) != getattr(new, name)
        for name in (
            "prior",
            "explorer",
            "rates",
            "model",
            "dimension",
            "encoder",
            "offsets",
            "names",
            "paused",
            "gone",
        )
    )


HELD = "held: "
"""How the reason of a snapshot begins that the publisher does not replace."""


def is_held(snapshot: Snapshot) -> bool:
    """Whether a rollback holds this snapshot until it is released."""
    return any(reason.startswith(HELD) for reason in snapshot.reasons)


def read_snapshots(settings: Settings) -> dict[str, Snapshot]:
    """The newest complete snapshot of each policy, as committed. Raises ReadError."""
    collector, topic, client = Collector(), settings.topics.policies, settings.librdkafka()
    found: dict[str, Any] = {}
    with reader(client) as consumer:
        for partition in range(partition_count(client, topic)):
            low, high = bounds(consumer, topic, partition, timeout_s=TIMEOUT_S)
            if high > low:
                for batch in read(consumer, topic, partition, low, None, timeout_s=TIMEOUT_S):
                    for record in batch:
                        collector.add(record.key, record.value)
                    ready, problems = collector.take()
                    found.update(ready)
                    for problem in problems:
                        log.warning("a snapshot could not be read", problem=problem)
    return {name: snapshot for name, snapshot in found.items() if snapshot is not None}
