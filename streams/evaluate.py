"""What `clickloop evaluate` does: models and explorers compared on matured impressions, of the feedback topic or of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from policies.evaluation import Decided, anytime, evaluate, foresee, learned, scored, under
from policies.explorers import EXPLORERS
from policies.ope import LoggedRows
from policies.robust import clip_contexts
from policies.scores import gini
from streams.evaluate_file import read_file
from streams.matured import Rows, matured
from streams.policy_trials import reward_bounds
from streams.rules import model
from streams.settings import PolicySettings, Settings, SettingsError
from streams.settings_policy import UnknownPolicyError

LEAST_ROWS = 100
TOP = 3
WEIGHT_CAP = 10.0
ONLY = {"arm_features": "hybrid", "arm_texts": "hybrid", "point": "logistic"}
"""Settings that one model alone uses: the others are compared without them."""
CAUTION = (
    "do not choose how much to explore by these figures: what exploring finds pays later, so the greedy one looks best; "
    "compare models, features and windows"
)


class TooFewRowsError(ValueError):
    """There are not enough matured impressions to cut and compare."""

    retriable = True


def compare(
    settings: Settings,
    policy: str,
    *,
    models: Sequence[str],
    explorers: Sequence[str],
    newest: int,
    share: float,
    seed: int,
    file: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    skip_bad: bool = False,
    top: int = TOP,
    weight_cap: float = WEIGHT_CAP,
) -> dict[str, Any]:
    """Every model with every explorer, each learned from the first ``share`` of the newest rows and evaluated on the rest.

    Args:
        settings: how the brokers are reached; the policy's settings but for model and explorer.
        policy: its name.
        models: names; empty is the policy's own.
        explorers: names, with the rates of the settings or their defaults; empty is the policy's own.
        newest: so many matured rows are taken.
        share: of the rows that are learned from.
        seed: of the bootstrap.
        file: of logged decisions, see `streams.logged`; None is the feedback topic.
        columns: field -> column of the file, see `streams.mapping`.
        skip_bad: leave bad rows of the file out instead of refusing it.
        top: arms that are taken for the best, for precision, recall and F1.
        weight_cap: largest weight that the interval for any time allows for, declared before the rows are looked at.

    Raises:
        UnknownPolicyError, SettingsError: no such policy; a model or explorer that does not go with its settings.
        LoggedError: the file, the mapping or a row cannot be used.
        TooFewRowsError: nothing to compare on.
        ReadError: the broker does not answer.
    """

    def width(own: PolicySettings) -> int:
        _can_be_compared(policy, own)
        return max(model(one).dimension for one in _variants(own, models, explorers))

    own, found = rows_from(settings, policy, newest=newest, width=width, file=file, columns=columns, skip_bad=skip_bad)
    variants = _variants(own, models, explorers)
    first, rest = _cut(found, policy, file, share)
    rng = np.random.default_rng(seed)
    scale = reward_bounds(own)
    logger = LoggedRows(reward=rest.reward, propensity=rest.propensity, target=rest.propensity)
    shown = np.bincount(rest.arm, minlength=len(rest.arms))
    policies = {"as logged": _record(logger, rng, bounds=scale, weight_cap=weight_cap, shares=shown)}
    learns = replace(first, x=clip_contexts(first.x, own.feature_limit).astype(np.float64))  # as the learner does
    for chosen in variants:
        snapshot = learned(
            learns,
            model(chosen),
            explorer=chosen.explorer,
            rates=chosen.rates,
            intercept=chosen.intercept,
            features=chosen.features_of_arms,
        )
        foreseen = foresee(snapshot, rest)
        policies[f"{chosen.model} {chosen.explorer}"] = {
            **_record(
                under(foreseen, rest), rng, bounds=scale, weight_cap=weight_cap, shares=foreseen.laws.sum(axis=0)
            ),
            "scores": asdict(scored(foreseen, rest, k=top)),
        }
    return {
        "policy": policy,
        "source": "feedback topic" if file is None else str(file),
        "rows_learned": len(first.reward),
        "rows_evaluated": len(rest.reward),
        "rows_of_other_dimensions": found.left_out,
        "arms": len(rest.arms),
        "caution": CAUTION,
        "policies": policies,
    }


def rows_from(
    settings: Settings,
    policy: str,
    *,
    newest: int,
    width: Callable[[PolicySettings], int],
    file: str | Path | None,
    columns: Mapping[str, str] | None,
    skip_bad: bool,
) -> tuple[PolicySettings, Rows]:
    """The policy's settings and its newest matured rows, of a file or of the feedback topic.

    ``width``: says for the settings how long contexts must be, 0 for any; it may refuse them before anything is read.
    """
    if file is not None:
        own, found = read_file(settings, policy, file, columns=columns or {}, newest=newest, skip_bad=skip_bad)
        width(own)
        return own, found
    if policy not in settings.policies:
        raise UnknownPolicyError(policy, known=settings.policies)
    own = settings.policies[policy]
    return own, matured(settings, policy, newest, dimension=width(own))


def _can_be_compared(policy: str, own: PolicySettings) -> None:
    if own.features is not None and own.features.match is not None:
        raise SettingsError(
            f"policies.{policy}.features.match = {own.features.match!r}: the log has the match of the arm that was shown and not of the "
            "others, so what other policies would have done cannot be computed from it; compare them on traffic"
        )


def _variants(own: PolicySettings, models: Sequence[str], explorers: Sequence[str]) -> list[PolicySettings]:
    return [
        variant(own, name, explorer) for name in models or (own.model,) for explorer in explorers or (own.explorer,)
    ]


def _cut(found: Rows, policy: str, file: str | Path | None, share: float) -> tuple[Decided, Decided]:
    """The rows that are learned from, and those that are evaluated on. Raises TooFewRowsError."""
    rows = found.decided()
    n = len(rows.reward)
    if n < LEAST_ROWS:
        where = "the feedback topic" if file is None else str(file)
        other = f", and {found.left_out} whose context has another dimension" if found.left_out else ""
        why = (
            ""
            if file is not None
            else (
                "; an impression that counts matures when window_s (or retraction_window_s) + grace_s of event time have passed"
            )
        )
        raise TooFewRowsError(
            f"{where} has {n} matured impressions of policy {policy!r} that were chosen by chance{other}, at least {LEAST_ROWS} are "
            f"needed{why}"
        )
    return rows.split(share)


def variant(own: PolicySettings, name: str, explorer: str) -> PolicySettings:
    """The policy's settings with another model and explorer. Raises SettingsError if they do not go together."""
    if explorer not in EXPLORERS:
        raise SettingsError(f"there is no explorer {explorer!r}; choose among {', '.join(EXPLORERS)}")
    try:
        given = own.model_dump(exclude_unset=True) | {"model": name, "explorer": explorer}
        given = {key: value for key, value in given.items() if ONLY.get(key, name) == name}
        return PolicySettings.model_validate(given)
    except ValueError as error:
        raise SettingsError(f"model {name!r} does not go with the policy's settings: {error}") from error


def _record(
    rows: LoggedRows, rng: np.random.Generator, *, bounds: tuple[float, float], weight_cap: float, shares: Any
) -> dict[str, Any]:
    found, worth = evaluate(rows, rng=rng)
    return {
        **{name: {"value": one.value, "low": one.low, "high": one.high} for name, one in found.items()},
        "anytime": asdict(anytime(rows, bounds=bounds, weight_cap=weight_cap)),
        "ess": worth.ess,
        "exposure_gini": gini(shares),
        "doubts": list(worth.doubts),
    }
