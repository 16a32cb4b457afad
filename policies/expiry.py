"""Sums of arms that nobody shows any more expire; which rows count follows from event times in the order of the log.

With the arm's newest impression at N (ms, a running maximum), the next one at t opens a new life of the arm if t - N is above
the expiry E: what came before counts no more, and N is its floor. Rows at or below the floor are not added, so a click
that is joined later than its arm came back does not count either, however reading was timed.

Dropping the sums is housekeeping that this makes invisible: once the watermark W is above N + E + hold, where an impression is
accepted only above W - hold, every impression to come opens a new life, and no click of the old one can be joined.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from policies.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policies.sums import Sums

NEVER = -(1 << 62)
"""Newest event of an arm that had none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """What is left of a batch.

    Attributes:
        batch: the rows that count.
        floors: of the arms that came back in this batch, the newest event (ms) of their last life; the sums that they had
            before it do not count any more.
    """

    batch: Batch
    floors: dict[str, int]


def admit(sums: Mapping[str, Sums], floors: Mapping[str, int], batch: Batch, *, expire_ms: int) -> Admitted:
    """The rows of a batch that count.

    Args:
        sums: by arm, before the batch.
        floors: by arm, of those that came back before.
        batch: impressions in the order of the log; changes of reward in any.
        expire_ms: E, above 0.

    >>> x = np.zeros((3, 0))
    >>> batch = Batch(arms=("a",), arm=np.zeros(3, int), x=x, ts=np.array([5, 200, 4]), reward_arm=np.zeros(1, int),
    ...     reward_x=x[:1], reward_ts=np.array([5]), reward=np.ones(1), square=np.ones(1))
    >>> left = admit({}, {}, batch, expire_ms=100)
    >>> left.batch.ts.tolist(), left.batch.reward_ts.tolist(), left.floors
    ([200], [], {'a': 5})
    """
    newest = np.array([sums[arm].newest_ms if arm in sums else NEVER for arm in batch.arms], np.int64)
    back: dict[str, int] = {}
    for code in _gaps(newest, batch, expire_ms):
        floor = _floor(int(newest[code]), batch.ts[batch.arm == code], expire_ms)
        if floor is not None:
            back[batch.arms[code]] = floor
    if not back and not floors:
        return Admitted(batch=batch, floors={})
    limits = np.array([back.get(arm, floors.get(arm, NEVER)) for arm in batch.arms], np.int64)
    return Admitted(batch=_above(batch, limits), floors=back)


def expired(sums: Mapping[str, Sums], *, watermark_ms: int | None, expire_ms: int, hold_ms: int) -> tuple[str, ...]:
    """Arms whose sums can be dropped: nothing to come can count with them.

    Args:
        sums: by arm.
        watermark_ms: W, None if there is none yet.
        expire_ms: E; 0 is never.
        hold_ms: an impression is accepted while its time plus this is above the watermark.

    >>> from policies.model import make_model
    >>> zero = make_model("beta", dimension=0).zero()
    >>> expired({"a": zero}, watermark_ms=10, expire_ms=5, hold_ms=2), expired({"a": zero}, watermark_ms=10, expire_ms=0, hold_ms=2)
    (('a',), ())
    """
    if watermark_ms is None or expire_ms == 0:
        return ()
    return tuple(arm for arm, one in sums.items() if one.newest_ms + expire_ms + hold_ms < watermark_ms)


def _gaps(newest: npt.NDArray[np.int64], batch: Batch, expire_ms: int) -> list[int]:
    """Arms that may have come back: their times, the newest before included, span more than the expiry."""
    least = np.where(newest == NEVER, np.iinfo(np.int64).max, newest)
    most = newest.copy()
    np.minimum.at(least, batch.arm, batch.ts)
    np.maximum.at(most, batch.arm, batch.ts)
    spans: list[int] = np.flatnonzero((most != NEVER) & (most > least + expire_ms)).tolist()
    return spans


def _floor(newest: int, ts: Any, expire_ms: int) -> int | None:
    """The running maximum before the last row that is more than the expiry above it; None without such a row."""
    before = np.maximum.accumulate(np.concatenate(([newest], ts)))[:-1]
    back = np.flatnonzero((before != NEVER) & (ts > before + expire_ms))
    return int(before[back[-1]]) if len(back) else None


def _above(batch: Batch, limits: npt.NDArray[np.int64]) -> Batch:
    shown = batch.ts > limits[batch.arm]
    paid = batch.reward_ts > limits[batch.reward_arm]
    if shown.all() and paid.all():
        return batch
    return batch.only(shown, paid)
