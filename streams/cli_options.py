"""What the commands share: options, settings made from them, and how results are printed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from streams.settings import Settings

_NO_WIDTH = 10_000
"""Columns where standard output is no terminal: nothing is wrapped or cut for a program that reads it."""

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", envvar="CLICKLOOP_CONFIG", help="Settings file (TOML)."),
]
# The variable stands in the help only: the settings read it, so that `config show` can tell it from the option.
Bootstrap = Annotated[
    str | None,
    typer.Option(
        "--bootstrap", "-b", metavar="HOST:PORT", help="Kafka brokers, separated by commas (env: CLICKLOOP_BOOTSTRAP)."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output and nothing else there.")]


LogFile = Annotated[
    str | None,
    typer.Option(
        "--file", help="Logged decisions instead of the feedback topic: CSV, JSON Lines or Parquet, as for replay."
    ),
]
LogColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--map", metavar="KEY=COLUMN", help="Column of the file that holds a field; KEY==TEXT for a constant."
    ),
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave bad rows of the file out instead of refusing it.")]


def mapping(pairs: list[str]) -> dict[str, str]:
    """Return KEY=COLUMN pairs as a dict; a usage error names the pair that is none.

    >>> mapping(["ts=time", "arm=item id"])
    {'ts': 'time', 'arm': 'item id'}
    """
    result: dict[str, str] = {}
    for pair in pairs:
        key, sign, column = pair.partition("=")
        if not sign or not key or not column or key in result:
            raise typer.BadParameter(f"--map {pair!r} must be KEY=COLUMN, each KEY once; for example --map ts=time")
        result[key] = column
    return result


def columns_of(file: str | None, pairs: list[str] | None, *, skip_bad: bool) -> dict[str, str]:
    """The mapping of a log; a usage error where there is no file that it could be for."""
    chosen = mapping(pairs or [])
    if file is None and (chosen or skip_bad):
        raise typer.BadParameter("--map and --skip-bad are for a file; name it with --file")
    return chosen


def settings_from(config: Path | None, bootstrap: str | None, **overrides: object) -> Settings:
    """Return the settings of this command and set logging up as they say; SettingsError if they are not usable."""
    from streams import logs
    from streams.settings import load

    settings = load(config, overrides={"bootstrap": bootstrap, **overrides})
    logs.configure(settings)
    return settings


def context_from(named: str | None, numbers: str | None) -> dict[str, Any] | list[float]:
    """A context from the command line: features by name as JSON, or numbers between commas; empty without either.

    >>> context_from(None, "1, 0.5")
    [1.0, 0.5]
    >>> context_from('{"hour": 18, "device": "phone"}', None)
    {'hour': 18, 'device': 'phone'}
    """
    if named is not None and numbers is not None:
        raise typer.BadParameter("give --context (features by name) or --vector (numbers), not both")
    try:
        if numbers is not None:
            return [float(number) for number in numbers.split(",")]
        values = {} if named is None else json.loads(named)
    except ValueError as error:
        raise typer.BadParameter(f"{error}; --context takes a JSON object, --vector numbers between commas") from error
    if not isinstance(values, dict):
        raise typer.BadParameter(f"--context is {named}; it takes a JSON object of features by name")
    return values if values else []


def print_json(value: object) -> None:
    """Print `value` as JSON, for another program to read."""
    typer.echo(json.dumps(value, indent=2, default=str))


def print_record(record: Mapping[str, Any], *, title: str) -> None:
    """Print one record as a table of two columns; what is nested gets a table of its own below."""
    from rich.table import Table

    nested = {key: value for key, value in record.items() if isinstance(value, Mapping) and value}
    table = Table("", "", title=title, title_justify="left", show_header=False)
    for key, value in record.items():
        if key not in nested:
            table.add_row(str(key), _cell(value))
    _print_table(table)
    for key, value in nested.items():
        if all(isinstance(row, Mapping) for row in value.values()):
            print_rows([{"": name, **row} for name, row in value.items()], title=key)
        else:
            print_record(value, title=key)


def print_rows(rows: Sequence[Mapping[str, Any]], *, title: str) -> None:
    """Print records of the same kind as the rows of one table, with a column for every key that any of them has."""
    from rich.table import Table

    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    _print_table(table)


def _cell(value: object) -> str:
    from rich.markup import escape

    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(item) for item in value) or "-"
    return escape(json.dumps(value, default=str) if isinstance(value, Mapping) else str(value))


def _print_table(table: object) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=_NO_WIDTH)
    console.print(table)
