"""The publisher: follows the committed sums of every partition, and while it leads, publishes snapshots.

A snapshot is one transaction: the arm records that changed, then the head; the history topic gets the head, and every arm
when the prior changed (a meta-change). Nothing is published that says what the snapshot before said. The transactional id
belongs to the publishers' group, so a leader that was replaced without noticing is refused; a rollback from outside takes it
too, and the leader then starts over from what was published. While a snapshot is held nothing is published that would notice,
so the leader looks at the topic now and then.

How fast to forget, which arms changed and how long clicks take is learned from the feedback topic (streams/meta_policy.py). That state
is written with the snapshot that it made, in one transaction; without a snapshot, every META_WRITE_S.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import structlog

from policies.allotment import Allotment
from policies.arms import Control, Roster, reasons, roster
from policies.exploration import Now
from policies.explorers import EXPLORERS
from policies.guardrails import unsound
from policies.meta import prior_for
from policies.model import Model, Sums
from policies.prior import PRIORS, AnyPrior
from policies.snapshot import Snapshot, build, republish
from streams.checkpoint import FencedError, UnknownOutcomeError, Writer
from streams.controls import Controls
from streams.failpoints import failpoints
from streams.messages import Message
from streams.meta_feedback import FeedbackFollower
from streams.meta_policy import ByTrack, PolicyMeta
from streams.metrics import Metrics
from streams.policy_contest import PolicyContest
from streams.policy_terms import PolicyTerms, silence
from streams.policy_trials import RECENT, PolicyTrials
from streams.posteriors import Place, Posteriors
from streams.published import HELD, TIMEOUT_S, differ, is_held, messages, read_published, read_snapshots
from streams.reading import ReadError
from streams.recent_rows import newest_rows
from streams.references import ReferenceWriter, reference_writer
from streams.rules import tracks
from streams.settings import PolicySettings, Settings
from streams.succession import Successions
from streams.texts import Texts

log = structlog.get_logger(__name__)

HELD_LOOK_S = 1.0
"""Seconds between two looks for the release of a snapshot that is held."""

META_WRITE_S = 5.0
"""Seconds between two records of a meta-state that no snapshot takes along; a new leader reads the feedback since then again."""


@dataclass(slots=True)
class Published:
    """What the leader knows of one policy."""

    settings: PolicySettings
    meta: PolicyMeta
    terms: PolicyTerms
    trials: PolicyTrials
    contest: PolicyContest
    references: ReferenceWriter | None = None
    snapshot: Snapshot | None = None
    prior: AnyPrior | None = None
    fitted_count: float = 0.0
    fitted_at: float = field(default=-1e18)
    taken_over: bool = False  # settings may have changed since the snapshot was published
    meta_at: float = field(default=-1e18)

    @property
    def model(self) -> Model:
        """Of the track that decides."""
        return self.meta.model


class Publisher:
    """One process's publisher. ``leads`` says whether it is the leader now."""

    def __init__(self, settings: Settings, *, metrics: Metrics, leads: Callable[[], bool]) -> None:
        self._settings = settings
        self._metrics = metrics
        self._leads = leads
        self._policies = {
            name: Published(
                policy,
                PolicyMeta(name, policy),
                PolicyTerms(name, policy),
                PolicyTrials(name, policy),
                PolicyContest(name, settings.policies),
                reference_writer(settings, name),
            )
            for name, policy in settings.policies.items()
        }
        self._posteriors = Posteriors(settings, {name: tracks(policy) for name, policy in settings.policies.items()})
        self._controls = Controls(settings)
        self._successions = Successions(settings.policies)
        self._texts = Texts(settings, arms_only=True)
        self._writer: Writer | None = None
        self._feedback: FeedbackFollower | None = None
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
        self._texts.close()
        await self._resign()

    async def _resign(self) -> None:
        feedback, self._feedback = self._feedback, None
        if feedback is not None:
            await asyncio.to_thread(feedback.close)
        writer, self._writer = self._writer, None
        if writer is not None:
            await asyncio.to_thread(writer.close)

    def _stand_by(self) -> None:
        """Tell no versions and ages: they are somebody else's now, and an age that nobody resets would raise an alarm."""
        silence(self._metrics)
        for name, known in self._policies.items():
            if known.snapshot is not None:
                known.snapshot = None
                self._metrics.snapshot_version.remove(name)
                self._metrics.snapshot_age.remove(name)
                self._metrics.half_life.remove(name)
                self._metrics.exploration_rate.remove(name)
                for contender in known.contest.members[1:]:
                    self._metrics.contest_share.remove(name, contender)
                for slot in known.meta.effects:
                    self._metrics.position_effect.remove(name, slot)
                if known.meta.follows:
                    self._metrics.click_delay.remove(name)

    def _publish(self) -> None:
        writer = self._writer
        if writer is None or self._was_released():
            writer = self._take_over()
        self._judge()
        for name, known in self._policies.items():
            self._publish_policy(name, known, writer)
            if time.monotonic() - known.meta_at >= META_WRITE_S:
                self._commit(known, writer, [])

    def _judge(self) -> None:
        """Learn from the matured rows that have come."""
        if self._feedback is None:
            return
        following = {name: known.meta for name, known in self._policies.items() if known.meta.follows}
        before = {name: (meta.alarms, meta.state.rows, meta.state.unscored) for name, meta in following.items()}
        for record in self._feedback.records():
            for meta in following.values():
                meta.judge(record)
            for known in self._policies.values():
                if known.trials.follows:
                    known.trials.judge(record)
                if known.contest.follows:
                    known.contest.judge(record)
        for known in self._policies.values():
            known.trials.settle(self._feedback.bounds, self._feedback.ended)
        for name, known in self._policies.items():
            self._metrics.audit_alarms.labels(policy=name).inc(known.trials.new_alarms())
        for name, meta in following.items():
            alarms, rows, unscored = before[name]
            self._metrics.drift_alarms.labels(policy=name).inc(meta.alarms - alarms)
            self._metrics.judged_rows.labels(policy=name, outcome="scored").inc(meta.state.rows - rows)
            self._metrics.judged_rows.labels(policy=name, outcome="unscored").inc(meta.state.unscored - unscored)
            self._metrics.click_delay.labels(policy=name).set(meta.mean_delay_s)

    def _commit(self, known: Published, writer: Writer, snapshot: list[Message]) -> None:
        """Write a snapshot's records and what the meta-state has to write, together or not at all."""
        tried, contest = known.trials.messages(), known.contest.messages()
        written = [*known.meta.messages(), *known.terms.messages(), *tried, *contest, *snapshot]
        if written:
            writer.commit(written)
        known.meta.written()
        known.terms.written(published=bool(snapshot))
        known.trials.written(tried)
        known.contest.written(contest)
        known.meta_at = time.monotonic()

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
        snapshots, metas = read_published(settings)
        for name, snapshot in snapshots.items():
            if name in self._policies:
                known = self._policies[name]
                known.snapshot = snapshot
                known.prior = snapshot.prior if isinstance(snapshot.prior, PRIORS[known.model.name]) else None
                known.fitted_count, known.fitted_at = 0.0, -1e18
                self._metrics.snapshot_version.labels(policy=name).set(snapshot.version)
                self._metrics.exploration_rate.labels(policy=name).set(
                    snapshot.rates.get(EXPLORERS[snapshot.explorer].rate, 0.0)
                )
        for name, known in self._policies.items():
            known.taken_over = True
            known.meta.restore(metas.get(name, {}))
            if known.snapshot is not None and is_held(known.snapshot):
                known.meta.exploring.hold(known.snapshot.version)
            known.terms.restore(metas.get(name, {}))
            known.trials.restore(metas.get(name, {}), snapshot=known.snapshot)
            known.contest.restore(metas.get(name, {}))
            if known.references is not None:
                known.references.restore(metas.get(name, {}))
            self._metrics.half_life.labels(policy=name).set(known.meta.half_life_s)
            if known.meta.follows:
                self._metrics.click_delay.labels(policy=name).set(known.meta.mean_delay_s)
        self._posteriors.everything_changed()
        self._follow_feedback()
        self._writer = writer
        return writer

    def _follow_feedback(self) -> None:
        """Read on where the policies' states ended; what lies before a policy's own position is passed over by it."""
        if self._feedback is not None:
            self._feedback.close()
            self._feedback = None
        following = [
            one for known in self._policies.values() for one in (known.meta, known.trials, known.contest) if one.follows
        ]
        if not following:
            return
        names = {name for one in following for name in (one.members if isinstance(one, PolicyContest) else (one.name,))}
        limits = {name: self._policies[name].settings.feature_limit for name in names}
        self._feedback = FeedbackFollower(self._settings, limits=limits)
        for one in following:
            one.place({number: high for number, (_, high) in self._feedback.bounds.items()})
        positions = [one.reads_from if isinstance(one, PolicyTrials) else one.state.offsets for one in following]
        self._feedback.start({number: min(one[number] for one in positions) for number in self._feedback.bounds})

    def _publish_policy(self, name: str, known: Published, writer: Writer) -> None:
        self._pace(name, known)
        if known.snapshot is not None and is_held(known.snapshot):
            self._control_held(name, known, known.snapshot, writer)
            return
        by_track, touched, place = self._posteriors.take(name)
        controls, fresh = self._controls.take(name)
        standings = self._standings(known, by_track, controls)
        standing = standings[known.meta.half_life_s]
        known.meta.heed(standing, place.now_ms)
        by_name = {track: one.sums for track, one in standings.items()}
        cut, learned = known.meta.settle(by_name, place.now_ms)
        if learned:
            known.fitted_count, known.fitted_at = -1.0, -1e18  # the prior is to be that of what is read now
        standing = standings[known.meta.half_life_s]
        if not standing.sums and known.snapshot is None:
            return
        told_of_arms = reasons(controls, known.snapshot, standing)
        fitted = self._meta(known, standing.sums, place.now_ms)
        moved = known.meta.place_slots() if fitted else ()
        read = partial(known.meta.read, now_ms=place.now_ms)
        hidden = (*standing.paused, *standing.gone)
        succeeds, takes_over = self._successions.look(name, standing.sums, known.snapshot, read, hidden=hidden)
        why = (*told_of_arms, *learned, *fitted, *moved, *takes_over)
        self._metrics.half_life.labels(policy=name).set(known.meta.half_life_s)
        for slot, effect in known.meta.effects.items():
            self._metrics.position_effect.labels(policy=name, slot=slot).set(effect)
        if known.prior is None:
            return
        if fitted:
            self._roll_out(known, standing, place)
        tried = (*self._explored(known), *self._try(name, known), *known.contest.heard())
        why = (*why, *tried)
        known.meta.remember(by_name, known.prior, place.now_ms)
        changed = cut | {standing.renamed.get(arm, arm) for arm in touched}
        paced = known.snapshot is not None and known.terms.moved(known.snapshot.allotment)
        if known.snapshot is not None and not (changed or fresh or why or known.taken_over or paced):
            return
        self._choose(name, known, standing)
        anew = fresh or told_of_arms or learned or known.taken_over
        snapshot = self._build(name, known, standing, place, why, None if anew else changed, succeeds=succeeds)
        told = bool(learned or tried or known.terms.reasons) or (bool(changed) and not known.taken_over)
        wrong = unsound(snapshot)
        if wrong:
            log.error("a snapshot is not published: a guardrail holds it back", policy=name, why="; ".join(wrong))
            return
        if known.snapshot is None or told or differ(known.snapshot, snapshot):
            written = messages(snapshot, full=bool(why))
            if known.references is not None and why:
                written[:0] = known.references.messages(known.references.of(snapshot))
            self._commit(known, writer, written)
            known.snapshot = snapshot
        known.taken_over = False
        self._metrics.snapshot_version.labels(policy=name).set(known.snapshot.version)

    def _try(self, name: str, known: Published) -> tuple[str, ...]:
        """Heed what was said of a policy and what its test found; what came of it, in words."""
        followed = known.trials.follows
        words = self._controls.words(name, known.trials.state.heard)
        newest = partial(newest_rows, self._settings, name, most=RECENT)
        tried = known.trials.hear(words, snapshot=known.snapshot, newest=newest)
        if known.trials.follows and not followed:
            self._follow_feedback()
        return tried

    def _standings(self, known: Published, by_track: ByTrack, controls: Mapping[str, Control]) -> dict[float, Roster]:
        """By half-life, what a snapshot would be made of; an arm that has no sums there yet has such of no rows."""
        names = [*known.settings.arms, *sorted({arm for arms in by_track.values() for arm in arms})]
        return {track: roster(known.meta.models[track], sums, controls, arms=names) for track, sums in by_track.items()}

    def _build(
        self,
        name: str,
        known: Published,
        standing: Roster,
        place: Place,
        reasons: tuple[str, ...],
        changed: set[str] | None,
        *,
        succeeds: str | None,
    ) -> Snapshot:
        """The next snapshot; `changed` None computes every arm."""
        if known.prior is None:
            raise RuntimeError(f"policy {name!r} has no prior yet: this is a bug")
        return build(
            name,
            model=known.model,
            sums=standing.sums,
            prior=known.prior,
            version=1 if known.snapshot is None else known.snapshot.version + 1,
            previous=known.snapshot,
            time_ms=int(time.time() * 1000),
            now_ms=place.now_ms,
            explorer=known.trials.exploring.explorer,
            rates=known.trials.exploring.rates,
            canary=known.trials.canary,
            audit_share=known.settings.audit_share,
            audit_sticky_s=known.settings.audit_sticky_s,
            logging=known.settings.mode == "logging",
            follows=known.settings.follows or "",
            reasons=(*reasons, *known.terms.reasons),
            encoder=known.model.encoder,
            watermark_ms=place.watermark_ms,
            offsets=place.offsets,
            changed=changed if known.model.timeless else None,
            read=partial(known.meta.read, now_ms=place.now_ms),
            paused=standing.paused,
            gone=standing.gone,
            allotment=known.terms.allotment(Allotment(kappa=known.meta.effects)),
            succeeds=succeeds,
            shares=known.contest.shares,
        )

    def _pace(self, name: str, known: Published) -> None:
        """A step of the budgets' prices and of the exposure queues, by what is known to be spent and shown."""
        if known.terms.follows:
            ledger, now_ms = self._posteriors.ledger(name)
            hidden = () if known.snapshot is None else known.snapshot.hidden
            known.terms.step(ledger, self._controls.budgets(name), now_ms=now_ms, hidden=hidden)
            known.terms.measure(self._metrics)

    def _control_held(self, name: str, known: Published, held: Snapshot, writer: Writer) -> None:
        """A snapshot that is held stays what it is, apart from which of its arms may be shown, and what that costs."""
        controls, _ = self._controls.take(name)
        standing = roster(known.model, {arm: known.model.zero() for arm in held.names}, controls, arms=())
        standing = replace(standing, sums={arm: one for arm, one in standing.sums.items() if arm in held.names})
        same_arms = (standing.paused, standing.gone) == (held.paused, held.gone)
        if same_arms and not known.terms.moved(held.allotment):
            return
        told = (*reasons(controls, held, standing), *known.terms.reasons)
        snapshot = republish(
            held,
            version=held.version + 1,
            parent=held.version,
            time_ms=int(time.time() * 1000),
            reasons=(*(why for why in held.reasons if why.startswith(HELD)), *told),
            paused=standing.paused,
            gone=standing.gone,
            allotment=known.terms.allotment(held.allotment),
            anew=not same_arms,
        )
        self._commit(known, writer, messages(snapshot, full=not same_arms))
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
        effective = {name: known.meta.read(name, arm, now_ms=now_ms) for name, arm in sums.items()}
        known.prior = prior_for(
            effective,
            rules=known.meta.exploring.rules,
            group_of=known.meta.exploring.group_of,
            features=self._texts.arm_features(known.meta.name)
            if known.settings.arm_texts
            else known.settings.features_of_arms,
        )
        known.meta.exploring.keep_groups(known.prior)
        known.fitted_count, known.fitted_at = count, time.monotonic()
        return (f"prior and noise fitted to {count:.0f} impressions of {len(sums)} arms by empirical Bayes",)

    def _roll_out(self, known: Published, standing: Roster, place: Place) -> None:
        """Begin a roll-out where one is due; it is played beside the stream."""
        exploring, count = known.meta.exploring, known.fitted_count
        if known.prior is None or not known.trials.free or not exploring.due(count):
            return
        hidden = {*standing.paused, *standing.gone}
        now = Now(
            arms={
                arm: known.meta.read(arm, one, now_ms=place.now_ms)
                for arm, one in standing.sums.items()
                if arm not in hidden
            },
            prior=known.prior,
            count=count,
            now_ms=place.now_ms,
            announced=known.meta.state.announced,
            offsets=place.offsets,
            half_life_s=known.meta.half_life_s,
            mean_delay_s=known.meta.mean_delay_s,
        )
        exploring.begin(now)

    def _explored(self, known: Published) -> tuple[str, ...]:
        """What a roll-out that is over decided, or the top layer found, in words; the policy goes on by it."""
        exploring = known.meta.exploring
        if not exploring.follows:
            return ()
        told = exploring.heard(known.snapshot, free=known.trials.free)
        known.trials.explore(exploring.base(known.trials.settings))
        return told

    def _choose(self, name: str, known: Published, standing: Roster) -> None:
        """What is drawn for the next snapshot, if anything is, and how it explores; who makes which share of its decisions."""
        exploring, version = known.meta.exploring, 1 if known.snapshot is None else known.snapshot.version + 1
        if exploring.follows:
            count = sum(float(arm.count) for arm in standing.sums.values())
            exploring.before(version, count=count, snapshot=known.snapshot, free=known.trials.free)
            known.trials.explore(exploring.now(known.trials.settings))
        for contender, share in known.contest.shares.items():
            self._metrics.contest_share.labels(policy=name, contender=contender).set(share)
        now = known.trials.exploring
        self._metrics.exploration_rate.labels(policy=name).set(now.rates[EXPLORERS[now.explorer].rate])

    def _ages(self) -> None:
        for name, known in self._policies.items():
            if known.snapshot is not None:
                age_s = max(0.0, time.time() - known.snapshot.time_ms / 1000)
                self._metrics.snapshot_age.labels(policy=name).set(age_s)
