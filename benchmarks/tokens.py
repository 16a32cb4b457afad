"""What outcomes by token cost a learner: memory, records and time, beside outcomes that are joined. No broker.

    python -m benchmarks.tokens [--outcomes 1000000] [--hours 72] [--json]

memory   the store alone: `--outcomes` of decisions spread over `--hours`, a checkpoint after every 1,000 of them; bytes in memory for
         each, bytes in the posteriors topic, bytes written there (merging included), records there at the end
time     CPU time of an outcome in `PartitionState`, MessagePack, d = 4: decoding, counting, checkpoint and feedback of every 1,000, without
         the transaction: joined with tokens off and on, and by token

Time goes by the process's CPU clock; compare numbers of one run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

if not __package__:  # run as a file: the repository is not on the path, and http.py would hide Python's own
    sys.path[0] = str(Path(__file__).parents[1])

from policies.batch import FloatArray
from streams.events import Impression, Outcome, encode
from streams.reading import SimpleRecord
from streams.rules import rules
from streams.settings import Settings
from streams.state import Fetched, PartitionState
from streams.token_issue import TokenDesk
from streams.token_parts import ROW_BYTES
from streams.token_store import HOUR_MS, TokenStore, hashes

START_MS = 1_700_000_000_000
STEP = 1_000
TIMED = 20_000


def memory(outcomes: int, hours: int) -> dict[str, float]:
    """Bytes and records for each outcome of the store."""
    store, written, live = TokenStore(life_ms=hours * HOUR_MS), 0, 0
    for i in range(outcomes):
        decision, outcome = hashes(f"{i:032x}", "top", "click")
        store.add(START_MS + i % hours * HOUR_MS, decision, outcome, 1.0)
        if i % STEP == STEP - 1:
            cut = {"impressions": i, "clicks": i}
            for message in store.records(0, cut=cut, base=cut, watermark=None):
                written += len(message.value or b"")
                live += 1 if message.value else -1
    return {
        "memory_bytes": store.nbytes / store.rows,
        "topic_bytes": float(ROW_BYTES),
        "written_bytes": written / outcomes,
        "records": float(live),
    }


def seconds(*, token_window_s: float, by_token: bool) -> float:
    """CPU time of one outcome."""
    settings = Settings.model_validate(
        {
            "partitions": 1,
            "token_keys": {1: "0123456789abcdef"},
            "policies": {"front": {"dimension": 4, "window_s": 60, "token_window_s": token_window_s}},
        }
    )
    desk, x = TokenDesk(settings), np.array([1.0, 0.5, -0.25, 0.0])
    shown = [_impression(i, x) for i in range(TIMED)]
    clicks = [_click(desk, one, by_token=by_token) for one in shown]
    state = PartitionState(0, rules=rules(settings))
    records = [SimpleRecord(i, one.ts, None, encode(one, "msgpack"), []) for i, one in enumerate(shown)]
    state.take(Fetched("impressions", 0, 0, TIMED, records))
    state.freeze(None)
    records = [SimpleRecord(i, one.ts, None, encode(one, "msgpack"), []) for i, one in enumerate(clicks)]
    started = time.process_time()
    for start in range(0, TIMED, STEP):
        state.take(Fetched("clicks", 0, start, start + STEP, records[start : start + STEP]))
        state.freeze(None)
    if state.counts["joined"] != TIMED:
        raise RuntimeError(f"{state.counts} of {TIMED} outcomes: this is a bug")
    return (time.process_time() - started) / TIMED


def _impression(i: int, x: FloatArray) -> Impression:
    return Impression(
        decision_id=f"{i:032x}",
        slot="top",
        policy="front",
        snapshot=1,
        arm=f"ad-{i % 50}",
        propensity=0.25,
        context=x.tolist(),
        ts=START_MS + i,
    )


def _click(desk: TokenDesk, shown: Impression, *, by_token: bool) -> Outcome:
    token = desk.token(
        shown.policy,
        decision_id=shown.decision_id,
        slot=shown.slot,
        arm=shown.arm,
        propensity=shown.propensity,
        estimated=False,
        snapshot=shown.snapshot,
        context=np.array(shown.context),
        ts=shown.ts,
    )
    return Outcome(
        decision_id=shown.decision_id,
        slot=shown.slot,
        outcome_id="click",
        ts=shown.ts + 5_000,
        token=token if by_token else None,
    )


def measure(outcomes: int, hours: int) -> dict[str, float]:
    """All figures by name."""
    return memory(outcomes, hours) | {
        "joined_tokens_off_us": 1e6 * seconds(token_window_s=0, by_token=False),
        "joined_tokens_on_us": 1e6 * seconds(token_window_s=3_600, by_token=False),
        "by_token_us": 1e6 * seconds(token_window_s=3_600, by_token=True),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--outcomes", type=int, default=1_000_000)
    parser.add_argument("--hours", type=int, default=72)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measure(given.outcomes, given.hours)
    if given.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:22} {value:10.1f}")


if __name__ == "__main__":
    main()
