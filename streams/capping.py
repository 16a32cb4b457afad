"""Frequency caps of a policy's settings, counted where impressions are logged; safe to use from several threads.

Counts are this process's own: a unit whose requests go to several processes may see up to the cap from each. Send a unit to the
same one (by its hash), or divide the limit. A decision without a unit is not capped. After a restart counting starts anew.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from policies.caps import Cap, Caps, hashed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streams.settings_slots import SlotPolicy


class CapBook:
    """Counts of every policy's caps.

    >>> from streams.settings_slots import SlotPolicy
    >>> front = SlotPolicy(caps={"daily": {"limit": 1}}, ads={"a": {"cap": "daily"}})
    >>> book = CapBook({"front": front})
    >>> book.shown("front", "u1", "a", ts=5)
    >>> book.full("front", "u1", now_ms=6), book.full("front", "u2", now_ms=6)
    (('daily',), ())
    """

    def __init__(self, policies: Mapping[str, SlotPolicy]) -> None:
        self._lock = threading.Lock()
        self._caps = {
            (policy, name): Caps(Cap(limit=cap.limit, window_s=cap.window_s))
            for policy, settings in policies.items()
            for name, cap in settings.caps.items()
        }
        self._cap_of = {
            policy: {arm: ad.cap for arm, ad in settings.ads.items() if ad.cap is not None}
            for policy, settings in policies.items()
            if settings.caps
        }

    def shown(self, policy: str, unit: str | None, arm: str, *, ts: int) -> None:
        """Count an impression at event time `ts` (ms UTC)."""
        cap = self._cap_of.get(policy, {}).get(arm)
        if cap is None or unit is None:
            return
        with self._lock:
            self._caps[policy, cap].shown(hashed(unit), cap, ts=ts)

    def full(self, policy: str, unit: str | None, *, now_ms: int) -> tuple[str, ...]:
        """Names of the caps that the unit has used up."""
        if unit is None or policy not in self._cap_of:
            return ()
        who = hashed(unit)
        with self._lock:
            return tuple(
                name
                for (whose, name), caps in self._caps.items()
                if whose == policy and not caps.allowed(who, (name,), now_ms=now_ms)[0]
            )

    def __len__(self) -> int:
        """Pairs of unit and cap that are counted."""
        with self._lock:
            return sum(map(len, self._caps.values()))
