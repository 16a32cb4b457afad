"""The meta-state: which half-life is chosen, what raises an alarm, what a reset leaves, and that its record holds all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from policies.baseline import DRIFT_KEPT
from policies.batch import Batch
from policies.empirical_bayes import fit
from policies.meta_cuts import read_arm, reset
from policies.meta_means import KEPT, Means, due, take_means
from policies.meta_records import (
    baseline_key,
    decode_baseline,
    decode_means,
    decode_meta,
    encode_baseline,
    encode_means,
    encode_meta,
    meta_key,
    read_key,
)
from policies.meta_state import MetaState, Rows, expected, first_state, judged
from policies.model import RecordError, make_model
from policies.posterior import ArmPosterior, beta_posterior, posterior, unseen
from policies.prior import BetaPrior
from streams.following import Collector
from tests.policies.batches import START_MS, dyadic

ARMS = ("a", "b", "c", "d")
LADDER = (0.0, 20.0)
STEP_MS, WINDOW = 1000, 16
PRIOR = BetaPrior(a=1.0, b=9.0)
A_STEP = 200


def rows_of(batch: Batch, reward: np.ndarray, age_ms: Any = None) -> Rows:
    return Rows(arm=[ARMS[i] for i in batch.arm], ts=batch.ts, x=batch.x, reward=reward, age_ms=age_ms)


def step_of(step: int, rates: np.ndarray, rng: np.random.Generator) -> tuple[Batch, np.ndarray]:
    """The impressions of one second with their clicks, and the rewards of all."""
    arm = rng.integers(0, len(ARMS), A_STEP)
    reward = (rng.random(A_STEP) < rates[arm]).astype(float)
    ts, hit = np.full(A_STEP, START_MS + STEP_MS * step), np.flatnonzero(reward)
    nothing = np.zeros((A_STEP, 0))
    return Batch(
        arms=ARMS, arm=arm, x=nothing, ts=ts, reward_arm=arm[hit], reward_x=nothing[hit], reward_ts=ts[hit],
        reward=np.ones(len(hit)), square=np.ones(len(hit)),
    ), reward  # fmt: skip


def simulated(
    rates: Callable[[int], np.ndarray], steps: int, *, leaking: bool = False, watch: bool = False
) -> list[tuple[MetaState, int, tuple[str, ...], tuple[str, ...]]]:
    """Two tracks of beta sums under uniform play: state, step, reasons and alarms after each second's rows have matured.

    `leaking` is the broken variant: rows are scored by the means of the sums that hold their labels.
    """
    rng = np.random.default_rng(11)
    models = [make_model("beta", dimension=0, half_life_s=one) for one in LADDER]
    sums: list[dict[str, Any]] = [{}, {}]
    state, kept, waiting, told = first_state(LADDER, window_ms=WINDOW * STEP_MS), list[Means](), list[Any](), []
    for step in range(steps):
        batch, reward = step_of(step, rates(step), rng)
        sums = [model.update(one, batch) for model, one in zip(models, sums, strict=True)]
        waiting.append(rows_of(batch, reward))
        if len(waiting) > WINDOW:
            rows = waiting.pop(0)
            seen = [replace(kept[-1], at_ms=0)] if leaking else kept
            state, news = judged(state, rows, seen, watch=watch)
            told.append((state, step, news.reasons, news.alarms))
        now_ms = START_MS + STEP_MS * step
        if leaking or due(kept, now_ms, hold_ms=WINDOW * STEP_MS):
            read = [
                {arm: m.at(s, now_ms=now_ms) for arm, s in one.items()} for m, one in zip(models, sums, strict=True)
            ]
            kept = [*kept, take_means(read, PRIOR, model="beta", at_ms=now_ms)][-KEPT:]
    return told


def steady(step: int) -> np.ndarray:
    return np.array([0.05, 0.1, 0.1, 0.2])


def jumping(step: int) -> np.ndarray:
    return steady(step) if step < 200 else steady(step)[::-1]


def test_a_jump_chooses_the_short_track_within_ten_thousand_labels() -> None:
    """Rates change places after 40,000 rows; the reason tells nats and labels."""
    told = simulated(jumping, 300)
    switched = [(step, reasons) for _, step, reasons, _ in told if reasons]
    step, reasons = switched[0]
    labels = A_STEP * (step - WINDOW - 200)
    assert 0 < labels < 10_000
    assert reasons[0].startswith("half-life none -> 20 s: ahead by ")
    assert told[-1][0].ladder.half_life_s == 20.0


def test_where_nothing_changes_nothing_is_forgotten() -> None:
    """Over 60,000 rows; scored by means that hold the label, the shorter memory is taken instead."""
    assert [reasons for _, _, reasons, _ in simulated(steady, 300) if reasons] == []
    assert simulated(steady, 300, leaking=True)[-1][0].ladder.half_life_s == 20.0


def test_an_alarm_names_the_arms_whose_rate_changed() -> None:
    """None in a steady world; after the jump the arms that changed, and no other."""
    assert {arm for _, _, _, alarms in simulated(steady, 300, watch=True) for arm in alarms} == set()
    assert {arm for _, _, _, alarms in simulated(jumping, 240, watch=True) for arm in alarms} == {"a", "d"}


def means(at_ms: int, value: float) -> Means:
    return Means(at_ms=at_ms, row={"a": 0}, mean=np.full((1, 2, 1), value, np.float32), model="beta")


def test_a_row_is_predicted_by_the_newest_means_from_strictly_before_it() -> None:
    """Rows from before the first are not scored, nor those of an arm that was reset since the means were taken."""
    rows = Rows(arm=["a", "a", "a", "a"], ts=np.array([10, 11, 20, 25]), x=np.zeros((4, 0)), reward=np.zeros(4))
    kept = [means(10, 0.25), means(20, 0.5)]
    found, predicted = expected(rows, kept, {})
    assert found.tolist() == [1, 2, 3]
    assert predicted[:, 0].tolist() == [0.25, 0.25, 0.5]
    assert expected(rows, kept, {"a": 15})[0].tolist() == [3]
    state, _ = judged(first_state((0.0,), window_ms=1000), rows, kept)
    assert (state.rows, state.unscored) == (3, 1)
    assert judged(first_state((0.0,), window_ms=1000), rows, [])[0].unscored == 4


def test_linear_and_logistic_means_predict_in_context() -> None:
    """X m, and its logistic function; an unknown arm by the prior's row."""
    mean = np.array([[[1.0, 2.0], [0.0, 0.5]]], np.float32)
    x = np.array([[1.0, 0.5], [1.0, 2.0]])
    linear = Means(at_ms=0, row={"a": 0}, mean=mean, model="linear").predict(["a", "new"], x)
    assert linear[:, 0].tolist() == [2.0, 1.0]
    logistic = Means(at_ms=0, row={"a": 0}, mean=mean, model="logistic").predict(["a", "new"], x)
    assert logistic == pytest.approx(1.0 / (1.0 + np.exp(-linear)))


