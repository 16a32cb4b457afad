"""What can go wrong with a model or with one text."""

from __future__ import annotations


class ModelError(RuntimeError):
    """A model cannot be used as it is; the text says which part and what to do. Not worth a retry."""

    retriable = False


class TextError(ValueError):
    """One text cannot be encoded. It goes to the dead letters with this reason."""

    retriable = False
