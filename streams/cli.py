"""The command line `clickloop`.

Exit codes: 0 done; 1 it could not be done (broker unreachable, topics wrong, no such policy); 2 it was asked for
wrongly (options, settings); 130 interrupted. Errors that are foreseen, those with a `retriable` attribute, are told in
one message without a traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Annotated

import typer

from streams import (
    cli_arm,
    cli_budget,
    cli_config,
    cli_encoder,
    cli_evaluate,
    cli_meta,
    cli_policy,
    cli_run,
    cli_serve,
    cli_topics,
)

app = typer.Typer(
    help="Streaming feedback loop for slot allocation: contextual bandits over Kafka, exactly once.",
    epilog="A variable can set what the file can: CLICKLOOP_PREFIX, CLICKLOOP_POLICIES__HOME__ALPHA.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(cli_run.demo)
app.command("worker")(cli_run.worker)
app.command("replay")(cli_run.replay)
app.command("evaluate")(cli_evaluate.evaluate)
app.command("serve")(cli_serve.serve)
app.add_typer(cli_topics.app, name="topics")
app.add_typer(cli_policy.app, name="policy")
app.add_typer(cli_arm.app, name="arm")
app.add_typer(cli_budget.app, name="budget")
app.add_typer(cli_encoder.app, name="encoder")
app.add_typer(cli_meta.app, name="meta")
app.add_typer(cli_config.app, name="config")
app.add_typer(cli_encoder.app, name="encoder")


def _version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        typer.echo(f"clickloop {installed_version('clickloop')}")
    except PackageNotFoundError:
        typer.echo("clickloop, not installed: it runs from a checkout")
    raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Hold the options that come before a command."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; the arguments are the process's own if None."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="clickloop")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if not (hasattr(error, "retriable") or isinstance(error, OSError)):
            raise
        return _tell(error)
    return 0


def _tell(error: Exception) -> int:
    from streams.settings import SettingsError

    for line in str(error).splitlines() or [repr(error)]:
        typer.echo(f"clickloop: {line}", err=True)
    return 2 if isinstance(error, SettingsError) else 1


def main() -> None:
    """Run the command line as a program."""
    sys.exit(run())


if __name__ == "__main__":
    main()
