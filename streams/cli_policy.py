"""`clickloop policy`: look at a policy's snapshots and sums, have decisions explained, go back to an older snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from streams import cli_promotion
from streams.cli_options import (
    Bootstrap,
    Config,
    Json,
    context_from,
    print_json,
    print_record,
    print_rows,
    settings_from,
)

if TYPE_CHECKING:
    from streams.settings import Settings

app = typer.Typer(
    help="Look at a policy, try changes of it, or take it back to an older snapshot.", no_args_is_help=True
)
cli_promotion.register(app)

Policy = Annotated[str, typer.Argument(help="Name of the policy, as in the settings.")]


def _reachable(settings: Settings) -> Settings:
    """The settings, once a broker has answered and has the topics that are read here."""
    from streams import topics

    topics.require(settings, settings.topics.posteriors, settings.topics.policies, settings.topics.history)
    return settings


@app.command()
def show(policy: Policy, config: Config = None, bootstrap: Bootstrap = None, json: Json = False) -> None:
    """Print the newest snapshot of a policy: version, rates, reasons, arms."""
    from streams import snapshots

    record = snapshots.show(_reachable(settings_from(config, bootstrap)), policy)
    print_json(record) if json else print_record(record, title=f"policy {policy}")


@app.command()
def history(policy: Policy, config: Config = None, bootstrap: Bootstrap = None, json: Json = False) -> None:
    """Print the versions that were published, oldest first, with the reasons."""
    from streams import snapshots

    rows = snapshots.history(_reachable(settings_from(config, bootstrap)), policy)
    print_json({"policy": policy, "versions": rows}) if json else print_rows(rows, title=f"history of {policy}")


@app.command()
def rollback(
    policy: Policy,
    version: Annotated[
        int | None,
        typer.Argument(
            min=0,
            help="The version to go back to, from `policy history`; left out, the candidate or the last promotion goes.",
        ),
    ] = None,
    reason: cli_promotion.Reason = "",
    config: Config = None,
    bootstrap: Bootstrap = None,
    json: Json = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Publish an old snapshot under a new version and hold it; version 0 releases it. Sums and history are kept.

    Without a version: end what is tried, or where nothing is, take back the last promotion or override.
    """
    from streams import snapshots

    if version is None:
        cli_promotion.take_back(policy, config=config, bootstrap=bootstrap, reason=reason, json=json, yes=yes)
        return
    settings = _reachable(settings_from(config, bootstrap))
    snapshots.show(settings, policy)  # a name that is none is told before the question
    if not yes:
        typer.confirm(
            f"Let the publisher of {policy} at {settings.bootstrap} go on from its sums?"
            if version == 0
            else f"Publish version {version} of {policy} again at {settings.bootstrap}? Every client decides by it, and what is "
            "learned meanwhile is not used, until version 0 releases it",
            abort=True,
            err=True,
        )
    record = snapshots.rollback(settings, policy, version)
    print_json(record) if json else print_record(record, title=f"policy {policy}")


@app.command()
def explain(
    policy: Policy,
    context: Annotated[
        str | None, typer.Option("--context", metavar="JSON", help="Values of the policy's features, a JSON object.")
    ] = None,
    vector: Annotated[
        str | None, typer.Option("--vector", metavar="NUMBERS", help="The context itself: numbers between commas.")
    ] = None,
    candidates: Annotated[
        list[str] | None, typer.Option("--candidates", metavar="ARM", help="An arm to choose from; may be repeated.")
    ] = None,
    config: Config = None,
    bootstrap: Bootstrap = None,
    json: Json = False,
) -> None:
    """Print why the newest snapshot would show each arm in a context: chances, and what each feature adds to the mean."""
    from streams.explaining import explained

    given = context_from(context, vector)
    settings = _reachable(settings_from(config, bootstrap))
    record = explained(settings, policy, given, candidates or None)
    if json:
        print_json(record)
        return
    arms = record["arms"]
    title = f"{policy}, version {record['version']}: {record['model']}, {record['explorer']}"
    print_rows(
        [
            {"arm": name, **{key: value for key, value in arm.items() if key != "contributions"}}
            for name, arm in arms.items()
        ],
        title=title,
    )
    features = next(iter(arms.values()))["contributions"]
    print_rows(
        [
            {"feature": feature, **{name: arm["contributions"][feature] for name, arm in arms.items()}}
            for feature in features
        ],
        title="what each feature adds to the mean",
    )


@app.command()
def sums(policy: Policy, config: Config = None, bootstrap: Bootstrap = None, json: Json = False) -> None:
    """Print the learner's sums of a policy as committed: offsets, counts, and every arm's n, reward, A and b."""
    from streams.sums import read_sums

    settings = settings_from(config, bootstrap)
    if policy not in settings.policies:
        from streams.settings_policy import UnknownPolicyError

        raise UnknownPolicyError(policy, known=settings.policies)
    record = read_sums(_reachable(settings), policy)
    print_json(record) if json else print_record(record, title=f"sums of {policy}")
