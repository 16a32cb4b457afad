"""The service: what it answers, what it logs, and what it refuses with which words."""

from __future__ import annotations

import copy
import gc
import http.client
import json
import os
import resource
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from policies.decide import law
from policies.decide_slots import decide_slots
from streams.events import Outcome
from streams.serve import run_serve
from streams.serve_metrics import SECONDS, Tally
from streams.serve_openapi import description
from streams.serve_spill import Spill, folder_of, take_over
from streams.settings import Settings, SettingsError
from tests.serving import ASK, NOW_S, Kafka, Serving, context_of, files
from tests.test_client import X, snapshot
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

TOKENS = "shop decide 0123456789abcdef\n# a comment\ntracker outcomes fedcba9876543210"


def test_a_decision_is_answered_and_logged_alike() -> None:
    """Arm, propensity, context, unit and snapshot of the answer are those of the impression."""
    with Serving(Kafka(snapshot(3))) as serving:
        answer = serving.decide(ASK | {"unit": "u1"})
        (logged,) = serving.kafka.impressions
    (shown,) = answer["slots"]
    assert (answer["snapshot"], answer["reason"], answer["ts"], answer["unit"]) == (3, None, int(NOW_S * 1000), "u1")
    assert (shown["arm"], shown["propensity"], shown["propensity_kind"]) == (logged.arm, logged.propensity, "exact")
    assert (logged.decision_id, logged.slot, logged.unit, logged.ts) == (
        answer["decision_id"],
        "top",
        "u1",
        answer["ts"],
    )
    assert context_of(logged) == [1.0, 0.5]
    p = law(snapshot(3), X)
    assert shown["propensity"] == pytest.approx(p["abc".index(shown["arm"])], abs=1e-12)


def test_slots_of_one_decision_show_no_arm_twice_and_log_marginal_probabilities() -> None:
    """Three slots share the decision id; each propensity is the chance of its arm in its slot, whatever the others show."""
    with Serving(Kafka(snapshot(3))) as serving:
        body = {
            "policy": "front",
            "slots": ["one", "two", "three", "four"],
            "context": [1.0, 0.5],
            "candidates": ["c", "a", "b"],
        }
        answer = serving.decide(body)
        assert len(serving.kafka.impressions) == 3
    arms = [slot["arm"] for slot in answer["slots"]]
    assert sorted(arms[:3]) == ["a", "b", "c"]
    assert answer["slots"][3] == {"slot": "four", "arm": None, "propensity": None, "propensity_kind": None}
    with Serving(Kafka(snapshot(3))) as serving:
        answer = serving.decide(body | {"slots": ["one", "two", "three"]})
    p = decide_slots(snapshot(3), X, ("c", "a", "b"), kappa=np.ones(3), rng=np.random.default_rng(1))
    for slot, law_of in zip(answer["slots"], p.allocation.probabilities, strict=True):
        assert slot["propensity"] == pytest.approx(law_of["cab".index(slot["arm"])], abs=1e-9)


@pytest.mark.parametrize("candidates", [None, ["c", "a", "b"]])
def test_paused_arms_are_not_shown(candidates: list[str] | None) -> None:
    """Not by the policy and not by the fallback; the law is that over the others, and where all are paused nothing is shown."""
    body = {"policy": "front", "slots": ["one", "two", "three"], "context": [1.0, 0.5]} | (
        {} if candidates is None else {"candidates": candidates}
    )
    held = replace(snapshot(3), paused=("b",))
    with Serving(Kafka(held)) as serving:
        for more in ({}, {"deadline_ms": 1e-6}):
            arms = [slot["arm"] for slot in serving.decide(body | more)["slots"]]
            assert sorted(arms[:2]) == ["a", "c"]
            assert arms[2] is None
        first = serving.decide(body)["slots"][0]
        assert first["propensity"] == pytest.approx(law(held, X, ["a", "c"])["ac".index(first["arm"])], abs=1e-6)
    with Serving(Kafka(replace(snapshot(3), paused=("a", "b", "c")))) as serving:
        assert {slot["arm"] for slot in serving.decide(body)["slots"]} == {None}
        assert serving.kafka.impressions == []


