"""Rows to evaluate policies on from a file of logged decisions, as `clickloop replay` reads it; no broker is needed.

Every row is one impression and at most one outcome. Rows with the same decision id and slot are one impression with several
outcomes, of which each id counts once. What an outcome earns is what the learner would say: its worth by the policy's
settings, if it came within the window. The file may be in any order.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from streams.join import Window
from streams.logged import open_logged
from streams.mapping import fit_columns
from streams.matured import Rows
from streams.outcomes import Seen
from streams.replay import AHEAD_MS, policy_for, refuse_bad
from streams.rules import window
from streams.survey import make_log, read_context, survey

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from streams.logged_rows import Event
    from streams.settings import PolicySettings, Settings

ANY_ORDER_MS = 1 << 60


def read_file(
    settings: Settings,
    policy: str,
    file: str | Path,
    *,
    columns: Mapping[str, str],
    newest: int,
    skip_bad: bool,
) -> tuple[PolicySettings, Rows]:
    """The policy's settings, and the file's newest impressions that were drawn with a chance below one, by event time.

    A policy that the settings do not have is linear, with the dimension of the mapped context; without a context it is "beta".

    Raises:
        LoggedError: the file, the mapping or a row cannot be used.
    """
    opened = open_logged(file)
    fitted = fit_columns(columns, opened.columns, policy=policy)
    context = read_context(opened, fitted)
    own = policy_for(settings, policy, context)
    log = make_log(opened, fitted, context, policy=own, latest_ms=int(time.time() * 1000) + AHEAD_MS)
    taken = _Impressions(window(own))
    found = survey(replace(log, back_ms=ANY_ORDER_MS), context.features, tell=taken.add)
    refuse_bad(found, file, skip_bad=skip_bad, undone="evaluated")
    rows = Rows(len(context.features))
    taken.give(rows)
    rows.keep(newest)
    return own, rows


@dataclass(slots=True)
class _Impressions:
    """Impressions with a chance below one, each once, and the outcomes of each that came in time."""

    window: Window
    at: dict[tuple[str, str], int] = field(default_factory=dict)
    shown: list[tuple[int, float, str, list[float]]] = field(default_factory=list)
    seen: list[list[Seen]] = field(default_factory=list)

    def add(self, event: Event) -> None:
        """Take a row."""
        one = event.impression
        key = one.decision_id, one.slot
        place = self.at.get(key)
        if place is None:
            if one.snapshot is None or one.propensity >= 1.0:
                return
            place = self.at[key] = len(self.shown)
            self.shown.append((one.ts, one.propensity, one.arm, list(one.context)))
            self.seen.append([])
        outcome = event.outcome
        if outcome is None or any(outcome.outcome_id == other.outcome_id for other in self.seen[place]):
            return
        does, worth = self.window.does(outcome.kind)
        if -self.window.early_ms <= outcome.ts - self.shown[place][0] < self.window.open_ms(does):
            self.seen[place].append(
                Seen(outcome.outcome_id, outcome.ts, worth * outcome.value, 0, does, outcome.value, worth)
            )

    def give(self, rows: Rows) -> None:
        """Give those that count, with their rewards."""
        standing = [self.window.standing(seen) for seen in self.seen]
        kept = [place for place, (left, _) in enumerate(standing) if left is not None]
        if kept:
            ts, propensity, arm, context = zip(*(self.shown[place] for place in kept), strict=True)
            rows.take(
                {
                    "impression_ts": np.array(ts, np.int64),
                    "propensity": np.array(propensity),
                    "reward": np.array([standing[place][1] for place in kept]),
                    "arm": np.array(arm, object),
                    "context": np.array(context, np.float64).reshape(len(kept), -1),
                }
            )
