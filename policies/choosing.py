"""The top layer in a running policy: a choice is drawn for each snapshot, and what its decisions earned is credited to it.

A choice is a way to explore: an explorer and its rates. Impressions name the snapshot that decided, so nothing else is logged, and what
they log is exact: within a snapshot every decision goes by one choice. Which choice a version had is kept as runs, (first version, index),
for as long as its rows may mature.

All decisions of a snapshot weigh on one choice, so that counts which fade with 0.9999 an event would know one snapshot alone where
traffic is heavy. Here they remember 10^4 events, or SNAPSHOTS snapshots' where that is more.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from policies.top_layer import MEMORY, TopLayer, law, matured, moved, top_layer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from policies.batch import FloatArray

NONE = -1
"""Index of snapshots that no choice decided: a candidate was tried beside them, or something was promoted or said."""
MOST_RUNS = 4096
"""Runs that are kept; rows of snapshots before the first are credited to nothing."""
SNAPSHOTS = 100
"""Whose events the counts remember at least."""
SMOOTH = 0.05
"""Weight of one more snapshot in the mean of events between two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choosing:
    """State.

    Attributes:
        layer: counts of the choices.
        runs: (first version, index of the choice or NONE), oldest first; a run ends where the next begins.
        leader: index of the choice that most snapshots go to.
        block: mean number of events between two snapshots; `count`: impressions at the last one.
    """

    layer: TopLayer
    runs: tuple[tuple[int, int], ...] = ()
    leader: int
    block: float = 0.0
    count: float = 0.0


def first_choosing(choices: int, *, default: int, bound: float) -> Choosing:
    """Before any row. `bound`: largest reward of one event.

    >>> first_choosing(3, default=1, bound=1.0).leader
    1
    """
    return Choosing(layer=top_layer(choices, default=default, bound=bound), leader=default)


def of_versions(state: Choosing, snapshot: npt.NDArray[np.integer]) -> npt.NDArray[np.intp]:
    """(n,) index of the choice that each version (n,) had, NONE where none is known.

    >>> state = Choosing(layer=top_layer(2, default=0), runs=((5, 1), (8, NONE), (9, 0)), leader=0)
    >>> of_versions(state, np.array([-1, 4, 5, 7, 8, 100])).tolist()
    [-1, -1, 1, 1, -1, 0]
    """
    first = np.array([version for version, _ in state.runs], np.int64)
    index = np.array([NONE, *(one for _, one in state.runs)], np.intp)
    found: npt.NDArray[np.intp] = index[np.searchsorted(first, snapshot, side="right")]
    return found


def credited(state: Choosing, snapshot: npt.NDArray[np.integer], reward: FloatArray) -> Choosing:
    """After rows (n,) that matured, in their order: versions they were decided from, and rewards, which are cut to 0 and the bound.

    >>> state = drawn(first_choosing(2, default=0, bound=1.0), policy="p", version=7, count=0.0)
    >>> credited(state, np.array([6, 7]), np.array([1.0, 1.0])).layer.S == state.layer.S
    False
    """
    choice = of_versions(state, snapshot)
    known = choice != NONE
    memory = max(MEMORY, 1.0 - 1.0 / max(1.0, SNAPSHOTS * state.block))
    layer = replace(state.layer, memory=memory)
    return replace(state, layer=matured(layer, choice[known], np.clip(reward[known], 0.0, layer.bound)))


def drawn(state: Choosing, *, policy: str, version: int, count: float) -> Choosing:
    """With a choice for the snapshot of this version: a function of state, policy and version. `count`: impressions so far.

    >>> start = first_choosing(1, default=0, bound=1.0)
    >>> drawn(start, policy="p", version=1, count=10.0).runs
    ((1, 0),)
    """
    seed = hashlib.sha256(msgspec.json.encode([policy, version])).digest()
    index = int(np.random.default_rng(int.from_bytes(seed[:8], "big")).choice(len(state.layer.S), p=law(state.layer)))
    came = max(count - state.count, 0.0)
    weight = 0.0 if came == 0.0 else SMOOTH if state.block else 1.0
    block = state.block + weight * (came - state.block)
    return replace(with_run(state, version, index), block=block, count=count)


def with_run(state: Choosing, version: int, index: int) -> Choosing:
    """With the choice of a version and of those after it, until another is said.

    >>> state = with_run(with_run(first_choosing(2, default=0, bound=1.0), 3, 1), 4, 1)
    >>> state.runs, with_run(state, 3, NONE).runs
    (((3, 1),), ((3, -1),))
    """
    before = tuple(run for run in state.runs if run[0] < version)
    if before and before[-1][1] == index:
        return replace(state, runs=before)
    return replace(state, runs=(*before, (version, index))[-MOST_RUNS:])


def led(state: Choosing, names: Sequence[str]) -> tuple[Choosing, str]:
    """With the choice that most snapshots go to now, and in words what changed, "" if nothing did.

    >>> state = with_run(with_run(first_choosing(2, default=0, bound=1.0), 1, 0), 2, 1)
    >>> led(credited(state, np.repeat([1, 2], 2000), np.repeat([0.0, 1.0], 2000)), ["alpha 0.3", "alpha 1"])[1]
    'alpha 0.3 -> alpha 1: 95% of snapshots; that the choices differ has the probability 1.00'
    """
    leader, words = moved(state.layer, state.leader, names, of="snapshots")
    return replace(state, leader=leader), words