def test_a_list_is_answered_as_a_list_in_its_order() -> None:
    """Other candidates and slots do not mix up the answers."""
    asks = [
        ASK | {"decision_id": f"d{i}", "slot": f"s{i}", "candidates": ["a", "b"] if i % 2 else ["c"]} for i in range(9)
    ]
    with Serving(Kafka(snapshot(1))) as serving:
        answers = serving.decide(asks)
    assert [(answer["decision_id"], answer["slots"][0]["slot"]) for answer in answers] == [
        (f"d{i}", f"s{i}") for i in range(9)
    ]
    assert all((answers[i]["slots"][0]["arm"] == "c") == (i % 2 == 0) for i in range(9))


def test_named_features_make_the_context() -> None:
    """Features by name are compiled, and a wrong name is refused by its name."""
    policies = {"front": {"arms": ("a",), "features": {"numeric": {"hour": {"mean": 12, "sd": 6}}}}}
    with Serving(Kafka(None), policies=policies) as serving:
        serving.decide({"policy": "front", "slot": "top", "features": {"hour": 18}})
        assert context_of(serving.kafka.impressions[0]) == [1.0, 1.0]
        status, _, answer = serving.call(
            "POST", "/v1/decisions", {"policy": "front", "slot": "s", "features": {"hours": 1}}
        )
    assert status == 422
    assert "'hours'" in answer["error"]
    assert "hour" in answer["error"]


@pytest.mark.parametrize(
    ("kafka", "more", "body", "reason"),
    [
        (Kafka(None), {}, ASK, "no snapshot"),
        (Kafka(snapshot(1)), {"snapshot_max_age_s": 0.5}, ASK, "stale"),
        (Kafka(snapshot(1)), {}, ASK | {"deadline_ms": 1e-6}, "deadline"),
        (Kafka(snapshot(1)), {"serve_deadline_ms": 1e-6}, ASK, "deadline"),
        (Kafka(snapshot(1)), {"serve_deadline_ms": 1e-6}, ASK | {"deadline_ms": 60_000}, None),
    ],
)
def test_the_fallback_answers_and_says_why(kafka: Kafka, more: Any, body: Any, reason: str | None) -> None:
    """Without a usable snapshot, or too late, a random candidate comes with its known propensity and snapshot null."""
    with Serving(kafka, **more) as serving:
        answer = serving.decide(body)
    assert answer["reason"] == reason
    assert (answer["snapshot"] is None) == (reason is not None)
    if reason is not None:
        assert kafka.impressions[0].propensity == answer["slots"][0]["propensity"] == pytest.approx(1 / 3)


def test_an_idempotency_key_gives_the_same_answer_once() -> None:
    """By header or field, the answer comes again byte for byte, and nothing is logged a second time."""
    with Serving(Kafka(snapshot(1))) as serving:
        first = [serving.decide(ASK | {"idempotency_key": "k1"}), serving.decide(Idempotency_Key="k2")]
        again = [serving.decide(ASK | {"idempotency_key": "k1"}), serving.decide(Idempotency_Key="k2")]
        assert first == again
        assert first[0]["decision_id"] != first[1]["decision_id"]
        assert len(serving.kafka.impressions) == 2
        status, _, answer = serving.call("POST", "/v1/decisions", ASK | {"slot": "side"}, Idempotency_Key="k2")
    assert status == 422
    assert "'shop" not in answer["error"]
    assert "another body" in answer["error"]


def test_concurrent_duplicates_are_answered_once() -> None:
    """Many threads with one key get one answer, and one impression is logged."""
    with Serving(Kafka(snapshot(1))) as serving, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: serving.decide(Idempotency_Key="one"), range(64)))
        assert len(serving.kafka.impressions) == 1
    assert all(answer == answers[0] for answer in answers)


