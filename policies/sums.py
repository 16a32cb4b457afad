"""The types that everything else works on: what sums are, what a model does, how sums look when they are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from policies.batch import Batch, FloatArray

VERSION = 1
"""Major version of the records of sums; a reader refuses a larger one."""


class RecordError(ValueError):
    """A record that cannot be used: written by a newer version, for another model, or damaged."""

    retriable = False


@runtime_checkable
class Sums(Protocol):
    """Additive statistics of one arm: immutable, and a function of the set of its rows.

    n, reward and square are sums of w, w r and w r^2 over impressions with the weight w that each has at `landmark_ms`
    (1 without forgetting); count is the plain number of impressions; newest_ms is the largest event time.
    """

    @property
    def n(self) -> float: ...  # noqa: D102  # the class docstring says
    @property
    def count(self) -> float: ...  # noqa: D102
    @property
    def reward(self) -> float: ...  # noqa: D102
    @property
    def square(self) -> float: ...  # noqa: D102
    @property
    def landmark_ms(self) -> int: ...  # noqa: D102
    @property
    def newest_ms(self) -> int: ...  # noqa: D102


def _none(*shape: int) -> FloatArray:
    return np.zeros(shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """Sums of one arm as they count at a moment: forgotten by then, and without what is still pending.

    Attributes:
        n_eff: weight of impressions whose label is in.
        count: number of impressions, undecayed and with the pending ones.
        reward: sum of w r.
        square: sum of w r^2.
        b: (d,) sum of w r x.
        A: (d, d) sum of w x x^T, symmetric, without what is pending.
    """

    n_eff: float
    count: float
    reward: float
    square: float
    b: FloatArray = field(default_factory=lambda: _none(0))
    A: FloatArray = field(default_factory=lambda: _none(0, 0))


class Model(Protocol):
    """How one arm's part of the log becomes sums. Everything returns new values; nothing is changed in place."""

    @property
    def name(self) -> str: ...  # noqa: D102  # see `policies.model.MODELS`
    @property
    def family(self) -> str:
        """Name in the records of sums: models of one family read each other's, so that a policy may change between them."""
        ...

    @property
    def dimension(self) -> int: ...  # noqa: D102  # d, length of the context
    @property
    def half_life_s(self) -> float: ...  # noqa: D102  # of old rows, in seconds; 0 forgets nothing
    @property
    def timeless(self) -> bool:
        """Whether reading the same sums later gives the same numbers (no forgetting, nothing pending)."""
        ...

    @property
    def encoder(self) -> str | None:
        """Fingerprint of the encoder that contexts come from, None if there is none."""
        ...

    def zero(self) -> Any:
        """Sums of no rows."""
        ...

    def update(self, sums: Mapping[str, Any], batch: Batch) -> dict[str, Any]:
        """Return the arms' sums with the batch's rows added; arms that it does not touch keep their very objects."""
        ...

    def merge(self, left: Any, right: Any) -> Any:
        """Sums of the rows of both."""
        ...

    def negative(self, sums: Any) -> Any:
        """What takes the sums' rows back when it is merged; times stay as they are."""
        ...

    def encode(self, sums: Any) -> dict[str, object]:
        """Sums as a map that MessagePack can hold; see the model's module for its layout."""
        ...

    def decode(self, record: Mapping[str, object]) -> Any:
        """Read what `encode` wrote; unknown keys are ignored. Raises RecordError if it cannot be used."""
        ...

    def at(self, sums: Any, *, now_ms: int, weights: Sequence[float] | None = None) -> Effective:
        """Sums as they count at event time `now_ms`, or at the arm's newest event if that is later; pending rows by `weights`."""
        ...
