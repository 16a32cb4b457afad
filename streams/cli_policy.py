"""`clickloop policy`: look at a policy's snapshots and sums, go back to an older snapshot."""

from __future__ import annotations

from typing import Annotated

import typer

from streams.cli_options import Bootstrap, Config, Json, print_json, print_record, print_rows, settings_from

app = typer.Typer(help="Look at a policy, or take it back to an older snapshot.", no_args_is_help=True)

Policy = Annotated[str, typer.Argument(help="Name of the policy, as in the settings.")]


@app.command()
def show(policy: Policy, config: Config = None, bootstrap: Bootstrap = None, json: Json = False) -> None:
    """Print the newest snapshot of a policy: version, rates, reasons, arms."""
    from streams import snapshots

    record = snapshots.show(settings_from(config, bootstrap), policy)
    print_json(record) if json else print_record(record, title=f"policy {policy}")


@app.command()
def history(policy: Policy, config: Config = None, bootstrap: Bootstrap = None, json: Json = False) -> None:
    """Print the versions that were published, oldest first, with the reasons."""
    from streams import snapshots

    rows = snapshots.history(settings_from(config, bootstrap), policy)
    print_json(rows) if json else print_rows(rows, title=f"history of {policy}")


@app.command()
def rollback(
    policy: Policy,
    version: Annotated[int, typer.Argument(min=0, help="The version to go back to, from `policy history`.")],
    config: Config = None,
    bootstrap: Bootstrap = None,
    json: Json = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Publish an old snapshot under a new version. Decisions follow it at once; sums and history are kept."""
    from streams import snapshots

    settings = settings_from(config, bootstrap)
    if not yes:
        typer.confirm(
            f"Publish version {version} of {policy} again at {settings.bootstrap}? "
            "Every client decides by it until the publisher's next snapshot",
            abort=True,
            err=True,
        )
    record = snapshots.rollback(settings, policy, version)
    print_json(record) if json else print_record(record, title=f"policy {policy}")


@app.command()
def sums(policy: Policy, config: Config = None, bootstrap: Bootstrap = None, json: Json = False) -> None:
    """Print the learner's sums of a policy as committed: offsets, counts, and every arm's n, reward, A and b."""
    from streams.sums import read_sums

    record = read_sums(settings_from(config, bootstrap), policy)
    print_json(record) if json else print_record(record, title=f"sums of {policy}")
