"""How much a running policy explores, moved by roll-outs: state, the cut that a roll-out plays from, and what it decides.

A roll-out takes seconds, so it is played beside the stream on a **cut**: arms, prior, recent contexts and hazards as they were at
given offsets, and a seed made of these. What it decides is a function of the cut and of nothing else, so that a replay with the same
cuts gives the same decisions, whenever and wherever they are played. A cut that a crash loses is not in the state that was written: the
next leader makes another.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from policies.exploring import Hazard, Seen, by_roll_outs, forgotten
from policies.meta_rules import ALPHAS, Rules
from policies.rollout_plan import NUMPY

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from policies.prior import AnyPrior
    from policies.sums import Effective

RING = 256
"""Recent contexts that roll-outs are played on."""
RING_BYTES = 1_000_000
"""What they may take in the record of the state; of long contexts fewer are kept."""

Offsets = dict[int, dict[str, int]]
"""Next offsets by partition and topic, as in `policies.snapshot.Snapshot`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exploration:
    """State of one policy's exploration.

    Attributes:
        alpha: rate that decides; `given`: that of the settings, from which it began.
        hazard: of announced changes.
        count: impressions in the sums when they were last looked at.
        events: impressions that had come by then since the last cut; `at_ms`: event time of the cut, ms UTC, -1 before the first.
        announced_ms: the last announced change that is in the hazard, ms UTC.
        ring: (m, d) recent contexts, float32.
        cut: offsets of the sums at the last cut whose roll-out was heard.
    """

    alpha: float
    given: float
    hazard: Hazard = field(default_factory=Hazard)
    count: float = 0.0
    events: float = 0.0
    at_ms: int = -1
    announced_ms: int = -1
    ring: npt.NDArray[np.float32]
    cut: Mapping[int, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Now:
    """What a cut is made of beside the state.

    Attributes:
        arms: sums of the arms that may be shown, as they count now.
        prior: of arms.
        count: impressions in all sums.
        now_ms: event time, ms UTC.
        announced: by arm, the last announced change that was heeded, ms UTC.
        offsets: of the sums.
        half_life_s: of the track that decides; 0 forgets nothing.
        mean_delay_s: of the clicks; NaN where it is not known.
    """

    arms: Mapping[str, Effective]
    prior: AnyPrior
    count: float
    now_ms: int
    announced: Mapping[str, int]
    offsets: Mapping[int, Mapping[str, int]]
    half_life_s: float = 0.0
    mean_delay_s: float = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cut:
    """All that a roll-out depends on; `state` is what the exploration is at the cut, until something is decided."""

    state: Exploration
    seen: Seen
    rules: Rules
    seed: int


def first_exploration(given: float, *, dimension: int) -> Exploration:
    """Before any row: the settings' rate.

    >>> first_exploration(0.3, dimension=2).alpha
    0.3
    """
    return Exploration(alpha=given, given=given, ring=np.zeros((0, dimension), np.float32))


def with_contexts(state: Exploration, x: npt.NDArray[np.floating]) -> Exploration:
    """With the contexts (n, d) of more matured rows, the newest last.

    >>> with_contexts(first_exploration(0.3, dimension=1), np.ones((300, 1))).ring.shape
    (256, 1)
    """
    most = max(1, min(RING, RING_BYTES // (4 * max(x.shape[1], 1))))
    return replace(state, ring=np.concatenate([state.ring, x.astype(np.float32)])[-most:])


def grid(given: float) -> tuple[float, ...]:
    """Rates that are compared: the usual ones and the settings'.

    >>> grid(0.4)
    (0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
    """
    return tuple(sorted({*ALPHAS, given}))


def counted(state: Exploration, count: float) -> Exploration:
    """With what the sums hold now: sums that went, of arms that expired or were removed, take away nothing that came since the last cut.

    >>> lost = counted(counted(first_exploration(0.3, dimension=0), 1000.0), 600.0)
    >>> lost.events, counted(lost, 750.0).events
    (1000.0, 1150.0)
    """
    return replace(state, events=_events(state, count), count=count)


def is_due(state: Exploration, rules: Rules, count: float) -> bool:
    """Whether enough impressions have come since the last cut, and there are contexts to play on.

    >>> is_due(first_exploration(0.3, dimension=0), Rules(model="beta", dimension=0, every=100), 100.0)
    True
    """
    return _events(state, count) >= rules.every and (rules.model == "beta" or len(state.ring) > 0)


def make_cut(state: Exploration, now: Now, *, policy: str, rules: Rules) -> Cut:
    """What a roll-out plays from. `rules`: its alphas, plan and `sure` count; its delay is put in from what is known.

    >>> from policies.prior import BetaPrior
    >>> now = Now(arms={}, prior=BetaPrior(a=1.0, b=9.0), count=5000.0, now_ms=5, announced={}, offsets={0: {"clicks": 3}})
    >>> rules = Rules(model="beta", dimension=0)
    >>> one, same = (make_cut(first_exploration(0.3, dimension=0), now, policy="p", rules=rules) for _ in range(2))
    >>> one.seed == same.seed, decided(one)[1]
    (True, '')
    """
    events = _events(state, now.count)
    passed_s = max(now.now_ms - state.at_ms, 1) / 1000.0
    pace_s = passed_s / max(events, 1.0) if state.at_ms >= 0 else 0.0
    changes = [at for at in now.announced.values() if at > state.announced_ms]
    after = replace(
        state,
        hazard=state.hazard.plus(len(changes), arms=len(now.arms), events=round(events)),
        count=now.count,
        events=0.0,
        at_ms=now.now_ms,
        announced_ms=max(changes, default=state.announced_ms),
        cut={partition: dict(of) for partition, of in now.offsets.items()},
    )
    seen = Seen(
        prior=now.prior,
        arms=dict(sorted(now.arms.items())),  # luck is dealt out in this order
        groups=None,
        contexts=state.ring.astype(np.float64),
        announced=after.hazard.rate,
        unannounced=forgotten(now.half_life_s, pace_s),
    )
    known = pace_s > 0.0 and np.isfinite(now.mean_delay_s)
    alphas = grid(state.given)
    delay = now.mean_delay_s / pace_s if known else 0.0
    rules = replace(rules, alphas=alphas, default=alphas.index(state.given), delay=delay)
    return Cut(state=after, seen=seen, rules=rules, seed=_seed(policy, after.cut))


def decided(cut: Cut) -> tuple[Exploration, str]:
    """The exploration after the roll-out of a cut, and in words what changed, "" if nothing did."""
    alphas = cut.rules.alphas
    before = alphas.index(cut.state.alpha) if cut.state.alpha in alphas else cut.rules.default
    rng = np.random.default_rng(cut.seed)
    chosen, reason = by_roll_outs(cut.seen, before, cut.rules, rng=rng, arrays=NUMPY)
    if not reason:
        return cut.state, ""
    return replace(cut.state, alpha=alphas[chosen]), f"{reason}, from {cut.state.count:.0f} impressions"


def _events(state: Exploration, count: float) -> float:
    """Impressions since the last cut."""
    return state.events + max(count - state.count, 0.0)


def _seed(policy: str, offsets: Mapping[int, Mapping[str, int]]) -> int:
    """Of the policy's name and the offsets, whatever their order."""
    told = msgspec.json.encode([policy, sorted((partition, sorted(of.items())) for partition, of in offsets.items())])
    return int.from_bytes(hashlib.sha256(told).digest()[:8], "big")
