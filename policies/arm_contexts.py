"""Contexts that differ between arms in one component: the interest match of an arm's text and the context's.

x_a = (x_1, ..., m_a, ..., x_d): what arm a is scored by, and what its impression carries, so that sums take it verbatim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from policies.batch import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArmContexts:
    """The contexts of one decision.

    Attributes:
        x: (d,) what arms have in common; an arm without a number of its own has this.
        column: the component that differs.
        by_arm: its value by arm.

    >>> contexts = ArmContexts(x=np.array([1.0, 0.0]), column=1, by_arm={"a": 2.0})
    >>> contexts.each(("a", "other")).tolist()
    [[1.0, 2.0], [1.0, 0.0]]
    """

    x: FloatArray
    column: int
    by_arm: Mapping[str, float]

    def of(self, arm: str) -> FloatArray:
        """(d,) context of an arm."""
        x: FloatArray = self.each((arm,))[0]
        return x

    def each(self, arms: Sequence[str]) -> FloatArray:
        """(K, d) contexts of arms."""
        whole = np.tile(self.x, (len(arms), 1))
        default = float(self.x[self.column])
        whole[:, self.column] = [self.by_arm.get(arm, default) for arm in arms]
        return whole

    def mapped(self, change: Callable[[FloatArray], FloatArray]) -> ArmContexts:
        """With a change of numbers, each by itself, such as rounding."""
        values = change(np.array(list(self.by_arm.values()), np.float64)).tolist()
        return ArmContexts(x=change(self.x), column=self.column, by_arm=dict(zip(self.by_arm, values, strict=True)))


def context_of(contexts: FloatArray | ArmContexts, arm: str, slot: int = 0) -> FloatArray:
    """(d,) context of an arm in a slot: of (d,) the same for all, of (K, d) that of the slot.

    >>> context_of(np.array([1.0]), "a").tolist(), context_of(np.array([[1.0], [2.0]]), "a", 1).tolist()
    ([1.0], [2.0])
    """
    if isinstance(contexts, ArmContexts):
        return contexts.of(arm)
    return contexts if contexts.ndim == 1 else contexts[slot]
