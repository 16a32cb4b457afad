"""Traffic in which outcomes take each other back, for the crash tests: the oracle is `tests.oracle.fold`."""

from __future__ import annotations

import random
from typing import NamedTuple

from streams.events import Impression, Outcome
from tests.oracle import ARMS, DIMENSION, POLICY, Traffic

RETRACTION_S = 45.0
"""What the policy's retraction_window_s has to be."""


class Told(NamedTuple):
    """An outcome of a decision: its id, kind, value, delay in ms, and what it takes back."""

    outcome_id: str
    kind: str
    value: float
    delay_ms: int
    of: str | None


def mixture(seed: int, impressions: int, *, start_ms: int, step_ms: float = 5.0, tag: str = "d") -> Traffic:
    """Impressions every ``step_ms``, two fifths with outcomes of all kinds, a tenth of all twice, arrival disordered by seconds.

    What is taken back may come later or not at all, and so may the impression. All numbers are dyadic.
    """
    rng = random.Random(seed)
    timed: list[tuple[float, Impression | Outcome]] = []

    def arrive(ts: float, event: Impression | Outcome) -> None:
        timed.append((ts + rng.uniform(0, 3_000), event))
        if rng.random() < 0.1:
            timed.append((ts + rng.uniform(0, 6_000), event))

    for i in range(impressions):
        ts, name = start_ms + int(i * step_ms), f"{tag}{i}"
        context = [rng.randrange(-16, 17) / 16 for _ in range(DIMENSION)]
        shown = {"policy": POLICY, "snapshot": 1, "arm": rng.choice(ARMS), "propensity": 0.25, "context": context}
        arrive(ts, Impression(decision_id=name, slot="top", ts=ts, **shown))  # type: ignore[arg-type]
        for told in outcomes(rng) if rng.random() < 0.4 else ():
            outcome_id, kind, value, delay_ms, of = told
            when = ts + delay_ms
            more = {"outcome_id": outcome_id, "kind": kind, "value": value, "ts": when, "of": of}
            arrive(max(ts, when), Outcome(decision_id=name, slot="top", **more))  # type: ignore[arg-type]
    timed.sort(key=lambda pair: pair[0])
    return Traffic([event for _, event in timed])


def outcomes(rng: random.Random) -> list[Told]:
    """What follows one impression: most are seen; what takes something back names any of the outcomes, or one that never comes."""
    found: list[Told] = []
    early_or_late = [-2_000, -2_001, 0, 700, 4_000, 11_000, 19_999, 20_000, 24_000]
    if rng.random() < 0.7:
        found.append(Told("seen", "viewable", 1.0, rng.choice(early_or_late), None))
    found.extend(
        Told(
            f"o{number}",
            rng.choice(["click", "click", "buy"]),
            float(rng.randrange(5)),
            rng.choice(early_or_late),
            None,
        )
        for number in range(rng.choice([0, 1, 1, 2]))
    )
    later = [-1_000, 0, 0, 3_000, 9_000, 20_000, 31_000, 44_999, 45_000]
    for number in range(rng.choice([0, 1, 1, 2])):
        kind = rng.choice([*["retraction", "refund"] * 4, "invalid"])
        of = None if kind == "invalid" else rng.choice(["seen", "o0", "o0", "o0", "o1", "o1", "t0", "never"])
        found.append(Told(f"t{number}", kind, rng.randrange(9) / 2, rng.choice(later), of))
    return [one for one in found if one.of != one.outcome_id]
