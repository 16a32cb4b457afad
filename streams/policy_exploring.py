"""How much one policy explores while its publisher leads: roll-outs in a thread beside the stream, and what arms of a group start from.

A snapshot never waits for a roll-out: the cut that it plays from is handed over, and what it decides goes into the first snapshot after
it is known, with the state's record in one transaction. A crash before that loses the cut and nothing else; the next leader makes
another.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import structlog

from policies.exploration import (
    Cut,
    Exploration,
    Now,
    counted,
    decided,
    first_exploration,
    is_due,
    make_cut,
    with_contexts,
)
from policies.exploration_records import (
    EXPLORATION,
    GROUP,
    decode_exploration,
    encode_exploration,
    encode_group,
    exploration_key,
    group_key,
)
from policies.groups import GroupedPrior
from policies.guardrails import CHANGE, change_of_chances
from policies.meta_rules import Rules
from policies.snapshot import exploring
from policies.trials import Exploring
from streams.messages import Message

if TYPE_CHECKING:
    from policies.meta_state import Rows
    from policies.prior import AnyPrior
    from policies.snapshot import Snapshot
    from streams.settings_policy import PolicySettings

log = structlog.get_logger(__name__)

LOOKED_AT = 64
"""Recent contexts on which the guardrail compares the arms' chances."""
_ONE_AT_A_TIME = threading.Lock()
"""Roll-outs of several policies take their turns, so that they never take more than one core."""


@dataclass(slots=True)
class _Job:
    """A roll-out under way; `found` when it is over, `error` if it failed."""

    cut: Cut
    thread: threading.Thread | None = None
    found: tuple[Exploration, str] | None = None
    error: str = ""
    over: threading.Event = field(default_factory=threading.Event)

    def play(self) -> None:
        """To be run by the thread."""
        try:
            with _ONE_AT_A_TIME:
                self.found = decided(self.cut)
        except (
            ValueError,
            ArithmeticError,
            MemoryError,
        ) as error:  # told by the leader, which goes on with the rate that it has
            self.error = repr(error)
        finally:
            self.over.set()


class PolicyExploring:
    """Exploration of one policy."""

    def __init__(self, name: str, policy: PolicySettings) -> None:
        self.name = name
        self.follows = policy.explore == "roll-outs"
        self.rules = Rules(
            model=policy.model,
            dimension=0 if policy.model == "beta" else policy.dimension,
            intercept=policy.intercept,
            explore=policy.explore,
            every=policy.explore_every,
        )
        self.group_of = policy.group_of
        self._first = first_exploration(policy.rates.get("alpha", 1.0), dimension=self.rules.dimension)
        self.state = self._first
        self._job: _Job | None = None
        self._groups: frozenset[str] = frozenset()
        self._records: dict[bytes, bytes | None] = {}

    def restore(self, records: Mapping[tuple[str | None, str], bytes]) -> None:
        """Begin with what was written, by arm and kind; a roll-out that is under way is not heard. Raises RecordError."""
        value = records.get((None, EXPLORATION))
        self.state = self._first
        if value is not None and self.follows:
            self.state = decode_exploration(value, self._first)
        self._groups = frozenset(group for group, kind in records if kind == GROUP and group is not None)
        self._job, self._records = None, {}

    def take(self, rows: Rows) -> None:
        """Take matured rows; contexts of another length, from before the settings changed, are let go of."""
        if self.follows and rows.x.shape[1] == self.state.ring.shape[1]:
            self.state = with_contexts(self.state, rows.x)

    def now(self, settings: Exploring) -> Exploring:
        """How the policy explores, of what its settings say or roll-outs said before."""
        return replace(settings, rates={**settings.rates, "alpha": self.state.alpha}) if self.follows else settings

    def base(self, settings: Exploring) -> Exploring:
        """What people's words start from, and what decides beside a candidate."""
        return self.now(settings)

    def before(self, version: int, *, count: float, snapshot: Snapshot | None, free: bool) -> None:
        """What is to be done before the snapshot of this version is made: nothing, as a rate stays until roll-outs change it."""

    def hold(self, version: int) -> None:
        """What is to be known of a held snapshot of this version, which somebody else published: nothing, as a rate is no part of it."""

    def due(self, count: float) -> bool:
        """Whether a roll-out is to begin, with so many impressions in the sums; what came since the last look is counted."""
        if not self.follows or self._job is not None:
            return False
        self.state = counted(self.state, count)
        return is_due(self.state, self.rules, count)

    def begin(self, now: Now) -> None:
        """Cut here, and play in a thread."""
        job = _Job(make_cut(self.state, now, policy=self.name, rules=self.rules))
        job.thread = threading.Thread(target=job.play, name=f"roll-out of {self.name}", daemon=True)
        self._job = job
        job.thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Whether no roll-out is under way within that time."""
        return self._job is None or self._job.over.wait(timeout_s)

    def heard(self, snapshot: Snapshot | None, *, free: bool) -> tuple[str, ...]:
        """What a roll-out that is over decided, in words. ``free``: whether the rate may change; if not, it stays."""
        job = self._job
        if job is None or not job.over.is_set():
            return ()
        self._job = None
        if job.found is None:
            log.error("a roll-out failed; the rate stays", policy=self.name, error=job.error)
            return ()
        found, reason = job.found
        ring, before = self.state.ring, self.state.alpha
        against = ""
        if reason and not free:
            against = "the rate is held"
        elif reason and snapshot is not None:
            rates = {**snapshot.rates, "alpha": found.alpha}
            against = self.against(snapshot, Exploring(explorer=snapshot.explorer, rates=rates))
        self.state = replace(found, ring=ring, alpha=before if against else found.alpha)
        self._records[exploration_key(self.name)] = b""
        if against:
            return (f"alpha stays {before:g}, roll-outs prefer {found.alpha:g}: {against}",)
        return (reason,) if reason else ()

    def keep_groups(self, prior: AnyPrior | None) -> None:
        """Write what arms of each group start from; what groups that are no more started from goes."""
        by_group = prior.groups.by_group if isinstance(prior, GroupedPrior) else {}
        for group in self._groups - by_group.keys():
            self._records[group_key(self.name, group)] = None
        for group, one in by_group.items():
            self._records[group_key(self.name, group)] = encode_group(self.name, group, one)
        self._groups = frozenset(by_group)

    def messages(self, *, moved: bool) -> list[Message]:
        """Records to write. ``moved``: whether rows were taken since the last call of `written`."""
        records = dict(self._records)
        if self.follows and (moved or exploration_key(self.name) in records):
            records[exploration_key(self.name)] = encode_exploration(self.name, self.state)
        return [Message("policies", key, value) for key, value in records.items()]

    def written(self) -> None:
        """What `messages` gave is committed."""
        self._records = {}

    def against(self, snapshot: Snapshot | None, wished: Exploring) -> str:
        """What the guardrail says against exploring so in all decisions, "" if nothing."""
        if snapshot is None:
            return ""
        x = np.zeros((1, 0)) if snapshot.model == "beta" else self.state.ring[-LOOKED_AT:].astype(np.float64)
        if not len(x):
            return "no recent contexts are known here by which to tell how far chances would change"
        after = exploring(snapshot, wished.explorer, wished.rates)
        moved = change_of_chances(snapshot, after, x)
        return f"chances would change by {moved:.3g} on average, the limit is {CHANGE:g}" if moved >= CHANGE else ""
