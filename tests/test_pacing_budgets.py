"""Overspending with the learner's and the publisher's own code between spending and deciding; only the broker is left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from policies.allotment import NO_ALLOTMENT, Allotment
from policies.budgets import most_overspent
from policies.terms_records import encode_terms, terms_key
from streams.events import Impression, Outcome, encode
from streams.ledgers import is_ledger
from streams.messages import Message
from streams.metrics import Metrics
from streams.publisher import Publisher
from streams.reading import SimpleRecord
from streams.rules import rules
from streams.settings import Settings
from streams.state import Fetched, PartitionState, Side

START_MS = 1_700_000_000_000
PERIOD_MS = 10_000
COST = 1.0
RATE = 20
"""Decisions a second, of all deciders."""
DECIDERS_MS = (0, 150, 400)
"""How old a snapshot is when each decider sees it."""


class Writes:
    """In place of a transactional writer: what was committed."""

    def __init__(self) -> None:
        self.commits: list[list[Message]] = []

    def commit(self, messages: list[Message]) -> None:
        self.commits.append(list(messages))


def settings_of(amount: float, margin: float = 0.0, **more: Any) -> Settings:
    front = {
        "model": "beta",
        "window_s": 60.0,
        "arms": ["paid", "free"],
        "budgets": {"spring": {"amount": amount, "period_s": PERIOD_MS / 1000, "margin": margin}},
        "ads": {"paid": {"budget": "spring", "cost": COST}},
    }
    return Settings.model_validate({"policies": {"front": front | more}, "meta_interval_s": 1e6})


class Loop:
    """Two partitions of learners and a publisher, on a clock of event time.

    Events reach a partition at once; it is cut every `cut_ms`, which the publisher sees at its next tick. The watermark is `behind_ms`.
    """

    def __init__(self, made: Settings, *, cut_ms: int, tick_ms: int, behind_ms: int = 0) -> None:
        self.cut_ms, self.tick_ms, self.behind_ms = cut_ms, tick_ms, behind_ms
        self.made = made
        given = rules(made)
        self.learners = [PartitionState(number, rules=given) for number in range(2)]
        self.publisher = Publisher(made, metrics=Metrics(CollectorRegistry()), leads=lambda: True)
        self.publisher._writer = self.writes = Writes()  # type: ignore[assignment]
        self.published: list[tuple[int, Allotment]] = []
        self.offsets: dict[tuple[int, Side], int] = {}

    def replace(self, *, forgetful: bool) -> None:
        """Another publisher leads, from what the last one committed; a forgetful one from the snapshots alone."""
        before = self.publisher
        written = [one.value for commit in self.writes.commits for one in commit if one.key == terms_key("front")]
        kept: dict[tuple[str | None, str], bytes] = {}
        if written and written[-1] is not None and not forgetful:
            kept[None, "budgets"] = written[-1]
        after = Publisher(self.made, metrics=Metrics(CollectorRegistry()), leads=lambda: True)
        after._writer, after._posteriors = before._writer, before._posteriors
        after._posteriors.everything_changed()
        known = after._policies["front"]
        known.snapshot, known.prior = before._policies["front"].snapshot, before._policies["front"].prior
        known.terms.restore(kept)
        self.publisher = after

    @property
    def allotment(self) -> Allotment:
        """The newest."""
        snapshot = self.publisher._policies["front"].snapshot
        return NO_ALLOTMENT if snapshot is None else snapshot.allotment

    def known(self, at_ms: int) -> Allotment:
        """What who sees every snapshot late knows."""
        return next((one for ts, one in reversed(self.published) if ts <= at_ms), NO_ALLOTMENT)

    def take(self, partition: int, event: Impression | Outcome) -> None:
        """One event."""
        side: Side = "impressions" if isinstance(event, Impression) else "clicks"
        start = self.offsets.get((partition, side), 0)
        record = SimpleRecord(start, event.ts, None, encode(event), [])
        self.learners[partition].take(Fetched(side, partition, start, start + 1, [record]))
        self.offsets[partition, side] = start + 1

    def elapse(self, now_ms: int) -> None:
        """Cut and tick when it is time."""
        if now_ms % self.cut_ms == 0:
            for number, state in enumerate(self.learners):
                marks = [ts for ts in state.largest_ts.values() if ts is not None]
                for message in state.freeze(max(marks) - self.behind_ms if marks else None):
                    if message.topic == "posteriors":
                        self.publisher._posteriors.add(number, message.key, message.value)
        if now_ms % self.tick_ms == 0:
            self.publisher._publish()
            if not self.published or self.published[-1][1] != self.allotment:
                self.published.append((now_ms, self.allotment))


def shown(number: int, ts: int, arm: str, cost: float | None = None) -> Impression:
    return Impression(
        decision_id=f"d{number}", slot="top", policy="front", snapshot=1, arm=arm, propensity=0.5, ts=ts, cost=cost
    )


def spend(
    loop: Loop, *, seconds: int, seed: int, wants: Callable[[Allotment], bool] = lambda _: True
) -> list[tuple[int, float]]:
    """Deciders that show the paid arm when they believe it open and want it. Returns when they spent what."""
    rng, spent = np.random.default_rng(seed), []
    for number, now in enumerate(range(START_MS, START_MS + 1000 * seconds, 1000 // RATE)):
        loop.elapse(now)
        known = loop.known(now - DECIDERS_MS[int(rng.integers(len(DECIDERS_MS)))])
        cost = float(rng.choice([0.5, COST])) if rng.random() < 0.3 else None
        is_paid = "spring" not in known.closed and wants(known)
        loop.take(int(rng.integers(2)), shown(number, now, "paid" if is_paid else "free", cost))
        if is_paid:
            spent.append((now, COST if cost is None else cost))
    return spent


def by_period(spent: list[tuple[int, float]]) -> dict[int, float]:
    """Sums by number of the period."""
    sums: dict[int, float] = {}
    for ts, cost in spent:
        sums[ts // PERIOD_MS] = sums.get(ts // PERIOD_MS, 0.0) + cost
    return sums


def bound(loop: Loop) -> float:
    """What may be spent beyond amount - margin: known spending is as old as a cut, a tick and a slow decider make it, and one request."""
    lag_s = (loop.cut_ms + loop.tick_ms + max(DECIDERS_MS) + 1000 / RATE) / 1000
    return most_overspent(cost=COST, decisions_per_s=RATE, lag_s=lag_s)


@given(
    st.integers(0, 150),
    st.sampled_from([200, 400, 1000]),
    st.sampled_from([0, 3000]),
    st.booleans(),
    st.integers(0, 99),
)
@settings(max_examples=12)
def test_overspending_is_within_the_bound(amount: int, cut_ms: int, behind_ms: int, margin: bool, seed: int) -> None:
    """In every period, also those that begin while it runs, and however far the watermark lags.

    With a margin of the bound's size nothing is overspent.
    """
    free = Loop(settings_of(float(amount)), cut_ms=cut_ms, tick_ms=400)
    held_back = min(bound(free), amount) if margin else 0.0
    loop = Loop(settings_of(float(amount), held_back), cut_ms=cut_ms, tick_ms=400, behind_ms=behind_ms)
    spent = by_period(spend(loop, seconds=25, seed=seed))
    for period, cost in spent.items():
        assert cost <= amount - held_back + bound(loop), (period, cost)
    if margin and held_back == bound(loop):
        assert max(spent.values(), default=0.0) <= amount


@pytest.mark.parametrize("broken", [None, "one partition", "every fiftieth tick"])
def test_a_publisher_that_does_not_know_all_breaks_the_bound(
    monkeypatch: pytest.MonkeyPatch, broken: str | None
) -> None:
    """One that follows the ledger of one partition only, or looks every few seconds; the true one keeps it."""
    loop = Loop(settings_of(60.0), cut_ms=200, tick_ms=200)
    if broken == "one partition":
        inside = loop.publisher._posteriors.add
        monkeypatch.setattr(
            loop.publisher._posteriors,
            "add",
            lambda number, key, value: None if number and is_ledger(key or b"") else inside(number, key, value),
        )
    elif broken is not None:
        pace, calls = loop.publisher._pace, iter(range(10**6))
        monkeypatch.setattr(loop.publisher, "_pace", lambda *given: None if next(calls) % 50 else pace(*given))
    spent = by_period(spend(loop, seconds=20, seed=1))
    assert (max(spent.values()) <= 60.0 + bound(loop)) is (broken is None)
    assert max(spent.values()) > 60.0, "lag costs something"


def test_the_metrics_tell_what_was_spent_and_overspent() -> None:
    """Of the present period, and beyond the amount in all of them: what the deciders spent, to the last cost."""
    loop = Loop(settings_of(60.0), cut_ms=200, tick_ms=200)
    spent = by_period(spend(loop, seconds=25, seed=2))
    loop.elapse(START_MS + 25_000)
    sample = loop.publisher._metrics.registry.get_sample_value

    def told(name: str) -> float | None:
        return sample(f"clickloop_budget_{name}", {"policy": "front", "budget": "spring"})

    assert told("amount") == 60.0
    assert told("spent") == spent[max(spent)]
    assert told("overspent") == sum(max(cost - 60.0, 0.0) for cost in spent.values()) > 0.0
    assert told("late") == 0.0


def test_a_price_paces_the_spending_of_who_heeds_it() -> None:
    """Deciders to whom a request is worth 0 to 2 of its cost still spend in a period's last quarter, and spend nearly all of it.

    Who heeds no price has spent all in its first half.
    """
    made: dict[bool, list[tuple[int, float]]] = {}
    for heeds in (True, False):
        loop, rng = Loop(settings_of(66.0), cut_ms=200, tick_ms=200), np.random.default_rng(3)
        for number in range(40):  # a period before: what costs one earns one
            loop.take(0, shown(10**6 + number, START_MS - PERIOD_MS, "paid"))
            click = Outcome(decision_id=f"d{10**6 + number}", slot="top", outcome_id="o", ts=START_MS - PERIOD_MS)
            loop.take(0, click)

        def wants(known: Allotment, heeds: bool = heeds, rng: np.random.Generator = rng) -> bool:
            return bool(rng.uniform(0.0, 2.0) >= (known.price.get("spring", 0.0) if heeds else 0.0))

        made[heeds] = spend(loop, seconds=30, seed=4, wants=wants)
    last = START_MS // PERIOD_MS + 2
    ends = {heeds: max(ts for ts, _ in spent if ts // PERIOD_MS == last) % PERIOD_MS for heeds, spent in made.items()}
    assert ends[False] < PERIOD_MS / 2 < 3 * PERIOD_MS / 4 < ends[True]
    assert 0.7 * 66.0 < by_period(made[True])[last] <= 66.0 + bound(loop)


def terms_of(publisher: Publisher) -> bytes:
    return encode_terms("front", publisher._policies["front"].terms.state)


@pytest.mark.parametrize("forgetful", [False, True])
@pytest.mark.parametrize("seed", [5, 6])
def test_leaders_that_are_replaced_end_where_one_that_never_was_does(seed: int, forgetful: bool) -> None:
    """Prices, units, late and overspent costs and queues to the last bit, from what was committed; not so if they begin anew."""
    ads = {"paid": {"budget": "spring", "cost": COST, "floor": 0.5}}
    ends = []
    for is_replaced in (False, True):
        loop, rng = Loop(settings_of(60.0, ads=ads), cut_ms=200, tick_ms=200), np.random.default_rng(seed)
        loop.take(0, shown(10**6, START_MS, "paid"))
        loop.take(0, Outcome(decision_id=f"d{10**6}", slot="top", outcome_id="o", ts=START_MS, value=32.0))
        changes = iter(rng.integers(0, 10, 10**4).tolist())

        def wants(_: Allotment, loop: Loop = loop, changes: Any = changes, is_replaced: bool = is_replaced) -> bool:
            if next(changes) == 0 and is_replaced:
                loop.replace(forgetful=forgetful)
            return True

        spend(loop, seconds=15, seed=seed, wants=wants)
        ends.append((terms_of(loop.publisher), loop.allotment))
    assert ends[0][1].price["spring"] > 0.0
    assert (ends[0] == ends[1]) is not forgetful
