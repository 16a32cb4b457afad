"""A made-up log, and what its sums are when one thread reads it from beginning to end: the truth of the crash tests.

Contexts and rewards are dyadic, so every order of addition gives the same float64 bits.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from streams.events import Impression, Outcome

POLICY = "front"
DIMENSION = 4
ARMS = [f"ad-{i}" for i in range(5)]
WINDOW_S = 20.0
EARLY_S = 2.0
GRACE_S = 30.0
WORTH = {"click": 1.0, "buy": 4.0}
CHANCE = {"click": 0.25, "buy": 1.0}
"""What the model logistic takes: no outcome is worth more than 1."""


def config(model: str = "linear", more: str = "") -> str:
    """The policy's settings, with ``more`` lines."""
    worth = CHANCE if model == "logistic" else WORTH
    return f"""
[policies.{POLICY}]
model = "{model}"
dimension = {DIMENSION}
window_s = {WINDOW_S}
early_s = {EARLY_S}
grace_s = {GRACE_S}
outcomes = {{ click = {worth["click"]}, buy = {worth["buy"]} }}
{more}
"""


CONFIG = config()


@dataclass(frozen=True)
class Traffic:
    """Events in the order in which they are produced; each list entry is one impression or one outcome."""

    events: list[Impression | Outcome]


@dataclass
class ArmSums:
    """Sums of one arm: n, reward, square (of rewards), b (d,), A (d, d)."""

    n: float = 0.0
    reward: float = 0.0
    square: float = 0.0
    b: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(DIMENSION))
    A: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((DIMENSION, DIMENSION)))


def traffic(seed: int, impressions: int, *, start_ms: int, step_ms: float = 5.0, tag: str = "d") -> Traffic:
    """Impressions every ``step_ms`` of event time, a fifth with outcomes; a tenth of all twice; arrival disordered by seconds.

    Outcomes are early, in time, exactly on the edges or late; some belong to nobody.
    """
    rng = random.Random(seed)
    timed: list[tuple[float, Impression | Outcome]] = []

    def arrive(ts: float, event: Impression | Outcome) -> None:
        timed.append((ts + rng.uniform(0, 3_000), event))
        if rng.random() < 0.1:
            timed.append((ts + rng.uniform(0, 6_000), event))

    for i in range(impressions):
        ts = start_ms + int(i * step_ms)
        name = f"{tag}{i}"
        context = [rng.randrange(-16, 17) / 16 for _ in range(DIMENSION)]
        arrive(
            ts,
            Impression(
                decision_id=name,
                slot="top",
                policy=POLICY,
                snapshot=1,
                arm=rng.choice(ARMS),
                propensity=0.25,
                context=context,
                ts=ts,
            ),
        )
        if rng.random() < 0.2:
            for number in range(rng.choice([1, 1, 2])):
                delay = rng.choice([-2_000, -2_001, -500, 0, 700, 4_000, 11_000, 19_999, 20_000, 24_000])
                kind = rng.choice(["click", "click", "buy"])
                arrive(
                    ts + max(0, delay),
                    Outcome(
                        decision_id=name,
                        slot="top",
                        outcome_id=f"o{number}",
                        kind=kind,
                        value=float(rng.randrange(5)),
                        ts=ts + delay,
                    ),
                )
        if rng.random() < 0.01:
            arrive(ts, Outcome(decision_id=f"nobody-{i}", slot="top", outcome_id="o0", ts=ts))
    timed.sort(key=lambda pair: pair[0])
    return Traffic([event for _, event in timed])


def fold(
    events: list[Impression | Outcome], model: str = "linear", *, viewable: bool = False, retraction_s: float = WINDOW_S
) -> tuple[dict[str, ArmSums], set[tuple[str, str, str]]]:
    """Sums by arm and the outcomes that count, by set semantics.

    Logistic around zero: each impression adds x x^T / 4 to A and -x/2 to b. Beta has neither. With ``viewable`` an impression counts
    if it was seen; ``retraction_s``: time for what takes something back.
    """
    worth = CHANCE if model == "logistic" else WORTH
    curvature, pull = (0.25, 0.5) if model == "logistic" else (1.0, 0.0)
    shown: dict[tuple[str, str], Impression] = {}
    for event in events:
        if isinstance(event, Impression):
            shown.setdefault((event.decision_id, event.slot), event)
    followed: dict[tuple[str, str], dict[str, Outcome]] = {place: {} for place in shown}
    for event in events:
        if isinstance(event, Impression) or (event.decision_id, event.slot) not in shown:
            continue
        if event.kind == "viewable" and not viewable:
            continue  # dead: the policy does not list it
        impression = shown[event.decision_id, event.slot]
        end_s = retraction_s if event.kind in ("retraction", "refund", "invalid") else WINDOW_S
        if -EARLY_S * 1000 <= event.ts - impression.ts < end_s * 1000:
            followed[event.decision_id, event.slot].setdefault(event.outcome_id, event)
    sums: dict[str, ArmSums] = {}
    for place, impression in shown.items():
        reward = earned(followed[place], worth, viewable=viewable)
        if reward is None:
            continue
        x = np.array(impression.context)
        arm = sums.setdefault(impression.arm, ArmSums())
        arm.n += 1
        arm.reward += reward
        arm.square += reward * reward
        arm.A += curvature * np.outer(x, x)
        arm.b += (reward - pull) * x
    if model == "beta":
        for arm in sums.values():
            arm.b, arm.A = np.zeros(0), np.zeros(0)
    return sums, {(*place, name) for place, outcomes in followed.items() for name in outcomes}


def earned(outcomes: dict[str, Outcome], worth: dict[str, float], *, viewable: bool) -> float | None:
    """The reward of an impression with these outcomes by their ids, summed; None if it does not count."""
    left = dict(outcomes)
    for one in outcomes.values():
        if one.kind == "retraction" and one.of in left and outcomes[one.of].kind != "retraction":
            del left[one.of]
    kinds = [one.kind for one in left.values()]
    if "invalid" in kinds or (viewable and "viewable" not in kinds):
        return None
    reward = 0.0
    for name, one in left.items():
        if one.kind in worth:
            refunded = sum(other.value for other in left.values() if other.kind == "refund" and other.of == name)
            reward += worth[one.kind] * max(one.value - refunded, 0.0)
    return reward
