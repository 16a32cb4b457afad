"""Peers in a simulated world, each driven as its own documentation says. Versions are pinned in the extra `bench`.

All learn a label once, when it is final. An arm that replaces another comes under a new number.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.worlds import Index, Log, News
    from policies.batch import FloatArray

LETTERS = string.ascii_letters


class Uniform:
    """Chooses at random: what any policy must beat."""

    def __init__(self, *, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def choose(self, contexts: FloatArray, candidates: Sequence[int]) -> Index:
        """One arm for each context."""
        return self._rng.integers(len(candidates), size=len(contexts))

    def learn(self, log: Log, news: News) -> None:
        """Nothing."""


class Gittins:
    """The engine `gittins`: numeric features in the context, no features of the arms.

    Args:
        seed: salt of its draws.
        bits: size of the model, 2^bits weights.
    """

    def __init__(self, *, seed: int, bits: int = 18) -> None:
        import gittins

        self._engine: Any = gittins
        self._state = gittins.create(bits=bits, horizon=1e9)
        self._seed = seed
        self._decisions: list[Any] = []

    def choose(self, contexts: FloatArray, candidates: Sequence[int]) -> Index:
        """One decision for each context; the engine keeps what it needs to learn from it."""
        arms: list[tuple[str, dict[str, float]]] = [(f"a{arm}", {}) for arm in candidates]
        chosen = []
        for x in contexts:
            features = {f"x{i}": float(value) for i, value in enumerate(x[1:])}
            now = float(len(self._decisions))
            record = self._engine.decide(self._state, features, arms, now, f"{self._seed}-{len(self._decisions)}")
            self._decisions.append(record.decision_id)
            chosen.append(record.chosen)
        return np.array(chosen, np.intp)

    def learn(self, log: Log, news: News) -> None:  # noqa: ARG002
        """Resolve decisions by their ids."""
        for row, label in zip(news.settled.tolist(), news.labels.tolist(), strict=True):
            self._engine.learn(self._state, self._decisions[row], label, float(news.now))


class VowpalWabbit:
    """`--cb_explore_adf` with crosses of every context feature with the arm.

    Args:
        seed: of the draws from the probabilities that it gives.
        explorer: its options, for example "--squarecb".
    """

    def __init__(self, *, seed: int, explorer: str) -> None:
        from vowpalwabbit import Workspace

        self._workspace: Any = Workspace(f"--cb_explore_adf {explorer} -q ua --quiet")
        self._rng = np.random.default_rng(seed)
        self._logged: list[tuple[list[str], int, float]] = []

    def choose(self, contexts: FloatArray, candidates: Sequence[int]) -> Index:
        """Draw from the probabilities that it predicts."""
        arms = [f"|a a{arm}" for arm in candidates]
        chosen = []
        for x in contexts:
            values = " ".join(f"{name}:{value:.6g}" for name, value in zip(LETTERS, x[1:].tolist(), strict=False))
            example = [f"shared |u {values}", *arms]
            p = np.array(self._workspace.predict(example))
            drawn = int(self._rng.choice(len(p), p=p / p.sum()))
            self._logged.append((example, drawn, float(p[drawn])))
            chosen.append(drawn)
        return np.array(chosen, np.intp)

    def learn(self, log: Log, news: News) -> None:  # noqa: ARG002
        """Costs are negative rewards, weighted by the logged probability."""
        for row, label in zip(news.settled.tolist(), news.labels.tolist(), strict=True):
            example, drawn, p = self._logged[row]
            labelled = example.copy()
            labelled[drawn + 1] = f"0:{-label}:{p:.6g} {labelled[drawn + 1]}"
            self._workspace.learn(labelled)
            self._logged[row] = ([], drawn, p)


class Mabwiser:
    """`mabwiser`: one ridge regression for each arm.

    Args:
        seed: of its draws.
        policy: "LinTS" or "LinUCB".
        alpha: width of its exploration.
    """

    def __init__(self, *, seed: int, policy: str, alpha: float) -> None:
        from mabwiser.mab import MAB, LearningPolicy

        self._make: Any = MAB
        self._policy = getattr(LearningPolicy, policy)(alpha=alpha)
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        self._bandit: Any = None
        self._arms: list[int] = []

    def choose(self, contexts: FloatArray, candidates: Sequence[int]) -> Index:
        """Its prediction, once it was fitted; uniform before."""
        self._follow(candidates)
        if self._bandit is None:
            return self._rng.integers(len(candidates), size=len(contexts))
        place = {arm: i for i, arm in enumerate(candidates)}
        predicted = self._bandit.predict(contexts)
        return np.array([place[arm] for arm in (predicted if len(contexts) > 1 else [predicted])], np.intp)

    def _follow(self, candidates: Sequence[int]) -> None:
        if self._bandit is not None:
            for arm in set(self._arms) - set(candidates):
                self._bandit.remove_arm(arm)
            for arm in set(candidates) - set(self._arms):
                self._bandit.add_arm(arm)
        self._arms = list(candidates)

    def learn(self, log: Log, news: News) -> None:
        """Fit first, then fit on; rows of arms that are gone are left out."""
        known = np.isin(log.arms[news.settled], self._arms)
        rows, labels = news.settled[known], news.labels[known]
        if not len(rows):
            return
        if self._bandit is None:
            self._bandit = self._make(arms=self._arms, learning_policy=self._policy, seed=self._seed)
            self._bandit.fit(log.arms[rows], labels, log.contexts[rows])
        else:
            self._bandit.partial_fit(log.arms[rows], labels, log.contexts[rows])
