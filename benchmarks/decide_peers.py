"""Peers whose decisions and updates are timed, each fed as its documentation says, with inputs made beforehand."""

from __future__ import annotations

import itertools
import string
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from policies.batch import FloatArray

LETTERS = string.ascii_letters


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A log: contexts (n, d), arms shown (n,), rewards (n,)."""

    x: FloatArray
    arm: npt.NDArray[np.int64]
    reward: FloatArray


class Peer(Protocol):
    """A system that has learned some rows. Its calls are endless iterators of functions without arguments."""

    updates_together: int

    def decisions(self, rows: Rows) -> Iterator[Callable[[], object]]:
        """Decide for one context after the other."""
        ...

    def updates(self, rows: Rows) -> Iterator[Callable[[], object]]:
        """Learn `updates_together` labels after the other."""
        ...

    def batches(self, rows: Rows, n: int) -> Iterator[Callable[[], object]] | None:
        """Decide for n contexts in one call; None if it has no such call."""
        ...


class Gittins:
    """The engine `gittins`; it learns by the ids of its own decisions, which show what it thinks best."""

    updates_together = 1

    def __init__(self, *, arms: int, rows: Rows) -> None:
        import gittins

        self._engine: Any = gittins
        self._state = gittins.create(bits=18, horizon=1e9)
        self._arms: list[tuple[str, dict[str, float]]] = [(f"a{arm}", {}) for arm in range(arms)]
        self._now = itertools.count()
        for x, reward in zip(rows.x, rows.reward.tolist(), strict=True):
            record = self._decide(_named(x))
            gittins.learn(self._state, record.decision_id, reward, float(next(self._now)))

    def _decide(self, features: dict[str, float]) -> Any:
        now = next(self._now)
        return self._engine.decide(self._state, features, self._arms, float(now), f"d{now}")

    def decisions(self, rows: Rows) -> Iterator[Callable[[], object]]:
        """One decision for each context."""
        for features in itertools.cycle([_named(x) for x in rows.x[:2000]]):
            yield partial(self._decide, features)

    def updates(self, rows: Rows) -> Iterator[Callable[[], object]]:
        """Decide first, untimed; then resolve the decision."""
        for x, reward in itertools.cycle(zip(rows.x, rows.reward.tolist(), strict=True)):
            record, now = self._decide(_named(x)), float(next(self._now))
            yield partial(self._engine.learn, self._state, record.decision_id, reward, now)

    def batches(self, rows: Rows, n: int) -> None:
        """It has none."""


class VowpalWabbit:
    """`--cb_explore_adf --squarecb` with crosses of context and arm; an arm is drawn from what it predicts."""

    updates_together = 1

    def __init__(self, *, arms: int, rows: Rows) -> None:
        from vowpalwabbit import Workspace

        self._workspace: Any = Workspace("--cb_explore_adf --squarecb -q ua --quiet")
        self._arms = [f"|a a{arm}" for arm in range(arms)]
        self._rng = np.random.default_rng(1)
        for call in itertools.islice(self.updates(rows), len(rows.arm)):
            call()

    def _decide(self, example: list[str]) -> int:
        p = np.array(self._workspace.predict(example))
        return int(self._rng.choice(len(p), p=p / p.sum()))

    def decisions(self, rows: Rows) -> Iterator[Callable[[], object]]:
        """Predict, and draw."""
        for example in itertools.cycle([self._example(x) for x in rows.x[:2000]]):
            yield partial(self._decide, example)

    def _example(self, x: FloatArray) -> list[str]:
        values = " ".join(f"{name}:{value:.6g}" for name, value in zip(LETTERS, x[1:].tolist(), strict=False))
        return [f"shared |u {values}", *self._arms]

    def updates(self, rows: Rows) -> Iterator[Callable[[], object]]:
        """Costs are negative rewards."""
        for x, arm, reward in itertools.cycle(zip(rows.x, rows.arm.tolist(), rows.reward.tolist(), strict=True)):
            example = self._example(x)
            example[arm + 1] = f"0:{-reward}:{1 / len(self._arms):.6g} {example[arm + 1]}"
            yield partial(self._workspace.learn, example)

    def batches(self, rows: Rows, n: int) -> None:
        """It has none."""


class Mabwiser:
    """`mabwiser`'s LinTS; its updates are cheapest in batches."""

    updates_together = 1000

    def __init__(self, *, arms: int, rows: Rows) -> None:
        from mabwiser.mab import MAB, LearningPolicy

        self._bandit: Any = MAB(arms=list(range(arms)), learning_policy=LearningPolicy.LinTS(alpha=1.0), seed=1)
        self._bandit.fit(rows.arm, rows.reward, rows.x)

    def decisions(self, rows: Rows) -> Iterator[Callable[[], object]]:
        """Predict one context."""
        for x in itertools.cycle(rows.x[:2000]):
            yield partial(self._bandit.predict, x[None])

    def updates(self, rows: Rows) -> Iterator[Callable[[], object]]:
        """Fit 1,000 rows more."""
        for part in _parts(rows, self.updates_together):
            yield partial(self._bandit.partial_fit, part.arm, part.reward, part.x)

    def batches(self, rows: Rows, n: int) -> Iterator[Callable[[], object]]:
        """Predict n contexts."""
        for part in _parts(rows, n):
            yield partial(self._bandit.predict, part.x)


class River:
    """`river`'s LinUCBDisjoint; it has no contextual Thompson sampling."""

    updates_together = 1

    def __init__(self, *, arms: int, rows: Rows) -> None:
        from river.bandit import LinUCBDisjoint

        self._bandit: Any = LinUCBDisjoint(seed=1)
        self._arms = list(range(arms))
        for call in itertools.islice(self.updates(rows), len(rows.arm)):
            call()

    def decisions(self, rows: Rows) -> Iterator[Callable[[], object]]:
        """Pull for one context."""
        for features in itertools.cycle([_named(x) for x in rows.x[:2000]]):
            yield partial(self._bandit.pull, self._arms, context=features)

    def updates(self, rows: Rows) -> Iterator[Callable[[], object]]:
        """Learn one label."""
        for x, arm, reward in itertools.cycle(zip(rows.x, rows.arm.tolist(), rows.reward.tolist(), strict=True)):
            yield partial(self._bandit.update, arm, _named(x), reward)

    def batches(self, rows: Rows, n: int) -> None:
        """It has none."""


PEERS: dict[str, Any] = {"gittins": Gittins, "vowpalwabbit": VowpalWabbit, "mabwiser": Mabwiser, "river": River}


def _named(x: FloatArray) -> dict[str, float]:
    return {f"x{i}": value for i, value in enumerate(x.tolist())}


def _parts(rows: Rows, n: int) -> Iterator[Rows]:
    for first in itertools.cycle(range(0, len(rows.arm) - n + 1, n)):
        part = slice(first, first + n)
        yield Rows(x=rows.x[part], arm=rows.arm[part], reward=rows.reward[part])
