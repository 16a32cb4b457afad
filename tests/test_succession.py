"""A policy that learns beside another and takes over: who decides, what is logged, when it is due; nobody ever waits."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policies.features import FeatureError, Value
from policies.prior import Prior
from policies.snapshot import Snapshot, build
from policies.snapshot_records import LinearArm
from policies.succession import learns
from streams.client import PolicyClient
from streams.events import Impression, encode
from streams.reading import SimpleRecord
from streams.rules import model, rules
from streams.serve_worker import Brokers
from streams.settings import PolicySettings, Settings, SettingsError, load
from streams.state import Fetched, PartitionState
from streams.succession import Routes, Successions
from streams.texts import Texts
from tests.serving import Kafka, Serving, context_of
from tests.vectors import Table, projection, vector_of

NOBODY = "127.0.0.1:1"
PROJECTION = projection()
OLD: dict[str, Any] = {"features": {"numeric": {"hour": {}}}, "arms": ["a", "b"]}
NEW: dict[str, Any] = {
    "features": {"texts": {"query": 2}, "projection": PROJECTION.name, "numeric": {"hour": {}}},
    "arms": ["a", "b"],
    "succeeds": "front",
    "succession_share": 0.4,
    "succession_least": 100.0,
}
VALUES: dict[str, Value] = {"hour": 0.5, "query": "red shoes"}
IDS = [f"d{i}" for i in range(400)]


class Nowhere:
    """Stands in for what follows the snapshots: the test gives them."""

    error = None

    def __init__(self, *_: object, **__: object) -> None: ...
    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def _no_brokers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.client.Follower", Nowhere)


def settings(**policies: Any) -> Settings:
    return Settings(bootstrap=NOBODY, policies={"front": OLD, "front-2": NEW} | policies)


def snapshot(name: str, *, succeeds: str | None = None, version: int = 3, known: Settings | None = None) -> Snapshot:
    """Of a policy that likes arm a, so that the law is neither certain nor even."""
    made = model((known or settings()).policies[name])
    d = made.dimension
    prior = Prior(mean=np.zeros(d), tau2=np.ones(d), s2=1.0)
    found = build(
        name, model=made, sums={"a": made.zero(), "b": made.zero()}, prior=prior, version=version, previous=None,
        time_ms=1_000_000, now_ms=0, encoder=made.encoder, succeeds=succeeds, rates={"epsilon": 0.01},
    )  # fmt: skip
    arms = dict(found.arms)
    assert isinstance(arms["a"], LinearArm)
    arms["a"] = replace(arms["a"], mean=np.full(d, 0.7, np.float32))
    return replace(found, arms=arms)


def table() -> Table:
    known = Table(PROJECTION)
    known.put("red shoes")
    return known


def decisions(*snapshots: Snapshot, known: Settings | None = None, values: dict[str, Value] | None = None) -> list[Any]:
    """What a client decides with these snapshots, by id."""
    known = known or settings()
    with closing(PolicyClient(known, rng=np.random.default_rng(1), texts=Texts(known, table()))) as client:
        for one in snapshots:
            client._swap(one.policy, one)
        return [client.decide("front", values or VALUES, slot="top", decision_id=name) for name in IDS]


def test_the_new_policy_learns_on_a_share_of_what_the_old_one_decides() -> None:
    """With its own context, the old one's propensity, and no snapshot; the other decisions are as they always were."""
    found = snapshot("front")
    alone = decisions(found, known=Settings(bootstrap=NOBODY, policies={"front": OLD}), values={"hour": 0.5})
    z = PROJECTION.components(vector_of("red shoes"), 2)
    for beside in ((found,), (found, snapshot("front-2"))):
        for one, before in zip(decisions(*beside), alone, strict=True):
            assert (one.arm, one.propensity) == (before.arm, before.propensity)
            if learns(one.decision_id, "front-2", 0.4):
                assert (one.policy, one.snapshot) == ("front-2", None)
                assert np.allclose(one.context, [1.0, 0.5, *z], rtol=1e-6)
            else:
                assert (one.policy, one.snapshot) == ("front", 3)
                assert one.context.tolist() == [1.0, 0.5]


