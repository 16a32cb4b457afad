"""Exploration by the top layer while a publisher leads: matured rows in, a choice for each snapshot out, a record for the same transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from policies.canary import CODES
from policies.choosing import NONE, credited, drawn, first_choosing, led, with_run
from policies.choosing_records import CHOOSING, choosing_key, decode_choosing, encode_choosing
from policies.exploration import grid
from policies.explorers import EXPLORERS, check
from policies.trials import Exploring
from streams.messages import Message
from streams.policy_exploring import LOOKED_AT, PolicyExploring
from streams.policy_trials import reward_bounds

if TYPE_CHECKING:
    from policies.meta_state import Rows
    from policies.snapshot import Snapshot
    from streams.settings_policy import PolicySettings


def choices_of(policy: PolicySettings) -> tuple[Exploring, ...]:
    """What is chosen from: the settings' own way first, then its `choices`, or the usual rates of Thompson sampling.

    Raises:
        ValueError: a choice that is no explorer, or has a rate that it does not have.
    """
    own = Exploring(explorer=policy.explorer, rates=policy.rates)
    if policy.choices:
        others = []
        for told in policy.choices:
            explorer = str(told.get("explorer", policy.explorer))
            rates = {name: float(value) for name, value in told.items() if name != "explorer"}
            others.append(Exploring(explorer=explorer, rates=check(explorer, {"epsilon": policy.epsilon, **rates})))
    else:
        others = [replace(own, rates={**own.rates, "alpha": alpha}) for alpha in grid(own.rates["alpha"])]
    return (own, *(one for i, one in enumerate(others) if one != own and one not in others[:i]))


class PolicyChoosing(PolicyExploring):
    """Top layer of one policy."""

    def __init__(self, name: str, policy: PolicySettings) -> None:
        super().__init__(name, policy)
        self.follows = True
        self.choices = choices_of(policy)
        self.names = tuple(f"{one.explorer} {EXPLORERS[one.explorer].rate} {_rate(one):g}" for one in self.choices)
        self._start = first_choosing(len(self.choices), default=0, bound=reward_bounds(policy)[1])
        self.choosing = self._start

    def restore(self, records: Mapping[tuple[str | None, str], bytes]) -> None:
        """Begin with what was written. Raises RecordError."""
        super().restore(records)
        value = records.get((None, CHOOSING))
        self.choosing = self._start if value is None else decode_choosing(value, self._start, self.names)

    def take(self, rows: Rows) -> None:
        """Credit matured rows to the choices that they were decided by; those drawn at random for the yardstick to none."""
        super().take(rows)
        self.state = replace(self.state, ring=self.state.ring[-LOOKED_AT:])  # more would be written and not looked at
        if rows.snapshot is None:
            return
        version = rows.snapshot
        if rows.group is not None:
            version = version.copy()
            version[rows.group == CODES["random"]] = -1
        self.choosing = credited(self.choosing, version, rows.reward)

    def due(self, count: float) -> bool:  # noqa: ARG002
        """Never: nothing is played."""
        return False

    def heard(self, snapshot: Snapshot | None, *, free: bool) -> tuple[str, ...]:  # noqa: ARG002
        """In words, if most snapshots go to another choice now."""
        self.choosing, words = led(self.choosing, self.names)
        return (words,) if words else ()

    def now(self, settings: Exploring) -> Exploring:  # noqa: ARG002
        """What the newest snapshot's choice is; the policy's own way where it has none."""
        index = self.choosing.runs[-1][1] if self.choosing.runs else NONE
        return self.choices[0 if index == NONE else index]

    def base(self, settings: Exploring) -> Exploring:  # noqa: ARG002
        """The policy's own way, whatever was drawn."""
        return self.choices[0]

    def before(self, version: int, *, count: float, snapshot: Snapshot | None, free: bool) -> None:
        """Draw the choice of the snapshot that comes next. One that a guardrail speaks against is not taken: the settings' own way is."""
        after = drawn(self.choosing, policy=self.name, version=version, count=count)
        index = after.runs[-1][1]
        if not free:
            after = with_run(after, version, NONE)
        elif index and self.against(snapshot, self.choices[index]):
            after = with_run(after, version, 0)
        self.choosing = after
        self._records[choosing_key(self.name)] = b""

    def hold(self, version: int) -> None:
        """Rows of the held snapshot, and of those after it until a choice is drawn again, are credited to none."""
        self.choosing = with_run(self.choosing, version, NONE)
        self._records[choosing_key(self.name)] = b""

    def messages(self, *, moved: bool) -> list[Message]:
        """Records to write. ``moved``: whether rows were taken since the last call of `written`."""
        key = choosing_key(self.name)
        looks = moved and self.rules.dimension > 0  # recent contexts, by which the next leader's guardrail goes too
        others = [message for message in super().messages(moved=looks) if message.key != key]
        if not moved and key not in self._records:
            return others
        return [*others, Message("policies", key, encode_choosing(self.name, self.choosing, self.names))]


def _rate(one: Exploring) -> float:
    return one.rates[EXPLORERS[one.explorer].rate]
