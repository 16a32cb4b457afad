"""The compiled functions of encoders/kernels.py on torch's matrices, in torch's number of threads, where numba is installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from encoders.hardware import fuses

if TYPE_CHECKING:
    Whole = npt.NDArray[np.int64]

SHORT = 128
"""Tokens of a text up to which `attend` is faster than torch's own attention."""
PIECE = 16
"""Heads and rows of a multiple of so many numbers can be computed here."""
ALONE_TOKENS = 256
"""With fewer tokens for each another thread costs more than it brings."""


def fits(width: int, device: torch.device) -> bool:
    """Whether rows or heads of so many numbers can be computed here, and faster than by torch."""
    return device.type == "cpu" and width % PIECE == 0 and fuses() and importlib.util.find_spec("numba") is not None


def attend(qkv: torch.Tensor, heads: int, starts: Whole, lengths: Whole, out: torch.Tensor) -> None:
    """Attention of texts, each within itself.

    Args:
        qkv: (T, 3 d) of all tokens: queries, keys, values.
        heads: of each token.
        starts: first tokens (n,) of the texts, at least one.
        lengths: tokens (n,) of the texts, at least 1.
        out: (T, d), filled for the tokens of these texts.
    """
    kernel, size = _kernel("attention", qkv.dtype), out.shape[1] // heads
    given, found = _flat(qkv), _flat(out)
    parts = _shares(np.cumsum(lengths), torch.get_num_threads())
    _together(kernel, [(given, heads, size, starts[part], lengths[part], found) for part in parts])


def normalise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> None:
    """Layer norm of the rows of x (T, d), in place; weight (d,) and bias (d,) in float32."""
    rows, ends = _flat(x), np.arange(1, len(x) + 1)
    width, known = x.shape[1], (weight.numpy(), bias.numpy(), eps)
    parts = _shares(ends, torch.get_num_threads())
    _together(_kernel("norm", x.dtype), [(rows[part.start * width : part.stop * width], *known) for part in parts])


def _together(kernel: Any, jobs: Sequence[tuple[Any, ...]]) -> None:
    """Do jobs in a thread each, the first in this one."""
    waiting = [_pool().submit(kernel, *job) for job in jobs[1:]]
    kernel(*jobs[0])
    for one in waiting:
        one.result()


def _shares(ends: Whole, threads: int) -> Sequence[slice]:
    """Texts for each thread, about the same number of tokens; `ends` (n,) are those of the texts.

    >>> _shares(np.array([100, 300, 600, 900, 920]), 2)
    [slice(0, 3, None), slice(3, 5, None)]
    """
    shares = min(threads, max(1, int(ends[-1]) // ALONE_TOKENS))
    cuts = [int(np.searchsorted(ends, ends[-1] * share / shares)) + 1 for share in range(1, shares)]
    return [slice(start, end) for start, end in zip([0, *cuts], [*cuts, len(ends)], strict=True) if start < end]


def _flat(matrix: torch.Tensor) -> npt.NDArray[Any]:
    """The numbers of a matrix without gaps; bfloat16 as uint16."""
    numbers: npt.NDArray[Any] = (
        (matrix.view(torch.uint16) if matrix.dtype == torch.bfloat16 else matrix).view(-1).numpy()
    )
    return numbers


@cache
def _kernel(name: str, dtype: torch.dtype) -> Any:
    return getattr(importlib.import_module("encoders.kernels"), name)(half=dtype == torch.bfloat16)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="clickloop-encoder")
