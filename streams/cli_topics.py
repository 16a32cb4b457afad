"""`clickloop topics`: create them, check them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from streams.cli_options import Bootstrap, Config, Json, print_json, settings_from

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streams.topics import Problem

app = typer.Typer(help="Create and check the topics.", no_args_is_help=True)


@app.command()
def create(config: Config = None, bootstrap: Bootstrap = None, json: Json = False) -> None:
    """Create the topics that are missing and check the others. Doing it again changes nothing."""
    from streams import topics

    report = topics.create(settings_from(config, bootstrap))
    if json:
        print_json(asdict(report))
    else:
        for name in report.created:
            typer.echo(f"created  {name}")
        for name in report.existing:
            typer.echo(f"exists   {name}")
    end_with(report.problems)


@app.command()
def check(config: Config = None, bootstrap: Bootstrap = None, json: Json = False) -> None:
    """Compare the topics with the settings: partitions, cleanup policy, retention. Changes nothing."""
    from streams import topics

    settings = settings_from(config, bootstrap)
    problems = topics.check(settings)
    if json:
        print_json({"problems": [asdict(problem) for problem in problems]})
    elif not problems:
        typer.echo(f"{len(topics.specs(settings))} topics are as the settings want them")
    end_with(problems)


def end_with(problems: Iterable[Problem]) -> None:
    """Tell each problem on standard error; exit 1 if one of them is an error."""
    failed = False
    for problem in problems:
        typer.echo(f"{'error' if problem.error else 'warning'}: {problem}", err=True)
        failed |= problem.error
    if failed:
        raise typer.Exit(1)
