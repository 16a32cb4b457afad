"""What the learner made of a policy's log: every arm's sums and its posterior, as tables or as JSON."""

from __future__ import annotations

import json as codec
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from scipy.special import expit

from policies.arm_features import prior_of
from policies.empirical_bayes import fit
from policies.posterior import ArmPosterior, BetaPosterior, posterior
from streams.rules import rules
from streams.sums import read_states

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policies.sums import Effective
    from streams.replay import Replayed
    from streams.settings import PolicySettings, Settings

FloatArray = npt.NDArray[np.float64]
SHOWN_ARMS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedArm:
    """One arm: its impressions, their reward (forgotten as the policy forgets), the reward of one, and the posterior.

    ``mean`` and ``sd`` are of the expected reward in the file's mean context.
    """

    impressions: float
    reward: float
    rate: float
    mean: float
    sd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """Arms by name, best first by posterior mean, and the offsets by side and partition that they include."""

    arms: dict[str, LearnedArm]
    offsets: dict[str, dict[str, int]]


def learned(settings: Settings, policy: str, *, mean_context: FloatArray) -> Learned:
    """Read the committed sums of all partitions and build the posteriors, as the publisher does.

    Args:
        settings: where the topics are, and the policy's settings.
        policy: its name.
        mean_context: (d,) in which the arms are compared.
    """
    states = read_states(settings)
    model, chosen = rules(settings).models[policy], settings.policies[policy]
    merged: dict[str, Any] = {}
    for state in states:
        for arm, sums in state.sums[policy].items():
            merged[arm] = model.merge(merged[arm], sums) if arm in merged else sums
    now_ms = max((state.join.watermark for state in states if state.join.watermark is not None), default=0)
    effective = {arm: model.at(sums, now_ms=now_ms) for arm, sums in merged.items()}
    arms = _arms(effective, chosen, mean_context)
    return Learned(
        arms=dict(sorted(arms.items(), key=lambda item: -item[1].mean)),
        offsets={
            side: {str(state.number): state.positions[side] for state in states} for side in ("impressions", "clicks")
        },
    )


def _arms(effective: Mapping[str, Effective], chosen: PolicySettings, x: FloatArray) -> dict[str, LearnedArm]:
    prior = fit(
        effective,
        model=chosen.model,
        dimension=chosen.dimension,
        intercept=chosen.intercept,
        features=chosen.features_of_arms,
    )
    arms = {}
    for name, sums in effective.items():
        mean, sd = _moments(posterior(prior_of(prior, name), sums), x)
        if chosen.model == "logistic":  # by the delta method: the posterior is on the logit scale
            mean = float(expit(mean))
            sd *= mean * (1.0 - mean)
        arms[name] = LearnedArm(
            impressions=sums.count,
            reward=sums.reward,
            rate=sums.reward / sums.n_eff if sums.n_eff > 0 else 0.0,
            mean=mean,
            sd=sd,
        )
    return arms


def _moments(found: ArmPosterior | BetaPosterior, x: FloatArray) -> tuple[float, float]:
    if isinstance(found, ArmPosterior):
        return float(found.mean @ x), float(np.linalg.norm(found.factor @ x))
    total = found.a + found.b
    return found.a / total, float(np.sqrt(found.a * found.b / (total + 1)) / total)


def as_record(replayed: Replayed, *, policy: str) -> dict[str, Any]:
    """The report as one JSON object."""
    return {
        "policy": policy,
        "rows": replayed.survey.rows,
        "bad_rows": replayed.survey.bad_rows,
        "impressions_sent": replayed.sent.impressions,
        "outcomes_sent": replayed.sent.outcomes,
        "impressions": dict(replayed.impressions),
        "counts": dict(replayed.counts),
        "seconds": replayed.seconds,
        "features": list(replayed.survey.features),
        "offsets": replayed.learned.offsets,
        "arms": {name: asdict(arm) for name, arm in replayed.learned.arms.items()},
    }


def show(replayed: Replayed, *, policy: str, json: bool, kept: bool = True) -> None:
    """Print the report: one JSON object, or a few lines and the best arms. `kept`: the topics are still there."""
    record = as_record(replayed, policy=policy)
    if json:
        sys.stdout.write(codec.dumps(record) + "\n")
        return
    console = Console()
    sent = f"sent {replayed.sent.impressions:,} impressions and {replayed.sent.outcomes:,} outcomes"
    if _all_learned(replayed):
        console.print(f"{sent}; the learner counted every one, {replayed.seconds:.1f} s after the first")
    else:
        console.print(f"{sent} in {replayed.seconds:.1f} s; impressions: {_words(replayed.impressions)}")
    console.print(f"outcomes: {_words(replayed.counts)}")
    console.print(_table(replayed.learned, policy))
    if kept:
        console.print(f"the sums themselves: clickloop policy sums {policy} --json")


def _words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {value:,}" for name, value in counts.items())


def _all_learned(replayed: Replayed) -> bool:
    accepted, joined = replayed.impressions.get("accepted", 0), replayed.counts.get("joined", 0)
    return accepted == replayed.sent.impressions and joined == replayed.sent.outcomes


def _table(found: Learned, policy: str) -> Table:
    table = Table(title=f"what policy {policy} learned: {len(found.arms)} arms, the best first", title_justify="left")
    table.add_column("arm")
    for name in ("impressions", "reward", "reward each", "in the mean context"):
        table.add_column(name, justify="right")
    for name, arm in list(found.arms.items())[:SHOWN_ARMS]:
        table.add_row(
            name, f"{arm.impressions:,.0f}", f"{arm.reward:,.4g}", f"{arm.rate:.4%}", f"{arm.mean:.4%} ± {arm.sd:.4%}"
        )
    if len(found.arms) > SHOWN_ARMS:
        table.add_row(f"and {len(found.arms) - SHOWN_ARMS} more", "", "", "", "")
    return table