def test_another_process_decides_the_same_for_a_key() -> None:
    """Decision id and arm follow from the key, so that a retry that lands elsewhere is counted once by the learner."""
    answers = []
    for _ in range(2):
        with Serving(Kafka(snapshot(1))) as serving:
            answers.append(serving.decide(Idempotency_Key="k"))
    assert answers[0] == answers[1]


def test_outcomes_are_taken_with_their_defaults() -> None:
    """One or many; without id it is the kind, without time it is now."""
    with Serving(Kafka(None)) as serving:
        one = {"decision_id": "d1", "slot": "top"}
        assert serving.call("POST", "/v1/outcomes", one)[::2] == (202, {"accepted": 1})
        many = [one | {"outcome_id": "o1", "value": 0.0, "ts": 5}, one | {"decision_id": "d2"}]
        assert serving.call("POST", "/v1/outcomes", many)[::2] == (202, {"accepted": 2})
        found = [(o.decision_id, o.outcome_id, o.kind, o.value, o.ts) for o in serving.kafka.outcomes]
    now_ms = int(NOW_S * 1000)
    assert found == [
        ("d1", "click", "click", 1.0, now_ms),
        ("d1", "o1", "click", 0.0, 5),
        ("d2", "click", "click", 1.0, now_ms),
    ]


def test_outcomes_that_take_others_back_are_taken() -> None:
    """With an id for each outcome that is taken back, and of the kinds that every policy knows."""
    with Serving(Kafka(None)) as serving:
        one = {"decision_id": "d1", "slot": "top"}
        some = [one | {"kind": "retraction", "of": "o1"}, one | {"kind": "refund", "of": "o2", "value": 0.5}]
        assert serving.call("POST", "/v1/outcomes", [*some, one | {"kind": "invalid"}])[0] == 202
        found = [(o.outcome_id, o.kind, o.value, o.of) for o in serving.kafka.outcomes]
        described = serving.call("GET", "/openapi.json")[2]["components"]["schemas"]["Report"]["properties"]
    assert found == [
        ("retraction:o1", "retraction", 1.0, "o1"),
        ("refund:o2", "refund", 0.5, "o2"),
        ("invalid", "invalid", 1.0, None),
    ]
    assert "of" in described


BAD = [
    ("/v1/decisions", b"{", 400, ["not JSON"]),
    ("/v1/decisions", b"\xff\xfe", 400, ["not JSON"]),
    ("/v1/decisions", b"", 400, ["not JSON"]),
    ("/v1/decisions", b"[]", 422, ["length"]),
    ("/v1/decisions", b'"x"', 422, ["object", "str"]),
    ("/v1/decisions", {"slot": "top"}, 422, ["policy"]),
    ("/v1/decisions", ASK | {"policy": "frnt"}, 422, ["'frnt'", "did you mean front?"]),
    ("/v1/decisions", ASK | {"policy": 3}, 422, ["$.policy", "is 3"]),
    ("/v1/decisions", ASK | {"slots": ["a"]}, 422, ["not both"]),
    ("/v1/decisions", {"policy": "front", "context": [1, 2]}, 422, ["slot"]),
    ("/v1/decisions", {"policy": "front", "slots": ["a", "a"], "context": [1, 2]}, 422, ["['a', 'a']", "once"]),
    ("/v1/decisions", ASK | {"context": [1.0]}, 422, ["1 numbers", "needs 2"]),
    ("/v1/decisions", ASK | {"context": [1.0, "x"]}, 422, ["$.context[1]", "'x'"]),
    ("/v1/decisions", ASK | {"context": [1.0, 1e31]}, 422, ["1e+31", "<= 1e+30"]),
    ("/v1/decisions", ASK | {"features": {"a": 1}}, 422, ["not both"]),
    ("/v1/decisions", ASK | {"candidates": []}, 422, ["candidates"]),
    ("/v1/decisions", ASK | {"candidates": ["a", "a"]}, 422, ["['a']", "once"]),
    ("/v1/decisions", ASK | {"deadline_ms": 0}, 422, ["deadline_ms", "> 0"]),
    ("/v1/decisions", ASK | {"contxt": 1}, 422, ["contxt"]),
    ("/v1/decisions", [ASK, ASK | {"policy": "no"}], 422, ["decision 1", "'no'"]),
    ("/v1/decisions", [ASK | {"idempotency_key": "k"}], 422, ["Idempotency-Key"]),
    ("/v1/decisions", b'{"policy": 3, garbage', 422, ["$.policy", "`str`, got `int`"]),
    ("/v1/decisions", b'{"policy": 3, "slot": "to', 422, ["$.policy"]),
    ("/v1/decisions", b'[{"policy": 3}, garbage', 422, ["$[0].policy"]),
    ("/v1/decisions", b'{"policy":3,"x":"\xff"}', 422, ["$.policy"]),
    ("/v1/decisions", b'{"policy":3,"x":' + b"[" * 100_000, 422, ["$.policy"]),
    ("/v1/decisions", b'{"policy":"front","slot":"top","context":[1e999,1]}', 422, ["$.context[0]"]),
    ("/v1/outcomes", b'{"decision_id": 3, garbage', 422, ["$.decision_id"]),
    ("/v1/outcomes", {"decision_id": "", "slot": "top"}, 422, ["decision_id", ">= 1"]),
    ("/v1/outcomes", {"decision_id": "d", "slot": "top", "kind": "clik"}, 422, ["'clik'", "click"]),
    ("/v1/outcomes", {"decision_id": "d", "slot": "top", "ts": 10**12}, 422, [str(10**12), "5 minutes"]),
    ("/v1/outcomes", {"decision_id": "d", "slot": "top", "value": 1e300}, 422, ["value", "1e+300"]),
    ("/v1/outcomes", {"decision_id": "d", "slot": "top", "kind": "retraction"}, 422, ["outcome 0: of is missing"]),
    (
        "/v1/outcomes",
        {"decision_id": "d", "slot": "top", "kind": "refund", "of": "o", "value": -1},
        422,
        ["-1", "0 or more"],
    ),
]


