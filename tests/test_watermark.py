"""The watermark: a silent topic holds nothing back, and nothing passes that is in the log and was not read."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from streams.state import SIDES, Side
from streams.watermark import OTHER, Answer, WatermarkClock


def largest(impressions: int | None, clicks: int | None) -> dict[Side, int | None]:
    return {"impressions": impressions, "clicks": clicks}


def test_it_is_the_smaller_of_the_two_topics_times() -> None:
    """Whichever lags."""
    clock = WatermarkClock()
    assert clock.next(largest(500, 300), {}) == 300
    assert clock.next(largest(500, 900), {}) == 500


def test_it_is_unknown_until_both_topics_were_heard() -> None:
    """A topic of which nothing was read and nothing answered holds back."""
    clock = WatermarkClock()
    assert clock.next(largest(None, None), {}) is None
    assert clock.next(largest(500, None), {}) is None
    assert clock.next(largest(500, 0), {}) == 0


def test_it_never_goes_back() -> None:
    """Neither by times, nor below what a checkpoint stored."""
    clock = WatermarkClock(700)
    assert clock.next(largest(None, None), {}) == 700
    assert clock.next(largest(500, 300), {}) == 700
    assert clock.next(largest(900, 800), {}) == 800
    assert clock.next(largest(100, 100), {}) == 800


@pytest.mark.parametrize("silent", ["impressions", "clicks"])
def test_the_second_new_answer_after_a_moment_lets_that_moment_pass(silent: Side) -> None:
    """The first may have been asked for before; the same answer seen again is no second one."""
    clock = WatermarkClock()
    times = largest(100, 100) | {OTHER[silent]: 900}
    seen = [clock.next(times, {silent: Answer(number, True)}) for number in (1, 1, 1, 2, 2, 3, 3)]
    assert seen == [100, 100, 100, 100, 100, 900, 900]


def test_a_topic_that_never_spoke_does_not_hold_back_either() -> None:
    """No click was ever made: impressions mature all the same."""
    clock = WatermarkClock()
    assert [clock.next(largest(900, None), {"clicks": Answer(i, True)}) for i in range(3)] == [None, None, 900]


def test_an_answer_that_something_is_left_to_read_lets_nothing_pass() -> None:
    """And one at the end afterwards lets pass what was known two answers before it, not more."""
    clock = WatermarkClock()
    at_end = [True, True, False, False, True, True]
    times = [200, 300, 400, 500, 600, 700]
    seen = [
        clock.next(largest(t, 100), {"clicks": Answer(i, end)})
        for i, (t, end) in enumerate(zip(times, at_end, strict=True))
    ]
    assert seen == [100, 100, 100, 100, 400, 500]


def test_what_came_after_the_second_last_answer_does_not_pass() -> None:
    """Impressions that go on arriving move the watermark two answers late."""
    clock = WatermarkClock()
    seen = [clock.next(largest(1000 * i, None), {"clicks": Answer(i, True)}) for i in range(6)]
    assert seen == [None, None, 0, 1000, 2000, 3000]


class Eager(WatermarkClock):
    """Broken: believes the first new answer, which may have been asked for too early."""

    def next(self, largest: Mapping[Side, int | None], answers: Mapping[Side, Answer]) -> int | None:
        """The mark that should wait for another answer counts at once."""
        for side, marks in self._marks.items():
            self._marks[side] = [marks[1] if marks[1] is not None else largest[OTHER[side]], largest[OTHER[side]]]
        return super().next(largest, answers)


class Partition:
    """A broker's partition pair and one reader: times in the log, fetches that take a while, answers that are old when they come."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.log: dict[Side, list[int]] = {"impressions": [], "clicks": []}
        self.read: dict[Side, int] = {"impressions": 0, "clicks": 0}
        self.under_way: dict[Side, int | None] = {"impressions": None, "clicks": None}
        self.answered: dict[Side, tuple[int, int]] = {}
        self.known: dict[int, int] = {}  # time of an impression -> length of the clicks' log when it was read

    def step(self) -> None:
        """One thing happens: a record is written, a fetch reaches the broker, or its answer the reader."""
        side: Side = self.random.choice(SIDES)
        what = self.random.random()
        now = len(self.log["impressions"]) + len(self.log["clicks"])
        if what < 0.3:
            self.log[side].append(now if side == "impressions" else max(0, now - self.random.randrange(5)))
        elif self.under_way[side] is None:
            self.under_way[side] = len(self.log[side])
        else:
            end = self.under_way[side] or 0
            number = self.answered.get(side, (0, 0))[0] + 1
            self.under_way[side], self.answered[side] = None, (number, end)
            for ts in self.log[side][self.read[side] : end]:
                if side == "impressions":
                    self.known[ts] = len(self.log["clicks"])
            self.read[side] = max(self.read[side], end)

    def ask(self, clock: WatermarkClock) -> int | None:
        """What the learner asks at a checkpoint."""
        times: dict[Side, int | None] = {
            side: max(self.log[side][: self.read[side]], default=None) for side in self.log
        }
        answers = {side: Answer(answer[0], self.read[side] >= answer[1]) for side, answer in self.answered.items()}
        return clock.next(times, answers)


def passed_over(clock: WatermarkClock, seed: int) -> int:
    """Times that the watermark passed an impression while a click lay unread that was in the log when the impression was read."""
    partition, wrong = Partition(seed), 0
    for _ in range(300):
        partition.step()
        if partition.random.random() < 0.4:
            watermark = partition.ask(clock)
            if watermark is None:
                continue
            newest_click = max(partition.log["clicks"][: partition.read["clicks"]], default=-1)
            for ts, clicks in partition.known.items():
                wrong += newest_click < ts <= watermark and partition.read["clicks"] < clicks
    return wrong


def test_no_click_is_passed_over_that_was_in_the_log() -> None:
    """Whatever the order of writing, fetching and answering."""
    assert sum(passed_over(WatermarkClock(), seed) for seed in range(150)) == 0


def test_believing_the_first_answer_would_pass_clicks_over() -> None:
    """The simulation provokes what the rule is for."""
    assert sum(passed_over(Eager(), seed) for seed in range(150)) > 0


def test_the_watermark_gets_there() -> None:
    """Once all is read, a few more answers let everything pass."""
    for seed in range(50):
        partition, clock = Partition(seed), WatermarkClock()
        for _ in range(100):
            partition.step()
        for number in range(1000, 1004):
            for side, log in partition.log.items():
                partition.read[side], partition.answered[side] = len(log), (number, len(log))
            watermark = partition.ask(clock)
        assert watermark == max((ts for log in partition.log.values() for ts in log), default=None)
