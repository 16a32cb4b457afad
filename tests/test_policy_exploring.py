"""Roll-outs beside the stream: what settings allow, what is written, and what a crash in each place leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from policies.exploration import Exploration, Now
from policies.meta_records import read_key
from policies.meta_state import Rows
from policies.model import make_model
from policies.prior import BetaPrior
from policies.snapshot import Snapshot, build
from policies.sums import Effective
from streams import policy_exploring
from streams.policy_exploring import PolicyExploring
from streams.settings import PolicySettings


def policy(**more: Any) -> PolicySettings:
    return PolicySettings(**{"model": "beta", "explore": "roll-outs", "explore_every": 100, **more})


def arm(clicks: float, n: float) -> Effective:
    return Effective(n_eff=n, count=n, reward=clicks, square=clicks)


NOW = Now(
    arms={"a": arm(50.0, 1000.0), "b": arm(4.0, 100.0), "c": arm(0.0, 10.0)},
    prior=BetaPrior(a=1.0, b=19.0),
    count=1110.0,
    now_ms=5000,
    announced={},
    offsets={0: {"impressions": 9, "clicks": 3}},
)


def snapshot() -> Snapshot:
    model = make_model("beta", dimension=0)
    return build(
        "p", model=model, sums={name: model.zero() for name in "abc"}, prior=NOW.prior, version=1, previous=None,
        time_ms=0, now_ms=0, read=lambda name, _: NOW.arms[name],
    )  # fmt: skip


def records(one: PolicyExploring) -> dict[tuple[str | None, str], bytes]:
    found = {read_key(message.key): message.value for message in one.messages(moved=False)}
    return {key[1:]: value for key, value in found.items() if key is not None and value is not None}


def found_alpha(monkeypatch: pytest.MonkeyPatch, alpha: float) -> None:
    """Roll-outs that prefer this rate, whatever they are played on."""
    from dataclasses import replace

    def decided(cut: Any) -> tuple[Exploration, str]:
        return replace(cut.state, alpha=alpha), f"alpha 0.3 -> {alpha:g}"

    monkeypatch.setattr(policy_exploring, "decided", decided)


def test_a_roll_out_is_heard_once_and_written_with_what_it_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for it: before it is over, nothing is told and nothing written; the next leader has its rate."""
    found_alpha(monkeypatch, 0.2)
    one = PolicyExploring("p", policy())
    assert not one.due(99.0)
    assert one.due(1110.0)
    one.begin(NOW)
    assert not one.due(1e9)
    assert one.wait(60.0)
    assert records(one) == {}
    assert one.heard(snapshot(), free=True) == ("alpha 0.3 -> 0.2",)
    assert one.heard(snapshot(), free=True) == ()
    after = PolicyExploring("p", policy())
    after.restore(records(one))
    assert (after.state.alpha, after.state.cut) == (0.2, NOW.offsets)
    assert not after.due(1200.0)


def test_arms_that_go_do_not_put_off_the_next_roll_out() -> None:
    """What came before and after they went counts, over a leader's death too, which loses what it had not written."""
    one = PolicyExploring("p", policy())
    one.begin(NOW)
    assert one.wait(60.0)
    one.heard(snapshot(), free=True)
    written = records(one)
    assert not one.due(1170.0)
    assert not one.due(700.0)
    assert not PolicyExploring("p", policy(explore="fixed")).due(1e9)
    after, later = PolicyExploring("p", policy()), PolicyExploring("p", policy())
    after.restore(records(one))
    later.restore(written)
    assert (one.due(740.0), after.due(740.0), later.due(740.0)) == (True, True, False)
    assert not later.due(700.0)
    assert later.due(800.0)


@pytest.mark.parametrize("begun", [False, True])
def test_a_crash_before_it_is_written_leaves_the_rate_and_the_cut_is_made_again(begun: bool) -> None:
    """Dead before the cut, or while it is played: the next leader decides the same from the same cut."""
    whole = PolicyExploring("p", policy())
    whole.begin(NOW)
    assert whole.wait(60.0)
    whole.heard(snapshot(), free=True)
    dies = PolicyExploring("p", policy())
    if begun:
        dies.begin(NOW)
    successor = PolicyExploring("p", policy())
    successor.restore(records(dies))
    assert successor.due(NOW.count)
    successor.begin(NOW)
    assert successor.wait(60.0)
    successor.heard(snapshot(), free=True)
    assert records(successor) == records(whole)


def test_one_that_took_over_again_does_not_hear_what_it_began_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its state is that of the record, which another leader may have written."""
    found_alpha(monkeypatch, 0.2)
    one = PolicyExploring("p", policy())
    one.begin(NOW)
    one.restore({})
    assert one.heard(snapshot(), free=True) == ()
    assert one.state.alpha == 0.3


@pytest.mark.parametrize(
    ("free", "alpha", "why"), [(False, 0.2, "the rate is held"), (True, 3.0, "chances would change by")]
)
def test_the_rate_stays_where_it_is_held_or_a_guardrail_speaks_against_it(
    monkeypatch: pytest.MonkeyPatch, free: bool, alpha: float, why: str
) -> None:
    """While something is tried, adopted or frozen, and where decisions would be other ones: told, not done."""
    found_alpha(monkeypatch, alpha)
    one = PolicyExploring("p", policy())
    one.begin(NOW)
    assert one.wait(60.0)
    (told,) = one.heard(snapshot(), free=free)
    assert told.startswith(f"alpha stays 0.3, roll-outs prefer {alpha:g}: ")
    assert why in told
    assert one.state.alpha == 0.3
    assert not one.due(1200.0)


def test_a_roll_out_that_fails_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leader goes on, and may play another later."""

    def broken(_: Any) -> Any:
        raise np.linalg.LinAlgError("not positive definite")

    monkeypatch.setattr(policy_exploring, "decided", broken)
    one = PolicyExploring("p", policy())
    one.begin(NOW)
    assert one.wait(60.0)
    assert one.heard(snapshot(), free=True) == ()
    assert (one.state.alpha, records(one)) == (0.3, {})
    assert one.due(1110.0)


ADS = {"a": {"campaign": "spring"}, "b": {"campaign": "autumn"}}


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ({"explorer": "ucb"}, "play Thompson sampling"),
        ({"model": "logistic", "dimension": 2}, "play Thompson sampling"),
        ({"alpha": 0.0}, "above zero"),
        ({"explore": "fixed", "group_by": "campaign", "ads": ADS}, "with the model 'hybrid'"),
        ({"model": "hybrid", "dimension": 2, "group_by": "campain", "ads": ADS}, "there are: budget, campaign, cap"),
        ({"model": "hybrid", "dimension": 2, "group_by": "sizes", "ads": {"a": {"sizes": ["x"]}}}, "have a list there"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_the_start(more: dict[str, Any], part: str) -> None:
    """With the value and the way out."""
    with pytest.raises(ValidationError, match=part):
        policy(**more)


def test_arms_are_grouped_by_a_field_of_theirs() -> None:
    """One without the field is in no group."""
    made = policy(model="hybrid", dimension=2, group_by="campaign", ads={**ADS, "c": {"value": 2.0}})
    assert made.group_of == {"a": "spring", "b": "autumn"}


def test_contexts_of_another_length_are_let_go_of() -> None:
    """They are of before the settings changed."""
    one = PolicyExploring("p", policy(model="linear", dimension=2))
    for d in (2, 3):
        one.take(Rows(arm=["a"], ts=np.zeros(1, np.int64), x=np.ones((1, d)), reward=np.ones(1)))
    assert one.state.ring.shape == (1, 2)
