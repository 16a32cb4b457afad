"""The vectors are what transformers computes, whatever the batch; a model that cannot be used is refused with the reason."""

from __future__ import annotations

from tests.encoders import tiny

# isort: split

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from encoders import hardware
from encoders import model as module
from encoders.batching import Tokenised, Vectors
from encoders.errors import ModelError
from encoders.model import Encoder, load
from encoders.packed import PackedBert
from encoders.packed import _plan as attention_plan


def reference(folder: Path, texts: list[str], *, pooling: str, normalise: bool) -> Vectors:
    """One text at a time through transformers' own model, pooled by hand: no padding, no batch."""
    tokenizer = tiny.transformers.AutoTokenizer.from_pretrained(folder)
    own = tiny.transformers.AutoModel.from_pretrained(folder).eval()
    found = []
    for text in texts:
        given = tokenizer(text, return_tensors="pt", truncation=True, max_length=tiny.MAX_LENGTH)
        with torch.no_grad():
            states = own(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).last_hidden_state[0]
        vector = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling].numpy()
        found.append(vector / np.linalg.norm(vector) if normalise else vector)
    return np.array(found, np.float32)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("packed", [None, False], ids=["chosen", "padded"])
def test_vectors_are_those_of_transformers(tmp_path: Path, kind: str, pooling: str, packed: bool | None) -> None:
    """Within 1e-6 in fp32, for each kind of model, pooling and way through the layers, long and empty texts included."""
    folder = tiny.make(tmp_path, kind=kind, pooling=pooling)
    texts = [*tiny.texts(60), "", " ", "Red  SHOES xs", "nowhere"]
    encoder = load(str(folder), dtype="fp32", device="cpu", packed=packed)
    assert encoder.padded == (kind == "distilbert" or packed is False)
    assert np.abs(encoder.encode(texts) - reference(folder, texts, pooling=pooling, normalise=True)).max() < 1e-6


def test_vectors_keep_their_length_without_normalisation(tmp_path: Path) -> None:
    """A folder without the module Normalize gives vectors as they are."""
    folder = tiny.make(tmp_path, normalise=False)
    texts = tiny.texts(20)
    found = load(str(folder), dtype="fp32", device="cpu").encode(texts)
    wanted = reference(folder, texts, pooling="mean", normalise=False)
    assert np.abs(found - wanted).max() < 1e-5
    assert np.abs(np.linalg.norm(found, axis=1) - 1).min() > 0.1


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("budget", [1, 40, 100_000])
def test_a_batch_changes_nothing(tmp_path: Path, packed: bool, budget: int) -> None:
    """Alone, in small or in huge batches, in any order: the same vector within 1e-6."""
    encoder = load(str(tiny.make(tmp_path)), dtype="fp32", device="cpu", packed=packed)
    texts = tiny.texts(80)
    alone = encoder.encode(texts, budget_tokens=1)
    order = np.random.default_rng(0).permutation(len(texts))
    found = encoder.encode([texts[i] for i in order], budget_tokens=budget)
    assert np.abs(found - alone[order]).max() < 1e-6


def test_runs_in_any_order_are_right(tmp_path: Path) -> None:
    """A packed batch need not be sorted."""
    encoder = load(str(tiny.make(tmp_path)), dtype="fp32", device="cpu")
    texts = tiny.texts(30)
    batch = [Tokenised(ids) for ids in encoder.tokenizer(texts)]
    assert np.abs(encoder.forward(encoder.prepare(batch)) - encoder.encode(texts)).max() < 1e-6


@pytest.mark.skipif(not hardware.has_bf16(torch.device("cpu")), reason="this processor has no bfloat16 instructions")
@pytest.mark.parametrize("packed", [True, False])
def test_bf16_is_near(tmp_path: Path, packed: bool) -> None:
    """In bf16 every vector is within 1e-3 of the direction that fp32 gives, and it is not the same number."""
    folder = tiny.make(tmp_path)
    texts = tiny.texts(60)
    wanted = reference(folder, texts, pooling="mean", normalise=True)
    encoder = load(str(folder), dtype="bf16", device="cpu", packed=packed)
    found = encoder.encode(texts)
    assert found.dtype == np.float32
    assert (1 - (found * wanted).sum(axis=1)).max() < 1e-3
    assert np.abs(found - wanted).max() > 1e-5


