"""`clickloop policy propose | promote | freeze | override | trials`: what is tried beside a policy, by hand and by test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli_options import Bootstrap, Config, Json, print_json, print_record, settings_from

if TYPE_CHECKING:
    from policies.trials import Word
    from streams.settings import Settings

Policy = Annotated[str, typer.Argument(help="Name of the policy, as in the settings.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="A rate of the explorer, epsilon, or explorer itself; may be repeated."
    ),
]
Reason = Annotated[str, typer.Option("--reason", "-r", metavar="TEXT", help="Why; it comes with the snapshot.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def register(app: typer.Typer) -> None:
    """Add the commands to those of `clickloop policy`."""
    for command in (propose, promote, freeze, override, trials):
        app.command()(command)


def propose(
    policy: Policy,
    given: Set = None,
    canary: Annotated[float, typer.Option(help="Share of the decisions that it makes, between 0 and 1.")] = 0.1,
    sticky: Annotated[
        int,
        typer.Option(
            metavar="SECONDS", min=0, help="Units keep their group for so long; 0 assigns each decision by itself."
        ),
    ] = 0,
    name: Annotated[str, typer.Option(help="Of the candidate; left out, it is named by what it changes.")] = "",
    reason: Reason = "",
    config: Config = None,
    bootstrap: Bootstrap = None,
    json: Json = False,
) -> None:
    """Try other rates or another explorer on a share of the decisions, until its test promotes it or rolls it back."""
    from policies.trials import Word

    explorer, rates = _given(given)
    word = Word(kind="propose", explorer=explorer, rates=rates, share=canary, sticky_s=sticky, name=name, reason=reason)
    _say(_reachable(config, bootstrap, policy), policy, word, json)


def promote(
    policy: Policy,
    reason: Reason = "",
    config: Config = None,
    bootstrap: Bootstrap = None,
    json: Json = False,
    yes: Yes = False,
) -> None:
    """Promote the candidate by hand, whatever its test says; `policy rollback POLICY` takes it back."""
    from policies.trials import Word

    settings = _reachable(config, bootstrap, policy)
    if not yes:
        typer.confirm(
            f"Promote the candidate of {policy} at {settings.bootstrap} before its test does?", abort=True, err=True
        )
    _say(settings, policy, Word(kind="promote", reason=reason), json)


def freeze(
    policy: Policy,
    off: Annotated[bool, typer.Option("--off", help="Let verdicts count again.")] = False,
    reason: Reason = "",
    config: Config = None,
    bootstrap: Bootstrap = None,
    json: Json = False,
) -> None:
    """Let no verdict promote or roll back by itself until `--off`; canary, tests and learning go on."""
    from policies.trials import Word

    word = Word(kind="unfreeze" if off else "freeze", reason=reason)
    _say(_reachable(config, bootstrap, policy), policy, word, json)


def override(
    policy: Policy,
    given: Set = None,
    force: Annotated[bool, typer.Option("--force", help="Pass over the guardrails.")] = False,
    reason: Reason = "",
    config: Config = None,
    bootstrap: Bootstrap = None,
    json: Json = False,
    yes: Yes = False,
) -> None:
    """Let other rates or another explorer make all decisions at once, untried; without --set, the settings decide again."""
    from policies.trials import Word

    explorer, rates = _given(given)
    settings = _reachable(config, bootstrap, policy)
    if not yes:
        what = ", ".join(given or ()) or "the settings"
        typer.confirm(
            f"Let {policy} at {settings.bootstrap} decide by {what}, untried? What was promoted does not decide any more",
            abort=True,
            err=True,
        )
    _say(settings, policy, Word(kind="override", explorer=explorer, rates=rates, force=force, reason=reason), json)


def trials(policy: Policy, config: Config = None, bootstrap: Bootstrap = None, json: Json = False) -> None:
    """Print what is tried and its evidence so far, what was promoted, and what the audits found."""
    from streams.promotion import told

    record = told(_reachable(config, bootstrap, policy), policy)
    print_json(record) if json else print_record(record, title=f"trials of {policy}")


def take_back(policy: str, *, config: Path | None, bootstrap: str | None, reason: str, json: bool, yes: bool) -> None:
    """`policy rollback` without a version: end the candidate, or without one the last promotion."""
    from policies.trials import Word

    settings = _reachable(config, bootstrap, policy)
    if not yes:
        typer.confirm(
            f"Roll back the candidate of {policy} at {settings.bootstrap}, or if there is none its last promotion? "
            "The evidence of its test is kept in the history only",
            abort=True,
            err=True,
        )
    _say(settings, policy, Word(kind="rollback", reason=reason), json)


def _reachable(config: Path | None, bootstrap: str | None, policy: str) -> Settings:
    """The settings, if they have the policy, once a broker has answered and has the topics."""
    from streams import topics
    from streams.settings_policy import UnknownPolicyError

    settings = settings_from(config, bootstrap)
    if policy not in settings.policies:
        raise UnknownPolicyError(policy, known=settings.policies)
    topics.require(settings, settings.topics.controls, settings.topics.policies)
    return settings


def _given(values: list[str] | None) -> tuple[str | None, dict[str, float]]:
    from streams.promotion import overrides

    return overrides(values or [])


def _say(settings: Settings, policy: str, word: Word, json: bool) -> None:
    from streams.promotion import say

    record = say(settings, policy, word)
    print_json(record) if json else print_record(record, title=f"said of {policy}")
