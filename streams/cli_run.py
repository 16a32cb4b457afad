"""The commands that run: demo, worker, replay."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from streams.cli_options import Bootstrap, Config, Json, mapping, settings_from
from streams.cli_topics import end_with


class Role(StrEnum):
    """What a worker does."""

    learner = "learner"
    publisher = "publisher"
    encoder = "encoder"
    attributor = "attributor"


def demo(
    seconds: Annotated[float, typer.Option(min=1.0, max=86_400.0, help="How long the simulated traffic runs.")] = 60.0,
    slots: Annotated[
        bool, typer.Option("--slots", help="Pages of three slots and campaigns with budgets, with pacing and without.")
    ] = False,
    arms: Annotated[
        int | None, typer.Option(min=2, max=1_000, help="Number of arms to choose from; 20, of --slots 12.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=1.0, max=100_000.0, help="Decisions per second; 2,000, of --slots 150 pages.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the simulation.")] = 0,
    plot: Annotated[Path | None, typer.Option(metavar="PATH", help="Write the learning curves to this PNG.")] = None,
    config: Config = None,
    bootstrap: Bootstrap = None,
    json: Json = False,
) -> None:
    """Run the whole loop on simulated traffic. Without a broker it starts one in memory (extra: local)."""
    settings = settings_from(config, bootstrap)
    own_broker = "bootstrap" not in settings.model_fields_set
    if slots:
        from streams.demo_slots import run_slots_demo
        from streams.market import LEAST_ARMS

        arms, rate = 12 if arms is None else arms, 150.0 if rate is None else rate
        if arms < LEAST_ARMS:
            raise typer.BadParameter(
                f"--arms {arms} with --slots: must be at least {LEAST_ARMS}, two for each campaign"
            )
        run_slots_demo(
            settings, own_broker=own_broker, seconds=seconds, arms=arms, rate=rate, seed=seed, plot=plot, json=json
        )
        return
    from streams.demo import run_demo

    arms, rate = 20 if arms is None else arms, 2_000.0 if rate is None else rate
    run_demo(settings, own_broker=own_broker, seconds=seconds, arms=arms, rate=rate, seed=seed, plot=plot, json=json)


def worker(
    roles: Annotated[
        list[Role] | None,
        typer.Argument(metavar="ROLE", help="learner, publisher, attributor; all if none is given. Or encoder, alone."),
    ] = None,
    role: Annotated[list[Role] | None, typer.Option("--role", help="The same as an option; repeatable.")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Port of /metrics; 0 for any (env: CLICKLOOP_METRICS_PORT).")
    ] = None,
    instance_id: Annotated[
        str | None, typer.Option(help="Name of this worker, kept over restarts (env: CLICKLOOP_INSTANCE_ID).")
    ] = None,
    config: Config = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Run a learner (joins and sums), a publisher (snapshots), an attributor (conversions by unit, if a policy takes them), or all; or an encoder, until it is told to stop."""
    settings = settings_from(config, bootstrap, metrics_port=metrics_port, instance_id=instance_id)
    named = [*(roles or ()), *(role or ())]
    if Role.encoder in named:
        from streams import encoder_worker

        encoder_worker.check_settings(settings, alone=set(named) == {Role.encoder})
        end_with(encoder_worker.problems(settings))
        raise typer.Exit(encoder_worker.run_encoder(settings))
    if not settings.policies:
        from streams.settings import SettingsError

        raise SettingsError(
            "policies = {}: a worker needs at least one; add a table [policies.NAME] to a file and name it by --config"
        )
    from streams import topics

    end_with(topics.check(settings))
    chosen = named or [Role.learner, Role.publisher, *([Role.attributor] if settings.attributing else [])]
    if Role.attributor in chosen and not settings.attributing:
        from streams.settings import SettingsError

        raise SettingsError(
            "attribution: an attributor needs a policy that attributes conversions; add a table [policies.NAME.attribution] with kinds "
            "and window_s"
        )
    if Role.publisher in chosen and Role.learner not in chosen:  # a learner finds out when it recovers
        from streams.sums import read_states

        read_states(settings)
    from streams.app import run_worker

    run_worker(settings, tuple(dict.fromkeys(one.value for one in chosen)))


def replay(
    file: Annotated[
        str,
        typer.Argument(help="Logged decisions: CSV, JSON Lines or Parquet; .gz and data.zip!folder/log.csv work, too."),
    ],
    policy: Annotated[str, typer.Option("--policy", help="Policy that the impressions belong to.")],
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--map", metavar="KEY=COLUMN", help="Column that holds a field; KEY==TEXT for a constant. Repeatable."
        ),
    ] = None,
    speed: Annotated[
        float | None, typer.Option(min=0.0, help="Times event time; 0 or unset is as fast as it goes.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Rows to read at most.")] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Start a local broker, a learner and a fitting policy for this run.")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad rows out instead of refusing the file.")
    ] = False,
    wait_s: Annotated[
        float, typer.Option("--wait-s", min=1.0, help="Seconds without progress of the learner until it gives up.")
    ] = 60.0,
    config: Config = None,
    bootstrap: Bootstrap = None,
    json: Json = False,
) -> None:
    """Send a log's impressions and outcomes to the topics in the order of event time."""
    chosen = mapping(columns or [])
    settings = settings_from(config, bootstrap)
    from streams.replay import run_replay

    run_replay(
        settings,
        file,
        policy=policy,
        columns=chosen,
        speed=speed or None,
        limit=limit,
        local=local,
        skip_bad=skip_bad,
        wait_s=wait_s,
        json=json,
    )
