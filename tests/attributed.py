"""A made-up log of touches and conversions of one partition, who should get what, and a run that may crash anywhere."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from streams.attribution import Rule
from streams.attribution_state import INPUTS, AttributionState, Input
from streams.conversions import Conversion, encode_conversion
from streams.events import Outcome
from streams.horizon import CONVERSIONS
from streams.messages import Message
from streams.reading import SimpleRecord
from streams.touches import Touch
from streams.unit_numbers import unit_numbers

GRACE_MS = 2_000
KEEP_MS = 6_000
WINDOWS_MS = {"front": 20_000, "side": 7_000}
TOPICS: dict[Input, str] = {"touches": "touches", "conversions": "conversions"}
UNITS = [f"u{i}" for i in range(5)]
Given = list[tuple[str, str, str, str, float, int]]


def rules_of(how: str) -> dict[str, Rule]:
    """Two policies that share the purchases; the first also takes leads."""
    kinds = {"front": frozenset({"purchase", "lead"}), "side": frozenset({"purchase"})}
    return {
        policy: Rule(how=how, window_ms=WINDOWS_MS[policy], grace_ms=GRACE_MS, keep_ms=KEEP_MS, kinds=kinds[policy])  # type: ignore[arg-type]
        for policy in kinds
    }


@dataclass
class Log:
    """What happened, and in which order it was written to the two topics (one list of records each)."""

    touches: list[tuple[str, Touch]] = field(default_factory=list)
    conversions: list[Conversion] = field(default_factory=list)
    records: dict[Input, list[SimpleRecord]] = field(default_factory=dict)


def a_log(seed: int, count: int = 300) -> Log:
    """Random touches and conversions on a coarse clock, so that times are equal often; a tenth of the conversions twice.

    Each arrives within the grace of its time, so that the order of arrival differs from the order of events.
    """
    rng = random.Random(seed)
    log = Log()
    timed: dict[Input, list[tuple[float, int, bytes]]] = {side: [] for side in INPUTS}
    for i in range(count):
        ts = 100_000 + i * 250
        unit = rng.choice(UNITS)
        arrival = ts + rng.uniform(0, GRACE_MS * 0.95)
        if rng.random() < 0.6:
            policy = rng.choice(list(WINDOWS_MS))
            decision = f"d{rng.randrange(i, i + 3)}"
            until = ts + rng.choice([3_000, 10_000, 60_000])
            touch = Touch(policy=policy, decision_id=decision, slot=rng.choice(["top", "side"]), ts=ts, until=until)
            log.touches.append((unit, touch))
            number = f"{int(unit_numbers([unit])[0]):016x}"
            value = msgspec.json.encode({"v": 1, "unit": number, "source": 0} | msgspec.structs.asdict(touch))
            timed["touches"].append((arrival, i, value))
        else:
            named = rng.random() < 0.2
            kind = "lead" if rng.random() < 0.3 else "purchase"
            conversion = Conversion(
                unit=unit,
                conversion_id=f"c{i}",
                kind=kind,
                value=float(rng.randrange(1, 9)),
                ts=ts,
                policy="front" if named else None,
            )
            log.conversions.append(conversion)
            for _ in range(2 if rng.random() < 0.1 else 1):
                timed["conversions"].append(
                    (arrival, i, encode_conversion(conversion, rng.choice(["json", "msgpack"])))
                )
                arrival = ts + rng.uniform(0, GRACE_MS * 0.95)
    for side in INPUTS:
        rows = sorted(timed[side])
        log.records[side] = [SimpleRecord(3 * i + 1, 10**12, b"", row[2], []) for i, row in enumerate(rows)]
    return log


KINDS = {"front": ("purchase", "lead"), "side": ("purchase",)}


def expected(
    log: Log,
    how: str,
    *,
    windows_ms: Mapping[str, int] = WINDOWS_MS,
    kinds: Mapping[str, Sequence[str]] = KINDS,
) -> Given:
    """Who gets what, by looking at everything at once."""
    found: Given = []
    for c in log.conversions:
        best: dict[tuple[str, str], int] = {}
        ordered = []
        for unit, t in log.touches:
            asked = c.policy in (None, t.policy) and c.kind in kinds[t.policy] and unit == c.unit
            if asked and 0 <= c.ts - t.ts < windows_ms[t.policy] and c.ts < t.until:
                best[t.decision_id, t.slot] = 1
                ordered.append((t.ts, t.decision_id, t.slot))
        if not ordered:
            continue
        if how == "even":
            getting = [(name, c.value / len(best)) for name in best]
        else:
            one = max(ordered) if how == "last" else min(ordered)
            getting = [((one[1], one[2]), c.value)]
        found += [(*name, f"conversion:{c.conversion_id}", c.kind, value, c.ts) for name, value in getting]
    return sorted(found)


class Crash(Exception):  # noqa: N818 - reads as what it says
    """The process died."""


@dataclass
class Broker:
    """What has been committed: outcomes, dead letters, and the newest checkpoint."""

    outcomes: list[Outcome] = field(default_factory=list)
    letters: list[Message] = field(default_factory=list)
    checkpoint: bytes | None = None

    def commit(self, messages: Sequence[Message]) -> None:
        """One transaction."""
        for message in messages:
            if message.topic == "clicks":
                self.outcomes.append(msgspec.json.decode(message.value or b"", type=Outcome))
            elif message.topic == "attribution":
                self.checkpoint = message.value
            else:
                self.letters.append(message)

    @property
    def given(self) -> Given:
        """The outcomes in a form that can be compared."""
        return sorted((o.decision_id, o.slot, o.outcome_id, o.kind, o.value, o.ts) for o in self.outcomes)


def run(
    log: Log,
    rules: Mapping[str, Rule],
    *,
    seed: int,
    crashes: float = 0.0,
    state_class: type[AttributionState] = AttributionState,
) -> tuple[Broker, dict[str, int]]:
    """Read the log in random batches with random checkpoints, dying at random; returns what was committed, and the counts."""
    rng, broker = random.Random(seed), Broker()
    while True:
        state = state_class(0, partitions=1, rules=rules, topics=TOPICS, checkpoint=broker.checkpoint)
        try:
            for _ in _fetches(state, log, rng):
                if state.rebuilt:
                    messages = state.freeze()
                    if rng.random() < crashes / 2:
                        raise Crash  # before the commit
                    broker.commit(messages)
                if rng.random() < crashes:
                    raise Crash  # after it, or with records taken since
        except Crash:
            continue
        return broker, dict(state.counts) | {"waiting": len(state.attribution.waiting)}


def _fetches(state: AttributionState, log: Log, rng: random.Random) -> Iterator[None]:
    """Take what there is in random batches of both topics; yields after each where a checkpoint may be, at last at a very late time."""
    left = {side: [r for r in log.records[side] if r.offset >= state.positions[side]] for side in INPUTS}
    while any(left.values()):
        side = rng.choice([side for side in INPUTS if left[side]])
        size = rng.choice([1, 1, 3, 10])
        state.take(side, left[side][:size])
        del left[side][:size]
        if rng.random() < 0.5:
            yield
    for side in INPUTS:
        state.reached(side, 10_000)
    for source in (0, CONVERSIONS):
        state.horizon.mark(source, 10**9)
    yield
