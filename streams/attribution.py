"""Who gets a conversion: the touched decisions of its unit, by the rule of the policies that attribute its kind. No Kafka.

A touch may get a conversion if ``0 <= conversion.ts - touch.ts < window``, and ``conversion.ts < until`` of the touch: its
decision still takes outcomes. Of all such touches, whatever the policy, *last* takes that with the largest time, *first* that
with the smallest, each for the whole value; *even* gives every distinct (decision, slot) an equal share. Equal times are
decided by the names. So the result does not depend on the order in which touches arrive.

Time. A conversion is attributed when the watermark has reached its time + grace, the longest of the policies that may get it.
It is ``late``, and nobody's, if it arrives when the watermark has reached its time + keep; up to then, every touch that it
could go to is still there. Copies (the same unit and conversion id) are ``duplicate`` as long as an earlier one is remembered, longest
window + keep after its own time. Every conversion is exactly one of attributed, unattributed, duplicate, late, dead, waiting.

Both the touches that are remembered and the conversion ids are functions of (log, watermark). Which conversions wait is not,
because one that does not may be a copy: it has to be stored. With these three, a rebuild from the log ends in the same state.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from streams.conversions import Conversion
from streams.events import Outcome
from streams.touches import Touch

How = Literal["last", "first", "even"]
BECAME = ("attributed", "unattributed", "duplicate", "late", "dead")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How a policy attributes conversions of these kinds; times in ms. ``keep_ms``: how long what is needed is kept beyond its time."""

    how: How
    window_ms: int
    grace_ms: int
    keep_ms: int
    kinds: frozenset[str]


def outcomes(conversion: Conversion, touches: Iterable[Touch], rules: Mapping[str, Rule]) -> list[Outcome]:
    """What a conversion gives to the touches of its unit; empty if none of them may get it.

    The outcome's id comes from the conversion's, so that one which is sent twice counts once.

    >>> from streams.touches import Touch
    >>> rules = {"front": Rule(how="even", window_ms=100, grace_ms=0, keep_ms=0, kinds=frozenset({"buy"}))}
    >>> seen = [Touch(policy="front", decision_id=name, slot="top", ts=ts, until=500) for name, ts in (("a", 1), ("b", 90))]
    >>> bought = Conversion(unit="u", conversion_id="c", kind="buy", value=3.0, ts=95)
    >>> [(one.decision_id, one.value, one.outcome_id) for one in outcomes(bought, seen, rules)]
    [('a', 1.5, 'conversion:c'), ('b', 1.5, 'conversion:c')]
    """
    among = takers(conversion, rules)
    able = [touch for touch in touches if touch.policy in among and _may_get(touch, conversion, rules[touch.policy])]
    if not able:
        return []
    chosen = _chosen(able, rules[among[0]].how)
    return [_outcome(conversion, touch, conversion.value / len(chosen)) for touch in chosen]


def _outcome(conversion: Conversion, touch: Touch, value: float) -> Outcome:
    token: dict[str, Any] = {} if touch.token is None else {"token": touch.token}
    return Outcome(
        decision_id=touch.decision_id,
        slot=touch.slot,
        outcome_id=f"conversion:{conversion.conversion_id}",
        kind=conversion.kind,
        value=value,
        ts=conversion.ts,
        **token,
    )


def takers(conversion: Conversion, rules: Mapping[str, Rule]) -> Sequence[str]:
    """The policies that a conversion may go to."""
    named = rules if conversion.policy is None else [conversion.policy]
    return [policy for policy in named if policy in rules and conversion.kind in rules[policy].kinds]


def _may_get(touch: Touch, conversion: Conversion, rule: Rule) -> bool:
    return touch.ts <= conversion.ts < _end(touch, rule)


def _end(touch: Touch, rule: Rule) -> int:
    return min(touch.ts + rule.window_ms, touch.until)


def _chosen(touches: Sequence[Touch], how: How) -> list[Touch]:
    ordered = sorted(touches, key=lambda touch: (touch.ts, touch.decision_id, touch.slot))
    if how == "even":
        return list({(touch.decision_id, touch.slot): touch for touch in ordered}.values())
    return [ordered[-1] if how == "last" else ordered[0]]


