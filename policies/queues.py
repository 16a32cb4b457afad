"""Queues of arms with a floor or a ceiling, from what ledgers say was shown (policies/exposure.py, in impressions).

Queues count impressions, L_a <- max(0, L_a + f_a n - shown_a) and H_a alike, of which an
arm's bonus is eta pbar (L_a - H_a); pbar, the mean value of a shown slot, is earned/impressions of the ledger. The queue of an arm that
cannot be shown, hidden or of a closed budget, stands still; none exceeds MOST_MISSING.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from policies.exposure import ETA, Exposure, counted
from policies.terms import Queue, TermsState

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from policies.ledger import Ledger

MOST_MISSING = 100.0 / ETA
"""Longest queue in impressions: a bonus of 100 times the mean value of a slot, which wins any slot."""


def queued(
    state: TermsState,
    ledger: Ledger,
    shares: Mapping[str, tuple[float, float]],
    *,
    standing: Collection[str] = (),
) -> TermsState:
    """Queues after what the ledger says was shown since the last step.

    Args:
        state: as of the last step.
        ledger: merged over partitions.
        shares: floor and ceiling of every arm that has one of them.
        standing: arms that cannot be shown now, whose queues stand still.
    """
    before = {arm: state.queues.get(arm, Queue(shown=ledger.shown.get(arm, 0))) for arm in shares}
    n = ledger.impressions - (ledger.impressions if state.impressions is None else state.impressions)
    counts = np.array([ledger.shown.get(arm, 0) - one.shown for arm, one in before.items()], float)
    is_step = n > 0 and bool((counts >= 0.0).all()) and counts.sum() <= n  # else the ledger began anew
    exposure = Exposure(
        floor=np.array([floor for floor, _ in shares.values()] + [0.0]),
        ceiling=np.array([ceiling for _, ceiling in shares.values()] + [1.0]),
        low=np.array([one.low for one in before.values()] + [0.0]),
        high=np.array([one.high for one in before.values()] + [0.0]),
    )
    if is_step:
        exposure = counted(exposure, np.append(counts, n - counts.sum()), pbar=1.0, eta=1.0)
    lows, highs = np.minimum(exposure.low, MOST_MISSING).tolist(), np.minimum(exposure.high, MOST_MISSING).tolist()
    queues = {
        arm: Queue(
            low=one.low if arm in standing else lows[i],
            high=one.high if arm in standing else highs[i],
            shown=ledger.shown.get(arm, 0),
        )
        for i, (arm, one) in enumerate(before.items())
    }
    pbar = ledger.earned / ledger.impressions if ledger.impressions and ledger.earned > 0.0 else state.pbar
    return replace(state, queues=queues, impressions=ledger.impressions, pbar=pbar)
