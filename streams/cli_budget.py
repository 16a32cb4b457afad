"""`clickloop budget`: budgets are raised, lowered, paused and resumed while the workers run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli_arm import Policy, Reason, reachable
from streams.cli_options import Bootstrap, Config, Json, print_json, print_record, print_rows

if TYPE_CHECKING:
    from pathlib import Path

app = typer.Typer(help="Raise, lower, pause or resume budgets while the workers run.", no_args_is_help=True)

Budget = Annotated[str, typer.Argument(help="Name of the budget, as in the policy's settings.")]
Amount = Annotated[
    float | None,
    typer.Option("--amount", "-a", metavar="X", help="What may be spent in a period; left out: as in the settings."),
]


def _say(
    verb: str,
    policy: str,
    budget: str,
    config: Path | None,
    bootstrap: str | None,
    reason: str,
    json: bool,
    amount: float | None = None,
) -> None:
    from streams import budgets

    settings = reachable(config, bootstrap, policy)
    row = budgets.say(settings, policy, verb, budget, amount=amount, reason=reason)
    print_json(row) if json else print_record(row, title=f"budget {budget} of {policy}")


@app.command("set")
def set_(
    policy: Policy,
    budget: Budget,
    amount: Amount = None,
    config: Config = None,
    bootstrap: Bootstrap = None,
    reason: Reason = "",
    json: Json = False,
) -> None:
    """Raise or lower what may be spent in a period, the present one too; what was spent stays spent."""
    _say("set", policy, budget, config, bootstrap, reason, json, amount)


@app.command()
def pause(
    policy: Policy,
    budget: Budget,
    config: Config = None,
    bootstrap: Bootstrap = None,
    reason: Reason = "",
    json: Json = False,
) -> None:
    """Show no arm that draws on the budget until it is resumed; costs of what was shown before are still charged."""
    _say("pause", policy, budget, config, bootstrap, reason, json)


@app.command()
def resume(
    policy: Policy,
    budget: Budget,
    config: Config = None,
    bootstrap: Bootstrap = None,
    reason: Reason = "",
    json: Json = False,
) -> None:
    """Spend a paused budget again, from the price that it had."""
    _say("resume", policy, budget, config, bootstrap, reason, json)


@app.command("list")
def list_(policy: Policy, config: Config = None, bootstrap: Bootstrap = None, json: Json = False) -> None:
    """Print each budget's amount, and what the publisher knows to be spent, overspent and late, with its price."""
    from streams import budgets

    rows = budgets.listed(reachable(config, bootstrap, policy), policy)
    print_json({"policy": policy, "budgets": rows}) if json else print_rows(rows, title=f"budgets of {policy}")