@pytest.mark.parametrize("room", [Kafka(snapshot(1)), Kafka(None)], ids=["snapshot", "none"])
def test_what_is_wrong_is_refused_in_words_and_leaves_nothing(room: Kafka) -> None:
    """Each gets its status, the place, the value and what is allowed; nothing is logged, no room stays reserved."""
    with Serving(room) as serving:
        for path, body, wanted, parts in BAD:
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            status, headers, answer = serving.call("POST", path, raw=raw)
            assert status == wanted, (body, answer)
            assert headers["Content-Type"].startswith("application/json")
            assert [part for part in parts if part not in answer["error"]] == [], answer
        assert room.tags == []
        assert serving.journal._reserved == 0
        serving.decide()


def test_paths_methods_and_types_that_there_are_not() -> None:
    """404 lists the paths, 405 the methods, 415 the type."""
    with Serving(Kafka(snapshot(1))) as serving:
        assert "/v1/decisions" in serving.call("GET", "/v2")[2]["error"]
        status, headers, _ = serving.call("DELETE", "/v1/outcomes")
        assert (status, headers["Allow"]) == (405, "POST")
        assert serving.call("POST", "/v1/decisions", ASK, Content_Type="text/plain")[0] == 415


def test_bodies_are_limited() -> None:
    """Above the limit it is 413, whether the length was told or not, and compressed too."""
    with Serving(Kafka(snapshot(1)), serve_max_body_bytes=2048) as serving:
        status, _, answer = serving.call("POST", "/v1/decisions", ASK | {"unit": "x" * 3000})
        assert (status, "2048" in answer["error"]) == (413, True)
        connection = http.client.HTTPConnection("127.0.0.1", serving.port, timeout=60)
        chunks = iter([b" " * 1500, b" " * 1500])
        connection.request("POST", "/v1/decisions", chunks, {"Content-Type": "application/json"}, encode_chunked=True)
        assert connection.getresponse().status == 413
        connection.close()
        import gzip

        bomb = gzip.compress(b" " * 10**6)
        assert serving.call("POST", "/v1/decisions", raw=bomb, Content_Encoding="gzip")[0] == 413
        assert serving.call("POST", "/v1/decisions", raw=b"junk", Content_Encoding="gzip")[0] == 400


