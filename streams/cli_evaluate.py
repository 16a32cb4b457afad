"""`clickloop evaluate`: what other models and explorers would have earned, from the log of what was shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from streams.cli_options import (
    Bootstrap,
    Config,
    Json,
    LogColumns,
    LogFile,
    SkipBad,
    columns_of,
    print_json,
    print_rows,
    settings_from,
)

LEAST_CUT = 0.001


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
    file: LogFile = None,
    columns: LogColumns = None,
    skip_bad: SkipBad = False,
    top: Annotated[
        int, typer.Option("--top", min=1, help="Arms that are taken for the best, for precision, recall and F1.")
    ] = 3,
    weight_cap: Annotated[
        float, typer.Option("--weight-cap", min=1.0, help="Largest weight that the interval for any time allows for.")
    ] = 10.0,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the estimates into this PNG file.")] = None,
    config: Config = None,
    bootstrap: Bootstrap = None,
    json: Json = False,
) -> None:
    """Estimate what models and explorers would have earned on matured impressions (off-policy), of the feedback topic or a file."""
    from streams import topics
    from streams.demo_plot import require_matplotlib, require_writable
    from streams.evaluate import compare

    chosen = columns_of(file, columns, skip_bad=skip_bad)
    if plot is not None:
        require_matplotlib()
        require_writable(plot)
    settings = settings_from(config, bootstrap)
    if file is None and policy in settings.policies:
        topics.require(settings, settings.topics.feedback)
    record = compare(
        settings,
        policy,
        models=model or (),
        explorers=explorer or (),
        newest=rows,
        share=train,
        seed=seed,
        file=file,
        columns=chosen,
        skip_bad=skip_bad,
        top=top,
        weight_cap=weight_cap,
    )
    if plot is not None:
        from streams.evaluate_plot import draw

        draw(record, plot)
    if json:
        print_json(record)
        return
    _print(record, top=top, weight_cap=weight_cap)


def _print(record: dict[str, Any], *, top: int, weight_cap: float) -> None:
    """The tables, and on standard error what speaks against believing them."""
    title = f"policy {record['policy']}: mean reward, learned from {record['rows_learned']} rows, evaluated on {record['rows_evaluated']}"
    policies = record["policies"].items()
    print_rows([_row(name, found) for name, found in policies], title=title)
    scores = [_scores(name, found["scores"]) for name, found in policies if "scores" in found]
    print_rows(scores, title=f"predictions; precision, recall and F1 of the {top} best arms")
    for name, found in policies:
        for doubt in found["doubts"]:
            typer.echo(f"{name}: {doubt}", err=True)
        if found["anytime"]["cut"] > LEAST_CUT:
            typer.echo(
                f"{name}: the interval for any time leaves out {found['anytime']['cut']:.1%} of what was earned, as weights above "
                f"{weight_cap:g} and rewards beyond their bounds are cut; a larger --weight-cap leaves out less and is wider",
                err=True,
            )
    if record["rows_of_other_dimensions"]:
        typer.echo(
            f"{record['rows_of_other_dimensions']} rows whose context has another dimension are left out", err=True
        )
    typer.echo(record["caution"], err=True)


def _row(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """One policy's estimates as text, with their 95% intervals."""
    estimates = {key: one for key, one in found.items() if isinstance(one, dict) and "value" in one}
    cells = {key: f"{one['value']:.4f} ({one['low']:.4f} to {one['high']:.4f})" for key, one in estimates.items()}
    always = f"{found['anytime']['low']:.4f} to {found['anytime']['high']:.4f}"
    worth = {"ess": f"{found['ess']:.0f}", "gini": f"{found['exposure_gini']:.3f}"}
    return {"policy": name, **worth, "at any time": always, **cells}


def _scores(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """How good one policy's predictions are, as text."""
    cells = {key: "-" if value is None else f"{value:.4f}" for key, value in found.items() if key != "k"}
    return {"policy": name, **{key.replace("_", " "): cell for key, cell in cells.items()}}