def test_from_the_snapshot_on_that_says_so_the_new_policy_decides() -> None:
    """Everything, from its own snapshot; a rollback to one from before gives the decisions back."""
    old, new = snapshot("front"), snapshot("front-2", succeeds="front")
    taken = decisions(old, new)
    assert {(one.policy, one.snapshot) for one in taken} == {("front-2", 3)}
    assert {one.policy for one in decisions(old, new, snapshot("front-2", version=4))} == {"front", "front-2"}
    assert {one.snapshot for one in decisions(old, new, snapshot("front-2", version=4))} == {3, None}


def test_a_successor_that_this_ad_server_cannot_decide_by_leaves_the_old_one_in_place() -> None:
    """One of another projection than the settings here have, or of a policy that they do not know."""
    elsewhere = settings(**{"front-2": NEW | {"features": NEW["features"] | {"projection": projection(seed=1).name}}})
    new = snapshot("front-2", succeeds="front", known=elsewhere)
    assert {one.snapshot for one in decisions(snapshot("front"), new)} == {3, None}
    before = Settings(bootstrap=NOBODY, policies={"front": OLD})
    old = decisions(snapshot("front"), new, known=before, values={"hour": 0.5})
    assert {(one.policy, one.snapshot) for one in old} == {("front", 3)}


def test_policies_succeed_each_other_in_a_line() -> None:
    """The third learns from what the second decides, under the name that ad servers ask for."""
    third = {**NEW, "succeeds": "front-2"}
    known = settings(**{"front-3": third})
    new = snapshot("front-2", succeeds="front", known=known)
    routes = Routes(known)
    have = {"front-2": new, "front-3": snapshot("front-3", known=known)}
    found = {routes.of("front", name, have.get) for name in IDS}
    assert found == {("front-2", "front-2"), ("front-2", "front-3")}
    have["front-3"] = snapshot("front-3", succeeds="front-2", known=known)
    assert {routes.of("front", name, have.get) for name in IDS} == {("front-3", "front-3")}
    assert {routes.of("front-3", name, have.get) for name in IDS} == {("front-3", "front-3")}


def test_there_is_no_gap_in_decisions() -> None:
    """Through all stages, whatever order the snapshots come in, everything after the first one is decided by a policy."""
    known = settings()
    stages = [
        snapshot("front"),
        snapshot("front-2"),
        snapshot("front", version=4),
        snapshot("front-2", succeeds="front", version=4),
        snapshot("front", version=5),
        snapshot("front-2", version=5),
        snapshot("front-2", succeeds="front", version=6),
    ]
    with closing(PolicyClient(known, rng=np.random.default_rng(1), texts=Texts(known, table()))) as client:
        for stage in stages:
            client._swap(stage.policy, stage)
            shown = [client.decide("front", VALUES, slot="top", decision_id=name) for name in IDS[:50]]
            assert all(one.reason is None and 0.0 < one.propensity < 1.0 for one in shown)


def test_values_of_either_policy_may_come_and_typing_errors_may_not() -> None:
    """Each takes its own; what neither has is refused."""
    old = snapshot("front")
    with pytest.raises(FeatureError, match="no feature 'querry'"):
        decisions(old, values={"hour": 0.5, "query": "red shoes", "querry": "x"})
    with pytest.raises(FeatureError, match="'query' is missing"):
        decisions(old, values={"hour": 0.5})
    with pytest.raises(FeatureError, match="no feature 'query'"):
        decisions(old, known=Settings(bootstrap=NOBODY, policies={"front": OLD}))


def test_what_it_learns_are_its_own_contexts_and_the_rewards_of_what_was_shown() -> None:
    """Its sums are those of the rows that were logged under its name, a function of the log."""
    known = settings()
    shown = decisions(snapshot("front"))
    events = [
        Impression(
            decision_id=one.decision_id, slot=one.slot, policy=one.policy, snapshot=one.snapshot, arm=one.arm,
            propensity=one.propensity, context=one.context.tolist(), ts=1_700_000_000_000,
        )
        for one in shown
    ]  # fmt: skip
    records = [SimpleRecord(i, 1_700_000_000_000, None, encode(event), []) for i, event in enumerate(events)]
    state = PartitionState(0, rules=rules(known))
    state.take(Fetched("impressions", 0, 0, len(records), records))
    state.freeze(None)
    for policy in ("front", "front-2"):
        for arm in ("a", "b"):
            rows = [one.context for one in shown if (one.policy, one.arm) == (policy, arm)]
            made = model(known.policies[policy])
            found = made.at(state.sums[policy][arm], now_ms=1_700_000_000_000)
            assert found.count == len(rows) > 0
            assert np.allclose(found.A, np.array(rows).T @ np.array(rows), rtol=1e-12)


