"""`clickloop config`: show the settings in force, check them before a deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from streams.cli_options import Bootstrap, Config, Json, print_json, print_rows, settings_from
from streams.cli_topics import end_with

if TYPE_CHECKING:
    from collections.abc import Mapping

app = typer.Typer(help="Show and check the settings.", no_args_is_help=True)


@app.command()
def show(config: Config = None, bootstrap: Bootstrap = None, json: Json = False) -> None:
    """Print the settings in force and where each comes from; secrets are masked."""
    from streams.settings import Settings
    from streams.settings_errors import flatten
    from streams.settings_sources import layers, origins

    values = settings_from(config, bootstrap).model_dump(mode="json")
    came_from = origins(layers(Settings, config, {"bootstrap": bootstrap}))
    if json:
        print_json(values)
        return
    rows = [
        {"setting": ".".join(path), "value": value, "from": _origin(came_from, path)}
        for path, value in flatten(values).items()
    ]
    print_rows(rows, title="settings")


def _origin(came_from: Mapping[tuple[str, ...], str], path: tuple[str, ...]) -> str:
    return came_from.get(path, "default")


@app.command()
def check(config: Config = None, bootstrap: Bootstrap = None) -> None:
    """Check the settings and, if a broker answers, the topics and the stored sums. Changes nothing."""
    from streams import topics
    from streams.admin import BrokerUnreachable

    settings = settings_from(config, bootstrap)
    names = ", ".join(settings.policies) or "none: a worker needs at least one"
    typer.echo(f"settings are valid; policies: {names}")
    problems: list[Any] = []
    try:
        problems = topics.check(settings)
    except BrokerUnreachable as error:
        typer.echo(f"topics not checked: {error}", err=True)
        return
    if not problems:
        typer.echo(f"topics at {settings.bootstrap} are as the settings want them")
    end_with(problems)
    from streams.sums import read_states

    read_states(settings)
    typer.echo("stored sums, if there are any, go with the settings")
