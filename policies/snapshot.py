"""Snapshots: everything a decision needs, immutable, published as a head record and one record for each arm.

What a reader needs is here as values; their bytes are in policies/snapshot_records.py. An arm's record carries the
version of the snapshot that it was written with; arms whose numbers did not change keep it, so only changed arms are
written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from policies.allotment import NO_ALLOTMENT, Allotment
from policies.arm_features import prior_of
from policies.arms import showable
from policies.explorers import NO_RATES, check
from policies.posterior import ArmPosterior, BetaPosterior, posterior
from policies.prior import PRIORS, AnyPrior, BetaPrior
from policies.snapshot_records import (
    Arm,
    BetaArm,
    Head,
    LinearArm,
    arm_key,
    checksum,
    decode_arm,
    decode_head,
    encode_arm,
    encode_head_record,
    head_key,
    pack_lower,
)
from policies.stack import BetaStack, LinearStack, StudentStack, stack
from policies.sums import Effective, Model, RecordError, Sums

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from policies.canary import Canary

__all__ = [
    "Arm",
    "BetaArm",
    "Head",
    "LinearArm",
    "Snapshot",
    "arm_key",
    "assemble",
    "build",
    "decode_arm",
    "decode_head",
    "encode_arm",
    "encode_head",
    "exploring",
    "head_key",
    "records",
    "republish",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """A policy at one version.

    Attributes:
        policy: its name.
        version: grows with every snapshot of the policy.
        parent: version that this one followed, None for the first.
        time_ms: the publisher's clock when it was made, ms UTC.
        model: see `policies.model.MODELS`.
        dimension: d, length of the context.
        explorer: see `policies.explorers`.
        rates: the explorer's rate by its name, and "epsilon", the floor.
        reasons: why it differs from its parent, in words.
        prior: by which arms without a record are scored.
        encoder: fingerprint of the encoder that contexts came from, None if there is none.
        watermark_ms: watermark of each partition whose sums are included.
        offsets: next offsets by partition and topic ("impressions", "clicks") that the sums include.
        clicks_ts: newest event time of a click that is included, ms UTC; None if there is none.
        arms: record of each arm.
        checksum: CRC-32 over what the head and the arms say.
        paused: arms that are not to be shown.
        gone: names that are no arms any more, removed or renamed; not to be shown either, should somebody give them.
        allotment: terms of slots and budgets.
        canary: a changed policy that makes a share of the decisions (policies/decide_split.py); None if there is none.
        audit_share: of decisions drawn uniformly, for comparison; the explorer's floor is beside it.
        audit_sticky_s: seconds of the periods for which units stay in that share, 0 to draw it for each decision.
        logging: whether it is not to be decided from; follows: the policy that decides in its place, "" for none (streams/modes.py).
        succeeds: name of the policy whose decisions this one makes, None where there is none or it does not yet.
        shares: of its decisions that other policies make, by their names (policies/contest.py).
    """

    policy: str
    version: int
    parent: int | None
    time_ms: int
    model: str
    dimension: int
    explorer: str
    rates: dict[str, float]
    reasons: tuple[str, ...]
    prior: AnyPrior
    encoder: str | None = None
    watermark_ms: dict[int, int] = field(default_factory=dict)
    offsets: dict[int, dict[str, int]] = field(default_factory=dict)
    clicks_ts: int | None = None
    arms: dict[str, Arm] = field(default_factory=dict)
    checksum: int = 0
    paused: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    allotment: Allotment = NO_ALLOTMENT
    canary: Canary | None = None
    audit_share: float = 0.0
    audit_sticky_s: int = 0
    logging: bool = False
    follows: str = ""
    succeeds: str | None = None
    shares: Mapping[str, float] = field(default_factory=dict)

    @property
    def splits(self) -> bool:
        """Whether decisions are shared out, so that `policies.decide_split` makes them."""
        return self.canary is not None or self.audit_share > 0.0

    @cached_property
    def candidate(self) -> Snapshot | None:
        """The policy as the canary decides; None if there is none."""
        return None if self.canary is None else exploring(self, self.canary.explorer, self.canary.rates)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The arms' names, in the order of `stack`'s rows."""
        return tuple(self.arms)

    @cached_property
    def hidden(self) -> frozenset[str]:
        """Names that are not to be shown."""
        return frozenset((*self.paused, *self.gone))

    def showable(self, candidates: Sequence[str] | None) -> Sequence[str] | None:
        """The candidates that may be shown; None stays None (all) while nothing is hidden."""
        if not self.hidden:
            return candidates
        left = showable(self.names if candidates is None else candidates, self.hidden)
        return candidates if candidates is not None and len(left) == len(candidates) else left

    @cached_property
    def stack(self) -> LinearStack | StudentStack | BetaStack:
        """The arms' numbers as arrays, with the prior as the last row; made when first used."""
        return stack(self.arms, self.prior)

    @cached_property
    def count(self) -> float:
        """Number of impressions that its arms have learned from, undecayed."""
        return sum(arm.count for arm in self.arms.values())

    @cached_property
    def noise_sd(self) -> float:
        """Standard deviation of one reward around its expectation; of a mean arm's click for Beta arms."""
        if isinstance(self.prior, BetaPrior):
            rate = self.prior.a / (self.prior.a + self.prior.b)
            return math.sqrt(max(rate * (1.0 - rate), 1e-12))
        return math.sqrt(self.prior.s2)

    @property
    def alarms(self) -> tuple[str, ...]:
        """Arms whose sums could not be used, so that they are scored by the prior."""
        return tuple(name for name, arm in self.arms.items() if arm.alarm)

    @property
    def changed(self) -> dict[str, Arm]:
        """Arms whose record was written with this version."""
        return {name: arm for name, arm in self.arms.items() if arm.version == self.version}


