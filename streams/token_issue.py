"""Handing out decision tokens: what an ad server needs of the settings, and the refusal that it can give at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streams.tokens import ExpiredTokenError, Signed, TokenError, authentic, half, sign

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.batch import FloatArray
    from streams.settings import Settings
    from streams.tokens import Keys


class TokenDesk:
    """Makes and opens the tokens of the policies that have them on.

    >>> from streams.settings import Settings
    >>> front = {"dimension": 1, "token_window_s": 86400}
    >>> desk = TokenDesk(Settings(policies={"front": front}, token_keys={1: "0123456789abcdef"}))
    >>> desk.rounded("front", np.array([0.1])).tolist(), desk.rounded("other", np.array([0.1])).tolist()
    ([0.0999755859375], [0.1])
    """

    def __init__(self, settings: Settings) -> None:
        self._keys = settings.keys
        self._life_ms = {
            name: round(policy.token_window_s * 1000)
            for name, policy in settings.policies.items()
            if policy.token_window_s
        }
        self._contextless = {name for name, policy in settings.policies.items() if policy.model == "beta"}

    def on(self, policy: str) -> bool:
        """Whether decisions of a policy come with tokens."""
        return policy in self._life_ms

    def rounded(self, policy: str, context: FloatArray) -> FloatArray:
        """(d,) context as decisions of the policy are made from it: to half precision with tokens on.

        Raises:
            ValueError: a number has no place in half precision.
        """
        return half(context) if self.on(policy) and np.isfinite(context).all() else context

    def token(
        self,
        policy: str,
        *,
        decision_id: str,
        slot: str,
        arm: str,
        propensity: float,
        estimated: bool,
        snapshot: int | None,
        context: FloatArray,
        ts: int,
    ) -> str | None:
        """The token of a decision, None where its policy has none.

        Raises:
            ValueError: a name takes more than 254 bytes.
        """
        if self._keys is None or not self.on(policy):
            return None
        return sign(
            Signed(
                decision_id=decision_id,
                policy=policy,
                slot=slot,
                arm=arm,
                propensity=propensity,
                context=context[:0] if policy in self._contextless else context,
                ts=ts,
                snapshot=snapshot,
                estimated=estimated,
            ),
            self._keys,
        )

    def of_slots(
        self,
        policy: str,
        *,
        decision_id: str,
        slots: Sequence[str],
        arms: Sequence[str | None],
        propensity: Sequence[float],
        estimated: bool,
        snapshot: int | None,
        context: FloatArray,
        ts: int,
    ) -> tuple[str | None, ...]:
        """The tokens of K slots that were filled together, None for empty ones; the context is (d,), or (K, d).

        Raises:
            ValueError: as `token`.
        """
        if self._keys is None or not self.on(policy):
            return (None,) * len(slots)
        return tuple(
            None
            if arm is None
            else self.token(
                policy,
                decision_id=decision_id,
                slot=slot,
                arm=arm,
                propensity=chance,
                estimated=estimated,
                snapshot=snapshot,
                context=context if context.ndim == 1 else context[place],
                ts=ts,
            )
            for place, (slot, arm, chance) in enumerate(zip(slots, arms, propensity, strict=True))
        )

    def opened(self, token: str, *, ts: int) -> Signed:
        """What a token says that an outcome of this time (ms) comes with.

        Raises:
            TokenError: it is forged, of an unknown key, or was given out too long before; or there are no tokens here.
        """
        keys = self._checked_keys()
        found = authentic(token, keys)
        life_ms = self._life_ms.get(found.policy)
        if life_ms is None:
            raise TokenError(f"policy {found.policy!r} has tokens off (token_window_s); send the outcome without one")
        if ts - found.ts >= life_ms:
            raise ExpiredTokenError(
                f"the token is of ts {found.ts} and the outcome of {ts}; allowed: less than token_window_s = {life_ms / 1000:g} s later"
            )
        return found

    def _checked_keys(self) -> Keys:
        if self._keys is None:
            raise TokenError(
                "the settings have no token_keys, so tokens cannot be checked; send the outcome without one"
            )
        return self._keys
