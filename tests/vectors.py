"""Vectors of texts for tests, without an encoder: what a `streams.texts.Texts` asks, answered from a table."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from policies.projection import Projection, added, no_moments, principal

D = 6


def vector_of(text: str, *, seed: int = 0) -> npt.NDArray[np.float32]:
    """(D,) a vector that is a function of the text."""
    rng = np.random.default_rng([seed, *text.encode()])
    return (rng.normal(size=D) * 0.8 ** np.arange(D) + 0.2).astype(np.float32)


def projection(*, length: int = 4, encoder: str = "e1", seed: int = 0) -> Projection:
    """Of 200 texts."""
    rows = [vector_of(f"text {i}", seed=seed) for i in range(200)]
    return principal(added(no_moments(D), rows), length=length, encoder=encoder)


class Table:
    """Vectors and projections that are here, and what was asked for."""

    def __init__(self, *projections: Projection) -> None:
        self.projections = {one.name: one for one in projections}
        self.vectors: dict[tuple[str | None, str], npt.NDArray[np.float32]] = {}
        self.asked: list[str] = []
        self.full = False

    def put(self, *texts: str, encoder: str = "e1", seed: int = 0) -> None:
        """The vectors of texts come."""
        for text in texts:
            self.vectors[encoder, text] = vector_of(text, seed=seed)

    def get(self, text: str, *, encoder: str | None = None) -> npt.NDArray[np.float32] | None:
        """As `EmbeddingClient.get`."""
        return self.vectors.get((encoder, text))

    def projection(self, name: str) -> Projection | None:
        """As `EmbeddingClient.projection`."""
        return self.projections.get(name)

    def ask(self, text: str) -> bool:
        """As `EmbeddingClient.ask`."""
        if not self.full:
            self.asked.append(text)
        return not self.full
