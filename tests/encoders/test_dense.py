"""The module Dense of sentence-transformers: its formula, its place among the modules, and what is refused."""

from __future__ import annotations

from tests.encoders import tiny

# isort: split

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encoders.dense import Dense, read_dense, write_dense
from encoders.errors import ModelError
from encoders.model import load

TEXTS = ["red shoes", "a warm coat for a child", "", "blue hat and light small shoes"]


def with_dense(folder: Path, dense: Dense, *, last: bool) -> Path:
    """Put the module after the others of a folder, or before the normalisation."""
    write_dense(folder / "9_Dense", dense)
    modules = json.loads((folder / "modules.json").read_text())
    modules.insert(3 if last else 2, {"path": "9_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def some(*, tanh: bool = False, bias: bool = True) -> Dense:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(3, tiny.DIMENSION, generator=generator)
    return Dense(weight, torch.randn(3, generator=generator) if bias else None, tanh=tanh)


@pytest.mark.parametrize("packed", [None, False], ids=["packed", "padded"])
@pytest.mark.parametrize(("last", "tanh", "bias"), [(True, False, True), (False, False, False), (False, True, True)])
def test_vectors_are_the_formula_s(tmp_path: Path, packed: bool | None, last: bool, tanh: bool, bias: bool) -> None:
    """Z = f(W v + b) of the vectors without it, scaled to length 1 where the normalisation follows."""
    dense = some(tanh=tanh, bias=bias)
    before = load(str(tiny.make(tmp_path / "base", normalise=last)), dtype="fp32", device="cpu").encode(TEXTS)
    folder = with_dense(tiny.make(tmp_path / "model"), dense, last=last)
    encoder = load(str(folder), dtype="fp32", device="cpu", packed=packed)
    assert encoder.dimension == 3
    z = before @ dense.weight.numpy().T + (0.0 if dense.bias is None else dense.bias.numpy())
    z = np.tanh(z) if tanh else z
    expected = z if last else z / np.linalg.norm(z, axis=1, keepdims=True)
    assert np.abs(encoder.encode(TEXTS) - expected).max() < 1e-5


def test_the_fingerprint_tells_of_weights_and_place(tmp_path: Path) -> None:
    """Without it, with it, with another number in it, and before the normalisation: four different ones."""
    other = Dense(some().weight * 1.001, some().bias)
    made = [tiny.make(tmp_path / "none")]
    for name, dense, last in (("one", some(), True), ("other", other, True), ("before", some(), False)):
        made.append(with_dense(tiny.make(tmp_path / name), dense, last=last))
    marks = {load(str(folder), dtype="fp32", device="cpu").fingerprint for folder in made}
    assert len(marks) == 4


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another activation": ({"activation_function": "torch.nn.GELU"}, "activation_function = 'torch.nn.GELU'; known: "),
    "another length": ({"out_features": 4}, r"has linear.weight of shape \(3, 32\); \(4, 32\) is needed"),
}


@pytest.mark.parametrize(("changed", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_known_is_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    """With the file's name and what is allowed."""
    write_dense(tmp_path / "dense", some())
    config = json.loads((tmp_path / "dense" / "config.json").read_text())
    (tmp_path / "dense" / "config.json").write_text(json.dumps(config | changed))
    with pytest.raises(ModelError, match=message):
        read_dense(tmp_path / "dense", takes=tiny.DIMENSION)


def test_broken_weights_are_refused(tmp_path: Path) -> None:
    """A file that is cut off."""
    write_dense(tmp_path / "dense", some())
    (tmp_path / "dense" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read"):
        read_dense(tmp_path / "dense", takes=tiny.DIMENSION)
