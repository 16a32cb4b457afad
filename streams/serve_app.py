"""The service: a request in, an answer out, whatever comes. No sockets and no signals here (streams/serve_worker.py)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple, get_args

import msgspec
import numpy as np
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from streams import logs
from streams.attribution_rules import attribution_rules
from streams.conversions import Conversion
from streams.events import Outcome
from streams.outcomes import TAKING_BACK, back_reason, default_id
from streams.serve_conversions import conversion
from streams.serve_desk import Desk, Job, Made, Reason
from streams.serve_log import NoRoom
from streams.serve_messages import Ask, BadRequest, ConversionReport, asks, reports
from streams.serve_once import Once, drawn
from streams.serve_openapi import description
from streams.serve_policies import policies
from streams.serve_random import Randomness
from streams.serve_reports import place_of
from streams.validation import AHEAD_MS

if TYPE_CHECKING:
    from streams.metrics_server import Probe
    from streams.serve_auth import Gate, Scope
    from streams.serve_log import Journal
    from streams.serve_metrics import ServeMetrics
    from streams.serve_policies import Published
    from streams.settings import Settings
    from streams.texts import Texts

BODY_S = 10.0
"""Seconds that a client may take to send a body."""

RETRY_AFTER_S = "1"
_JSON = "application/json"
_ENCODE = msgspec.json.Encoder().encode
_log = logs.get(__name__)


class Call(NamedTuple):
    """One request: who asks, with which key, and since when (monotonic seconds)."""

    body: bytes
    who: str
    key: str | None
    since: float


class Route(NamedTuple):
    """What answers a method and path, and the scope that it needs; None is open to all."""

    handler: Callable[[Call], Awaitable[tuple[int, bytes]]]
    scope: Scope | None


class Service:
    """Answers requests.

    Args:
        settings: limits, policies, deadlines.
        source: gives snapshots, usually a `PolicyClient`.
        journal: where impressions and outcomes go.
        gate: who may do what.
        metrics: what is counted.
        ready: whether all is well, and in words why or why not.
        clock: seconds since the epoch.
        rng: the randomness of decisions without an idempotency key.
        texts: makes features of texts.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        source: Published,
        journal: Journal,
        gate: Gate,
        metrics: ServeMetrics,
        ready: Probe,
        clock: Callable[[], float] = time.time,
        rng: np.random.Generator | None = None,
        texts: Texts | None = None,
    ) -> None:
        self._settings = settings
        self._source = source
        self._journal = journal
        self._gate = gate
        self._metrics = metrics
        self._ready = ready
        self._clock = clock
        self._random = Randomness(np.random.default_rng() if rng is None else rng)
        self._desk = Desk(settings, source, clock=clock, monotonic=time.monotonic, texts=texts)
        kept_s, most = settings.serve_idempotency_s, settings.serve_idempotency_keys
        self._once = Once(kept_s=kept_s, most=most, clock=time.monotonic)
        self._kinds = {kind for policy in settings.policies.values() for kind in policy.kinds}
        self._attributed = {name: rule.kinds for name, rule in attribution_rules(settings).items()}
        self._description = _ENCODE(description())
        self._tally = metrics.tally
        for reason in get_args(Reason):
            self._tally.decided(reason, 0)
        self.requests = 0  # being answered now
        self.routes: dict[str, dict[str, Route]] = {
            "/v1/decisions": {"POST": Route(self._decisions, "decide")},
            "/v1/outcomes": {"POST": Route(self._outcomes, "outcomes")},
            "/v1/policies": {"GET": Route(self._policies, "read")},
            "/openapi.json": {"GET": Route(self._openapi, None)},
            "/livez": {"GET": Route(self._livez, None)},
            "/readyz": {"GET": Route(self._readyz, None)},
        }

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """The answer to one request; never an exception but cancellation."""
        since = time.monotonic()
        self.requests += 1
        try:
            status, body = await self._answer(request, since)
        except BadRequest as error:
            status, body = error.status, problem(error.status, str(error))
        except NoRoom as error:
            self._metrics.events.labels(what="refused").inc()
            status, body = 503, problem(503, str(error))
        except Exception:  # noqa: BLE001 - the caller gets an answer, the log the reason
            _log.exception("a request failed; this is a bug", path=request.path)
            status, body = 500, problem(500, "this is a bug; the log of the service has the reason")
        finally:
            self.requests -= 1
        self._tally.answered(request.path if request.path in self.routes else "other", status)
        if request.method == "POST":
            self._tally.took(time.monotonic() - since)
        allow = ", ".join(self.routes[request.path]) if status == 405 else None
        return _response(status, body, allow)

    async def _answer(self, request: web.BaseRequest, since: float) -> tuple[int, bytes]:
        methods = self.routes.get(request.path)
        if methods is None:
            raise BadRequest(f"there is no {request.path}; here are {', '.join(self.routes)}", status=404)
        route = methods.get(request.method)
        if route is None:
            raise BadRequest(f"{request.path} takes {', '.join(methods)}, not {request.method}", status=405)
        if route.scope is None:
            return await route.handler(Call(b"", "", None, since))
        who = self._gate.check(request.headers.get("Authorization"), route.scope)
        if self.requests > self._settings.serve_max_requests:
            most = self._settings.serve_max_requests
            raise BadRequest(f"{most} requests are being answered, as many as may; try again later", status=429)
        body = await self._body(request) if request.method == "POST" else b""
        key = request.headers.get("Idempotency-Key")
        return await route.handler(Call(body, who, None if key is None else _header_key(key), since))

    async def _body(self, request: web.BaseRequest) -> bytes:
        most = self._settings.serve_max_body_bytes
        if request.content_type != _JSON:
            raise BadRequest(f"Content-Type is {request.content_type!r}; allowed: {_JSON}", status=415)
        if request.content_length is not None and request.content_length > most:
            raise BadRequest(f"the body has {request.content_length} bytes; allowed: {most}; send less", status=413)
        try:
            if request.content.is_eof():
                return await request.read()
            async with asyncio.timeout(BODY_S):
                return await request.read()
        except web.HTTPRequestEntityTooLarge as error:
            raise BadRequest(f"the body has more than the {most} bytes allowed; send less", status=413) from error
        except TimeoutError as error:
            raise BadRequest(f"the body did not come within {BODY_S:g} s; send it at once", status=408) from error
        except (HttpProcessingError, web.RequestPayloadError, ConnectionError) as error:
            raise BadRequest(f"the body cannot be read: {error}", status=400) from error

    # -- decisions

    async def _decisions(self, call: Call) -> tuple[int, bytes]:
        found, many = asks(call.body)
        keys = [one.idempotency_key for one in found]
        if many and any(key is not None for key in keys):
            raise BadRequest("idempotency_key in a list: give one key for the whole list, as header Idempotency-Key")
        if call.key is not None and keys[0] is not None and keys[0] != call.key:
            raise BadRequest(
                f"idempotency_key is {keys[0]!r} and the header Idempotency-Key {call.key!r}; give one of them"
            )
        key = call.key if call.key is not None else keys[0]
        if key is None:
            return 200, await self._decide(found, call.since, None, many=many)
        scoped = f"{call.who}\n{key}"
        body, repeated = await self._once.answer(
            scoped, call.body, lambda: self._decide(found, call.since, scoped, many=many)
        )
        if repeated:
            self._metrics.repeated.inc()
        return 200, body

    async def _decide(self, found: list[Ask], since: float, key: str | None, *, many: bool) -> bytes:
        logged = self._settings.serve_log_impressions
        made_all: asyncio.Future[list[Made]] = asyncio.get_running_loop().create_future()
        jobs = self._jobs(found, since, key, _Collector(len(found), made_all))
        room = 0 if logged == "none" else sum(len(job.places) for job in jobs)
        self._journal.reserve(room)
        try:
            self._desk.add(jobs)
            made = await made_all
        except BaseException:
            self._journal.release(room)
            raise
        codec = self._settings.serve_codec
        pages = [] if logged == "none" else [one.impressions(codec) for one in made]
        self._journal.release(room - sum(map(len, pages)))
        if logged == "before":
            self._journal.write_pages(pages)
        elif logged == "after":  # the loop's next turn: by then the answer is with the socket
            asyncio.get_running_loop().call_soon(self._journal.write_pages, pages)
        for one in made:
            self._tally.decided(one.reason or "policy")
        answers = [one.answer(context=logged == "none") for one in made]
        return _ENCODE(answers if many else answers[0])

    def _jobs(self, found: list[Ask], since: float, key: str | None, collector: _Collector) -> list[Job]:
        jobs = []
        for number, ask in enumerate(found):
            try:
                new_id, rng = (self._random.name(), self._random.rng) if key is None else drawn(f"{key}\n{number}")
                deadline_ms = self._settings.serve_deadline_ms if ask.deadline_ms is None else ask.deadline_ms
                job = self._desk.job(
                    ask,
                    ask.places(),
                    decision_id=new_id if ask.decision_id is None else ask.decision_id,
                    rng=rng,
                    until=since + deadline_ms / 1000,
                    done=collector.place(number),
                )
            except BadRequest as error:
                raise BadRequest(f"decision {number}: {error}" if len(found) > 1 else str(error)) from error
            jobs.append(job)
        return jobs

    # -- outcomes

    async def _outcomes(self, call: Call) -> tuple[int, bytes]:
        now_ms = int(self._clock() * 1000)
        events: list[Outcome | Conversion] = []
        for number, report in enumerate(reports(call.body)):
            if isinstance(report, ConversionReport):
                events.append(conversion(report, self._attributed, number=number, now_ms=now_ms))
                continue
            if self._kinds and report.kind not in self._kinds and report.kind not in TAKING_BACK:
                kinds = ", ".join(sorted(self._kinds))
                raise BadRequest(
                    f"outcome {number}: kind is {report.kind!r}, which no policy lists in its outcomes; listed: {kinds}"
                )
            if report.ts is not None and report.ts > now_ms + AHEAD_MS:
                raise BadRequest(
                    f"outcome {number}: ts is {report.ts}; allowed: ms UTC, at most 5 minutes from now ({now_ms})"
                )
            outcome_id = default_id(report.kind, report.of) if report.outcome_id is None else report.outcome_id
            wrong = back_reason(report.kind, outcome_id, report.of, report.value)
            if wrong is not None:
                raise BadRequest(f"outcome {number}: {wrong}")
            ts = now_ms if report.ts is None else report.ts
            decision_id, slot = place_of(report, self._desk.tokens, number=number, ts=ts)
            events.append(
                Outcome(
                    decision_id=decision_id,
                    slot=slot,
                    outcome_id=outcome_id,
                    kind=report.kind,
                    value=report.value,
                    ts=ts,
                    cost=report.cost,
                    of=report.of,
                    token=report.token,
                )
            )
        self._journal.reserve(len(events))
        self._journal.write(events)
        return 202, _ENCODE({"accepted": len(events)})

    # -- what is there

    async def _policies(self, _: Call) -> tuple[int, bytes]:
        return 200, _ENCODE({"policies": policies(self._settings, self._source)})

    async def _openapi(self, _: Call) -> tuple[int, bytes]:
        return 200, self._description

    async def _livez(self, _: Call) -> tuple[int, bytes]:
        return 200, _ENCODE({"status": "alive"})

    async def _readyz(self, _: Call) -> tuple[int, bytes]:
        well, words = self._ready()
        return (200, _ENCODE({"status": words})) if well else (503, problem(503, words))


