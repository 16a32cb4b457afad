"""BERT without padding: the tokens of all texts of a batch in one matrix, attention within each text.

The products with weights take the matrix (T, d) of all T tokens, whatever text they belong to. Attention takes neighbours of
the same length together, so that it needs no mask. Which layers there are is what `transformers` calls BERT, RoBERTa and
XLM-RoBERTa: embeddings, then layers of self-attention and a two-layer network, each with a residual and layer norm after it
(Devlin et al. 2019, section 3; post-norm). `PackedBert.fits` tells whether a model is of that kind; `encoders.model` compares
both at the start and keeps to transformers' own where they differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

Tensor = torch.Tensor

TYPES = ("bert", "roberta", "xlm-roberta")
PREPACKED_ROWS = 2048
"""Rows that oneDNN lays the weights out for; others are right, too."""


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
        self.mix_norm = _norm(attention.output.LayerNorm, dtype)
        self.widen = _linear(layer.intermediate.dense, dtype, gelu=True)
        self.narrow = _linear(layer.output.dense, dtype)
        self.narrow_norm = _norm(layer.output.LayerNorm, dtype)

    def __call__(self, x: Tensor, runs: Sequence[tuple[int, int]]) -> Tensor:
        x = self.mix_norm(self.mix(self._attend(x, runs), plus=x))
        return self.narrow_norm(self.narrow(self.widen(x), plus=x))

    def _attend(self, x: Tensor, runs: Sequence[tuple[int, int]]) -> Tensor:
        """Attention of every text (T, d); `runs` are (texts, tokens of each)."""
        width = x.shape[1]
        found, qkv, start = torch.empty_like(x), self.qkv(x), 0
        for texts, tokens in runs:
            end = start + texts * tokens
            q, k, v = qkv[start:end].view(texts, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
            attended = functional.scaled_dot_product_attention(q, k, v)
            found[start:end].view(texts, tokens, self.heads, width // self.heads).copy_(attended.transpose(1, 2))
            start = end
        return found


class _Norm:
    def __init__(self, weight: Tensor, bias: Tensor, eps: float) -> None:
        self._weight, self._bias, self._eps = weight, bias, eps

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self._weight, self._bias, self._eps)


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
        self._norm = _norm(table.LayerNorm, torch.float32)
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
        """Token vectors (T, d) of token ids (T,) that stand at `places` (T,) of their texts, counted from 0."""
        x = self._norm(self._words[ids] + self._places[places + self._first]).to(self._dtype)
        for layer in self._layers:
            x = layer(x, runs)
        return x


def _linear(module: Any, dtype: torch.dtype, *, gelu: bool = False) -> _Linear:
    return _Linear(module.weight.detach().to(dtype), module.bias.detach().to(dtype), gelu=gelu)


def _norm(module: Any, dtype: torch.dtype) -> _Norm:
    return _Norm(module.weight.detach().to(dtype), module.bias.detach().to(dtype), float(module.eps))
