"""Who may write: bearer tokens, each with its scopes.

`serve_tokens` holds one entry a line (or separated by ``;``): a name for the log, the scopes, the token::

    adserver decide,outcomes Zm9vYmFyYmF6cXV4
    tracker  outcomes        c29tZXRoaW5nZWxzZQ

The tokens themselves are not kept: their SHA-256 digests are, all of them are compared with what comes, each in constant
time, so that neither the time taken nor a dump of an error shows one.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, get_args

from streams.serve_messages import BadRequest
from streams.settings_errors import SettingsError

Scope = Literal["decide", "outcomes", "read"]
SCOPES: tuple[str, ...] = get_args(Scope)
SHORTEST = 16
"""Characters that a token has at least."""


@dataclass(frozen=True, slots=True)
class Holder:
    """One token: who has it, what it allows (reading is allowed with any), and the digest that it is known by."""

    name: str
    scopes: frozenset[str]
    digest: bytes


class Gate:
    """Lets requests pass, or says why not.

    Args:
        tokens: as the setting `serve_tokens` has them; None lets everything pass.

    Raises:
        SettingsError: an entry is not NAME SCOPES TOKEN; the text holds no token.

    >>> gate = Gate("shop decide 0123456789abcdef")
    >>> gate.check("Bearer 0123456789abcdef", "decide")
    'shop'
    >>> gate.check("Bearer 0123456789abcdef", "outcomes")
    Traceback (most recent call last):
    streams.serve_messages.BadRequest: the token of 'shop' allows decide; this needs the scope 'outcomes'
    """

    def __init__(self, tokens: str | None) -> None:
        self._holders = None if tokens is None else _read(tokens)

    @property
    def open(self) -> bool:
        """Whether everybody may do everything."""
        return self._holders is None

    def check(self, authorization: str | None, scope: Scope) -> str:
        """The name of who asks, "" where all may. Raises BadRequest with status 401 or 403."""
        if self._holders is None:
            return ""
        kind, _, token = (authorization or "").partition(" ")
        if kind.lower() != "bearer" or not token.strip():
            raise BadRequest("this needs the header Authorization: Bearer TOKEN", status=401)
        digest = sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        found: Holder | None = None
        for holder in self._holders:
            if hmac.compare_digest(holder.digest, digest):
                found = holder
        if found is None:
            raise BadRequest("the bearer token is not one that is allowed; see the setting serve_tokens", status=401)
        if scope not in found.scopes:
            allowed = ", ".join(sorted(found.scopes - {"read"})) or "reading"
            raise BadRequest(
                f"the token of {found.name!r} allows {allowed}; this needs the scope {scope!r}", status=403
            )
        return found.name


def _read(tokens: str) -> list[Holder]:
    holders: list[Holder] = []
    for number, entry in enumerate(tokens.replace(";", "\n").splitlines(), 1):
        words = entry.split()
        if not words or words[0].startswith("#"):
            continue
        scopes = words[1].split(",") if len(words) == 3 else []
        if len(words) != 3 or not set(scopes) <= set(SCOPES) or len(words[2]) < SHORTEST:
            raise SettingsError(
                f"serve_tokens, entry {number}: must be NAME SCOPES TOKEN with scopes of {', '.join(SCOPES)} separated by "
                f"commas and a token of at least {SHORTEST} characters, for example: adserver decide,outcomes TOKEN"
            )
        holders.append(Holder(words[0], frozenset({*scopes, "read"}), sha256(words[2].encode()).digest()))
    if not holders:
        raise SettingsError("serve_tokens holds no entry; give one line NAME SCOPES TOKEN for each, or leave it out")
    return holders
