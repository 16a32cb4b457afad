"""Byte layout of the meta-state: records of the compacted `policies` topic, beside those of the snapshots.

Keys: ``[policy, null, "meta"]``, ``[policy, null, "means 0"]`` to ``"means 17"`` and ``[policy, arm, "baseline"]``. Readers of snapshots pass over keys of more than two elements.
Values are MessagePack maps with the major version ``v`` first, 1 today; unknown keys are ignored.

Meta::

    v, policy
    offsets       {partition of the feedback topic: next offset}
    ladder        {"half_lives_s", "scores", "rows", "chosen"}
    tests         {arm: [fallen, risen, alarms]}
    ages          {"window_ms", "counts": bytes <f8, "total_ms", "landmark_ms", "newest_ms"}
    delays_s, weights, new_clicks     grid, weights in use or null, clicks since they were estimated
    rewards       [n, sum, sum of squares, all 0/1]
    since_ms      {arm: when it was last reset}
    announced     {arm: time of the last announced change that was heeded}
    rows, unscored, reasons
    seen          {"slots", "kappa", "counts": bytes <f8, (3, slots, groups): shown, clicks, predicted}, null where not learned

Means, each number the next time, so that the last eighteen remain; left out beyond MEANS_BYTES::

    v, policy, at_ms, model, half_lives_s, arms
    mean          bytes <f4, (tracks, arms + 1, d), see policies/meta_means.py

Baseline::

    v, policy, arm
    tracks        list of {"half_life_s", "at_ms", "n_eff", "count", "reward", "square", "b": bytes <f8,
                  "A": bytes <f8, upper triangle row by row}
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from policies.baseline import Baseline
from policies.delay import Ages, no_ages
from policies.drift import Cusum
from policies.ladder import Ladder
from policies.meta_means import Means
from policies.meta_state import MetaState, Rewards
from policies.position_state import GROUPS, Placed
from policies.positions import Counts
from policies.records import from_bytes, to_bytes, versioned
from policies.sums import Effective, RecordError
from policies.triangle import unpack_symmetric, upper_positions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VERSION = 1

MEANS_BYTES = 7_500_000
"""What a record of means may take, as the topic takes records of 8 MiB; beyond, a new leader scores the rows that it sees shown itself."""


MEANS = "means "


class _Ladder(msgspec.Struct, frozen=True):
    half_lives_s: tuple[float, ...]
    scores: tuple[float, ...]
    rows: int
    chosen: int


class _Ages(msgspec.Struct, frozen=True):
    window_ms: int
    counts: bytes
    total_ms: float
    landmark_ms: int
    newest_ms: int


class _Seen(msgspec.Struct, frozen=True):
    slots: tuple[str, ...]
    kappa: tuple[float, ...]
    counts: bytes


class _Meta(msgspec.Struct, frozen=True, omit_defaults=True):
    v: int
    policy: str
    offsets: dict[int, int]
    ladder: _Ladder
    tests: dict[str, tuple[float, float, int]]
    ages: _Ages
    delays_s: tuple[float, ...]
    weights: tuple[float, ...] | None
    new_clicks: int
    rewards: tuple[float, float, float, bool]
    since_ms: dict[str, int]
    rows: int
    unscored: int
    reasons: tuple[str, ...] = ()
    announced: dict[str, int] = {}
    seen: _Seen | None = None


class _Part(msgspec.Struct, frozen=True):
    half_life_s: float
    at_ms: int
    n_eff: float
    count: float
    reward: float
    square: float
    b: bytes
    A: bytes


class _Baseline(msgspec.Struct, frozen=True):
    v: int
    policy: str
    arm: str
    tracks: list[_Part]


class _Means(msgspec.Struct, frozen=True):
    v: int
    policy: str
    at_ms: int
    model: str
    half_lives_s: tuple[float, ...]
    arms: tuple[str, ...]
    mean: bytes


def meta_key(policy: str) -> bytes:
    """Kafka key of a policy's meta-state.

    >>> meta_key("p").hex()
    '93a170c0a46d657461'
    """
    return msgspec.msgpack.encode([policy, None, "meta"])


def means_key(policy: str, number: int) -> bytes:
    """Kafka key of means by their number, 0 to 17.

    >>> read_key(means_key("p", 3))
    ('p', None, 'means 3')
    """
    return msgspec.msgpack.encode([policy, None, f"{MEANS}{number}"])


def baseline_key(policy: str, arm: str) -> bytes:
    """Kafka key of an arm's baselines.

    >>> baseline_key("p", "a").hex()
    '93a170a161a8626173656c696e65'
    """
    return msgspec.msgpack.encode([policy, arm, "baseline"])


def read_key(key: bytes | None) -> tuple[str, str | None, str] | None:
    """Policy, arm and kind of a record that is no snapshot's, None for other keys.

    >>> read_key(meta_key("p")), read_key(b"")
    (('p', None, 'meta'), None)
    """
    try:
        return msgspec.msgpack.decode(key or b"", type=tuple[str, str | None, str])
    except msgspec.MsgspecError:
        return None


def encode_meta(policy: str, state: MetaState, *, delays_s: Sequence[float]) -> bytes:
    """Record of a policy's meta-state."""
    ages, rewards = state.ages, state.rewards
    record = _Meta(
        v=VERSION,
        policy=policy,
        offsets=dict(sorted(state.offsets.items())),
        ladder=_Ladder(state.ladder.half_lives_s, state.ladder.scores, state.ladder.rows, state.ladder.chosen),
        tests={arm: (one.fallen, one.risen, one.alarms) for arm, one in sorted(state.tests.items())},
        ages=_Ages(ages.window_ms, to_bytes(ages.counts), ages.total_ms, ages.landmark_ms, ages.newest_ms),
        delays_s=tuple(delays_s),
        weights=state.weights,
        new_clicks=state.new_clicks,
        rewards=(rewards.n, rewards.total, rewards.square, rewards.chances),
        since_ms=dict(sorted(state.since_ms.items())),
        rows=state.rows,
        unscored=state.unscored,
        reasons=state.reasons,
        announced=dict(sorted(state.announced.items())),
        seen=None if state.seen is None else _seen_record(state.seen),
    )
    return msgspec.msgpack.encode(record)


