"""Decision ids, drawn many at a time, and the generator of decisions without an idempotency key."""

from __future__ import annotations

import numpy as np

from streams.drawing import BLOCK, Blocks


class Randomness:
    """Decision ids, and a generator; for one thread.

    >>> random = Randomness(np.random.default_rng(1))
    >>> len(random.name()), random.rng.random(3).shape
    (32, (3,))
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._ids = rng
        self._names: list[str] = []
        self.rng: np.random.Generator = Blocks(np.random.PCG64(rng.integers(2**63, size=4)))

    def name(self) -> str:
        """128 random bits as 32 hexadecimal digits."""
        if not self._names:
            digits = self._ids.bytes(16 * BLOCK).hex()
            self._names = [digits[at : at + 32] for at in range(0, 32 * BLOCK, 32)]
        return self._names.pop()
