"""Sticky canaries: whose group is whose, what is logged, one bet a visit, and what is left out."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from policies.canary import CODES, NOBODY, Canary, Visit, group_of
from policies.decide import law
from policies.decide_split import decide_split, split_law
from policies.meta_state import Rows
from policies.promotion import judged, trial
from policies.snapshot import assemble, decode_head, encode_head, exploring, records
from policies.sticky import LONGEST_S, SLACK_MS, gathered, settled
from policies.trial_records import decode_trials, encode_trials
from policies.trials import Exploring, Trials, Word, judged_rows, said
from policies.visits import Tally, tally, whole, with_more
from tests.policies.snapshots import two

HOUR_S, HOUR_MS = 3600, 3_600_000
STICKY = Canary(
    number=1, share=0.25, salt="s", explorer="softmax", rates={"tau": 0.5, "epsilon": 0.0}, name="softer", sticky_s=HOUR_S
)  # fmt: skip
BASE = Exploring(explorer="thompson", rates={"alpha": 0.3, "epsilon": 0.005})
X = np.array([1.0, 0.5, -0.5])


def proposed(share: float = 0.5, sticky_s: int = HOUR_S) -> Trials:
    word = Word(kind="propose", rates={"alpha": 0.1}, share=share, sticky_s=sticky_s)
    return said(Trials(), word, settings=BASE, salt="s", version=10, sticky=True)[0]


def canary_of(state: Trials) -> Canary:
    assert state.canary is not None
    return state.canary


def rows_of(canary: Canary, unit: Any, ts: Any, reward: Any, *, version: int = 10, group: Any = None) -> Rows:
    """Matured rows of units at times, each of its visit's group unless told otherwise."""
    drawn = [group_of("", canary, 0.0, Visit(int(u), int(t))) for u, t in zip(unit, ts, strict=True)]
    n = len(drawn)
    return Rows(
        arm=["a"] * n, ts=np.asarray(ts, np.int64), x=np.zeros((n, 1)), reward=np.asarray(reward, np.float64),
        group=np.array([CODES[one] if one else 0 for one in drawn]) if group is None else np.asarray(group),
        snapshot=np.full(n, version), propensity=np.full(n, 0.5), exact=np.ones(n, np.bool_),
        unit=np.asarray(unit, np.uint64),
    )  # fmt: skip


class Fold:
    """What a leader holds of one policy: the state, and the visits of open periods."""

    def __init__(self, state: Trials) -> None:
        self.state, self.visits = state, dict[int, tuple[Tally, ...]]()
        self.alarms: tuple[str, ...] = ()

    def take(self, rows: Rows, offset: int, *, partition: int = 0, again: bool = False) -> None:
        assert self.state.trying is not None
        trying, more = gathered(
            self.state.trying, rows, bounds=(0.0, 1.0), partition=partition, offset=offset, again=again
        )
        for period, one in more.items():
            self.visits[period] = with_more(self.visits.get(period, ()), one)
        self.state = replace(self.state, trying=trying)

    def settle(self, clock_ms: int | None = None) -> None:
        assert self.state.trying is not None
        newest = self.state.trying.periods.newest_ms
        self.state, self.visits, alarms = settled(self.state, self.visits, clock_ms=clock_ms or newest)
        self.alarms += alarms


def test_a_unit_keeps_its_group_for_a_period_and_is_drawn_anew_in_the_next() -> None:
    """Whatever the decision; over units and over periods the canary has its share, and one period tells nothing of the next."""
    units, periods = range(1, 301), range(60)
    groups = np.array([[STICKY.decides("", Visit(unit, k * HOUR_MS)) for k in periods] for unit in units])
    for unit in units[:20]:
        end = 5 * HOUR_MS + HOUR_MS - 1
        assert {STICKY.decides(f"d{i}", Visit(unit, at)) for i, at in enumerate((5 * HOUR_MS, end))} == {
            groups[unit - 1, 5]
        }
    assert groups.mean() == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / groups.size))
    after_canary = groups[:, 1:][groups[:, :-1]]
    assert after_canary.mean() == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / after_canary.size))


