"""A linear map of the pooled vector, as sentence-transformers' module Dense lays it out: z = f(W v + b).

Its folder has `config.json` with in_features, out_features, bias and activation_function, and the weights `linear.weight`
(out, in) and `linear.bias` (out,).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from encoders.errors import ModelError
from encoders.folder import read_json, weights

if TYPE_CHECKING:
    from pathlib import Path

_ACTIVATIONS = {"torch.nn.modules.linear.Identity": False, "torch.nn.modules.activation.Tanh": True}


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """weight (k, D), bias (k,) or None, and whether tanh follows.

    >>> Dense(torch.tensor([[2.0, 0.0]]), torch.tensor([1.0]), tanh=False)(torch.tensor([[3.0, 5.0]])).tolist()
    [[7.0]]
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    tanh: bool = False

    @property
    def dimension(self) -> int:
        """k, numbers in what comes out."""
        return len(self.weight)

    def to(self, device: torch.device) -> Dense:
        """The same on a device."""
        bias = None if self.bias is None else self.bias.to(device)
        return replace(self, weight=self.weight.to(device), bias=bias)

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors (n, k) of vectors (n, D), in float32."""
        found = functional.linear(vectors.float(), self.weight, self.bias)
        return torch.tanh(found) if self.tanh else found


def read_dense(path: Path, *, takes: int) -> Dense:
    """The module in a folder. Raises ModelError if it cannot be read, or does not take vectors of `takes` numbers."""
    config = read_json(path / "config.json")
    named = config.get("activation_function") if isinstance(config, dict) else None
    if named not in _ACTIVATIONS:
        raise ModelError(
            f"{path / 'config.json'} has activation_function = {named!r}; known: {', '.join(_ACTIVATIONS)}. Choose a model without it"
        )
    found = _read(path)
    weight, bias = found.get("linear.weight"), found.get("linear.bias")
    shape = (int(config.get("out_features", 0)), takes)
    if weight is None or tuple(weight.shape) != shape or (bias is not None and bias.shape != weight.shape[:1]):
        had = None if weight is None else tuple(weight.shape)
        raise ModelError(
            f"{path} has linear.weight of shape {had}; {shape} is needed: out_features by the transformer's hidden_size. "
            "Copy the folder again"
        )
    return Dense(weight.float(), None if bias is None else bias.float(), tanh=_ACTIVATIONS[named])


def write_dense(path: Path, dense: Dense) -> None:
    """Write the module into a new folder."""
    from safetensors.torch import save_file

    path.mkdir()
    out, into = dense.weight.shape
    activation = next(name for name, tanh in _ACTIVATIONS.items() if tanh == dense.tanh)
    config = {
        "in_features": into,
        "out_features": out,
        "bias": dense.bias is not None,
        "activation_function": activation,
    }
    (path / "config.json").write_text(json.dumps(config, indent=2))
    tensors = {"linear.weight": dense.weight} | ({} if dense.bias is None else {"linear.bias": dense.bias})
    save_file({name: one.detach().cpu().contiguous() for name, one in tensors.items()}, path / "model.safetensors")


def _read(path: Path) -> Mapping[str, torch.Tensor]:
    from safetensors.torch import load_file

    (file, *more) = weights(path)
    try:
        if more:
            raise ValueError(f"{len(more) + 1} files of weights, one is needed")
        if file.suffix == ".safetensors":
            return load_file(file)
        found: Mapping[str, torch.Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(f"{file} cannot be read ({type(error).__name__}: {error}); copy the folder again") from error
    return found
