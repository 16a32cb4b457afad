"""Made-up logs for outcomes by token: dyadic numbers, so that every order of addition gives the same float64 bits."""

from __future__ import annotations

import random
from typing import Any

from msgspec.structs import replace

from streams.events import Impression, Outcome
from streams.tokens import Keys, Signed, half, sign
from tests.oracle import ARMS, DIMENSION, POLICY

KEYS = Keys(signing=7, secrets={7: b"0123456789abcdef"})
START_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def token_of(shown: Impression, keys: Keys = KEYS) -> str:
    """The token that came with the decision of an impression."""
    return sign(
        Signed(
            decision_id=shown.decision_id,
            policy=shown.policy,
            slot=shown.slot,
            arm=shown.arm,
            propensity=shown.propensity,
            context=half(list(shown.context)),
            ts=shown.ts,
            snapshot=shown.snapshot,
        ),
        keys,
    )


def shown_at(rng: random.Random, name: str, ts: int, **more: Any) -> Impression:
    """One impression of the oracle's policy."""
    given = {"snapshot": 1, "propensity": 0.25} | more
    context = [rng.randrange(-16, 17) / 16 for _ in range(DIMENSION)]
    return Impression(
        decision_id=name, slot="top", policy=POLICY, arm=rng.choice(ARMS), context=context, ts=ts, **given
    )


def outcome_of(shown: Impression, outcome_id: str, delay_ms: int, **more: Any) -> Outcome:
    """An outcome so long after an impression."""
    return Outcome(
        decision_id=shown.decision_id, slot=shown.slot, outcome_id=outcome_id, ts=shown.ts + delay_ms, **more
    )


def days_late(seed: int, impressions: int, *, delay_ms: int) -> list[Impression | Outcome]:
    """Impressions each second, a third with one to three outcomes with tokens so much later; a tenth of all twice, some fallbacks."""
    rng = random.Random(seed)
    timed: list[tuple[float, Impression | Outcome]] = []
    for i in range(impressions):
        fallback = rng.random() < 0.05
        more = {"snapshot": None, "propensity": 1.0} if fallback else {"snapshot": rng.randrange(1, 13)}
        shown = shown_at(rng, f"d{i}", START_MS + 1000 * i, **more)
        timed += [(shown.ts + rng.uniform(0, 3_000), shown)] * rng.choice([1] * 9 + [2])
        for number in range(rng.choice([0, 0, 0, 0, 1, 2, 3]) if rng.random() < 0.7 else 0):
            kind, value = rng.choice(["click", "buy"]), float(rng.randrange(-2, 5))
            event = outcome_of(shown, f"o{number}", delay_ms, kind=kind, value=value, token=token_of(shown))
            timed += [(event.ts + rng.uniform(0, 3_000), event)] * rng.choice([1] * 9 + [2])
    for i in range(impressions // 4):  # the site goes on: event time moves in both topics
        shown = shown_at(rng, f"e{i}", START_MS + delay_ms + 4000 * i)
        timed.append((shown.ts + rng.uniform(0, 3_000), shown))
    return [event for _, event in sorted(timed, key=lambda pair: pair[0])]


def mixed(seed: int, impressions: int, *, step_ms: int, disagree: bool) -> list[Impression | Outcome]:
    """Outcomes with and without tokens, of one id too, early, in the window, hours late, too late, forged; arrival within seconds.

    With ``disagree`` two reports of one outcome may tell of different values.
    """
    rng = random.Random(seed)
    timed: list[tuple[float, Impression | Outcome]] = []

    def arrive(event: Impression | Outcome) -> None:
        timed.append((event.ts + rng.uniform(0, 6_000), event))
        if rng.random() < 0.15:
            timed.append((event.ts + rng.uniform(0, 12_000), event))

    for i in range(impressions):
        shown = shown_at(rng, f"d{i}", START_MS + i * step_ms)
        arrive(shown)
        if rng.random() < 0.4:
            continue
        for number in range(rng.choice([1, 1, 2, 3])):
            kind, value = rng.choice(["click", "buy"]), float(rng.randrange(-2, 5))
            delay = rng.choice([-2_000, -500, 0, 700, 4_000, 19_999, 24_000, HOUR_MS // 2, HOUR_MS - 1, HOUR_MS])
            by_token = outcome_of(shown, f"o{number}", delay, kind=kind, value=value, token=token_of(shown))
            plain = replace(by_token, token=None, value=value + disagree * rng.randrange(3))
            forged = replace(by_token, token=(by_token.token or "")[:-2] + "AA")
            for event in rng.choice([[by_token], [plain], [by_token, plain], [by_token, by_token], [forged, by_token]]):
                arrive(event)
    return [event for _, event in sorted(timed, key=lambda pair: pair[0])]
