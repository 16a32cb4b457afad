"""Conversions that come over HTTP: refused where no attributor could use them."""

from __future__ import annotations

from collections.abc import Mapping

from streams.conversions import Conversion
from streams.serve_messages import BadRequest, ConversionReport
from streams.validation import AHEAD_MS


def conversion(
    report: ConversionReport, kinds: Mapping[str, frozenset[str]], *, number: int, now_ms: int
) -> Conversion:
    """The event of what was reported; ``kinds``: what each policy attributes. Raises BadRequest.

    >>> said = ConversionReport(unit="u1", conversion_id="c1", kind="purchase")
    >>> conversion(said, {"front": frozenset({"purchase"})}, number=0, now_ms=7).ts
    7
    >>> conversion(said, {}, number=0, now_ms=7)
    Traceback (most recent call last):
    streams.serve_messages.BadRequest: outcome 0: it has a unit and no decision_id, and no policy attributes conversions; ...
    """
    if not kinds:
        raise BadRequest(
            f"outcome {number}: it has a unit and no decision_id, and no policy attributes conversions; give decision_id and slot, "
            "or set attribution for a policy"
        )
    if report.policy is not None and report.policy not in kinds:
        raise BadRequest(
            f"outcome {number}: policy is {report.policy!r}, which attributes no conversions; those that do: {', '.join(sorted(kinds))}"
        )
    allowed = frozenset[str]().union(*kinds.values()) if report.policy is None else kinds[report.policy]
    if report.kind not in allowed:
        raise BadRequest(
            f"outcome {number}: kind is {report.kind!r}, which is not attributed; allowed: {', '.join(sorted(allowed))}"
        )
    if report.ts is not None and report.ts > now_ms + AHEAD_MS:
        raise BadRequest(f"outcome {number}: ts is {report.ts}; allowed: ms UTC, at most 5 minutes from now ({now_ms})")
    return Conversion(
        unit=report.unit,
        conversion_id=report.conversion_id,
        kind=report.kind,
        value=report.value,
        ts=now_ms if report.ts is None else report.ts,
        policy=report.policy,
    )
