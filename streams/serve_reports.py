"""Which decision and slot a reported outcome is of: named, or told by its token, which is checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.serve_messages import BadRequest
from streams.tokens import TokenError

if TYPE_CHECKING:
    from streams.serve_messages import Report
    from streams.token_issue import TokenDesk


def place_of(report: Report, tokens: TokenDesk, *, number: int, ts: int) -> tuple[str, str]:
    """Decision id and slot of the outcome `number` of a request, of time `ts` in ms.

    Raises:
        BadRequest: it names neither, its token cannot be used, or is of another decision than it names.
    """
    named = {name: value for name in ("decision_id", "slot") if isinstance(value := getattr(report, name), str)}
    if report.token is None:
        missing = [name for name in ("decision_id", "slot") if name not in named]
        if missing:
            raise BadRequest(
                f"outcome {number}: `{'`, `'.join(missing)}` is missing; give decision_id and slot, or the token"
            )
        return named["decision_id"], named["slot"]
    try:
        found = tokens.opened(report.token, ts=ts)
    except TokenError as error:
        raise BadRequest(f"outcome {number}: token: {error}") from error
    told = {"decision_id": found.decision_id, "slot": found.slot}
    for name, value in named.items():
        if value != told[name]:
            raise BadRequest(
                f"outcome {number}: {name} is {value!r} and the token is of {told[name]!r}; send the token of that decision, or leave {name} out"
            )
    return told["decision_id"], told["slot"]
