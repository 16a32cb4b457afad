"""`clickloop encoder tune`: another encoder from clicks, if it is better."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from streams.cli_options import Bootstrap, Config, Json, print_json, print_record, settings_from


class MethodName(StrEnum):
    """What is trained."""

    projection = "projection"
    lora = "lora"


def tune(
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="New folder for the tuned model.")],
    policy: Annotated[
        str | None, typer.Argument(help="Policy whose matured impressions in the feedback topic are learned from.")
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            "--texts", metavar="FILE", help="Texts by arm, JSON or TOML. Default: title, body, category of ads."
        ),
    ] = None,
    log: Annotated[
        str | None,
        typer.Option(
            "--log", metavar="FILE", help="Learn from a file (CSV, JSON Lines, Parquet) instead of the topic."
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="KEY=COLUMN", help="Column of the file that holds a field. Repeatable."),
    ] = None,
    method: Annotated[
        MethodName, typer.Option("--method", help="Train a projection alone, or the transformer at low rank, too.")
    ] = MethodName.projection,
    dimension: Annotated[int, typer.Option("--dimension", min=1, max=4096, help="Numbers of a tuned vector.")] = 32,
    rank: Annotated[int, typer.Option("--rank", min=1, max=256, help="Of what lora adds to a layer.")] = 8,
    epochs: Annotated[int, typer.Option("--epochs", min=1, max=1000, help="Times through the rows at most.")] = 30,
    rows: Annotated[int, typer.Option("--rows", min=200, help="So many of the newest impressions.")] = 20_000,
    held_out: Annotated[
        float, typer.Option("--held-out", min=0.05, max=0.5, help="Share of them to compare on, the last ones.")
    ] = 0.2,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the order of rows and the bootstrap.")] = 0,
    config: Config = None,
    bootstrap: Bootstrap = None,
    json: Json = False,
) -> None:
    """Tune the encoder on clicks, compare it on held-out time, and write a new model folder only if it is better."""
    from streams import encoder_worker, topics, tuning_rows
    from streams.cli_options import mapping
    from streams.tune import Options, tuned

    if (policy is None) == (log is None):
        raise typer.BadParameter("give either POLICY (the feedback topic) or --log FILE")
    if columns and log is None:
        raise typer.BadParameter("--map names columns of a file: give --log FILE, too")
    settings = settings_from(config, bootstrap)
    encoder_worker.check_settings(settings, alone=True)
    by_arm = None if texts is None else tuning_rows.read_texts(texts)
    if log is not None:
        shown = tuning_rows.from_file(log, columns=mapping(columns or []), texts=by_arm, newest=rows)
    elif policy is not None:
        if policy in settings.policies:
            topics.require(settings, settings.topics.feedback)
        shown = tuning_rows.from_topic(settings, policy, texts=by_arm, newest=rows)
    options = Options(method=method.value, dimension=dimension, rank=rank, epochs=epochs, held_out=held_out, seed=seed)
    found = tuned(settings.encoder, shown, to, options)
    if json:
        print_json(found)
        return
    low, high = found["interval"]
    title = (
        "better: the tuned model is published"
        if found["better"]
        else "not better on held-out time: nothing is published"
    )
    print_record({**found, "interval": f"{low:.5f} to {high:.5f}"}, title=title)
