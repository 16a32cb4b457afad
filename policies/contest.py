"""Whole policies that compete live: shares of one policy's decisions for others, by what they earn.

A policy has contenders, which are policies of their own: other features, encoders, models. The top layer (policies/top_layer.py)
chooses among all of them, for each decision by a hash of its id, all slots of a page alike. Who decides also learns, and impressions
name the policy, so that nothing else is logged: what they log is exact, given the policy. Each keeps 5%; the rest leaves the policy that was asked for only
as far as the evidence goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from policies.records import versioned
from policies.sums import RecordError
from policies.top_layer import TopLayer, law, matured, moved, top_layer

if TYPE_CHECKING:
    from policies.batch import FloatArray

VERSION = 1
KIND = "contest"
"""Kind of the record, the third element of its key."""
MOST = 9
"""Contenders of a policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """State.

    Attributes:
        names: of the policy that is asked for, and of its contenders.
        layer: counts of each, in that order.
        leader: index of the policy that most decisions go to.
        offsets: next offset by partition of the feedback topic.
    """

    names: tuple[str, ...]
    layer: TopLayer
    leader: int = 0
    offsets: Mapping[int, int] = field(default_factory=dict)


def first_contest(names: tuple[str, ...], *, bound: float) -> Contest:
    """Before any row. `bound`: largest reward of one event.

    >>> first_contest(("front", "front-2"), bound=1.0).leader
    0
    """
    return Contest(names=names, layer=top_layer(len(names), default=0, bound=bound))


def credited(state: Contest, policy: str, reward: FloatArray) -> Contest:
    """After rows (n,) of one of the policies that matured, in their order; rewards are cut to 0 and the bound.

    >>> credited(first_contest(("a", "b"), bound=1.0), "b", np.ones(1)).layer.S
    (1.0, 2.0)
    """
    choice = np.full(len(reward), state.names.index(policy), np.intp)
    return replace(state, layer=matured(state.layer, choice, np.clip(reward, 0.0, state.layer.bound)))


def shares_of(state: Contest) -> dict[str, float]:
    """Of the contenders; the policy that is asked for has the rest.

    >>> shares_of(first_contest(("a",), bound=1.0))
    {}
    """
    return dict(zip(state.names[1:], law(state.layer)[1:].tolist(), strict=True))


def contender(decision_id: str, shares: Mapping[str, float]) -> str | None:
    """Which contender decides, None for the policy that is asked for.

    >>> found = [contender(f"d{i}", {"b": 0.25, "c": 0.05}) for i in range(10_000)]
    >>> [round(found.count(name) / 10_000, 2) for name in ("b", "c", None)]
    [0.25, 0.05, 0.7]
    """
    digest = blake2b(b"contest\n" + decision_id.encode(), digest_size=8).digest()
    u = (int.from_bytes(digest, "little") >> 11) * 2.0**-53
    for name, share in shares.items():
        if u < share:
            return name
        u -= share
    return None


def led(state: Contest) -> tuple[Contest, str]:
    """With the policy that most decisions go to now, and in words what changed, "" if nothing did.

    >>> state = credited(first_contest(("a", "b"), bound=1.0), "a", np.zeros(2000))
    >>> led(credited(state, "b", np.ones(2000)))[1]
    "'a' -> 'b': 95% of the decisions; that the choices differ has the probability 1.00"
    """
    leader, words = moved(state.layer, state.leader, [repr(name) for name in state.names], of="the decisions")
    return replace(state, leader=leader), words


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    v: int
    policy: str
    names: tuple[str, ...]
    S: tuple[float, ...]
    F: tuple[float, ...]
    leader: int
    offsets: dict[int, int]


def contest_key(policy: str) -> bytes:
    """Kafka key of a policy's contest: ``[policy, null, "contest"]``.

    >>> contest_key("p").hex()
    '93a170c0a7636f6e74657374'
    """
    return msgspec.msgpack.encode([policy, None, KIND])


def encode_contest(policy: str, state: Contest) -> bytes:
    """Record: a MessagePack map with v (1), policy, names, S, F, leader and offsets."""
    record = _Record(
        v=VERSION,
        policy=policy,
        names=state.names,
        S=state.layer.S,
        F=state.layer.F,
        leader=state.leader,
        offsets=dict(sorted(state.offsets.items())),
    )
    return msgspec.msgpack.encode(record)


def decode_contest(data: bytes, start: Contest) -> Contest:
    """From its record. Counts of policies that the settings still name stay; others begin anew.

    Raises:
        RecordError: a later version, or damaged.
    """
    record = versioned(data, _Record, VERSION, "a state of a contest")
    if not len(record.names) == len(record.S) == len(record.F):
        raise RecordError(f"a state of a contest has {len(record.S)} counts of {len(record.names)} policies")
    known = {name: (s, f) for name, s, f in zip(record.names, record.S, record.F, strict=True)}
    counts = [known.get(name, (start.layer.S[i], start.layer.F[i])) for i, name in enumerate(start.names)]
    layer = replace(start.layer, S=tuple(s for s, _ in counts), F=tuple(f for _, f in counts))
    leading = record.names[record.leader] if 0 <= record.leader < len(record.names) else ""
    leader = start.names.index(leading) if leading in start.names else 0
    return replace(start, layer=layer, leader=leader, offsets=record.offsets)