@pytest.mark.parametrize("name", ["linear", "hybrid", "student"])
def test_means_are_those_of_the_posterior(name: str) -> None:
    """In float32, and of the prior for an arm that has none."""
    batch = dyadic(3, 200)
    model = make_model(name, dimension=3)
    read = {arm: model.at(one, now_ms=0) for arm, one in model.update({}, batch).items()}
    prior = fit(read, None, model=name, dimension=3, intercept=0)
    found = posterior(prior, read["a"])
    assert isinstance(found, ArmPosterior)
    assert not isinstance(prior, BetaPrior)
    kept = take_means([read], prior, model=name, at_ms=0)
    x = np.array([[1.0, 0.5, -0.25]] * 2)
    assert kept.predict(["a", "new"], x)[:, 0] == pytest.approx(
        [x[0] @ found.mean, x[0] @ unseen(prior).mean], rel=1e-5
    )


def test_rewards_that_are_no_clicks_are_scored_by_the_normal_density() -> None:
    """With the pooled variance; and no arm is tested any more."""
    rng = np.random.default_rng(3)
    rows = Rows(arm=["a"] * 4000, ts=np.full(4000, 50), x=np.zeros((4000, 0)), reward=rng.normal(3.0, 1.0, 4000))
    kept = [Means(at_ms=0, row={"a": 0}, mean=np.array([[[1.0], [0]], [[3.0], [0]]], np.float32), model="beta")]
    state, told = judged(first_state(LADDER, window_ms=1000), rows, kept, watch=True)
    assert state.ladder.chosen == 1
    assert told.alarms == ()
    assert state.rewards.variance == pytest.approx(1.0, rel=0.1)


