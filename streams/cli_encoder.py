"""`clickloop encoder`: what is made of the encoder's vectors."""

from __future__ import annotations

from typing import Annotated

import typer

from streams import cli_encoder_tune
from streams.cli_options import Bootstrap, Config, Json, print_json, print_record, settings_from

app = typer.Typer(help="Make features of the encoder's vectors, and tune it on clicks.", no_args_is_help=True)
app.command("tune")(cli_encoder_tune.tune)


@app.command()
def project(
    components: Annotated[int, typer.Option("--components", "-r", min=1, max=1024, help="Features to make of a text.")],
    encoder: Annotated[
        str | None, typer.Option("--encoder", help="Fingerprint of the encoder; unset is the one at work.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Publish nothing.")] = False,
    config: Config = None,
    bootstrap: Bootstrap = None,
    json: Json = False,
) -> None:
    """Fit principal components to the vectors in the topic, publish them, and tell the name for [policies.NAME.features]."""
    from streams import projections

    settings = settings_from(config, bootstrap)
    found = projections.made(settings, length=components, encoder=encoder)
    if not dry_run:
        projections.published(settings, found)
    row = {
        "projection": found.name,
        "encoder": found.encoder,
        "texts": int(found.texts),
        "dimension": found.dimension,
        "share": round(found.share, 4),
        "published": not dry_run,
    }
    print_json(row) if json else print_record(row, title=f"projection on {components} components")