class Effect:
    """What an arm counts for."""

    def __init__(self, n_eff: float) -> None:
        self.n_eff = n_eff


def look(
    one: Successions, policy: str, *n_eff: float, snapshot: Snapshot | None = None, hidden: tuple[str, ...] = ()
) -> Any:
    sums: Any = {f"arm-{i}": n for i, n in enumerate(n_eff)}
    return one.look(policy, sums, snapshot, lambda _, n: Effect(n), hidden=hidden)  # type: ignore[arg-type,return-value]


def test_no_arm_that_the_old_policy_hides_comes_back_by_a_succession() -> None:
    """It waits until the arm is paused in the new one, too; arms that the new one does not have do not matter."""
    one = Successions(settings().policies)
    look(one, "front", 300.0, 100.0, hidden=("arm-1", "long-gone"))
    assert look(one, "front-2", 900.0, 900.0) == (None, ())
    assert look(one, "front-2", 900.0, 900.0, hidden=("arm-1",))[0] == "front"
    look(one, "front", 300.0, 100.0)
    assert look(one, "front-2", 900.0, 900.0)[0] == "front"


def test_the_publisher_hands_over_once_there_is_enough_data() -> None:
    """Told once with the numbers, then kept, also when the ratio falls: a reset must not send decisions back and forth."""
    one = Successions(settings().policies)
    assert look(one, "front-2", 1e6) == (None, ())  # nothing is known of the old one yet
    assert look(one, "front", 300.0, 100.0) == (None, ())
    assert look(one, "front-2", 150.0, 49.0) == (None, ())
    succeeds, (why,) = look(one, "front-2", 150.0, 50.0)
    assert succeeds == "front"
    assert why.startswith("takes over from 'front': 200 decayed impressions against 400")
    assert look(one, "front-2", 1.0, snapshot=snapshot("front-2", succeeds="front")) == ("front", ())
    assert look(one, "front-2", 1.0, snapshot=snapshot("front-2")) == (None, ())
    assert look(one, "other", 1e9) == (None, ())


def test_over_http_it_is_the_same() -> None:
    """The answer names the policy that the decision belongs to, and so does the impression that is logged."""
    ask = {"policy": "front", "slot": "top", "features": VALUES}
    both = {"front": OLD, "front-2": NEW}
    kafka = Kafka(snapshot("front"))
    known = Settings(policies=both)
    with Texts(known, Table(PROJECTION)) as texts, Serving(kafka, policies=both, texts=texts) as one:
        answers = [one.decide({**ask, "decision_id": name}) for name in IDS[:40]]
        for answer, logged in zip(answers, kafka.impressions, strict=True):
            new = learns(answer["decision_id"], "front-2", 0.4)
            assert (answer["policy"], answer["snapshot"]) == (("front-2", None) if new else ("front", 3))
            assert (logged.policy, logged.snapshot) == (answer["policy"], answer["snapshot"])
            assert len(context_of(logged)) == (4 if new else 2)
            assert answer["reason"] is None
            assert answer.get("missing") == (["query"] if new else None)
        kafka.snapshots["front-2"] = snapshot("front-2", succeeds="front")
        answer = one.decide(ask)
        assert (answer["policy"], answer["snapshot"]) == ("front-2", 3)
        status, _, answer = one.call("POST", "/v1/decisions", {**ask, "features": {**VALUES, "querry": "x"}})
        assert status == 422
        assert "querry" in answer["error"]


