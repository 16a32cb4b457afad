"""Decision tokens: a decision, signed, so that who reports an outcome can bring its impression along.

A token is URL-safe base64 without padding, of these bytes (numbers little-endian):

    1   version, 0x02
    1   key id
    6   ts, ms UTC
    8   propensity, float64
    4   snapshot that it was decided from, int32; -1 for none
    1   flags: bit 0, the propensity is an estimate
    1+n decision id: its length and UTF-8; 0xFF and 16 bytes for an id of 32 lower-case hexadecimal digits
    1+n policy, likewise by length
    1+n slot
    1+n arm
    2   d
    2d  context, float16
    16  HMAC-SHA256 of all before, its first 16 bytes

The context is at half precision: `half` rounds it before the decision is made and logged, so that token and impression agree
bit for bit. A token of 32 dimensions takes about 180 characters. One token has one text: another spelling of its base64 is
refused. Version 1 has neither snapshot nor flags and is read as a decision from no snapshot with an exact propensity.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from policies.batch import FloatArray

VERSION = 2
MAC_BYTES = 16
LEAST_SECRET = 16
"""Bytes that a key's secret has at least."""

AHEAD_MS = 5 * 60 * 1000
"""How far a token's time may lie ahead of the reader's clock, as for events."""

LONGEST = 65_536
"""Characters of a token above which it is not looked at."""

_HEX = re.compile(r"[0-9a-f]{32}")
_HEAD = struct.Struct("<BB6sd")
_DECIDED = struct.Struct("<iB")
"""What version 2 adds behind the head."""
_ESTIMATED = 1
_LARGEST_SNAPSHOT = 2**31 - 1


class TokenError(ValueError):
    """A token that cannot be used; the subclasses say why, ``what`` in one word. Never worth a retry."""

    retriable = False
    what = "unusable"


class ForgedTokenError(TokenError):
    """Not a token, or not signed by the key that it names."""

    what = "forged"


class ExpiredTokenError(TokenError):
    """Older than tokens may be, or from the future."""

    what = "expired"


class UnknownKeyError(TokenError):
    """Signed by a key that is not among those known here: retired, or not yet distributed."""

    what = "unknown_key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """What a token says. `context` is (d,), each number one that half precision has; `snapshot` is None for a fallback."""

    decision_id: str
    policy: str
    slot: str
    arm: str
    propensity: float
    context: FloatArray
    ts: int
    snapshot: int | None = None
    estimated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Secrets by key id, and the id that signs. To rotate: add a key everywhere, sign by it, drop the old one later.

    Raises:
        ValueError: an id is not 0 to 255, a secret is short, or there is no secret of the id that signs.
    """

    signing: int
    secrets: Mapping[int, bytes] = field(repr=False)

    def __post_init__(self) -> None:
        for key, secret in self.secrets.items():
            if not 0 <= key <= 255 or len(secret) < LEAST_SECRET:
                raise ValueError(
                    f"key {key} has {len(secret)} bytes; allowed: ids 0 to 255, at least {LEAST_SECRET} random bytes"
                )
        if self.signing not in self.secrets:
            raise ValueError(f"signing = {self.signing}: there is no such key; known: {sorted(self.secrets)}")


def half(context: npt.ArrayLike) -> FloatArray:
    """(d,) context rounded to half precision, in float64. Raises ValueError if a number has no place there.

    >>> half([0.1, 1.0]).tolist()
    [0.0999755859375, 1.0]
    """
    given = np.asarray(context, np.float64)
    with np.errstate(over="ignore"):
        rounded = given.astype("<f2").astype(np.float64)
    wrong = np.flatnonzero(~np.isfinite(rounded))
    if len(wrong):
        raise ValueError(
            f"context[{wrong[0]}] is {given[wrong[0]]}; half precision has finite numbers up to 65504 in size: scale it"
        )
    return rounded


