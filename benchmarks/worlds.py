"""The loop that regret is measured in: who decides, what comes back when, and what it cost. Systems plug in as `Learner`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.batch import FloatArray

Index = npt.NDArray[np.intp]

PATIENCE = 3.0
"""Mean delays after which a system that takes each label once is told that there was no click."""


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What a learner hears at the end of a block; a round is a second of event time.

    Attributes:
        now: the round that comes next.
        shown: rounds of the block that was just decided.
        clicked: rounds whose click arrived.
        settled: rounds whose label is final now: clicked, or waited for in vain; each round comes once.
        labels: (len(settled),) 1 for a click, 0 for none.
    """

    now: int
    shown: Index
    clicked: Index
    settled: Index
    labels: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """What was shown, by round: contexts (rounds, d) and arms (rounds,), numbers of their own for arms that replace others."""

    contexts: FloatArray
    arms: Index


class World(Protocol):
    """What is decided in: the classes of benchmarks/environments.py and benchmarks/labelled.py.

    Attributes:
        contexts: (rounds, d).
        uniforms: (rounds,) a click comes if its uniform lies below the arm's probability.
        delays: (rounds,) rounds from the impression to its click.
    """

    contexts: FloatArray
    uniforms: FloatArray
    delays: FloatArray

    def probabilities(self, round_: int, contexts: FloatArray) -> FloatArray:
        """(n, arms) chances of a click for the contexts (n, d) of the rounds from `round_` on."""
        ...

    def replaced(self, start: int, stop: int) -> Index:
        """Places of arms that are announced as new in rounds start <= t < stop."""
        ...


class Learner(Protocol):
    """A system under test. Arms are numbers; candidates change when arms are replaced."""

    def choose(self, contexts: FloatArray, candidates: Sequence[int]) -> Index:
        """Positions (n,) in candidates for contexts (n, d), all from what is known now."""
        ...

    def learn(self, log: Log, news: News) -> None:
        """Take what came in since the last call."""
        ...


@dataclass(slots=True)
class _Mail:
    """Clicks and labels on their way: rounds, and when they are due."""

    due: FloatArray = field(default_factory=lambda: np.zeros(0))
    rounds: Index = field(default_factory=lambda: np.zeros(0, np.intp))

    def post(self, due: FloatArray, rounds: Index) -> None:
        self.due, self.rounds = np.concatenate([self.due, due]), np.concatenate([self.rounds, rounds])

    def delivered(self, now: float) -> Index:
        """Rounds that are due before `now`, in the order of their arrival."""
        here = self.due < now
        order = np.argsort(self.due[here], kind="stable")
        arrived: Index = self.rounds[here][order]
        self.due, self.rounds = self.due[~here], self.rounds[~here]
        return arrived


def play(
    environment: World, learner: Learner, *, rounds: int, arms: int, block: int, mean_delay: float = 0.0
) -> FloatArray:
    """Let a learner decide the first rounds of a world, in blocks, and return the regret of each round (rounds,).

    Regret is the best candidate's click probability minus that of the arm that was chosen.

    Args:
        environment: see `World`.
        learner: decides and learns.
        rounds: how many are played.
        arms: K.
        block: rounds that are decided before the learner hears of any.
        mean_delay: of a click, in rounds; labels without a click settle after 3 of them.
    """
    contexts = environment.contexts[:rounds]
    candidates, known = list(range(arms)), arms
    log = Log(contexts=contexts, arms=np.zeros(rounds, np.intp))
    regret, clicks, labels = np.zeros(rounds), _Mail(), _Mail()
    clicked = np.zeros(rounds, np.bool_)
    for start in range(0, rounds, block):
        shown = np.arange(start, min(start + block, rounds))
        for place in environment.replaced(start, start + block).tolist():
            candidates[place] = known
            known += 1
        chosen = learner.choose(contexts[shown], candidates)
        log.arms[shown] = np.array(candidates)[chosen]
        p = environment.probabilities(start, contexts[shown])
        mine = p[np.arange(len(shown)), chosen]
        regret[shown] = p.max(axis=1) - mine
        clicked[shown] = environment.uniforms[shown] < mine
        delays, wait = environment.delays[shown], PATIENCE * mean_delay
        came = clicked[shown]
        clicks.post((shown + delays)[came], shown[came])
        counts = came & (delays <= wait)
        labels.post(np.where(counts, shown + delays, shown + wait), shown)
        now = int(shown[-1]) + 1
        settled = labels.delivered(now)
        outcome = (clicked[settled] & (environment.delays[settled] <= wait)).astype(np.float64)
        learner.learn(log, News(now=now, shown=shown, clicked=clicks.delivered(now), settled=settled, labels=outcome))
    return regret
