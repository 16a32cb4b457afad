"""Random numbers for decisions, drawn many at a time, one generator for each thread.

Each call that fills an array gives up Python's lock; with threads that wait for it (those that deliver events), two calls a
request cost 75 us. A numpy generator's state is of one thread at a time; threads that share one would wait for each other.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from policies.batch import FloatArray

BLOCK = 4096
LARGE = 512
"""Numbers in one call from which they are drawn for themselves."""


class Blocks(np.random.Generator):
    """A generator whose small draws come from blocks; for one thread.

    `random`, `standard_normal` and `integers` of one bound are those of a generator, other numbers of it; everything else is numpy's own.

    >>> rng = Blocks(np.random.default_rng(1).bit_generator)
    >>> rng.random(3).shape, rng.standard_normal((2, 1)).shape, 0.0 <= rng.random() < 1.0, rng.integers(1)
    ((3,), (2, 1), True, 0)
    """

    def __init__(self, bits: np.random.BitGenerator) -> None:
        super().__init__(bits)
        self._uniform = self._normal = np.zeros(0)
        self._singles: list[float] = []
        self._uniform_at = self._normal_at = 0

    def random(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        """Uniform on [0, 1)."""
        if size is None and out is None:
            if not self._singles:
                self._singles = super().random(LARGE).tolist()
            return self._singles.pop()
        count = _count(size)
        if out is not None or count > LARGE or dtype is not np.float64:
            return super().random(size, dtype, out)
        if self._uniform_at + count > len(self._uniform):
            self._uniform, self._uniform_at = super().random(BLOCK), 0
        self._uniform_at += count
        return _shaped(self._uniform[self._uniform_at - count : self._uniform_at], size)

    def standard_normal(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        """Normal with mean 0 and variance 1."""
        count = _count(size)
        if size is None or out is not None or count > LARGE or dtype is not np.float64:
            return super().standard_normal(size, dtype, out)
        if self._normal_at + count > len(self._normal):
            self._normal, self._normal_at = super().standard_normal(BLOCK), 0
        self._normal_at += count
        return _shaped(self._normal[self._normal_at - count : self._normal_at], size)

    def integers(self, low: Any, high: Any = None, size: Any = None, *more: Any, **others: Any) -> Any:
        """Whole numbers; one below a bound (of less than 2^32) from a uniform number."""
        if high is None and size is None and not more and not others and isinstance(low, int) and 0 < low < 2**32:
            return int(self.random() * low)
        return super().integers(low, high, size, *more, **others)


def _count(size: Any) -> int:
    return size if isinstance(size, int) else math.prod(size or ())


def _shaped(numbers: FloatArray, size: Any) -> FloatArray:
    return numbers if isinstance(size, int) else numbers.reshape(size)


class OfThreads:
    """A generator for each thread, made from one: threads neither wait for each other nor draw the same numbers.

    >>> of = OfThreads(np.random.default_rng(1))
    >>> of.mine() is of.mine()
    True
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._lock = threading.Lock()
        self._local = threading.local()

    def mine(self) -> np.random.Generator:
        """The calling thread's."""
        found: np.random.Generator | None = getattr(self._local, "rng", None)
        if found is None:
            with self._lock:
                seed = self._rng.integers(2**63, size=4)
            found = self._local.rng = Blocks(np.random.PCG64(seed))
        return found
