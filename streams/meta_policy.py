"""One policy's meta-state while its publisher leads: rows in, how sums are read out, records for the same transaction.

State and snapshot are written together, or the state alone where no snapshot is due. What a crash loses is what was not written:
the next leader reads those rows again from the offsets in the record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import structlog

from policies.arms import Roster
from policies.baseline import DRIFT_KEPT, NOTHING_KEPT, Baseline, both
from policies.delay import mean_delay_s
from policies.meta_cuts import Baselines, read_arm, reset
from policies.meta_means import KEPT, Means, due, take_means
from policies.meta_records import (
    MEANS,
    baseline_key,
    decode_baseline,
    decode_means,
    decode_meta,
    encode_baseline,
    encode_means,
    encode_meta,
    means_key,
    meta_key,
)
from policies.meta_state import first_state, judged
from policies.model import Effective, Model, Sums
from policies.position_state import no_rows, settled
from policies.prior import AnyPrior
from streams.messages import Message
from streams.meta_feedback import Record
from streams.policy_choosing import PolicyChoosing
from streams.policy_exploring import PolicyExploring
from streams.rules import tracks
from streams.settings import PolicySettings

log = structlog.get_logger(__name__)

ByTrack = Mapping[float, Mapping[str, Sums]]
"""Merged sums by half-life in seconds and arm."""


class PolicyMeta:
    """Meta-state of one policy. ``models``: of every track, by half-life in seconds."""

    def __init__(self, name: str, policy: PolicySettings) -> None:
        self.name = name
        self.models: dict[float, Model] = tracks(policy)
        start = {slot: one.position for slot, one in policy.slots.items()}
        self.state = self._first = first_state(
            tuple(self.models),
            window_ms=round(policy.window_s * 1000),
            seen=no_rows(start) if policy.positions == "learn" else None,
        )
        self.baselines: Baselines = {}
        self.exploring = (PolicyChoosing if policy.explore == "top-layer" else PolicyExploring)(name, policy)
        self.alarms = 0
        self._policy = policy
        self._hold_ms = round(policy.kept_s * 1000)
        self._means: list[Means] = []
        self._reasons: list[str] = []
        self._cuts: list[tuple[str, int, float]] = []
        self._records: dict[bytes, bytes | None] = {}
        self._number = 0
        self._moved = False
        self._anew = False

    @property
    def follows(self) -> bool:
        """Whether it learns from matured rows."""
        policy = self._policy
        learns = len(self.models) > 1 or policy.drift != "off" or bool(policy.delays_s) or policy.positions == "learn"
        return learns or self.exploring.follows

    @property
    def model(self) -> Model:
        """Of the track that decides."""
        return self.models[self.half_life_s]

    @property
    def half_life_s(self) -> float:
        """Of the track that decides; 0 forgets nothing."""
        return self.state.ladder.half_life_s

    @property
    def effects(self) -> dict[str, float]:
        """Position effects in use by slot; none where they are not learned."""
        return {} if self.state.seen is None else self.state.seen.effects

    @property
    def mean_delay_s(self) -> float:
        """Mean delay of the clicks by one exponential; NaN without clicks."""
        return mean_delay_s(self.state.ages.mean_age_s, self._policy.window_s)

    def restore(self, records: Mapping[tuple[str | None, str], bytes]) -> None:
        """Begin with what was written, by arm and kind; without a record, anew. Raises RecordError."""
        meta = records.get((None, "meta"))
        self.state = self._first
        if meta is not None:
            self.state = decode_meta(meta, self._first, delays_s=self._policy.delays_s)
        self.baselines = {
            arm: decode_baseline(value)
            for (arm, kind), value in records.items()
            if kind == "baseline" and arm is not None
        }
        found = [
            (means.at_ms, int(kind.removeprefix(MEANS)), means)
            for (_, kind), value in records.items()
            if kind.startswith(MEANS)
            and (means := decode_means(value, self.model.name, tuple(self.models))) is not None
        ]
        found.sort(key=lambda one: one[0])
        self._means = [means for _, _, means in found]
        self._number = found[-1][1] + 1 if found else 0
        self._reasons, self._cuts, self._records, self._moved = [], [], {}, False
        self.exploring.restore(records)

    def place(self, positions: Mapping[int, int]) -> None:
        """Take positions in the feedback topic for the partitions that have none."""
        missing = {number: at for number, at in positions.items() if number not in self.state.offsets}
        if missing:
            self.state = replace(self.state, offsets={**self.state.offsets, **missing})
            self._moved = True

    def judge(self, record: Record) -> None:
        """Take one record of the feedback topic; one that lies before the state's position is passed over."""
        if record.next_offset <= self.state.offsets.get(record.partition, 0):
            return
        if record.policy == self.name and record.rows is not None:
            watch = self._policy.drift != "off"
            self.state, told = judged(self.state, record.rows, self._means, delays_s=self._policy.delays_s, watch=watch)
            self.exploring.take(record.rows)
            self._reasons += told.reasons
            self._moved = True
            for arm in told.alarms:
                self.alarms += 1
                log.warning("an arm's click rate has changed", policy=self.name, arm=arm, drift=self._policy.drift)
                if self._policy.drift == "reset" and arm not in [one for one, _, _ in self._cuts]:
                    self._cuts.append((arm, 0, DRIFT_KEPT))
        self.state = replace(self.state, offsets={**self.state.offsets, record.partition: record.next_offset})

    def announce(self, arm: str, now_ms: int) -> None:
        """An announced change at this event time: the arm is its prior again, from the next snapshot on."""
        self._cuts.append((arm, now_ms, NOTHING_KEPT))

    def heed(self, standing: Roster, now_ms: int) -> None:
        """Take what was said of the arms: announced changes that are newer than the last, and renames of arms with a baseline."""
        for arm, changed_ms in standing.announced.items():
            if changed_ms > self.state.announced.get(arm, -1):
                self.announce(arm, now_ms)
                self.state = replace(self.state, announced={**self.state.announced, arm: changed_ms})
        for old, new in standing.renamed.items():
            moving = self.baselines.pop(old, None)
            if moving is None:
                continue
            there = self.baselines.get(new, {})
            self.baselines[new] = {**moving, **there} | {
                track: both(there[track], moving[track], half_life_s=track) for track in there.keys() & moving.keys()
            }
            self._records[baseline_key(self.name, old)] = None
            self._records[baseline_key(self.name, new)] = encode_baseline(self.name, new, self.baselines[new])
            self._moved = True

    def forget(self, arm: str) -> None:
        """Let go of what is known of an arm: its test, its reset, and the baseline's record."""
        tests = {name: one for name, one in self.state.tests.items() if name != arm}
        since_ms = {name: one for name, one in self.state.since_ms.items() if name != arm}
        self.state = replace(self.state, tests=tests, since_ms=since_ms)
        if self.baselines.pop(arm, None) is not None:
            self._records[baseline_key(self.name, arm)] = None
        self._cuts = [cut for cut in self._cuts if cut[0] != arm]
        self._moved = True

    def place_slots(self) -> tuple[str, ...]:
        """Estimate the position effects anew. Returns what changed in words."""
        if self.state.seen is None:
            return ()
        seen, reasons = settled(self.state.seen)
        if reasons:
            self.state = replace(self.state, seen=seen, reasons=reasons)
            self._moved = True
        return reasons

    def settle(self, tracks: ByTrack, now_ms: int) -> tuple[set[str], tuple[str, ...]]:
        """Make the cuts that are due on these sums. Returns the arms that they change, and what changed in words.

        A baseline of more impressions than its sums have is let go of: sums that it was a part of have expired.
        """
        for arm in [arm for arm, baselines in self.baselines.items() if _expired(arm, baselines, tracks)]:
            self.forget(arm)
        cuts, self._cuts = self._cuts, []
        for arm, at_ms, kept in cuts:
            of = {one: (self.models[one], sums[arm]) for one, sums in tracks.items() if arm in sums}
            before = self.baselines.get(arm, {})
            self.state, after, reason = reset(self.state, arm, of, before, now_ms=max(at_ms, now_ms), kept=kept)
            self.baselines[arm] = {**before, **after}
            self._records[baseline_key(self.name, arm)] = encode_baseline(self.name, arm, self.baselines[arm])
            self._reasons.append(reason)
            self._moved = self._anew = True
        reasons, self._reasons = tuple(self._reasons), []
        if reasons:
            self.state = replace(self.state, reasons=reasons)
        return {arm for arm, _, _ in cuts}, reasons

    def read(self, arm: str, sums: Sums, *, now_ms: int, half_life_s: float | None = None) -> Effective:
        """An arm's sums as they count, under the track that decides or another."""
        track = self.half_life_s if half_life_s is None else half_life_s
        return read_arm(
            self.models[track],
            sums,
            now_ms=now_ms,
            half_life_s=track,
            weights=self.state.weights,
            baseline=self.baselines.get(arm, {}).get(track),
        )

    def remember(self, tracks: ByTrack, prior: AnyPrior, now_ms: int) -> None:
        """Keep every track's means, if it is time."""
        newest = max((one.newest_ms for sums in tracks.values() for one in sums.values()), default=None)
        if not self.follows or newest is None or not (self._anew or due(self._means, newest, hold_ms=self._hold_ms)):
            return
        effective = [
            {arm: self.read(arm, one, now_ms=now_ms, half_life_s=track) for arm, one in tracks.get(track, {}).items()}
            for track in self.models
        ]
        means = take_means(effective, prior, model=self.model.name, at_ms=newest)
        self._means = [*(one for one in self._means if one.at_ms < newest), means][-KEPT:]
        self._anew = False
        record = encode_means(self.name, means, tuple(self.models))
        if record is not None:
            self._records[means_key(self.name, self._number % KEPT)] = record
            self._number, self._moved = self._number + 1, True

    def messages(self) -> list[Message]:
        """Records of what moved since the last call of `written`."""
        explored = self.exploring.messages(moved=self._moved)
        if not self._moved:
            return explored
        value = encode_meta(self.name, self.state, delays_s=self._policy.delays_s)
        return [
            *explored,
            *(Message("policies", key, one) for key, one in self._records.items()),
            Message("policies", meta_key(self.name), value),
        ]

    def written(self) -> None:
        """What `messages` gave is committed."""
        self._records, self._moved = {}, False
        self.exploring.written()


def _expired(arm: str, baselines: Mapping[float, Baseline], tracks: ByTrack) -> bool:
    """Whether an arm's sums have fewer impressions than what is not to be believed of them."""
    return any(
        arm in tracks[track] and tracks[track][arm].count < cut.part.count
        for track, cut in baselines.items()
        if track in tracks
    )
