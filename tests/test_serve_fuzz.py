"""Requests that nobody would write, made from the OpenAPI description: 4xx with words, never 500, and as described."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.serving import Kafka, Serving
from tests.test_client import snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed (extra: dev)")


@pytest.fixture(scope="module")
def serving() -> Iterator[Serving]:
    with Serving(Kafka(snapshot(1))) as running:
        yield running


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("/v1/decisions", "positive"),
        ("/v1/decisions", "negative"),
        ("/v1/outcomes", "positive"),
        ("/v1/outcomes", "negative"),
        ("/v1/policies", "positive"),
        ("/readyz", "positive"),
    ],
)
def test_whatever_comes_the_answer_is_as_described(serving: Serving, path: str, mode: str) -> None:
    """Status, content type and body of every answer are in the description, and no status is 500 or above."""
    from schemathesis.generation import GenerationMode

    url = f"http://127.0.0.1:{serving.port}"
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operation = schema[path]["POST" if path in ("/v1/decisions", "/v1/outcomes") else "GET"]
    asked = GenerationMode.POSITIVE if mode == "positive" else GenerationMode.NEGATIVE
    checks = [
        schemathesis.checks.not_a_server_error,
        schemathesis.specs.openapi.checks.status_code_conformance,
        schemathesis.specs.openapi.checks.content_type_conformance,
        schemathesis.specs.openapi.checks.response_schema_conformance,
    ]

    @given(case=operation.as_strategy(generation_mode=asked))
    @settings(max_examples=60, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    def every(case: Any) -> None:
        response = case.call(base_url=url)
        case.validate_response(response, checks=checks)
        assert response.status_code != 422 or response.json()["error"]

    every()
    assert serving.call("GET", "/livez")[0] == 200
