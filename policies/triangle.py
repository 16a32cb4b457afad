"""Symmetric matrices as their upper triangle row by row, d (d + 1)/2 numbers."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from policies.batch import FloatArray


def unpack_symmetric(upper: FloatArray, dimension: int) -> FloatArray:
    """(d, d) symmetric matrix from its upper triangle row by row.

    >>> import numpy as np
    >>> unpack_symmetric(np.array([1.0, 2.0, 3.0]), 2).tolist()
    [[1.0, 2.0], [2.0, 3.0]]
    """
    matrix = np.empty((dimension, dimension))
    rows, columns = np.divmod(upper_positions(dimension), dimension)
    matrix[rows, columns] = upper
    matrix[columns, rows] = upper
    return matrix


@lru_cache(maxsize=64)
def upper_positions(dimension: int) -> npt.NDArray[np.intp]:
    """Positions of the upper triangle in a flattened (d, d) matrix."""
    rows, columns = np.triu_indices(dimension)
    return (rows * dimension + columns).astype(np.intp)
