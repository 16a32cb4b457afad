"""A Hugging Face encoder that turns batches of token ids into vectors; what it is made of is read from its folder.

Two ways through the layers give the same vectors: packed without padding (`encoders.packed`; BERT and its like, on the CPU)
and padded by transformers' own model (everything else). `load` compares the first with the second before it is used.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import structlog
import torch

from encoders.batching import Batch, Tokenised, Vectors, cut, runs
from encoders.dense import Dense, read_dense
from encoders.errors import ModelError
from encoders.folder import Folder, Pooling, Precision, fingerprint, locate, read_folder
from encoders.hardware import DTYPES, choose_device, choose_precision
from encoders.lengths import max_length as chosen_length
from encoders.lengths import try_length
from encoders.packed import PackedBert
from encoders.pooling import pool_packed, pool_padded, scaled
from encoders.tokens import Tokenizer, load_fast

CANARIES = (
    "a",
    "two red shoes and a hat",
    "The quick brown fox jumps over the lazy dog; 0123456789, and then it sleeps.",
)
SAME_FP32, SAME_BF16 = 1e-4, 2e-2
"""How far two ways of computing a vector of length 1 may be apart before one of them counts as wrong."""
MEASURED_TOKENS, TRIES, WORTH = 2_048, 6, 0.95
"""Tokens of the batch that tells whether torch.compile pays, how often it goes through, and the share of the time it may take at most."""
_UNUSED = ("pooler.",)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch on the device: ids (T,) and places (T,) if packed, else ids (n, l) and mask (n, l); of so many texts."""

    ids: torch.Tensor
    other: torch.Tensor
    runs: Sequence[tuple[int, int]]
    texts: int


