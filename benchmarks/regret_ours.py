"""Clickloop in a simulated world, by the way that rows take in production: sums, fitted prior, snapshot, decision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.worlds import Index, Log, News
from policies.batch import Batch
from policies.decide import decide
from policies.empirical_bayes import fit
from policies.snapshot import Snapshot, build
from streams.rules import model
from streams.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.batch import FloatArray
    from streams.settings import PolicySettings

POLICY = "front"
SECOND_MS = 1000


class Clickloop:
    """A policy with the given settings. The prior is fitted when the publisher would: each interval, and when data doubled.

    Args:
        settings: of the policy; what they leave out is the library's default.
        seed: of the draws.
    """

    def __init__(self, settings: PolicySettings, *, seed: int) -> None:
        self._settings = settings
        self._model = model(settings)
        self._interval = Settings.model_fields["meta_interval_s"].default
        self._rng = np.random.default_rng(seed)
        self._sums: dict[str, Any] = {}
        self._prior: Any = None
        self._fitted_at, self._fitted_rounds = 0, 0
        self._snapshot: Snapshot | None = None
        self._publish(now=0, changed=None)

    def choose(self, contexts: FloatArray, candidates: Sequence[int]) -> Index:
        """Draw from the newest snapshot."""
        assert self._snapshot is not None
        names = [str(arm) for arm in candidates]
        place = {name: i for i, name in enumerate(names)}
        return np.array([place[decide(self._snapshot, x, names, rng=self._rng).arm] for x in contexts], np.intp)

    def learn(self, log: Log, news: News) -> None:
        """Impressions at once, clicks when they come."""
        shown, clicked = news.shown, news.clicked
        codes = np.unique(np.concatenate([log.arms[shown], log.arms[clicked]]))
        names, ones = tuple(str(code) for code in codes.tolist()), np.ones(len(clicked))
        batch = Batch(
            arms=names,
            arm=np.searchsorted(codes, log.arms[shown]),
            x=log.contexts[shown],
            ts=shown * SECOND_MS,
            reward_arm=np.searchsorted(codes, log.arms[clicked]),
            reward_x=log.contexts[clicked],
            reward_ts=clicked * SECOND_MS,
            reward=ones,
            square=ones,
        )
        self._sums = self._model.update(self._sums, batch)
        self._publish(now=news.now, changed=set(names))

    def _publish(self, *, now: int, changed: set[str] | None) -> None:
        policy = self._settings
        due = now - self._fitted_at >= self._interval or now >= 2 * self._fitted_rounds
        if self._prior is None or due:
            effective = {arm: self._model.at(sums, now_ms=now * SECOND_MS) for arm, sums in self._sums.items()}
            self._prior = fit(
                effective,
                None,
                model=policy.model,
                dimension=policy.dimension,
                intercept=policy.intercept,
                features=policy.features_of_arms,
            )
            self._fitted_at, self._fitted_rounds = now, now
        self._snapshot = build(
            POLICY,
            model=self._model,
            sums=self._sums,
            prior=self._prior,
            version=1 if self._snapshot is None else self._snapshot.version + 1,
            previous=self._snapshot,
            time_ms=0,
            now_ms=now * SECOND_MS,
            explorer=policy.explorer,
            rates=policy.rates,
            changed=changed if self._model.timeless else None,
        )
