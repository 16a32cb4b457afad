"""Low-rank adaptation (Hu et al. 2021, section 4.1) of the query and value projections of a transformer.

    W' = W + (alpha/r) B A,    A (r, in) drawn, B (out, r) zero at the start, W held

so that training begins at the model itself. `merged` adds the product to W: the model is then what it was, with other numbers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from encoders.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = ("query", "value", "q_proj", "v_proj", "q_lin", "v_lin")
"""Names of query and value projections in BERT and RoBERTa, in the kind of Llama, in DistilBERT."""
ALPHA = 16.0


class LowRank(nn.Module):
    """A linear layer that is held, with a product of low rank beside it."""

    def __init__(self, held: nn.Linear, *, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        out, into = held.weight.shape
        drawn = torch.randn(rank, into, generator=generator) / math.sqrt(into)
        self.held = held
        self.down = nn.Parameter(drawn.to(held.weight.device))
        self.up = nn.Parameter(torch.zeros(out, rank, device=held.weight.device))
        self.scale = ALPHA / rank

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the layer gives, with the product added."""
        added = functional.linear(functional.linear(x, self.down), self.up)
        return functional.linear(x, self.held.weight, self.held.bias) + self.scale * added

    def merged(self) -> nn.Linear:
        """The layer with the product in its weights."""
        with torch.no_grad():
            self.held.weight += self.scale * self.up @ self.down
        return self.held


def adapt(model: Any, *, rank: int, seed: int) -> list[nn.Parameter]:
    """Put LowRank around the query and value projections, hold everything else, and return what is to be trained.

    Raises:
        ModelError: the model has no layer of those names.
    """
    for weight in model.parameters():
        weight.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parent, name in list(_places(model, nn.Linear)):
        setattr(parent, name, LowRank(getattr(parent, name), rank=rank, generator=generator))
    trained = [one for parent, name in _places(model, LowRank) for one in _pair(getattr(parent, name))]
    if not trained:
        raise ModelError(
            f"{type(model).__name__} has no linear layers named {', '.join(NAMES)}; tune a projection instead (--method projection)"
        )
    return trained


def merge(model: Any) -> None:
    """Undo `adapt`, keeping what was learned in the weights."""
    for parent, name in list(_places(model, LowRank)):
        setattr(parent, name, getattr(parent, name).merged())


def _pair(layer: LowRank) -> tuple[nn.Parameter, nn.Parameter]:
    return layer.down, layer.up


def _places(model: Any, kind: type[nn.Module]) -> Iterator[tuple[nn.Module, str]]:
    for parent in model.modules():
        for name, child in parent.named_children():
            if name in NAMES and isinstance(child, kind):
                yield parent, name