class Attribution:
    """State of one partition under the rules by policy. ``watermark``: event time in ms up to which conversions were given out."""

    def __init__(self, rules: Mapping[str, Rule], *, watermark: int | None = None) -> None:
        self.rules = rules
        self.watermark = watermark
        self.counts = dict.fromkeys(BECAME, 0)
        self.keep_ms = max((rule.keep_ms for rule in rules.values()), default=0)
        self.copies_ms = max((rule.window_ms for rule in rules.values()), default=0) + self.keep_ms
        self.touches = 0
        self._touched: dict[int, list[tuple[int, Touch]]] = {}  # by unit, each with when it leaves
        self._leaving: list[tuple[int, int]] = []  # heap of (leaves, unit)
        self._ids: dict[tuple[int, str], int] = {}  # unit and conversion id: when they are forgotten
        self._forgetting: list[tuple[int, tuple[int, str]]] = []
        self._waiting: list[tuple[int, int, int, Conversion]] = []  # heap of (due, offset, unit, conversion)
        self._touch_offsets = _Offsets()
        self._conversion_offsets = _Offsets()

    def touch(self, unit: int, touch: Touch, offset: int) -> None:
        """Remember a touch, unless nothing can reach it any more."""
        rule = self.rules.get(touch.policy)
        if rule is None:
            return
        leaves = _end(touch, rule) + self.keep_ms
        if self._past(leaves):
            return
        self._touched.setdefault(unit, []).append((leaves, touch))
        self.touches += 1
        heapq.heappush(self._leaving, (leaves, unit))
        self._touch_offsets.add(offset, leaves)

    def convert(self, unit: int, conversion: Conversion, offset: int, *, waited: Container[int] | None = None) -> None:
        """Let a conversion wait. ``waited``, in a rebuild: offsets of those that did; nothing is counted then."""
        name = (unit, conversion.conversion_id)
        known = name in self._ids
        forgotten = conversion.ts + self.copies_ms
        if not self._past(forgotten):
            self._remember(name, forgotten, offset)
        if waited is not None:
            if offset in waited:
                self._wait(unit, conversion, offset)
        elif known:
            self.counts["duplicate"] += 1
        elif self._past(conversion.ts + self.keep_ms):
            self.counts["late"] += 1
        else:
            self._wait(unit, conversion, offset)

    def advance(self, watermark: int | None) -> list[Outcome]:
        """Move the watermark (never back), give out what is due, forget what nothing needs any more."""
        if watermark is not None and (self.watermark is None or watermark > self.watermark):
            self.watermark = watermark
        given: list[Outcome] = []
        while self._waiting and self._past(self._waiting[0][0]):
            _, _, unit, conversion = heapq.heappop(self._waiting)
            found = outcomes(conversion, (touch for _, touch in self._touched.get(unit, ())), self.rules)
            self.counts["attributed" if found else "unattributed"] += 1
            given += found
        self._forget()
        return given

    @property
    def waiting(self) -> list[int]:
        """Offsets of the conversions that wait, ascending."""
        return sorted(offset for _, offset, _, _ in self._waiting)

    def oldest(self) -> tuple[int | None, int | None]:
        """The first offsets of touches and of conversions that a rebuild needs; None where nothing does."""
        waiting = self.waiting
        remembered = self._conversion_offsets.first(self.watermark)
        needed = [offset for offset in (remembered, *waiting[:1]) if offset is not None]
        return self._touch_offsets.first(self.watermark), min(needed, default=None)

    def _wait(self, unit: int, conversion: Conversion, offset: int) -> None:
        grace_ms = max((self.rules[policy].grace_ms for policy in takers(conversion, self.rules)), default=0)
        heapq.heappush(self._waiting, (conversion.ts + grace_ms, offset, unit, conversion))

    def _remember(self, name: tuple[int, str], forgotten: int, offset: int) -> None:
        self._conversion_offsets.add(offset, forgotten)
        if forgotten > self._ids.get(name, -1):
            self._ids[name] = forgotten
            heapq.heappush(self._forgetting, (forgotten, name))

    def _forget(self) -> None:
        while self._leaving and self._past(self._leaving[0][0]):
            _, unit = heapq.heappop(self._leaving)
            kept = [(leaves, touch) for leaves, touch in self._touched.get(unit, ()) if not self._past(leaves)]
            self.touches += len(kept) - len(self._touched.get(unit, ()))
            if kept:
                self._touched[unit] = kept
            else:
                self._touched.pop(unit, None)
        while self._forgetting and self._past(self._forgetting[0][0]):
            _, name = heapq.heappop(self._forgetting)
            if name in self._ids and self._past(self._ids[name]):
                del self._ids[name]

    def _past(self, ts: int) -> bool:
        return self.watermark is not None and ts <= self.watermark


class _Offsets:
    """Offsets in the order of the log, each with the time at which nothing needs it any more."""

    def __init__(self) -> None:
        self._kept: deque[tuple[int, int]] = deque()

    def add(self, offset: int, leaves: int) -> None:
        self._kept.append((offset, leaves))

    def first(self, watermark: int | None) -> int | None:
        """The smallest offset that is still needed."""
        while self._kept and watermark is not None and self._kept[0][1] <= watermark:
            self._kept.popleft()
        return self._kept[0][0] if self._kept else None
