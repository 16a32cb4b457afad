"""What goes over HTTP, with the names that the events have: requests, their limits, and answers.

A decision asked for, and its answer::

    {"policy":"front","slots":["top","side"],"context":[0.5,-1.0],"candidates":["a","b","c"],"unit":"u1"}
    {"decision_id":"d1","policy":"front","snapshot":17,"ts":1700000000000,"reason":null,
     "slots":[{"slot":"top","arm":"b","propensity":0.25,"propensity_kind":"exact"}, ...]}

Where the policy has decision tokens, each slot has its ``token``; an outcome with it needs neither decision_id nor slot.

Evolution as in `streams/events.py`, but a request with a field that is not known is refused: it is a misspelling.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from streams.events import LARGEST

LONGEST_NAME = 256
MOST_SLOTS = 64
MOST_CANDIDATES = 10_000
MOST_NUMBERS = 10_000
MOST_AT_ONCE = 1_000
LONGEST_DEADLINE_MS = 60_000
LONGEST_TOKEN = 65_536
MOST_KEPT, LONGEST_KEPT = 64, 32_768
"""Lists of candidates that are kept, and bytes of one: 10 MB at most."""

Name = Annotated[str, Meta(min_length=1, max_length=LONGEST_NAME)]
Number = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]
Time = Annotated[int, Meta(ge=0, le=2**53)]
Slots = Annotated[list[Name], Meta(min_length=1, max_length=MOST_SLOTS)]
Candidates = Annotated[tuple[Name, ...], Meta(min_length=1, max_length=MOST_CANDIDATES)]
Key = Annotated[str, Meta(min_length=1, max_length=LONGEST_NAME)]


class BadRequest(ValueError):  # noqa: N818 - reads as what it says
    """A request that cannot be answered; the text says what was wrong, the value, what is allowed.

    Attributes:
        status: the HTTP status to answer with.
    """

    retriable = False

    def __init__(self, text: str, *, status: int = 422) -> None:
        super().__init__(text)
        self.status = status


class Ask(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """One decision that is asked for: arms for a slot, or for several of one page, no arm twice.

    `context` is of the request, `contexts` has one for each slot; `request` is what eligibility rules compare.
    """

    policy: Name
    slot: Name | UnsetType = UNSET
    slots: Slots | UnsetType = UNSET
    context: Annotated[list[Number], Meta(max_length=MOST_NUMBERS)] | UnsetType = UNSET
    contexts: (
        Annotated[
            list[Annotated[list[Number], Meta(max_length=MOST_NUMBERS)]], Meta(min_length=1, max_length=MOST_SLOTS)
        ]
        | UnsetType
    ) = UNSET
    features: dict[str, str | Number | bool | None] | UnsetType = UNSET
    request: dict[str, str | Number | list[str | Number] | None] | UnsetType = UNSET
    candidates: Candidates | None = None
    unit: Name | None = None
    decision_id: Name | None = None
    deadline_ms: Annotated[float, Meta(gt=0, le=LONGEST_DEADLINE_MS)] | None = None
    idempotency_key: Key | None = None

    def places(self) -> tuple[str, ...]:
        """The slots asked for. Raises BadRequest for none, both fields, or one twice."""
        if (self.slot is UNSET) == (self.slots is UNSET):
            raise BadRequest("give `slot` (a name) or `slots` (a list of names), and not both")
        if isinstance(self.slot, str):
            return (self.slot,)
        slots = tuple(self.slots) if isinstance(self.slots, list) else ()
        if len(set(slots)) != len(slots):
            raise BadRequest(f"slots are {list(slots)}; each slot may be given once")
        return slots


class Report(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """An outcome that is reported. Without `outcome_id` one of each kind counts; without `ts` it is now.

    `cost` is what it costs, without it what the settings say.
    `of` is the outcome_id of the outcome that a `retraction` or a `refund` takes back.
    `decision_id` and `slot` may be left out beside a `token`, which tells them.
    """

    decision_id: Name | UnsetType = UNSET
    slot: Name | UnsetType = UNSET
    token: Annotated[str, Meta(min_length=1, max_length=LONGEST_TOKEN)] | None = None
    outcome_id: Name | None = None
    kind: Name = "click"
    value: Number = 1.0
    ts: Time | None = None
    of: Name | None = None
    cost: Annotated[float, Meta(ge=0, le=LARGEST)] | None = None


class ConversionReport(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """What a unit did, reported as an outcome that names no decision; policies that attribute its kind find one. Without `ts` it is now."""

    unit: Name
    conversion_id: Name
    kind: Name
    value: Number = 1.0
    ts: Time | None = None
    policy: Name | None = None


class Shown(Struct, frozen=True, kw_only=True, gc=False):
    """The arm of a slot. All are null where no candidate was left for it; `group` is there where decisions are shared out."""

    slot: str
    arm: str | None
    propensity: float | None
    propensity_kind: str | None
    token: str | UnsetType = UNSET
    group: str | UnsetType = UNSET
    context: list[float] | UnsetType = UNSET


class Answer(Struct, frozen=True, kw_only=True, gc=False):
    """One decision. `reason` says why the fallback decided ("no snapshot", "stale", "deadline", "logging"), null if it did not.

    `context` is there only where the service does not log impressions: who logs them needs what was decided from. Each slot
    has its own where contexts differ between arms. `policy` may be another than was asked for: one that has taken over from it,
    or learns from this decision. `missing`: texts that have no vector yet, left out if there are none.
    """

    decision_id: str
    policy: str
    snapshot: int | None
    ts: int
    reason: str | None
    slots: list[Shown]
    unit: str | UnsetType = UNSET
    context: list[float] | UnsetType = UNSET
    contexts: list[list[float]] | UnsetType = UNSET
    missing: list[str] | UnsetType = UNSET


class _Unread(Ask, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """An `Ask` whose candidates were not read yet."""

    candidates: msgspec.Raw = msgspec.Raw(b"null")  # type: ignore[assignment]


class CandidateLists:
    """Lists of candidates by their JSON, so that one that is sent again is not read again. For one thread.

    >>> lists = CandidateLists()
    >>> lists.read(msgspec.Raw(b'["a","b"]')), lists.read(msgspec.Raw(b'["a","b"]')) is lists.read(msgspec.Raw(b'["a","b"]'))
    (('a', 'b'), True)
    """

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[str, ...] | None] = {}
        self._decoder: msgspec.json.Decoder[tuple[str, ...] | None] = msgspec.json.Decoder(Candidates | None)

    def read(self, raw: msgspec.Raw) -> tuple[str, ...] | None:
        """The list. Raises msgspec.MsgspecError."""
        key = bytes(raw)
        if key in self._known:
            return self._known[key]
        found = self._decoder.decode(key)
        if len(key) <= LONGEST_KEPT:
            if len(self._known) == MOST_KEPT:
                self._known.clear()
            self._known[key] = found
        return found


_ASKS: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Ask)
_UNREAD: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_Unread)
_LISTS = CandidateLists()
_MANY_ASKS: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
    Annotated[list[Ask], Meta(min_length=1, max_length=MOST_AT_ONCE)]
)
_REPORTS: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Report)
_MANY_REPORTS: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
    Annotated[list[Report], Meta(min_length=1, max_length=MOST_AT_ONCE)]
)
_CONVERSIONS: msgspec.json.Decoder[Any] = msgspec.json.Decoder(ConversionReport)
_NAMES: msgspec.json.Decoder[Any] = msgspec.json.Decoder(dict[str, msgspec.Raw])
_MANY_RAW: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
    Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=MOST_AT_ONCE)]
)
_PLACE = re.compile(r"`(\$[^`]*)`")


def asks(body: bytes) -> tuple[list[Ask], bool]:
    """The decisions asked for, and whether they came as a list. Raises BadRequest.

    >>> found, many = asks(b'{"policy": "front", "slot": "top", "context": [1.0]}')
    >>> found[0].places(), many
    (('top',), False)
    >>> asks(b'{"policy": "front", "slot": 3}')
    Traceback (most recent call last):
    streams.serve_messages.BadRequest: Expected `str`, got `int` - at `$.slot`: the value there is 3; ...
    """
    if _is_list(body):
        return _decoded(_MANY_ASKS, body), True
    try:
        one = _UNREAD.decode(body)
        msgspec.structs.force_setattr(one, "candidates", _LISTS.read(one.candidates))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # read as a whole, the complaint names the place
        one = _decoded(_ASKS, body)
    return [one], False


def reports(body: bytes) -> list[Report | ConversionReport]:
    """The outcomes reported, one or many; those with a unit and no decision are conversions. Raises BadRequest.

    >>> reports(b'{"decision_id": "d1", "slot": "top"}')[0].kind
    'click'
    >>> reports(b'{"unit": "u1", "conversion_id": "c1", "kind": "purchase"}')[0].unit
    'u1'
    """
    many = _is_list(body)
    if b'"unit"' in body:
        return _mixed(body, many=many)
    found = _decoded(_MANY_REPORTS if many else _REPORTS, body)
    return list(found) if many else [found]


def _mixed(body: bytes, *, many: bool) -> list[Report | ConversionReport]:
    found: list[Report | ConversionReport] = []
    raw = _decoded(_MANY_RAW, body) if many else [body]
    for number, one in enumerate(raw):
        try:
            names = _decoded(_NAMES, bytes(one))
            decoder = _CONVERSIONS if "unit" in names and "decision_id" not in names else _REPORTS
            found.append(_decoded(decoder, bytes(one)))
        except BadRequest as error:
            raise BadRequest(f"outcome {number}: {error}" if many else str(error), status=error.status) from error
    return found


def _is_list(body: bytes) -> bool:
    return body.lstrip(b" \t\r\n")[:1] == b"["


def _decoded(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise BadRequest(f"{error}{_shown(body, str(error))}; GET /openapi.json describes what is allowed") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}; send one object, or a list of them", status=400) from error


def _shown(body: bytes, text: str) -> str:
    """The value that a complaint is about, from the place that it names."""
    place = _PLACE.search(text)
    if place is None:
        return ""
    try:
        value = msgspec.json.decode(body)
        for part in re.findall(r"\[(\d+)\]|\.([^.\[]+)", place[1]):
            value = value[int(part[0])] if part[0] else value[part[1]]
        short = repr(value)
    except (LookupError, TypeError, ValueError, RecursionError):  # it may be no JSON after that place
        return ""
    return f": the value there is {short if len(short) <= 80 else short[:77] + '...'}"
