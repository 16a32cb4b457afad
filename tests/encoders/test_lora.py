"""Low-rank parts: nothing at the start, the same when merged, and nothing else is trained."""

from __future__ import annotations

from tests.encoders import tiny

# isort: split

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from encoders.errors import ModelError
from encoders.folder import read_folder
from encoders.lora import LowRank, adapt, merge
from encoders.model import load_transformer

IDS = torch.tensor([[2, 6, 9, 3], [2, 8, 10, 3]])


def states(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).last_hidden_state
    return found


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_training_begins_at_the_model_and_ends_merged(tmp_path: Path, kind: str) -> None:
    """Adapted but not trained it computes the same; trained and merged it computes what it did before merging."""
    model = load_transformer(read_folder(tiny.make(tmp_path / "model", kind=kind)))
    names = {name for name, _ in model.named_parameters()}
    with torch.no_grad():
        before = states(model)
        trained = adapt(model, rank=2, seed=0)
        assert len(trained) == 2 * 2 * 2  # of two layers: query and value, two matrices each
        assert torch.equal(states(model), before)
        for parameter in trained:
            parameter.add_(0.05)
        tuned = states(model)
        merge(model)
        assert (tuned - before).abs().max() > 1e-3
        assert (states(model) - tuned).abs().max() < 1e-4
    assert {name for name, _ in model.named_parameters()} == names


def test_only_low_rank_parts_move(tmp_path: Path) -> None:
    """After a step of training and merging, the query and value weights differ by rank 2, and no other weight does."""
    model = load_transformer(read_folder(tiny.make(tmp_path / "model")))
    before = copy.deepcopy(model.state_dict())
    trained = adapt(model, rank=2, seed=0)
    optimiser = torch.optim.SGD(trained, lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        states(model).square().mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    merge(model)
    moved = {
        name: weight - before[name] for name, weight in model.state_dict().items() if not weight.equal(before[name])
    }
    assert {name.split(".")[-2] for name in moved} == {"query", "value"}
    for difference in moved.values():
        assert int((torch.linalg.svdvals(difference) > 1e-6).sum()) <= 2


def test_a_held_layer_has_no_gradient() -> None:
    """A layer that were not held would be trained as well: its weights would have one."""
    parent = nn.ModuleDict({"query": nn.Linear(4, 4), "other": nn.Linear(4, 4)})
    trained = adapt(parent, rank=1, seed=0)
    assert isinstance(parent["query"], LowRank)
    parent["other"](parent["query"](torch.ones(1, 4))).sum().backward()
    assert all(parameter.grad is not None for parameter in trained)
    assert parent["query"].held.weight.grad is None
    assert parent["other"].weight.grad is None


def test_a_model_without_such_layers_is_refused() -> None:
    """By name, with the way out."""
    with pytest.raises(ModelError, match=r"Sequential has no linear layers named query, value, .*--method projection"):
        adapt(nn.Sequential(nn.Linear(2, 2)), rank=1, seed=0)