def test_over_http_each_slot_has_the_context_of_its_arm_where_these_differ() -> None:
    """For who logs the impressions; what the service logs is the same."""
    ads = {"a": {"title": "Two red shoes"}, "b": {"title": "A hat"}}
    matched = NEW | {"features": NEW["features"] | {"match": "query"}, "ads": ads, "succeeds": None}
    known = Settings(policies={"front": matched})
    have = table()
    have.put("Two red shoes", "A hat")
    ask = {"policy": "front", "slots": ["top", "side"], "features": VALUES, "decision_id": "d1"}
    found = {}
    for logged in ("none", "before"):
        kafka = Kafka(snapshot("front", known=known))
        with (
            Texts(known, have) as texts,
            Serving(kafka, policies={"front": matched}, texts=texts, serve_log_impressions=logged) as one,
        ):
            answer = one.decide(ask)
        assert "context" not in answer
        shown = answer["slots"] if logged == "none" else kafka.impressions
        get = (lambda row: (row["arm"], row["context"])) if logged == "none" else lambda row: (row.arm, context_of(row))
        found[logged] = dict(map(get, shown))
        assert {"context" in slot for slot in answer["slots"]} == {logged == "none"}
    assert set(found["none"]) == {"a", "b"}
    assert found["none"] == found["before"]
    for arm, context in found["none"].items():
        match = PROJECTION.match(vector_of("red shoes"), vector_of(ads[arm]["title"]))
        assert context[-1] == pytest.approx(match, rel=1e-6)


def test_a_service_is_ready_without_a_snapshot_of_what_still_learns() -> None:
    """Decisions do not need it."""

    class Following:
        healthy, error = True, None

        def snapshot(self, policy: str) -> Snapshot | None:
            return snapshot("front") if policy == "front" else None

        class stats:  # noqa: N801 - stands in for an attribute
            delivered = queued = 0

    assert Brokers(settings(), Following()).ready() == (True, "ready")  # type: ignore[arg-type]
    alone = settings(**{"front-2": NEW | {"succeeds": None}})
    assert Brokers(alone, Following()).ready()[0] is False  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        ({"front": OLD | {"epsilon": 0.0}}, "needs epsilon above 0"),
        ({"front": OLD | {"budgets": {"spring": {"amount": 1.0}}}}, "budgets and caps count by policy"),
        ({"front": OLD | {"caps": {"often": {"limit": 1}}}}, "budgets and caps count by policy"),
        ({"front-2": NEW | {"mode": "logging"}}, "does not decide"),
        ({"front": {"dimension": 2}}, "both need [features]"),
        ({"front-3": NEW}, "succeeds it already"),
        ({"front": OLD | {"succeeds": "front-2"}}, "in a circle"),
        ({"front-2": NEW | {"succession_share": 0.2}}, "tends to 0.25"),
    ],
)
def test_lines_that_make_no_sense_are_refused(policies: dict[str, Any], message: str) -> None:
    """When the program starts."""
    with pytest.raises(SettingsError) as caught:
        load(overrides={"policies": {"front": OLD, "front-2": NEW} | policies})
    assert message in str(caught.value)


def test_a_policy_without_a_successor_is_routed_to_itself() -> None:
    """At no cost: settings with no line have no routes."""
    known = Settings(policies={"front": PolicySettings.model_validate(OLD)})
    assert Routes(known).of("front", "d1", lambda _: None) == ("front", "front")
    assert Routes(known).values("front", "front", VALUES) is VALUES


def test_pages_are_decided_by_the_same_routes() -> None:
    """All slots of a page belong to one policy, each with its arm's context and a marginal propensity of the old one's."""
    known = settings()
    ads = {"a": {"title": "Two red shoes"}, "b": {"title": "A hat"}}
    matched = NEW | {"features": NEW["features"] | {"match": "query"}, "ads": ads}
    known = settings(**{"front-2": matched})
    have = table()
    have.put("Two red shoes", "A hat")
    with closing(PolicyClient(known, rng=np.random.default_rng(1), texts=Texts(known, have))) as client:
        client._swap("front", snapshot("front"))
        pages = [client.decide_slots("front", VALUES, slots=("top", "side"), decision_id=name) for name in IDS[:40]]
        client._swap("front-2", snapshot("front-2", succeeds="front", known=known))
        taken = client.decide_slots("front", VALUES, slots=("top", "side"))
    for page in pages:
        new = learns(page.decision_id, "front-2", 0.4)
        assert (page.policy, page.snapshot) == (("front-2", None) if new else ("front", 3))
        for one in page.decisions:
            assert one.context.shape == ((5,) if new else (2,))
            if new:
                match = PROJECTION.match(vector_of("red shoes"), vector_of(ads[one.arm]["title"]))
                assert one.context[-1] == pytest.approx(match, rel=1e-6)
    assert (taken.policy, taken.snapshot, taken.missing) == ("front-2", 3, ())
    assert len({tuple(one.context) for one in taken.decisions}) == 2