def decode_meta(data: bytes, start: MetaState, *, delays_s: Sequence[float]) -> MetaState:
    """State from its record, as far as it fits the settings: what they made another is as in `start`.

    Raises:
        RecordError: a later version, or damaged.
    """
    record: _Meta = versioned(data, _Meta, VERSION, "a meta-state")
    ages, ladder = start.ages, start.ladder
    same_delays = record.delays_s == tuple(delays_s)
    if record.ages.window_ms == ages.window_ms:
        counts = from_bytes(record.ages.counts, len(no_ages(ages.window_ms).counts), what="counts of click ages")
        ages = Ages(
            window_ms=ages.window_ms,
            counts=counts,
            total_ms=record.ages.total_ms,
            landmark_ms=record.ages.landmark_ms,
            newest_ms=record.ages.newest_ms,
        )
    told = record.ladder
    if told.half_lives_s == ladder.half_lives_s:
        if len(told.scores) != len(told.half_lives_s) or not 0 <= told.chosen < len(told.scores):
            raise RecordError(f"a meta-state has {len(told.scores)} scores, of which {told.chosen} is chosen")
        ladder = Ladder(half_lives_s=told.half_lives_s, scores=told.scores, rows=told.rows, chosen=told.chosen)
    n, total, square, chances = record.rewards
    return MetaState(
        ladder=ladder,
        ages=ages,
        tests={arm: Cusum(fallen=a, risen=b, alarms=n) for arm, (a, b, n) in record.tests.items()},
        new_clicks=record.new_clicks,
        weights=record.weights if same_delays else None,
        rewards=Rewards(n=n, total=total, square=square, chances=chances),
        since_ms=record.since_ms,
        rows=record.rows,
        unscored=record.unscored,
        offsets=record.offsets,
        reasons=record.reasons,
        announced=record.announced,
        seen=_seen(record.seen, start.seen),
    )


