"""How long a text may be: what is asked for, or what the folder says, as far as the model has places; tried before it is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from encoders.batching import Tokenised
from encoders.errors import ModelError

if TYPE_CHECKING:
    from encoders.folder import Folder
    from encoders.model import Encoder

TRIED_TOKENS = 4_096
"""A longer text takes too long to be tried; models that take one compute their places, and have no table of them."""
_UNSAID = 1 << 30


def max_length(folder: Folder, model: Any, named: int, wanted: int | None) -> int:
    """Tokens of a text at most.

    Args:
        folder: what sentence-transformers would take.
        model: the loaded transformer.
        named: what the tokenizer says, 2^30 if nothing.
        wanted: what the settings say.

    Raises:
        ModelError: the model has fewer places, or nobody says.
    """
    places = _places(model)
    if wanted is not None and wanted > places:
        raise ModelError(f"max_length = {wanted}: the model has places for {places} tokens; set {places} or less")
    length = wanted or min(folder.max_length or _UNSAID, named, places)
    if length >= _UNSAID:
        raise ModelError(f"{folder.path} does not say how long a text may be; set max_length")
    return length


def try_length(encoder: Encoder, known: Sequence[str]) -> None:
    """Encode one text of exactly the maximum length, if that is quick.

    Args:
        encoder: loaded.
        known: texts that are not equal.

    Raises:
        ModelError: it fails, or so little of the known texts is left that they are equal.
    """
    length, found = encoder.max_length, encoder.tokenizer(known)
    longest = max(map(len, found))
    if longest > length or (longest == length and all(ids == found[0] for ids in found)):
        raise ModelError(
            f"max_length = {length}: special tokens and the prompt take all of them, so that all texts get one vector; "
            f"set more than {length}, or leave it out"
        )
    if length > TRIED_TOKENS:
        return
    ids = (found[-1] * (length // len(found[-1]) + 1))[:length]
    try:
        vectors = encoder.forward(encoder.prepare([Tokenised(ids)]))
    except Exception as error:
        raise ModelError(
            f"max_length = {length}: a text of {length} tokens cannot be encoded ({type(error).__name__}: {error}); "
            "set less, as much as the model's card says"
        ) from error
    if not np.isfinite(vectors).all():
        raise ModelError(
            f"max_length = {length}: the vector of a text of {length} tokens is not finite; set less, or dtype = 'fp32'"
        )


def _places(model: Any) -> int:
    """Rows of the table of places, less those before the first token's: RoBERTa and its like count from the padding's on."""
    places = int(getattr(model.config, "max_position_embeddings", None) or _UNSAID)
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return places if padding is None else places - int(padding) - 1
