"""Random numbers for decisions, drawn many at a time.

Each call of numpy's generator gives up Python's lock; with threads that wait for it, two calls a request cost 75 us.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from policies.batch import FloatArray

BLOCK = 4096


class Randomness:
    """Decision ids, and numbers uniform on [0, 1); for one thread.

    >>> random = Randomness(np.random.default_rng(1))
    >>> len(random.name()), random.uniform(3).shape
    (32, (3,))
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._numbers = rng.random(BLOCK)
        self._used = 0
        self._names: list[str] = []

    def name(self) -> str:
        """128 random bits as 32 hexadecimal digits."""
        if not self._names:
            digits = self._rng.bytes(16 * BLOCK).hex()
            self._names = [digits[at : at + 32] for at in range(0, 32 * BLOCK, 32)]
        return self._names.pop()

    def uniform(self, count: int) -> FloatArray:
        """(count,) numbers, at most BLOCK of them."""
        if self._used + count > BLOCK:
            self._numbers, self._used = self._rng.random(BLOCK), 0
        self._used += count
        return self._numbers[self._used - count : self._used]
