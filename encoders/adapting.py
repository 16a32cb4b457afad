"""The vectors that tuning goes through: kept ones where the transformer is held, else the transformer's own, with a gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from encoders.lora import adapt, merge
from encoders.pooling import pool_padded, scaled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from encoders.batching import Vectors
    from encoders.folder import Pooling
    from encoders.tuning import Index


class Kept:
    """Vectors (n, D) that do not change, by number."""

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = torch.from_numpy(np.ascontiguousarray(vectors, np.float32))

    def __call__(self, texts: Index) -> torch.Tensor:
        """Vectors (m, D) of texts (m,)."""
        return self._vectors[torch.from_numpy(texts)]


class Adapted:
    """A transformer with low-rank parts, over texts of known token ids.

    Args:
        model: as transformers loads it; it is changed until `merged`.
        ids: token ids of each text.
        pooling, normalise: what makes a vector of token vectors.
        device: where it runs; vectors come back to the CPU.
        rank: r.
        seed: of the first low-rank parts.

    Raises:
        ModelError: it has no layers to adapt.
    """

    def __init__(
        self,
        model: Any,
        ids: Sequence[Sequence[int]],
        *,
        pooling: Pooling,
        normalise: bool,
        device: torch.device,
        rank: int,
        seed: int,
    ) -> None:
        self._model, self._ids = model.to(device), ids
        self._pooling: Pooling = pooling
        self._normalise, self._device = normalise, device
        self._padding = int(getattr(model.config, "pad_token_id", None) or 0)
        self.parameters = adapt(model, rank=rank, seed=seed)

    def __call__(self, texts: Index) -> torch.Tensor:
        """Vectors (m, D) of texts (m,), with a gradient in `parameters`."""
        ids = [self._ids[text] for text in texts.tolist()]
        lengths = np.array([len(one) for one in ids])
        padded = np.full((len(ids), int(lengths.max())), self._padding, np.int64)
        mask = np.arange(padded.shape[1]) < lengths[:, None]
        padded[mask] = np.concatenate(ids)
        given, seen = (
            torch.from_numpy(padded).to(self._device),
            torch.from_numpy(mask.astype(np.int64)).to(self._device),
        )
        states = self._model(input_ids=given, attention_mask=seen).last_hidden_state
        vectors = pool_padded(states, seen, self._pooling)
        return (scaled(vectors) if self._normalise else vectors).cpu()

    def merged(self) -> Any:
        """The transformer as it was, with what was learned in its weights, on the CPU."""
        merge(self._model)
        return self._model.cpu()