def sign(of: Signed, keys: Keys) -> str:
    """The token of a decision.

    Raises:
        ValueError: a name is empty or longer than 254 bytes, the context was not rounded by `half`, or a number is out of
            range.

    >>> keys = Keys(signing=1, secrets={1: bytes(16)})
    >>> made = Signed(decision_id="d1", policy="front", slot="top", arm="a", propensity=0.25, context=half([0.5]), ts=1)
    >>> verify(sign(made, keys), keys, now_ms=2, life_ms=1000).arm
    'a'
    """
    if of.context.ndim != 1 or len(of.context) > 0xFFFF or not np.array_equal(half(of.context), of.context):
        raise ValueError("the context is not one that half precision has; decide and log from tokens.half(context)")
    if not (0.0 < of.propensity <= 1.0 and 0 <= of.ts < 1 << 48):
        raise ValueError(f"propensity = {of.propensity}, ts = {of.ts}; allowed: above 0 to 1, and ms UTC from 0")
    snapshot = -1 if of.snapshot is None else of.snapshot
    if not -1 <= snapshot <= _LARGEST_SNAPSHOT:
        raise ValueError(f"snapshot = {snapshot}; allowed: None or 0 to {_LARGEST_SNAPSHOT}")
    body = b"".join(
        (
            _HEAD.pack(VERSION, keys.signing, of.ts.to_bytes(6, "little"), of.propensity),
            _DECIDED.pack(snapshot, _ESTIMATED if of.estimated else 0),
            b"\xff" + bytes.fromhex(of.decision_id) if _HEX.fullmatch(of.decision_id) else _text(of.decision_id),
            _text(of.policy),
            _text(of.slot),
            _text(of.arm),
            len(of.context).to_bytes(2, "little"),
            of.context.astype("<f2").tobytes(),
        )
    )
    return _spelt(body + _mac(keys.secrets[keys.signing], body))


def verify(token: str, keys: Keys, *, now_ms: int, life_ms: int) -> Signed:
    """What the token says, if it is whole, signed by a known key, and not older than `life_ms`.

    Raises:
        ForgedTokenError, UnknownKeyError, ExpiredTokenError: what is wrong with it.
    """
    found = authentic(token, keys)
    if not now_ms - life_ms <= found.ts <= now_ms + AHEAD_MS:
        raise ExpiredTokenError(
            f"the token is of ts {found.ts}; allowed now: {now_ms - life_ms} to {now_ms + AHEAD_MS} (ms UTC)"
        )
    return found


def authentic(token: str, keys: Keys) -> Signed:
    """What the token says, if it is whole and signed by a known key, however old it is.

    Raises:
        ForgedTokenError, UnknownKeyError: what is wrong with it.
    """
    raw = _bytes(token)
    if len(raw) < _HEAD.size + MAC_BYTES or not 1 <= raw[0] <= VERSION:
        raise ForgedTokenError(
            f"{_short(token)} is no token of version 1 to {VERSION}; send it as it came with the decision"
        )
    secret = keys.secrets.get(raw[1])
    if secret is None:
        raise UnknownKeyError(f"the token names key {raw[1]}; known here: {sorted(keys.secrets)}")
    body = raw[:-MAC_BYTES]
    if not hmac.compare_digest(_mac(secret, body), raw[-MAC_BYTES:]):
        raise ForgedTokenError(f"{_short(token)} is not signed by key {raw[1]}; send it as it came with the decision")
    return _read(body)


def _mac(secret: bytes, body: bytes) -> bytes:
    return hmac.digest(secret, body, "sha256")[:MAC_BYTES]


def _spelt(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(token: str) -> bytes:
    try:
        raw = base64.b64decode(token[:LONGEST] + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if not raw or _spelt(raw) != token:
        raise ForgedTokenError(f"{_short(token)} is not URL-safe base64 without padding; send it as it came")
    return raw


def _text(name: str) -> bytes:
    raw = name.encode()
    if not 1 <= len(raw) <= 254:
        raise ValueError(f"{name[:40]!r} takes {len(raw)} bytes; a name in a token takes 1 to 254")
    return bytes((len(raw),)) + raw


def _read(body: bytes) -> Signed:
    """The fields of a body that we signed ourselves."""
    version, _, ts, propensity = _HEAD.unpack_from(body)
    at, snapshot, flags = _HEAD.size, -1, 0
    if version > 1:
        snapshot, flags = _DECIDED.unpack_from(body, at)
        at += _DECIDED.size
    names: list[str] = []
    for _ in range(4):
        size = body[at]
        packed = size == 0xFF and not names
        end = at + 1 + (16 if packed else size)
        names.append(body[at + 1 : end].hex() if packed else body[at + 1 : end].decode())
        at = end
    dimension = int.from_bytes(body[at : at + 2], "little")
    context = np.frombuffer(body, "<f2", dimension, at + 2).astype(np.float64)
    decision_id, policy, slot, arm = names
    return Signed(
        decision_id=decision_id,
        policy=policy,
        slot=slot,
        arm=arm,
        propensity=propensity,
        context=context,
        ts=int.from_bytes(ts, "little"),
        snapshot=None if snapshot < 0 else snapshot,
        estimated=bool(flags & _ESTIMATED),
    )


def _short(token: str) -> str:
    return repr(token if len(token) <= 24 else token[:21] + "...")
