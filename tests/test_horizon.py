"""The attributor's watermark waits for every learner partition that has something unread, and for none that is through."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from streams.horizon import CONVERSIONS, Answers, Horizon, Key, Marks

TOUCHES, CONVERTED = ("touches", 0), ("conversions", 0)


def test_every_source_has_to_be_complete() -> None:
    """There is no watermark before something is known of each; then it is the least, and never goes back."""
    horizon = Horizon(2, 50)
    horizon.saw(0, 300)
    horizon.saw(CONVERSIONS, 200)
    assert horizon.watermark == 50
    horizon.saw(1, 400)
    assert horizon.watermark == 200
    horizon.mark(CONVERSIONS, 100)
    horizon.mark(1, None)
    assert horizon.watermark == 200
    assert horizon.newest == 400


def test_sources_that_nobody_knows_hold_nothing() -> None:
    """A touch from a partition that there is not moves no watermark, and does not stop one."""
    horizon = Horizon(1)
    horizon.saw(7, 300)
    horizon.saw(0, 200)
    horizon.saw(CONVERSIONS, 200)
    assert horizon.watermark == 200


@dataclass
class World:
    """Clicks in two partitions, a learner that turns them into touches, conversions, and an attributor that reads both.

    Times of everything rise as it is written; reading and learning may stop. ``hasty``: the learner's progress is not asked for.
    """

    hasty: bool = False
    now: int = 0
    clicks: dict[int, list[int]] = field(default_factory=lambda: {0: [], 1: []})
    learned: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0})
    touches: list[tuple[int, int]] = field(default_factory=list)  # (source, ts)
    conversions: list[int] = field(default_factory=list)
    at: dict[Key, int] = field(default_factory=lambda: {TOUCHES: 0, CONVERTED: 0})
    horizon: Horizon = field(default_factory=lambda: Horizon(2))

    def __post_init__(self) -> None:
        self.marks = Marks({s: (("clicks", s),) for s in self.clicks}, touches={0: TOUCHES}, conversions={0: CONVERTED})

    def learn(self, source: int) -> None:
        if self.learned[source] < len(self.clicks[source]):
            self.touches.append((source, self.clicks[source][self.learned[source]]))
            self.learned[source] += 1

    def read(self) -> None:
        for source, ts in self.touches[self.at[TOUCHES] :]:
            self.horizon.saw(source, ts)
        for ts in self.conversions[self.at[CONVERTED] :]:
            self.horizon.saw(CONVERSIONS, ts)
        self.at = {TOUCHES: len(self.touches), CONVERTED: len(self.conversions)}

    def ask(self) -> None:
        newest = {0: self.horizon.newest}
        learned = {s: len(ts) for s, ts in self.clicks.items()} if self.hasty else self.learned
        read: dict[Key, int] = {("clicks", s): n for s, n in learned.items()}
        ends: dict[Key, int] = {("clicks", s): len(ts) for s, ts in self.clicks.items()}
        ends |= {TOUCHES: len(self.touches), CONVERTED: len(self.conversions)}
        self.marks.heard({0: self.horizon}, newest, Answers(read=read, ends=ends), self.at)

    def step(self, rng: random.Random, stopped: frozenset[int] = frozenset()) -> None:
        self.now += 1
        what = rng.choice(["click", "conversion", "learn", "learn", "read", "ask", "ask"])
        source = rng.choice([0, 1])
        if what == "click":
            self.clicks[source].append(self.now)
        elif what == "conversion":
            self.conversions.append(self.now)
        elif what == "learn" and source not in stopped:
            self.learn(source)
        elif what == "read":
            self.read()
        elif what == "ask":
            self.ask()

    def missing(self) -> list[int]:
        """Times at or below the watermark of what has not been read."""
        mark = self.horizon.watermark
        if mark is None:
            return []
        unlearned = [ts for s, times in self.clicks.items() for ts in times[self.learned[s] :]]
        unread = [ts for _, ts in self.touches[self.at[TOUCHES] :]] + self.conversions[self.at[CONVERTED] :]
        return [ts for ts in unlearned + unread if ts <= mark]


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_missing_below_the_watermark(seed: int) -> None:
    """Whatever the learner, the attributor and the broker do when: what the watermark has passed has been read."""
    rng, world = random.Random(seed), World()
    moved = set()
    for i in range(600):
        world.step(rng, stopped=frozenset({1}) if 200 < i < 400 else frozenset())
        assert world.missing() == []
        moved.add(world.horizon.watermark)
    assert len(moved) > 20


def test_not_asking_the_learner_is_noticed() -> None:
    """Without its progress, the same checks find clicks below the watermark that nobody has read."""
    found = []
    for seed in range(20):
        rng, world = random.Random(seed), World(hasty=True)
        for _ in range(600):
            world.step(rng)
            found += world.missing()
    assert found


def test_a_learner_that_has_stopped_holds_the_watermark() -> None:
    """Its partition's clicks may be what a conversion is for; when it goes on, so does the watermark."""
    world = World()
    world.clicks = {0: [1], 1: [2]}
    world.conversions = [5, 9]
    world.learn(0)
    for _ in range(5):
        world.read()
        world.ask()
    assert world.horizon.watermark is None
    world.learn(1)
    for _ in range(5):
        world.read()
        world.ask()
    assert world.horizon.watermark == 9


def test_silence_holds_nothing() -> None:
    """With no clicks at all, the conversions' own time passes; with no conversions, that of the touches."""
    world = World()
    world.conversions = [5]
    for _ in range(3):
        world.read()
        world.ask()
    assert world.horizon.watermark == 5
    world.clicks[0].append(8)
    world.learn(0)
    for _ in range(4):
        world.read()
        world.ask()
    assert world.horizon.watermark == 8
