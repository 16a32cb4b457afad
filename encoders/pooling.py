"""From token vectors to one vector for each text, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from encoders.folder import Pooling

Tensor = torch.Tensor


def pool_packed(states: Tensor, runs: Sequence[tuple[int, int]], pooling: Pooling) -> Tensor:
    """Vectors (n, d) of packed token vectors (T, d); `runs` are (texts, tokens of each).

    >>> pool_packed(torch.tensor([[1.0], [3.0], [5.0]]), [(1, 2), (1, 1)], "mean").tolist()
    [[2.0], [5.0]]
    """
    pooled, start = [], 0
    for texts, tokens in runs:
        of_texts = states[start : start + texts * tokens].view(texts, tokens, -1)
        start += texts * tokens
        pooled.append(_pool_equal(of_texts, pooling))
    return torch.cat(pooled)


def pool_padded(states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Vectors (n, d) of padded token vectors (n, l, d) whose tokens `mask` (n, l) has as 1; padding is at the right.

    >>> pool_padded(torch.tensor([[[1.0], [3.0]], [[5.0], [9.0]]]), torch.tensor([[1, 1], [1, 0]]), "last").tolist()
    [[3.0], [5.0]]
    """
    if pooling == "cls":
        return states[:, 0].float()
    if pooling == "last":
        return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1].float()
    weight = mask[:, :, None].float()
    return (states.float() * weight).sum(1) / weight.sum(1)


def scaled(vectors: Tensor) -> Tensor:
    """Vectors of length 1 (n, d); one of zeros stays."""
    return functional.normalize(vectors, dim=1)


def _pool_equal(states: Tensor, pooling: Pooling) -> Tensor:
    if pooling == "mean":
        return states.float().mean(1)
    return states[:, 0 if pooling == "cls" else -1].float()
