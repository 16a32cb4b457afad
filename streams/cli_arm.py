"""`clickloop arm`: arms come and go while the workers run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli_options import Bootstrap, Config, Json, print_json, print_record, print_rows, settings_from

if TYPE_CHECKING:
    from pathlib import Path

    from streams.settings import Settings

app = typer.Typer(help="Add, pause, remove, rename or reset arms while the workers run.", no_args_is_help=True)

Policy = Annotated[str, typer.Argument(help="Name of the policy, as in the settings.")]
Arm = Annotated[str, typer.Argument(help="Name of the arm.")]
Reason = Annotated[str, typer.Option("--reason", "-r", metavar="TEXT", help="Why; it comes with the snapshot.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def reachable(config: Path | None, bootstrap: str | None, policy: str) -> Settings:
    """The settings, if they have the policy, once a broker has answered and has the topics."""
    from streams import topics
    from streams.settings_policy import UnknownPolicyError

    settings = settings_from(config, bootstrap)
    if policy not in settings.policies:
        raise UnknownPolicyError(policy, known=settings.policies)
    topics.require(settings, settings.topics.controls, settings.topics.policies)
    return settings


def _say(settings: Settings, policy: str, verb: str, arm: str, reason: str, json: bool, new: str = "") -> None:
    from streams import arms

    row = arms.say(settings, policy, verb, arm, new=new, reason=reason)
    print_json(row) if json else print_record(row, title=f"arm {arm} of {policy}")


PLAIN = {
    "add": "Let an arm be chosen before anybody has shown it: it starts from the prior. Takes back a removal or a renaming.",
    "pause": "Show an arm no more until it is resumed; what still comes of it is learned.",
    "resume": "Show a paused arm again, with all that it has learned.",
}
"""Verbs that take back nothing that was learned, and what they do."""


def _plain(verb: str) -> Callable[..., None]:
    def command(
        policy: Policy,
        arm: Arm,
        config: Config = None,
        bootstrap: Bootstrap = None,
        reason: Reason = "",
        json: Json = False,
    ) -> None:
        _say(reachable(config, bootstrap, policy), policy, verb, arm, reason, json)

    return command


for _verb, _help in PLAIN.items():
    app.command(_verb, help=_help)(_plain(_verb))


@app.command()
def remove(
    policy: Policy,
    arm: Arm,
    config: Config = None,
    bootstrap: Bootstrap = None,
    reason: Reason = "",
    json: Json = False,
    yes: Yes = False,
) -> None:
    """Take an arm out of the snapshots. Its sums are kept, and `arm add` brings it back with them."""
    settings = reachable(config, bootstrap, policy)
    if not yes:
        typer.confirm(
            f"Remove arm {arm} of {policy} at {settings.bootstrap}? No client chooses it any more, and it does not inform the prior",
            abort=True,
            err=True,
        )
    _say(settings, policy, "remove", arm, reason, json)


@app.command()
def rename(
    policy: Policy,
    arm: Arm,
    new: Annotated[str, typer.Argument(help="Its new name; an arm that has this name already is merged with it.")],
    config: Config = None,
    bootstrap: Bootstrap = None,
    reason: Reason = "",
    json: Json = False,
) -> None:
    """Give an arm another name, or merge it into another arm: its sums count for the new name. `arm add` takes it back."""
    _say(reachable(config, bootstrap, policy), policy, "rename", arm, reason, json, new)


@app.command()
def reset(
    policy: Policy,
    arm: Arm,
    config: Config = None,
    bootstrap: Bootstrap = None,
    reason: Reason = "",
    json: Json = False,
    yes: Yes = False,
) -> None:
    """Announce that an arm is another than it was (a new creative): it is its prior again. Cannot be taken back."""
    settings = reachable(config, bootstrap, policy)
    if not yes:
        typer.confirm(
            f"Reset arm {arm} of {policy} at {settings.bootstrap}? What was learned of it so far is not believed any more",
            abort=True,
            err=True,
        )
    _say(settings, policy, "reset", arm, reason, json)


@app.command("list")
def list_(policy: Policy, config: Config = None, bootstrap: Bootstrap = None, json: Json = False) -> None:
    """Print each arm's state, with its count and mean reward in the newest snapshot."""
    from streams import arms

    rows = arms.listed(reachable(config, bootstrap, policy), policy)
    print_json({"policy": policy, "arms": rows}) if json else print_rows(rows, title=f"arms of {policy}")
