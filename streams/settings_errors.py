"""What is said when the settings cannot be used: what was wrong, its value, what is allowed, what to do."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, SecretStr

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

ENV_PREFIX = "CLICKLOOP_"
ENV_NESTING = "__"
MASK = "**********"


class SettingsError(ValueError):
    """The settings cannot be used as they are; the text says what to change. Never worth a retry."""

    retriable = False


def env_name(path: Sequence[str | int]) -> str:
    """Return the environment variable that sets the value at `path`.

    >>> env_name(("policies", "home", "window_s"))
    'CLICKLOOP_POLICIES__HOME__WINDOW_S'
    """
    return ENV_PREFIX + ENV_NESTING.join(str(part) for part in path).upper()


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return a sentence with the choices closest to `word`, or with all of them when none is close.

    >>> did_you_mean("windows_s", ["window_s", "early_s"])
    'did you mean window_s?'
    >>> did_you_mean("colour", ["window_s", "early_s"])
    'known here: early_s, window_s'
    """
    known = sorted(choices)
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known here: {', '.join(known) or '(none)'}"


def model_at(root: type[BaseModel], path: Sequence[str | int]) -> type[BaseModel] | None:
    """Return the model that holds the last key of `path`, or None if that place is not a model's.

    A mapping of models (`policies`) takes one key of the path: ("policies", "home", "window_s") is in PolicySettings.
    """
    model: type[BaseModel] = root
    inside_mapping = False
    for part in path[:-1]:
        if inside_mapping:
            inside_mapping = False
            continue
        field = model.model_fields.get(str(part))
        if field is None:
            return None
        nested = [arg for arg in (field.annotation, *getattr(field.annotation, "__args__", ())) if _is_model(arg)]
        if not nested:
            return None
        inside_mapping = nested[0] is not field.annotation
        model = nested[0]
    return None if inside_mapping else model


def _is_model(candidate: object) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)


def explain(error: ValidationError, root: type[BaseModel]) -> SettingsError:
    """Return every complaint of a validation as one line each, with the way out."""
    lines = [_line(detail, root) for detail in error.errors(include_url=False)]
    return SettingsError("\n".join(lines))


def _line(detail: ErrorDetails, root: type[BaseModel]) -> str:
    path = detail["loc"]
    name = ".".join(str(part) for part in path)
    if detail["type"] == "extra_forbidden":
        model = model_at(root, path)
        hint = did_you_mean(str(path[-1]), model.model_fields if model is not None else ())
        return f"{name}: there is no such setting; {hint}"
    if detail["type"] == "value_error":  # the text of our own validators, complete in itself
        text = str(detail["ctx"]["error"])
        place = ".".join(str(part) for part in (path[:-1] if path and text.startswith(str(path[-1])) else path))
        return f"{place}: {text}" if place else text
    allowed = _allowed(detail)
    meaning = _meaning(root, path)
    where = f"change it in the settings file or set {env_name(path)}"
    return f"{name} = {_shown(detail['input'], root, path)}: {allowed}{meaning}; {where}"


def _allowed(detail: ErrorDetails) -> str:
    """What pydantic says, in the words of a settings file instead of Python's."""
    kind = detail["type"]
    if kind == "string_pattern_mismatch":
        return (
            "must be one or more letters, digits, '.', '_' or '-'"
            if detail["ctx"]["pattern"].endswith("+$")
            else ("may hold letters, digits, '.', '_' and '-' only")
        )
    words = {
        "dict_type": "must be a table",
        "model_type": "must be a table",
        "tuple_type": "must be a list",
        "int_parsing": "must be a whole number",
        "int_from_float": "must be a whole number",
        "int_type": "must be a whole number",
        "float_parsing": "must be a number",
        "float_type": "must be a number",
        "string_type": "must be a text",
        "bool_parsing": "must be true or false",
    }
    return words.get(kind) or detail["msg"].replace("Input should be ", "must be ").replace(
        "String should have", "must have"
    ).removeprefix("Value error, ")


def _meaning(root: type[BaseModel], path: Sequence[str | int]) -> str:
    model = model_at(root, path)
    field = model.model_fields.get(str(path[-1])) if model is not None else None
    return f" ({field.description})" if field is not None and field.description else ""


def _shown(value: Any, root: type[BaseModel], path: Sequence[str | int]) -> str:
    return MASK if is_secret(root, path) else repr(value)


def is_secret(root: type[BaseModel], path: Sequence[str | int]) -> bool:
    """Tell whether the setting at `path`, or the table that holds it, must not be printed."""
    return any(_is_secret(root, path[:end]) for end in range(1, len(path) + 1))


def _is_secret(root: type[BaseModel], path: Sequence[str | int]) -> bool:
    model = model_at(root, path)
    field = model.model_fields.get(str(path[-1])) if model is not None else None
    return field is not None and SecretStr in (field.annotation, *getattr(field.annotation, "__args__", ()))


def flatten(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Return the leaves of nested mappings by their path; an empty mapping is a leaf.

    >>> flatten({"a": {"b": 1}, "c": {}})
    {('a', 'b'): 1, ('c',): {}}
    """
    leaves: dict[tuple[str, ...], Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            leaves |= flatten(value, (*path, key))
        else:
            leaves[*path, key] = value
    return leaves