def exploring(snapshot: Snapshot, explorer: str, rates: Mapping[str, float]) -> Snapshot:
    """The same arms with another explorer or other rates, sharing nothing out: what a canary decides from. It is not to be published."""
    other = replace(snapshot, explorer=explorer, rates=dict(rates), canary=None, audit_share=0.0)
    if not isinstance(snapshot.stack, BetaStack):  # which keeps laws that hold for its rates only
        vars(other)["stack"] = snapshot.stack
    return other


def build(
    policy: str,
    *,
    model: Model,
    sums: Mapping[str, Sums],
    prior: AnyPrior,
    version: int,
    previous: Snapshot | None,
    time_ms: int,
    now_ms: int,
    explorer: str = "thompson",
    rates: Mapping[str, float] = NO_RATES,
    reasons: Sequence[str] = (),
    encoder: str | None = None,
    watermark_ms: Mapping[int, int] | None = None,
    offsets: Mapping[int, Mapping[str, int]] | None = None,
    clicks_ts: int | None = None,
    changed: Collection[str] | None = None,
    read: Callable[[str, Sums], Effective] | None = None,
    paused: Sequence[str] = (),
    gone: Sequence[str] = (),
    allotment: Allotment = NO_ALLOTMENT,
    canary: Canary | None = None,
    audit_share: float = 0.0,
    audit_sticky_s: int = 0,
    logging: bool = False,
    follows: str = "",
    succeeds: str | None = None,
    shares: Mapping[str, float] | None = None,
) -> Snapshot:
    """Snapshot of merged sums under a prior. Arms whose numbers equal those of `previous` keep record and version.

    Args:
        policy: its name.
        model: what the sums belong to.
        sums: merged over partitions, one entry for each arm that is to be chosen from; `model.zero()` for a new one.
        prior: as fitted; see `policies.empirical_bayes`.
        version: above `previous.version`.
        previous: the snapshot before, None for the first.
        time_ms: the publisher's clock, ms UTC.
        now_ms: event time at which the sums are read.
        explorer, rates: how arms are chosen; see `policies.explorers.EXPLORERS`. Rates that are not given are the defaults.
        reasons, encoder, watermark_ms, offsets, clicks_ts, paused, gone, allotment, canary, audit_share, audit_sticky_s, logging, follows, succeeds,
            shares: see
            `Snapshot`.
        changed: arms whose sums changed since `previous`; the others are not computed anew if they have a record and
            the prior is the same. None computes all, which forgetting and pending rows need now and then.
        read: how the sums of an arm of that name count; None is `model.at` at `now_ms`.

    Raises:
        ValueError: explorer, rates, prior or version do not fit.
    """
    complete = check(explorer, rates)
    if previous is not None and version <= previous.version:
        raise ValueError(f"version = {version}: must be above the previous snapshot's, {previous.version}")
    if not isinstance(prior, PRIORS[model.name]):
        raise ValueError(
            f"prior is a {type(prior).__name__}, the model is {model.name!r}; fit the prior for the same model"
        )
    known: Mapping[str, Arm] = {} if previous is None else previous.arms
    keeps = changed is not None and previous is not None and previous.prior == prior
    arms: dict[str, Arm] = {}
    for name, total in sums.items():
        old = known.get(name)
        if keeps and old is not None and changed is not None and name not in changed:
            arms[name] = old
            continue
        effective = model.at(total, now_ms=now_ms) if read is None else read(name, total)
        new = _arm(posterior(prior_of(prior, name), effective), version, effective.count)
        arms[name] = old if old is not None and old.same(new) else new
    return _sealed(
        Snapshot(
            policy=policy,
            version=version,
            parent=None if previous is None else previous.version,
            time_ms=time_ms,
            model=model.name,
            dimension=model.dimension,
            explorer=explorer,
            rates=complete,
            reasons=tuple(reasons),
            prior=prior,
            encoder=encoder,
            watermark_ms=dict(watermark_ms or {}),
            offsets={partition: dict(next_) for partition, next_ in (offsets or {}).items()},
            clicks_ts=clicks_ts,
            arms=arms,
            paused=tuple(paused),
            gone=tuple(gone),
            allotment=allotment,
            canary=canary,
            audit_share=audit_share,
            audit_sticky_s=audit_sticky_s,
            logging=logging,
            follows=follows,
            succeeds=succeeds,
            shares={} if shares is None else dict(shares),
        )
    )


