"""The command that serves decisions over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from streams.cli_options import Bootstrap, Config, settings_from


def serve(
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes that share the port.")] = 1,
    host: Annotated[str | None, typer.Option(help="Address to listen on (env: CLICKLOOP_LISTEN_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 for any (env: CLICKLOOP_LISTEN_PORT).")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Port of /metrics; 0 for any (env: CLICKLOOP_METRICS_PORT).")
    ] = None,
    no_auth: Annotated[
        bool,
        typer.Option(
            "--no-auth", help="Listen beyond this machine without serve_tokens: something else checks who asks."
        ),
    ] = False,
    config: Config = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Serve decisions and take outcomes over HTTP, until it is told to stop."""
    settings = settings_from(config, bootstrap, listen_host=host, listen_port=port, metrics_port=metrics_port)
    from streams.serve import run_serve

    raise typer.Exit(run_serve(settings, workers=workers, no_auth=no_auth))
