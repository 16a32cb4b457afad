"""What `clickloop meta rehearse` does: the roll-outs that would move a policy's alpha live, played over a log before it goes live.

The log's rows are taken in the order of event time as though they matured one after the other. Where the live leader would
cut, every ``explore_every`` impressions, the prior is fitted to what came until then and the same roll-out is played
(`policies.exploration`); the next stretch goes on from what it decided. So the end is the rate with which to begin, and the steps
tell whether it would have been a steady one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.empirical_bayes import fit
from policies.evaluation import batch_of
from policies.exploration import Now, decided, make_cut, with_contexts
from policies.robust import clip_contexts
from streams.evaluate import rows_from
from streams.policy_exploring import PolicyExploring
from streams.rules import model as model_of
from streams.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from policies.model import Sums
    from streams.settings import PolicySettings, Settings


def rehearse(
    settings: Settings,
    policy: str,
    *,
    newest: int,
    every: int | None = None,
    file: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    skip_bad: bool = False,
) -> dict[str, Any]:
    """Play the roll-outs and tell the rate after each.

    Args:
        settings: how the brokers are reached, and the policy's settings.
        policy: its name.
        newest: so many matured rows are taken.
        every: impressions between two roll-outs; None is the policy's ``explore_every``.
        file: of logged decisions, see `streams.logged`; None is the feedback topic.
        columns: field -> column of the file, see `streams.mapping`.
        skip_bad: leave bad rows of the file out instead of refusing it.

    Raises:
        UnknownPolicyError, SettingsError: no such policy; one that roll-outs cannot play for, or fewer rows than one cut takes.
        LoggedError: the file, the mapping or a row cannot be used.
        ReadError: the broker does not answer.
    """
    own, found = rows_from(
        settings,
        policy,
        newest=newest,
        file=file,
        columns=columns,
        skip_bad=skip_bad,
        width=lambda one: model_of(one).dimension,
    )
    exploring = PolicyExploring(policy, _with_roll_outs(policy, own))
    rules, state, model = exploring.rules, exploring.state, model_of(own)
    step, rows = every or rules.every, found.decided()
    rows = replace(rows, x=clip_contexts(rows.x, own.feature_limit).astype(np.float64))
    if len(rows.reward) < step:
        raise SettingsError(
            f"there are {len(rows.reward)} matured impressions of policy {policy!r} that were chosen by chance, and a roll-out is played "
            f"every {step}; give a longer log, or a smaller --every"
        )
    sums: dict[str, Sums] = {}
    steps = []
    for end in range(step, len(rows.reward) + 1, step):
        part = rows.part(end - step, end)
        sums = {**sums, **model.update(sums, batch_of(part, model))}
        now_ms = int(part.ts[-1])
        arms = {arm: model.at(one, now_ms=now_ms) for arm, one in sums.items()}
        prior = fit(
            arms, model=model.name, dimension=model.dimension, intercept=own.intercept, features=own.features_of_arms
        )
        state = with_contexts(state, part.x[:, : model.dimension])
        now = Now(
            arms=arms, prior=prior, count=float(end), now_ms=now_ms, announced={}, offsets={0: {"impressions": end}}
        )
        state, told = decided(make_cut(state, now, policy=policy, rules=rules))
        steps.append({"impressions": end, "arms": len(arms), "alpha": state.alpha, "reason": told})
    return {
        "policy": policy,
        "source": "feedback topic" if file is None else str(file),
        "impressions": len(rows.reward),
        "given": state.given,
        "alpha": state.alpha,
        "steps": steps,
    }


def _with_roll_outs(policy: str, own: PolicySettings) -> PolicySettings:
    """The settings as they would be with roll-outs. Raises SettingsError."""
    try:
        return type(own).model_validate(own.model_dump(exclude_unset=True) | {"explore": "roll-outs"})
    except ValueError as error:
        raise SettingsError(f"policy {policy!r} cannot explore by roll-outs: {error}") from error
