"""The OpenAPI 3.1 description of the service. Bodies are described by the types that decode and encode them."""

from __future__ import annotations

from typing import Any

import msgspec

from streams.serve_messages import MOST_AT_ONCE, Answer, Ask, ConversionReport, Report

VERSION = "1"

_MEANINGS = {
    "400": "The body is not JSON, or could not be read.",
    "401": "No bearer token, or one that is not known.",
    "403": "The token lacks the scope.",
    "408": "The body did not come in time.",
    "413": "The body is too large.",
    "415": "The body is not application/json.",
    "422": "The body is JSON, and not what is allowed; the text says what was wrong, the value, what is allowed.",
    "429": "As many requests as may are being answered; try again after Retry-After seconds.",
    "503": "Not now; nothing was taken. Try again after Retry-After seconds.",
}
_PROBLEM = {
    "type": "object",
    "required": ["status", "error"],
    "properties": {"status": {"type": "integer"}, "error": {"type": "string"}},
    "additionalProperties": False,
}
_POLICY = {
    "type": "object",
    "required": ["policy", "snapshot", "age_s", "arms", "model", "explorer", "dimension", "features"],
    "properties": {
        "policy": {"type": "string"},
        "snapshot": {"type": ["integer", "null"]},
        "age_s": {"type": ["number", "null"]},
        "arms": {"type": "integer"},
        "model": {"type": "string"},
        "explorer": {"type": "string"},
        "dimension": {"type": "integer"},
        "features": {"type": ["array", "null"], "items": {"type": "string"}},
    },
    "additionalProperties": False,
}
_STATUS = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}
_ACCEPTED = {"type": "object", "required": ["accepted"], "properties": {"accepted": {"type": "integer"}}}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[A-Za-z0-9._-]+$"},
    "description": "The same key gives the same answer for a time; it may be the field idempotency_key instead.",
}


def description() -> dict[str, Any]:
    """The whole description, as it is served.

    >>> sorted(description()["paths"])
    ['/livez', '/openapi.json', '/readyz', '/v1/decisions', '/v1/outcomes', '/v1/policies']
    """
    _, schemas = msgspec.json.schema_components(
        [Ask, Report, ConversionReport, Answer], ref_template="#/components/schemas/{name}"
    )
    schemas["Report"]["anyOf"] = [{"required": ["decision_id", "slot"]}, {"required": ["token"]}]
    decisions = _write("Decide which arms to show.", _one_or_many("Ask"), "200", _one_or_many("Answer", answer=True))
    decisions["parameters"] = [_KEY]
    return {
        "openapi": "3.1.0",
        "info": {"title": "clickloop", "version": VERSION, "description": "Decisions of contextual bandits."},
        "paths": {
            "/v1/decisions": {"post": decisions},
            "/v1/outcomes": {
                "post": _write("Report what followed.", _one_or_many("Report", "ConversionReport"), "202", _ACCEPTED)
            },
            "/v1/policies": {"get": _policies()},
            "/openapi.json": {"get": _read("This description.", {"type": "object"})},
            "/livez": {"get": _read("Whether the process answers.", _STATUS)},
            "/readyz": {"get": _read("Whether there are snapshots and brokers.", _STATUS, "503")},
        },
        "components": {
            "schemas": schemas | {"Problem": _PROBLEM, "Policy": _POLICY},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _one_or_many(*names: str, answer: bool = False) -> dict[str, Any]:
    kinds = [{"$ref": f"#/components/schemas/{name}"} for name in names]
    one: dict[str, Any] = kinds[0] if len(kinds) == 1 else {"oneOf": kinds}
    many: dict[str, Any] = {"type": "array", "items": one, "minItems": 1, "maxItems": MOST_AT_ONCE}
    return {"anyOf" if answer else "oneOf": [one, many]}


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _problems(*statuses: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {status: {"description": _MEANINGS[status], "content": _body(schema)} for status in statuses}


def _write(summary: str, request: dict[str, Any], status: str, answer: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": summary,
        "security": [{"token": []}, {}],
        "requestBody": {"required": True, "content": _body(request)},
        "responses": {status: {"description": summary, "content": _body(answer)}} | _problems(*_MEANINGS),
    }


def _read(summary: str, answer: dict[str, Any], *problems: str) -> dict[str, Any]:
    found = {"200": {"description": summary, "content": _body(answer)}}
    return {"summary": summary, "responses": found | _problems(*problems)}


def _policies() -> dict[str, Any]:
    listed = {"type": "array", "items": {"$ref": "#/components/schemas/Policy"}}
    answer = {"type": "object", "required": ["policies"], "properties": {"policies": listed}}
    return _read("The policies and their snapshots.", answer, "401", "429") | {"security": [{"token": []}, {}]}
