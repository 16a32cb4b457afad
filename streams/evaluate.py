"""What `clickloop evaluate` does: models and explorers compared on the matured impressions of the feedback topic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from policies.evaluation import Decided, evaluate, learned, under
from policies.explorers import EXPLORERS
from policies.ope import LoggedRows
from streams import feedback
from streams.reading import bounds, partition_count, read, reader
from streams.rules import model
from streams.settings import PolicySettings, Settings, SettingsError
from streams.settings_policy import UnknownPolicyError

TIMEOUT_S = 10.0
LEAST_ROWS = 100
ONLY = {"arm_features": "hybrid", "point": "logistic"}
"""Settings that one model alone uses: the others are compared without them."""
CAUTION = (
    "do not choose how much to explore by these figures: what exploring finds pays later, so the greedy one looks best; "
    "compare models, features and windows"
)


class TooFewRowsError(ValueError):
    """The feedback topic does not hold enough matured impressions to cut and compare."""

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

    Raises:
        UnknownPolicyError, SettingsError: no such policy; a model or explorer that does not go with its settings.
        TooFewRowsError: nothing to compare on.
        ReadError: the broker does not answer.
    """
    if policy not in settings.policies:
        raise UnknownPolicyError(policy, known=settings.policies)
    own = settings.policies[policy]
    variants = [
        variant(own, name, explorer) for name in models or (own.model,) for explorer in explorers or (own.explorer,)
    ]
    rows = matured(settings, policy, newest)
    if len(rows.reward) < LEAST_ROWS:
        raise TooFewRowsError(
            f"the feedback topic has {len(rows.reward)} matured impressions of policy {policy!r} that were chosen by chance, at least "
            f"{LEAST_ROWS} are needed; an impression that counts matures when window_s (or retraction_window_s) + grace_s of event time have passed"
        )
    first, rest = rows.split(share)
    rng = np.random.default_rng(seed)
    logger = LoggedRows(reward=rest.reward, propensity=rest.propensity, target=rest.propensity)
    policies = {"as logged": _record(logger, rng)}
    for chosen in variants:
        snapshot = learned(
            first,
            model(chosen),
            explorer=chosen.explorer,
            rates=chosen.rates,
            intercept=chosen.intercept,
            features=chosen.features_of_arms,
        )
        policies[f"{chosen.model} {chosen.explorer}"] = _record(under(snapshot, rest), rng)
    return {
        "policy": policy,
        "rows_learned": len(first.reward),
        "rows_evaluated": len(rest.reward),
        "arms": len(rows.arms),
        "caution": CAUTION,
        "policies": policies,
    }


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


def matured(settings: Settings, policy: str, newest: int) -> Decided:
    """The newest matured impressions of a policy that were drawn with a chance below one, by event time."""
    rows = Rows()
    for record in _records(settings, policy):
        rows.add(record)
        if len(rows) > 2 * newest:
            rows.keep(newest)
    rows.keep(newest)
    return rows.decided()


def _records(settings: Settings, policy: str) -> Iterator[dict[str, Any]]:
    client, topic = settings.librdkafka(), settings.topics.feedback
    with reader(client) as consumer:
        for partition in range(partition_count(client, topic)):
            low, high = bounds(consumer, topic, partition, timeout_s=TIMEOUT_S)
            if high > low:
                for batch in read(consumer, topic, partition, low, None, timeout_s=TIMEOUT_S):
                    for record in batch:
                        decoded = None if record.value is None else feedback.decode(record.value)
                        if decoded is not None and decoded["type"] == "matured" and decoded["policy"] == policy:
                            yield decoded


class Rows:
    """Matured rows that were drawn with a chance below one and count, as they are read."""

    def __init__(self) -> None:
        self._parts: list[dict[str, Any]] = []
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def add(self, record: Mapping[str, Any]) -> None:
        """Take a decoded record of matured rows, without impressions that never became viewable or were taken back."""
        chance = np.flatnonzero((record["propensity"] < 1.0) & feedback.counts(record))
        part = {name: record[name][chance] for name in ("impression_ts", "propensity", "reward")}
        part["context"] = record["context"][chance].astype(np.float64)
        part["arm"] = np.array(record["arm"], object)[chance]
        self._parts.append(part)
        self._rows += len(chance)

    def keep(self, newest: int) -> None:
        """Let go of all but the newest rows, and put them in the order of event time."""
        if self._parts:
            whole = {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}
            order = np.argsort(whole["impression_ts"], kind="stable")[-newest:]
            self._parts = [{name: column[order] for name, column in whole.items()}]
            self._rows = len(order)

    def decided(self) -> Decided:
        """The rows that `keep` left."""
        if not self._rows:
            nothing = np.zeros(0)
            return Decided(
                arms=(),
                arm=np.zeros(0, np.intp),
                x=np.zeros((0, 0)),
                ts=np.zeros(0, np.int64),
                propensity=nothing,
                reward=nothing,
            )
        (part,) = self._parts
        names, codes = np.unique(part["arm"].astype(str), return_inverse=True)
        return Decided(
            arms=tuple(names.tolist()),
            arm=codes.astype(np.intp),
            x=part["context"],
            ts=part["impression_ts"],
            propensity=part["propensity"],
            reward=part["reward"],
        )


def _record(rows: LoggedRows, rng: np.random.Generator) -> dict[str, Any]:
    found, worth = evaluate(rows, rng=rng)
    return {
        **{name: {"value": one.value, "low": one.low, "high": one.high} for name, one in found.items()},
        "ess": worth.ess,
        "doubts": list(worth.doubts),
    }
