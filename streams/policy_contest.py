"""Policies that compete for one policy's decisions while its publisher leads: matured rows in, shares out, a record for the same transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from policies.contest import KIND, contest_key, credited, decode_contest, encode_contest, first_contest, led, shares_of
from streams.messages import Message
from streams.policy_trials import reward_bounds
from streams.settings_contest import contenders_of

if TYPE_CHECKING:
    from streams.meta_feedback import Record
    from streams.settings import PolicySettings


class PolicyContest:
    """Contest of one policy; one without contenders does nothing."""

    def __init__(self, name: str, policies: Mapping[str, PolicySettings]) -> None:
        self.name = name
        self.members = (name, *contenders_of(policies, name))
        self.follows = len(self.members) > 1
        bound = reward_bounds(policies[name])[1] if self.follows else 1.0  # where nobody competes, none is needed
        self._start = first_contest(self.members, bound=bound)
        self.state = self._start
        self._moved = False

    @property
    def shares(self) -> dict[str, float]:
        """Of the contenders."""
        return shares_of(self.state) if self.follows else {}

    def restore(self, records: Mapping[tuple[str | None, str], bytes]) -> None:
        """Begin with what was written. Raises RecordError."""
        value = records.get((None, KIND))
        self.state = self._start if value is None or not self.follows else decode_contest(value, self._start)
        self._moved = False

    def place(self, positions: Mapping[int, int]) -> None:
        """Take positions in the feedback topic for the partitions that have none."""
        missing = {number: at for number, at in positions.items() if number not in self.state.offsets}
        if missing:
            self.state = replace(self.state, offsets={**self.state.offsets, **missing})
            self._moved = True

    def judge(self, record: Record) -> None:
        """Take one record of the feedback topic; one that lies before the state's position is passed over."""
        if record.next_offset <= self.state.offsets.get(record.partition, 0):
            return
        if record.policy in self.members and record.rows is not None:
            self.state = credited(self.state, record.policy, record.rows.reward)
            self._moved = True
        self.state = replace(self.state, offsets={**self.state.offsets, record.partition: record.next_offset})

    def heard(self) -> tuple[str, ...]:
        """In words, if most decisions go to another policy now."""
        if not self.follows:
            return ()
        self.state, words = led(self.state)
        return (words,) if words else ()

    def messages(self) -> list[Message]:
        """The record, if anything moved since the last call of `written`."""
        return (
            [Message("policies", contest_key(self.name), encode_contest(self.name, self.state))] if self._moved else []
        )

    def written(self, messages: Sequence[Message]) -> None:
        """What `messages` gave is committed."""
        if messages:
            self._moved = False
