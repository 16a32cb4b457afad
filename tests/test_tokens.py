"""Decision tokens: bytes that stay as they are, and what is refused."""

from __future__ import annotations

import base64
import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.tokens import (
    ExpiredTokenError,
    ForgedTokenError,
    Keys,
    Signed,
    UnknownKeyError,
    authentic,
    half,
    sign,
    verify,
)

KEYS = Keys(signing=7, secrets={7: b"0123456789abcdef"})
NOW = 1_700_000_000_000
MADE = Signed(
    decision_id="00112233445566778899aabbccddeeff",
    policy="front",
    slot="top",
    arm="ad-3",
    propensity=0.25,
    context=half([0.5, -1.0, 0.1]),
    ts=NOW,
    snapshot=17,
    estimated=True,
)
GOLDEN = "AgcAaOXPiwEAAAAAAADQPxEAAAAB_wARIjNEVWZ3iJmqu8zd7v8FZnJvbnQDdG9wBGFkLTMDAAA4ALxmLla_rza62C3PnzNkgfcl8iw"
GOLDEN_1 = "AQcAaOXPiwEAAAAAAADQP_8AESIzRFVmd4iZqrvM3e7_BWZyb250A3RvcARhZC0zAwAAOAC8Zi6MoYZKes6SIUF_r1yIjOgm"
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


def opened(token: str, keys: Keys = KEYS, *, now_ms: int = NOW, life_ms: int = 1000) -> Signed:
    return verify(token, keys, now_ms=now_ms, life_ms=life_ms)


def same(one: Signed, other: Signed) -> bool:
    """Whether all fields are equal, numbers bit for bit."""
    bare = [dataclasses.replace(signed, context=np.empty(0)) for signed in (one, other)]
    return repr(bare[0]) == repr(bare[1]) and one.context.tobytes() == other.context.tobytes()


def test_the_bytes_are_these_for_ever() -> None:
    """What was handed out yesterday is read today."""
    assert sign(MADE, KEYS) == GOLDEN
    assert same(opened(GOLDEN), MADE)
    assert same(opened(GOLDEN_1), dataclasses.replace(MADE, snapshot=None, estimated=False))


@given(
    names=st.tuples(NAMES, NAMES, NAMES, NAMES),
    context=st.lists(st.floats(-60_000, 60_000), max_size=20),
    propensity=st.floats(0, 1, exclude_min=True),
    snapshot=st.none() | st.integers(0, 2**31 - 1),
)
def test_what_is_signed_is_read(
    names: tuple[str, str, str, str], context: list[float], propensity: float, snapshot: int | None
) -> None:
    """Whatever the names and numbers, bit for bit, and in characters that a URL may have."""
    decision_id, policy, slot, arm = names
    made = Signed(
        decision_id=decision_id,
        policy=policy,
        slot=slot,
        arm=arm,
        propensity=propensity,
        context=half(context),
        ts=NOW,
        snapshot=snapshot,
        estimated=len(context) % 2 == 1,
    )
    token = sign(made, KEYS)
    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert same(opened(token), made)


def test_any_changed_bit_is_refused() -> None:
    """Of all single bits of a token, none can be turned over."""
    raw = bytearray(base64.urlsafe_b64decode(GOLDEN + "=" * (-len(GOLDEN) % 4)))
    for bit in range(8 * len(raw)):
        raw[bit // 8] ^= 1 << bit % 8
        token = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
        with pytest.raises((ForgedTokenError, UnknownKeyError)):
            opened(token)
        raw[bit // 8] ^= 1 << bit % 8
    assert same(opened(base64.urlsafe_b64encode(raw).rstrip(b"=").decode()), MADE)


@given(st.text(max_size=300))
def test_what_is_no_token_is_refused(text: str) -> None:
    """Any text is an error of ours, never another one."""
    with pytest.raises((ForgedTokenError, UnknownKeyError)):
        opened(text)


@pytest.mark.parametrize("text", [GOLDEN + "=", " " + GOLDEN, GOLDEN + "\n", GOLDEN[:-1], GOLDEN + "A" * 70_000])
def test_one_token_has_one_text(text: str) -> None:
    """Padding, space, cut and lengthened ones are forged: nobody makes two tokens of one."""
    with pytest.raises(ForgedTokenError):
        opened(text)


def test_keys_rotate() -> None:
    """A new key signs while the old one is still read; once the old one is dropped its tokens are of an unknown key."""
    both = Keys(signing=8, secrets={7: b"0123456789abcdef", 8: b"fedcba9876543210"})
    assert same(opened(sign(MADE, KEYS), both), MADE)
    assert same(opened(sign(MADE, both), both), MADE)
    with pytest.raises(UnknownKeyError, match=r"key 8; known here: \[7\]"):
        opened(sign(MADE, both))
    with pytest.raises(ForgedTokenError):
        opened(sign(MADE, KEYS), Keys(signing=7, secrets={7: b"another-secret-of-16"}))


def test_a_token_lives_as_long_as_it_is_told() -> None:
    """To the millisecond; one from the future is refused too."""
    token = sign(MADE, KEYS)
    assert same(opened(token, now_ms=NOW + 1000), MADE)
    with pytest.raises(ExpiredTokenError, match=str(NOW)):
        opened(token, now_ms=NOW + 1001)
    with pytest.raises(ExpiredTokenError):
        opened(token, now_ms=NOW - 5 * 60_000 - 1)
    assert same(authentic(token, KEYS), MADE)


def test_a_token_of_32_dimensions_is_short() -> None:
    """About 137 bytes, 182 characters: it fits a query string."""
    made = dataclasses.replace(MADE, context=half(np.linspace(-1, 1, 32)))
    assert len(sign(made, KEYS)) <= 183


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"context": np.array([0.1])}, "half"),
        ({"arm": ""}, "1 to 254"),
        ({"slot": "x" * 255}, "255 bytes"),
        ({"propensity": 0.0}, "propensity = 0.0"),
        ({"ts": -1}, "ts = -1"),
        ({"snapshot": 2**31}, "snapshot = 2147483648"),
    ],
)
def test_what_no_token_can_say_is_refused(change: dict[str, object], text: str) -> None:
    """A context that is not rounded would not equal the impression's; names and numbers have their bounds."""
    with pytest.raises(ValueError, match=text):
        sign(dataclasses.replace(MADE, **change), KEYS)  # type: ignore[arg-type]


def test_secrets_do_not_print_and_must_be_long() -> None:
    """Nor may a number be too large for half precision."""
    assert "0123" not in repr(KEYS)
    with pytest.raises(ValueError, match="at least 16"):
        Keys(signing=1, secrets={1: b"short"})
    with pytest.raises(ValueError, match="no such key"):
        Keys(signing=1, secrets={})
    with pytest.raises(ValueError, match=r"context\[1\] is 70000"):
        half([0.0, 70_000.0])