def test_what_is_logged_is_marginal_over_units() -> None:
    """Over units the frequencies are the mixture's; of one unit in one period they are its group's law, which the audits must not see."""
    front = replace(two()[0], canary=STICKY)
    canary = law(exploring(front, STICKY.explorer, STICKY.rates), X)
    incumbent = law(replace(front, canary=None), X)
    mixture = 0.75 * incumbent + 0.25 * canary
    assert np.abs(canary - incumbent).max() > 0.05
    rng, n = np.random.default_rng(4), 6_000
    made = [decide_split(front, X, key=f"d{i}", rng=rng, visit=Visit(i + 1, 7)) for i in range(n)]
    shown = np.array([sum(one.arm == arm for one, _ in made) for arm in front.names]) / n
    assert shown == pytest.approx(mixture, abs=4 * math.sqrt(0.25 / n))
    chance = dict(zip(front.names, mixture.tolist(), strict=True))
    assert [one.propensity for one, _ in made] == pytest.approx([chance[one.arm] for one, _ in made], abs=1e-12)
    assert split_law(front, X) == pytest.approx(mixture, abs=1e-12)
    unit = next(i for i in range(1, 99) if STICKY.decides("", Visit(i, 7)))
    own = [decide_split(front, X, key=f"e{i}", rng=rng, visit=Visit(unit, 7)) for i in range(n)]
    assert {group for _, group in own} == {"canary"}
    alike = np.array([sum(one.arm == arm for one, _ in own) for arm in front.names]) / n
    assert alike == pytest.approx(canary, abs=4 * math.sqrt(0.25 / n))
    assert np.abs(alike - mixture).max() > 4 * math.sqrt(0.25 / n)


@pytest.mark.parametrize("audit_share", [0.0, 0.2])
def test_without_a_unit_the_incumbent_decides_and_nobody_is_told(audit_share: float) -> None:
    """The propensity is its own, apart from the share at random; the others of that audit are told as beside no canary."""
    front = replace(two()[0], canary=STICKY, audit_share=audit_share)
    incumbent = law(replace(front, canary=None, audit_share=0.0), X)
    expected = audit_share / len(incumbent) + (1.0 - audit_share) * incumbent
    rng = np.random.default_rng(5)
    made = [decide_split(front, X, key=f"d{i}", rng=rng, visit=NOBODY) for i in range(2_000)]
    assert made[0][0].probabilities == pytest.approx(expected, abs=1e-12)
    groups = [group for _, group in made]
    assert set(groups) == ({"random", "rest"} if audit_share else {None})
    assert groups.count("random") / 2_000 == pytest.approx(audit_share, abs=0.04)


def test_sums_of_visits_do_not_depend_on_the_order_of_rows() -> None:
    """However rows are ordered and cut into tallies: the same bits. Each unit has its rows and its mean."""
    rng = np.random.default_rng(6)
    unit = rng.integers(1, 300, 5_000).astype(np.uint64)
    canary, reward = unit % np.uint64(3) == 0, rng.random(5_000)

    def folded(order: Any, cuts: list[int]) -> Tally:
        kept: tuple[Tally, ...] = ()
        for part in np.split(order, cuts):
            kept = with_more(kept, tally(unit[part], canary[part], reward[part]))
        assert len(kept) <= 10  # log2 of the units
        return whole(kept)

    first = folded(np.arange(5_000), [17, 2_000, 2_001])
    for _ in range(3):
        other = folded(rng.permutation(5_000), sorted(rng.integers(0, 5_000, 40).tolist()))
        for name in ("unit", "canary", "rows", "reward"):
            assert getattr(other, name).tolist() == getattr(first, name).tolist()
    assert first.unit.tolist() == sorted(set(unit.tolist()))
    by_hand = [reward[unit == one].mean() for one in first.unit]
    assert first.means == pytest.approx(np.array(by_hand), abs=1e-9)
    assert first.canary.tolist() == (first.unit % np.uint64(3) == 0).tolist()


