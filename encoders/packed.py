"""BERT without padding: the tokens of all texts of a batch in one matrix, attention within each text.

The products with weights take the matrix (T, d) of all T tokens, whatever text they belong to. Attention of short texts and layer
norm are ours (encoders/compiled.py); of long ones torch's attention takes neighbours of the same length together. Which layers there are
is what `transformers` calls BERT, RoBERTa and XLM-RoBERTa: embeddings, then layers of self-attention and a two-layer network, each with a
residual and layer norm after it (Devlin et al. 2019, section 3; post-norm). `PackedBert.fits` tells whether a model is of that kind;
`encoders.model` compares both at the start and keeps to transformers' own where they differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from encoders import compiled

Tensor = torch.Tensor

TYPES = ("bert", "roberta", "xlm-roberta")
PREPACKED_ROWS = 2048
"""Rows that oneDNN lays the weights out for; others are right, too."""
LEAST_ROWS = 16
"""Rows of the smallest matrix that is computed."""


def rows_of(tokens: int) -> int:
    """Rows that are computed for so many tokens: a little more, so that few sizes occur.

    oneDNN makes itself a kernel for each size of a matrix and keeps 1,024 of them; in bfloat16 making those of one size takes half as
    long as the forward of 2,048 tokens. There are 32 sizes at most between a power of two and the next.

    >>> [rows_of(tokens) for tokens in (1, 16, 33, 1000, 1025, 2040)]
    [16, 16, 48, 1008, 1056, 2048]
    """
    step = max(LEAST_ROWS, 1 << max(0, tokens.bit_length() - 6))
    return -(-tokens // step) * step


class _Plan(NamedTuple):
    """Which way through attention the texts of a batch take.

    Attributes:
        starts: first tokens (n,) of texts for `encoders.compiled`.
        lengths: their tokens (n,).
        runs: (first token, texts, tokens of each) of neighbours for torch's attention.
        tokens: of all texts.
    """

    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    runs: list[tuple[int, int, int]]
    tokens: int


def _plan(runs: Sequence[tuple[int, int]], *, short: int) -> _Plan:
    """The plan for runs of (texts, tokens of each), where texts of up to `short` tokens are short."""
    texts, tokens = (np.array(column, np.int64) for column in zip(*runs, strict=True))
    ends = np.cumsum(texts * tokens)
    long = [(int(end) - n * each, n, each) for (n, each), end in zip(runs, ends, strict=True) if each > short]
    lengths = np.repeat(tokens, texts)
    starts = np.cumsum(lengths) - lengths
    return _Plan(starts[lengths <= short], lengths[lengths <= short], long, int(ends[-1]))


class _Linear:
    """A product with weights that lie as the processor likes them, where torch can do that."""

    def __init__(self, weight: Tensor, bias: Tensor, *, gelu: bool = False) -> None:
        self._bias = bias
        self._gelu = gelu
        self._prepacked = weight.device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, PREPACKED_ROWS) if self._prepacked else weight

    def __call__(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """(T, m) of x (T, d), with `plus` (T, m) added where the product is written."""
        if self._prepacked and plus is not None:
            summed: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, plus, self._weight, self._bias, "add")
            return summed
        if self._prepacked:
            act, algorithm = ("gelu", "none") if self._gelu else ("none", "")
            done: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, act, [], algorithm)
            return done
        product = functional.linear(x, self._weight, self._bias)
        if plus is not None:
            return product + plus
        return functional.gelu(product) if self._gelu else product


class _Layer:
    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        attention, own = layer.attention, layer.attention.self
        parts = (own.query, own.key, own.value)
        weight = torch.cat([part.weight for part in parts])
        bias = torch.cat([part.bias for part in parts])
        self.heads = int(own.num_attention_heads)
        self.qkv = _Linear(weight.to(dtype), bias.to(dtype))
        self.mix = _linear(attention.output.dense, dtype)
        self.mix_norm = _Norm(attention.output.LayerNorm, dtype)
        self.widen = _linear(layer.intermediate.dense, dtype, gelu=True)
        self.narrow = _linear(layer.output.dense, dtype)
        self.narrow_norm = _Norm(layer.output.LayerNorm, dtype)

    def __call__(self, x: Tensor, qkv: Tensor, plan: _Plan) -> Tensor:
        """States (T, d) after the layer of those before it; `qkv` (T, 3 d) is `self.qkv(x)`."""
        x = self.mix_norm(self.mix(self._attend(qkv, plan), plus=x))
        return self.narrow_norm(self.narrow(self.widen(x), plus=x))

    def _attend(self, qkv: Tensor, plan: _Plan) -> Tensor:
        """Attention of every text (T, d)."""
        width = qkv.shape[1] // 3
        size, found = width // self.heads, qkv.new_empty(len(qkv), width)
        if len(plan.starts):
            compiled.attend(qkv, self.heads, plan.starts, plan.lengths, found)
        for start, texts, tokens in plan.runs:
            own = qkv[start : start + texts * tokens].view(texts, tokens, 3, self.heads, size)
            q, k, v = own.permute(2, 0, 3, 1, 4)
            attended = functional.scaled_dot_product_attention(q, k, v)
            found[start : start + texts * tokens].view(texts, tokens, self.heads, size).copy_(attended.transpose(1, 2))
        found[plan.tokens :] = 0  # rows that are nobody's
        return found


class _Norm:
    """Layer norm, in place where numba is installed."""

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        self._weight, self._bias, self._eps = module.weight.detach(), module.bias.detach(), float(module.eps)
        self._compiled = compiled.fits(len(self._weight), self._weight.device)
        kept = torch.float32 if self._compiled else dtype
        self._weight, self._bias = self._weight.to(kept), self._bias.to(kept)

    def __call__(self, x: Tensor) -> Tensor:
        if not self._compiled:
            return functional.layer_norm(x, x.shape[-1:], self._weight, self._bias, self._eps)
        compiled.normalise(x, self._weight, self._bias, self._eps)
        return x


class PackedBert:
    """The encoder of a loaded transformers model, on packed tokens.

    Args:
        model: one that `fits`, in float32 and evaluation mode; its weights are copied as `dtype`.
        dtype: of weights and of what flows between layers.
    """

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        table = model.embeddings
        self._dtype = dtype
        self._words = table.word_embeddings.weight.detach()
        self._places = table.position_embeddings.weight.detach() + table.token_type_embeddings.weight.detach()[0]
        self._first = 0 if model.config.model_type == "bert" else int(model.config.pad_token_id) + 1
        self._norm = _Norm(table.LayerNorm, torch.float32)
        size = model.config.hidden_size // model.config.num_attention_heads
        self._short = compiled.SHORT if compiled.fits(size, self._words.device) else 0
        self._layers = [_Layer(layer, dtype) for layer in model.encoder.layer]

    @staticmethod
    def fits(config: Any) -> bool:
        """Whether a model of that configuration is computed here as transformers does."""
        return (
            config.model_type in TYPES
            and config.hidden_act == "gelu"
            and not getattr(config, "is_decoder", False)
            and getattr(config, "position_embedding_type", "absolute") in (None, "absolute")
        )

    def __call__(self, ids: Tensor, places: Tensor, runs: Sequence[tuple[int, int]]) -> Tensor:
        """Token vectors (T, d) of token ids (T,) that stand at `places` (T,) of their texts, counted from 0.

        Args:
            ids: of all texts, one after the other.
            places: of the ids.
            runs: neighbours of the same length, (texts, tokens of each).
        """
        tokens, plan = len(ids), _plan(runs, short=self._short)
        pairs, whose = torch.unique((places << 32) + ids, return_inverse=True)
        x = self._embedded(_filled(pairs))  # until the first attention the same for the same token at the same place
        whose = _filled(whose)
        qkv = self._layers[0].qkv(x).index_select(0, whose)
        x = self._layers[0](x.index_select(0, whose), qkv, plan)
        for layer in self._layers[1:]:
            x = layer(x, layer.qkv(x), plan)
        return x[:tokens]

    def _embedded(self, pairs: Tensor) -> Tensor:
        words = self._words.index_select(0, pairs & 0xFFFFFFFF)  # raises IndexError for one that has no row
        places = self._places.index_select(0, (pairs >> 32) + self._first)
        return self._norm(words + places).to(self._dtype)


def _filled(rows: Tensor) -> Tensor:
    """(n,) with zeros at the end, as many as `rows_of` says."""
    return functional.pad(rows, (0, rows_of(len(rows)) - len(rows)))


def _linear(module: Any, dtype: torch.dtype, *, gelu: bool = False) -> _Linear:
    return _Linear(module.weight.detach().to(dtype), module.bias.detach().to(dtype), gelu=gelu)
