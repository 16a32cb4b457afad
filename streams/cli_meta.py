"""`clickloop meta`: what a policy has learned about its own learning."""

from __future__ import annotations

from typing import Annotated

import typer

from streams.cli_options import Bootstrap, Config, Json, context_from, print_json, print_record, settings_from

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