def test_a_period_is_bet_on_once_when_it_is_over() -> None:
    """One bet a visit, in the order of units; what comes later is late, and a row that is not of its visit's group is a stray."""
    state = proposed()
    canary, fold = canary_of(state), Fold(state)
    units, start = np.arange(1, 41), 100 * HOUR_MS
    rewards = np.random.default_rng(7).integers(0, 2, (2, 40)).astype(float)
    fold.take(rows_of(canary, units, np.full(40, start), rewards[0]), 5)
    fold.take(rows_of(canary, units[::-1], np.full(40, start + HOUR_MS - 1), rewards[1][::-1]), 6)
    fold.settle(start + HOUR_MS + SLACK_MS - 1)
    assert fold.state.trying is not None
    assert fold.state.trying.test == state.trying.test  # type: ignore[union-attr]
    fold.settle(start + HOUR_MS + SLACK_MS)
    groups = np.array([canary.decides("", Visit(int(unit), start)) for unit in units])
    assert fold.state.trying.test == judged(trial(1, share=0.5), groups, rewards.mean(axis=0))
    assert (fold.visits, fold.state.trying.periods.first) == ({}, {})
    assert fold.state.audit.shares["candidate 1 (visits)"].inside == groups.sum()
    before = fold.state.trying.test
    fold.take(rows_of(canary, units[:3], np.full(3, start), np.ones(3)), 7)
    other = [CODES["incumbent"] if one else CODES["canary"] for one in groups]
    fold.take(rows_of(canary, units, np.full(40, start), np.ones(40), group=other), 8)
    fold.take(rows_of(canary, [0, 0], np.full(2, start), np.ones(2), group=[1, 2]), 9)
    fold.take(rows_of(canary, units[:5], np.full(5, start + HOUR_MS), np.ones(5), version=9), 10)
    fold.settle(start + 9 * HOUR_MS)
    periods = fold.state.trying.periods
    assert (fold.state.trying.test, periods.late, periods.strays) == (before, 3, 42)