class _Collector:
    """Gathers what becomes of the jobs of one request, in their order; then lets go of it, as the jobs that are told of hold it too."""

    def __init__(self, count: int, done: asyncio.Future[list[Made]]) -> None:
        self._made: list[Made | None] = [None] * count
        self._missing = count
        self._done: asyncio.Future[list[Made]] | None = done

    def place(self, number: int) -> Callable[[Made | Exception], None]:
        def take(made: Made | Exception) -> None:
            done = self._done
            if done is None or done.done():  # another decision of the list was refused, or nobody waits any more
                return
            if isinstance(made, Exception):
                self._made, self._done = [], None
                done.set_exception(made)
                return
            self._made[number] = made
            self._missing -= 1
            if not self._missing:
                told = [one for one in self._made if one is not None]
                self._made, self._done = [], None
                done.set_result(told)

        return take


def problem(status: int, text: str) -> bytes:
    """The body of every answer that is not a success.

    >>> problem(404, "there is no /x")
    b'{"status":404,"error":"there is no /x"}'
    """
    return _ENCODE({"status": status, "error": text})


def _header_key(key: str) -> str:
    if not 1 <= len(key) <= 256 or not key.isprintable():
        raise BadRequest(f"Idempotency-Key has {len(key)} characters; allowed: 1 to 256, printable", status=400)
    return key


def _response(status: int, body: bytes, allow: str | None) -> web.Response:
    response = web.Response(status=status, body=body, content_type=_JSON)
    if status in (429, 503):
        response.headers["Retry-After"] = RETRY_AFTER_S
    elif status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    elif allow is not None:
        response.headers["Allow"] = allow
    return response