@pytest.mark.parametrize("packed", [True, False])
def test_what_is_not_finite_stays_in_its_text(tmp_path: Path, packed: bool) -> None:
    """Texts beside a poisonous one, of its length or not, before it or after it, have the vectors that they have without it."""
    encoder = load(str(tiny.make(tmp_path, poisoned=True)), dtype="fp32", device="cpu", packed=packed)
    clean = [" ".join(["red", "hat", *["a"] * more]) for more in (0, 0, 3, 3, 3, 18, 18, 18)]
    texts = [*clean[:4], f"{tiny.POISON} hat a a a", *clean[4:7], f"{tiny.POISON}{' a' * 19}", *clean[7:]]
    bad = [tiny.POISON in text for text in texts]
    found = encoder.encode(texts)
    assert np.isnan(found[bad]).all()
    assert np.abs(found[~np.array(bad)] - encoder.encode(clean)).max() < 1e-6


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 70)), min_size=1, max_size=6), st.integers(0, 70))
def test_every_text_takes_one_way_through_attention(runs: list[tuple[int, int]], short: int) -> None:
    """Each token is in one text, of the compiled functions where that is short, of torch's where it is not."""
    lengths = [tokens for texts, tokens in runs for _ in range(texts)]
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    plan = attention_plan(runs, short=short)
    both = [(start, tokens) for start, tokens in zip(starts, lengths, strict=True) if tokens <= short]
    assert list(zip(plan.starts.tolist(), plan.lengths.tolist(), strict=True)) == both
    torchs = [(start + text * tokens, tokens) for start, texts, tokens in plan.runs for text in range(texts)]
    assert sorted(both + torchs) == sorted(zip(starts, lengths, strict=True))
    assert plan.tokens == sum(lengths)


@pytest.mark.parametrize("fails", [False, True])
def test_a_wrong_way_through_the_layers_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """Where packing does not give what transformers gives, or cannot be computed, transformers' own way is used."""
    folder = str(tiny.make(tmp_path))
    right = load(folder, dtype="fp32", device="cpu").encode(["red shoes"])
    call = PackedBert.__call__

    def wrong(self: PackedBert, ids: Any, places: Any, runs: Any) -> Any:
        if fails:
            raise RuntimeError("no such instruction")
        return call(self, ids, places * 0, runs)  # every token at the first place

    monkeypatch.setattr(PackedBert, "__call__", wrong)
    encoder = load(folder, dtype="fp32", device="cpu")
    assert encoder.padded
    assert np.abs(encoder.encode(["red shoes"]) - right).max() < 1e-6


def test_what_is_cut_off_changes_nothing(tmp_path: Path) -> None:
    """A text beyond the maximum length has the vector of its beginning, and a shorter maximum is taken as asked."""
    folder = tiny.make(tmp_path)
    encoder = load(str(folder), dtype="fp32", device="cpu")
    assert encoder.max_length == tiny.MAX_LENGTH
    first = " ".join(["red"] * (tiny.MAX_LENGTH - 2))
    a, b = encoder.encode([first, first + " hat" * 50])
    assert np.abs(a - b).max() < 1e-6
    short = load(str(folder), dtype="fp32", device="cpu", max_length=8)
    assert len(short.tokenizer([first])[0]) == 8
    assert short.fingerprint != encoder.fingerprint


def test_prompt_and_lower_case_are_applied(tmp_path: Path) -> None:
    """The default prompt stands before every text; a cased tokenizer gets lower-case text where the folder says so."""
    folder = tiny.make(tmp_path)
    plain = load(str(folder), dtype="fp32", device="cpu").encode(["red hat"])
    named = {"prompts": {"document": "red "}, "default_prompt_name": "document"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(named))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24, "do_lower_case": True}))
    assert np.abs(load(str(folder), dtype="fp32", device="cpu").encode(["HAT"]) - plain).max() < 1e-6


