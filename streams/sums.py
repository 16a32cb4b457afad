"""The sums as committed now, of all partitions together."""

from __future__ import annotations

from typing import Any

import msgspec

from policies.model import Sums
from streams import security
from streams.reading import latest, partition_count, reader
from streams.recovery import restore
from streams.rules import model, rules
from streams.settings import PolicySettings, Settings
from streams.settings_policy import UnknownPolicyError
from streams.state import SIDES, PartitionState

TIMEOUT_S = 10.0


def read_states(settings: Settings) -> list[PartitionState]:
    """The committed state of every partition, without what is pending. Raises ReadError, StateMismatchError."""
    working = rules(settings)
    topic = settings.topics.posteriors
    states = []
    with reader(security.librdkafka(settings)) as consumer:
        for number in range(partition_count(security.librdkafka(settings), topic)):
            records, _ = latest(consumer, topic, number, timeout_s=TIMEOUT_S)
            state, _, _ = restore(number, records, working)
            states.append(state)
    return states


def read_sums(settings: Settings, policy: str) -> dict[str, Any]:
    """Merged sums of a policy: ``arms`` {arm: {n, reward, b, A, ...}}, ``offsets`` by side and partition, ``counts`` of outcomes.

    Raises UnknownPolicyError if the settings have no such policy.
    """
    if policy not in settings.policies:
        raise UnknownPolicyError(policy, known=settings.policies)
    states = read_states(settings)
    merge = rules(settings).models[policy].merge
    merged: dict[str, Sums] = {}
    for state in states:
        for arm, sums in state.sums[policy].items():
            merged[arm] = merge(merged[arm], sums) if arm in merged else sums
    now_ms = max((state.join.watermark for state in states if state.join.watermark is not None), default=0)
    arms = {arm: readable(settings.policies[policy], sums, now_ms) for arm, sums in sorted(merged.items())}
    return {
        "policy": policy,
        "arms": arms,
        "offsets": {side: {str(state.number): state.positions[side] for state in states} for side in SIDES},
        "counts": _total([state.counts for state in states]),
        "impressions": _total([state.impressions for state in states]),
        "watermark": {str(state.number): state.join.watermark for state in states},
    }


def readable(policy: PolicySettings, sums: Any, now_ms: int) -> dict[str, Any]:
    """One arm's sums as plain numbers: decayed to event time ``now_ms`` if the policy forgets; what is pending is not subtracted."""
    undelayed = model(policy.model_copy(update={"delays_s": ()}))
    read = undelayed.at(msgspec.structs.replace(sums, pending=()), now_ms=now_ms)
    plain = {"n": read.n_eff, "count": read.count, "reward": read.reward, "square": read.square}
    return plain if policy.model == "beta" else plain | {"b": read.b.tolist(), "A": read.A.tolist()}


def _total(parts: list[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0) + value
    return total