@pytest.mark.parametrize(
    ("path", "authorization", "wanted"),
    [
        ("/v1/decisions", None, 401),
        ("/v1/decisions", "Bearer", 401),
        ("/v1/decisions", "Basic 0123456789abcdef", 401),
        ("/v1/decisions", "Bearer 0123456789abcdeX", 401),
        ("/v1/decisions", "Bearer fedcba9876543210", 403),
        ("/v1/decisions", "bearer 0123456789abcdef", 200),
        ("/v1/outcomes", "Bearer 0123456789abcdef", 403),
        ("/v1/outcomes", "Bearer fedcba9876543210", 202),
    ],
)
def test_without_a_token_of_the_scope_nothing_changes(path: str, authorization: str | None, wanted: int) -> None:
    """Each write needs its own scope; who lacks it gets 401 or 403, and no event is taken."""
    body = ASK if path == "/v1/decisions" else {"decision_id": "d", "slot": "s"}
    with Serving(Kafka(snapshot(1)), serve_tokens=TOKENS) as serving:
        headers: dict[str, Any] = {} if authorization is None else {"Authorization": authorization}
        status, sent, answer = serving.call("POST", path, body, **headers)
        assert status == wanted
        assert ("WWW-Authenticate" in sent) == (wanted == 401)
        assert len(serving.kafka.tags) == (wanted < 300)
        assert "0123456789abcdef" not in str(answer)
        assert serving.call("GET", "/v1/policies", **headers)[0] == (401 if wanted == 401 else 200)
        assert serving.call("GET", "/livez")[0] == 200


def test_tokens_do_not_print_and_wrong_ones_are_refused_at_start() -> None:
    """Neither the settings nor the complaint about an entry show one."""
    settings = Settings(policies={"front": {"dimension": 2}}, serve_tokens="shop fly 0123456789abcdef")
    assert "0123456789" not in repr(settings)
    with pytest.raises(SettingsError, match="entry 1") as told:
        run_serve(settings, workers=1, no_auth=False)
    assert "0123456789" not in str(told.value)
    with pytest.raises(SettingsError, match="no entry"):
        run_serve(
            settings.model_copy(update={"serve_tokens": Settings(serve_tokens="#").serve_tokens}),
            workers=1,
            no_auth=False,
        )


def test_without_tokens_only_this_machine_is_served() -> None:
    """An address that others reach is refused at start, unless it is asked for."""
    settings = Settings(policies={"front": {"dimension": 2}}, listen_host="0.0.0.0")  # noqa: S104 - it is refused
    with pytest.raises(SettingsError, match=r"listen_host = '0.0.0.0'.*--no-auth"):
        run_serve(settings, workers=1, no_auth=False)


def test_more_than_may_are_shed_with_a_time_to_come_back() -> None:
    """While a request hangs on its body, the one too many gets 429; afterwards there is room again."""
    with Serving(Kafka(snapshot(1)), serve_max_requests=1) as serving:
        connection = http.client.HTTPConnection("127.0.0.1", serving.port, timeout=60)
        connection.putrequest("POST", "/v1/decisions")
        connection.putheader("Content-Type", "application/json")
        body = json.dumps(ASK).encode()
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[:5])
        while serving.service.requests == 0:
            time.sleep(0.01)
        status, headers, answer = serving.call("POST", "/v1/decisions", ASK)
        assert (status, headers["Retry-After"]) == (429, "1")
        assert "try again" in answer["error"]
        assert serving.call("GET", "/livez")[0] == 200
        connection.send(body[5:])
        assert connection.getresponse().status == 200
        connection.close()
        serving.decide()


