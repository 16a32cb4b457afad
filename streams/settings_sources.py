"""Where settings come from: file < secrets folder < environment < command line, merged into one plain mapping."""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_settings import BaseSettings, EnvSettingsSource, SecretsSettingsSource
from pydantic_settings.exceptions import SettingsError as SourceError

from streams.settings_errors import ENV_PREFIX, SettingsError, env_name, flatten

if TYPE_CHECKING:
    from collections.abc import Mapping

Layer = tuple[str, dict[str, Any]]


def layers(model: type[BaseSettings], config: Path | None, overrides: Mapping[str, Any]) -> list[Layer]:
    """Return (name, values) of every source, weakest first.

    Args:
        model: the settings class whose fields the environment may set.
        config: a TOML file, or None for none.
        overrides: values from the command line; those that are None are as if not given.

    Raises:
        SettingsError: a file or folder is missing or unreadable, or an environment variable is not what it should be.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    file = read_toml(config) if config is not None else {}
    environment = read_environment(model)
    folder = given.get("secrets_dir") or environment.get("secrets_dir") or file.get("secrets_dir")
    secrets = read_secrets(model, Path(str(folder))) if folder else {}
    return [
        (f"file {config}", file),
        (f"secrets {folder}", secrets),
        ("environment", environment),
        ("command line", given),
    ]


def read_toml(path: Path) -> dict[str, Any]:
    """Return what the TOML file at `path` holds; SettingsError with the line if it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not valid TOML: {error}; correct that line") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise SettingsError(
            f"settings file {path} cannot be read ({reason}); check the path or leave it out"
        ) from error


def read_environment(model: type[BaseSettings]) -> dict[str, Any]:
    """Return what CLICKLOOP_* variables set; names of policies are lower case there.

    A variable that is almost, but not quite, a setting is refused. Others are left alone: Kubernetes gives every
    container variables named after its services.
    """
    known = {env_name((field,)) for field in model.model_fields}
    for name in sorted(key.upper() for key in os.environ if key.upper().startswith(ENV_PREFIX)):
        head = ENV_PREFIX + name.removeprefix(ENV_PREFIX).split("__")[0]
        close = difflib.get_close_matches(head, known, n=1, cutoff=0.93)
        if head not in known and close:
            raise SettingsError(
                f"{name} is set, but there is no such setting; did you mean {close[0]}? Rename or unset it"
            )
    try:
        return dict(EnvSettingsSource(model)())
    except SourceError as error:
        raise SettingsError(_not_json() or f"environment: {error}; {_JSON_HINT}") from error


_JSON_HINT = "lists and tables in a variable are JSON, for example '[60, 600]' or '{\"click\": 1.0}'"


def _not_json() -> str:
    """A line for each variable that looks like a list or a table of a policy and is not JSON; pydantic names only the field."""
    lines = []
    for name, value in sorted(os.environ.items()):
        last = name.upper().rpartition("__")[2]
        if name.upper() == env_name(("policies",)) or (
            name.upper().startswith(env_name(("policies", ""))) and last in {"OUTCOMES", "DELAYS_S", "ARMS"}
        ):
            try:
                json.loads(value)
            except ValueError as error:
                lines.append(f"{name} = {value!r} is not JSON ({error}); {_JSON_HINT}")
    return "\n".join(lines)


def check_files(values: Mapping[str, Any]) -> None:
    """Raise SettingsError for a TLS file that cannot be read: the clients say of it no more than that nobody answers."""
    for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
        path = values.get(name)
        if path is None:
            continue
        try:
            with Path(str(path)).open("rb"):
                pass
        except OSError as error:
            reason = error.strerror or str(error)
            raise SettingsError(
                f"{name} = {str(path)!r} cannot be read ({reason}); check path and permissions"
            ) from error


def read_secrets(model: type[BaseSettings], folder: Path) -> dict[str, Any]:
    """Return the settings found as files in `folder`, one value each, named like clickloop_sasl_password."""
    if not folder.is_dir():
        raise SettingsError(f"secrets_dir = {folder}: must be a folder that exists; mount it or unset secrets_dir")
    try:
        return dict(SecretsSettingsSource(model, secrets_dir=folder)())
    except (SourceError, OSError) as error:
        raise SettingsError(f"secrets in {folder} cannot be read: {error}; check names and permissions") from error


def origins(found: list[Layer]) -> dict[tuple[str, ...], str]:
    """Return for the path of every value that was set the name of the source that won."""
    return {path: name for name, values in found for path in flatten(values)}


def merge(found: list[Layer]) -> dict[str, Any]:
    """Return the values of all sources in one nested mapping, the stronger source winning key by key.

    >>> merge([("file", {"a": {"b": 1, "c": 2}}), ("environment", {"a": {"b": 3}})])
    {'a': {'b': 3, 'c': 2}}
    """
    result: dict[str, Any] = {}
    for _, values in found:
        _merge_into(result, values)
    return result


def _merge_into(target: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge_into(target[key], value)
        else:
            target[key] = deepcopy(value)
