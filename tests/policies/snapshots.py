"""Snapshots for tests: two versions of a policy, of which the second changes arm a only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from policies.model import make_model
from policies.prior import Prior
from policies.snapshot import build
from tests.policies.batches import dyadic, take

if TYPE_CHECKING:
    from policies.snapshot import Snapshot
    from policies.sums import Model, Sums

PRIOR = Prior(mean=np.array([0.1, 0.0, 0.0]), tau2=np.array([1.0, 0.5, 0.5]), s2=0.25)


def only(arm: int, seed: int = 12) -> list[int]:
    """Rows of `dyadic(seed, 60)` of one arm."""
    chosen: list[int] = np.flatnonzero(dyadic(seed, 60).arm == arm).tolist()
    return chosen


def two_sums(model: Model) -> tuple[dict[str, Sums], dict[str, Sums]]:
    """Sums of 90 rows, and the same with more rows of arm a."""
    sums = model.update({}, dyadic(11, 90))
    return sums, model.update(sums, take(dyadic(12, 60), only(0), []))


def two() -> tuple[Snapshot, Snapshot]:
    """Versions 1 and 2."""
    model = make_model("linear", dimension=3)
    before, after = two_sums(model)
    one = build("front", model=model, sums=before, prior=PRIOR, version=1, previous=None, time_ms=5, now_ms=0)
    return one, build(
        "front", model=model, sums=after, prior=PRIOR, version=2, previous=one, time_ms=6, now_ms=0, changed={"a"}
    )
