"""How sums are read under a policy's meta-state: by the weights of the delays, and without what is not to be believed any more.

A baseline belongs to an arm and a track: tracks forget at their own half-lives, so each subtracts its own part.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from policies.baseline import NOTHING_KEPT, Baseline, cut, read

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from policies.meta_state import MetaState
    from policies.sums import Effective, Model, Sums

Baselines = dict[str, dict[float, Baseline]]
"""By arm and half-life in seconds."""


def read_arm(
    model: Model,
    sums: Sums,
    *,
    now_ms: int,
    half_life_s: float = 0.0,
    weights: Sequence[float] | None = None,
    baseline: Baseline | None = None,
) -> Effective:
    """An arm's sums as they count at `now_ms`, or at its newest event or its last cut if that is later.

    >>> from policies.model import make_model
    >>> model = make_model("beta", dimension=0)
    >>> read_arm(model, model.zero(), now_ms=5).n_eff
    0.0
    """
    at_ms = max(now_ms, sums.newest_ms, now_ms if baseline is None else baseline.at_ms)
    effective = model.at(sums, now_ms=at_ms, weights=weights)
    return read(effective, baseline, now_ms=at_ms, half_life_s=half_life_s)


def reset(
    state: MetaState,
    arm: str,
    tracks: Mapping[float, tuple[Model, Sums]],
    before: Mapping[float, Baseline],
    *,
    now_ms: int,
    kept: float = NOTHING_KEPT,
) -> tuple[MetaState, dict[float, Baseline], str]:
    """State and the arm's baselines after a cut that keeps a share of what is read, and the reason in words.

    Args:
        state: of the policy.
        arm: its name.
        tracks: model and the arm's merged sums by half-life.
        before: baselines of the arm by half-life, those that there are.
        now_ms: event time of the cut.
        kept: `DRIFT_KEPT` after an alarm, `NOTHING_KEPT` after an announced change: the arm is its prior again.
    """
    after: dict[float, Baseline] = {}
    latest = now_ms
    for half_life_s, (model, sums) in tracks.items():
        old = before.get(half_life_s)
        at_ms = max(now_ms, sums.newest_ms, now_ms if old is None else old.at_ms)
        effective = model.at(sums, now_ms=at_ms, weights=state.weights)
        after[half_life_s] = cut(effective, old, now_ms=at_ms, kept=kept, half_life_s=half_life_s)
        latest = max(latest, at_ms)
    reason = (
        f"arm {arm!r} reset by an announced change" if kept == NOTHING_KEPT else f"arm {arm!r} changed: {kept:.0%} kept"
    )
    tests = {name: test for name, test in state.tests.items() if name != arm}
    if arm in state.tests:
        tests[arm] = replace(state.tests[arm], fallen=0.0, risen=0.0)
    return replace(state, tests=tests, since_ms={**state.since_ms, arm: latest}), after, reason
