"""What attribution by unit costs: `python -m benchmarks.attribution [--touches 200000]`, half a minute on one core, no broker.

Prints, as JSON, in CPU time: microseconds for an impression to be decoded and joined with and without attribution (JSON, 8 features), bytes
for each remembered touch, conversions a second that one partition's state takes and gives out, and seconds of a rebuild.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import sys
import time
from typing import Any

import msgspec

from streams.attribution_rules import attribution_rules
from streams.attribution_state import AttributionState
from streams.conversions import Conversion, encode_conversion
from streams.events import Impression, encode
from streams.horizon import CONVERSIONS
from streams.reading import SimpleRecord
from streams.rules import rules
from streams.settings import Settings
from streams.state import Fetched, PartitionState
from streams.unit_numbers import unit_numbers

NOW = 10**12
BATCH = 5_000


def settings(*, attributing: bool) -> Settings:
    """A policy of 8 features and a window of an hour."""
    policy: dict[str, Any] = {
        "dimension": 8,
        "window_s": 3_600,
        "outcomes": {"click": 1.0, "purchase": 5.0},
    }
    if attributing:
        policy["attribution"] = {"kinds": ["purchase"], "window_s": 3_600}
    return Settings(partitions=1, policies={"front": policy})


def learner_us(*, attributing: bool, rows: int = 100_000) -> float:
    """Microseconds for each impression, the best of three."""
    values = [
        encode(
            Impression(
                decision_id=f"decision-{i}",
                slot="top",
                policy="front",
                snapshot=1,
                arm=f"a{i % 20}",
                propensity=0.5,
                context=[0.5] * 8,
                ts=NOW + i,
                unit=f"user-{i * 7919 % 50_000:08d}",
            )
        )
        for i in range(rows)
    ]
    best = float("inf")
    for _ in range(3):
        state = PartitionState(0, rules=rules(settings(attributing=attributing)))
        batches = [
            Fetched("impressions", 0, at, at + BATCH, records(values[at : at + BATCH], at))
            for at in range(0, rows, BATCH)
        ]
        began = time.process_time()
        for batch in batches:
            state.take(batch)
        best = min(best, time.process_time() - began)
    return best / rows * 1e6


def records(values: list[bytes], first: int) -> list[SimpleRecord]:
    """Records of these values."""
    return [SimpleRecord(first + i, NOW * 2, b"", value, []) for i, value in enumerate(values)]


def attributor(touches: int) -> dict[str, float]:
    """One partition that remembers so many touches and gives out a tenth as many conversions."""
    state = a_state(None)
    units = [f"user-{i % (touches // 4):08d}" for i in range(touches)]
    numbers = [f"{number:016x}" for number in unit_numbers(units).tolist()]
    kept = [
        msgspec.json.encode(
            {"v": 1, "unit": number, "source": 0, "policy": "front", "decision_id": f"decision-{i}", "slot": "top"}
            | {"ts": NOW + i, "until": NOW + i + 3_600_000}
        )
        for i, number in enumerate(numbers)
    ]
    bought = [
        encode_conversion(Conversion(unit=units[i], conversion_id=f"order-{i}", kind="purchase", ts=NOW + touches))
        for i in range(0, touches, 10)
    ]
    before, began = resident(), time.process_time()
    for at in range(0, touches, BATCH):
        state.take("touches", records(kept[at : at + BATCH], at))
    read_s, grown = time.process_time() - began, resident() - before
    began = time.process_time()
    for at in range(0, len(bought), BATCH):
        state.take("conversions", records(bought[at : at + BATCH], at))
    state.horizon.mark(0, NOW + touches + 20_000)
    state.horizon.mark(CONVERSIONS, NOW + touches + 20_000)
    messages = state.freeze()
    given_s = time.process_time() - began
    assert state.counts["attributed"] == len(bought)
    again, began = a_state(messages[-1].value), time.process_time()
    for at in range(0, touches, BATCH):
        again.take("touches", records(kept[at : at + BATCH], at))
    for at in range(0, len(bought), BATCH):
        again.take("conversions", records(bought[at : at + BATCH], at))
    assert again.rebuilt
    assert again.freeze() == []
    return {
        "touches": touches,
        "touches_per_s": round(touches / read_s),
        "bytes_per_touch": round(grown / touches),
        "conversions_per_s": round(len(bought) / given_s),
        "rebuild_s": round(time.process_time() - began, 2),
    }


def a_state(checkpoint: bytes | None) -> AttributionState:
    """The only partition."""
    return AttributionState(
        0,
        partitions=1,
        rules=attribution_rules(settings(attributing=True)),
        topics={"touches": "touches", "conversions": "conversions"},
        checkpoint=checkpoint,
    )


def resident() -> int:
    """The most bytes that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--touches", type=int, default=200_000)
    touches = parser.parse_args().touches
    result: dict[str, Any] = {"attributor": attributor(touches)}
    gc.disable()  # as in a worker, where it hardly ever runs
    for name, attributing in (("without", False), ("with", True)):
        result[f"learner_us_{name}"] = round(learner_us(attributing=attributing), 2)
    json.dump(result, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
