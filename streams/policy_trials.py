"""What one policy tries while its publisher leads: words and matured rows in, how it explores out, a record for the same transaction.

As with the meta-state (streams/meta_policy.py), a crash loses what was not written, and the next leader reads those rows and words again.
What a sticky candidate has gathered of periods that are not over (policies/sticky.py) is never written: a new leader reads their records
again, from the offsets that the state names, and counts them for nothing else.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import structlog

from policies.guardrails import LEAST_ROWS, Logged, violations
from policies.snapshot import exploring
from policies.sticky import gathered, settled
from policies.trial_records import KIND, decode_trials, encode_trials, trials_key
from policies.trials import NEVER, Exploring, Trials, Word, concluded, judged_rows, said, shared_out, wanted
from policies.visits import with_more
from streams.messages import Message

if TYPE_CHECKING:
    from policies.canary import Canary
    from policies.meta_state import Rows
    from policies.snapshot import Snapshot
    from policies.visits import Tally
    from streams.meta_feedback import Record
    from streams.settings import PolicySettings

log = structlog.get_logger(__name__)

WRITE_S = 5.0
"""Seconds between two records of counts alone, which have a part for each arm; a new leader reads the feedback since then again."""
RECENT = 256
"""Matured rows that guardrails look at."""
NOTHING = Logged(arm=(), x=np.zeros((0, 0)), propensity=np.zeros(0))


class PolicyTrials:
    """State of one policy's trials and audits."""

    def __init__(self, name: str, policy: PolicySettings) -> None:
        self.name = name
        self.state = Trials()
        self._alarms = 0
        self._policy = policy
        self._settings = Exploring(explorer=policy.explorer, rates=policy.rates)
        self._bounds = reward_bounds(policy)
        self._told: list[str] = []
        self._recent = NOTHING
        self._moved = self._decided = False
        self._written_at = -1e18
        self._forget()

    def _forget(self) -> None:
        """Gather from nothing."""
        self._visits: dict[int, tuple[Tally, ...]] = {}
        self._gathered_to: dict[int, int] = {}
        self._clocks: dict[int, int] = {}

    @property
    def _audited_share(self) -> float:
        """The random share whose size is audited: of a sticky one decisions are not independent."""
        return 0.0 if self._policy.audit_sticky_s else self._policy.audit_share

    @property
    def follows(self) -> bool:
        """Whether it looks at matured rows."""
        return self.state.trying is not None or self._policy.audit or self._audited_share > 0.0

    @property
    def exploring(self) -> Exploring:
        """How the policy explores now."""
        return self.state.exploring(self._settings)

    @property
    def free(self) -> bool:
        """Whether roll-outs may change the settings' rate: nothing is tried, adopted or frozen."""
        return self.state.trying is None and not self.state.adopted and not self.state.frozen

    @property
    def settings(self) -> Exploring:
        """How the settings let it explore, or what roll-outs or the top layer made of them."""
        return self._settings

    def explore(self, settings: Exploring) -> None:
        """Take what roll-outs or the top layer made of the settings."""
        self._settings = settings

    @property
    def canary(self) -> Canary | None:
        """Of the candidate that is tried."""
        return self.state.canary

    @property
    def reads_from(self) -> dict[int, int]:
        """By partition of the feedback topic, the offset that it wants next: before its position where visits are gathered again."""
        trying, wanted = self.state.trying, dict(self.state.offsets)
        if trying is None:
            return wanted
        again = {number: trying.periods.again(number, at) for number, at in wanted.items()}
        return {number: max(at, self._gathered_to.get(number, 0)) for number, at in again.items()}

    def restore(self, records: Mapping[tuple[str | None, str], bytes], *, snapshot: Snapshot | None = None) -> None:
        """Begin with what was written, beside the newest snapshot; without a record, anew. Raises RecordError."""
        record = records.get((None, KIND))
        self.state = Trials() if record is None else decode_trials(record)
        self._share_out(snapshot, NEVER)  # rows are judged before the next snapshot is made, and while this one is held
        self._told, self._recent, self._moved, self._decided = [], NOTHING, False, False
        self._forget()

    def place(self, positions: Mapping[int, int]) -> None:
        """Take positions in the feedback topic for the partitions that have none."""
        missing = {number: at for number, at in positions.items() if number not in self.state.offsets}
        if missing:
            self.state = replace(self.state, offsets={**self.state.offsets, **missing})
            self._moved = True

    def judge(self, record: Record) -> None:
        """Take one record of the feedback topic; one that lies before the state's position is passed over, but for visits."""
        self._gather(record)
        if record.next_offset <= self.state.offsets.get(record.partition, 0):
            return
        if record.policy == self.name and record.rows is not None:
            policy = self._policy
            self.state, alarms = judged_rows(
                self.state,
                record.rows,
                bounds=self._bounds,
                audit_share=self._audited_share,
                audited=policy.audit,
                least=policy.audit_least or None,
            )
            self._alarm(alarms)
            self._recent = _extended(self._recent, record.rows)
            self._moved = True
        self.state = replace(self.state, offsets={**self.state.offsets, record.partition: record.next_offset})

    def _gather(self, record: Record) -> None:
        """What a record adds to the visits of a sticky candidate; one that was gathered here before adds nothing."""
        trying, number, offset = self.state.trying, record.partition, record.next_offset - 1
        if trying is None or not trying.canary.sticky_s or offset < self._gathered_to.get(number, 0):
            return
        self._gathered_to[number] = record.next_offset
        if record.policy != self.name or record.rows is None or not len(record.rows.ts):
            return
        self._clocks[number] = max(self._clocks.get(number, -1), int(record.rows.ts.max()))
        trying, more = gathered(
            trying,
            record.rows,
            bounds=self._bounds,
            partition=number,
            offset=offset,
            again=offset < self.state.offsets.get(number, 0),
        )
        for period, tally in more.items():
            self._visits[period] = with_more(self._visits.get(period, ()), tally)
        self.state = replace(self.state, trying=trying)

    def settle(self, partitions: Collection[int], ended: Collection[int]) -> None:
        """Bet on the visits of periods that are over.

        Args:
            partitions: of the feedback topic.
            ended: those that have nothing left to read; the others hold the clock back, each at its own newest row.
        """
        trying = self.state.trying
        if trying is None or not trying.canary.sticky_s:
            return
        behind = [self._clocks.get(number, -1) for number in partitions if number not in ended]
        clock_ms = min([trying.periods.newest_ms, *behind])
        before = self.state
        self.state, self._visits, alarms = settled(self.state, self._visits, clock_ms=clock_ms)
        self._alarm(alarms)
        self._moved = self._moved or self.state is not before

    def _alarm(self, alarms: Sequence[str]) -> None:
        for alarm in alarms:
            self._alarms += 1
            self._told.append(f"alarm: {alarm}")
            log.warning("an audit raised an alarm", policy=self.name, alarm=alarm)

    def new_alarms(self) -> int:
        """Alarms since the last call."""
        alarms, self._alarms = self._alarms, 0
        return alarms

    def hear(
        self, words: Sequence[tuple[int, Word]], *, snapshot: Snapshot | None, newest: Callable[[], Logged]
    ) -> tuple[str, ...]:
        """Heed words that were not heard yet, by their offsets, then the test's verdict. Returns what came of all, in words.

        ``newest``: reads the newest matured rows, for guardrails where none are known here.
        """
        followed, version = self.follows, 1 if snapshot is None else snapshot.version + 1
        newest = cache(newest)
        self._share_out(snapshot, version)
        candidates = self.state.candidates
        told, self._told = self._told, []
        for offset, word in words:
            if offset < self.state.heard:
                continue
            self.state, what = said(
                self.state,
                word,
                settings=self._settings,
                salt=secrets.token_hex(8),
                version=version,
                against=() if word.kind != "override" else self._against(word, snapshot, newest),
                sticky=self._policy.sticky_canaries,
            )
            self.state = replace(self.state, heard=offset + 1)
            told.append(what)
        self.state, verdict = concluded(self.state, version=version)
        if verdict:
            told.append(verdict)
        if self.state.candidates != candidates or self.state.trying is None:  # another one gathers anew
            self._forget()
        if self.follows and not followed:  # positions of a trial before are not where this one begins
            self.state = replace(self.state, offsets={})
        self._decided = self._decided or bool(told)
        return tuple(told)

    def messages(self) -> list[Message]:
        """The record: with whatever was decided, and every WRITE_S what was counted since the last call of `written`."""
        due = self._moved and time.monotonic() - self._written_at >= WRITE_S
        if not (self._decided or due):
            return []
        return [Message("policies", trials_key(self.name), encode_trials(self.name, self.state))]

    def written(self, messages: Sequence[Message]) -> None:
        """What `messages` gave is committed."""
        if messages:
            self._moved = self._decided = False
            self._written_at = time.monotonic()

    def _share_out(self, snapshot: Snapshot | None, version: int) -> None:
        before = self.state
        published = None if snapshot is None else snapshot.audit_share
        self.state = shared_out(before, share=self._policy.audit_share, published=published, version=version)
        self._decided = self._decided or self.state is not before

    def _against(self, word: Word, snapshot: Snapshot | None, newest: Callable[[], Logged]) -> tuple[str, ...]:
        """What guardrails hold against an override; nothing where it goes back to the settings, is forced, or is refused anyway."""
        wished = wanted_or_none(word, self.exploring)
        if snapshot is None or wished is None or word.force or self.state.trying is not None:
            return ()
        if word.explorer is None and not word.rates:
            return ()
        known = self.follows and len(self._recent.arm) >= LEAST_ROWS  # else they may be of a trial that is long over
        recent = self._recent if known else newest()
        return violations(snapshot, exploring(snapshot, wished.explorer, wished.rates), recent)


