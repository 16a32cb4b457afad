"""`clickloop meta`: what a policy has learned about its own learning."""

from __future__ import annotations

from typing import Annotated

import typer

from streams.cli_options import (
    Bootstrap,
    Config,
    Json,
    LogColumns,
    LogFile,
    SkipBad,
    columns_of,
    context_from,
    print_json,
    print_record,
    print_rows,
    settings_from,
)

app = typer.Typer(help="Look at what a policy has learned about its own learning.", no_args_is_help=True)


@app.callback()
def _meta() -> None:
    """Look at what a policy has learned about its own learning."""


@app.command()
def prior(
    policy: Annotated[str, typer.Argument(help="Name of the policy, as in the settings.")],
    context: Annotated[
        str | None, typer.Option("--context", metavar="JSON", help="Values of the policy's features, a JSON object.")
    ] = None,
    vector: Annotated[
        str | None, typer.Option("--vector", metavar="NUMBERS", help="The context itself: numbers between commas.")
    ] = None,
    config: Config = None,
    bootstrap: Bootstrap = None,
    json: Json = False,
) -> None:
    """Print what a new arm (by group) and a new slot would start from: mean and sd of the click rate at the intercept."""
    from streams import meta_prior, topics

    given = context_from(context, vector)
    settings = settings_from(config, bootstrap)
    topics.require(settings, settings.topics.policies)
    record = meta_prior.prior(settings, policy, given)
    print_json(record) if json else print_record(record, title=f"what is new in {policy} starts from")


@app.command()
def rehearse(
    policy: Annotated[str, typer.Argument(help="Name of the policy, as in the settings.")],
    file: LogFile = None,
    columns: LogColumns = None,
    skip_bad: SkipBad = False,
    rows: Annotated[int, typer.Option("--rows", min=100, help="So many of the newest matured impressions.")] = 100_000,
    every: Annotated[
        int | None, typer.Option("--every", min=100, help="Impressions between two roll-outs. Default: the policy's.")
    ] = None,
    config: Config = None,
    bootstrap: Bootstrap = None,
    json: Json = False,
) -> None:
    """Play over a log the roll-outs that would move the policy's exploration rate live, before it goes live with them."""
    from streams import topics
    from streams.meta_rehearsal import rehearse as played

    chosen = columns_of(file, columns, skip_bad=skip_bad)
    settings = settings_from(config, bootstrap)
    if file is None and policy in settings.policies:
        topics.require(settings, settings.topics.feedback)
    record = played(settings, policy, newest=rows, every=every, file=file, columns=chosen, skip_bad=skip_bad)
    if json:
        print_json(record)
        return
    title = f"policy {policy}: alpha {record['given']:g} in the settings, {record['alpha']:g} after {record['impressions']} impressions"
    print_rows(record["steps"], title=title)
