"""`clickloop evaluate`: what other models and explorers would have earned, from the log of what was shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from streams.cli_options import Bootstrap, Config, Json, print_json, print_rows, settings_from


def evaluate(
    policy: Annotated[str, typer.Argument(help="Name of the policy, as in the settings.")],
    model: Annotated[
        list[str] | None, typer.Option("--model", help="A model to compare; may be given again. Default: the policy's.")
    ] = None,
    explorer: Annotated[
        list[str] | None,
        typer.Option("--explorer", help="An explorer to compare; may be given again. Default: the policy's."),
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=100, help="So many of the newest matured impressions.")] = 20_000,
    train: Annotated[
        float, typer.Option("--train", min=0.05, max=0.95, help="Share of them that is learned from, the oldest.")
    ] = 0.5,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the bootstrap intervals.")] = 0,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the estimates into this PNG file.")] = None,
    config: Config = None,
    bootstrap: Bootstrap = None,
    json: Json = False,
) -> None:
    """Estimate what models and explorers would have earned on the feedback topic's matured impressions (off-policy)."""
    from streams import topics
    from streams.evaluate import compare

    settings = settings_from(config, bootstrap)
    if policy in settings.policies:
        topics.require(settings, settings.topics.feedback)
    record = compare(
        settings, policy, models=model or (), explorers=explorer or (), newest=rows, share=train, seed=seed
    )
    if plot is not None:
        from streams.evaluate_plot import draw

        draw(record, plot)
    if json:
        print_json(record)
        return
    title = f"policy {policy}: mean reward, learned from {record['rows_learned']} rows, evaluated on {record['rows_evaluated']}"
    print_rows([_row(name, found) for name, found in record["policies"].items()], title=title)
    for name, found in record["policies"].items():
        for doubt in found["doubts"]:
            typer.echo(f"{name}: {doubt}", err=True)
    typer.echo(record["caution"], err=True)


def _row(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """One policy's estimates as text, with their 95% intervals."""
    estimates = {key: value for key, value in found.items() if isinstance(value, dict)}
    cells = {key: f"{one['value']:.4f} ({one['low']:.4f} to {one['high']:.4f})" for key, one in estimates.items()}
    return {"policy": name, **cells, "ess": f"{found['ess']:.0f}"}
