"""Texts to token ids, cut to the maximum length. The fast tokenizers keep that as state of theirs: one clone for each thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from encoders.errors import ModelError

if TYPE_CHECKING:
    from encoders.folder import Folder


class Tokenizer:
    """A tokenizer of one thread. Made by `load_tokenizer` and `clone`."""

    def __init__(self, fast: Any, *, max_length: int, prompt: str) -> None:
        fast.no_padding()
        fast.enable_truncation(max_length)
        self._fast = fast
        self._max_length = max_length
        self._prompt = prompt

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special ones included, at most the maximum length."""
        prompt = self._prompt
        given = [prompt + text for text in texts] if prompt else list(texts)
        return [encoding.ids for encoding in self._fast.encode_batch_fast(given)]

    def clone(self) -> Tokenizer:
        """One like this for another thread."""
        fast = type(self._fast).from_str(self._fast.to_str())
        return Tokenizer(fast, max_length=self._max_length, prompt=self._prompt)


def load_fast(folder: Folder) -> tuple[Any, int]:
    """The folder's fast tokenizer and the length that it names itself. Raises ModelError if there is none."""
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(folder.path, local_files_only=True)
    except Exception as error:
        raise ModelError(
            f"the tokenizer in {folder.path} cannot be loaded ({type(error).__name__}: {error}); copy the whole repository"
        ) from error
    fast = getattr(found, "backend_tokenizer", None)
    if fast is None:
        raise ModelError(f"the tokenizer in {folder.path} is not a fast one: there is no tokenizer.json; convert it")
    fast = type(fast).from_str(fast.to_str())
    if folder.lowercase:
        _lowercase(fast)
    return fast, int(min(found.model_max_length, 1 << 30))


def _lowercase(fast: Any) -> None:
    from tokenizers import normalizers

    before = [normalizers.Lowercase()]
    fast.normalizer = normalizers.Sequence([*before, fast.normalizer] if fast.normalizer is not None else before)