def test_an_announced_change_makes_an_arm_its_prior_and_drift_keeps_a_twentieth() -> None:
    """Under every track, whatever its half-life; later rows count in full."""
    rng = np.random.default_rng(5)
    batch, _ = step_of(0, steady(0), rng)
    more, _ = step_of(5, steady(0), rng)
    now = START_MS + 5000
    for kept in (0.0, DRIFT_KEPT):
        for half_life in LADDER:
            model = make_model("beta", dimension=0, half_life_s=half_life)
            one = model.update({}, batch)["d"]
            both = model.update(model.update({}, batch), more)["d"]
            state = replace(first_state(LADDER, window_ms=1000), tests={})
            after, told, reason = reset(state, "d", {half_life: (model, one)}, {}, now_ms=START_MS, kept=kept)
            left = read_arm(model, one, now_ms=START_MS, half_life_s=half_life, baseline=told[half_life])
            whole = model.at(one, now_ms=START_MS)
            assert left.n_eff == pytest.approx(kept * whole.n_eff)
            assert beta_posterior(PRIOR, left).a == pytest.approx(PRIOR.a + kept * whole.reward)
            later = read_arm(model, both, now_ms=now, half_life_s=half_life, baseline=told[half_life])
            alone = model.at(model.update({}, more)["d"], now_ms=now)
            old = model.at(one, now_ms=now)
            assert later.n_eff == pytest.approx(alone.n_eff + kept * old.n_eff)
            assert after.since_ms == {"d": START_MS}
            assert ("announced" in reason) == (kept == 0.0)


def same(left: MetaState, right: MetaState) -> bool:
    """Whether two states say the same, to the last bit."""
    one, two = (encode_meta("p", state, delays_s=(1.0, 5.0)) for state in (left, right))
    return one == two


def test_a_state_read_back_goes_on_as_if_nothing_had_been() -> None:
    """Cut after any record: what follows gives the same bits. A state that forgets one row differs."""
    rng, delays = np.random.default_rng(8), (1.0, 5.0)
    kept = [Means(at_ms=0, row={"a": 0}, mean=rng.uniform(0.05, 0.5, (2, 2, 1)).astype(np.float32), model="beta")]
    start = first_state(LADDER, window_ms=16_000)
    batches = []
    for step in range(12):
        batch, reward = step_of(step, steady(step), rng)
        age = np.where(reward > 0, (1000 * rng.exponential(1.0, A_STEP)).astype(np.int64), -1)
        batches.append(rows_of(batch, reward, age))

    def run(state: MetaState, parts: list[Rows]) -> MetaState:
        for i, rows in enumerate(parts):
            state, _ = judged(state, rows, kept, delays_s=delays, watch=True)
            state = replace(state, offsets={3: i})
        return state

    whole = run(start, batches)
    assert whole.rows == 12 * A_STEP
    assert whole.ages.clicks > 100
    for cut in (1, 5, 11):
        half = decode_meta(encode_meta("p", run(start, batches[:cut]), delays_s=delays), start, delays_s=delays)
        assert same(run(half, batches[cut:]), replace(whole, offsets={3: 11 - cut}))
        assert not same(run(half, batches[cut + 1 :]), whole) or cut == 11


