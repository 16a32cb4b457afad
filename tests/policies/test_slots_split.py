"""Pages that are shared out: what is logged is a probability, whatever the shares round to."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from policies.canary import Canary
from policies.decide_slots import decide_slots
from policies.explorers import check
from policies.slots_split import decide_slots_split
from tests.policies.snapshots import two


def test_shares_that_round_to_more_than_one_log_no_more_than_certainty() -> None:
    """One candidate is certain for every audit share and every canary's share, and a second slot surely empty."""
    rates = check("ucb", {"epsilon": 0.0})
    snapshot = replace(two()[1], explorer="ucb", rates=rates)
    page = partial(
        decide_slots,
        context=np.ones(3),
        candidates=snapshot.names[:1],
        kappa=np.array([1.0, 0.5]),
        rng=np.random.default_rng(1),
    )
    rounded = 0
    for audit_share in (0.08, 0.1, 0.3):
        for share in (0.2, 0.3, 0.7):
            canary = Canary(number=1, share=share, salt="s", explorer="ucb", rates=rates)
            shared = replace(snapshot, canary=canary, audit_share=audit_share)
            found, _ = decide_slots_split(shared, page, key="d1")
            assert found.arms[1] is None
            assert all(0.0 <= p <= 1.0 for p in found.propensity)
            assert found.allocation.probabilities.max() <= 1.0
            assert min(found.propensity) > 1.0 - 1e-12
            rounded += (1.0 - audit_share) * (1.0 - share) + (1.0 - audit_share) * share + audit_share > 1.0
    assert rounded
