"""How much memory `clickloop worker encoder` takes while far more texts wait than it can encode.

    python -m benchmarks.encoder_flood [--texts 25000] [--bytes 4000] [--bootstrap HOST:PORT] [--json]

The topic of requests is filled first. The worker then starts on it, with default settings but one computing thread, and a BERT of random
weights (one layer of 64 numbers), so that texts come in as fast as they can. Its resident memory is read from outside, in MB of 10^6 bytes:
when the first vectors are in their topic, and the most in each quarter of the texts. Memory is flat if the last quarters are the same.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the repository is not on the path, and http.py would hide Python's own
    sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.encoder import make_texts
from benchmarks.encoder_device import random_bert
from benchmarks.encoder_kafka import answered
from benchmarks.encoder_peers import bundled_model
from benchmarks.figures import memory_mb
from streams.processes import WorkerProcess

QUARTERS = 4


def main() -> None:
    """Measure and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=25_000, help="how many (default %(default)s)")
    parser.add_argument("--bytes", type=int, default=4_000, help="of a text, at least (default %(default)s)")
    parser.add_argument("--tokenizer", default=bundled_model(), help="folder of a tokenizer (default: the bundled one)")
    parser.add_argument("--bootstrap", help="a Kafka; else one is started")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
    given = parser.parse_args()
    if given.texts < 1_000 or given.bytes < 1 or given.tokenizer is None:
        parser.error(f"--texts {given.texts}, at least 1000; --bytes {given.bytes}; --tokenizer {given.tokenizer}")
    result = measure(given)
    print("  ".join(f"{name} {value}" for name, value in result.items()))
    if given.json:
        print(json.dumps(result))


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The worker's memory over the flood."""
    filler = " and no more of this"
    texts = [text + filler * -(-given.bytes // len(filler)) for text in make_texts(given.texts)]
    most = [0.0] * QUARTERS
    first = 0.0

    def tell(worker: WorkerProcess, vectors: int) -> None:
        nonlocal first
        if vectors:
            now = memory_mb(worker.pid, "VmRSS")
            first = first or now
            quarter = min(QUARTERS - 1, vectors * QUARTERS // given.texts)
            most[quarter] = max(most[quarter], now)

    with random_bert(given.tokenizer, layers=1, width=64) as model:
        rate = answered(texts, {"model": str(model), "threads": 1}, given.bootstrap, tell)
    return {
        "texts": given.texts,
        "bytes": sum(map(len, texts)),
        "texts_per_s": round(rate, 1),
        "first_mb": round(first),
        "most_mb": [round(one) for one in most],
    }


if __name__ == "__main__":
    main()