class Encoder:
    """A loaded encoder. `prepare` may run in one thread while `forward` runs in another.

    Attributes:
        fingerprint: of everything that changes its vectors.
        dimension: numbers in a vector.
        precision: "fp32" or "bf16".
        max_length: tokens of a text, special ones included; what is beyond is cut off.
        tokenizer: one to clone for each thread.
        padded: whether a text costs as many tokens as the longest of its batch.
        compiled: whether padded batches go through torch.compile.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        pooling: Pooling,
        normalise: bool,
        precision: Precision,
        device: torch.device,
        max_length: int,
        fingerprint: str,
        packed: bool,
        compiled: bool = False,
        dense: Dense | None = None,
        dense_last: bool = False,
    ) -> None:
        self.tokenizer, self.fingerprint, self.precision, self.max_length = (
            tokenizer,
            fingerprint,
            precision,
            max_length,
        )
        self.dimension = int(model.config.hidden_size) if dense is None else dense.dimension
        self.device = device
        self._dense, self._dense_last = None if dense is None else dense.to(device), dense_last
        self._pooling, self._normalise = pooling, normalise
        self._packed = PackedBert(model, DTYPES[precision]) if packed else None
        self._run: Any = None if packed else model.to(device=device, dtype=DTYPES[precision])
        if compiled:
            self._run = torch.compile(self._run, dynamic=True)
        self.padded, self.compiled = not packed, compiled
        self._padding = int(getattr(model.config, "pad_token_id", None) or 0)
        self._canary: Vectors | None = None

    def prepare(self, batch: Batch) -> Prepared:
        """The batch's tokens on the device."""
        lengths = np.array([item.tokens for item in batch])
        if self._packed is not None:
            ids = np.fromiter(itertools.chain.from_iterable(item.ids for item in batch), np.int64, int(lengths.sum()))
            places = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            return Prepared(torch.from_numpy(ids), torch.from_numpy(places), runs(batch), len(batch))
        least = 2 if self.compiled else 1  # one row or column would be compiled for by itself
        padded = np.full((max(least, len(batch)), max(least, int(lengths.max()))), self._padding, np.int64)
        mask = np.zeros_like(padded)
        mask[: len(batch)] = np.arange(padded.shape[1]) < lengths[:, None]
        padded[mask == 1] = np.fromiter(
            itertools.chain.from_iterable(item.ids for item in batch), np.int64, int(lengths.sum())
        )
        mask[len(batch) :, 0] = 1  # a text that is nobody's
        return Prepared(self._moved(padded), self._moved(mask), (), len(batch))

    def forward(self, prepared: Prepared) -> Vectors:
        """Vectors (n, d) in float32, in the batch's order."""
        with torch.inference_mode():
            if self._packed is not None:
                states = self._packed(prepared.ids, prepared.other, prepared.runs)
                vectors = pool_packed(states, prepared.runs, self._pooling)
            else:
                states = self._run(input_ids=prepared.ids, attention_mask=prepared.other).last_hidden_state
                vectors = pool_padded(states, prepared.other, self._pooling)[: prepared.texts]
            done: Vectors = self._finished(vectors).cpu().numpy()
        return done

    def _finished(self, vectors: torch.Tensor) -> torch.Tensor:
        if self._dense is not None and not self._dense_last:
            vectors = self._dense(vectors)
        if self._normalise:
            vectors = scaled(vectors)
        return self._dense(vectors) if self._dense is not None and self._dense_last else vectors

    def encode(self, texts: Sequence[str], *, budget_tokens: int = 2048) -> Vectors:
        """Vectors (n, d) of texts, in their order, in batches of that many tokens."""
        items = [Tokenised(ids, tag=place) for place, ids in enumerate(self.tokenizer(texts))]
        vectors = np.empty((len(items), self.dimension), np.float32)
        for batch in cut(items, budget_tokens=budget_tokens, padded=self.padded):
            vectors[[item.tag for item in batch]] = self.forward(self.prepare(batch))
        return vectors

    def check(self) -> None:
        """Run the device on known texts. Raises ModelError if it fails, or answers otherwise than the first time."""
        try:
            found = self.encode(CANARIES)
        except Exception as error:
            raise ModelError(
                f"{self.device} cannot encode ({type(error).__name__}: {error}); see its driver's log"
            ) from error
        if self._canary is None:
            self._canary = found
        if not same(found, self._canary, self.precision):
            raise ModelError(f"{self.device} gives other vectors than at the start; it, or its memory, is broken")

    def _moved(self, array: npt.NDArray[np.int64]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor


def load(
    model: str,
    *,
    revision: str | None = None,
    dtype: Literal["auto", "fp32", "bf16"] = "auto",
    max_length: int | None = None,
    pooling: Pooling | None = None,
    device: str = "auto",
    packed: bool | None = None,
    try_compile: bool = False,
) -> Encoder:
    """Load a model, check it on the device, and return it warm.

    Args:
        model: a folder, or a Hugging Face id.
        revision: the commit of the id; needed for one.
        dtype: "auto" takes bf16 where the hardware has it.
        max_length: tokens of a text; None takes what the model says.
        pooling: None takes what the model says.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        packed: whether to go without padding; None does where it is known to be right.
        try_compile: whether padded batches go through torch.compile if that pays; trying takes a minute.

    Raises:
        ModelError: it cannot be had, or is none that can be used; the text says what to do.
    """
    folder = read_folder(locate(model, revision))
    on = choose_device(device)
    precision = choose_precision(dtype, on)
    loaded = load_transformer(folder)
    dense = None if folder.dense is None else read_dense(folder.dense, takes=int(loaded.config.hidden_size))
    fast, named = load_fast(folder)
    length = chosen_length(folder, loaded, named, max_length)
    chosen = pooling or folder.pooling
    mark = fingerprint(folder, pooling=chosen, normalise=folder.normalise, max_length=length, precision=precision)

    def made(*, packed: bool, compiled: bool = False) -> Encoder:
        return Encoder(
            loaded,
            Tokenizer(fast, max_length=length, prompt=folder.prompt),
            pooling=chosen,
            normalise=folder.normalise,
            precision=precision,
            device=on,
            max_length=length,
            fingerprint=mark,
            packed=packed,
            compiled=compiled,
            dense=dense,
            dense_last=folder.dense_last,
        )

    encoder = _packed_if_same(made) if _may_pack(loaded.config, on, packed) else made(packed=False)
    encoder.check()
    try_length(encoder, CANARIES)
    return _faster(encoder, made) if try_compile and encoder.padded else encoder


def same(a: Vectors, b: Vectors, precision: Precision) -> bool:
    """Whether vectors (n, d) are the same but for rounding, each measured by its own length."""
    if a.shape != b.shape or not np.isfinite(a).all():
        return False
    size = np.maximum(np.linalg.norm(b, axis=1), 1e-12)
    apart = np.linalg.norm(a - b, axis=1) / size
    return bool(apart.max() < (SAME_FP32 if precision == "fp32" else SAME_BF16))


def _packed_if_same(made: Any) -> Encoder:
    """The packed encoder if it computes what transformers does, else the padded one."""
    packed: Encoder = made(packed=True)
    reference: Encoder = made(packed=False)
    try:
        agree = same(packed.encode(CANARIES), reference.encode(CANARIES), packed.precision)
    except Exception as error:  # noqa: BLE001 - a processor or a numba that cannot compile it; it goes with padding
        log.warning("going with padding", error=f"{type(error).__name__}: {str(error)[:300]}")
        return reference
    return packed if agree else reference


def _faster(eager: Encoder, made: Any) -> Encoder:
    """The encoder through torch.compile, if its vectors are the same and come sooner; else the eager one."""
    texts = [Tokenised(ids) for ids in eager.tokenizer(CANARIES)]
    batch = texts * max(1, MEASURED_TOKENS // sum(item.tokens for item in texts))
    try:
        other: Encoder = made(packed=False, compiled=True)
        other.check()
        agree = same(other.encode(CANARIES), eager.encode(CANARIES), eager.precision)
        before, now = (_seconds(one, batch) for one in (eager, other))
    except Exception as error:  # noqa: BLE001 - most of all a C++ compiler that is missing; it goes without
        log.warning("torch.compile failed; going without", error=f"{type(error).__name__}: {str(error)[:300]}")
        return eager
    pays = agree and now < WORTH * before
    log.info(
        "torch.compile tried", taken=pays, same=agree, eager_ms=round(1e3 * before, 1), compiled_ms=round(1e3 * now, 1)
    )
    return other if pays else eager


def _seconds(encoder: Encoder, batch: Batch) -> float:
    """The shortest of some forwards."""
    prepared, took = encoder.prepare(batch), []
    for _ in range(TRIES):
        began = time.perf_counter()
        encoder.forward(prepared)
        took.append(time.perf_counter() - began)
    return min(took)


def _may_pack(config: Any, device: torch.device, wanted: bool | None) -> bool:
    fits = PackedBert.fits(config) and device.type == "cpu"
    if wanted and not fits:
        raise ModelError(f"packed = true: not for {config.model_type} on {device}; leave it out")
    return fits if wanted is None else wanted


def load_transformer(folder: Folder) -> Any:
    """The transformer of a folder in float32, ready to compute. Raises ModelError for what cannot be loaded."""
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model, told = AutoModel.from_pretrained(
            folder.path, local_files_only=True, output_loading_info=True, dtype=torch.float32
        )
    except Exception as error:
        raise ModelError(
            f"{folder.path} cannot be loaded as an encoder ({type(error).__name__}: {str(error)[:300]}); "
            "choose a model that transformers' AutoModel loads, and copy its whole repository"
        ) from error
    missing = sorted(key for key in told["missing_keys"] if not key.startswith(_UNUSED))
    wrong = missing or sorted(str(key) for key in told.get("mismatched_keys", ()))
    if wrong:
        raise ModelError(
            f"{folder.path}: {len(wrong)} weights are missing or of another shape, {', '.join(wrong[:3])} for one; "
            "config.json and the weights are not of one model"
        )
    if getattr(model.config, "is_encoder_decoder", False) or not hasattr(model.config, "hidden_size"):
        raise ModelError(f"{folder.path} is a {model.config.model_type}, which is no text encoder; choose one")
    return model.eval()
