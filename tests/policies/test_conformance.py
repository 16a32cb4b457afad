"""The table of all models: each runs through every law, and each law has a model that it must reject."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import policies
from policies.linear import LinearModel
from policies.model import MODELS, make_model
from tests.policies import laws
from tests.policies.laws import D, Subject, linear_terms, logistic_terms, no_terms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from policies.batch import Batch
    from policies.linear_sums import LinearSums
    from policies.sums import Effective

POINT = (-1.0, 0.5, 0.25)

SUBJECTS = {
    "beta": Subject(make=partial(make_model, "beta", dimension=D), terms=no_terms, encoded=False),
    "linear": Subject(make=partial(make_model, "linear", dimension=D), terms=linear_terms),
    "hybrid": Subject(make=partial(make_model, "hybrid", dimension=D), terms=linear_terms),
    "student": Subject(make=partial(make_model, "student", dimension=D), terms=linear_terms),
    "logistic": Subject(make=partial(make_model, "logistic", dimension=D), terms=logistic_terms(np.zeros(D))),
    "logistic around a point": Subject(
        make=partial(make_model, "logistic", dimension=D, point=POINT),
        terms=logistic_terms(np.array(POINT)),
        exact=False,
    ),
}


class Immediate(LinearModel):
    """Takes what is pending for a no."""

    def at(self, sums: LinearSums, *, now_ms: int, weights: Sequence[float] | None = None) -> Effective:
        kept = LinearModel(dimension=self.dimension, half_life_s=self.half_life_s)
        return kept.at(msgspec.structs.replace(sums, pending=()), now_ms=now_ms)


class InOrder(LinearModel):
    """Weighs by the order of arrival: what came before counts a little less with every merge."""

    def merge(self, left: LinearSums, right: LinearSums) -> LinearSums:
        merged = super().merge(left, right)
        return msgspec.structs.replace(merged, reward=merged.reward - left.reward / 8)


class Sampled(LinearModel):
    """Does not bother with a single row."""

    def update(self, sums: Mapping[str, LinearSums], batch: Batch) -> dict[str, LinearSums]:
        return dict(sums) if len(batch.arm) + len(batch.reward) == 1 else super().update(sums, batch)


class Clockless(LinearModel):
    """Reads sums as they were at the newest event."""

    def at(self, sums: LinearSums, *, now_ms: int, weights: Sequence[float] | None = None) -> Effective:
        return super().at(sums, now_ms=sums.newest_ms)


class Unforgiving(LinearModel):
    """Takes impressions back, not their rewards."""

    def negative(self, sums: LinearSums) -> LinearSums:
        return msgspec.structs.replace(super().negative(sums), b=sums.b)


class Rounded(LinearModel):
    """Writes b in single precision."""

    def encode(self, sums: LinearSums) -> dict[str, object]:
        return super().encode(sums) | {"b": (sums.b / 3).tobytes()}


class InPlace(LinearModel):
    """Adds to the sums that it was given."""

    def update(self, sums: Mapping[str, LinearSums], batch: Batch) -> dict[str, LinearSums]:
        result = super().update(sums, batch)
        for name, old in sums.items():
            old.A[:] = result[name].A
        return result


class Noisy(LinearModel):
    """Has a generator of its own."""

    generator = np.random.default_rng(1)

    def at(self, sums: LinearSums, *, now_ms: int, weights: Sequence[float] | None = None) -> Effective:
        read = super().at(sums, now_ms=now_ms)
        return replace(read, b=read.b + 1e-3 * self.generator.normal(size=len(read.b)))


class Deaf(LinearModel):
    """Does not listen to fingerprints."""

    def decode(self, record: Mapping[str, object]) -> LinearSums:
        return super().decode({**record, "encoder": self.encoder})


LAWS: dict[str, tuple[Callable[[Subject], None], type[LinearModel]]] = {
    "closed form": (laws.closed_form, Immediate),
    "merge is the whole": (laws.merging, InOrder),
    "every row counts": (laws.every_row_counts, Sampled),
    "decay": (laws.decay, Clockless),
    "retraction": (laws.retraction, Unforgiving),
    "serialisation": (laws.serialisation, Rounded),
    "inputs stay": (laws.inputs, InPlace),
    "seeds reproduce": (laws.reproduction, Noisy),
    "fingerprints": (laws.fingerprints, Deaf),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", SUBJECTS)
def test_every_model_obeys_every_law(name: str, law: str) -> None:
    """The table."""
    LAWS[law][0](SUBJECTS[name])


@pytest.mark.parametrize("law", LAWS)
def test_every_law_rejects_a_model_that_breaks_it(law: str) -> None:
    """A law that nothing fails says nothing."""
    broken = LAWS[law][1]
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        LAWS[law][0](replace(SUBJECTS["linear"], make=partial(broken, dimension=D)))


@pytest.mark.parametrize("name", SUBJECTS)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_sums_are_a_function_of_the_set_of_rows(name: str, seed: int) -> None:
    """Whatever the rows, the split, the order and the tree."""
    laws.merging(SUBJECTS[name], seed)


def unlisted(listed: set[Any]) -> set[Any]:
    """Names and public classes of models in the package that are not listed."""
    modules = [importlib.import_module(f"policies.{found.name}") for found in pkgutil.iter_modules(policies.__path__)]
    needed = {"zero", "update", "merge", "encode", "decode", "at"}
    classes = {
        value
        for module in modules
        for name, value in inspect.getmembers(module, inspect.isclass)
        if not name.startswith("_") and needed <= set(dir(value)) and not getattr(value, "_is_protocol", False)
    }
    return (classes | set(MODELS)) - listed


def test_every_public_model_is_listed() -> None:
    """A model that is not in the table fails here; and this notices one that is left out."""
    models = {name: subject.make() for name, subject in SUBJECTS.items()}
    listed = {type(model) for model in models.values()} | {model.name for model in models.values()}
    assert unlisted(listed) == set()
    assert unlisted(listed - {LinearModel, "hybrid"}) == {LinearModel, "hybrid"}
