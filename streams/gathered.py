"""Rows of one policy on their way into the sums: gathered, put into one batch, and told which references they go by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from policies.batch import Batch
from policies.references import References, refer
from policies.robust import clip_contexts
from streams.decoded import Impressions
from streams.join import Joined


@dataclass(slots=True)
class Gathered:
    """Rows of one policy that wait to be added to the sums.

    ``entering``, ``leaving``: outcomes whose impressions they let into the sums or take out of them.
    """

    impressions: list[Impressions] = field(default_factory=list)
    joined: list[Joined] = field(default_factory=list)
    rows: int = 0
    entering: list[Joined] = field(default_factory=list)
    leaving: list[Joined] = field(default_factory=list)

    def add(self, row: Joined) -> None:
        """Take an outcome that changes the sums."""
        self.joined.append(row)
        if row.enters:
            (self.entering if row.enters > 0 else self.leaving).append(row)

    @property
    def versions(self) -> list[npt.NDArray[np.integer[Any]]]:
        """Versions that the rows' impressions name, in parts."""
        joined = np.array([row.snapshot for row in self.joined], np.int64)
        return [*(group.snapshot for group in self.impressions), joined]


def to_batch(gathered: Gathered, names: Sequence[str], dimension: int, *, limit: float | None = None) -> Batch:
    """Gathered rows as a batch for the model, contexts cut to ``limit``."""
    groups, joined = gathered.impressions, gathered.joined
    return Batch(
        arms=tuple(names),
        arm=_concatenate([group.arm for group in groups], np.intp),
        x=clip_contexts(_concatenate([group.x for group in groups], None, dimension), limit),
        ts=_concatenate([group.ts for group in groups], np.int64),
        reward_arm=np.array([row.arm for row in joined], np.intp),
        reward_x=clip_contexts(np.array([row.x for row in joined], np.float64).reshape(len(joined), dimension), limit),
        reward_ts=np.array([row.impression_ts for row in joined], np.int64),
        reward=np.array([row.change for row in joined], np.float64),
        square=np.array([row.square for row in joined], np.float64),
    )


def parts(gathered: Gathered, policy: str) -> tuple[Gathered, Gathered | None]:
    """What is added to the sums, and the impressions that are taken out of them again, None if there are none."""
    if gathered.entering:
        shown = [*gathered.impressions, impressions_of(gathered.entering, policy)]
        gathered = Gathered(shown, gathered.joined, leaving=gathered.leaving)
    return gathered, Gathered([impressions_of(gathered.leaving, policy)]) if gathered.leaving else None


def impressions_of(rows: Sequence[Joined], policy: str) -> Impressions:
    """The impressions that n > 0 outcomes of one policy belong to."""
    return Impressions(
        policy=policy,
        key=np.array([row.click.key for row in rows], np.uint64),
        slot=np.array([row.slot for row in rows], np.int32),
        arm=np.array([row.arm for row in rows], np.int32),
        ts=np.array([row.impression_ts for row in rows], np.int64),
        offset=np.array([row.impression_offset for row in rows], np.int64),
        row=np.array([row.impression_row for row in rows], np.int32),
        snapshot=np.array([row.snapshot for row in rows], np.int32),
        propensity=np.array([row.propensity for row in rows], np.float64),
        x=np.array([row.x for row in rows]),
        flags=np.array([row.flags for row in rows], np.uint8),
    )


def _concatenate(parts: list[Any], dtype: Any, dimension: int | None = None) -> Any:
    if not parts:
        return np.zeros(0, dtype) if dimension is None else np.zeros((0, dimension), np.float64)
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return whole if dtype is None else whole.astype(dtype, copy=False)


def positioned(
    batch: Batch, gathered: Gathered, known: References, slots: Sequence[str], start: Mapping[str, float]
) -> Batch:
    """The batch with each context scaled by its slot's position effect: P(click) = kappa x^T theta (science: position-based model).

    Args:
        batch: of the gathered rows.
        gathered: the rows.
        known: references of the policy, which hold the effects of the versions that the impressions name.
        slots: names of the slots.
        start: effects of the settings.
    """
    groups, joined = gathered.impressions, gathered.joined
    shown = known.kappa(
        _concatenate([group.snapshot for group in groups], np.int64),
        _concatenate([group.slot for group in groups], np.intp),
        slots,
        start,
    )
    rewarded = known.kappa(
        np.array([row.snapshot for row in joined], np.int64),
        np.array([row.slot for row in joined], np.intp),
        slots,
        start,
    )
    return replace(batch, x=batch.x * shown[:, None], reward_x=batch.reward_x * rewarded[:, None])


def referred(batch: Batch, gathered: Gathered, known: References, *, linearised: bool, limit: float | None) -> Batch:
    """The batch of gathered rows by the versions that their impressions name; see `policies.references.refer`."""
    return refer(
        batch,
        known,
        _concatenate([group.snapshot for group in gathered.impressions], np.int64),
        np.array([row.snapshot for row in gathered.joined], np.int64),
        np.array([row.before for row in gathered.joined], np.float64),
        linearised=linearised,
        limit=limit,
    )
