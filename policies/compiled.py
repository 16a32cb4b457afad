"""The compiled functions of policies/kernels.py, where the extra `compiled` (numba) is installed; without it numpy computes the same.

What is shown is the same for the same random numbers; probabilities agree to 1e-12.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import Any

MOST_SLOTS = 3
"""Slots for which there are compiled functions."""


@cache
def kernels() -> Any:
    """The module policies/kernels.py, None without numba. The first call loads it, or compiles it: up to ten seconds.

    >>> found = kernels()
    >>> found is None or found is kernels()
    True
    """
    return importlib.import_module("policies.kernels") if importlib.util.find_spec("numba") else None