@pytest.mark.filterwarnings("ignore")  # of torch and its compiler
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler: apt-get install g++")
def test_torch_compile_gives_the_same_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches of any size, one text of one token too, and in another thread; taken as it is the faster one here."""
    folder = str(tiny.make(tmp_path, kind="distilbert"))
    eager = load(folder, dtype="fp32", device="cpu")
    monkeypatch.setattr("encoders.model._seconds", lambda encoder, batch: 1.0 if encoder.compiled else 2.0)
    encoder = load(folder, dtype="fp32", device="cpu", try_compile=True)
    assert (encoder.compiled, eager.compiled) == (True, False)
    texts = tiny.texts(40)
    with ThreadPoolExecutor(1) as pool:
        for some, budget in ((texts, 64), (texts[:1], 64), (texts, 2048), (texts, 1)):
            found = pool.submit(encoder.encode, some, budget_tokens=budget).result()
            assert np.abs(found - eager.encode(some)).max() < 1e-6
    one = [Tokenised([2])]
    assert np.abs(encoder.forward(encoder.prepare(one)) - eager.forward(eager.prepare(one))).max() < 1e-6
    encoder.check()


def no_compiler(model: Any, **options: Any) -> Any:
    def call(**given: Any) -> Any:
        raise RuntimeError("g++: not found")

    return call


def alike(model: Any, **options: Any) -> Any:
    return model


def wrong(model: Any, **options: Any) -> Any:
    return lambda input_ids, attention_mask: model(input_ids=input_ids * 0, attention_mask=attention_mask)


@pytest.mark.parametrize(("compiled", "share"), [(no_compiler, 0.5), (alike, 0.96), (wrong, 0.5)])
def test_torch_compile_is_not_taken_where_it_does_not_pay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: Callable[..., Any], share: float
) -> None:
    """No compiler, nothing gained, or other vectors: the encoder is the eager one, and works. Not asked for, it is not tried."""
    asked: list[object] = []

    def noted(model: Any, **options: Any) -> Any:
        asked.append(model)
        return compiled(model, **options)

    monkeypatch.setattr(torch, "compile", noted)
    monkeypatch.setattr("encoders.model._seconds", lambda encoder, batch: share if encoder.compiled else 1.0)
    folder = str(tiny.make(tmp_path, kind="distilbert"))
    encoder = load(folder, dtype="fp32", device="cpu", try_compile=True)
    assert not encoder.compiled
    assert len(asked) == 1
    assert (
        np.abs(encoder.encode(["red shoes"]) - load(folder, dtype="fp32", device="cpu").encode(["red shoes"])).max()
        == 0
    )
    assert not load(str(tiny.make(tmp_path / "bert")), dtype="fp32", device="cpu", try_compile=True).compiled  # packed
    assert len(asked) == 1


def test_the_shortest_of_some_forwards_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What else the processor did in the others is nobody's time."""
    took = np.array([3.0, 2.5, 5.0, 2.0, 9.0, 4.0])
    clock = iter(np.cumsum(np.column_stack([np.full(len(took), 0.25), took]).ravel()))
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    instant: Any = SimpleNamespace(prepare=list, forward=list)
    assert module._seconds(instant, []) == pytest.approx(2.0)


def test_a_clone_tokenises_the_same(tmp_path: Path) -> None:
    """Each thread's tokenizer gives what the first gives."""
    encoder = load(str(tiny.make(tmp_path)), dtype="fp32", device="cpu")
    texts = tiny.texts(50)
    assert encoder.tokenizer.clone()(texts) == encoder.tokenizer(texts)