def test_what_is_read_again_is_the_same() -> None:
    """A leader that begins with the record at any place of the log, however two partitions mix, ends with the same bits."""
    state, rng = proposed(), np.random.default_rng(8)
    canary, log = canary_of(state), list[tuple[int, int, Rows]]()
    for at in range(60):
        unit, ts = rng.integers(1, 60, 30), 100 * HOUR_MS + at * 300_000 + rng.integers(0, 300_000, 30)
        log.append((at % 2, at // 2, rows_of(canary, unit, ts, rng.random(30))))
    once = Fold(state)
    for partition, offset, rows in log:
        once.take(rows, offset, partition=partition)
        once.settle()
    assert once.state.trying is not None
    assert once.state.trying.test.canary > 20
    for cut in (1, 13, 14, 31, 47, 60):
        first = Fold(state)
        for partition, offset, rows in log[:cut]:
            first.take(rows, offset, partition=partition)
            first.settle()
        second = Fold(decode_trials(encode_trials("p", first.state)))
        assert second.state.trying is not None
        position = {0: (cut + 1) // 2, 1: cut // 2}
        begin = {number: second.state.trying.periods.again(number, at) for number, at in position.items()}
        left = [one for one in log if one[1] >= begin[one[0]]]
        left.sort(key=lambda one: (one[1] >= position[one[0]], rng.random() if one[1] < position[one[0]] else one[1]))
        for partition, offset, rows in left:
            second.take(rows, offset, partition=partition, again=offset < position[partition])
            if offset >= position[partition]:
                second.settle()
        assert second.state == once.state
        assert sorted(second.visits) == sorted(once.visits)


def test_dependent_visitors_without_a_lift_are_promoted_by_bets_on_decisions_only() -> None:
    """The broken variant bets on each decision of the same rows; a visitor's decisions are all clicked or none, nearly."""
    runs, by_decision, by_visit = 60, 0, 0
    for run in range(runs):
        rng = np.random.default_rng(run)
        word = Word(kind="propose", rates={"alpha": 0.1}, share=0.5, sticky_s=HOUR_S)
        state, _ = said(Trials(), word, settings=BASE, salt=str(run), version=10, sticky=True)
        unit, rate = rng.integers(1, 201, 8_000), rng.beta(0.05, 0.95, 201)
        rows = rows_of(
            canary_of(state), unit, np.full(8_000, 100 * HOUR_MS), (rng.random(8_000) < rate[unit]).astype(float)
        )
        fold = Fold(state)
        fold.take(rows, 0)
        fold.settle(200 * HOUR_MS)
        assert fold.state.trying is not None
        assert state.trying is not None
        by_visit += fold.state.trying.test.verdict != ""
        plain = replace(state.trying, canary=replace(state.trying.canary, sticky_s=0))
        broken, _ = judged_rows(
            replace(state, trying=plain), rows, bounds=(0.0, 1.0), audit_share=0.0, audited=False, least=None
        )
        assert broken.trying is not None
        by_decision += broken.trying.test.verdict != ""
    allowed = runs * 0.0608 + 3 * math.sqrt(runs * 0.0608)  # both verdicts of the first candidate
    assert by_visit <= allowed < by_decision


def test_a_better_candidate_is_found_by_visits() -> None:
    """So that the test is not merely silent."""
    state, rng = proposed(), np.random.default_rng(9)
    canary, fold = canary_of(state), Fold(state)
    for period in range(8):
        unit = np.arange(1, 2_001)
        own = np.array([canary.decides("", Visit(int(one), period * HOUR_MS)) for one in unit])
        rate = np.where(own, 0.15, 0.08)
        fold.take(rows_of(canary, unit, np.full(2_000, period * HOUR_MS), rng.random(2_000) < rate), period)
        fold.settle()
    fold.settle(99 * HOUR_MS)
    assert fold.state.trying is not None
    assert fold.state.trying.test.verdict == "promote"
    assert fold.alarms == ()


def test_lost_visits_raise_an_alarm() -> None:
    """The share is audited over visits: half of the canary's do not arrive."""
    state, rng = proposed(), np.random.default_rng(10)
    canary, fold = canary_of(state), Fold(state)
    unit = np.array([one for one in range(1, 1_500) if not canary.decides("", Visit(one, 0)) or rng.random() < 0.5])
    fold.take(rows_of(canary, unit, np.zeros(len(unit)), np.zeros(len(unit))), 0)
    fold.settle(9 * HOUR_MS)
    assert any("candidate 1 (visits) got" in one for one in fold.alarms)


def test_the_audit_of_propensities_leaves_out_what_units_keep() -> None:
    """While the sticky candidate decides and for rows of its snapshots afterwards; rows without a unit stay in."""
    state = proposed()
    rows = rows_of(canary_of(state), [7, 7, 0], np.zeros(3), np.zeros(3), group=[2, 2, 0])
    given: dict[str, Any] = {"bounds": (0.0, 1.0), "audit_share": 0.0, "audited": True, "least": None}
    assert judged_rows(state, rows, **given)[0].audit.rows == 1
    ended, _ = said(state, Word(kind="rollback"), settings=BASE, salt="", version=12)
    assert ended.by_visit == (10, 12)
    assert decode_trials(encode_trials("p", ended)) == ended
    assert judged_rows(ended, rows, **given)[0].audit.rows == 1
    assert judged_rows(ended, replace(rows, snapshot=np.full(3, 12)), **given)[0].audit.rows == 3


@pytest.mark.parametrize(
    ("sticky_s", "kept", "message"),
    [(HOUR_S, False, "set sticky_canaries = true"), (-1, True, "sticky_s = -1"), (LONGEST_S + 1, True, "from 1 to")],
)
def test_what_cannot_stick_is_refused(sticky_s: int, kept: bool, message: str) -> None:
    """With the way out; no number is spent."""
    word = Word(kind="propose", rates={"alpha": 0.1}, sticky_s=sticky_s)
    after, told = said(Trials(), word, settings=BASE, salt="s", version=1, sticky=kept)
    assert after == Trials()
    assert told.startswith("propose refused: ")
    assert message in told


def test_readers_of_before_see_no_canary_that_they_cannot_keep() -> None:
    """It stands in a field of its own, and the checksum is that of a head without; one by decision has the bytes that it had."""
    front = replace(two()[0], canary=STICKY)
    told = msgspec.msgpack.decode(encode_head(front))
    assert told["sticky_canary"]["sticky_s"] == HOUR_S
    assert "canary" not in told
    by_decision = msgspec.msgpack.decode(encode_head(replace(front, canary=replace(STICKY, sticky_s=0))))
    assert set(by_decision["canary"]) == {"number", "share", "salt", "explorer", "rates", "name"}
    arms = {msgspec.msgpack.decode(key)[1]: value for key, value in records(front, every_arm=True)[:-1]}
    found = assemble(decode_head(encode_head(front)), arms)
    assert found is not None
    assert found.canary == STICKY
