"""`clickloop encoder`: what is made of the encoder."""

from __future__ import annotations

import typer

from streams import cli_encoder_tune

app = typer.Typer(help="Tune the encoder on clicks.", no_args_is_help=True)
app.command("tune")(cli_encoder_tune.tune)


@app.callback()
def _group() -> None:
    """Keep the command's name although there is one only."""
