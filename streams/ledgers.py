"""Spending of one partition: what its learner charges, once for each event that counts, and the records that tell of it.

An impression is charged when it is accepted (not a copy of another, not too late), also where a fallback made the decision or the
unit's limit keeps it from learning: it cost money all the same. An outcome is charged when it counts (joined, not a duplicate, not
late), and what takes one back returns its cost (`streams.outcomes.dues`). Each goes to the period of its own event time. What is read again, to know what is pending or for sums that had no room in a
checkpoint, is not charged again: a ledger's record is written whole in the transaction of every checkpoint since which it changed.

Key of the record: MessagePack ``[policy, partition, "", "ledger"]``. Programs that know no ledgers take it for sums of a track that they
do not have, and pass over it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from policies.charging import Counted, followed, shown
from policies.ledger import EMPTY, Ledger, Period, Price, Tariff
from policies.ledger_records import decode_ledger, encode_ledger
from streams.cuts import SIDES
from streams.messages import Message

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from streams.cuts import Side
    from streams.decoded import Impressions, Names
    from streams.join import Joined
    from streams.settings_slots import SlotPolicy

LEDGER = "ledger"
GATHERED_ROWS = 16_384
"""Impressions that are gathered before they are charged together; a checkpoint charges all."""


def ledger_key(policy: str, partition: int) -> bytes:
    """Key of a policy's ledger of one partition.

    >>> is_ledger(ledger_key("p", 0)), is_ledger(msgspec.msgpack.encode(["p", 0, "a"]))
    (True, False)
    """
    return msgspec.msgpack.encode([policy, partition, "", LEDGER])


def is_ledger(key: bytes) -> bool:
    """Whether a record of the posteriors topic is a ledger."""
    names = msgspec.msgpack.decode(key)
    return len(names) == 4 and names[2:] == ["", LEDGER]


def tariff(policy: SlotPolicy) -> Tariff | None:
    """What a policy's events cost, None where nothing is said of its arms: then nobody keeps a ledger."""
    if not policy.ads:
        return None
    return Tariff(
        arms={arm: Price(ad.budget, ad.value, ad.cost, ad.click_cost) for arm, ad in policy.ads.items()},
        periods={name: Period(budget.period_s, budget.anchor_ms) for name, budget in policy.budgets.items()},
    )


def tariffs(policies: Mapping[str, Any]) -> dict[str, Tariff]:
    """Of every policy that has one."""
    return {name: found for name, policy in policies.items() if (found := tariff(policy)) is not None}


@dataclass(slots=True)
class _Gathered:
    """Of one policy, what is not in its ledger yet."""

    names: Sequence[str] = ()
    arm: list[npt.NDArray[np.int32]] = field(default_factory=list)
    ts: list[npt.NDArray[np.int64]] = field(default_factory=list)
    cost: list[npt.NDArray[np.float64] | None] = field(default_factory=list)
    outcomes: list[Counted] = field(default_factory=list)
    rows: int = 0

    @property
    def costs(self) -> npt.NDArray[np.float64] | None:
        """(rows,) NaN where the event says nothing, None where none does."""
        if all(part is None for part in self.cost):
            return None
        parts = zip(self.arm, self.cost, strict=True)
        return np.concatenate([np.full(len(arm), np.nan) if part is None else part for arm, part in parts])


class Ledgers:
    """Of one partition, by policy, as of the last call of `messages`. ``tariffs`` of the policies that have one; others cost nothing."""

    def __init__(self, tariffs: Mapping[str, Tariff]) -> None:
        self.tariffs = tariffs
        self.by_policy: dict[str, Ledger] = {}
        self._gathered: dict[str, _Gathered] = {}
        self._unwritten: set[str] = set()

    def shown(self, group: Impressions, rows: npt.NDArray[np.int64], names: Sequence[str]) -> None:
        """Charge rows of a batch of impressions. ``names`` of arms by number."""
        if group.policy not in self.tariffs or not len(rows):
            return
        gathered = self._gathered.setdefault(group.policy, _Gathered())
        gathered.names = names
        gathered.arm.append(group.arm[rows])
        gathered.ts.append(group.ts[rows])
        gathered.cost.append(None if group.cost is None else group.cost[rows])
        gathered.rows += len(rows)
        if gathered.rows >= GATHERED_ROWS:
            self._charge(group.policy)

    def followed(self, joined: Iterable[Joined], arms: Mapping[str, Names]) -> None:
        """Charge outcomes that counted. ``arms``: names of each policy's arms by number."""
        for row in joined if self.tariffs else ():
            if row.policy in self.tariffs:
                one = Counted(arms[row.policy].list[row.arm], row.click.ts, row.change, *row.due)
                self._gathered.setdefault(row.policy, _Gathered()).outcomes.append(one)

    def put(self, policy: str, value: bytes) -> None:
        """Go on from a record. Raises RecordError."""
        self.by_policy[policy] = decode_ledger(value)

    def messages(self, partition: int, offsets: Mapping[Side, int]) -> Iterator[Message]:
        """Records of what changed since the last call, as of these offsets."""
        for policy in list(self._gathered):
            self._charge(policy)
        for policy in sorted(self._unwritten):
            value = encode_ledger(self.by_policy[policy], offsets={side: offsets[side] for side in SIDES})
            yield Message("posteriors", ledger_key(policy, partition), value)
        self._unwritten.clear()

    def _charge(self, policy: str) -> None:
        gathered, tariff = self._gathered.pop(policy), self.tariffs[policy]
        ledger = self.by_policy.get(policy, EMPTY)
        if gathered.rows:
            arm, ts = np.concatenate(gathered.arm), np.concatenate(gathered.ts)
            ledger = shown(ledger, tariff, names=gathered.names, arm=arm, ts=ts, cost=gathered.costs)
        self.by_policy[policy] = followed(ledger, tariff, gathered.outcomes)
        self._unwritten.add(policy)
