"""The models of the conformance table, and for each law of theirs (laws.py) a model that breaks it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from policies.linear import LinearModel
from policies.model import make_model
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


class Moody(LinearModel):
    """Reads other rewards each time."""

    asked = 0

    def at(self, sums: LinearSums, *, now_ms: int, weights: Sequence[float] | None = None) -> Effective:
        read = super().at(sums, now_ms=now_ms)
        self.asked += 1
        return replace(read, b=read.b * (1.0 + self.asked % 7))


LAWS: dict[str, tuple[Callable[[Subject], None], type[LinearModel]]] = {
    "closed form": (laws.closed_form, Immediate),
    "merge is the whole": (laws.merging, InOrder),
    "every row counts": (laws.every_row_counts, Sampled),
    "decay": (laws.decay, Clockless),
    "retraction": (laws.retraction, Unforgiving),
    "serialisation": (laws.serialisation, Rounded),
    "inputs stay": (laws.inputs, InPlace),
    "seeds reproduce": (laws.reproduction, Noisy),
    "propensities are those of draws": (laws.propensities, Moody),
    "fingerprints": (laws.fingerprints, Deaf),
}