def _seen_record(state: Placed) -> _Seen:
    counted = np.stack([state.seen.shown, state.seen.clicks, state.seen.predicted])
    return _Seen(state.slots, tuple(state.kappa.tolist()), to_bytes(counted.ravel()))


def _seen(record: _Seen | None, start: Placed | None) -> Placed | None:
    """What was learned of positions, if the settings list the same slots; else the start."""
    if record is None or start is None or record.slots != start.slots:
        return start
    slots = len(record.slots)
    counted = from_bytes(record.counts, 3 * slots * GROUPS, what="counts of positions").reshape(3, slots, GROUPS)
    if len(record.kappa) != slots:
        raise RecordError(f"a meta-state has {len(record.kappa)} position effects for {slots} slots")
    seen = Counts(shown=counted[0], clicks=counted[1], predicted=counted[2])
    return replace(start, kappa=np.array(record.kappa), seen=seen)


def encode_baseline(policy: str, arm: str, baselines: Mapping[float, Baseline]) -> bytes:
    """Record of an arm's baselines, by half-life in seconds."""
    parts = []
    for half_life_s, one in sorted(baselines.items()):
        d, part = len(one.part.b), one.part
        upper = part.A.ravel()[upper_positions(d)] if d else np.zeros(0)
        parts.append(
            _Part(
                half_life_s,
                one.at_ms,
                part.n_eff,
                part.count,
                part.reward,
                part.square,
                to_bytes(part.b),
                to_bytes(upper),
            )
        )
    return msgspec.msgpack.encode(_Baseline(VERSION, policy, arm, parts))


def decode_baseline(data: bytes) -> dict[float, Baseline]:
    """An arm's baselines by half-life. Raises RecordError if they cannot be used."""
    record: _Baseline = versioned(data, _Baseline, VERSION, "a baseline")
    found = {}
    for part in record.tracks:
        d = len(part.b) // 8
        upper = from_bytes(part.A, d * (d + 1) // 2, what=f"A of the baseline of arm {record.arm!r}")
        effective = Effective(
            n_eff=part.n_eff,
            count=part.count,
            reward=part.reward,
            square=part.square,
            b=from_bytes(part.b, d, what=f"b of the baseline of arm {record.arm!r}"),
            A=unpack_symmetric(upper, d),
        )
        found[part.half_life_s] = Baseline(at_ms=part.at_ms, part=effective)
    return found


def encode_means(policy: str, means: Means, half_lives_s: tuple[float, ...]) -> bytes | None:
    """Record of means; None if it would be too large."""
    record = _Means(
        VERSION,
        policy,
        means.at_ms,
        means.model,
        half_lives_s,
        tuple(means.row),
        means.mean.astype("<f4", copy=False).tobytes(),
    )
    return msgspec.msgpack.encode(record) if means.mean.nbytes < MEANS_BYTES else None


def decode_means(data: bytes, model: str, half_lives_s: tuple[float, ...]) -> Means | None:
    """Means from their record; None if they are of another model or other half-lives. Raises RecordError."""
    record: _Means = versioned(data, _Means, VERSION, "a record of means")
    if record.model != model or record.half_lives_s != half_lives_s:
        return None
    length = len(record.mean) // 4
    mean = from_bytes(record.mean, length, what="means", dtype="<f4").astype(np.float32)
    row = {arm: i for i, arm in enumerate(record.arms)}
    tracks, arms = len(half_lives_s), len(row) + 1
    if length % (tracks * arms):
        raise RecordError(f"a record of means has {length} numbers for {tracks} tracks of {arms} arms")
    return Means(at_ms=record.at_ms, row=row, mean=mean.reshape(tracks, arms, -1), model=model)
