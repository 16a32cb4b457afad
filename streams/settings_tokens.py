"""Keys of decision tokens from the settings, and what of a policy cannot go with tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, SecretStr

from streams.tokens import LEAST_SECRET, Keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streams.settings_policy import PolicySettings

KeyId = Annotated[int, Field(ge=0, le=255)]


def keys_of(secrets: Mapping[int, SecretStr], signing: int | None) -> Keys | None:
    """The keys; None without any. One key alone signs, of several ``signing`` says which.

    Raises:
        ValueError: a secret is short, or the key that signs is not named or not there; the text holds no secret.

    >>> keys_of({3: SecretStr("0123456789abcdef")}, None).signing
    3
    """
    raw = {key: secret.get_secret_value().encode() for key, secret in secrets.items()}
    for key, secret in raw.items():
        if len(secret) < LEAST_SECRET:
            raise ValueError(
                f"token_keys.{key} has {len(secret)} bytes; allowed: at least {LEAST_SECRET} random ones, for example from "
                "openssl rand -hex 32"
            )
    if not raw and signing is None:
        return None
    if signing is None and len(raw) > 1:
        raise ValueError(f"token_key is not set and token_keys has {sorted(raw)}: name the one that signs new tokens")
    chosen = next(iter(raw)) if signing is None else signing
    if chosen not in raw:
        raise ValueError(
            f"token_key = {chosen}: not among token_keys, which has {sorted(raw)}; add it there or name another"
        )
    return Keys(signing=chosen, secrets=raw)


def unfit(policy: PolicySettings) -> str | None:
    """Why a policy cannot have tokens as it is set, None if it can or has none."""
    life = f"token_window_s = {policy.token_window_s:g}"
    if not policy.token_window_s:
        return None
    if policy.aggregate not in ("sum", "count"):
        return (
            f"{life} with aggregate = {policy.aggregate!r}: outcomes that tokens bring are added one by one; set aggregate = 'sum' or "
            "'count', or token_window_s = 0"
        )
    if policy.token_window_s < policy.window_s:
        return f"{life}: must be 0 (no tokens) or at least window_s = {policy.window_s:g}, because a token is for what comes later; set more"
    if policy.counts_on == "viewable" or policy.retraction_window_s:
        named = "counts_on = 'viewable'" if policy.counts_on == "viewable" else "retraction_window_s"
        return (
            f"{life} with {named}: what a token brings is counted without its impression, which cannot be taken back or wait to be seen; "
            "leave one of them out"
        )
    if policy.unit_limit:
        return (
            f"{life} with unit_limit = {policy.unit_limit}: a token does not tell whether its impression was beyond the limit and stayed out "
            "of the sums; set one of them to 0"
        )
    if 0 < policy.expire_s < policy.counted_s:
        return (
            f"expire_s = {policy.expire_s:g}: must be 0 (never) or at least token_window_s + grace_s = {policy.counted_s:g}, because "
            "outcomes of the arm's last impressions still come; set more"
        )
    return None