def drop_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights.pop("encoder.layer.1.output.dense.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def other_type(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "no-such-type", "architectures": ["None"]}))


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing weights": (drop_weights, "1 weights are missing or of another shape, encoder.layer.1.output.dense.weight"),
    "cut weights": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000]),
        "cannot be loaded as an encoder",
    ),
    "another architecture": (other_type, "cannot be loaded as an encoder"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_loaded_is_refused(tmp_path: Path, name: str) -> None:
    """Nothing is guessed: weights that transformers would make up, another architecture, files cut short."""
    spoil, told = REFUSED[name]
    folder = tiny.make(tmp_path)
    spoil(folder)
    with pytest.raises(ModelError, match=told):
        load(str(folder), dtype="fp32", device="cpu")


def test_what_does_not_exist_here_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device, bf16 where there is none, and a length beyond the model's places, each with what is allowed."""
    folder = str(tiny.make(tmp_path))
    with pytest.raises(ModelError, match=r"device = 'cuda:77' cannot be used"):
        load(folder, device="cuda:77")
    with pytest.raises(ModelError, match=r"max_length = 41: the model has places for 40 tokens"):
        load(folder, device="cpu", max_length=41)
    (tmp_path / "cpuinfo").write_text("processor: 0\nflags : fpu sse2\n")
    monkeypatch.setattr(hardware, "CPUINFO", tmp_path / "cpuinfo")
    with pytest.raises(ModelError, match="dtype = 'bf16': cpu has no instructions"):
        load(folder, device="cpu", dtype="bf16")
    assert load(folder, device="cpu").precision == "fp32"
    (tmp_path / "cpuinfo").write_text("processor: 0\nflags : fpu avx512_bf16\n")
    assert load(folder, device="cpu").precision == "bf16"


@pytest.mark.parametrize(
    ("machine", "flags", "fuses"),
    [
        ("x86_64", "fpu sse4_2", False),
        ("x86_64", "fpu fma avx2", True),
        ("aarch64", "asimd", True),
        ("arm64", "", True),
    ],
)
def test_which_processors_multiply_and_add_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, flags: str, fuses: bool
) -> None:
    """Without it, compiled attention is fifteen times slower."""
    (tmp_path / "cpuinfo").write_text(f"processor: 0\nflags : {flags}\n")
    monkeypatch.setattr(hardware, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert hardware.fuses() == fuses


@pytest.mark.parametrize("kind", ["mpnet", "camembert", "roberta"])
def test_places_are_counted_from_the_padding_s_where_the_model_does(tmp_path: Path, kind: str) -> None:
    """The greatest length that is accepted can be encoded, and one token more is refused with what is allowed."""
    folder = str(tiny.make(tmp_path, kind=kind, more={"pad_token_id": 1}))
    with pytest.raises(ModelError, match="max_length = 39: the model has places for 38 tokens; set 38 or less"):
        load(folder, dtype="fp32", device="cpu", max_length=39)
    encoder = load(folder, dtype="fp32", device="cpu", max_length=38)
    assert np.isfinite(encoder.encode(["red hat " * 30])).all()


def test_a_length_at_which_texts_fail_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the model is loaded, not at the first long text: it raises, or its vector is not finite."""
    folder = str(tiny.make(tmp_path))
    right = Encoder.forward

    def failing(how: Callable[[Vectors], Any]) -> Callable[[Encoder, Any], Any]:
        return lambda self, prepared: (how if prepared.runs == [(1, 30)] else np.asarray)(right(self, prepared))

    monkeypatch.setattr(Encoder, "forward", failing(lambda _: 1 / 0))
    with pytest.raises(ModelError, match=r"a text of 30 tokens cannot be encoded \(ZeroDivisionError"):
        load(folder, dtype="fp32", device="cpu", max_length=30)
    assert load(folder, dtype="fp32", device="cpu", max_length=29).max_length == 29
    monkeypatch.setattr(Encoder, "forward", failing(lambda vectors: vectors * np.nan))
    with pytest.raises(ModelError, match="of 30 tokens is not finite"):
        load(folder, dtype="fp32", device="cpu", max_length=30)


@pytest.mark.parametrize("length", [1, 2])
def test_a_length_that_leaves_nothing_of_a_text_is_refused(tmp_path: Path, length: int) -> None:
    """Special tokens alone would give all texts one vector; one token of a text is something."""
    folder = str(tiny.make(tmp_path))
    with pytest.raises(ModelError, match=f"max_length = {length}: special tokens and the prompt take all of them"):
        load(folder, dtype="fp32", device="cpu", max_length=length)
    assert load(folder, dtype="fp32", device="cpu", max_length=3).max_length == 3


def test_a_device_that_goes_wrong_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check passes while vectors stay the same, and fails when they change, or come no more."""
    encoder = load(str(tiny.make(tmp_path)), dtype="fp32", device="cpu")
    encoder.check()
    right = Encoder.forward
    with monkeypatch.context() as broken:
        broken.setattr(Encoder, "forward", lambda self, prepared: right(self, prepared)[:, ::-1])
        with pytest.raises(ModelError, match="other vectors than at the start"):
            encoder.check()
    monkeypatch.setattr(Encoder, "forward", lambda self, prepared: 1 / 0)
    with pytest.raises(ModelError, match="cannot encode"):
        encoder.check()


@pytest.mark.parametrize(("precision", "apart"), [("fp32", 1e-3), ("bf16", 0.1)])
def test_same_tells_rounding_from_wrong(precision: Any, apart: float) -> None:
    """Rounding passes, an error of ten times its size, NaN and another shape do not."""
    vectors = np.eye(4, 8, dtype=np.float32)
    assert module.same(vectors * np.float32(1 + 1e-6), vectors, precision)
    assert not module.same(vectors + np.float32(apart), vectors, precision)
    assert not module.same(vectors * np.float32(np.nan), vectors, precision)
    assert not module.same(vectors[:3], vectors, precision)