def _extended(logged: Logged, rows: Rows) -> Logged:
    """With the last rows of more."""
    if rows.propensity is None or not len(rows.arm):
        return logged
    x, propensity = np.asarray(rows.x[-RECENT:], np.float64), rows.propensity[-RECENT:]
    if len(logged.arm):
        x, propensity = (
            np.concatenate([logged.x, x])[-RECENT:],
            np.concatenate([logged.propensity, propensity])[-RECENT:],
        )
    return Logged(arm=[*logged.arm, *rows.arm[-RECENT:]][-RECENT:], x=x, propensity=propensity)


def wanted_or_none(word: Word, now: Exploring) -> Exploring | None:
    """`policies.trials.wanted`, None for what is refused.

    >>> wanted_or_none(Word(kind="override", explorer="none such"), Exploring(explorer="ucb", rates={"alpha": 1.0, "epsilon": 0.0}))
    """
    try:
        return wanted(word, now)
    except ValueError:
        return None


def reward_bounds(policy: PolicySettings) -> tuple[float, float]:
    """Least and largest reward of one impression that tests scale by: declared, or those of one outcome of value 1."""
    if policy.reward_bounds is not None:
        return policy.reward_bounds
    least, most = min(0.0, *policy.outcomes.values()), max(0.0, *policy.outcomes.values())
    return (least, most) if least < most else (0.0, 1.0)