def _arm(found: ArmPosterior | BetaPosterior, version: int, count: float) -> Arm:
    if isinstance(found, BetaPosterior):
        return BetaArm(version=version, count=count, a=found.a, b=found.b, alarm=found.alarm)
    return LinearArm(
        version=version,
        count=count,
        mean=_narrow(found.mean),
        factor=_narrow(pack_lower(found.factor)),
        alarm=found.alarm,
        dof=found.dof,
    )


def _narrow(array: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    largest = float(np.finfo(np.float32).max)
    return np.clip(array, -largest, largest).astype(np.float32)


def republish(
    old: Snapshot,
    *,
    version: int,
    parent: int | None,
    time_ms: int,
    reasons: Sequence[str],
    paused: Sequence[str],
    gone: Sequence[str],
    allotment: Allotment = NO_ALLOTMENT,
    anew: bool = True,
) -> Snapshot:
    """An older snapshot under a new version: a rollback. Its policy is the old one in every field.

    Which arms are not to be shown, and the terms of slots and budgets, are of today: a budget that was spent since stays spent. A canary
    is left out. Arms' records are written anew, unless `anew` is False: compaction may have dropped those that the old head named, if
    it is not the newest.

    Raises:
        ValueError: `version` is not above those that there were.
    """
    if version <= max(old.version, old.version if parent is None else parent):
        raise ValueError(
            f"version = {version}: must be above {old.version} (what is republished) and {parent} (the parent)"
        )
    arms = {name: arm.at_version(version) for name, arm in old.arms.items()} if anew else old.arms
    return _sealed(
        replace(
            old,
            version=version,
            parent=parent,
            time_ms=time_ms,
            reasons=tuple(reasons),
            paused=tuple(paused),
            gone=tuple(gone),
            allotment=allotment,
            arms=arms,
            canary=None,
        )
    )


def records(snapshot: Snapshot, *, every_arm: bool = False) -> list[tuple[bytes, bytes]]:
    """Keys and values to write, in order: the arms that changed (or all), then the head."""
    arms = snapshot.arms if every_arm else snapshot.changed
    written = [(arm_key(snapshot.policy, name), encode_arm(snapshot.policy, name, arm)) for name, arm in arms.items()]
    return [*written, (head_key(snapshot.policy), encode_head(snapshot))]


def encode_head(snapshot: Snapshot) -> bytes:
    """Head record of a snapshot."""
    return encode_head_record(head_of(snapshot))


def head_of(snapshot: Snapshot) -> Head:
    """What the head record says of a snapshot."""
    return Head(
        policy=snapshot.policy,
        version=snapshot.version,
        parent=snapshot.parent,
        time_ms=snapshot.time_ms,
        model=snapshot.model,
        dimension=snapshot.dimension,
        explorer=snapshot.explorer,
        rates=snapshot.rates,
        reasons=snapshot.reasons,
        prior=snapshot.prior,
        encoder=snapshot.encoder,
        watermark_ms=snapshot.watermark_ms,
        offsets=snapshot.offsets,
        clicks_ts=snapshot.clicks_ts,
        arms={name: arm.version for name, arm in snapshot.arms.items()},
        checksum=snapshot.checksum,
        paused=snapshot.paused,
        gone=snapshot.gone,
        allotment=snapshot.allotment,
        canary=snapshot.canary,
        audit_share=snapshot.audit_share,
        audit_sticky_s=snapshot.audit_sticky_s,
        logging=snapshot.logging,
        follows=snapshot.follows,
        succeeds=snapshot.succeeds,
        shares=dict(snapshot.shares),
    )


def _sealed(snapshot: Snapshot) -> Snapshot:
    return replace(snapshot, checksum=checksum(head_of(snapshot), snapshot.arms))


def assemble(head: Head, arms: Mapping[str, bytes | Arm]) -> Snapshot | None:
    """Whole snapshot, or None while an arm's record of the version that the head names is missing.

    Args:
        head: from `decode_head`.
        arms: records by arm, as bytes or decoded; arms that the head does not name are left out.

    Raises:
        RecordError: the records do not add up to the head's checksum, or an arm does not fit the head's model.
    """
    found: dict[str, Arm] = {}
    for name, version in head.arms.items():
        record = arms.get(name)
        if record is None:
            return None
        arm = decode_arm(record) if isinstance(record, bytes) else record
        if arm.version != version:
            return None
        if not arm.fits(head.model, head.dimension):
            raise RecordError(
                f"arm {name!r} of policy {head.policy!r} is no arm of model {head.model!r} with d = {head.dimension}"
            )
        found[name] = arm
    actual = checksum(head, found)
    if actual != head.checksum:
        raise RecordError(
            f"snapshot {head.version} of policy {head.policy!r} has checksum {actual}, its head says {head.checksum}; "
            "records of different writers are mixed or one is damaged: wait for the next snapshot"
        )
    return Snapshot(
        policy=head.policy,
        version=head.version,
        parent=head.parent,
        time_ms=head.time_ms,
        model=head.model,
        dimension=head.dimension,
        explorer=head.explorer,
        rates=head.rates,
        reasons=head.reasons,
        prior=head.prior,
        encoder=head.encoder,
        watermark_ms=head.watermark_ms,
        offsets=head.offsets,
        clicks_ts=head.clicks_ts,
        arms=found,
        checksum=head.checksum,
        paused=head.paused,
        gone=head.gone,
        allotment=head.allotment,
        canary=head.canary,
        audit_share=head.audit_share,
        audit_sticky_s=head.audit_sticky_s,
        logging=head.logging,
        follows=head.follows,
        succeeds=head.succeeds,
        shares=head.shares,
    )