def test_settings_that_changed_start_anew_and_keep_the_rest() -> None:
    """Other half-lives: the ladder; another window: the ages; other delays: the weights."""
    state = replace(first_state((0.0, 20.0), window_ms=1000), weights=(0.25, 0.75), rows=7, offsets={0: 9})
    record = encode_meta("p", state, delays_s=(1.0, 5.0))
    other = decode_meta(record, first_state((0.0, 30.0), window_ms=2000), delays_s=(1.0, 6.0))
    assert other.ladder.half_lives_s == (0.0, 30.0)
    assert other.ages.window_ms == 2000
    assert other.weights is None
    assert (other.rows, other.offsets) == (7, {0: 9})
    later = msgspec.msgpack.encode(msgspec.msgpack.decode(record) | {"v": 2})
    with pytest.raises(RecordError, match="version 2, this reader knows 1"):
        decode_meta(later, state, delays_s=())
    more = msgspec.msgpack.encode(msgspec.msgpack.decode(record) | {"added": 1})
    assert same(decode_meta(more, state, delays_s=(1.0, 5.0)), state)


@pytest.mark.parametrize("name", ["beta", "linear"])
def test_baselines_read_back_bit_for_bit(name: str) -> None:
    """Of every track."""
    x = np.array([[1.0, 0.3], [1.0, -0.7]])
    batch = Batch(
        arms=("a",), arm=np.zeros(2, np.intp), x=x, ts=np.array([1, 2]), reward_arm=np.zeros(1, np.intp),
        reward_x=x[:1], reward_ts=np.array([1]), reward=np.ones(1), square=np.ones(1),
    )  # fmt: skip
    tracks = {}
    for half_life in LADDER:
        model = make_model(name, dimension=2, half_life_s=half_life)
        tracks[half_life] = (model, model.update({}, batch)["a"])
    _, told, _ = reset(first_state(LADDER, window_ms=1000), "a", tracks, {}, now_ms=9, kept=0.05)
    back = decode_baseline(encode_baseline("p", "a", told))
    assert back.keys() == told.keys()
    for half_life, one in told.items():
        assert back[half_life].at_ms == one.at_ms == 9
        assert np.array_equal(back[half_life].part.A, one.part.A)
        assert np.array_equal(back[half_life].part.b, one.part.b)
        assert back[half_life].part.n_eff == one.part.n_eff


def test_readers_of_snapshots_pass_over_these_records() -> None:
    """Whatever a value says; keys of two elements are still heads and arms."""
    collector = Collector()
    collector.add(meta_key("p"), b"anything")
    collector.add(baseline_key("p", "a"), None)
    assert collector.take() == ({}, [])
    assert read_key(baseline_key("p", "a")) == ("p", "a", "baseline")
    assert read_key(msgspec.msgpack.encode(["p", "a"])) is None


def test_the_layout_of_version_1_stays_as_it_is() -> None:
    """Field by field, in this order; only the map's header may be a longer one."""
    state = replace(first_state((0.0, 20.0), window_ms=1000), offsets={1: 4}, since_ms={"a": 7}, reasons=("why",))
    found = msgspec.msgpack.decode(encode_meta("p", state, delays_s=(5.0,)), strict=False)
    assert msgspec.msgpack.encode(found) == msgspec.msgpack.encode(
        {
            "v": 1,
            "policy": "p",
            "offsets": {1: 4},
            "ladder": {"half_lives_s": [0.0, 20.0], "scores": [0.0, -1.5], "rows": 0, "chosen": 0},
            "tests": {},
            "ages": {
                "window_ms": 1000,
                "counts": bytes(8 * 65),
                "total_ms": 0.0,
                "landmark_ms": state.ages.landmark_ms,
                "newest_ms": -(2**62),
            },
            "delays_s": [5.0],
            "weights": None,
            "new_clicks": 0,
            "rewards": [0.0, 0.0, 0.0, True],
            "since_ms": {"a": 7},
            "rows": 0,
            "unscored": 0,
            "reasons": ["why"],
        }
    )
    means_record = encode_means("p", means(5, 0.25), (0.0,))
    assert means_record == msgspec.msgpack.encode(
        {
            "v": 1,
            "policy": "p",
            "at_ms": 5,
            "model": "beta",
            "half_lives_s": [0.0],
            "arms": ["a"],
            "mean": np.array([0.25, 0.25], "<f4").tobytes(),
        }
    )
    back = decode_means(means_record, "beta", (0.0,))
    assert back is not None
    assert np.array_equal(back.mean, means(5, 0.25).mean)
    assert decode_means(means_record, "beta", (9.0,)) is None