@pytest.mark.parametrize("when", ["before", "after", "none"])
def test_impressions_are_logged_when_it_was_said(when: str) -> None:
    """Before or after the answer; or not at all, and then the answer has the context that the caller has to log."""
    with Serving(Kafka(snapshot(1)), serve_log_impressions=when) as serving:
        answer = serving.decide()
        if when == "after":
            wait_for(lambda: serving.kafka.impressions)
        assert len(serving.kafka.impressions) == (when != "none")
        assert answer.get("context") == (X.tolist() if when == "none" else None)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_full_buffer_refuses_before_anybody_is_answered(when: str) -> None:
    """503 with Retry-After, counted; nothing is taken, not a part of a page either."""
    with Serving(Kafka(snapshot(1)), queue_rows=1, serve_log_impressions=when) as serving:
        page = {"policy": "front", "slots": ["one", "two"], "context": [1, 2]}
        status, headers, answer = serving.call("POST", "/v1/decisions", page)
        assert (status, headers["Retry-After"]) == (503, "1")
        assert "nothing was taken" in answer["error"]
        assert serving.call("POST", "/v1/outcomes", [{"decision_id": "d", "slot": "s"}] * 2)[0] == 503
        assert serving.kafka.tags == []
        assert serving.counted("refused") == 2
        serving.decide()


def test_what_finds_no_room_goes_to_disk_and_comes_back(tmp_path: Path) -> None:
    """With a folder nobody is refused; what was spilled is sent when there is room, bit for bit, and its file goes."""
    spill = Spill(tmp_path, most_bytes=1 << 22)
    kafka = Kafka(snapshot(1), room=0)
    with Serving(kafka, spill=spill, queue_rows=1) as serving:
        answer = serving.decide(ASK | {"context": [0.1, 1 / 3]})
        serving.call("POST", "/v1/outcomes", {"decision_id": "d1", "slot": "top", "value": 0.1})
        assert serving.counted("spilled") == 2
        assert spill.bytes > 0
        kafka.room = 10
        from streams.delivery import Delivery

        until, told = time.monotonic() + 60, 0
        while (spill.bytes or serving.counted("resent") < 2) and time.monotonic() < until:
            tags = kafka.tags[told:]  # it may send one file, and the other only when the first is settled
            if tags:
                told += len(tags)
                serving.journal.settled(Delivery(topic="t", partition=0, offset=1, tags=tags, error=None))
            time.sleep(0.02)
        assert (told, spill.bytes) == (2, 0)
        assert serving.counted("resent") == 2
    assert context_of(kafka.impressions[0]) == [0.1, 1 / 3]
    assert kafka.impressions[0].decision_id == answer["decision_id"]
    assert kafka.outcomes[0].value == 0.1


def test_what_was_taken_and_not_delivered_is_not_lost_silently(tmp_path: Path) -> None:
    """A failed delivery goes to disk; without a folder it is counted as lost."""
    from streams.delivery import Delivery

    for spill, wanted in ((Spill(tmp_path, most_bytes=1 << 22), "spilled"), (None, "lost")):
        kafka = Kafka(snapshot(1))
        with Serving(kafka, spill=spill) as serving:
            serving.decide()
            serving.journal.settled(Delivery(topic="t", partition=0, offset=-1, tags=kafka.tags[:], error="timed out"))
            assert serving.counted(wanted) == 1


def test_what_still_waits_at_the_end_goes_to_disk(tmp_path: Path) -> None:
    """Of two events one was delivered when the brokers went: the other is on disk after the end, and only that."""
    from streams.delivery import Delivery, NotDelivered

    class Gone(Kafka):
        def flush(self, timeout_s: float = 30.0) -> None:
            raise NotDelivered("1 event is queued")

    kafka, spill = Gone(None), Spill(tmp_path, most_bytes=1 << 22)
    with Serving(kafka, spill=spill) as serving:
        serving.call("POST", "/v1/outcomes", [{"decision_id": f"d{i}", "slot": "s"} for i in range(2)])
        serving.journal.settled(Delivery(topic="t", partition=0, offset=1, tags=[kafka.tags[0]], error=None))
    taken = spill.take()
    assert taken is not None
    assert [event.decision_id for event in taken[1] if isinstance(event, Outcome)] == ["d1"]


