"""The sums as committed now, of all partitions together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from policies.model import Model, Sums
from streams import security
from streams.reading import latest, partition_count, reader
from streams.recovery import restore
from streams.rules import rules, tracks
from streams.settings import Settings
from streams.settings_policy import UnknownPolicyError
from streams.state import SIDES, PartitionState

TIMEOUT_S = 10.0


def read_states(settings: Settings) -> list[PartitionState]:
    """The committed sums of every partition, at the offsets that all of them include; without what is pending.

    Raises ReadError, StateMismatchError.
    """
    working = rules(settings)
    topic = settings.topics.posteriors
    states = []
    with reader(security.librdkafka(settings)) as consumer:
        for number in range(partition_count(security.librdkafka(settings), topic)):
            records, _ = latest(consumer, topic, number, timeout_s=TIMEOUT_S)
            restored = restore(number, records, working)
            restored.state.positions = dict(restored.base.offsets)
            states.append(restored.state)
    return states


def read_sums(settings: Settings, policy: str) -> dict[str, Any]:
    """Merged sums of a policy: ``arms`` {arm: {n, reward, b, A, ...}}, ``offsets`` by side and partition, ``counts`` of outcomes.

    With several half-lives, ``arms`` are those of the first and ``tracks`` has them all, by half-life in seconds.

    Raises UnknownPolicyError if the settings have no such policy.
    """
    if policy not in settings.policies:
        raise UnknownPolicyError(policy, known=settings.policies)
    states = read_states(settings)
    now_ms = max((state.join.watermark for state in states if state.join.watermark is not None), default=0)
    chosen = settings.policies[policy]
    undelayed = tracks(chosen.model_copy(update={"delays_s": ()}))
    by_track = {
        f"{track:g}": {
            arm: readable(undelayed[track], sums, now_ms)
            for arm, sums in _merged(model, [state.table.sums[policy][track] for state in states]).items()
        }
        for track, model in tracks(chosen).items()
    }
    return {
        "policy": policy,
        "arms": next(iter(by_track.values())),
        **({"tracks": by_track} if len(by_track) > 1 else {}),
        "offsets": {side: {str(state.number): state.positions[side] for state in states} for side in SIDES},
        "counts": _total([state.counts for state in states]),
        "impressions": _total([state.impressions for state in states]),
        "watermark": {str(state.number): state.join.watermark for state in states},
    }


def _merged(model: Model, parts: Sequence[Mapping[str, Sums]]) -> dict[str, Sums]:
    """Sums of all partitions together, arms in the order of their names."""
    merged: dict[str, Sums] = {}
    for arms in parts:
        for arm, sums in arms.items():
            merged[arm] = model.merge(merged[arm], sums) if arm in merged else sums
    return dict(sorted(merged.items()))


def readable(undelayed: Model, sums: Any, now_ms: int) -> dict[str, Any]:
    """One arm's sums as plain numbers: decayed to event time ``now_ms`` if the model forgets; what is pending is not subtracted."""
    read = undelayed.at(msgspec.structs.replace(sums, pending=()), now_ms=now_ms)
    plain = {"n": read.n_eff, "count": read.count, "reward": read.reward, "square": read.square}
    return plain if undelayed.name == "beta" else plain | {"b": read.b.tolist(), "A": read.A.tolist()}


def _total(parts: list[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0) + value
    return total