def test_a_bug_in_deciding_is_an_answer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody foresaw gives 500 and words, no request waits for ever, and no room stays reserved."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("streams.filling._one_each", broken)
    with Serving(Kafka(snapshot(1))) as serving:
        status, _, answer = serving.call("POST", "/v1/decisions", ASK)
        assert (status, "bug" in answer["error"]) == (500, True)
        assert serving.journal._reserved == 0


def test_spilled_files_outlive_the_process_and_a_cut_line(tmp_path: Path) -> None:
    """A later process takes the files over; a last line that was cut by a crash is left out."""
    first = Spill(tmp_path, most_bytes=1 << 22)
    outcome = Outcome(decision_id="d", slot="s", outcome_id="o", ts=1)
    assert first.add(outcome)
    with first.path(1).open("ab") as file:
        file.write(b'{"o":{"decision_id":"d2","sl')
    taken = Spill(tmp_path, most_bytes=1 << 22).take()
    assert taken is not None
    assert taken[1] == [outcome]
    assert not Spill(tmp_path, most_bytes=10).add(outcome)


def test_a_line_that_was_written_in_part_spoils_no_other(tmp_path: Path) -> None:
    """A disk that is full takes half a line: the event is refused, and the next one that finds room is there."""
    events = [Outcome(decision_id=f"d{number}", slot="s", outcome_id="o", ts=1) for number in range(3)]
    spill = Spill(tmp_path, most_bytes=1 << 22)
    assert spill.add(events[0])
    size = spill.path(1).stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
    try:
        assert not spill.add(events[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert spill.bytes == spill.path(1).stat().st_size == size
    assert spill.add(events[2])
    taken = spill.take()
    assert taken is not None
    assert taken[1] == [events[0], events[2]]


def test_a_part_of_a_line_that_stays_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file cannot be cut either, another one follows, and what stays counts for the bound."""
    events = [Outcome(decision_id=f"d{number}", slot="s", outcome_id="o", ts=1) for number in range(2)]
    spill = Spill(tmp_path, most_bytes=1 << 22)

    def fails(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(os, "truncate", fails)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        assert not spill.add(events[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert spill.bytes == 10
    assert spill.add(events[1])
    found = []
    while (taken := spill.take()) is not None:
        found += taken[1]
        spill.done(taken[0])
    assert found == [events[1]]
    assert spill.bytes == 0


def test_what_more_processes_than_now_have_left_is_sent_by_the_first(tmp_path: Path) -> None:
    """Files of the numbers that there are no longer go to the folder of process 0, beside its own; those of others stay."""
    events = [Outcome(decision_id=f"d{number}", slot="s", outcome_id="o", ts=1) for number in range(4)]
    for number, event in enumerate(events):
        assert Spill(folder_of(tmp_path, number), most_bytes=1 << 22).add(event)
    assert take_over(tmp_path, workers=2) == 2
    assert take_over(tmp_path, workers=2) == 0
    spill = Spill(folder_of(tmp_path, 0), most_bytes=1 << 22)
    found = []
    while (taken := spill.take()) is not None:
        found += taken[1]
        spill.done(taken[0])
    assert found == [events[0], events[2], events[3]]
    assert len(files(tmp_path)) == 1
    assert take_over(tmp_path / "none", workers=1) == 0


def test_no_request_fails_and_none_sees_half_a_snapshot_while_they_are_swapped() -> None:
    """Two snapshots whose arms have different names are swapped all the time: each answer's arms are its version's."""
    odd, even = snapshot(1, arms="abc"), snapshot(2, arms="xyz")
    kafka = Kafka(odd)
    arms = {1: set("abc"), 2: set("xyz")}
    body = {"policy": "front", "slots": ["one", "two"], "context": [1.0, 0.5], "deadline_ms": 10_000}
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    with Serving(kafka) as serving, ThreadPoolExecutor(4) as pool:
        ended = threading.Event()
        swaps = 0

        def swap() -> None:
            nonlocal swaps
            while not ended.is_set() or swaps < 10_000:
                fresh = copy.copy(even if swaps % 2 else odd)
                alive.add(fresh)
                kafka.snapshots = {"front": fresh}
                swaps += 1
                if swaps % 25 == 0:
                    time.sleep(0.001)

        swapper = threading.Thread(target=swap)
        swapper.start()
        answers = list(pool.map(lambda _: serving.decide(body), range(400)))
        ended.set()
        swapper.join()
        gc.collect()
        assert len(alive) <= 2
    assert swaps >= 10_000
    assert {answer["snapshot"] for answer in answers} == {1, 2}
    for answer in answers:
        assert {slot["arm"] for slot in answer["slots"]} < arms[answer["snapshot"]]


def test_probes_and_policies_tell_what_is_there() -> None:
    """/readyz has the reason; /v1/policies the version and age of each snapshot."""
    with Serving(Kafka(snapshot(7))) as serving:
        assert serving.call("GET", "/readyz")[::2] == (200, {"status": "ready"})
        serving.well = (False, "no snapshot of front")
        assert serving.call("GET", "/readyz")[::2] == (503, {"status": 503, "error": "no snapshot of front"})
        (entry,) = serving.call("GET", "/v1/policies")[2]["policies"]
        assert (entry["policy"], entry["snapshot"], entry["age_s"], entry["arms"]) == ("front", 7, 1.0, 3)


def test_the_description_has_what_the_service_answers() -> None:
    """Each path and method is described, and nothing else is."""
    with Serving(Kafka(snapshot(1))) as serving:
        served = serving.call("GET", "/openapi.json")[2]
        routes = {path: {method.lower() for method in methods} for path, methods in serving.service.routes.items()}
    assert served == json.loads(json.dumps(description()))
    assert {path: set(methods) for path, methods in served["paths"].items()} == routes


def test_random_numbers_differ_between_requests() -> None:
    """Two hundred decisions without a key show more than one arm, and no id twice."""
    with Serving(Kafka(None)) as serving:
        answers = serving.decide([ASK] * 200)
    assert len({answer["decision_id"] for answer in answers}) == 200
    counts = np.unique([answer["slots"][0]["arm"] for answer in answers], return_counts=True)[1]
    assert len(counts) == 3
    assert counts.min() > 40


def test_requests_leave_nothing_that_only_the_garbage_collector_finds() -> None:
    """It looks twice a minute only: what waits for it is memory, and a pause."""
    late = ASK | {"slots": ["top", "side"], "deadline_ms": 1e-6}
    late.pop("slot")
    with Serving(Kafka(snapshot(3))) as serving:
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for body in (ASK, [ASK, ASK], late):
                serving.decide(body)
            gc.collect()
            found = {type(one).__name__ for one in gc.garbage}
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert not found & {"Job", "Made", "Filled", "Place", "_Collector", "_Unread", "Ask"}


def test_what_is_counted_is_told_as_prometheus_client_tells_it() -> None:
    """The same text as its own counters and histograms write, but for the times of their creation."""
    other = CollectorRegistry()
    requests = Counter("clickloop_serve_requests", "Requests by path and status.", ["path", "status"], registry=other)
    by = Counter(
        "clickloop_serve_decisions",
        "Decisions by what made them: policy, or the fallback for a reason.",
        ["by"],
        registry=other,
    )
    words = "Time from a request's head to its answer, of decisions and outcomes."
    seconds = Histogram("clickloop_serve_request_seconds", words, buckets=SECONDS, registry=other)
    tally = Tally()
    by.labels(by="policy").inc(0)
    for number, took in enumerate((0.0004, 0.0005, 0.003, 0.7, 60.0)):
        requests.labels(path="/livez", status="200").inc()
        tally.answered("/livez", 200)
        by.labels(by="policy").inc(number)
        tally.decided("policy", number)
        seconds.observe(took)
        tally.took(took)
    mine = CollectorRegistry()
    mine.register(tally)
    told = generate_latest(mine).decode()
    wanted = [line for line in generate_latest(other).decode().splitlines() if "_created" not in line]
    assert told.splitlines() == wanted
